//! The request target: decoded once, never normalised.

use super::errors::Answer;
use super::text;
use crate::config::Limits;

/// What a request addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `/info`
    Info,
    /// `/healthcheck`
    Healthcheck,
    /// `/v1/account`
    Account(String),
    /// `/v1/account/container`
    Container(String, String),
    /// `/v1/account/container/object`
    Object(String, String, String),
}

/// A request target taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path as sent, undecoded, without the query.
    pub raw_path: Vec<u8>,
    /// The path decoded once.
    pub path: Vec<u8>,
    /// The parameters.
    pub query: Query,
}

impl Target {
    /// Splits and decodes a request target in origin form or absolute form.
    pub fn new(raw: &[u8]) -> Self {
        let raw = origin_form(raw);
        let (path, query) = match memchr::memchr(b'?', raw) {
            Some(at) => (&raw[..at], &raw[at + 1..]),
            None => (raw, &raw[raw.len()..]),
        };
        Self { raw_path: path.to_vec(), path: text::unquote(path), query: Query::new(query) }
    }

    /// What the path names.
    pub fn resource(&self) -> Result<Resource, Answer> {
        let path = match std::str::from_utf8(&self.path) {
            Ok(path) if !path.is_empty() && !path.contains('\0') => path,
            _ => return Err(Answer::html(412, "Invalid UTF8 or contains NULL")),
        };
        match path {
            "/info" => return Ok(Resource::Info),
            "/healthcheck" => return Ok(Resource::Healthcheck),
            _ => {}
        }
        let bad = || Answer::new(404);
        let mut segments = path.strip_prefix('/').ok_or_else(bad)?.splitn(4, '/');
        let version = segments.next().filter(|v| !v.is_empty()).ok_or_else(bad)?;
        let [account, container, object] = [segments.next(), segments.next(), segments.next()];
        // Only the last segment may be empty.
        if container.is_some() && account == Some("") || object.is_some() && container == Some("") {
            return Err(bad());
        }
        let Some(account) = account.filter(|a| !a.is_empty()) else {
            return Err(Answer::html(412, "Bad URL"));
        };
        if !matches!(version, "v1" | "v1.0") {
            return Err(Answer::new(400));
        }
        let some = |segment: Option<&str>| segment.filter(|s| !s.is_empty()).map(str::to_owned);
        Ok(match (some(container), some(object)) {
            (Some(c), Some(o)) => Resource::Object(account.to_owned(), c, o),
            (Some(c), None) => Resource::Container(account.to_owned(), c),
            (None, _) => Resource::Account(account.to_owned()),
        })
    }

    /// The value of the WWW-Authenticate header of a 401 for this path.
    pub fn realm(&self) -> String {
        let mut segments = self.path.splitn(4, |b| *b == b'/').skip(1);
        let (version, account) = (segments.next(), segments.next());
        let unknown = match (version, account) {
            (Some(v), Some(a)) => v.is_empty() || a.is_empty() || a == b"v1.0" || a == b"auth",
            _ => true,
        };
        if unknown {
            return "Swift realm=\"unknown\"".to_owned();
        }
        format!("Swift realm=\"{}\"", text::quote(account.unwrap_or_default()))
    }
}

/// `http://host/path` as proxies send it becomes `/path`.
fn origin_form(raw: &[u8]) -> &[u8] {
    let rest = match raw.get(..8).unwrap_or(raw) {
        start if start.starts_with(b"http://") => &raw[7..],
        b"https://" => &raw[8..],
        _ => return raw,
    };
    memchr::memchr(b'/', rest).map_or(b"/", |at| &rest[at..])
}

/// The parameters of a query string; of repeated names the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    /// Reads `a=1&b=+x`: `+` is a blank, empty values count, empty items do not.
    pub fn new(raw: &[u8]) -> Self {
        let decode = |part: &[u8]| {
            let spaced: Vec<u8> = part.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
            text::unquote(&spaced)
        };
        Self(
            raw.split(|b| *b == b'&')
                .filter(|item| !item.is_empty())
                .map(|item| match memchr::memchr(b'=', item) {
                    Some(at) => (decode(&item[..at]), decode(&item[at + 1..])),
                    None => (decode(item), Vec::new()),
                })
                .collect(),
        )
    }

    /// The raw value of a parameter.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().rev().find(|(key, _)| key == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether there is no parameter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a parameter as text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Answer> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        std::str::from_utf8(value)
            .map(Some)
            .map_err(|_| Answer::plain(400, format!("\"{name}\" parameter not valid UTF-8")))
    }

    /// Whether the parameter has exactly this value.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value.as_bytes())
    }

    /// Whether the parameter says yes.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(text::is_true)
    }

    /// The `limit` parameter: digits count, larger than `most` is a 412, anything else is ignored.
    pub fn limit(&self, most: usize) -> Result<usize, Answer> {
        let Some(text) = self.text("limit")? else {
            return Ok(most);
        };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(most);
        }
        match text.parse::<usize>() {
            Ok(limit) if limit <= most => Ok(limit),
            _ => Err(Answer::html(412, format!("Maximum limit is {most}"))),
        }
    }
}

