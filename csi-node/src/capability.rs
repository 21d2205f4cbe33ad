//! What a volume can be asked to do, and how large it may be.

use crate::error::Error;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::volume_capability::{AccessType, MountVolume};
use crate::proto::csi::{CapacityRange, VolumeCapability};

/// Whether any of `capabilities` wants a block device; an error if one of them cannot be.
pub fn check_all(capabilities: &[VolumeCapability]) -> Result<bool, Error> {
    if capabilities.is_empty() {
        return Err(Error::Invalid("volume_capabilities is missing".into()));
    }
    capabilities.iter().try_fold(false, |block, capability| Ok(check(capability)?.block || block))
}

/// That a file system which one node mounts can be used so.
pub fn check_one_node(how: Use) -> Result<(), Error> {
    if how.nodes == Nodes::Many {
        return Err(Error::Invalid(
            "a volume of quota: image is a file system that one node mounts at a time: ReadWriteMany and ReadOnlyMany \
             cannot be had; use ReadWriteOnce or ReadWriteOncePod, or a class with quota: advisory"
                .into(),
        ));
    }
    Ok(())
}

/// How the volume is used by one pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// Whether it writes.
    pub access: Access,
    /// Who else uses it.
    pub nodes: Nodes,
    /// As a block device.
    pub block: bool,
}

/// Reading or writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads.
    ReadOnly,
}

/// Who uses a volume at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nodes {
    /// Any node.
    Many,
    /// One node.
    One,
    /// One pod.
    OnePod,
}

/// What one capability asks for; an error if no volume of ours can do that.
pub fn check(capability: &VolumeCapability) -> Result<Use, Error> {
    let block = match &capability.access_type {
        Some(AccessType::Mount(mount)) => {
            check_mount(mount)?;
            false
        }
        Some(AccessType::Block(_)) => true,
        None => return Err(Error::Invalid("access_type is missing in a volume capability".into())),
    };
    let mode = capability.access_mode.map_or(Mode::Unknown, |access| access.mode());
    let (access, nodes) = match mode {
        Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter => (Access::ReadWrite, Nodes::One),
        Mode::SingleNodeSingleWriter => (Access::ReadWrite, Nodes::OnePod),
        Mode::SingleNodeReaderOnly => (Access::ReadOnly, Nodes::One),
        Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => (Access::ReadWrite, Nodes::Many),
        Mode::MultiNodeReaderOnly => (Access::ReadOnly, Nodes::Many),
        Mode::Unknown => return Err(Error::Invalid("access_mode is missing in a volume capability".into())),
    };
    Ok(Use { access, nodes, block })
}

fn check_mount(mount: &MountVolume) -> Result<(), Error> {
    if !mount.fs_type.is_empty() {
        return Err(Error::Invalid(format!(
            "fs_type {:?} cannot be chosen: the volume is a directory of its share; leave it out",
            mount.fs_type
        )));
    }
    if !mount.mount_flags.is_empty() {
        return Err(Error::Invalid(format!(
            "mount options {:?} cannot be chosen for a volume: they are the share's; leave them out",
            mount.mount_flags
        )));
    }
    if !mount.volume_mount_group.is_empty() {
        return Err(Error::Invalid(
            "volume_mount_group is not offered: access is by the files' owners".into(),
        ));
    }
    Ok(())
}

/// Bytes as the specification's messages hold them.
pub fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A capacity that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    required: u64,
    limit: u64,
}

impl Capacity {
    /// From a request; without one, anything will do.
    pub fn new(range: Option<&CapacityRange>) -> Result<Capacity, Error> {
        let range = range.copied().unwrap_or_default();
        let bytes = |name: &str, value: i64| {
            u64::try_from(value)
                .map_err(|_| Error::Invalid(format!("{name} is {value}, and cannot be negative")))
        };
        let required = bytes("required_bytes", range.required_bytes)?;
        let limit = bytes("limit_bytes", range.limit_bytes)?;
        if limit > 0 && required > limit {
            return Err(Error::Range(format!("required_bytes {required} is more than limit_bytes {limit}")));
        }
        Ok(Capacity { required, limit })
    }

