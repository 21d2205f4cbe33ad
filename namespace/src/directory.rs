//! Accounts and containers: directories with metadata.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use lustre::sys::{self, Kind, Stat, Symlinks};
use rustix::io::Errno;

use crate::counters::Count;
use crate::error::{Error, Result, Step, is, is_absent};
use crate::metadata::Metadata;
use crate::name::{self, Context, Entry};
use crate::timestamp::Timestamp;
use crate::walk::{self, Item, walk};
use crate::{ListQuery, Namespace, Scope, container_path, place};

/// Changes of stored headers, names in lower case: an absent or empty value removes.
pub type HeaderUpdate = Vec<(String, Option<Vec<u8>>)>;

/// What is known of a container.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    /// Stored headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was made, as far as is known.
    pub created: Timestamp,
    /// When its metadata last changed.
    pub changed: Timestamp,
    /// What it holds.
    pub count: Count,
}

/// What is known of an account.
#[derive(Debug, Clone)]
pub struct AccountInfo {
    /// Stored headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was made, as far as is known.
    pub created: Timestamp,
    /// Containers in it.
    pub containers: u64,
    /// What they hold.
    pub count: Count,
    /// Owner of its directory.
    pub uid: u32,
    /// Group of its directory.
    pub gid: u32,
}

/// A line of an account's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerRow {
    /// Names rolled up.
    Subdir(String),
    /// A container.
    Container {
        /// Its name.
        name: String,
        /// What it holds.
        count: Count,
        /// When it was made or last changed.
        last_modified: Timestamp,
    },
}

impl Scope<'_> {
    /// Opens a directory by its name in another, never through a link.
    pub(crate) fn open_directory(
        &self,
        dir: std::os::fd::BorrowedFd<'_>,
        file: &[u8],
    ) -> Result<Option<OwnedFd>> {
        match sys::open_beneath(dir, file, place::DIRECTORY, Symlinks::Never) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(Error::io("open a directory", e)),
        }
    }

    /// The base's own metadata.
    fn base_metadata(&self) -> Result<Metadata> {
        Ok(self.read_directory(self.base())?.metadata())
    }

    /// Changes the base's own stored headers; `first`: it was only just made.
    fn update_base(&self, update: HeaderUpdate, ts: Timestamp, first: bool) -> Result<()> {
        let dir = self.open_base()?;
        let mut metadata = self.read_directory(dir.as_fd())?.metadata();
        let newest = metadata.meta_timestamp.or(metadata.timestamp);
        if first || metadata.timestamp.is_none() {
            metadata.timestamp = Some(metadata.timestamp.unwrap_or(ts));
            metadata.made = metadata.made || first;
        }
        metadata.meta_timestamp = Some(newest.map_or(ts, |t| t.max(ts)));
        metadata.fid = Some(self.namespace().fs.fid(dir.as_fd()).step("read the directory's identity")?);
        for (key, value) in update {
            metadata.headers.retain(|(k, _)| *k != key);
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                metadata.headers.push((key, value));
            }
        }
        self.replace_directory(dir.as_fd(), &metadata)
    }
}

impl Namespace {
    /// Makes an account's directory, or updates the one there. True if it was made.
    pub fn create_account(&self, account: &str, update: HeaderUpdate, ts: Timestamp) -> Result<bool> {
        name::validate_account(account).map_err(|e| Error::Name(e.to_string()))?;
        let path = self.account_path(account);
        let made = self.make_path(&path)?;
        let scope = Scope::of_account(self, account)?;
        let _held = self.locks.lock(account);
        if made || !update.is_empty() {
            scope.update_base(update, ts, made).inspect_err(|_| self.unmake(&scope, &path, made))?;
        }
        if made {
            self.note_accounts();
        }
        Ok(made)
    }

    /// Removes a directory that was made for an account or container that then could not be described.
    fn unmake(&self, scope: &Scope<'_>, path: &[u8], made: bool) {
        // Others may have found it and described it.
        if !made || !scope.base_metadata().is_ok_and(|metadata| metadata == Metadata::default()) {
            return;
        }
        let place::Split { parent, file } = place::split(path);
        let parent = if parent.is_empty() { b".".as_slice() } else { parent };
        if let Ok(dir) = sys::open_beneath(self.root.as_fd(), parent, place::DIRECTORY, Symlinks::Never) {
            let _ = sys::remove_dir_at(dir.as_fd(), file);
        }
    }

