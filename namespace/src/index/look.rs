//! Looks: what is there now under a name of a directory.

use std::ops::{Bound, ControlFlow};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lustre::sys::{self, Kind as FileKind, OFlags, Stat, Symlinks};

use super::change::{Seen, SeenDirectory};
use super::engine::Read;
use super::row::{self, DIRECTORIES, Directory, Id, Kind, LIMBO, Level, Object, TOP, directory_key, row_key};
use crate::error::{Error, Result, Step, is_absent};
use crate::metadata::Metadata;
use crate::name::{self, Context, Entry, Own, Unnameable};
use crate::object::{ObjectInfo, open_existing};
use crate::place::{self, At};
use crate::{MetadataMode, Namespace, Scope, Timestamp};

/// A change within this time of another may leave the ctime as it was: a kernel's clock ticks.
const TICK_NS: i64 = 20_000_000;

/// A directory of the index with its place in the tree, as of one state of the index.
#[derive(Debug)]
pub(super) struct Where {
    pub(super) id: Id,
    pub(super) directory: Directory,
    pub(super) account: String,
    /// The container that it lies in, or is.
    pub(super) container: Option<String>,
    /// Its path beneath the container, or beneath the account.
    pub(super) path: Vec<u8>,
    /// What names in it begin with.
    pub(super) prefix: String,
}

/// A directory, open.
pub(super) struct Reached<'w> {
    pub(super) scope: Scope<'w>,
    pub(super) dir: OwnedFd,
}

pub(super) fn directory(read: &dyn Read, id: Id) -> Result<Option<Directory>> {
    read.get(&directory_key(id))?.map(|bytes| Directory::decode(&bytes)).transpose()
}

