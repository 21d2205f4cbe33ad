//! Which certificate may follow what.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::Reloading;
use crate::scope::{NoScope, Scope};

/// Why a file of grants is none.
#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is no TOML of the right form.
    #[error("{0} is no file of grants")]
    Form(PathBuf, #[source] Box<toml::de::Error>),
    /// It is of another version.
    #[error("{0} is of version {1}, and this release knows version 1")]
    Version(PathBuf, u32),
    /// A path is none.
    #[error("{0}: the sub-path of {1}")]
    Path(PathBuf, String, #[source] NoScope),
    /// A name is there twice.
    #[error("{0}: {1} is there more than once")]
    Twice(PathBuf, String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    bridge: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    path: String,
}

/// Names of certificates, and the sub-path that each may follow; read again when the file changes.
pub struct Grants {
    path: PathBuf,
    known: Reloading<HashMap<String, Scope>>,
}

impl Grants {
    /// From a TOML file: `version = 1`, and for each `[[bridge]]` the `name` (DNS or URI) and the `path`.
    pub fn load(path: &Path) -> Result<Grants, GrantsError> {
        let known = Reloading::load(vec![path.to_owned()], || read(path))?;
        Ok(Grants { path: path.to_owned(), known })
    }

    /// Reads the file again if it changed. Blocks.
    pub fn look(&self) {
        match self.known.look(|| read(&self.path)) {
            Ok(false) => {}
            Ok(true) => tracing::info!(path = %self.path.display(), "new grants are in use"),
            Err(error) => {
                let cause = crate::source::chain(&error);
                tracing::error!(cause, "the changed grants are not used, the old ones stay");
            }
        }
    }

    /// What a certificate of these names may follow: that of the one name that is known here. Two of different sub-paths are
    /// as good as none.
    pub fn scope(&self, names: &[String]) -> Option<Scope> {
        let known = self.known.get();
        let mut granted = names.iter().filter_map(|name| known.get(name));
        let first = granted.next()?;
        granted.all(|other| other == first).then(|| first.clone())
    }
}

fn read(path: &Path) -> Result<HashMap<String, Scope>, GrantsError> {
    let here = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|error| GrantsError::Read(here(), error))?;
    let form = |error| GrantsError::Form(here(), Box::new(error));
    // The version first: another one may have another form.
    let table: toml::Table = toml::from_str(&text).map_err(form)?;
    if let Some(version) = table.get("version").and_then(toml::Value::as_integer).filter(|found| *found != 1)
    {
        return Err(GrantsError::Version(here(), version.try_into().unwrap_or(u32::MAX)));
    }
    let file: File = table.try_into().map_err(form)?;
    debug_assert_eq!(file.version, 1);
    let mut known = HashMap::new();
    for Entry { name, path: sub_path } in file.bridge {
        let scope = Scope::parse(sub_path.as_bytes());
        let scope = scope.map_err(|error| GrantsError::Path(here(), name.clone(), error))?;
        if known.insert(name.clone(), scope).is_some() {
            return Err(GrantsError::Twice(here(), name));
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Grants, GrantsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Grants::load(file.path())
    }

    #[test]
    fn names_have_sub_paths() {
        let grants = load(
            "version = 1\n[[bridge]]\nname = 'a.example'\npath = 'x/y'\n[[bridge]]\nname = 'spiffe://b'\npath = ''\n\
             [[bridge]]\nname = 'c'\npath = 'x/y'\n",
        )
        .unwrap();
        let scope = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            grants.scope(&names).map(|scope| scope.to_string())
        };
        assert_eq!(scope(&["unknown", "a.example"]).as_deref(), Some("x/y"));
        assert_eq!(scope(&["spiffe://b"]).as_deref(), Some(""));
        assert_eq!(scope(&["a.example", "c"]).as_deref(), Some("x/y"));
        assert_eq!(scope(&["a.example", "spiffe://b"]), None);
        assert_eq!(scope(&[]), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wanted) in [
            ("", "is no file of grants"),
            ("version = 2\nother = 1", "is of version 2"),
            ("version = 1\nother = 1", "is no file of grants"),
            ("version = 1\n[[bridge]]\nname = 'a'\npath = '../x'", "the sub-path of a"),
            (
                "version = 1\n[[bridge]]\nname = 'a'\npath = ''\n[[bridge]]\nname = 'a'\npath = ''",
                "a is there more",
            ),
        ] {
            let error = load(text).err().unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
