//! Paths beneath a share, judged once.

use serde::{Deserialize, Serialize};

/// What names of the bridge's own begin with.
pub const RESERVED: &str = ".lb~";
/// The longest file name of Linux.
const NAME_MAX: usize = 255;
/// Leaves room for the path that the share itself is at.
const PATH_MAX: usize = 3072;

/// Why a text is no path beneath a share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It begins with a slash.
    #[error("{0:?} is absolute; it has to be relative to the share")]
    Absolute(String),
    /// An empty component.
    #[error("{0:?} has an empty component; components are separated by one slash, none at the end")]
    Empty(String),
    /// `.` or `..`.
    #[error("{0:?} has a component `.` or `..`; it has to be in normal form")]
    Dots(String),
    /// A component of the bridge's own.
    #[error("{0:?} has a component that begins with `.lb~`, which is reserved")]
    Reserved(String),
    /// A NUL or another control character.
    #[error("{0:?} has a control character")]
    Control(String),
    /// Longer than a file system takes.
    #[error("a path of {0} bytes is too long; a component has at most 255 bytes, the whole at most 3072")]
    Long(usize),
}

/// A path in normal form, relative to a share: `""` is the share itself. None leads out of it by its text, and
/// none names anything of the bridge's own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubPath(String);

impl SubPath {
    /// The share itself.
    pub fn share() -> SubPath {
        SubPath::default()
    }

    /// From text.
    pub fn parse(text: &str) -> Result<SubPath, PathError> {
        if text.len() > PATH_MAX {
            return Err(PathError::Long(text.len()));
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.into()));
        }
        if !text.is_empty() {
            text.split('/').try_for_each(|name| check(text, name))?;
        }
        Ok(SubPath(text.into()))
    }

    /// From an absolute path such as `/` or `/a/b`, taken as relative to the share.
    pub fn parse_absolute(text: &str) -> Result<SubPath, PathError> {
        SubPath::parse(text.strip_prefix('/').unwrap_or(text))
    }

    /// The path `below` this one.
    pub fn join(&self, below: &SubPath) -> Result<SubPath, PathError> {
        match (self.0.is_empty(), below.0.is_empty()) {
            (true, _) => Ok(below.clone()),
            (_, true) => Ok(self.clone()),
            _ => SubPath::parse(&format!("{}/{}", self.0, below.0)),
        }
    }

    /// The directory it is in, and its name there; `None` for the share itself.
    pub fn split(&self) -> Option<(SubPath, &str)> {
        if self.0.is_empty() {
            return None;
        }
        let (parent, name) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        Some((SubPath(parent.into()), name))
    }

    /// Its components, from the share downwards.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The text; empty for the share itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str, name: &str) -> Result<(), PathError> {
    match name {
        "" => Err(PathError::Empty(text.into())),
        "." | ".." => Err(PathError::Dots(text.into())),
        _ if name.starts_with(RESERVED) => Err(PathError::Reserved(text.into())),
        _ if name.len() > NAME_MAX => Err(PathError::Long(name.len())),
        _ if name.chars().any(char::is_control) => Err(PathError::Control(text.into())),
        _ => Ok(()),
    }
}

impl TryFrom<String> for SubPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<SubPath, PathError> {
        SubPath::parse(&text)
    }
}

impl From<SubPath> for String {
    fn from(path: SubPath) -> String {
        path.0
    }
}

/// As a user would write it: the share itself is `/`.
impl std::fmt::Display for SubPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_normal_forms_only() {
        for good in ["", "a", "a/b", "team-a/claim-pvc-1", "..a", "a b", "ä/ö", ".hidden", "a.lb~"] {
            assert_eq!(SubPath::parse(good).unwrap().as_str(), good);
        }
        let bad =
            ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", ".lb~dcsi", "a/.lb~x", "a\0b", "a\nb"];
        for bad in bad {
            assert!(SubPath::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SubPath::parse(&"x".repeat(256)), Err(PathError::Long(256)));
        assert_eq!(SubPath::parse(&"x/".repeat(2048)), Err(PathError::Long(4096)));
    }

    #[test]
    fn splits_and_joins() {
        let path = SubPath::parse("a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_str(), name), ("a/b", "c"));
        assert_eq!(parent.join(&SubPath::parse(name).unwrap()).unwrap(), path);
        assert_eq!(SubPath::share().join(&path).unwrap(), path);
        assert!(SubPath::share().split().is_none());
        assert_eq!(SubPath::parse_absolute("/").unwrap(), SubPath::share());
        assert_eq!(SubPath::parse_absolute("/a/b/c").unwrap(), path);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_accepted_leads_out(text in ".{0,40}|[./~lb]{0,12}") {
            if let Ok(path) = SubPath::parse(&text) {
                let mut depth = 0_i32;
                for name in path.components() {
                    depth += if name == ".." { -1 } else { 1 };
                    proptest::prop_assert!(depth >= 1 && name != "." && !name.contains('\0'));
                }
            }
        }
    }
}
