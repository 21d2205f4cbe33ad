//! As which POSIX user a request acts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lustre::identity::Identity;
use lustre::pool::{Pool, PoolError};
use namespace::Namespace;
use namespace::index::Actor;

use crate::auth::reload::{Reload, Reloading};
use crate::config::{self, IdentityMode};

/// How long the owner of an account's directory is remembered.
const OWNER_LIFE: Duration = Duration::from_secs(5);

/// Accounts remembered at most.
const MOST: usize = 10_000;

/// How often the map file is looked at.
const MAP_LIFE: Duration = Duration::from_secs(1);

/// Why a request may act as nobody.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The account's directory belongs to an identity that this server may not take.
    #[error("the account's directory belongs to {uid}:{gid}, which this server may not act as")]
    Owner {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The map names no identity for the user, or one outside the ranges allowed.
    #[error("no POSIX identity is mapped to user {user:?}")]
    Unmapped {
        /// The user.
        user: String,
    },
    /// The account is not there.
    #[error("no such account")]
    NoAccount,
    /// The owner could not be read.
    #[error(transparent)]
    Namespace(namespace::Error),
    /// The threads for file-system calls are taken.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Why the map of identities cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct MapError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: MapFault,
}

/// What is wrong with a map.
#[derive(Debug, thiserror::Error)]
pub enum MapFault {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// A line is not `user uid:gid[,gid...]`.
    #[error("line {line}: {text:?} is not `user uid:gid[,gid...]`")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

/// Chooses identities; `None` is the server's own.
#[derive(Debug)]
pub struct Identities {
    config: config::Identity,
    fixed: Option<Arc<Identity>>,
    map: Option<Reloading<Users>>,
    owners: Mutex<HashMap<String, (Instant, Arc<Identity>)>>,
}

type Users = HashMap<String, Arc<Identity>>;

impl Identities {
    /// As configured; the map file is read once, so that a wrong one is refused at start.
    pub fn new(config: config::Identity) -> Result<Self, MapError> {
        let fixed = match (config.mode, config.uid, config.gid) {
            (IdentityMode::Fixed, Some(uid), Some(gid)) => {
                Some(Arc::new(Identity { uid, gid, groups: config.groups.clone() }))
            }
            _ => None,
        };
        let map = match config.map.as_deref().filter(|_| config.mode == IdentityMode::Map) {
            Some(path) => Some(
                Reloading::new(path, parse_map).map_err(|fault| MapError { path: path.to_owned(), fault })?,
            ),
            None => None,
        };
        Ok(Self { config, fixed, map, owners: Mutex::default() })
    }

    /// As whom a request of `user` (empty: anonymous) acts on an account.
    pub async fn of_request(
        &self,
        namespace: &Arc<Namespace>,
        pool: &Pool,
        account: &str,
        user: &str,
    ) -> Result<Option<Arc<Identity>>, Refused> {
        match self.config.mode {
            IdentityMode::Process => Ok(None),
            IdentityMode::Fixed => Ok(self.fixed.clone()),
            IdentityMode::Owner => self.owner(namespace, pool, account).await.map(Some),
            // Anonymous readers, whom an ACL let in, see what the account's owner shows them.
            IdentityMode::Map if user.is_empty() => self.owner(namespace, pool, account).await.map(Some),
            IdentityMode::Map => self.mapped(user).map(Some),
        }
    }

    /// As whom the service keeps an account's settings: the owner of its directory.
    pub async fn of_owner(
        &self,
        namespace: &Arc<Namespace>,
        pool: &Pool,
        account: &str,
    ) -> Result<Option<Arc<Identity>>, Refused> {
        match self.config.mode {
            IdentityMode::Process => Ok(None),
            IdentityMode::Fixed => Ok(self.fixed.clone()),
            IdentityMode::Owner | IdentityMode::Map => self.owner(namespace, pool, account).await.map(Some),
        }
    }

    /// As whom the index looks at an account. Makes file-system calls.
    pub fn actor(&self, namespace: &Namespace, account: &str) -> namespace::Result<Actor> {
        Ok(match self.config.mode {
            IdentityMode::Process => Actor::Process,
            IdentityMode::Fixed => self.fixed.clone().map_or(Actor::Nobody, Actor::As),
            IdentityMode::Owner | IdentityMode::Map => match namespace.account_owner(account)? {
                (uid, gid) if self.config.allows_uid(uid) && self.config.allows_gid(gid) => {
                    Actor::As(Arc::new(Identity { uid, gid, groups: vec![gid] }))
                }
                _ => Actor::Nobody,
            },
        })
    }

    fn mapped(&self, user: &str) -> Result<Arc<Identity>, Refused> {
        let unmapped = || Refused::Unmapped { user: user.to_owned() };
        let identity = self.map.as_ref().and_then(|map| map.get().get(user).cloned()).ok_or_else(unmapped)?;
        let allowed = self.config.allows_uid(identity.uid)
            && self.config.allows_gid(identity.gid)
            && identity.groups.iter().all(|gid| self.config.allows_gid(*gid));
        if allowed { Ok(identity) } else { Err(unmapped()) }
    }

    /// Reads the map again if its file has changed; a broken one leaves the old one in force. Makes file-system calls.
    fn refresh(&self) {
        let Some(map) = &self.map else { return };
        match map.refresh(parse_map) {
            Reload::Unchanged => {}
            Reload::Loaded => tracing::info!(path = %map.path().display(), "map of identities read"),
            Reload::Failed(error) => {
                let path = map.path().display();
                tracing::error!(%path, %error, "the map of identities cannot be used; the last remains in force");
            }
        }
    }

