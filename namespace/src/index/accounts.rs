//! The accounts that the index knows, and as whom they are looked at.

use std::ops::ControlFlow;
use std::os::fd::AsFd;

use super::change::SeenDirectory;
use super::engine::Read;
use super::row::{self, Entry, Id, Kind, Level, ROW_TEXT, TOP, row_key};
use super::{Actor, Index, look};
use crate::error::{Error, Result, Step};
use crate::name::Context;
use crate::{Namespace, Scope};

/// An account in the index.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: Id,
    pub(super) name: String,
    /// Its directory beneath the root.
    pub(super) path: Vec<u8>,
}

impl Index {
    /// The accounts, in byte order.
    pub(super) fn accounts(&self, read: &dyn Read) -> Result<Vec<Known>> {
        let mut ids = Vec::new();
        read.scan_prefix(&row_key(TOP, Kind::Directory, ""), &mut |key, value| {
            let name = std::str::from_utf8(&key[ROW_TEXT..]).map_err(|_| row::damaged())?.to_owned();
            ids.push((Entry::decode(value)?.id, name));
            Ok(ControlFlow::Continue(()))
        })?;
        let mut accounts = Vec::new();
        for (id, name) in ids {
            let directory = look::directory(read, id)?.ok_or_else(row::damaged)?;
            accounts.push(Known { id, name, path: directory.file });
        }
        Ok(accounts)
    }
}

impl Namespace {
    /// Compares the accounts that are there with those in the index.
    pub(super) fn look_for_accounts(&self, index: &Index) -> Result<()> {
        let names = self.accounts()?;
        let (mut found, mut kept) = (Vec::new(), Vec::new());
        for name in &names {
            // One that cannot be reached is not served from here, which harms nobody else.
            match self.acting(index, name, || self.look_at_account(name)) {
                Ok(Some(fid)) => found.push((name, self.account_path(name), fid)),
                Ok(None) | Err(Error::NoAccount) => {}
                Err(error) => {
                    tracing::warn!(account = name, %error, "the account cannot be looked at; it stays as it is");
                    kept.push(name);
                }
            }
        }
        let gone: Vec<String> = index
            .accounts(&*index.read()?)?
            .into_iter()
            .map(|known| known.name)
            .filter(|known| !found.iter().any(|(name, ..)| *name == known) && !kept.contains(&known))
            .collect();
        let seen = |name: &str, fid| SeenDirectory {
            kind: Kind::Directory,
            text: name.to_owned(),
            level: Level::Account,
            context: Context::CONTAINER,
            fid,
            changed: 0,
        };
        index.change(&mut |change| {
            for (name, path, fid) in &found {
                change.set_account(path, &seen(name, Some(*fid)))?;
            }
            gone.iter().try_for_each(|name| change.set_account(b"", &seen(name, None)))
        })?;
        Ok(())
    }

    fn look_at_account(&self, name: &str) -> Result<lustre::fs::Fid> {
        let scope = Scope::of_account(self, name)?;
        self.fs.fid(scope.base().as_fd()).step("read the directory's identity")
    }

    /// Does something as the account's owner; `None` if nobody may.
    pub(super) fn acting<T>(
        &self,
        index: &Index,
        account: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        match (index.owner)(self, account)? {
            Actor::Process => work().map(Some),
            Actor::As(identity) => {
                let _guard = identity.assume().map_err(|e| Error::io("act as the account's owner", e))?;
                work().map(Some)
            }
            Actor::Nobody => Ok(None),
        }
    }
}
