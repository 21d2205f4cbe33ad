//! Spill and side files whose file is gone: a crash came between the two.
//!
//! A file is not found by its FID, so all files of the account are asked for theirs. One that is renamed while that goes
//! on may be missed. Therefore an orphan must have been found to be one again and again for a long time, and be as old
//! itself, before it is removed: every look that finds its file absolves it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use lustre::fs::Fid;
use lustre::sys::{self, Kind, OFlags, Symlinks};

use crate::attribute::{self, DIRECTORY};
use crate::error::{Error, Result, Step, is_absent};
use crate::object::open_existing;
use crate::walk::kind_of;
use crate::{Namespace, Scope, name, place};

/// Side files that one look judges; the next one goes on with the others.
const MOST: usize = 100_000;

/// What former looks at one account found.
#[derive(Debug, Default)]
pub struct Orphans {
    /// By path beneath the account: since when each look found it to be an orphan.
    suspects: HashMap<Vec<u8>, Instant>,
    /// Where the last look ended.
    next: Vec<u8>,
}

/// Old side files, by the file that each is of.
type Candidates = HashMap<Fid, Vec<Vec<u8>>>;

impl Namespace {
    /// Looks for side files of an account whose file is gone, and removes those that were orphans at each look for `age`;
    /// and temporary files of ours among them of that age. Returns how many went. Call it as the account's owner.
    ///
    /// `proceed` is called for every file of the account; it may sleep, or break off, and then nothing is concluded.
    pub fn reap_orphans(
        &self,
        account: &str,
        age: Duration,
        orphans: &mut Orphans,
        proceed: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<u64> {
        let scope = Scope::of_account(self, account)?;
        let mut reaped = 0;
        let mut candidates = old_side_files(&scope, age, &mut orphans.next, &mut reaped)?;
        let looked_at: Vec<Vec<u8>> = candidates.values().flatten().cloned().collect();
        if !candidates.is_empty() && find_files(&scope, &mut candidates, proceed)?.is_break() {
            return Ok(reaped);
        }
        let found: Vec<Vec<u8>> = candidates.into_values().flatten().collect();
        let before = std::mem::take(&mut orphans.suspects);
        let (mut suspects, now) = (before.clone(), Instant::now());
        for path in looked_at {
            suspects.remove(&path);
        }
        for path in found {
            match before.get(&path) {
                Some(since) if since.elapsed() >= age => reaped += u64::from(remove_old(&scope, &path, age)?),
                Some(since) => _ = suspects.insert(path, *since),
                None => _ = suspects.insert(path, now),
            }
        }
        orphans.suspects = suspects;
        Ok(reaped)
    }
}

/// Removes a file that nobody has touched for `age`.
fn remove_old(scope: &Scope<'_>, path: &[u8], age: Duration) -> Result<bool> {
    let place::Split { parent, file } = place::split(path);
    let Some(dir) = open_existing(scope, parent)? else { return Ok(false) };
    // In a sticky directory another identity's file stays.
    Ok(is_old(dir.as_fd(), file, age) && sys::unlink_at(dir.as_fd(), file).is_ok())
}

fn is_old(dir: BorrowedFd<'_>, file: &[u8], age: Duration) -> bool {
    let Ok(stat) = sys::stat_at(dir, file, false) else { return false };
    let idle = sys::now_ns().saturating_sub(stat.ctime_ns.max(stat.mtime_ns));
    stat.kind == Kind::File && idle >= i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

/// Side files that nobody has touched for `age`, from the directory `next` on; old temporary files are removed.
fn old_side_files(
    scope: &Scope<'_>,
    age: Duration,
    next: &mut Vec<u8>,
    reaped: &mut u64,
) -> Result<Candidates> {
    let mut candidates = Candidates::new();
    let mut shards = entries(scope, DIRECTORY)?;
    shards.sort_unstable();
    let mut count = 0;
    let from = std::mem::take(next);
    for shard in shards.into_iter().filter(|shard| *shard >= from) {
        if count >= MOST {
            *next = shard;
            break;
        }
        let path = place::join(DIRECTORY, &shard);
        let Some(dir) = open_existing(scope, &path)? else { continue };
        for file in entries(scope, &path)? {
            if !is_old(dir.as_fd(), &file, age) {
                continue;
            }
            if let Some(fid) = attribute::fid_of(&file) {
                count += 1;
                candidates.entry(fid).or_default().push(place::join(&path, &file));
            } else if file.starts_with(b".") {
                // Side files begin with a digit, temporary names with a dot.
                *reaped += u64::from(sys::unlink_at(dir.as_fd(), &file).is_ok());
            }
        }
    }
    Ok(candidates)
}

fn entries(scope: &Scope<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let Some(dir) = open_existing(scope, path)? else { return Ok(found) };
    sys::read_dir(dir.as_fd(), &mut |file, _, _| {
        found.push(file.to_vec());
        ControlFlow::Continue(())
    })
    .step("read the metadata directory")?;
    Ok(found)
}

/// Strikes out the candidates whose file is anywhere in the account, served or not.
fn find_files(
    scope: &Scope<'_>,
    candidates: &mut Candidates,
    proceed: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let fs = &scope.namespace().fs;
    let mut strike = |fd: BorrowedFd<'_>| -> Result<()> {
        candidates.remove(&fs.fid(fd).step("read the file's identity")?);
        Ok(())
    };
    let mut stack = vec![Vec::new()];
    while let Some(path) = stack.pop() {
        // Gone, or in sight only now and then: nothing follows from this look.
        let Some(dir) = open_existing(scope, &path)? else { return Ok(ControlFlow::Break(())) };
        strike(dir.as_fd())?;
        let mut found = Vec::new();
        sys::read_dir(dir.as_fd(), &mut |file, kind, _| {
            if !path.is_empty() || !file.starts_with(name::SERVICE) {
                found.push((file.to_vec(), kind));
            }
            ControlFlow::Continue(())
        })
        .step("read a directory")?;
        for (file, kind) in found {
            if proceed().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match kind_of(dir.as_fd(), &file, kind)? {
                Some(Kind::Directory) => stack.push(place::join(&path, &file)),
                Some(Kind::File) => {
                    let flags = OFlags::PATH | OFlags::NOFOLLOW;
                    match sys::open_beneath(dir.as_fd(), &file, flags, Symlinks::Never) {
                        Ok(fd) => strike(fd.as_fd())?,
                        Err(e) if is_absent(&e) => {}
                        Err(e) => return Err(Error::io("open a file", e)),
                    }
                }
                _ => {}
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}
