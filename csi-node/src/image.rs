//! A directory volume whose size is held: a file system of its own, ext4, in a file in the driver's directory on the
//! share, which no volume shows. Everything here blocks.
//!
//! The file is sparse and longer than its file system, and that is as large as it takes for its users to have the
//! volume's capacity, whatever its own tables need. It is made where nobody else is, with the volume's directory in
//! it, and renamed into place: there is never half an image.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use lustre::sys::{self, Ext4, OFlags, Symlinks};

use crate::error::Error;
use crate::id::Uuid;
use crate::store::{IMAGES, Store, image_name};
use crate::tools;
use crate::tree::{Made, Owner, Tree, open_directory, own};

/// Bytes of its file systems' blocks: their capacities are whole ones.
pub const BLOCK: u64 = 4096;
/// The directory in an image that is the volume: beside it is what every ext4 has.
pub const ROOT: &str = "volume";
/// Blocks that one block of bits stands for.
const GROUP: u64 = 8 * BLOCK;
/// A smaller last group would be filled by its own tables, which not every kernel takes.
const LEAST: u64 = GROUP / 8;
const MIB: u64 = 1 << 20;
/// mkfs.ext4 gives a smaller file system no journal.
const SMALLEST: u64 = 2560;
/// How often a file system may turn out to be too small.
const TRIES: u32 = 8;
/// Those that every supported kernel mounts and makes larger, whatever the host's e2fsprogs would choose. Multi-mount
/// protection keeps a second node out even while the first one's driver is dead.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum,mmp";

/// What is in the directory that an image is made in.
const MAKING: &str = "image";
const CONTENT: &str = "content";

/// Bytes that a file system has to show, so that its users have `capacity`: the kernel keeps a fiftieth, and at most
/// 16 MiB, for itself.
pub fn shown(capacity: u64) -> u64 {
    capacity.saturating_add((capacity / 40 + MIB / 4).min(16 * MIB))
}

/// Bytes of the file: more than its file system ever takes.
fn length(capacity: u64) -> u64 {
    (capacity.saturating_add(capacity / 16).saturating_add(256 * MIB) / BLOCK * BLOCK).min(i64::MAX as u64)
}

/// Of the journal, in MiB.
fn journal(capacity: u64) -> u64 {
    (capacity / 64 / MIB).clamp(4, 64)
}

/// How many blocks a file system of `blocks` needs to show `missing` bytes more.
pub fn larger(blocks: u64, missing: u64) -> u64 {
    // One block in 64 is a table of inodes.
    let more = missing.div_ceil(BLOCK);
    let blocks = blocks + more + more / 32 + 1;
    let last = blocks % GROUP;
    if blocks > GROUP && last > 0 && last < LEAST { blocks - last + LEAST } else { blocks }
}

/// Makes the image of a volume. One that is there is whole, and is left as it is.
pub fn make(tree: &Tree, uuid: &Uuid, owner: Owner, capacity: u64) -> Result<Made, Error> {
    let store = tree.make_store()?;
    let images = store.make_part(IMAGES)?;
    let name = image_name(uuid);
    if sys::stat_at(images.as_fd(), name.as_bytes(), false).is_ok() {
        return Ok(Made::Existing);
    }
    let temporary = tree.fs().temporary_name(name.as_bytes()).map_err(Error::io("cannot name an image"))?;
    let built = build(tree, store.staging(), &temporary, owner, capacity).and_then(|making| {
        sys::rename_exclusive_at(making.as_fd(), MAKING.as_bytes(), images.as_fd(), name.as_bytes())
            .and_then(|()| tree.fs().persist(images.as_fd(), None))
            .map_err(Error::io("cannot put the volume's image in its place"))
    });
    remove(store.staging(), &temporary);
    built.map(|()| Made::New)
}

fn build(
    tree: &Tree,
    staging: BorrowedFd<'_>,
    name: &[u8],
    owner: Owner,
    capacity: u64,
) -> Result<OwnedFd, Error> {
    let tried = || Error::io("cannot make the volume's image");
    let making = sub_directory(staging, name).map_err(tried())?;
    let content = sub_directory(making.as_fd(), CONTENT.as_bytes()).map_err(tried())?;
    sub_directory(content.as_fd(), ROOT.as_bytes())
        .and_then(|volume| own(volume.as_fd(), owner))
        .map_err(Error::io("cannot make the volume's directory"))?;
    let image = tree.fs().create(making.as_fd(), MAKING.as_bytes(), 0o600, Some(capacity)).map_err(tried())?;
    format(tree.host(), &image, content.as_fd(), capacity)?;
    sys::fsync(image.as_fd()).map_err(Error::io("cannot make the volume's image durable"))?;
    Ok(making)
}

