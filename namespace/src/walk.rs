//! Every entry beneath a container, in no particular order.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lustre::sys::{self, Kind};

use crate::error::{Error, Result, Step, is_absent};
use crate::name::{self, Context, Entry, Own, Unnameable};
use crate::object::open_existing;
use crate::{Scope, place};

/// What lies in a directory.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A file or link that may be an object, or `.lb~self` (then `file` is that, and the name its directory's).
    Object(&'a str),
    /// A directory; its own name, were it an object.
    Directory(&'a str),
    /// An unfinished upload.
    Temporary,
    /// The content of this file name, on its way to or from its directory.
    Transit(&'a [u8]),
    /// The directory of such content whose name is long; what is in it comes after it.
    TransitDirectory,
    /// No object: a device, FIFO or socket, or a name that does not decode.
    Unserved(&'static str),
}

/// Where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) file: &'a [u8],
    /// Path beneath the container.
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
}

struct Directory {
    path: Vec<u8>,
    // What names below begin with, and the directory's own name if it were an object.
    prefix: String,
    own: Option<String>,
    context: Context,
}

/// Calls `visit` for every entry beneath the container. Directories come before what is in them.
pub(crate) fn walk(
    scope: &Scope<'_>,
    visit: &mut dyn FnMut(Spot<'_>, Item<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let root = Directory { path: Vec::new(), prefix: String::new(), own: None, context: Context::OBJECT };
    let mut stack = vec![root];
    while let Some(directory) = stack.pop() {
        let Some(dir) = open_existing(scope, &directory.path)? else { continue };
        let mut entries = Vec::new();
        sys::read_dir(dir.as_fd(), &mut |file, kind, _| {
            entries.push((file.to_vec(), kind));
            ControlFlow::Continue(())
        })
        .step("read a directory")?;
        for (file, kind) in entries {
            let Some(kind) = kind_of(dir.as_fd(), &file, kind)? else { continue };
            let path = place::join(&directory.path, &file);
            let spot = Spot { dir: dir.as_fd(), file: &file, path: &path, kind };
            if visit_entry(&directory, spot, &mut stack, visit)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The kind of an entry, asked for where the directory does not tell; `None` if it went.
pub(crate) fn kind_of(dir: BorrowedFd<'_>, file: &[u8], kind: Option<Kind>) -> Result<Option<Kind>> {
    if kind.is_some() {
        return Ok(kind);
    }
    match sys::stat_at(dir, file, false) {
        Ok(stat) => Ok(Some(stat.kind)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("stat", e)),
    }
}

fn visit_entry(
    directory: &Directory,
    spot: Spot<'_>,
    stack: &mut Vec<Directory>,
    visit: &mut dyn FnMut(Spot<'_>, Item<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let is_dir = spot.kind == Kind::Directory;
    match name::entry(spot.file, is_dir, &directory.context) {
        Entry::Own(Own::SelfFile) => match &directory.own {
            Some(own) => visit(spot, Item::Object(own)),
            None => visit(spot, Item::Unserved(Unnameable::Own.label())),
        },
        Entry::Own(Own::Temporary) => visit(spot, Item::Temporary),
        Entry::Own(Own::Transit(file)) => visit(spot, Item::Transit(file)),
        Entry::Own(Own::TransitDirectory) => {
            let below = Directory {
                path: spot.path.to_vec(),
                prefix: directory.prefix.clone(),
                own: None,
                context: directory.context.clone(),
            };
            stack.push(below);
            visit(spot, Item::TransitDirectory)
        }
        Entry::Own(Own::Service) => visit(spot, Item::Unserved(Unnameable::Own.label())),
        Entry::Unnameable(reason) => visit(spot, Item::Unserved(reason.label())),
        Entry::Part { text, ends, below } => {
            let full = [directory.prefix.as_str(), &text].concat();
            let prefix = if ends && is_dir { [full.as_str(), "/"].concat() } else { full.clone() };
            if prefix.len() > name::MAX_OBJECT {
                return visit(spot, Item::Unserved(Unnameable::TooLong.label()));
            }
            let flow = match spot.kind {
                Kind::File | Kind::Symlink => visit(spot, Item::Object(&full))?,
                Kind::Other => visit(spot, Item::Unserved("special_file"))?,
                Kind::Directory => visit(spot, Item::Directory(&full))?,
            };
            if is_dir {
                let own = ends.then_some(full);
                stack.push(Directory { path: spot.path.to_vec(), prefix, own, context: below });
            }
            Ok(flow)
        }
    }
}

/// Removes an open directory's empty descendants and then itself: by rmdir only, so nothing that holds something can go.
///
/// `parent` and `file` name the directory. `Err(NotEmpty)` names the first thing that is no empty directory.
pub(crate) fn remove_empty(scope: &Scope<'_>, parent: BorrowedFd<'_>, file: &[u8]) -> Result<()> {
    let mut directories: Vec<Vec<u8>> = Vec::new();
    let mut first = None;
    walk(scope, &mut |spot, item| {
        let directory = matches!(item, Item::Directory(_) | Item::TransitDirectory);
        if directory && !is_marked(scope, spot.dir, spot.file)? {
            directories.push(spot.path.to_vec());
            return Ok(ControlFlow::Continue(()));
        }
        first = Some(place::shown(spot.path));
        Ok(ControlFlow::Break(()))
    })?;
    if let Some(first) = first {
        return Err(Error::NotEmpty { first });
    }
    // Who makes a directory an object holds this too.
    let _unmoved = if directories.is_empty() { None } else { Some(scope.unmoved()?) };
    for path in directories.iter().rev() {
        let place::Split { parent, file } = place::split(path);
        let Some(dir): Option<OwnedFd> = open_existing(scope, parent)? else { continue };
        if is_marked(scope, dir.as_fd(), file)? {
            return Err(Error::NotEmpty { first: place::shown(path) });
        }
        remove_directory(dir.as_fd(), file, path)?;
    }
    remove_directory(parent, file, file)
}

/// Whether a directory is an object.
fn is_marked(scope: &Scope<'_>, dir: BorrowedFd<'_>, file: &[u8]) -> Result<bool> {
    match scope.open_directory(dir, file)? {
        Some(dir) => Ok(scope.read_directory(dir.as_fd())?.metadata().marker),
        None => Ok(false),
    }
}

fn remove_directory(dir: BorrowedFd<'_>, file: &[u8], path: &[u8]) -> Result<()> {
    use rustix::io::Errno;
    match sys::remove_dir_at(dir, file) {
        Ok(()) => Ok(()),
        Err(e) if is_absent(&e) => Ok(()),
        Err(e) if crate::error::is(&e, Errno::NOTEMPTY) || crate::error::is(&e, Errno::EXIST) => {
            Err(Error::NotEmpty { first: place::shown(path) })
        }
        Err(e) => Err(Error::io("remove a directory", e)),
    }
}
