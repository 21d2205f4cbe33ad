//! What is known of a volume: one file for each.

use serde::{Deserialize, Serialize};

use crate::path::SubPath;

/// The format that is written; older ones are read, newer ones refused. Format 2 has `type`, `size` and `onDelete`,
/// format 3 the size `image`.
const VERSION: u32 = 3;

/// Why a record says nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer driver.
    #[error("it has format {0}, and this driver knows formats up to {VERSION}: use a newer one")]
    Newer(u32),
    /// Not a record.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
}

/// Who made a volume, and so who may delete it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `CreateVolume`.
    Volume,
    /// A grant of the share: a directory that was there before and stays.
    Grant,
}

/// What a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A directory.
    #[default]
    Directory,
    /// A directory with one file, `disk.img`: a virtual machine's disk.
    Disk,
}

/// What holds the users of a volume to its size.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// The file system of the share, which also shows it.
    Enforced,
    /// A file system of the volume's own, in a file ([`image`](crate::image)).
    Image,
    /// Nothing.
    #[default]
    Advisory,
}

/// What becomes of a volume's directory when it is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It is removed.
    #[default]
    Remove,
    /// It is renamed, and stays.
    Archive,
}

/// A volume, as its record has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub(crate) version: u32,
    /// Who made it.
    pub kind: Kind,
    /// The name in `CreateVolume`; of a grant `namespace/claim`.
    pub name: String,
    /// Its directory beneath the share.
    pub path: SubPath,
    /// Bytes; 0 where none were asked for.
    pub capacity: u64,
    /// What it is.
    #[serde(default, rename = "type")]
    pub type_: Type,
    /// What holds its users to `capacity`.
    #[serde(default)]
    pub size: Size,
    /// What becomes of it.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Of a disk: all of it takes space.
    #[serde(default)]
    pub thick: bool,
    /// Nobody writes to it.
    pub read_only: bool,
    /// When, as RFC 3339 has it.
    pub created: String,
}

impl Record {
    /// A record of now: of a directory that may be written to, and whose size nothing holds.
    pub fn new(kind: Kind, name: &str, path: SubPath) -> Record {
        Record {
            version: VERSION,
            kind,
            name: name.into(),
            path,
            capacity: 0,
            type_: Type::default(),
            size: Size::default(),
            on_delete: OnDelete::default(),
            thick: false,
            read_only: false,
            created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }

    /// Whether it is a file system in a file, which one node mounts.
    pub fn is_image(&self) -> bool {
        self.size == Size::Image
    }

    /// Whether they differ at most in the time.
    pub fn says_the_same(&self, other: &Record) -> bool {
        Record { created: String::new(), ..self.clone() }
            == Record { created: String::new(), ..other.clone() }
    }

    /// From a file's content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes)?;
        if version > VERSION {
            return Err(RecordError::Newer(version));
        }
        Ok(Record { version: VERSION, ..serde_json::from_slice(bytes)? })
    }

    /// To a file's content.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let path = SubPath::parse("a/b").unwrap();
        let record = Record { capacity: 7, type_: Type::Disk, ..Record::new(Kind::Volume, "pvc-1", path) };
        assert_eq!(Record::from_bytes(&record.to_bytes().unwrap()).unwrap(), record);
    }

    #[test]
    fn the_first_format_stays_readable() {
        let fixture = br#"{"version":1,"kind":"grant","name":"team-a/scratch","path":"","capacity":0,
            "readOnly":false,"created":"2026-11-22T13:00:00Z"}"#;
        let record = Record::from_bytes(fixture).unwrap();
        assert_eq!((record.kind, record.path.clone()), (Kind::Grant, SubPath::share()));
        assert_eq!((record.type_, record.size), (Type::Directory, Size::Advisory));
        // It is written in the format of now.
        assert!(record.says_the_same(&Record::new(Kind::Grant, "team-a/scratch", SubPath::share())));
    }

    #[test]
    fn the_second_format_stays_readable() {
        let fixture = br#"{"version":2,"kind":"volume","name":"v","path":"v","capacity":4096,"type":"disk",
            "size":"enforced","onDelete":"archive","thick":true,"readOnly":false,"created":""}"#;
        let record = Record::from_bytes(fixture).unwrap();
        assert_eq!((record.type_, record.size, record.thick), (Type::Disk, Size::Enforced, true));
        let image = Record { size: Size::Image, ..record };
        assert_eq!(Record::from_bytes(&image.to_bytes().unwrap()).unwrap(), image);
    }

    #[test]
    fn newer_and_damaged_records_are_refused() {
        assert!(matches!(Record::from_bytes(br#"{"version":4,"x":1}"#), Err(RecordError::Newer(4))));
        for bad in ["", "{}", "[]", r#"{"version":1}"#, "\0\0\0\0"] {
            assert!(matches!(Record::from_bytes(bad.as_bytes()), Err(RecordError::Damaged(_))), "{bad}");
        }
        let outside = br#"{"version":1,"kind":"volume","name":"x","path":"../x","capacity":0,
            "readOnly":false,"created":""}"#;
        assert!(matches!(Record::from_bytes(outside), Err(RecordError::Damaged(_))));
    }
}
