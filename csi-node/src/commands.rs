//! What an administrator has the driver's program do, beside the driver that runs.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use csi_node::adopt::{self, Adoption};
use csi_node::id::{Uuid, VolumeId};
use csi_node::path::SubPath;
use csi_node::persistent_volume::{Known, persistent_volume};
use csi_node::share::{Named, Shares};
use csi_node::tree::Tree;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a raw file, or a directory, that the share has already a volume, without copying it.
    ///
    /// A file is moved, to be the disk.img of a directory of its own, and becomes 107:107. A directory stays as it is.
    /// Prints the PersistentVolume. Asked again, it finishes what was interrupted.
    Adopt(Adopt),
    /// Make a volume plain files again: the driver forgets it, and prints where they are.
    Release(Release),
}

#[derive(Args)]
struct Where {
    /// The share, NAME=directory:/path; NAME is that of its LustreShare, the path its hostPath and path together.
    #[arg(long)]
    share: Named,
    /// Where the host's root is.
    #[arg(long, default_value = "/")]
    host_root: PathBuf,
    /// The volume's name, as PersistentVolumes are named.
    #[arg(long)]
    name: String,
}

#[derive(Args)]
pub(crate) struct Adopt {
    #[command(flatten)]
    at: Where,
    /// The file or directory, beneath the share.
    #[arg(long)]
    path: String,
    /// Its size, such as 20Gi: of a disk, if it is to be larger; of a directory, as it is written down.
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// The namespace of the claim that is to have it.
    #[arg(long, requires = "claim")]
    namespace: Option<String>,
    /// That claim.
    #[arg(long, requires = "namespace")]
    claim: Option<String>,
    /// The storage class of the claim; with one that lets claims grow, this one can.
    #[arg(long, default_value = "")]
    storage_class: String,
    /// The only node that has the share, where that is so.
    #[arg(long)]
    node: Option<String>,
}

#[derive(Args)]
pub(crate) struct Release {
    #[command(flatten)]
    at: Where,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        let said = match self {
            Command::Adopt(adopt) => adopt.run()?,
            Command::Release(Release { at }) => format!("{}\n", adopt::release(&at.open()?, &at.name)?),
        };
        Ok(std::io::stdout().write_all(said.as_bytes())?)
    }
}

impl Where {
    fn open(&self) -> Result<Tree> {
        let shares = Shares::unknown(&self.host_root);
        shares.replace([(self.share.name.clone(), self.share.spec.clone())]);
        let share = shares.get(&self.share.name)?.context("the share is not known")?;
        Ok(share.open()?)
    }
}

impl Adopt {
    fn run(self) -> Result<String> {
        let from = SubPath::parse(&self.path)?;
        let claim = self.namespace.zip(self.claim);
        let adoption = Adoption::new(&self.at.name, from, claim.as_ref(), self.size)?;
        let (uuid, record): (Uuid, _) = adopt::adopt(&self.at.open()?, &adoption)?;
        let id = VolumeId { share: self.at.share.name, uuid };
        let known = Known { claim, storage_class: self.storage_class, node: self.node };
        Ok(serde_yaml::to_string(&persistent_volume(&id, &record, &known))?)
    }
}

/// Bytes, with a suffix as Kubernetes has them.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("", 0)];
    let size = units.iter().find_map(|(suffix, shift)| {
        let number: u64 = text.strip_suffix(suffix)?.parse().ok()?;
        number.checked_mul(1 << shift).filter(|&bytes| bytes > 0 && i64::try_from(bytes).is_ok())
    });
    size.ok_or_else(|| {
        format!("{text:?} is no size; one is a number of bytes, or one with Ki, Mi, Gi, Ti or Pi")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_kubernetes_has_them() {
        assert_eq!((parse_size("20Gi"), parse_size("512")), (Ok(20 << 30), Ok(512)));
        for bad in ["", "0", "-1", "1.5Gi", "20G", "Gi", "99999999Pi", "+ 1"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }
}
