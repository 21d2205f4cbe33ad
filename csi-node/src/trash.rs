//! Removing what deleted volumes held.
//!
//! The trash is flat: a directory that is not empty is moved up into the trash before its turn comes. So any
//! depth is removed with two open directories, an interrupted removal goes on where it was, and no path is built.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use lustre::sys::{self, Kind, OFlags, Symlinks};
use rustix::io::Errno;

/// Names that are read at a time, so that a large directory takes little memory.
const BATCH: usize = 1024;

/// Removes everything in `trash` until it is empty or `stop` is set; returns whether it is empty.
///
/// What cannot be removed, such as a mount's directory, is left, reported once, and does not stop the rest.
pub fn sweep(trash: BorrowedFd<'_>, stop: &AtomicBool) -> io::Result<bool> {
    let mut sweep = Sweep { trash, stop, moved: 0 };
    while !stop.load(Ordering::Relaxed) {
        let names = batch(trash)?;
        if names.is_empty() {
            return Ok(true);
        }
        let mut removed = 0;
        for (name, kind) in &names {
            match sweep.remove_top(name, *kind) {
                Ok(()) => removed += 1,
                Err(_) if stop.load(Ordering::Relaxed) => return Ok(false),
                Err(error) => {
                    let name = String::from_utf8_lossy(name);
                    tracing::warn!(%name, %error, "something in a share's trash cannot be removed");
                }
            }
        }
        if removed == 0 {
            return Ok(false);
        }
    }
    Ok(false)
}

struct Sweep<'a> {
    trash: BorrowedFd<'a>,
    stop: &'a AtomicBool,
    moved: u64,
}

impl Sweep<'_> {
    fn remove_top(&mut self, name: &[u8], kind: Kind) -> io::Result<()> {
        if kind != Kind::Directory {
            return sys::unlink_at(self.trash, name);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = sys::open_beneath(self.trash, name, flags, Symlinks::Never)?;
        self.empty(directory.as_fd())?;
        sys::remove_dir_at(self.trash, name)
    }

    fn empty(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            let names = batch(directory)?;
            if names.is_empty() {
                return Ok(());
            }
            for (name, kind) in names {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Errno::CANCELED.into());
                }
                self.remove_below(directory, &name, kind)?;
            }
        }
    }

    fn remove_below(&mut self, directory: BorrowedFd<'_>, name: &[u8], kind: Kind) -> io::Result<()> {
        if kind != Kind::Directory {
            return sys::unlink_at(directory, name);
        }
        match sys::remove_dir_at(directory, name) {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTEMPTY | Errno::EXIST)) => {
                self.move_up(directory, name)
            }
            removed => removed,
        }
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        self.moved += 1;
        let aside = format!("{}.{}", sys::now_ns(), self.moved);
        sys::rename_exclusive_at(directory, name, self.trash, aside.as_bytes())
    }
}

fn batch(directory: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Kind)>> {
    let mut names: Vec<(Vec<u8>, Option<Kind>)> = Vec::new();
    sys::read_dir(directory, &mut |name, kind, _| {
        names.push((name.to_vec(), kind));
        if names.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let known = |(name, kind): (Vec<u8>, Option<Kind>)| {
        let kind = kind.map_or_else(|| sys::stat_at(directory, &name, false).map(|is| is.kind), Ok)?;
        Ok((name, kind))
    };
    names.into_iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_goes_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let trash = base.path().join("trash");
        let mut deep = trash.join("a");
        for depth in 0..300 {
            deep = deep.join(format!("{depth}"));
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        fs::write(base.path().join("outside/file"), "kept").unwrap();
        symlink(base.path().join("outside"), trash.join("a/link")).unwrap();
        symlink(base.path().join("outside"), trash.join("link")).unwrap();
        (0..3000).for_each(|at| fs::write(trash.join(format!("a/f{at}")), "").unwrap());
        let opened = File::open(&trash).unwrap();
        assert!(sweep(opened.as_fd(), &AtomicBool::new(false)).unwrap());
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(base.path().join("outside/file")).unwrap(), "kept");
    }

    #[test]
    fn a_stopped_sweep_goes_on_later() {
        let trash = tempfile::tempdir().unwrap();
        fs::create_dir_all(trash.path().join("a/b/c")).unwrap();
        let opened = File::open(trash.path()).unwrap();
        assert!(!sweep(opened.as_fd(), &AtomicBool::new(true)).unwrap());
        assert!(trash.path().join("a/b/c").exists());
        assert!(sweep(opened.as_fd(), &AtomicBool::new(false)).unwrap());
        assert!(!trash.path().join("a").exists());
    }
}
