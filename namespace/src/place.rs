//! Where an object lies, and the moves between its two places.
//!
//! An object `a` is the file `a`, or, while objects below `a/` exist, the file `.lb~self` inside the directory `a`.
//! Moving between the two takes several steps, none of which may lose the content or let a reader miss it:
//!
//! | step | to a directory | to a file |
//! |---|---|---|
//! | 1 | rename `a` to its transit name beside it | rename `a/.lb~self` to the transit name |
//! | 2 | make the directory `a` | remove the directory `a` (fails if a child came: step 3 goes back inside) |
//! | 3 | link the transit name to `a/.lb~self` | link the transit name to `a` |
//! | 4 | drop the transit name | drop the transit name |
//!
//! So the content is always under at least one of the three names, and a reader that tries `a`, `a/.lb~self`, the
//! transit name, then all again, finds it. `a` beats `a/.lb~self`, which beats the transit name; link(2) never overwrites what is newer.
//! Movers hold one lock per account across servers; a transit name seen under that lock was left by a crash, and is put back.
//! Plain reads and writes take no such lock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lustre::sys::{self, Kind, OFlags, Stat, Symlinks};
use rustix::io::Errno;

use crate::Scope;
use crate::attribute::Attribute;
use crate::error::{Error, Result, Step, is, is_absent};
use crate::metadata::Metadata;
use crate::name;

/// How often a protocol starts over when other writers get in between.
const TRIES: usize = 100;

/// How often a reader looks for an object among its places while movers are at work.
const ROUNDS: usize = 50;

/// What holds an object now.
#[derive(Debug)]
pub(crate) struct Found {
    /// The file, or the marker's directory; opened with `O_PATH`.
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
    pub(crate) at: At,
}

/// Which of an object's places it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum At {
    /// The file of its own name.
    File,
    /// A symbolic link of its own name, to a file beneath the container.
    Link,
    /// `.lb~self` in the directory of its name.
    Within,
    /// The directory of its name is the object.
    Marker(Box<Metadata>),
    /// The transit name: a move is under way or was cut short.
    Transit,
}

/// A path beneath the container, split at its last component.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split<'a> {
    pub(crate) parent: &'a [u8],
    pub(crate) file: &'a [u8],
}

/// Splits an encoded path.
pub(crate) fn split(path: &[u8]) -> Split<'_> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => Split { parent: &path[..at], file: &path[at + 1..] },
        None => Split { parent: b"", file: path },
    }
}

/// Joins two encoded paths.
pub(crate) fn join(parent: &[u8], file: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + file.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(file);
    path
}

/// Path as shown in messages.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn open(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
    match sys::open_beneath(dir, path, flags, Symlinks::Never) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("open", e)),
    }
}

/// The object at `path` beneath the container, wherever it lies at this moment.
pub(crate) fn locate(scope: &Scope<'_>, path: &[u8]) -> Result<Option<Found>> {
    for round in 0..ROUNDS {
        // Looking twice is enough for one move. More are known by their lock, which movers touch first,
        // unless it is another user's.
        if round > 1 && !scope.moved_lately()? {
            break;
        }
        if let Some(found) = locate_named(scope, path)? {
            return Ok(Some(found));
        }
        let Split { parent, file } = split(path);
        let transit = join(parent, &name::transit_of(file));
        if let Some(fd) = open(scope.base(), &transit, OFlags::PATH | OFlags::NOFOLLOW)? {
            let stat = sys::stat(fd.as_fd()).step("stat")?;
            if stat.kind == Kind::File {
                return Ok(Some(Found { fd, stat, at: At::Transit }));
            }
        }
    }
    Ok(None)
}

/// The object under its own name or within its directory.
fn locate_named(scope: &Scope<'_>, path: &[u8]) -> Result<Option<Found>> {
    let container = scope.base();
    let Some(fd) = open(container, path, OFlags::PATH | OFlags::NOFOLLOW)? else { return Ok(None) };
    let stat = sys::stat(fd.as_fd()).step("stat")?;
    match stat.kind {
        Kind::File => Ok(Some(Found { fd, stat, at: At::File })),
        Kind::Directory => within(scope, fd, stat),
        Kind::Symlink => follow(container, path),
        Kind::Other => Ok(None),
    }
}