/// The directories in a directory.
pub(super) fn child_ids(read: &dyn Read, id: Id) -> Result<Vec<Id>> {
    let mut children = Vec::new();
    let (from, to) = (row_key(id, DIRECTORIES[0], ""), row::after(&row_key(id, DIRECTORIES[2], "")));
    let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    read.scan((Bound::Included(&from), to), false, &mut |_, value| {
        children.push(row::Entry::decode(value)?.id);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(children)
}

/// Where a directory is; `None` if it is not in the tree.
pub(super) fn place_of(read: &dyn Read, id: Id) -> Result<Option<Where>> {
    let mut chain: Vec<Directory> = Vec::new();
    let mut at = id;
    while at != TOP {
        if at == LIMBO {
            return Ok(None);
        }
        let Some(directory) = directory(read, at)? else { return Ok(None) };
        at = directory.parent;
        chain.push(directory);
    }
    let Some(account) = chain.pop() else { return Ok(None) };
    let (mut path, mut prefix, mut container) = (Vec::new(), String::new(), None);
    for directory in chain.iter().rev() {
        path = place::join(&path, &directory.file);
        prefix.push_str(&directory.text);
        if directory.level == Level::Container {
            container = Some(std::mem::take(&mut prefix));
            path.clear();
        }
    }
    let name = account.text.clone();
    let directory = chain.into_iter().next().unwrap_or(account);
    Ok(Some(Where { id, directory, account: name, container, path, prefix }))
}

impl Namespace {
    /// Opens a directory where the index has it; `None` if it is not there now.
    pub(super) fn reach<'w>(&'w self, at: &'w Where) -> Result<Option<Reached<'w>>> {
        let scope = match &at.container {
            Some(container) => Scope::of_container(self, &at.account, container),
            None => Scope::of_account(self, &at.account),
        };
        let scope = match scope {
            Ok(scope) => scope,
            Err(Error::NoAccount | Error::NoContainer) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(dir) = open_existing(&scope, &at.path)? else { return Ok(None) };
        let fid = self.fs.fid(dir.as_fd()).step("read the directory's identity")?;
        Ok((fid == at.directory.fid).then_some(Reached { scope, dir }))
    }

    /// Looks at a file name of a directory. `read`: the state of the index in which the row may say that nothing changed.
    pub(super) fn look_at(
        &self,
        at: &Where,
        reached: &Reached<'_>,
        file: &[u8],
        read: &dyn Read,
    ) -> Result<Seen> {
        if at.container.is_none() {
            return self.look_for_container(at, reached, file);
        }
        let mut seen = Seen::nothing(at.id, file);
        match name::entry(file, true, &at.directory.context) {
            Entry::Own(own) => {
                let label = match own {
                    Own::Temporary => Unnameable::Temporary.label(),
                    _ => Unnameable::Own.label(),
                };
                seen.unserved = stat(reached.dir.as_fd(), file)?.map(|_| label);
            }
            Entry::Unnameable(reason) => {
                seen.unserved = stat(reached.dir.as_fd(), file)?.map(|_| reason.label());
            }
            Entry::Part { text, ends, below } => {
                self.look_at_part(at, reached, &mut seen, (&text, ends, below), read)?;
            }
        }
        Ok(seen)
    }

    fn look_for_container(&self, at: &Where, reached: &Reached<'_>, file: &[u8]) -> Result<Seen> {
        let mut seen = Seen::nothing(at.id, file);
        let Entry::Part { text, ends, below } = name::entry(file, true, &at.directory.context) else {
            return Ok(seen);
        };
        let full = at.prefix.len() + text.len();
        if full == 0 || full > name::MAX_CONTAINER {
            return Ok(seen);
        }
        let (kind, level, context) = if ends {
            (Kind::Directory, Level::Container, Context::OBJECT)
        } else {
            (Kind::Part, Level::Between, below)
        };
        let mut found =
            SeenDirectory { kind, text: text.into_owned(), level, context, fid: None, changed: 0 };
        if let Some(dir) = open_path(reached.dir.as_fd(), file)?
            && sys::stat(dir.as_fd()).step("stat")?.kind == FileKind::Directory
        {
            found.fid = Some(self.fs.fid(dir.as_fd()).step("read the directory's identity")?);
            if ends {
                found.changed = self.container_changed(reached, dir.as_fd())?.units();
            }
        }
        seen.directory = Some(found);
        Ok(seen)
    }

    /// As in the information about a container.
    fn container_changed(&self, reached: &Reached<'_>, dir: BorrowedFd<'_>) -> Result<Timestamp> {
        let Metadata { timestamp, meta_timestamp, .. } = reached.scope.read_directory(dir)?.metadata();
        match meta_timestamp.or(timestamp) {
            Some(changed) => Ok(changed),
            None => Ok(Timestamp::from_nanos(sys::stat(dir).step("stat the container")?.mtime_ns)),
        }
    }

    fn look_at_part(
        &self,
        at: &Where,
        reached: &Reached<'_>,
        seen: &mut Seen,
        (text, ends, below): (&str, bool, Context),
        read: &dyn Read,
    ) -> Result<()> {
        let dir = reached.dir.as_fd();
        let full = at.prefix.len() + text.len();
        seen.len = text.len() as u64 + 1;
        if full > name::MAX_OBJECT {
            seen.unserved = stat(dir, &seen.file)?.map(|_| Unnameable::TooLong.label());
            return Ok(());
        }
        let nameable = ends && full > 0;
        let path = place::join(&at.path, &seen.file);
        let began = sys::now_ns();
        let now = stat(dir, &seen.file)?;
        let mut object = None;
        let mut fid = None;
        match now.map(|stat| (stat.kind, stat)) {
            None => {
                if nameable && in_transit(reached, &seen.file)? {
                    seen.by_path = true;
                    object = self.row_located(&reached.scope, &path)?;
                }
            }
            Some((FileKind::File, stat)) if nameable => {
                object = self.row_of_file(at, reached, seen, text, (&stat, began), read)?;
            }
            Some((FileKind::Symlink, _)) if nameable => {
                (seen.link, seen.by_path) = (true, true);
                object = self.row_located(&reached.scope, &path)?;
            }
            Some((FileKind::Directory, _)) => {
                if let Some(inner) = open_path(dir, &seen.file)? {
                    fid = Some(self.fs.fid(inner.as_fd()).step("read the directory's identity")?);
                    let within = nameable && self.may_be_object(&reached.scope, inner.as_fd())?;
                    if within || nameable && in_transit(reached, &seen.file)? {
                        seen.by_path = true;
                        object = self.row_located(&reached.scope, &path)?;
                    }
                }
            }
            Some((FileKind::Other, _)) => seen.unserved = Some("special_file"),
            Some(_) if !ends => seen.unserved = Some(Unnameable::Unfinished.label()),
            Some(_) => seen.unserved = Some(Unnameable::Empty.label()),
        }
        if nameable {
            seen.object = Some((text.to_owned(), object));
        }
        let kind = match (ends, below.after_run()) {
            (false, _) => Kind::Part,
            (true, true) => Kind::Run,
            (true, false) => Kind::Directory,
        };
        let text = if ends { [text, "/"].concat() } else { text.to_owned() };
        if at.prefix.len() + text.len() > name::MAX_OBJECT {
            seen.unserved = fid.map(|_| Unnameable::TooLong.label());
            return Ok(());
        }
        seen.directory =
            Some(SeenDirectory { kind, text, level: Level::Object, context: below, fid, changed: 0 });
        Ok(())
    }

    fn row_of_file(
        &self,
        at: &Where,
        reached: &Reached<'_>,
        seen: &mut Seen,
        text: &str,
        (stat, began): (&Stat, i64),
        read: &dyn Read,
    ) -> Result<Option<Object>> {
        if self.metadata_mode() != MetadataMode::Sidecar
            && let Some(bytes) = read.get(&row_key(at.id, Kind::Object, text))?
        {
            let row = Object::decode(&bytes)?;
            if !row.racy
                && row.links.is_none_or(|links| links > 0)
                && row.ino == stat.ino
                && row.ctime_ns == stat.ctime_ns
                && row.size == stat.size
            {
                return Ok(Some(row));
            }
        }
        if self.metadata_mode() != MetadataMode::Sidecar && !has_attributes(reached.dir.as_fd(), &seen.file) {
            return Ok(Some(self.plain_row(stat, began)));
        }
        let Some(fd) = open_path(reached.dir.as_fd(), &seen.file)? else { return Ok(None) };
        let began = sys::now_ns();
        let stat = sys::stat(fd.as_fd()).step("stat")?;
        if stat.kind != FileKind::File {
            seen.by_path = true;
            return self.row_located(&reached.scope, &place::join(&at.path, &seen.file));
        }
        let row = self
            .described(&reached.scope, fd, stat, At::File)?
            .map(|info| self.row(info, &stat, began, false));
        if row.is_none() {
            seen.unserved = Some(Unnameable::Temporary.label());
        }
        Ok(row)
    }

    /// The row of a file that says nothing of itself.
    fn plain_row(&self, stat: &Stat, began: i64) -> Object {
        Object {
            size: stat.size,
            etag: None,
            content_type: None,
            modified: Timestamp::from_nanos(stat.mtime_ns),
            delete_at: None,
            slo: None,
            ino: stat.ino,
            ctime_ns: stat.ctime_ns,
            racy: self.is_racy(stat, began),
            links: (stat.nlink > 1).then_some(stat.nlink),
        }
    }

    /// Whether a file may change without another ctime; `began`: a time before it was looked at.
    fn is_racy(&self, stat: &Stat, began: i64) -> bool {
        let window = TICK_NS.max(self.fs.racy_window_ns() as i64);
        began.saturating_sub(stat.ctime_ns) < window
    }

    /// Whether a directory may be an object, or hold the one of its name.
    fn may_be_object(&self, scope: &Scope<'_>, dir: BorrowedFd<'_>) -> Result<bool> {
        Ok(stat(dir, name::SELF)?.is_some() || scope.read_directory(dir)?.metadata().marker)
    }

    fn row_located(&self, scope: &Scope<'_>, path: &[u8]) -> Result<Option<Object>> {
        let began = sys::now_ns();
        let Some(found) = place::locate(scope, path)? else { return Ok(None) };
        let (stat, link) = (found.stat, found.at == At::Link);
        Ok(self.described(scope, found.fd, stat, found.at)?.map(|info| self.row(info, &stat, began, link)))
    }

    /// `began`: a time before the file was looked at.
    fn row(&self, info: ObjectInfo, stat: &Stat, began: i64, link: bool) -> Object {
        let ObjectInfo { size, etag, timestamp, content_type, delete_at, slo, directory, .. } = info;
        Object {
            size,
            etag,
            content_type,
            modified: timestamp,
            delete_at,
            slo,
            ino: stat.ino,
            ctime_ns: stat.ctime_ns,
            racy: self.is_racy(stat, began),
            links: if link { Some(0) } else { (!directory && stat.nlink > 1).then_some(stat.nlink) },
        }
    }
}

impl Seen {
    fn nothing(dir: Id, file: &[u8]) -> Self {
        Self {
            dir,
            file: file.to_vec(),
            object: None,
            directory: None,
            unserved: None,
            len: file.len() as u64,
            link: false,
            by_path: false,
        }
    }
}

/// Whether the object of a file name may be on its way between its places, or was left there by a crash.
fn in_transit(reached: &Reached<'_>, file: &[u8]) -> Result<bool> {
    Ok(stat(reached.dir.as_fd(), &name::transit_of(file))?.is_some() || reached.scope.moved_lately()?)
}

fn stat(dir: BorrowedFd<'_>, file: &[u8]) -> Result<Option<Stat>> {
    match sys::stat_at(dir, file, false) {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("stat", e)),
    }
}

/// Whether a file may say something of itself.
fn has_attributes(dir: BorrowedFd<'_>, file: &[u8]) -> bool {
    // Without /proc, or gone: who opens it sees.
    sys::has_xattr_at(dir, file).unwrap_or(true)
}

fn open_path(dir: BorrowedFd<'_>, file: &[u8]) -> Result<Option<OwnedFd>> {
    match sys::open_beneath(dir, file, OFlags::PATH | OFlags::NOFOLLOW, Symlinks::Never) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::io("open", e)),
    }
}

/// The file name of an object's row: what encodes its name's last component.
pub(super) fn file_of(prefix: &str, text: &str) -> Result<Vec<u8>> {
    let path = name::path_of(&[prefix, text].concat()).map_err(|_| row::damaged())?;
    Ok(path.file_name().to_vec())
}