/// Checks the length of an account name.
pub fn check_account(limits: &Limits, name: &str) -> Result<(), Answer> {
    check_length("Account", name, limits.max_account_name_length)
}

/// Checks the length of a container name.
pub fn check_container(limits: &Limits, name: &str) -> Result<(), Answer> {
    check_length("Container", name, limits.max_container_name_length)
}

/// Checks the length of an object name.
pub fn check_object(limits: &Limits, name: &str) -> Result<(), Answer> {
    check_length("Object", name, limits.max_object_name_length)
        .map_err(|answer| Answer::plain(400, answer.body))
}

fn check_length(what: &str, name: &str, most: usize) -> Result<(), Answer> {
    if name.len() > most {
        let length = name.len();
        let text = format!("{what} name length of {length} longer than {most}");
        return Err(Answer::html(400, text));
    }
    Ok(())
}

/// Container and object in a Destination or X-Copy-From header.
pub fn copy_path(header: &str, value: &[u8]) -> Result<(String, String), Answer> {
    let bad = || {
        let text = format!("{header} header must be of the form <container name>/<object name>");
        Answer::html(412, text)
    };
    let path = String::from_utf8(text::unquote(value))
        .map_err(|_| Answer::html(412, "Invalid UTF8 or contains NULL"))?;
    if path.contains('\0') {
        return Err(Answer::html(412, "Invalid UTF8 or contains NULL"));
    }
    let path = path.strip_prefix('/').unwrap_or(&path);
    match path.split_once('/') {
        Some((container, object)) if !container.is_empty() && !object.is_empty() => {
            Ok((container.to_owned(), object.to_owned()))
        }
        _ => Err(bad()),
    }
}

