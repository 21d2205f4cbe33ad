//! Accept headers. Read by hand in one pass: the obvious regular expression backtracks for ever on hostile
//! values.

/// The header was malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid Accept header")]
pub struct Invalid;

struct Choice<'a> {
    kind: &'a str,
    subkind: &'a str,
    quality: f64,
}

impl Choice<'_> {
    fn is_exact(&self) -> bool {
        self.kind != "*" && self.subkind != "*"
    }

    fn accepts(&self, option: &str) -> bool {
        let (kind, subkind) = option.split_once('/').unwrap_or((option, ""));
        (self.kind == "*" || self.kind == kind) && (self.subkind == "*" || self.subkind == subkind)
    }
}

/// The option that the client likes best; `Ok(None)` if it accepts none of them. An absent or empty header
/// accepts the first.
pub fn best_match<'o>(header: Option<&[u8]>, options: &[&'o str]) -> Result<Option<&'o str>, Invalid> {
    let text = match header {
        Some(value) => std::str::from_utf8(value).map_err(|_| Invalid)?,
        None => "",
    };
    if text.is_empty() {
        return Ok(options.first().copied());
    }
    let mut choices = text.split(',').map(choice).collect::<Result<Vec<_>, _>>()?;
    choices.sort_by(|a, b| {
        let quality = b.quality.total_cmp(&a.quality);
        quality.then(b.is_exact().cmp(&a.is_exact()))
    });
    Ok(choices.iter().find_map(|c| options.iter().find(|option| c.accepts(option)).copied()))
}

fn choice(item: &str) -> Result<Choice<'_>, Invalid> {
    let mut parts = item.split(';');
    let kinds = parts.next().unwrap_or_default();
    let (kind, subkind) = kinds.trim_start().split_once('/').ok_or(Invalid)?;
    let subkind = subkind.trim_end();
    if !is_token(kind) || !is_token(subkind) {
        return Err(Invalid);
    }
    let mut quality = None;
    for parameter in parts {
        let (name, value) = parameter.split_once('=').ok_or(Invalid)?;
        let (name, value) = (name.trim(), value.trim());
        if !is_token(name) || !(is_token(value) || is_quoted(value)) {
            return Err(Invalid);
        }
        if name == "q" {
            let number: f64 = value.parse().map_err(|_| Invalid)?;
            if quality.replace(number).is_some() {
                return Err(Invalid);
            }
        }
    }
    Ok(Choice { kind, subkind, quality: quality.unwrap_or(1.0) })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c > ' ' && c != '\x7f' && !"()<>@,;:\"/[]?={}".contains(c))
}

fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return false;
    };
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            '"' if !escaped => return false,
            '=' => return false,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    !escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: [&str; 4] = ["text/plain", "application/json", "application/xml", "text/xml"];

    fn best(header: &str) -> Result<Option<&'static str>, Invalid> {
        best_match(Some(header.as_bytes()), &OPTIONS)
    }

    #[test]
    fn the_best_quality_wins_and_exact_types_before_globs() {
        assert_eq!(best_match(None, &OPTIONS), Ok(Some("text/plain")));
        assert_eq!(best(""), Ok(Some("text/plain")));
        assert_eq!(best("*/*"), Ok(Some("text/plain")));
        assert_eq!(best("application/*"), Ok(Some("application/json")));
        assert_eq!(best("*/*, application/xml"), Ok(Some("application/xml")));
        assert_eq!(best("text/plain; q=0.3, application/json;q=0.5"), Ok(Some("application/json")));
        assert_eq!(best(" text/html;level=1;q=0.4 , text/xml ; q=.9"), Ok(Some("text/xml")));
        assert_eq!(best("image/png"), Ok(None));
        assert_eq!(best("text/plain;x=\"a b\""), Ok(Some("text/plain")));
    }

    #[test]
    fn malformed_headers_are_reported() {
        for header in [
            "text",
            "text/",
            "/plain",
            "text/plain;q",
            "text/plain;q=x",
            "text/plain;q=1;q=1",
            "text/plain,",
            "text /plain",
            "text/plain;=1",
            "text/plain;a=\"b",
            "a/b/c",
            "text/plain; ",
        ] {
            assert_eq!(best(header), Err(Invalid), "{header}");
        }
        assert_eq!(best_match(Some(b"\xff"), &OPTIONS), Err(Invalid));
    }

    #[test]
    fn a_hostile_header_costs_one_pass() {
        let hostile = format!("text/plain{}", ";a=\"\\\\".repeat(100_000));
        assert_eq!(best(&hostile), Err(Invalid));
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(value: Vec<u8>) {
            let _ = best_match(Some(&value), &OPTIONS);
        }
    }
}
