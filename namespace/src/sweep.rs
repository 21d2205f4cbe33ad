//! Going through what is there for the background: expiry, hashing, reaping.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use lustre::sys;

use crate::error::{Result, is_absent};
use crate::place;
use crate::walk::{Item, walk};
use crate::{Namespace, ObjectInfo, ObjectName, Scope};

/// What a sweep found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Objects seen.
    pub objects: u64,
    /// Old temporary files removed.
    pub reaped: u64,
    /// Entries that are no objects, by reason.
    pub unserved: BTreeMap<&'static str, u64>,
}

/// An object that a sweep came by.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its name.
    pub name: ObjectName,
    /// What is known of it.
    pub info: ObjectInfo,
}

impl Namespace {
    /// Names of the accounts, in byte order; those mapped to other directories included.
    pub fn accounts(&self) -> Result<Vec<String>> {
        let scope = Scope::of_root(self)?;
        let mut names = self.directories(&scope)?;
        names.extend(self.options.accounts.keys().cloned());
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Names of an account's containers, in byte order.
    pub fn container_names(&self, account: &str) -> Result<Vec<String>> {
        self.directories(&Scope::of_account(self, account)?)
    }

    /// Goes through a container. `visit` is called for every object and may break off; temporary files older than `age` are removed.
    pub fn sweep(
        &self,
        account: &str,
        container: &str,
        age: Duration,
        visit: &mut dyn FnMut(Seen) -> ControlFlow<()>,
    ) -> Result<Sweep> {
        let scope = Scope::of_container(self, account, container)?;
        let mut sweep = Sweep::default();
        walk(&scope, &mut |spot, item| {
            match item {
                Item::Object(name) | Item::Directory(name) => {
                    let path = if spot.file == crate::name::SELF {
                        place::split(spot.path).parent
                    } else {
                        spot.path
                    };
                    let Some(info) = self.info_at(&scope, path)? else {
                        return Ok(ControlFlow::Continue(()));
                    };
                    if matches!(item, Item::Directory(_)) && !info.directory {
                        // Its content is met inside.
                        return Ok(ControlFlow::Continue(()));
                    }
                    sweep.objects += 1;
                    let name = ObjectName::new(account, container, name);
                    return Ok(visit(Seen { name, info }));
                }
                Item::Temporary => sweep.reaped += u64::from(reap(spot.dir, spot.file, age)),
                Item::Transit(file) => {
                    place::settle(&scope, spot.dir, file)?;
                }
                Item::TransitDirectory => {
                    // Left empty by a crash. While it holds something, whoever puts that back removes it.
                    let _moving = scope.moving()?;
                    let _ = sys::remove_dir_at(spot.dir, spot.file);
                }
                Item::Unserved(reason) => *sweep.unserved.entry(reason).or_default() += 1,
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(sweep)
    }

    fn info_at(&self, scope: &Scope<'_>, path: &[u8]) -> Result<Option<ObjectInfo>> {
        match place::locate(scope, path)? {
            Some(found) => self.described(scope, found.fd, found.stat, found.at),
            None => Ok(None),
        }
    }
}

/// Removes an unfinished upload that nobody has touched for `age`.
fn reap(dir: std::os::fd::BorrowedFd<'_>, file: &[u8], age: Duration) -> bool {
    let Ok(stat) = sys::stat_at(dir, file, false) else { return false };
    let idle = sys::now_ns().saturating_sub(stat.ctime_ns.max(stat.mtime_ns));
    if stat.kind != sys::Kind::File || idle < i64::try_from(age.as_nanos()).unwrap_or(i64::MAX) {
        return false;
    }
    match sys::unlink_at(dir, file) {
        Ok(()) => true,
        Err(e) => is_absent(&e),
    }
}