/// The account in a Destination-Account or X-Copy-From-Account header.
pub fn copy_account(value: &[u8]) -> Result<String, Answer> {
    let name = String::from_utf8(text::unquote(value))
        .ok()
        .filter(|name| !name.contains('\0'))
        .ok_or_else(|| Answer::html(412, "Invalid UTF8 or contains NULL"))?;
    if name.is_empty() {
        return Err(Answer::html(412, "Account name cannot be empty"));
    }
    if name.contains('/') {
        return Err(Answer::html(412, "Account name cannot contain slashes"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(raw: &str) -> Result<Resource, (u16, String)> {
        Target::new(raw.as_bytes())
            .resource()
            .map_err(|a| (a.status, String::from_utf8_lossy(&a.body).into_owned()))
    }

    fn object(o: &str) -> Resource {
        Resource::Object("a".into(), "c".into(), o.into())
    }

    #[test]
    fn paths_are_decoded_once_and_never_normalised() {
        assert_eq!(resource("/v1/a/c/o"), Ok(object("o")));
        assert_eq!(resource("/v1.0/a/c/p//q/"), Ok(object("p//q/")));
        assert_eq!(resource("/v1/a/c/./z"), Ok(object("./z")));
        assert_eq!(resource("/v1/a/c/w/../v"), Ok(object("w/../v")));
        assert_eq!(resource("/v1/a/c/%2e%2E/x"), Ok(object("../x")));
        assert_eq!(resource("/v1/a/c/%252e"), Ok(object("%2e")));
        assert_eq!(resource("/v1/a%2Fc%2Fo"), Ok(object("o")));
        assert_eq!(resource("/v1/a/c/+%zz%"), Ok(object("+%zz%")));
        assert_eq!(resource("/v1/a/c/x#y?z"), Ok(object("x#y")));
        assert_eq!(resource("/v1/a/c/"), Ok(Resource::Container("a".into(), "c".into())));
        assert_eq!(resource("/v1/a/"), Ok(Resource::Account("a".into())));
        assert_eq!(resource("http://h:1/v1/a"), Ok(Resource::Account("a".into())));
        assert_eq!(resource("/info?x"), Ok(Resource::Info));
        assert_eq!(resource("/healthcheck"), Ok(Resource::Healthcheck));
    }

    #[test]
    fn wrong_paths_get_the_status_that_swift_gives() {
        let status = |raw: &str| resource(raw).map_err(|(status, _)| status);
        assert_eq!(status("/"), Err(404));
        assert_eq!(status("*"), Err(404));
        assert_eq!(status("//v1/a"), Err(404));
        assert_eq!(status("/v1//c"), Err(404));
        assert_eq!(status("/v1/a//o"), Err(404));
        assert_eq!(status("http://host"), Err(404));
        assert_eq!(resource("/v1"), Err((412, "Bad URL".into())));
        assert_eq!(resource("/v1/"), Err((412, "Bad URL".into())));
        assert_eq!(resource("/x"), Err((412, "Bad URL".into())));
        assert_eq!(status("/v2/a/c"), Err(400));
        let utf8 = Err((412, "Invalid UTF8 or contains NULL".into()));
        assert_eq!(resource("/v1/a/c/%ff"), utf8);
        assert_eq!(resource("/v1/a/c/%00"), utf8);
        assert_eq!(resource("/v1/a/%ED%A0%80"), utf8);
    }

    #[test]
    fn queries_follow_parse_qs() {
        let query = Query::new(b"a=1&a=2&b=x+y%2B&&c&d=%ff&=e");
        assert_eq!(query.get("a"), Some(&b"2"[..]));
        assert_eq!(query.get("b"), Some(&b"x y+"[..]));
        assert_eq!(query.get("c"), Some(&b""[..]));
        assert_eq!(query.get("e"), None);
        let error = query.text("d").unwrap_err();
        assert_eq!(error.body, "\"d\" parameter not valid UTF-8");
        assert_eq!((error.status, error.content_type), (400, "text/plain"));
    }

    #[test]
    fn limits_are_digits_below_the_maximum() {
        let limit = |q: &[u8]| Query::new(q).limit(10).map_err(|a| (a.status, a.body));
        assert_eq!(limit(b"limit=3"), Ok(3));
        assert_eq!(limit(b"limit=0"), Ok(0));
        assert_eq!(limit(b"limit=-1"), Ok(10));
        assert_eq!(limit(b"limit=5.0"), Ok(10));
        assert_eq!(limit(b"limit="), Ok(10));
        let over = Err((412, "Maximum limit is 10".into()));
        assert_eq!(limit(b"limit=11"), over);
        assert_eq!(limit(b"limit=99999999999999999999999"), over);
    }

    #[test]
    fn long_names_are_refused_by_name() {
        let text = |r: Result<(), Answer>| r.map_err(|a| String::from_utf8(a.body.to_vec()).unwrap());
        let limits = Limits::default();
        let long = "é".repeat(513);
        assert_eq!(
            text(check_object(&limits, &long)),
            Err("Object name length of 1026 longer than 1024".into())
        );
        assert_eq!(
            text(check_container(&limits, &long[..258])),
            Err("Container name length of 258 longer than 256".into())
        );
        assert_eq!(text(check_account(&limits, &long[..256])), Ok(()));
    }

    #[test]
    fn copy_headers_name_a_container_and_an_object() {
        let path = |v: &[u8]| copy_path("Destination", v).map_err(|a| a.status);
        assert_eq!(path(b"c/o"), Ok(("c".into(), "o".into())));
        assert_eq!(path(b"/c/o%2Fp/"), Ok(("c".into(), "o/p/".into())));
        assert_eq!(path(b"//c/o"), Err(412));
        assert_eq!(path(b"c"), Err(412));
        assert_eq!(path(b"c/"), Err(412));
        assert_eq!(path(b"c/%ff"), Err(412));
        assert_eq!(copy_account(b"a%20b").map_err(|a| a.status), Ok("a b".into()));
        assert_eq!(
            copy_account(b"a/b").map_err(|a| a.body),
            Err("Account name cannot contain slashes".into())
        );
    }

    #[test]
    fn the_realm_is_the_quoted_account() {
        let realm = |raw: &[u8]| Target::new(raw).realm();
        assert_eq!(realm(b"/v1/AUTH_x%22%0A/c/o"), "Swift realm=\"AUTH_x%22%0A\"");
        assert_eq!(realm(b"/auth/v1.0"), "Swift realm=\"unknown\"");
        assert_eq!(realm(b"/v1"), "Swift realm=\"unknown\"");
    }

    proptest! {
        #[test]
        fn any_target_is_decoded_without_panic(raw: Vec<u8>) {
            let target = Target::new(&raw);
            let _ = target.resource();
            let _ = target.realm();
            let _ = target.query.limit(10);
        }

        #[test]
        fn quoted_names_come_back(a in "[^/\0]{1,9}", c in "[^/\0]{1,9}", o in "[^\0]{1,20}") {
            let raw = format!("/v1/{}/{}/{}", text::quote(a.as_bytes()), text::quote(c.as_bytes()), text::quote(o.as_bytes()));
            prop_assert_eq!(Target::new(raw.as_bytes()).resource().unwrap(), Resource::Object(a, c, o));
        }
    }
}
