//! fanotify on a whole file system: who changed which name in which directory.
//!
//! Needs `CAP_SYS_ADMIN` in the user namespace that owns the file system, and Linux 5.17 for renames that say both names.

use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::FileHandle;
use super::raw;

const CLOEXEC: u32 = 0x1;
const NONBLOCK: u32 = 0x2;
const UNLIMITED_QUEUE: u32 = 0x10;
const REPORT_FID: u32 = 0x200;
const REPORT_DIR_FID: u32 = 0x400;
const REPORT_NAME: u32 = 0x800;
const REPORT_TARGET_FID: u32 = 0x1000;
const REPORT: u32 = REPORT_FID | REPORT_DIR_FID | REPORT_NAME | REPORT_TARGET_FID;

const MARK_ADD: u32 = 0x1;
const MARK_FILESYSTEM: u32 = 0x100;

/// What an event says happened; of events that were merged, all of it in no order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Changes(u64);

impl Changes {
    /// Data was written or cut off.
    pub const MODIFIED: Changes = Changes(0x2);
    /// Owner, mode, times, number of links or an extended attribute.
    pub const ATTRIBUTES: Changes = Changes(0x4);
    /// A file that was open for writing was closed.
    pub const CLOSED: Changes = Changes(0x8);
    /// A name came, but not by a rename.
    pub const CREATED: Changes = Changes(0x100);
    /// A name went, but not by a rename.
    pub const DELETED: Changes = Changes(0x200);
    /// A name became another.
    pub const RENAMED: Changes = Changes(0x1000_0000);
    /// It concerns a directory.
    pub const DIRECTORY: Changes = Changes(0x4000_0000);
    /// The queue was full: events were lost.
    pub const LOST: Changes = Changes(0x4000);

    const ALL: u64 = Self::MODIFIED.0
        | Self::ATTRIBUTES.0
        | Self::CLOSED.0
        | Self::CREATED.0
        | Self::DELETED.0
        | Self::RENAMED.0
        | Self::DIRECTORY.0;

    /// Whether any of `other` is among these.
    pub fn any(self, other: Changes) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is nothing but what is in `other`.
    pub fn only(self, other: Changes) -> bool {
        self.0 & !other.0 == 0
    }
}

impl BitOr for Changes {
    type Output = Changes;

    fn bitor(self, other: Changes) -> Changes {
        Changes(self.0 | other.0)
    }
}

impl BitOrAssign for Changes {
    fn bitor_assign(&mut self, other: Changes) {
        self.0 |= other.0;
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Changes({:#x})", self.0)
    }
}

/// A group of fanotify that watches a whole file system.
#[derive(Debug)]
pub struct Fanotify {
    group: OwnedFd,
    unlimited: bool,
}

impl Fanotify {
    /// Watches the file system that `root` is on, with a queue of unlimited length where that is allowed. Two or three
    /// system calls. `EPERM` and `EOPNOTSUPP` if it is not allowed, or not possible on this file system; `EINVAL` if the
    /// kernel is older than 5.17.
    pub fn watch(root: BorrowedFd<'_>) -> io::Result<Fanotify> {
        let flags = CLOEXEC | NONBLOCK | REPORT;
        let (group, unlimited) = match raw::fanotify_init(flags | UNLIMITED_QUEUE) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                (raw::fanotify_init(flags)?, false)
            }
            group => (group?, true),
        };
        raw::fanotify_mark(group.as_fd(), MARK_ADD | MARK_FILESYSTEM, Changes::ALL, root)?;
        Ok(Fanotify { group, unlimited })
    }

    /// Whether the queue has no bound but memory.
    pub fn unlimited(&self) -> bool {
        self.unlimited
    }

    /// Takes events from the queue; an empty slice if there are none now. `buffer` must hold at least one event: 4 KiB.
    pub fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Events<'b>> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.group, &mut *buffer)) {
            Ok(count) => Ok(Events::parse(&buffer[..count])),
            Err(Errno::AGAIN) => Ok(Events::parse(&[])),
            Err(error) => Err(error.into()),
        }
    }
}

/// Readable when there are events.
impl AsFd for Fanotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

/// A name in a directory, of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place<'b> {
    /// The directory.
    pub dir: FileHandle<'b>,
    /// The entry; `.` if the event is about the directory itself.
    pub name: &'b [u8],
}

