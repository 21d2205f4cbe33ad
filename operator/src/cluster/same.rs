//! Whether an object is what it should be.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// Whether everything that is wanted is there. What the API server adds does not count; what it leaves out because it
/// is nothing (`""`, `0`, `false`, `[]`, `{}`) is there; quantities may be spelled differently.
pub fn holds(actual: &Value, wanted: &Value) -> bool {
    compare(actual, wanted, false)
}

fn compare(actual: &Value, wanted: &Value, quantities: bool) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            let quantities = quantities || matches!(key.as_str(), "requests" | "limits" | "capacity");
            match actual.get(key) {
                Some(actual) => compare(actual, wanted, quantities),
                None => is_nothing(wanted),
            }
        }),
        (Value::Array(actual), Value::Array(wanted)) => {
            let pairs = || actual.iter().zip(wanted);
            actual.len() == wanted.len()
                && pairs().all(|(actual, wanted)| compare(actual, wanted, quantities))
        }
        (actual, wanted) => actual == wanted || (quantities && same_quantity(actual, wanted)),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.values().all(is_nothing),
    }
}

fn same_quantity(one: &Value, other: &Value) -> bool {
    match (quantity(one), quantity(other)) {
        (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-12,
        _ => false,
    }
}

/// A quantity of Kubernetes as a number.
fn quantity(value: &Value) -> Option<f64> {
    let text = match value {
        Value::Number(number) => return number.as_f64(),
        value => value.as_str()?,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        binary => {
            let power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|unit| *unit == binary)?;
            1024_f64.powi(power as i32 + 1)
        }
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

/// A number that differs when an object differs in what people or controllers may want: all but its status and what
/// changes with every write.
pub fn digest(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (key, part) in object.as_object().into_iter().flatten().filter(|(key, _)| *key != "status") {
        let metadata = part.as_object().filter(|_| key == "metadata").cloned();
        let steady = metadata.map(|mut metadata| {
            metadata
                .retain(|key, _| !matches!(key.as_str(), "resourceVersion" | "managedFields" | "generation"));
            Value::Object(metadata)
        });
        (key, steady.as_ref().unwrap_or(part).to_string()).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_adds_or_leaves_out_does_not_count() {
        let actual = json!({ "spec": { "a": 1, "added": 2, "list": [{ "x": 1, "default": "d" }] } });
        for wanted in [
            json!({}),
            json!({ "spec": { "a": 1 } }),
            json!({ "spec": { "list": [{ "x": 1 }] } }),
            json!({ "spec": { "empty": [], "no": false, "zero": 0, "none": null, "deep": { "text": "" } } }),
        ] {
            assert!(holds(&actual, &wanted), "{wanted}");
        }
        for wanted in [
            json!({ "spec": { "a": 2 } }),
            json!({ "spec": { "b": 1 } }),
            json!({ "spec": { "list": [] } }),
            json!({ "spec": { "list": [{ "x": 1 }, {}] } }),
            json!({ "spec": { "a": { "b": 1 } } }),
        ] {
            assert!(!holds(&actual, &wanted), "{wanted}");
        }
    }

    #[test]
    fn quantities_have_many_spellings() {
        let of = |text: &Value| json!({ "limits": { "cpu": text } });
        for (one, other) in
            [("500m", json!("0.5")), ("1Gi", json!("1024Mi")), ("2", json!(2)), ("1k", json!("1e3"))]
        {
            assert!(holds(&of(&json!(one)), &of(&other)), "{one} {other}");
        }
        assert!(!holds(&of(&json!("1Gi")), &of(&json!("1G"))));
        assert!(!holds(&json!({ "label": "1" }), &json!({ "label": "1.0" })));
    }

    #[test]
    fn a_digest_is_of_what_is_wanted() {
        let object = json!({ "metadata": { "name": "a", "resourceVersion": "1" }, "spec": 1, "status": 1 });
        let same = json!({ "metadata": { "name": "a", "resourceVersion": "2" }, "spec": 1, "status": 2 });
        let other = json!({ "metadata": { "name": "a" }, "spec": 2 });
        assert_eq!(digest(&object), digest(&same));
        assert_ne!(digest(&object), digest(&other));
    }
}