fn sub_directory(parent: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<OwnedFd> {
    sys::make_dir_at(parent, name, 0o700)?;
    sys::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Symlinks::Never)
}

/// What is left is put in the trash one day.
fn remove(staging: BorrowedFd<'_>, name: &[u8]) {
    let remove_in = |parent: BorrowedFd<'_>, name: &[u8]| {
        let _ = sys::remove_dir_at(parent, name);
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(making) = sys::open_beneath(staging, name, flags, Symlinks::Never) else { return };
    let _ = sys::unlink_at(making.as_fd(), MAKING.as_bytes());
    if let Ok(content) = open_directory(making.as_fd(), CONTENT) {
        remove_in(content.as_fd(), ROOT.as_bytes());
    }
    remove_in(making.as_fd(), CONTENT.as_bytes());
    remove_in(staging, name);
}

/// Makes the file system, with what is in the directory `content`. What its tables take is known when it is there.
fn format(host: &Path, image: &File, content: BorrowedFd<'_>, capacity: u64) -> Result<(), Error> {
    let sized = || Error::io("cannot size the volume's image");
    let wanted = shown(capacity);
    let mut blocks = larger(journal(capacity) * MIB / BLOCK, wanted).max(SMALLEST);
    for _ in 0..TRIES {
        // Nothing of the one before may be taken for this one's.
        image.set_len(0).and_then(|()| image.set_len(length(capacity))).map_err(sized())?;
        let arguments = arguments(image.as_fd(), content, capacity, blocks);
        tools::run(host, "mkfs.ext4", &arguments, &[image.as_fd(), content], &[0])?;
        let made = Ext4::read(image.as_fd()).map_err(Error::io("cannot read what mkfs.ext4 made"))?;
        let has = made.blocks.saturating_sub(made.overhead) * made.block;
        if has >= wanted {
            return Ok(());
        }
        blocks = larger(made.blocks, wanted - has);
    }
    Err(Error::Precondition(format!("mkfs.ext4 of the host makes no file system of {wanted} bytes")))
}

fn arguments(image: BorrowedFd<'_>, content: BorrowedFd<'_>, capacity: u64, blocks: u64) -> Vec<String> {
    let fixed = ["-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-e", "remount-ro"];
    let lazy = ["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-O", FEATURES];
    let own = [
        "-J".to_owned(),
        format!("size={}", journal(capacity)),
        "-d".to_owned(),
        sys::given(content),
        sys::given(image),
        blocks.to_string(),
    ];
    fixed.into_iter().chain(lazy).map(str::to_owned).chain(own).collect()
}

/// Opens the image of a volume.
pub fn open(store: &Store, uuid: &Uuid) -> Result<File, Error> {
    let lost = || Error::NotFound(format!("volume {uuid} has lost its image"));
    let images = store.part(IMAGES)?.ok_or_else(lost)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK;
    match sys::open_beneath(images.as_fd(), image_name(uuid).as_bytes(), flags, Symlinks::Never) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(lost()),
        opened => opened.map(File::from).map_err(Error::io("cannot open the volume's image")),
    }
}

/// Gives a file system in the image room to grow to `capacity`, durably.
pub fn extend(image: &File, capacity: u64) -> Result<(), Error> {
    let tried = || Error::io("cannot make the volume's image longer");
    let is = sys::stat(image.as_fd()).map_err(tried())?;
    if is.size < length(capacity) {
        image.set_len(length(capacity)).and_then(|()| sys::fsync(image.as_fd())).map_err(tried())?;
    }
    Ok(())
}

/// Makes the file system `blocks` large while it is mounted nowhere: what was interrupted in it is put right first.
pub(crate) fn resize_unmounted(host: &Path, image: BorrowedFd<'_>, blocks: u64) -> Result<(), Error> {
    let name = sys::given(image);
    let check = ["-f", "-p", &name].map(str::to_owned);
    tools::run(host, "e2fsck", &check, &[image], &[0, 1])?;
    tools::run(host, "resize2fs", &[name, blocks.to_string()], &[image], &[0])
}

#[cfg(test)]
#[path = "tests/image.rs"]
mod tests;
