//! Cross-origin requests: what a container's metadata lets other origins do.

use crate::http::{Headers, Response};
use crate::swift::meta;

/// Headers that a page may read without being told so.
const EXPOSED: [&str; 10] = [
    "cache-control",
    "content-language",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
    "etag",
    "x-timestamp",
    "x-trans-id",
    "x-openstack-request-id",
];

/// What a container says about other origins.
#[derive(Debug, Default)]
pub struct Rules {
    origins: String,
    expose: String,
    max_age: Option<String>,
}

impl Rules {
    /// Reads them from a container's stored headers.
    pub fn of(stored: &[(String, Vec<u8>)]) -> Self {
        let get = |name: &str| {
            let header = format!("x-container-meta-access-control-{name}");
            meta::find(stored, &header).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        Self {
            origins: get("allow-origin").unwrap_or_default(),
            expose: get("expose-headers").unwrap_or_default(),
            max_age: get("max-age"),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.split_whitespace().any(|allowed| allowed == "*" || allowed == origin)
    }

    fn is_open(&self) -> bool {
        self.origins.trim() == "*"
    }

    /// Adds to an answer what lets a page of this origin read it.
    pub fn apply(&self, origin: &str, response: &mut Response) {
        if !self.allows(origin) {
            return;
        }
        let headers = &mut response.headers;
        if !headers.contains("access-control-expose-headers") {
            let mut expose: Vec<String> = EXPOSED.iter().map(|&name| name.to_owned()).collect();
            for (name, _) in headers.iter() {
                let name = name.to_ascii_lowercase();
                if name.starts_with("x-container-meta") || name.starts_with("x-object-meta") {
                    expose.push(name);
                }
            }
            expose.extend(self.expose.split(' ').filter(|n| !n.is_empty()).map(str::to_ascii_lowercase));
            expose.sort_unstable();
            expose.dedup();
            headers.append("Access-Control-Expose-Headers", expose.join(", "));
        }
        if !headers.contains("access-control-allow-origin") {
            self.allow(origin, headers);
        }
    }

    fn allow(&self, origin: &str, headers: &mut Headers) {
        if self.is_open() {
            headers.append("Access-Control-Allow-Origin", "*");
        } else {
            headers.append("Access-Control-Allow-Origin", origin);
            vary(headers, "Origin");
        }
    }

    /// Answers OPTIONS: what may be done, and whether a page of `origin` may.
    pub fn preflight(&self, methods: &[&str], origin: Option<&str>, request: &Headers) -> Response {
        let allow = methods.join(", ");
        let mut response = Response::new(200);
        response.headers.append("Allow", &allow);
        let Some(origin) = origin else { return response };
        let wanted = request.get_str("access-control-request-method");
        if !self.allows(origin) || !wanted.is_some_and(|method| methods.contains(&method)) {
            response.status = 401;
            return response;
        }
        let headers = &mut response.headers;
        self.allow(origin, headers);
        if let Some(age) = &self.max_age {
            headers.append("Access-Control-Max-Age", age);
        }
        headers.append("Access-Control-Allow-Methods", &allow);
        let asked = request.get_str("access-control-request-headers").unwrap_or_default();
        let list: Vec<&str> = asked.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if !list.is_empty() {
            headers.append("Access-Control-Allow-Headers", list.join(", "));
            vary(headers, "Access-Control-Request-Headers");
        }
        response
    }
}

fn vary(headers: &mut Headers, on: &str) {
    let value = match headers.get_str("vary") {
        Some(known) => format!("{known}, {on}"),
        None => on.to_owned(),
    };
    headers.insert("Vary", value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(origins: &str) -> Rules {
        let header = |name: &str, value: &str| {
            (format!("x-container-meta-access-control-{name}"), value.as_bytes().to_vec())
        };
        Rules::of(&[
            header("allow-origin", origins),
            header("expose-headers", "X-A X-B"),
            header("max-age", "5"),
        ])
    }

    #[test]
    fn a_page_may_read_where_its_origin_is_named() {
        let mut response = Response::new(200).header("X-Object-Meta-K", "v").header("Vary", "Accept");
        rules("http://a http://b").apply("http://b", &mut response);
        let headers = &response.headers;
        assert_eq!(headers.get_str("access-control-allow-origin"), Some("http://b"));
        assert_eq!(headers.get_str("vary"), Some("Accept, Origin"));
        let exposed = headers.get_str("access-control-expose-headers").unwrap();
        for name in ["etag", "x-a", "x-b", "x-object-meta-k"] {
            assert!(exposed.split(", ").any(|n| n == name), "{exposed}");
        }
        let mut other = Response::new(200);
        rules("http://a").apply("http://b", &mut other);
        assert!(other.headers.is_empty());
        rules("*").apply("http://b", &mut other);
        assert_eq!(other.headers.get_str("access-control-allow-origin"), Some("*"));
    }

    #[test]
    fn preflights() {
        let ask = |method: &str| -> Headers {
            [("Access-Control-Request-Method", method), ("Access-Control-Request-Headers", "x, y")]
                .into_iter()
                .collect()
        };
        let methods = ["GET", "PUT"];
        let plain = rules("*").preflight(&methods, None, &Headers::new());
        assert_eq!((plain.status, plain.headers.get_str("allow")), (200, Some("GET, PUT")));
        let granted = rules("http://a").preflight(&methods, Some("http://a"), &ask("PUT"));
        assert_eq!(granted.status, 200);
        assert_eq!(granted.headers.get_str("access-control-allow-headers"), Some("x, y"));
        assert_eq!(granted.headers.get_str("access-control-max-age"), Some("5"));
        assert_eq!(rules("http://a").preflight(&methods, Some("http://a"), &ask("POST")).status, 401);
        assert_eq!(rules("").preflight(&methods, Some("http://a"), &ask("PUT")).status, 401);
    }
}
