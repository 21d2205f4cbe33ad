//! File systems inside of files: ext4 on a loop device.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::retry_on_intr;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::raw;

/// Where the superblock begins, and how long it is.
const SUPERBLOCK: u64 = 1024;
const LENGTH: usize = 1024;
/// `s_magic`.
const MAGIC: u16 = 0xEF53;

/// A mount of an ext4 that is attached nowhere, without set-uid programs and devices. It goes when the descriptor
/// is closed, unless it was attached. A file system that is mounted already is the same one. Several system calls.
pub fn mount_ext4(device: &Path) -> io::Result<OwnedFd> {
    let context = fsopen(c"ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"source", device)?;
    // Else the kernel writes zeros over tables of inodes that nobody uses, and a sparse image takes their space.
    fsconfig_set_flag(context.as_fd(), c"noinit_itable")?;
    retry_on_intr(|| fsconfig_create(context.as_fd()))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Makes a mounted ext4 larger. `root` is any open directory of it, in a mount that may be written to. Needs
/// `CAP_SYS_RESOURCE`: `EPERM` without.
pub fn resize_ext4(root: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    raw::resize_ext4(root, blocks)
}

/// How large an ext4 is, as its superblock has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ext4 {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Those that its own tables take, as they were when it was made.
    pub overhead: u64,
}

impl Ext4 {
    /// Of the file or device `image`; `InvalidData` if there is none on it.
    pub fn read(image: BorrowedFd<'_>) -> io::Result<Ext4> {
        let mut bytes = [0; LENGTH];
        let len = retry_on_intr(|| rustix::io::pread(image, &mut bytes, SUPERBLOCK))?;
        Ext4::parse(&bytes[..len]).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no ext4"))
    }

    fn parse(bytes: &[u8]) -> Option<Ext4> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if u16::from_le_bytes(bytes.get(0x38..0x3a)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let block = 1024_u64.checked_shl(word(0x18)?).filter(|block| (1024..=65536).contains(block))?;
        let blocks = u64::from(word(0x4)?) | u64::from(word(0x150)?) << 32;
        Some(Ext4 { block, blocks, overhead: u64::from(word(0x248)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_says_how_large() {
        let mut bytes = [0; LENGTH];
        assert_eq!(Ext4::parse(&bytes), None);
        bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[0x18] = 2;
        bytes[0x4..0x8].copy_from_slice(&7_u32.to_le_bytes());
        bytes[0x150] = 1;
        bytes[0x248] = 5;
        let is = Ext4 { block: 4096, blocks: (1 << 32) + 7, overhead: 5 };
        assert_eq!(Ext4::parse(&bytes), Some(is));
        bytes[0x18] = 200;
        assert_eq!(Ext4::parse(&bytes), None);
        assert_eq!(Ext4::parse(&bytes[..0x100]), None);
    }
}
