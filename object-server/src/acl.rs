//! Access control lists as clients write and read them: the comma list of a container (version 1) and the JSON
//! document of an account (version 2).
//!
//! Both are kept as text and judged as text, so that what a client stored is what it gets back. Where Swift lets an
//! empty name into a list and so lets everybody in, an empty name here matches nobody.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::Value;
use thiserror::Error;

use crate::python::{json_ascii, repr};

/// Which of a container's two lists a text is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclKind {
    /// `X-Container-Read`: groups, referrers and `.rlistings`.
    Read,
    /// `X-Container-Write`: groups only.
    Write,
}

/// Why a container's list was refused. The text is the body of the 400 answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AclError {
    /// A referrer in a write list.
    #[error("Referrers not allowed in write ACL: {}", repr(.0))]
    ReferrerInWrite(String),
    /// `.r:` with nothing, or only a dot, after it.
    #[error("No host/domain value after referrer designation in ACL: {}", repr(.0))]
    NoReferrer(String),
    /// A word that begins with a dot and has a colon, but is not a referrer.
    #[error("Unknown designator {} in ACL: {}", repr(.word), repr(.item))]
    UnknownDesignator {
        /// What stands before the colon.
        word: String,
        /// The whole item.
        item: String,
    },
}

/// Brings a container's list into the form that is stored: no blanks, no empty items, every referrer as `.r:[-]host`.
/// Cleaning a clean list changes nothing.
pub fn clean(kind: AclKind, text: &str) -> Result<String, AclError> {
    let mut cleaned = String::with_capacity(text.len());
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let item = clean_item(kind, item)?;
        if !cleaned.is_empty() {
            cleaned.push(',');
        }
        cleaned.push_str(&item);
    }
    Ok(cleaned)
}

fn clean_item(kind: AclKind, item: &str) -> Result<Cow<'_, str>, AclError> {
    let Some((word, host)) = item.split_once(':') else { return Ok(item.into()) };
    let word = word.trim();
    match word {
        ".r" | ".ref" | ".referer" | ".referrer" if kind == AclKind::Write => {
            Err(AclError::ReferrerInWrite(item.to_owned()))
        }
        ".r" | ".ref" | ".referer" | ".referrer" => {
            let (denied, host) = clean_host(host.trim());
            if host.is_empty() || host == "." {
                return Err(AclError::NoReferrer(item.to_owned()));
            }
            Ok(format!(".r:{}{host}", if denied { "-" } else { "" }).into())
        }
        _ if word.starts_with('.') => {
            Err(AclError::UnknownDesignator { word: word.to_owned(), item: item.to_owned() })
        }
        _ => Ok(item.into()),
    }
}

/// The sign and the host of a referrer: `*.example.com` is `.example.com`, a lone `*` stays. Runs until nothing
/// changes, where Swift takes one step and so cleans `.r:***` differently each time.
fn clean_host(mut host: &str) -> (bool, &str) {
    let mut denied = false;
    loop {
        if !denied && host.starts_with('-') {
            denied = true;
            host = host[1..].trim();
        } else if host.len() > 1 && host.starts_with('*') {
            host = host[1..].trim();
        } else {
            return (denied, host);
        }
    }
}

/// A container's stored list, taken apart.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ContainerAcl<'a> {
    referrers: Vec<&'a str>,
    groups: Vec<Cow<'a, str>>,
}