    /// Looks at the map every second, for ever. To be spawned beside the server.
    pub async fn watch(self: Arc<Self>) {
        while self.map.is_some() {
            tokio::time::sleep(MAP_LIFE).await;
            let this = Arc::clone(&self);
            // A join error is a panic, and that is reported where it happens.
            let _ = tokio::task::spawn_blocking(move || this.refresh()).await;
        }
    }

    async fn owner(
        &self,
        namespace: &Arc<Namespace>,
        pool: &Pool,
        account: &str,
    ) -> Result<Arc<Identity>, Refused> {
        {
            let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, identity)) = owners.get(account)
                && at.elapsed() < OWNER_LIFE
            {
                return Ok(Arc::clone(identity));
            }
        }
        let (ns, name) = (Arc::clone(namespace), account.to_owned());
        let (uid, gid) = match pool.run(None, move || ns.account_owner(&name)).await? {
            Ok(owner) => owner,
            Err(namespace::Error::NoAccount) => return Err(Refused::NoAccount),
            Err(e) => return Err(Refused::Namespace(e)),
        };
        if !self.config.allows_uid(uid) || !self.config.allows_gid(gid) {
            return Err(Refused::Owner { uid, gid });
        }
        let identity = Arc::new(Identity { uid, gid, groups: vec![gid] });
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() >= MOST {
            owners.clear();
        }
        owners.insert(account.to_owned(), (Instant::now(), Arc::clone(&identity)));
        Ok(identity)
    }
}

fn parse_map(text: &str) -> Result<Users, MapFault> {
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || MapFault::Line { line: number + 1, text: line.to_owned() };
        let (user, identity) = parse_line(line).ok_or_else(wrong)?;
        users.insert(user.to_owned(), Arc::new(identity));
    }
    Ok(users)
}

fn parse_line(line: &str) -> Option<(&str, Identity)> {
    let (user, ids) = line.split_once(char::is_whitespace)?;
    let (uid, gids) = ids.trim().split_once(':')?;
    let groups: Option<Vec<u32>> = gids.split(',').map(|gid| gid.trim().parse().ok()).collect();
    let groups = groups?;
    Some((user, Identity { uid: uid.trim().parse().ok()?, gid: *groups.first()?, groups }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> config::Identity {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn lines_of_the_map() {
        let (user, identity) = parse_line("test:tester  1000:100,4,27").unwrap();
        assert_eq!(user, "test:tester");
        assert_eq!(identity, Identity { uid: 1000, gid: 100, groups: vec![100, 4, 27] });
        for bad in
            ["user", "user 1000", "user 1000:", "user x:1", "user 1:1,", "user -1:1", "u 1:99999999999"]
        {
            assert!(parse_line(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_mapped_identity_outside_the_ranges_is_refused_and_the_map_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::write(&path, "# users\na:in 1500:100\na:root 0:0\na:out 3000:100\n").unwrap();
        let text = format!("mode = 'map'\nmap = '{}'\nallowed_uids = ['1000-1999']", path.display());
        let identities = Identities::new(config(&text)).unwrap();
        assert_eq!(identities.mapped("a:in").unwrap().uid, 1500);
        for user in ["a:root", "a:out", "a:nobody"] {
            assert!(matches!(identities.mapped(user), Err(Refused::Unmapped { .. })), "{user}");
        }
        std::fs::write(&path, "a:nobody 1501:100\n").unwrap();
        identities.refresh();
        assert_eq!(identities.mapped("a:nobody").unwrap().uid, 1501);
        std::fs::write(&path, "broken line").unwrap();
        identities.refresh();
        assert_eq!(
            identities.mapped("a:nobody").unwrap().uid,
            1501,
            "a broken map leaves the old one in force"
        );
    }

    #[test]
    fn a_broken_map_is_refused_at_start_by_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::write(&path, "good 1:1\nbad").unwrap();
        let text = format!("mode = 'map'\nmap = '{}'", path.display());
        let error = Identities::new(config(&text)).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("bad"), "{error}");
        assert!(matches!(
            Identities::new(config("mode = 'map'\nmap = '/no/such/file'")),
            Err(MapError { fault: MapFault::Read(_), .. })
        ));
    }

    #[tokio::test]
    async fn the_owner_of_the_directory_is_the_identity_but_never_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("AUTH_a")).unwrap();
        let namespace = Arc::new(Namespace::open(dir.path(), namespace::Options::default()).unwrap());
        let pool = Pool::new("test", 2, 8);
        let identities = Identities::new(config("mode = 'owner'")).unwrap();
        let owner = identities.of_owner(&namespace, &pool, "AUTH_a").await;
        let own = Identity::of_process().unwrap();
        if own.uid == 0 {
            assert!(matches!(owner, Err(Refused::Owner { uid: 0, .. })));
            std::os::unix::fs::chown(dir.path().join("AUTH_a"), Some(1234), Some(5678)).unwrap();
            let got = identities.of_request(&namespace, &pool, "AUTH_a", "x").await.unwrap().unwrap();
            assert_eq!(*got, Identity { uid: 1234, gid: 5678, groups: vec![5678] });
        } else {
            assert_eq!(owner.unwrap().unwrap().uid, own.uid);
        }
        let missing = identities.of_owner(&namespace, &pool, "AUTH_missing").await;
        assert!(matches!(missing, Err(Refused::NoAccount)));
        let process = Identities::new(config("")).unwrap();
        assert!(process.of_request(&namespace, &pool, "AUTH_a", "x").await.unwrap().is_none());
    }
}
