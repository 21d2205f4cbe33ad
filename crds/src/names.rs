//! Names that follow from what they name, so that nothing has to be remembered.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The id of the volume that a grant is: another one if its directory or its mode is another.
pub fn grant_volume_id(share: &str, namespace: &str, claim: &str, sub_path: &str, read_only: bool) -> String {
    let mode = if read_only { "ro" } else { "rw" };
    uuid(&["grant", share, namespace, claim, sub_path, mode])
}

/// The id of the volume that a CreateVolume request asks for: the same for the same name.
pub fn request_volume_id(name: &str) -> String {
    uuid(&["volume", name])
}

/// What CSI calls a volume.
pub fn volume_handle(share: &str, id: &str) -> String {
    format!("{share}/{id}")
}

/// The share and the id in a volume handle, if it is one of ours.
pub fn split_handle(handle: &str) -> Option<(&str, &str)> {
    let (share, id) = handle.split_once('/')?;
    (!share.is_empty() && is_uuid(id)).then_some((share, id))
}

/// The PersistentVolume of a grant.
pub fn grant_volume_name(share: &str, id: &str) -> String {
    format!("{share}-{id}")
}

/// What everything that a bridge consists of is called. The suffix keeps it apart from what a user calls a service.
pub fn bridge_object_name(bridge: &str) -> String {
    format!("{bridge}-swift")
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// The first 128 bits of the SHA-256 of the parts, each with its length before it, in the form of a UUID of version 8
/// (RFC 9562: bits of the maker's own choice).
fn uuid(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut text = String::with_capacity(36);
    for (at, byte) in hash.finalize().iter().take(16).enumerate() {
        let byte = match at {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_stable_and_a_uuid() {
        let id = grant_volume_id("projects", "team-a", "projects", "team-a", false);
        assert_eq!(id, "c8265749-8af6-8503-8be1-afe5226f4c5e");
        assert!(is_uuid(&id));
        assert_eq!(split_handle(&volume_handle("projects", &id)), Some(("projects", id.as_str())));
        assert_eq!(request_volume_id("pvc-1"), request_volume_id("pvc-1"));
    }

    #[test]
    fn whatever_makes_another_volume_makes_another_id() {
        let ids = [
            grant_volume_id("s", "n", "c", "", false),
            grant_volume_id("s", "n", "c", "", true),
            grant_volume_id("s", "n", "c", "p", false),
            grant_volume_id("s", "n", "cp", "", false),
            grant_volume_id("s", "nc", "", "", false),
            grant_volume_id("t", "n", "c", "", false),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn handles_of_others_are_not_ours() {
        for handle in ["", "/", "share", "share/", "share/../etc", "/9f0c2a6e-0000-8000-8000-000000000000"] {
            assert_eq!(split_handle(handle), None, "{handle}");
        }
    }
}