/// What a directory holds of the object of its own name.
fn within(scope: &Scope<'_>, dir: OwnedFd, stat: Stat) -> Result<Option<Found>> {
    if let Some(fd) = open(dir.as_fd(), name::SELF, OFlags::PATH | OFlags::NOFOLLOW)? {
        let stat = sys::stat(fd.as_fd()).step("stat")?;
        return Ok((stat.kind == Kind::File).then_some(Found { fd, stat, at: At::Within }));
    }
    match scope.read_directory(dir.as_fd())? {
        Attribute::Ours(metadata) if metadata.marker => {
            Ok(Some(Found { fd: dir, stat, at: At::Marker(metadata) }))
        }
        _ => Ok(None),
    }
}

/// A link's target, if it is a file beneath the container.
fn follow(container: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Found>> {
    match sys::open_beneath(container, path, OFlags::PATH, Symlinks::Beneath) {
        Ok(fd) => {
            let stat = sys::stat(fd.as_fd()).step("stat")?;
            Ok((stat.kind == Kind::File).then_some(Found { fd, stat, at: At::Link }))
        }
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("open", e)),
    }
}

/// Opens the directory at `path` beneath the container for changing what is in it, making what is missing.
///
/// Returns how many directories were made. A file in the way becomes a directory with the file inside.
pub(crate) fn make_parents(scope: &Scope<'_>, path: &[u8]) -> Result<(OwnedFd, usize)> {
    let mut made = 0;
    for _ in 0..TRIES {
        match sys::open_beneath(scope.base(), path_or_dot(path), DIRECTORY, Symlinks::Never) {
            Ok(fd) => return Ok((fd, made)),
            Err(e) if is(&e, Errno::NOENT) || is(&e, Errno::NOTDIR) => made += make_missing(scope, path)?,
            Err(e) if is(&e, Errno::LOOP) => {
                return Err(Error::Blocked { path: shown(path), reason: "a symbolic link" });
            }
            Err(e) => return Err(Error::io("open the directory", e)),
        }
    }
    Err(Error::Contended { what: "making directories" })
}

/// A directory opened so that it can be read, changed and synced.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

fn path_or_dot(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// Walks down `path`, making each directory that is missing.
fn make_missing(scope: &Scope<'_>, path: &[u8]) -> Result<usize> {
    let mut made = 0;
    let mut dir = scope.open_base()?;
    for (at, part) in parts(path) {
        let next = match sys::open_beneath(dir.as_fd(), part, DIRECTORY, Symlinks::Never) {
            Ok(fd) => fd,
            Err(e) if is(&e, Errno::NOENT) || is(&e, Errno::NOTDIR) || is(&e, Errno::LOOP) => {
                match sys::stat_at(dir.as_fd(), part, false) {
                    Ok(stat) if stat.kind == Kind::File => {
                        file_to_directory(scope, dir.as_fd(), &path[..at])?;
                    }
                    Ok(stat) if stat.kind != Kind::Directory => {
                        let reason = "neither a file nor a directory";
                        return Err(Error::Blocked { path: shown(&path[..at]), reason });
                    }
                    _ => {
                        settle(scope, dir.as_fd(), &path[..at])?;
                        made += usize::from(make_directory(scope, dir.as_fd(), part, false)?);
                    }
                }
                match sys::open_beneath(dir.as_fd(), part, DIRECTORY, Symlinks::Never) {
                    Ok(fd) => fd,
                    // Removed or replaced meanwhile: the caller starts over.
                    Err(e) if is_absent(&e) => return Ok(made),
                    Err(e) => return Err(Error::io("open the directory", e)),
                }
            }
            Err(e) => return Err(Error::io("open the directory", e)),
        };
        dir = next;
    }
    Ok(made)
}

/// The components of a path, each with the length of the path up to its end.
fn parts(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut end = 0;
    path.split(|b| *b == b'/').filter(|p| !p.is_empty()).map(move |part| {
        let start = if end == 0 { 0 } else { end + 1 };
        end = start + part.len();
        (end, part)
    })
}

/// Makes one directory with its parent's permissions, marked as ours; false if something is there already, or
/// its parent went. The caller holds the movers' lock if `held`.
fn make_directory(scope: &Scope<'_>, dir: BorrowedFd<'_>, file: &[u8], held: bool) -> Result<bool> {
    let parent = sys::stat(dir).step("stat the directory")?;
    match sys::make_dir_at(dir, file, directory_mode(&parent)) {
        Ok(()) => {}
        Err(e) if is(&e, Errno::EXIST) || is_absent(&e) => return Ok(false),
        Err(e) => return Err(Error::io("make a directory", e)),
    }
    if let Some(fd) = open(dir, file, DIRECTORY)? {
        scope.step("directory: not marked yet");
        if let Err(e) = scope.mark_made(fd.as_fd(), held) {
            // Unmarked, nothing would ever remove it.
            let _ = sys::remove_dir_at(dir, file);
            return Err(e);
        }
        scope.persist(dir, Some(fd.as_fd()))?;
    }
    Ok(true)
}

/// A new directory's mode: what the directory around it allows.
pub(crate) fn directory_mode(parent: &Stat) -> u32 {
    (parent.mode & 0o2777) | 0o700
}

/// A new file's mode: what the directory around it allows, without execution.
pub(crate) fn file_mode(parent: &Stat) -> u32 {
    (parent.mode & 0o666) | 0o600
}

/// Turns the file at `path` into a directory that holds it; `dir` is its parent.
fn file_to_directory(scope: &Scope<'_>, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    if !scope.namespace().options.prefixes_may_be_objects {
        return Err(Error::PrefixConflict { path: shown(path) });
    }
    let _moving = scope.moving()?;
    let file = split(path).file;
    let transit = name::transit_of(file);
    settle_locked(scope, dir, file)?;
    // Another mover may have been quicker.
    if !is_file(dir, file)? {
        return Ok(());
    }
    make_transit_directory(dir, &transit)?;
    match rename(dir, file, &transit) {
        Ok(()) => {}
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(Error::io("move a file aside", e)),
    }
    if !is_file(dir, &transit)? {
        // Somebody on the file side put a directory there in this moment.
        return rename(dir, &transit, file).step("move a directory back");
    }
    scope.step("directory: moved aside");
    let made = make_directory(scope, dir, file, true);
    scope.step("directory: made");
    // Inside, or back where it was.
    settle_locked(scope, dir, file)?;
    made?;
    scope.persist(dir, None)
}