    /// Changes an account's stored headers.
    pub fn update_account(&self, account: &str, update: HeaderUpdate, ts: Timestamp) -> Result<()> {
        let scope = Scope::of_account(self, account)?;
        let _held = self.locks.lock(account);
        scope.update_base(update, ts, false)
    }

    /// Owner and group of an account's directory.
    pub fn account_owner(&self, account: &str) -> Result<(u32, u32)> {
        let scope = Scope::of_account(self, account)?;
        let stat = sys::stat(scope.base()).step("stat the account")?;
        Ok((stat.uid, stat.gid))
    }

    /// What an account holds.
    pub fn account_info(&self, account: &str) -> Result<AccountInfo> {
        let scope = Scope::of_account(self, account)?;
        let metadata = scope.base_metadata()?;
        let stat = sys::stat(scope.base()).step("stat the account")?;
        let (mut containers, mut count) = (0, Count::default());
        for container in self.directories(&scope)? {
            containers += 1;
            let Ok(held) = self.count(account, &container) else { continue };
            count.objects += held.objects;
            count.bytes += held.bytes;
        }
        let Metadata { headers, timestamp, .. } = metadata;
        let created = timestamp.unwrap_or_else(|| Timestamp::from_nanos(stat.mtime_ns));
        Ok(AccountInfo { headers, created, containers, count, uid: stat.uid, gid: stat.gid })
    }

    /// Removes an account that holds nothing.
    pub fn delete_account(&self, account: &str) -> Result<()> {
        let scope = Scope::of_account(self, account)?;
        if let Some(first) = self.directories(&scope)?.into_iter().next() {
            return Err(Error::NotEmpty { first });
        }
        let path = self.account_path(account);
        let place::Split { parent, file } = place::split(&path);
        let parent = if parent.is_empty() { b".".as_slice() } else { parent };
        let dir = sys::open_beneath(self.root.as_fd(), parent, place::DIRECTORY, Symlinks::Never)
            .step("open the root")?;
        self.remove_service(&scope)?;
        walk::remove_empty(&scope, dir.as_fd(), file)?;
        scope.persist(dir.as_fd(), None)?;
        self.note_accounts();
        Ok(())
    }

    /// Removes our own files from an account that is to go.
    fn remove_service(&self, scope: &Scope<'_>) -> Result<()> {
        let mut files = Vec::new();
        let mut directories = Vec::new();
        let mut stack = vec![Vec::new()];
        while let Some(path) = stack.pop() {
            let Some(dir) = crate::object::open_existing(scope, &path)? else { continue };
            sys::read_dir(dir.as_fd(), &mut |file, kind, _| {
                if path.is_empty() && !file.starts_with(name::SERVICE) {
                    return ControlFlow::Continue(());
                }
                let inner = place::join(&path, file);
                if kind == Some(Kind::Directory) {
                    stack.push(inner.clone());
                    directories.push(inner);
                } else {
                    files.push(inner);
                }
                ControlFlow::Continue(())
            })
            .step("read the account")?;
        }
        for path in files {
            let place::Split { parent, file } = place::split(&path);
            let Some(dir) = crate::object::open_existing(scope, parent)? else { continue };
            sys::unlink_at(dir.as_fd(), file).step("remove a file of the service")?;
        }
        for path in directories.iter().rev() {
            let place::Split { parent, file } = place::split(path);
            let Some(dir) = crate::object::open_existing(scope, parent)? else { continue };
            sys::remove_dir_at(dir.as_fd(), file).step("remove a directory of the service")?;
        }
        Ok(())
    }

    /// Makes a container's directory, or updates the one there. True if it was made.
    pub fn create_container(
        &self,
        account: &str,
        container: &str,
        update: HeaderUpdate,
        ts: Timestamp,
    ) -> Result<bool> {
        name::validate_container(container).map_err(|e| Error::Name(e.to_string()))?;
        Scope::of_account(self, account)?;
        let path = place::join(&self.account_path(account), &container_path(container)?);
        let made = self.make_path(&path).inspect_err(|_| self.unmake_first_part(account, &path))?;
        let scope = Scope::of_container(self, account, container)?;
        let _held = self.locks.lock((account, container));
        scope.update_base(update, ts, made).inspect_err(|_| {
            self.unmake(&scope, &path, made);
            self.unmake_first_part(account, &path);
        })?;
        self.note_container(account, container);
        Ok(made)
    }

