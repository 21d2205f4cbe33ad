//! What is known of a volume: one file for each.

use serde::{Deserialize, Serialize};

use crate::path::SubPath;

/// The format that is written; older ones are read, newer ones refused.
const VERSION: u32 = 1;

/// Why a record says nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer driver.
    #[error("it has format {0}, and this driver knows formats up to 1: use a newer one")]
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

/// A volume, as its record has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Who made it.
    pub kind: Kind,
    /// The name in `CreateVolume`; of a grant `namespace/claim`.
    pub name: String,
    /// Its directory beneath the share.
    pub path: SubPath,
    /// Bytes; 0 where none were asked for.
    pub capacity: u64,
    /// Nobody writes to it.
    pub read_only: bool,
    /// When, as RFC 3339 has it.
    pub created: String,
}

impl Record {
    /// A record of now.
    pub fn new(kind: Kind, name: &str, path: SubPath, capacity: u64, read_only: bool) -> Record {
        let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Record { version: VERSION, kind, name: name.into(), path, capacity, read_only, created }
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
        Ok(serde_json::from_slice(bytes)?)
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
        let record = Record::new(Kind::Volume, "pvc-1", SubPath::parse("a/b").unwrap(), 7, true);
        assert_eq!(Record::from_bytes(&record.to_bytes().unwrap()).unwrap(), record);
    }

    #[test]
    fn the_first_format_stays_readable() {
        let fixture = br#"{"version":1,"kind":"grant","name":"team-a/scratch","path":"","capacity":0,
            "readOnly":false,"created":"2026-11-22T13:00:00Z"}"#;
        let record = Record::from_bytes(fixture).unwrap();
        assert_eq!((record.kind, record.path), (Kind::Grant, SubPath::share()));
    }

    #[test]
    fn newer_and_damaged_records_are_refused() {
        assert!(matches!(Record::from_bytes(br#"{"version":2,"x":1}"#), Err(RecordError::Newer(2))));
        for bad in ["", "{}", "[]", r#"{"version":1}"#, "\0\0\0\0"] {
            assert!(matches!(Record::from_bytes(bad.as_bytes()), Err(RecordError::Damaged(_))), "{bad}");
        }
        let outside = br#"{"version":1,"kind":"volume","name":"x","path":"../x","capacity":0,
            "readOnly":false,"created":""}"#;
        assert!(matches!(Record::from_bytes(outside), Err(RecordError::Damaged(_))));
    }
}
