//! `ListVolumes`, page by page, without anything to be remembered.

use crate::error::Error;
use crate::id::{Uuid, VolumeId};
use crate::proto::csi::list_volumes_response::Entry;
use crate::record::Record;
use crate::tree::Tree;

/// A token is the id of the last volume of the page before.
pub fn after(token: &str) -> Result<Option<VolumeId>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    VolumeId::parse(token)
        .map(Some)
        .map_err(|_| Error::Aborted("starting_token is none of this driver: begin again without one".into()))
}

/// The token of the page that `entries` are.
pub fn last_id(entries: &[Entry]) -> String {
    let last = entries.last().and_then(|entry| entry.volume.as_ref());
    last.map(|volume| volume.volume_id.clone()).unwrap_or_default()
}

/// Up to `wanted` volumes whose ids come after `after`. A damaged record hides its own volume only.
pub fn page(tree: &Tree, after: Option<&Uuid>, wanted: usize) -> Result<Vec<(Uuid, Record)>, Error> {
    let Some(store) = tree.store()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for uuid in store.list()? {
        if found.len() == wanted {
            break;
        }
        if after.is_some_and(|after| uuid <= *after) {
            continue;
        }
        match store.read(&uuid) {
            Ok(record) => found.extend(record.map(|record| (uuid, record))),
            Err(error) => tracing::warn!(%uuid, %error, "a volume is not listed"),
        }
    }
    Ok(found)
}