    /// Changes a container's stored headers.
    pub fn update_container(
        &self,
        account: &str,
        container: &str,
        update: HeaderUpdate,
        ts: Timestamp,
    ) -> Result<()> {
        let scope = Scope::of_container(self, account, container)?;
        let _held = self.locks.lock((account, container));
        scope.update_base(update, ts, false)?;
        self.note_container(account, container);
        Ok(())
    }

    /// What a container holds and says of itself.
    pub fn container_info(&self, account: &str, container: &str) -> Result<ContainerInfo> {
        let scope = Scope::of_container(self, account, container)?;
        let count = self.count(account, container)?;
        let stat = sys::stat(scope.base()).step("stat the container")?;
        let Metadata { headers, timestamp, meta_timestamp, .. } = scope.base_metadata()?;
        let created = timestamp.unwrap_or_else(|| Timestamp::from_nanos(stat.mtime_ns));
        Ok(ContainerInfo { headers, created, changed: meta_timestamp.unwrap_or(created), count })
    }

    /// Stored headers of a container, without counting what it holds.
    pub fn container_headers(&self, account: &str, container: &str) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(Scope::of_container(self, account, container)?.base_metadata()?.headers)
    }

    /// Removes a container that holds nothing at all.
    pub fn delete_container(&self, account: &str, container: &str) -> Result<()> {
        let scope = Scope::of_container(self, account, container)?;
        let _held = self.locks.lock((account, container));
        let path = place::join(&self.account_path(account), &container_path(container)?);
        let place::Split { parent, file } = place::split(&path);
        let parent_path = if parent.is_empty() { b".".as_slice() } else { parent };
        let dir = sys::open_beneath(self.root.as_fd(), parent_path, place::DIRECTORY, Symlinks::Never)
            .step("open the account")?;
        let spill = scope.spill_name(scope.base());
        walk::remove_empty(&scope, dir.as_fd(), file)?;
        if let Some(spill) = spill {
            scope.forget_side(&spill);
        }
        self.counters.forget(account, container);
        self.unmake_first_part(account, &path);
        scope.persist(dir.as_fd(), None)?;
        self.note_container(account, container);
        Ok(())
    }

    /// A long container name's first part goes with its last.
    fn unmake_first_part(&self, account: &str, path: &[u8]) {
        let first = place::split(path).parent;
        if first.len() > self.account_path(account).len() {
            let place::Split { parent, file } = place::split(first);
            if let Ok(dir) = sys::open_beneath(self.root.as_fd(), parent, place::DIRECTORY, Symlinks::Never) {
                let _ = sys::remove_dir_at(dir.as_fd(), file);
            }
        }
    }

    /// Makes a directory at a path beneath the root. True if it was made.
    fn make_path(&self, path: &[u8]) -> Result<bool> {
        let mut made = false;
        let mut dir = sys::open_beneath(self.root.as_fd(), b".", place::DIRECTORY, Symlinks::Never)
            .step("open the root")?;
        for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            let around = sys::stat(dir.as_fd()).step("stat a directory")?;
            match sys::make_dir_at(dir.as_fd(), part, place::directory_mode(&around)) {
                Ok(()) => {
                    made = true;
                    if self.options.durable {
                        self.fs.persist(dir.as_fd(), None).step("make a name durable")?;
                    }
                }
                Err(e) if is(&e, Errno::EXIST) => made = false,
                Err(e) => return Err(Error::io("make a directory", e)),
            }
            dir = match sys::open_beneath(dir.as_fd(), part, place::DIRECTORY, Symlinks::Never) {
                Ok(fd) => fd,
                Err(e) if is(&e, Errno::NOTDIR) || is(&e, Errno::LOOP) => {
                    return Err(Error::Blocked { path: place::shown(part), reason: "not a directory" });
                }
                Err(e) => return Err(Error::io("open a directory", e)),
            };
        }
        Ok(made)
    }

    /// Objects and bytes of a container, remembered for a while.
    pub(crate) fn count(&self, account: &str, container: &str) -> Result<Count> {
        if let Some(count) = self.count_indexed(account, container)? {
            return Ok(count);
        }
        self.count_tree(account, container)
    }

    /// As `count`, from the tree alone.
    pub(crate) fn count_tree(&self, account: &str, container: &str) -> Result<Count> {
        self.counters.get(account, container, || {
            let scope = Scope::of_container(self, account, container)?;
            let mut count = Count::default();
            walk(&scope, &mut |spot, item| {
                let Some(bytes) = self.counted(&scope, spot, &item)? else {
                    return Ok(ControlFlow::Continue(()));
                };
                count.objects += 1;
                count.bytes += bytes;
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(count)
        })
    }

    /// The size of an entry, if it is an object.
    fn counted(&self, scope: &Scope<'_>, spot: walk::Spot<'_>, item: &Item<'_>) -> Result<Option<u64>> {
        let stat = |follow| -> Result<Option<Stat>> {
            match sys::stat_at(spot.dir, spot.file, follow) {
                Ok(stat) => Ok(Some(stat)),
                Err(e) if is_absent(&e) => Ok(None),
                Err(e) => Err(Error::io("stat", e)),
            }
        };
        match (item, spot.kind) {
            (Item::Object(_), Kind::Symlink) => {
                Ok(place::locate(scope, spot.path)?.filter(|f| f.at == place::At::Link).map(|f| f.stat.size))
            }
            (Item::Object(_), _) => Ok(stat(false)?.filter(|s| s.kind == Kind::File).map(|s| s.size)),
            (Item::Directory(_), _) => {
                let Some(dir) = scope.open_directory(spot.dir, spot.file)? else { return Ok(None) };
                if !scope.read_directory(dir.as_fd())?.metadata().marker {
                    return Ok(None);
                }
                // With content inside, that is the object and is counted there.
                let inside = sys::stat_at(dir.as_fd(), name::SELF, false).is_ok();
                Ok((!inside).then_some(0))
            }
            (Item::Temporary | Item::Transit(_) | Item::TransitDirectory, _) => Ok(None),
            (Item::Unserved(reason), _) => {
                tracing::debug!(reason, path = %place::shown(spot.path), "not served");
                Ok(None)
            }
        }
    }

    /// Names of the containers of an account, or of the accounts of the root, in byte order.
    pub(crate) fn directories(&self, scope: &Scope<'_>) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut stack = vec![(Vec::new(), String::new(), Context::CONTAINER)];
        while let Some((path, prefix, context)) = stack.pop() {
            let Some(dir) = crate::object::open_existing(scope, &path)? else { continue };
            let mut entries = Vec::new();
            sys::read_dir(dir.as_fd(), &mut |file, kind, _| {
                entries.push((file.to_vec(), kind));
                ControlFlow::Continue(())
            })
            .step("read the account")?;
            for (file, kind) in entries {
                if walk::kind_of(dir.as_fd(), &file, kind)? != Some(Kind::Directory) {
                    continue;
                }
                if let Entry::Part { text, ends, below } = name::entry(&file, true, &context) {
                    let full = [prefix.as_str(), &text].concat();
                    if ends {
                        if !full.is_empty() && full.len() <= name::MAX_CONTAINER {
                            names.push(full);
                        }
                    } else {
                        stack.push((place::join(&path, &file), full, below));
                    }
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// A page of an account's containers, in byte order of their names.
    pub fn list_containers(&self, account: &str, query: &ListQuery) -> Result<Vec<ContainerRow>> {
        let scope = Scope::of_account(self, account)?;
        match self.list_containers_indexed(account, query)? {
            Some(rows) => Ok(rows),
            None => self.list_containers_tree(&scope, account, query),
        }
    }

    fn list_containers_tree(
        &self,
        scope: &Scope<'_>,
        account: &str,
        query: &ListQuery,
    ) -> Result<Vec<ContainerRow>> {
        let mut names = self.directories(scope)?;
        if query.reverse {
            names.reverse();
        }
        let mut rows: Vec<ContainerRow> = Vec::new();
        let mut last: Option<String> = None;
        for container in names.into_iter().filter(|n| query.wants(n)) {
            if rows.len() >= query.limit {
                break;
            }
            if let Some(rolled) = query.rolled(&container) {
                if last.as_deref() != Some(rolled) && rolled != query.marker {
                    rows.push(ContainerRow::Subdir(rolled.to_owned()));
                }
                last = Some(rolled.to_owned());
                continue;
            }
            match self.container_info(account, &container) {
                Ok(ContainerInfo { count, changed, .. }) => {
                    rows.push(ContainerRow::Container { name: container, count, last_modified: changed });
                }
                // Gone since the account was read.
                Err(Error::NoContainer) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rows)
    }
}