impl<'a> ContainerAcl<'a> {
    /// Takes a list apart; any text is a list. Group names are percent-decoded, so that a name may hold a comma.
    pub fn parse(text: &'a str) -> Self {
        let mut acl = Self::default();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            match item.strip_prefix(".r:") {
                Some(host) => acl.referrers.push(host),
                None => acl.groups.push(percent_decode_str(item).decode_utf8_lossy()),
            }
        }
        acl
    }

    /// Whether all whom this list lets read are let in by `other` too, as far as that can be told by the names: a
    /// list of referrers is compared as a whole, as its order matters.
    pub fn is_within(&self, other: &Self) -> bool {
        let listing_only = |group: &str| group == ".rlistings";
        self.groups.iter().all(|group| listing_only(group) || other.names(group))
            && (self.referrers.is_empty() || self.referrers == other.referrers)
    }

    /// Whether the list names `group`.
    pub fn names(&self, group: &str) -> bool {
        !group.is_empty() && self.groups.iter().any(|named| named == group)
    }

    /// Whether the list lets those whom it lets in by referrer also list the container.
    pub fn referrers_may_list(&self) -> bool {
        self.names(".rlistings")
    }

    /// Whether a request with this `Referer` header is let in. The last item that fits decides.
    pub fn allows_referrer(&self, referer: Option<&str>) -> bool {
        if self.referrers.is_empty() {
            return false;
        }
        let host = referer.and_then(host_of).unwrap_or_else(|| "unknown".to_owned());
        let fits = |pattern: &str| pattern == host || (pattern.starts_with('.') && host.ends_with(pattern));
        self.referrers.iter().fold(false, |allowed, pattern| match pattern.strip_prefix('-') {
            Some(denied) => allowed && !fits(denied),
            None => allowed || *pattern == "*" || fits(pattern),
        })
    }
}

/// The host of a URL, in lower case, without user, port and brackets; none where the URL has no authority.
fn host_of(url: &str) -> Option<String> {
    let rest = match url.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
        {
            rest
        }
        _ => url,
    };
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.split_once('[') {
        Some((_, bracketed)) => bracketed.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_lowercase())
}

/// Who may do what in an account, from `X-Account-Access-Control`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccountAcl {
    /// May do everything, and counts as an owner.
    pub admin: Vec<String>,
    /// May read everything and write containers and objects.
    pub read_write: Vec<String>,
    /// May read everything that is not privileged.
    pub read_only: Vec<String>,
}

/// Why an account's list was refused. [`AccountAclError::body`] makes the body of the 400 answer of it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AccountAclError {
    /// Not a JSON object.
    #[error("Syntax error in input ({})", repr(.0))]
    Syntax(String),
    /// A key other than `admin`, `read-write` and `read-only`.
    #[error("Key {} not recognized", json_ascii(&Value::from(.0.as_str())))]
    UnknownKey(String),
    /// A value that is no list.
    #[error("Value for key \"{0}\" must be a list")]
    NotAList(&'static str),
    /// A list with something else than strings in it.
    #[error("Elements of \"{0}\" list must be strings")]
    NotStrings(&'static str),
}

impl AccountAclError {
    /// The body that answers a request with this header value.
    pub fn body(&self, header: &str) -> String {
        format!("X-Account-Access-Control invalid: {self}\n\nInput: {header}\n")
    }
}

impl AccountAcl {
    /// Reads the header's value. An empty text, like `{}`, is the empty list, which takes an existing one away.
    pub fn parse(text: &str) -> Result<Self, AccountAclError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
            return Err(AccountAclError::Syntax(text.to_owned()));
        };
        if let Some(key) = fields.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            return Err(AccountAclError::UnknownKey(key.clone()));
        }
        let [admin, read_write, read_only] = Self::KEYS.map(|key| names(&fields, key));
        Ok(Self { admin: admin?, read_write: read_write?, read_only: read_only? })
    }

    const KEYS: [&str; 3] = ["admin", "read-write", "read-only"];

    /// The header's value to show for a stored one: ASCII JSON without blanks, keys in order. None where no list was
    /// given; then the header is not shown.
    pub fn format(stored: &str) -> Option<String> {
        match serde_json::from_str(stored) {
            Ok(Value::Object(fields)) if !fields.is_empty() => Some(json_ascii(&Value::Object(fields))),
            _ => None,
        }
    }
}