/// The directory of transit names too long to lie beside their file.
fn make_transit_directory(dir: BorrowedFd<'_>, transit: &[u8]) -> Result<()> {
    let Split { parent, .. } = split(transit);
    if parent.is_empty() {
        return Ok(());
    }
    let around = sys::stat(dir).step("stat the directory")?;
    match sys::make_dir_at(dir, parent, directory_mode(&around)) {
        // Where the directory around it went, the rename that comes next finds nothing either.
        Err(e) if !is(&e, Errno::EXIST) && !is_absent(&e) => Err(Error::io("make the transit directory", e)),
        _ => Ok(()),
    }
}

/// Puts back what a crash left under the transit name of `path`, if anything; `dir` is its parent.
pub(crate) fn settle(scope: &Scope<'_>, dir: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    let file = split(path).file;
    if !exists(dir, &name::transit_of(file))? {
        return Ok(false);
    }
    let _moving = scope.moving()?;
    settle_locked(scope, dir, file)
}

/// As `settle`, by one who may hold the movers' lock already.
pub(crate) fn settle_held(scope: &Scope<'_>, dir: BorrowedFd<'_>, path: &[u8], held: bool) -> Result<bool> {
    if held { settle_locked(scope, dir, split(path).file) } else { settle(scope, dir, path) }
}

