//! Pieces of the schema: rules, and types of Kubernetes' own with bounds.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

/// The key of CEL rules.
pub(crate) const RULES: &str = "x-kubernetes-validations";

/// A component of a path: not empty, not `.` or `..`, without control characters.
const COMPONENT: &str = r"([^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|[.][^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|[.][.][^/\x00-\x1f\x7f]+)";

/// A CEL rule and what is said when it fails.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// It stays as it was.
pub(crate) fn immutable(what: &str) -> Value {
    rule("self == oldSelf", &format!("{what} cannot be changed; make another object instead"))
}

/// As [`crate::paths::is_relative`].
pub(crate) fn relative(what: &str) -> [Value; 2] {
    [
        rule(
            &format!("self == '' || self.matches(r'^{COMPONENT}(/{COMPONENT})*$')"),
            &format!("{what} must be a relative path without empty, '.' or '..' components, as 'projects/a'"),
        ),
        rule(
            "!self.startsWith('.lb~') && !self.contains('/.lb~')",
            &format!("{what} must not have a component that begins with '.lb~': those are the driver's own"),
        ),
    ]
}

/// As [`crate::paths::is_absolute`].
pub(crate) fn absolute(what: &str) -> Value {
    rule(
        &format!("self == '/' || self.matches(r'^(/{COMPONENT})+$')"),
        &format!("{what} must be an absolute path without empty, '.' or '..' components, as '/srv/projects'"),
    )
}

/// A list of ids and ranges of ids, as [`crate::ids::IdRange`].
pub(crate) fn id_ranges(_: &mut SchemaGenerator) -> Schema {
    let range = rule(
        "self.matches('^[1-9][0-9]{0,9}(-[1-9][0-9]{0,9})?$') && self.split('-').all(n, int(n) <= 4294967294) \
         && (!self.contains('-') || int(self.split('-')[0]) <= int(self.split('-')[1]))",
        "identities must be ids as '1000' or ranges as '2000-2999', from 1 to 4294967294",
    );
    schemars::json_schema!({
        "type": "array", "maxItems": 32, "default": [], "x-kubernetes-list-type": "atomic",
        "items": { "type": "string", "minLength": 1, "maxLength": 21, RULES: [range] },
    })
}

/// A label selector as Kubernetes has it, with bounds.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let text = |longest: u32| json!({ "type": "string", "maxLength": longest });
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that must all be there.",
                "type": "object", "maxProperties": 32, "additionalProperties": text(63),
            },
            "matchExpressions": {
                "description": "Requirements that must all be met.",
                "type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object", "required": ["key", "operator"],
                    "properties": {
                        "key": with(text(317), "description", "The label's key."),
                        "operator": {
                            "description": "How the label relates to the values.",
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "What `In` and `NotIn` compare with.",
                            "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic",
                            "items": text(63),
                        },
                    },
                },
            },
        },
    })
}

fn with(mut schema: Value, key: &str, value: &str) -> Value {
    schema[key] = value.into();
    schema
}

/// A map of texts with bounds.
pub(crate) fn text_map(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 64, "default": {},
        "additionalProperties": { "type": "string", "maxLength": 4096 },
    })
}

/// A type of Kubernetes' own, with bounds, and without its pages of description.
pub(crate) fn core<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<T>().to_value();
    bound(&mut schema);
    Schema::try_from(schema).unwrap_or_default()
}

/// A list of a type of Kubernetes' own.
pub(crate) fn core_list<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let items = core::<T>(generator);
    schemars::json_schema!({ "type": "array", "maxItems": 64, "default": [], "items": items })
}

fn bound(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let (key, most) = match object.get("type").and_then(Value::as_str) {
        Some("string") if !object.contains_key("enum") => ("maxLength", 1024),
        Some("array") => ("maxItems", 64),
        Some("object") if object.contains_key("additionalProperties") => ("maxProperties", 64),
        _ => ("", 0),
    };
    if most > 0 {
        object.entry(key).or_insert(most.into());
    }
    shorten(object);
    for (key, inner) in object.iter_mut() {
        match key.as_str() {
            "properties" => inner.as_object_mut().into_iter().flatten().for_each(|(_, s)| bound(s)),
            "items" | "additionalProperties" => bound(inner),
            _ => {}
        }
    }
}

/// Keeps the first sentence of a description.
fn shorten(object: &mut serde_json::Map<String, Value>) {
    if let Some(Value::String(text)) = object.get_mut("description") {
        let ends = text.match_indices(". ").chain(text.match_indices(".\n")).map(|(at, _)| at);
        let end = ends.filter(|at| !text[..*at].ends_with("i.e") && !text[..*at].ends_with("e.g")).min();
        text.truncate(end.map_or(text.len(), |at| at + 1));
    }
}
