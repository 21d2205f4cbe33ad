//! The wire contract, generated from `proto/relay.proto`, and marks to and from it.

use lustre::fs::Fid;

use relay::mark::What;

/// As generated.
#[allow(missing_docs, unreachable_pub, clippy::pedantic)]
pub mod relay {
    tonic::include_proto!("lustrebridge.relay.v1");
}

/// Of the contract.
pub const PROTOCOL: u32 = 1;

impl From<namespace::Spot> for relay::Spot {
    fn from(spot: namespace::Spot) -> relay::Spot {
        relay::Spot { dir: spot.dir.as_bytes().to_vec(), path: spot.path, name: spot.name }
    }
}

impl From<namespace::Mark> for relay::Mark {
    fn from(mark: namespace::Mark) -> relay::Mark {
        let what = match mark {
            namespace::Mark::Entry(spot) => What::Entry(spot.into()),
            namespace::Mark::Moved { from, to } => {
                What::Moved(relay::Moved { from: from.map(Into::into), to: to.map(Into::into) })
            }
            namespace::Mark::Below { dir, path } => {
                What::Below(relay::Below { dir: dir.as_bytes().to_vec(), path })
            }
            namespace::Mark::Everything => What::Everything(relay::Everything {}),
        };
        relay::Mark { what: Some(what) }
    }
}

/// What is not understood means everything: a newer relay may know more kinds of marks.
impl From<relay::Mark> for namespace::Mark {
    fn from(mark: relay::Mark) -> namespace::Mark {
        read(mark).unwrap_or(namespace::Mark::Everything)
    }
}

fn read(mark: relay::Mark) -> Option<namespace::Mark> {
    Some(match mark.what? {
        What::Entry(spot) => namespace::Mark::Entry(read_spot(spot)?),
        What::Moved(relay::Moved { from, to }) => namespace::Mark::Moved {
            from: from.map(|spot| read_spot(spot).ok_or(())).transpose().ok()?,
            to: to.map(|spot| read_spot(spot).ok_or(())).transpose().ok()?,
        },
        What::Below(relay::Below { dir, path }) => {
            namespace::Mark::Below { dir: Fid::from_bytes(&dir)?, path }
        }
        What::Everything(relay::Everything {}) => namespace::Mark::Everything,
    })
}

fn read_spot(spot: relay::Spot) -> Option<namespace::Spot> {
    Some(namespace::Spot { dir: Fid::from_bytes(&spot.dir)?, path: spot.path, name: spot.name })
}

#[cfg(test)]
mod tests {
    use namespace::{Mark, Spot};

    use super::*;

    #[test]
    fn marks_pass_the_wire() {
        let dir = Fid::from_bytes(b"fid").unwrap();
        let spot = |name: &str| Spot { dir, path: b"a/b".to_vec(), name: name.into() };
        for mark in [
            Mark::Entry(spot("x")),
            Mark::Moved { from: Some(spot("x")), to: Some(spot("y")) },
            Mark::Moved { from: None, to: Some(spot("y")) },
            Mark::Below { dir, path: Vec::new() },
            Mark::Everything,
        ] {
            assert_eq!(Mark::from(relay::Mark::from(mark.clone())), mark);
        }
    }

    #[test]
    fn what_is_not_understood_means_everything() {
        let nameless = relay::Spot { dir: Vec::new(), path: Vec::new(), name: b"x".to_vec() };
        let moved = relay::Moved { from: Some(nameless.clone()), to: None };
        for what in [None, Some(What::Entry(nameless)), Some(What::Moved(moved))] {
            assert_eq!(Mark::from(relay::Mark { what }), Mark::Everything);
        }
    }
}
