//! inotify: one watch per directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::{Changes, ProcPath};

/// The number of a watch. It is not used again as long as the instance lives.
pub type Watch = i32;

/// An instance of inotify.
#[derive(Debug)]
pub struct Inotify {
    instance: OwnedFd,
}

/// A rename is two events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// A name went.
    From,
    /// A name came.
    To,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Noticed {
    /// The watch; meaningless if events were lost.
    pub watch: Watch,
    /// What happened: [`Changes::CREATED`], [`Changes::DELETED`], … of an entry, or without a name of the directory itself.
    pub changes: Changes,
    /// Which half of a rename it is, if it is one.
    pub half: Option<Half>,
    /// The watch is no more.
    pub ended: bool,
    /// The file system was unmounted.
    pub unmounted: bool,
    /// What the halves of a rename have in common.
    pub cookie: u32,
    /// The entry; `None` if it is about the directory itself.
    pub name: Option<Vec<u8>>,
}

impl Inotify {
    /// A new one. `EMFILE` if the user has too many.
    pub fn new() -> io::Result<Inotify> {
        let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Inotify { instance })
    }

    /// Watches an open directory; an `O_PATH` descriptor will do. A directory that is watched already keeps its number.
    /// `ENOSPC` if the user has too many watches. Needs `/proc`.
    pub fn watch(&self, dir: BorrowedFd<'_>) -> io::Result<Watch> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let path = ProcPath::of(dir);
        Ok(rustix::io::retry_on_intr(|| inotify::add_watch(&self.instance, path.as_bytes(), flags))?)
    }

    /// Ends a watch; one that has ended is no error.
    pub fn forget(&self, watch: Watch) -> io::Result<()> {
        match inotify::remove_watch(&self.instance, watch) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `f` with at most `most` events of those that wait. Whether none is left.
    pub fn read(&self, most: usize, f: &mut dyn FnMut(Noticed)) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.instance, &mut buffer);
        let mut count = 0;
        // What was read into the buffer is gone from the queue, and must be handed out.
        while count < most || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => f(noticed(&event)),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            count += 1;
        }
        Ok(false)
    }
}

/// Readable when there are events.
impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.instance.as_fd()
    }
}

fn noticed(event: &inotify::Event<'_>) -> Noticed {
    let flags = event.events();
    let mut changes = Changes::default();
    for (flag, change) in [
        (ReadFlags::CREATE, Changes::CREATED),
        (ReadFlags::DELETE, Changes::DELETED),
        (ReadFlags::CLOSE_WRITE, Changes::CLOSED),
        (ReadFlags::MODIFY, Changes::MODIFIED),
        (ReadFlags::ATTRIB, Changes::ATTRIBUTES),
        (ReadFlags::ISDIR, Changes::DIRECTORY),
        (ReadFlags::QUEUE_OVERFLOW, Changes::LOST),
    ] {
        if flags.contains(flag) {
            changes |= change;
        }
    }
    let half = if flags.contains(ReadFlags::MOVED_FROM) {
        Some(Half::From)
    } else {
        flags.contains(ReadFlags::MOVED_TO).then_some(Half::To)
    };
    Noticed {
        watch: event.wd(),
        changes,
        half,
        ended: flags.contains(ReadFlags::IGNORED),
        unmounted: flags.contains(ReadFlags::UNMOUNT),
        cookie: event.cookie(),
        name: event.file_name().map(|name| name.to_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn halves_of_a_rename_share_a_cookie() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("a"), "x").unwrap();
        let dir = fs::File::open(base.path()).unwrap();
        let inotify = Inotify::new().unwrap();
        let watch = inotify.watch(dir.as_fd()).unwrap();
        assert_eq!(inotify.watch(dir.as_fd()).unwrap(), watch);
        fs::rename(base.path().join("a"), base.path().join("b")).unwrap();
        fs::create_dir(base.path().join("d")).unwrap();
        let mut events = Vec::new();
        assert!(inotify.read(100, &mut |event| events.push(event)).unwrap());
        assert!(events[0].half == Some(Half::From) && events[1].half == Some(Half::To));
        assert_eq!(events[0].cookie, events[1].cookie);
        assert_eq!(events[1].name.as_deref(), Some(b"b".as_slice()));
        assert!(events[2].changes == Changes::CREATED | Changes::DIRECTORY);
        inotify.forget(watch).unwrap();
        inotify.forget(watch).unwrap();
        events.clear();
        inotify.read(100, &mut |event| events.push(event)).unwrap();
        assert!(events.iter().all(|event| event.ended) && events.len() == 1);
    }

    #[test]
    fn more_than_was_asked_for_waits() {
        let base = tempfile::tempdir().unwrap();
        let dir = fs::File::open(base.path()).unwrap();
        let inotify = Inotify::new().unwrap();
        inotify.watch(dir.as_fd()).unwrap();
        // Each event takes 32 bytes: more than one buffer.
        for number in 0..600 {
            fs::create_dir(base.path().join(format!("d{number}"))).unwrap();
        }
        let mut count = 0;
        assert!(!inotify.read(1, &mut |_| count += 1).unwrap());
        assert!((1..600).contains(&count));
        assert!(inotify.read(10_000, &mut |_| count += 1).unwrap());
        assert_eq!(count, 600);
    }
}