    /// The volume's capacity; 0 is "not known", where nothing was required.
    pub fn bytes(self) -> u64 {
        self.required
    }

    /// Of this many bytes, or more.
    pub fn exactly(bytes: u64) -> Capacity {
        Capacity { required: bytes, limit: 0 }
    }

    /// In whole pieces of `unit` bytes, which is a power of two.
    pub fn rounded(self, unit: u64) -> Result<Capacity, Error> {
        let required = self.required.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        if self.limit > 0 && required > self.limit {
            return Err(Error::Range(format!(
                "the volume has whole pieces of {unit} bytes: {required} is more than limit_bytes {}",
                self.limit
            )));
        }
        Ok(Capacity { required, ..self })
    }

    /// Whether a volume that exists is what is asked for.
    pub fn admits(self, bytes: u64) -> bool {
        bytes >= self.required && (self.limit == 0 || bytes <= self.limit)
    }

    /// No volume is larger than what it lies on (`total` bytes; 0 where that is not known).
    pub fn check_fits(self, total: u64) -> Result<(), Error> {
        if total > 0 && self.required > total {
            return Err(Error::Range(format!(
                "required_bytes {} is more than the {total} bytes of the share's file system",
                self.required
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::csi::volume_capability::{AccessMode, BlockVolume};
    use tonic::Code;

    fn mount(mode: Mode) -> VolumeCapability {
        VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    fn range(required_bytes: i64, limit_bytes: i64) -> Result<Capacity, Error> {
        Capacity::new(Some(&CapacityRange { required_bytes, limit_bytes }))
    }

    #[test]
    fn modes_say_who_writes() {
        let of = |mode| check(&mount(mode)).unwrap();
        let use_of = |access, nodes| Use { access, nodes, block: false };
        assert_eq!(of(Mode::MultiNodeMultiWriter), use_of(Access::ReadWrite, Nodes::Many));
        assert_eq!(of(Mode::SingleNodeSingleWriter), use_of(Access::ReadWrite, Nodes::OnePod));
        assert_eq!(of(Mode::SingleNodeMultiWriter), use_of(Access::ReadWrite, Nodes::One));
        assert_eq!(of(Mode::MultiNodeReaderOnly), use_of(Access::ReadOnly, Nodes::Many));
        let mut block = mount(Mode::SingleNodeWriter);
        block.access_type = Some(AccessType::Block(BlockVolume::default()));
        assert!(check(&block).unwrap().block);
        let all = check_all(&[block, mount(Mode::MultiNodeMultiWriter)]).unwrap();
        assert!(all);
        let mut flags = mount(Mode::SingleNodeWriter);
        let mount_flags = vec!["suid".into()];
        flags.access_type = Some(AccessType::Mount(MountVolume { mount_flags, ..MountVolume::default() }));
        for bad in [flags, mount(Mode::Unknown), VolumeCapability::default()] {
            assert_eq!(check(&bad).unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
        }
        assert_eq!(check_all(&[]).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn capacities_that_cannot_be() {
        assert_eq!(range(-1, 0).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(range(0, i64::MIN).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(range(2, 1).unwrap_err().code(), Code::OutOfRange);
        let huge = range(i64::MAX, 0).unwrap();
        assert_eq!(huge.check_fits(1 << 50).unwrap_err().code(), Code::OutOfRange);
        assert!(huge.check_fits(0).is_ok());
    }

    #[test]
    fn what_exists_is_compared() {
        let wanted = range(10, 20).unwrap();
        assert_eq!((wanted.bytes(), wanted.admits(10), wanted.admits(20)), (10, true, true));
        assert!(!wanted.admits(9) && !wanted.admits(21) && !wanted.admits(0));
        assert!(Capacity::new(None).unwrap().admits(0));
        assert_eq!(wanted.rounded(16).unwrap().bytes(), 16);
        assert_eq!(wanted.rounded(32).unwrap_err().code(), Code::OutOfRange);
    }
}