impl<'b> Place<'b> {
    fn of((dir, name): (Option<FileHandle<'b>>, &'b [u8])) -> Option<Place<'b>> {
        dir.map(|dir| Place { dir, name })
    }
}

/// One event. Which parts there are depends on what happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Event<'b> {
    /// What happened.
    pub changes: Changes,
    /// Where; not of a rename.
    pub place: Option<Place<'b>>,
    /// Of a rename: the old name.
    pub from: Option<Place<'b>>,
    /// Of a rename: the new name.
    pub to: Option<Place<'b>>,
    /// The file or directory that it happened to.
    pub object: Option<FileHandle<'b>>,
}

/// Bytes that are no events. What follows them cannot be read either.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("fanotify gave something that is no event of version {VERSION}")]
pub struct Malformed;

/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// Of `struct fanotify_event_metadata`.
const HEAD: usize = 24;
/// Of a record's type and length, of the file system's id behind them, and of a handle's length and type.
const RECORD: usize = 4;
const FSID: usize = 8;
const HANDLE: usize = 8;

const TYPE_FID: u8 = 1;
const TYPE_DFID_NAME: u8 = 2;
const TYPE_DFID: u8 = 3;
const TYPE_OLD: u8 = 10;
const TYPE_NEW: u8 = 12;
/// `FILEID_ROOT` with nothing in it and `FILEID_INVALID`: the kernel had no handle to give.
const INVALID: i32 = 0xff;

/// The events in what was read.
#[derive(Clone, Debug)]
pub struct Events<'b> {
    rest: &'b [u8],
}

impl<'b> Events<'b> {
    /// Of these bytes, whatever they are.
    pub fn parse(bytes: &'b [u8]) -> Events<'b> {
        Events { rest: bytes }
    }

    /// Whether there are none left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self) -> Option<Event<'b>> {
        let length = u32_at(self.rest, 0)? as usize;
        if length < HEAD || length > self.rest.len() || self.rest[4] != VERSION {
            return None;
        }
        let (event, rest) = self.rest.split_at(length);
        let head = usize::from(u16::from_ne_bytes([event[6], event[7]]));
        let mask = u64::from_ne_bytes(event[8..16].try_into().ok()?);
        let mut found = Event { changes: Changes(mask), ..Event::default() };
        let mut records = event.get(head.max(HEAD)..)?;
        while !records.is_empty() {
            records = found.add(records)?;
        }
        self.rest = rest;
        Some(found)
    }
}

impl<'b> Iterator for Events<'b> {
    type Item = Result<Event<'b>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.take();
        if event.is_none() {
            self.rest = &[];
        }
        Some(event.ok_or(Malformed))
    }
}

impl<'b> Event<'b> {
    /// Takes one record and returns what is behind it.
    fn add(&mut self, records: &'b [u8]) -> Option<&'b [u8]> {
        let head = records.get(..RECORD)?;
        let length = usize::from(u16::from_ne_bytes([head[2], head[3]]));
        if length < RECORD || length > records.len() {
            return None;
        }
        let (record, rest) = records.split_at(length);
        let body = &record[RECORD..];
        match head[0] {
            TYPE_FID => self.object = handle(body)?.0,
            TYPE_DFID => self.place = Place::of((handle(body)?.0, b".")),
            TYPE_DFID_NAME => self.place = Place::of(place(body)?),
            TYPE_OLD => self.from = Place::of(place(body)?),
            TYPE_NEW => self.to = Place::of(place(body)?),
            // What a newer kernel adds.
            _ => {}
        }
        Some(rest)
    }
}

/// A handle behind the id of its file system, and what follows. The outer `None` is for bytes that are no such thing.
fn handle(body: &[u8]) -> Option<(Option<FileHandle<'_>>, &[u8])> {
    let body = body.get(FSID..)?;
    let length = u32_at(body, 0)? as usize;
    let kind = u32_at(body, 4)? as i32;
    let rest = body.get(HANDLE..)?;
    let bytes = rest.get(..length)?;
    let known = !bytes.is_empty() && kind != INVALID;
    Some((known.then_some(FileHandle { kind, bytes }), &rest[length..]))
}

/// A directory's handle and the name behind it.
fn place(body: &[u8]) -> Option<(Option<FileHandle<'_>>, &[u8])> {
    let (dir, rest) = handle(body)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some((dir, if end == 0 { b"." } else { &rest[..end] }))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let four = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
#[path = "fanotify/tests.rs"]
mod tests;
