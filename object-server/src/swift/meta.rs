//! Metadata headers: from requests to the store and back.

use namespace::{HeaderUpdate, System};

use super::constraints::Level;
use super::text;
use crate::http::Headers;

/// Headers of an object that are stored and given back, beside its metadata.
const OBJECT: [&str; 7] = [
    "content-disposition",
    "content-encoding",
    "x-object-manifest",
    "cache-control",
    "content-language",
    "expires",
    "x-robots-tag",
];

/// Settings that only owners see, kept apart from what the file system's users can read and forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Of an account.
    Account,
    /// Of a container.
    Container,
}

impl Secrets {
    /// Header and setting.
    fn table(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Account => &[
                ("x-account-meta-temp-url-key", "temp-url-key"),
                ("x-account-meta-temp-url-key-2", "temp-url-key-2"),
            ],
            Self::Container => &[
                ("x-container-read", "read"),
                ("x-container-write", "write"),
                ("x-container-sync-key", "sync-key"),
                ("x-container-sync-to", "sync-to"),
                ("x-container-meta-temp-url-key", "temp-url-key"),
                ("x-container-meta-temp-url-key-2", "temp-url-key-2"),
            ],
        }
    }

    /// The changes that a request makes to them.
    pub fn changes(self, headers: &Headers) -> Vec<(String, Option<String>)> {
        self.table()
            .iter()
            .filter_map(|(header, key)| {
                let removal = header.replacen("x-", "x-remove-", 1);
                let value = match headers.get(header) {
                    Some(value) => Some(String::from_utf8_lossy(value).into_owned()),
                    None if headers.contains(&removal) => None,
                    None => return None,
                };
                Some(((*key).to_owned(), value))
            })
            .collect()
    }

    /// Adds them to an answer for an owner.
    pub fn push(self, headers: &mut Headers, settings: &System) {
        for (header, key) in self.table() {
            if let Some(value) = settings.get(*key) {
                headers.append(&text::title_case(header), value);
            }
        }
    }

    fn has(header: &str) -> bool {
        [Self::Account, Self::Container]
            .iter()
            .flat_map(|level| level.table())
            .any(|(name, _)| name.eq_ignore_ascii_case(header))
    }
}

/// Adds stored headers to an answer; those that the file system may hold but must not tell are left out.
pub fn push_visible(headers: &mut Headers, stored: &[(String, Vec<u8>)]) {
    for (name, value) in stored.iter().filter(|(name, _)| !Secrets::has(name)) {
        headers.append(&text::title_case(name), value);
    }
}

/// The changes that a request makes to the metadata of an account or container.
pub fn update(headers: &Headers, level: Level) -> HeaderUpdate {
    let mut changes = HeaderUpdate::new();
    let remove = level.remove_prefix();
    for (name, _) in headers.iter() {
        let item = name.get(..remove.len()).filter(|start| start.eq_ignore_ascii_case(remove));
        if item.is_some() {
            let name = format!("{}{}", level.prefix(), name[remove.len()..].to_ascii_lowercase());
            set(&mut changes, name, None);
        }
    }
    for (name, value) in headers.iter() {
        if level.item(name).is_some_and(|item| !item.is_empty()) && !Secrets::has(name) {
            set(&mut changes, name.to_ascii_lowercase(), Some(value.to_vec()));
        }
    }
    changes
}

fn set(changes: &mut HeaderUpdate, name: String, value: Option<Vec<u8>>) {
    changes.retain(|(known, _)| *known != name);
    changes.push((name, value));
}

/// Applies changes to stored headers, as the store will.
pub fn apply(stored: &mut Vec<(String, Vec<u8>)>, changes: &HeaderUpdate) {
    for (name, value) in changes {
        stored.retain(|(known, _)| known != name);
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            stored.push((name.clone(), value.clone()));
        }
    }
}

/// The headers of an object that are stored: its metadata and what describes its content. Repeated ones are joined.
pub fn of_object(headers: &Headers) -> Vec<(String, Vec<u8>)> {
    let mut stored: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in headers.iter() {
        let item = Level::Object.item(name).is_some_and(|item| !item.is_empty());
        if !item && !OBJECT.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        match stored.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => {
                all.push(b',');
                all.extend_from_slice(value);
            }
            None => stored.push((name, value.to_vec())),
        }
    }
    stored
}

/// A stored header.
pub fn find<'a>(stored: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    stored.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().copied().collect()
    }

    #[test]
    fn updates_set_and_remove() {
        let given = headers(&[
            ("X-Container-Meta-A", "1"),
            ("x-container-meta-b", ""),
            ("X-Remove-Container-Meta-C", "x"),
            ("X-Remove-Container-Meta-A", "x"),
            ("X-Container-Meta-Temp-URL-Key", "secret"),
            ("X-Container-Meta-", "x"),
            ("X-Account-Meta-A", "1"),
        ]);
        assert_eq!(
            update(&given, Level::Container),
            [
                ("x-container-meta-c".to_owned(), None),
                ("x-container-meta-a".to_owned(), Some(b"1".to_vec())),
                ("x-container-meta-b".to_owned(), Some(Vec::new())),
            ]
        );
        let mut stored = vec![("x-container-meta-c".to_owned(), b"3".to_vec())];
        apply(&mut stored, &update(&given, Level::Container));
        assert_eq!(stored, [("x-container-meta-a".to_owned(), b"1".to_vec())]);
    }

    #[test]
    fn secrets_are_kept_apart() {
        let given = headers(&[
            ("X-Container-Read", ".r:*"),
            ("X-Remove-Container-Write", "x"),
            ("X-Container-Meta-Temp-Url-Key", "k"),
        ]);
        let changes = Secrets::Container.changes(&given);
        assert_eq!(
            changes,
            [
                ("read".to_owned(), Some(".r:*".to_owned())),
                ("write".to_owned(), None),
                ("temp-url-key".to_owned(), Some("k".to_owned())),
            ]
        );
        let mut shown = Headers::new();
        push_visible(&mut shown, &[("x-container-meta-temp-url-key".to_owned(), b"forged".to_vec())]);
        assert!(shown.is_empty());
    }

    #[test]
    fn objects_keep_what_describes_them() {
        let given = headers(&[
            ("X-Object-Meta-A", "1"),
            ("x-object-meta-a", "2"),
            ("Content-Encoding", "gzip"),
            ("Host", "h"),
            ("X-Object-Meta-Empty", ""),
        ]);
        assert_eq!(
            of_object(&given),
            [
                ("x-object-meta-a".to_owned(), b"1,2".to_vec()),
                ("content-encoding".to_owned(), b"gzip".to_vec()),
                ("x-object-meta-empty".to_owned(), Vec::new()),
            ]
        );
    }
}
