//! What a bridge is told of: all beneath one directory.

use namespace::{Mark, Spot};

use crate::root::join;

/// A path beneath the root, whose components are joined by `/`; empty for the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scope(Vec<u8>);

/// A path that leads nowhere beneath the root.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no path beneath the root: give names joined by single slashes, none of them . or ..")]
pub struct NoScope(String);

impl Scope {
    /// Of a path.
    pub fn parse(path: &[u8]) -> Result<Scope, NoScope> {
        let bad = |name: &[u8]| name.is_empty() || name == b"." || name == b".." || name.contains(&0);
        if !path.is_empty() && path.split(|byte| *byte == b'/').any(bad) {
            return Err(NoScope(String::from_utf8_lossy(path).into_owned()));
        }
        Ok(Scope(path.to_vec()))
    }

    /// The path.
    pub fn path(&self) -> &[u8] {
        &self.0
    }

    /// Whether a mark means anything here.
    pub fn concerns(&self, mark: &Mark) -> bool {
        match mark {
            Mark::Everything => true,
            Mark::Below { path, .. } => self.relative(path).is_some() || self.is_beneath(path),
            Mark::Entry(spot) => self.sees(spot),
            Mark::Moved { from, to } => from.iter().chain(to).any(|spot| self.sees(spot)),
        }
    }

    /// What a mark means here, with paths beneath this one; `None` if nothing.
    pub fn narrow(&self, mark: &Mark) -> Option<Mark> {
        if !self.concerns(mark) {
            return None;
        }
        Some(match mark {
            Mark::Entry(spot) => self.within(spot).map_or(Mark::Everything, Mark::Entry),
            // The directory of this scope was moved, or one above it.
            Mark::Moved { from, to } if from.iter().chain(to).any(|spot| self.hangs_on(spot)) => {
                Mark::Everything
            }
            Mark::Moved { from, to } => Mark::Moved {
                from: from.as_ref().and_then(|spot| self.within(spot)),
                to: to.as_ref().and_then(|spot| self.within(spot)),
            },
            Mark::Below { dir, path } => match self.relative(path) {
                Some(path) => Mark::Below { dir: *dir, path: path.to_vec() },
                None => Mark::Everything,
            },
            Mark::Everything => Mark::Everything,
        })
    }

    /// Of a path that is this one or beneath it, the rest.
    fn relative<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        if self.0.is_empty() {
            return Some(path);
        }
        match path.strip_prefix(&*self.0)? {
            [] => Some(b""),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    /// Whether this is the directory at a path, or one beneath it.
    fn is_beneath(&self, path: &[u8]) -> bool {
        Scope(path.to_vec()).relative(&self.0).is_some()
    }

    /// Whether the entry is this directory, or one above it.
    fn hangs_on(&self, spot: &Spot) -> bool {
        !self.0.is_empty() && self.is_beneath(&join(&spot.path, &spot.name))
    }

    fn sees(&self, spot: &Spot) -> bool {
        self.relative(&spot.path).is_some() || self.hangs_on(spot)
    }

    fn within(&self, spot: &Spot) -> Option<Spot> {
        let path = self.relative(&spot.path)?.to_vec();
        Some(Spot { dir: spot.dir, path, name: spot.name.clone() })
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use lustre::fs::Fid;

    use super::*;

    fn spot(path: &str, name: &str) -> Spot {
        Spot { dir: Fid::from_bytes(b"d").unwrap(), path: path.into(), name: name.into() }
    }

    #[allow(clippy::needless_pass_by_value)]
    fn narrow(scope: &str, mark: Mark) -> Option<Mark> {
        Scope::parse(scope.as_bytes()).unwrap().narrow(&mark)
    }

    fn moved(from: Option<Spot>, to: Option<Spot>) -> Mark {
        Mark::Moved { from, to }
    }

    fn below(path: &str) -> Mark {
        Mark::Below { dir: Fid::from_bytes(b"d").unwrap(), path: path.into() }
    }

    #[test]
    fn paths_lead_down() {
        for good in ["", "a", "a/b", "..a/.b"] {
            assert!(Scope::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["/", "/a", "a/", "a//b", "..", "a/../b", ".", "a/.", "a\0b"] {
            assert!(Scope::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_are_relative() {
        assert_eq!(narrow("", Mark::Entry(spot("a", "x"))), Some(Mark::Entry(spot("a", "x"))));
        assert_eq!(narrow("a", Mark::Entry(spot("a", "x"))), Some(Mark::Entry(spot("", "x"))));
        assert_eq!(narrow("a", Mark::Entry(spot("a/b", "x"))), Some(Mark::Entry(spot("b", "x"))));
        assert_eq!(narrow("a", Mark::Entry(spot("ab", "x"))), None);
        assert_eq!(narrow("a", Mark::Entry(spot("", "b"))), None);
        // The directory itself, or one above it, came or went.
        assert_eq!(narrow("a/b", Mark::Entry(spot("a", "b"))), Some(Mark::Everything));
        assert_eq!(narrow("a/b", Mark::Entry(spot("", "a"))), Some(Mark::Everything));
    }

    #[test]
    fn a_rename_over_the_border_is_half_a_rename() {
        let both = || moved(Some(spot("a", "x")), Some(spot("b", "y")));
        assert_eq!(narrow("a", both()), Some(moved(Some(spot("", "x")), None)));
        assert_eq!(narrow("b", both()), Some(moved(None, Some(spot("", "y")))));
        assert_eq!(narrow("c", both()), None);
        assert_eq!(narrow("", both()), Some(both()));
        let above = || moved(Some(spot("", "a")), Some(spot("", "z")));
        assert_eq!(narrow("a/b", above()), Some(Mark::Everything));
        assert_eq!(narrow("z/b", above()), Some(Mark::Everything));
    }

    #[test]
    fn losses_above_concern_all() {
        assert_eq!(narrow("a/b", below("")), Some(Mark::Everything));
        assert_eq!(narrow("a/b", below("a")), Some(Mark::Everything));
        assert_eq!(narrow("a/b", below("a/b")), Some(below("")));
        assert_eq!(narrow("a/b", below("a/b/c")), Some(below("c")));
        assert_eq!(narrow("a/b", below("a/bc")), None);
        assert_eq!(narrow("a/b", Mark::Everything), Some(Mark::Everything));
    }
}