fn names(fields: &serde_json::Map<String, Value>, key: &'static str) -> Result<Vec<String>, AccountAclError> {
    let Some(value) = fields.get(key) else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or(AccountAclError::NotAList(key))?;
    list.iter().map(|name| name.as_str().map(str::to_owned).ok_or(AccountAclError::NotStrings(key))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of Swift's `test_clean_acl`, and the examples of its documentation.
    #[test]
    fn lists_are_cleaned_as_swift_does() {
        for (text, cleaned) in [
            ("", ""),
            (".r:*", ".r:*"),
            (".r:specific.host", ".r:specific.host"),
            (".r:.ending.with", ".r:.ending.with"),
            (".r:*.ending.with", ".r:.ending.with"),
            (".r:-*.ending.with", ".r:-.ending.with"),
            (".r:*,.r:-specific.host", ".r:*,.r:-specific.host"),
            (".r:one,.r:-two,account,account:user", ".r:one,.r:-two,account,account:user"),
            ("TEST_account", "TEST_account"),
            (".ref:*", ".r:*"),
            (".referer:*", ".r:*"),
            (".referrer : *", ".r:*"),
            (" .r : one , ,, .r:two , .r : - three ", ".r:one,.r:two,.r:-three"),
            ("bob , sue", "bob,sue"),
            ("bob,,,sue", "bob,sue"),
            (".r:*, .rlistings", ".r:*,.rlistings"),
            (":odd", ":odd"),
            ("a : b", "a : b"),
            // Swift needs two rounds for these.
            (".r:***", ".r:*"),
            (".r:*-*x", ".r:-x"),
        ] {
            assert_eq!(clean(AclKind::Read, text).unwrap(), cleaned, "{text:?}");
        }
    }

    #[test]
    fn bad_lists_are_refused_in_swifts_words() {
        for text in [
            ".r:",
            ".r:*.",
            ".r : * . ",
            ".r:-*.",
            ".r : - * . ",
            " .r : ",
            "user , .r : ",
            ".r:-",
            "user , .r : - ",
        ] {
            let error = clean(AclKind::Read, text).unwrap_err();
            assert!(
                error.to_string().starts_with("No host/domain value after referrer designation in ACL: '"),
                "{error}"
            );
        }
        let text = |kind, text| clean(kind, text).unwrap_err().to_string();
        assert_eq!(
            text(AclKind::Read, ".unknown:test"),
            "Unknown designator '.unknown' in ACL: '.unknown:test'"
        );
        assert_eq!(text(AclKind::Write, "a, .r:r"), "Referrers not allowed in write ACL: '.r:r'");
        assert_eq!(
            text(AclKind::Read, ".r: "),
            "No host/domain value after referrer designation in ACL: '.r:'"
        );
        assert_eq!(clean(AclKind::Write, "a,.rlistings").unwrap(), "a,.rlistings");
    }

    /// Swift's `test_parse_acl`.
    #[test]
    fn lists_are_taken_apart() {
        let acl = ContainerAcl::parse("acc1,acc2:usr2,.r:ref3,acc3,,a%2Cb%C3%A9,.r:ref5,.r:-ref6");
        assert_eq!(acl.referrers, ["ref3", "ref5", "-ref6"]);
        assert_eq!(acl.groups, ["acc1", "acc2:usr2", "acc3", "a,bé"]);
        assert!(acl.names("acc1") && !acl.names("acc") && !acl.names(""));
        assert_eq!(ContainerAcl::parse(""), ContainerAcl::default());
        assert!(ContainerAcl::parse(".r:*,.rlistings").referrers_may_list());
    }

    /// Swift's `test_referrer_allowed`.
    #[test]
    fn referrers_are_judged_as_swift_does() {
        for (referer, list, allowed) in [
            (Some("host"), "", false),
            (None, ".r:*", true),
            (Some(""), ".r:*", true),
            (None, ".r:specific.host", false),
            (Some("http://www.example.com/index.html"), ".r:.example.com", true),
            (Some("http://user@www.example.com/index.html"), ".r:.example.com", true),
            (Some("http://user:pass@www.example.com/index.html"), ".r:.example.com", true),
            (Some("http://www.example.com:8080/index.html"), ".r:.example.com", true),
            (Some("http://user:pass@www.example.com:8080"), ".r:.example.com", true),
            (Some("http://WWW.Example.com?q"), ".r:.example.com", true),
            (Some("http://thief.example.com"), ".r:.example.com,.r:-thief.example.com", false),
            (Some("http://thief.example.com"), ".r:*,.r:-thief.example.com", false),
            (Some("http://a.thief.com"), ".r:*,.r:-.thief.com", false),
            (Some("http://www.example.com"), ".r:.other.com,.r:www.example.com", true),
            (Some("http://www.example.com"), ".r:-.example.com,.r:www.example.com", true),
            (Some("www.example.com"), ".r:.example.com", false),
            (Some("../index.html"), ".r:.example.com", false),
            (Some("www.example.com"), ".r:*", true),
            (Some("1http://www.example.com"), ".r:.example.com", false),
            (Some("//www.example.com/x"), ".r:.example.com", true),
            (Some("http://[::1]:80/x"), ".r:::1", true),
            (Some("http:///x"), ".r:unknown", true),
        ] {
            assert_eq!(ContainerAcl::parse(list).allows_referrer(referer), allowed, "{referer:?} {list}");
        }
    }

    /// Swift's `test_parse_v2_acl`, `test_format_v2_acl` and `test_acl_syntax_verification`.
    #[test]
    fn account_lists_are_read_and_written() {
        for empty in ["", "{}", "{ }"] {
            assert_eq!(AccountAcl::parse(empty), Ok(AccountAcl::default()));
            assert_eq!(AccountAcl::format(empty), None);
        }
        let text = r#"{"read-write":["c"], "admin":["á","b"],"read-only":[]}"#;
        let acl = AccountAcl::parse(text).unwrap();
        assert_eq!(acl.admin, ["á", "b"]);
        assert_eq!(acl.read_write, ["c"]);
        assert_eq!(
            AccountAcl::format(text).unwrap(),
            r#"{"admin":["\u00e1","b"],"read-only":[],"read-write":["c"]}"#
        );
        for (text, message) in [
            ("no", "Syntax error in input ('no')"),
            (r#"["read-only"]"#, r#"Syntax error in input ('["read-only"]')"#),
            ("1", "Syntax error in input ('1')"),
            (r#"{"other":["valid"]}"#, r#"Key "other" not recognized"#),
            ("{\"\u{1234}\": []}", r#"Key "\u1234" not recognized"#),
            (r#"{"read-write":["fine"],"admin":"x"}"#, r#"Value for key "admin" must be a list"#),
            (r#"{"read-only": ["a", 99]}"#, r#"Elements of "read-only" list must be strings"#),
        ] {
            assert_eq!(AccountAcl::parse(text).unwrap_err().to_string(), message);
        }
        let error = AccountAcl::parse("no").unwrap_err();
        assert_eq!(
            error.body("no"),
            "X-Account-Access-Control invalid: Syntax error in input ('no')\n\nInput: no\n"
        );
    }

    #[test]
    fn deep_nesting_is_a_syntax_error() {
        let deep = format!("{{\"admin\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        assert!(matches!(AccountAcl::parse(&deep), Err(AccountAclError::Syntax(_))));
    }

    proptest! {
        #[test]
        fn cleaning_twice_is_cleaning_once(text in r"([.]r|[.]ref|[.]x|a|:|,|-|[*]|[.]| |b){0,24}|\PC{0,40}") {
            for kind in [AclKind::Read, AclKind::Write] {
                if let Ok(once) = clean(kind, &text) {
                    prop_assert_eq!(clean(kind, &once), Ok(once));
                }
            }
        }

        #[test]
        fn any_text_can_be_judged(text in r"\PC{0,60}|([.]r:|-|[*]|[.]a|,|%|%4){0,12}", referer in r"\PC{0,40}|(http|:|/|@|\[|\]|a|[.]){0,12}") {
            let acl = ContainerAcl::parse(&text);
            let _ = acl.allows_referrer(Some(&referer));
            prop_assert!(!acl.names(""));
            let _ = AccountAcl::parse(&text);
            let _ = AccountAcl::format(&text);
        }

        #[test]
        fn account_lists_survive_the_round(admin in prop::collection::vec(any::<String>(), 1..4)) {
            let text = AccountAcl::format(&serde_json::json!({ "admin": admin }).to_string()).unwrap();
            prop_assert!(text.is_ascii());
            prop_assert_eq!(AccountAcl::parse(&text), Ok(AccountAcl { admin, ..AccountAcl::default() }));
        }
    }
}