/// As `settle`, under the movers' lock. True if something was put back or dropped.
fn settle_locked(scope: &Scope<'_>, dir: BorrowedFd<'_>, file: &[u8]) -> Result<bool> {
    let transit = name::transit_of(file);
    for _ in 0..TRIES {
        if !exists(dir, &transit)? {
            return Ok(false);
        }
        let within = join(file, name::SELF);
        let mut to = file;
        let linked = match sys::stat_at(dir, file, false) {
            Ok(stat) if stat.kind == Kind::Directory => {
                to = &within;
                link_or_move(dir, &transit, to)
            }
            // A file there is newer than what was moved aside.
            Ok(stat) if stat.kind == Kind::File => Ok(()),
            // Anything else hides it, and must not cost it.
            Ok(_) => return Ok(false),
            Err(e) if is_absent(&e) => link_or_move(dir, &transit, file),
            Err(e) => Err(e),
        };
        match linked {
            Ok(()) => {}
            // A newer version came; if it came as a file in the directory's stead, look again.
            Err(e) if is(&e, Errno::EXIST) => {
                if !placed(dir, file)? {
                    continue;
                }
            }
            Err(e) if is_absent(&e) => continue,
            Err(e) => return Err(Error::io("put a file back", e)),
        }
        scope.step("settle: linked");
        // Two directories reach the disk in any order: the new name first, or a power cut may leave neither.
        if split(to).parent != split(&transit).parent {
            match inner(dir, to) {
                Ok((around, _)) => scope.persist(around.as_fd(), None)?,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(Error::io("put a file back", e)),
            }
        }
        unlink(dir, &transit)?;
        persist_moved(scope, dir, file)?;
        let Split { parent, .. } = split(&transit);
        if !parent.is_empty() {
            // Fails while other names are in transit, which is as it should be.
            let _ = sys::remove_dir_at(dir, parent);
        }
        return Ok(true);
    }
    Err(Error::Contended { what: "putting a file back" })
}

/// Makes durable that the transit name of `file` is gone, or is there: a power cut must not bring it back once
/// the object was deleted.
pub(crate) fn persist_moved(scope: &Scope<'_>, dir: BorrowedFd<'_>, file: &[u8]) -> Result<()> {
    if !scope.namespace().options.durable {
        return Ok(());
    }
    match inner(dir, &name::transit_of(file)) {
        Ok((around, _)) => scope.persist(around.as_fd(), None),
        // Nothing is in transit there; that the directory of long names went is what counts.
        Err(e) if is_absent(&e) => scope.persist(dir, None),
        Err(e) => Err(Error::io("open the transit directory", e)),
    }
}

/// What link(2) fails with where rename(2) may not.
pub(crate) const LINK_REFUSED: [Errno; 5] =
    [Errno::PERM, Errno::OPNOTSUPP, Errno::MLINK, Errno::NOSPC, Errno::DQUOT];

/// Links `from` to `to`, or moves it where links are refused (no hard links here, another user's file, or no
/// room for one more name); never replaces what is at `to`.
fn link_or_move(dir: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> io::Result<()> {
    let (from_dir, from) = inner(dir, from)?;
    let (to_dir, to) = inner(dir, to)?;
    match sys::link_at(from_dir.as_fd(), from, to_dir.as_fd(), to) {
        Err(e) if LINK_REFUSED.iter().any(|errno| is(&e, *errno)) => {
            sys::rename_exclusive_at(from_dir.as_fd(), from, to_dir.as_fd(), to)
        }
        other => other,
    }
}

/// The directory in which the last component of `path` lies, opened without following a link that was planted there.
fn inner<'p>(dir: BorrowedFd<'_>, path: &'p [u8]) -> io::Result<(OwnedFd, &'p [u8])> {
    let Split { parent, file } = split(path);
    Ok((sys::open_beneath(dir, path_or_dot(parent), DIRECTORY, Symlinks::Never)?, file))
}

