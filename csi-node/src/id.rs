//! Volume ids: `<share>/<uuid>`.

use std::fmt;

/// Why a text is no volume id of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no volume id of this driver, which are <share>/<uuid>")]
pub struct IdError(String);

/// A share's name as Kubernetes takes it: it is a part of ids, and of nothing that is a path.
pub fn is_share_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 253 && bytes.iter().all(|&byte| plain(byte)) && edge(bytes.first()) && edge(bytes.last())
}

/// The id of a volume within its share, which is also the name of its record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uuid(String);

impl Uuid {
    /// Of the volume that is asked for by this name: always the same, without a database.
    pub fn of_name(name: &str) -> Uuid {
        Uuid(crds::names::request_volume_id(name))
    }

    /// From text in the canonical form: lower case, with hyphens.
    pub fn parse(text: &str) -> Option<Uuid> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let right = |(at, byte)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { hex(byte) };
        (text.len() == 36 && text.bytes().enumerate().all(right)).then(|| Uuid(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a volume.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeId {
    /// The share's name.
    pub share: String,
    /// Which one of the share's.
    pub uuid: Uuid,
}

impl VolumeId {
    /// From text.
    pub fn parse(text: &str) -> Result<VolumeId, IdError> {
        let parts = text.rsplit_once('/').filter(|(share, _)| is_share_name(share));
        let found = parts.and_then(|(share, uuid)| Some((share, Uuid::parse(uuid)?)));
        match found {
            Some((share, uuid)) => Ok(VolumeId { share: share.into(), uuid }),
            None => Err(IdError(text.chars().take(300).collect())),
        }
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.share, self.uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_id() {
        let uuid = Uuid::of_name("pvc-1");
        assert_eq!(uuid, Uuid::of_name("pvc-1"));
        assert_ne!(uuid, Uuid::of_name("pvc-2"));
        assert_eq!(Uuid::parse(uuid.as_str()), Some(uuid.clone()));
        let id = VolumeId { share: "scratch".into(), uuid };
        assert_eq!(VolumeId::parse(&id.to_string()), Ok(id));
    }

    #[test]
    fn foreign_ids_are_refused() {
        let uuid = Uuid::of_name("x");
        let upper = uuid.as_str().to_uppercase();
        for bad in [
            String::new(),
            "fake-volume".into(),
            uuid.to_string(),
            format!("/{uuid}"),
            format!("a/b/{uuid}"),
            format!("../{uuid}"),
            format!("a\0/{uuid}"),
            format!("A/{uuid}"),
            format!("a/{upper}"),
            format!("a/{uuid}/"),
            "a/../../etc/passwd".into(),
            format!("{}/{uuid}", "s".repeat(254)),
        ] {
            assert!(VolumeId::parse(&bad).is_err(), "{bad:?}");
        }
    }
}