fn rename(dir: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> io::Result<()> {
    let (from_dir, from) = inner(dir, from)?;
    let (to_dir, to) = inner(dir, to)?;
    sys::rename_at(from_dir.as_fd(), from, to_dir.as_fd(), to)
}

fn is_file(dir: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    match inner(dir, path).and_then(|(dir, file)| sys::stat_at(dir.as_fd(), file, false)) {
        Ok(stat) => Ok(stat.kind == Kind::File),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(Error::io("stat", e)),
    }
}

fn exists(dir: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    match inner(dir, path).and_then(|(dir, file)| sys::stat_at(dir.as_fd(), file, false)) {
        Ok(_) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(Error::io("stat", e)),
    }
}

/// Whether the object `file` of `dir` lies at one of its two lasting places.
fn placed(dir: BorrowedFd<'_>, file: &[u8]) -> Result<bool> {
    match sys::stat_at(dir, file, false) {
        Ok(stat) if stat.kind != Kind::Directory => Ok(true),
        Ok(_) => exists(dir, &join(file, name::SELF)),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(Error::io("stat", e)),
    }
}

fn unlink(dir: BorrowedFd<'_>, file: &[u8]) -> Result<bool> {
    match inner(dir, file).and_then(|(dir, file)| sys::unlink_at(dir.as_fd(), file)) {
        Ok(()) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(Error::io("unlink", e)),
    }
}

/// After something went from the directory at `path`: removes it if it is empty and ours, and so on upwards;
/// if only the object of its own name is left in it, that becomes a plain file again.
///
/// Where the identity may not do that, or there is no room to, all stays as it is, which harms nobody.
pub(crate) fn prune(scope: &Scope<'_>, path: &[u8]) -> Result<()> {
    let mut path = path;
    while !path.is_empty() {
        match prune_one(scope, path) {
            Ok(true) => path = split(path).parent,
            Ok(false) | Err(Error::Forbidden { .. } | Error::NoSpace { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// As `prune`, this directory alone; true if it is gone.
fn prune_one(scope: &Scope<'_>, path: &[u8]) -> Result<bool> {
    let Some(dir) = open(scope.base(), path, DIRECTORY)? else { return Ok(true) };
    if !is_ours(scope, dir.as_fd())? {
        return Ok(false);
    }
    let Split { parent, file } = split(path);
    let Some(around) = open(scope.base(), path_or_dot(parent), DIRECTORY)? else { return Ok(true) };
    let holding = holding(dir.as_fd())?;
    scope.step("prune: looked");
    match holding {
        Holding::Nothing => {}
        Holding::OnlySelf => return directory_to_file(scope, around.as_fd(), path).map(|()| false),
        Holding::Others => return Ok(false),
    }
    if !remove_ours(scope, around.as_fd(), file)? {
        return Ok(false);
    }
    scope.persist(around.as_fd(), None)?;
    Ok(true)
}

/// Whether we made the directory, and it is no object.
fn is_ours(scope: &Scope<'_>, dir: BorrowedFd<'_>) -> Result<bool> {
    match scope.read_directory(dir)? {
        Attribute::Ours(metadata) => Ok(metadata.made && !metadata.marker),
        _ => Ok(false),
    }
}

/// Removes the empty directory `file` of `around` if it is ours and no object; false if it stays, true if it
/// is gone.
fn remove_ours(scope: &Scope<'_>, around: BorrowedFd<'_>, file: &[u8]) -> Result<bool> {
    // Who makes it an object holds this too. What has the name now may be another than the caller looked at.
    let _unmoved = scope.unmoved()?;
    let Some(dir) = open(around, file, DIRECTORY)? else { return Ok(true) };
    if !is_ours(scope, dir.as_fd())? {
        return Ok(false);
    }
    let side = scope.spill_name(dir.as_fd());
    match sys::remove_dir_at(around, file) {
        Err(e) if is(&e, Errno::NOTEMPTY) || is(&e, Errno::EXIST) => return Ok(false),
        Err(e) if !is_absent(&e) => return Err(Error::io("remove a directory", e)),
        _ => {}
    }
    if let Some(side) = side {
        scope.forget_side(&side);
    }
    Ok(true)
}

enum Holding {
    Nothing,
    OnlySelf,
    Others,
}

fn holding(dir: BorrowedFd<'_>) -> Result<Holding> {
    let mut holding = Holding::Nothing;
    sys::read_dir(dir, &mut |file, _, _| {
        if file == name::SELF {
            holding = Holding::OnlySelf;
            std::ops::ControlFlow::Continue(())
        } else {
            holding = Holding::Others;
            std::ops::ControlFlow::Break(())
        }
    })
    .step("read a directory")?;
    Ok(holding)
}

/// Turns the directory at `path`, which holds only its own object, into that file; `dir` is its parent.
fn directory_to_file(scope: &Scope<'_>, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    let _moving = scope.moving()?;
    let file = split(path).file;
    let within = join(file, name::SELF);
    let transit = name::transit_of(file);
    settle_locked(scope, dir, file)?;
    // Since the caller looked the directory may have become the object, which its content then is no longer.
    match open(dir, file, DIRECTORY)? {
        Some(inside) if is_ours(scope, inside.as_fd())? => {}
        _ => return Ok(()),
    }
    make_transit_directory(dir, &transit)?;
    match rename(dir, &within, &transit) {
        Ok(()) => {}
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(Error::io("move a file aside", e)),
    }
    scope.step("file: moved aside");
    // Fails if a child came meanwhile; settling then puts the content back inside.
    let _ = sys::remove_dir_at(dir, file);
    scope.step("file: directory removed");
    settle_locked(scope, dir, file)?;
    scope.persist(dir, None)
}
