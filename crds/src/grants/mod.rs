//! Who may use what: what a share's `access` gives a namespace, and whether a bridge keeps to it.
//!
//! An entry that names the namespace comes before those that select it by labels; among equals the order of the list
//! counts. Of two entries with the same claim only the first holds, so an entry by name makes an exception from one by
//! labels. A bridge takes the first grant that may write.

mod refusal;

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt as _};

use crate::bridge::{IdentityMode, SwiftBridge};
use crate::ids::{IdRange, WrongRange};
use crate::names;
use crate::paths;
use crate::share::{Access, AccessMode, Bridges, LustreShare};

pub use refusal::{Refusal, WrongAccess};

/// The labels of a namespace.
pub type Labels = BTreeMap<String, String>;

/// A user and a group.
pub type Owner = (u32, u32);

/// What one entry of `access` gives one namespace.
#[derive(Clone, PartialEq, Debug)]
pub struct Grant {
    /// The share.
    pub share: String,
    /// The namespace.
    pub namespace: String,
    /// The claim in the namespace.
    pub claim: String,
    /// The directory beneath the share; empty for the whole share.
    pub sub_path: String,
    /// Whether it may only be read.
    pub read_only: bool,
    /// As whom a bridge may act.
    pub identities: Allowed,
    /// Whether a bridge may serve several identities.
    pub bridges: Bridges,
}

/// Users and groups that a bridge may act as. An empty list stands for the owner of the directory alone.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Allowed {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// A bridge that may be.
#[derive(Clone, PartialEq, Debug)]
pub struct Accepted {
    /// What lets it be; its claim is what the pod mounts.
    pub grant: Grant,
    /// The bridge's directory beneath the share.
    pub directory: String,
    /// The accounts that it lists.
    pub accounts: Vec<AccountDirectory>,
    /// As whom it acts. While that is [`Acts::Unknown`], no directory may be made for it: its accounts have not been
    /// judged.
    pub acts: Acts,
}

/// An account's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountDirectory {
    /// The account.
    pub account: String,
    /// The directory beneath the share.
    pub path: String,
    /// The owner that it gets when it is made; that of the directory granted, if `None`.
    pub owner: Option<Owner>,
}

/// As whom a bridge acts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Acts {
    /// As one user and group.
    As(Owner),
    /// As several, within what is allowed; never an empty list.
    Within(Allowed),
    /// The owner of the directory is not known yet.
    Unknown,
}

impl Grant {
    /// The id of its volume.
    pub fn volume_id(&self) -> String {
        names::grant_volume_id(&self.share, &self.namespace, &self.claim, &self.sub_path, self.read_only)
    }

    /// What CSI calls its volume.
    pub fn volume_handle(&self) -> String {
        names::volume_handle(&self.share, &self.volume_id())
    }

    /// Its PersistentVolume.
    pub fn volume_name(&self) -> String {
        names::grant_volume_name(&self.share, &self.volume_id())
    }
}

impl Allowed {
    /// Whether an identity is allowed; `None` while that depends on an owner who is not known.
    fn allows(&self, (uid, gid): Owner, owner: Option<Owner>) -> Option<bool> {
        let within = |ranges: &[IdRange], id: u32, own: Option<u32>| match ranges {
            [] => own.map(|own| own == id),
            ranges => Some(ranges.iter().any(|range| range.contains(id))),
        };
        let user = within(&self.uids, uid, owner.map(|(uid, _)| uid))?;
        Some(user && within(&self.gids, gid, owner.map(|(_, gid)| gid))?)
    }

    /// With the owner's own ids for lists that are empty; `None` while they are not known.
    fn with_owner(&self, owner: Option<Owner>) -> Option<Self> {
        let fill = |ranges: &Vec<IdRange>, own: Option<u32>| match ranges.as_slice() {
            [] => Some(own?.to_string().parse().ok().into_iter().collect()),
            _ => Some(ranges.clone()),
        };
        let uids = fill(&self.uids, owner.map(|(uid, _)| uid))?;
        Some(Self { uids, gids: fill(&self.gids, owner.map(|(_, gid)| gid))? })
    }

    fn for_people(&self) -> String {
        let list = |ranges: &[IdRange]| match ranges {
            [] => "the owner's of the directory".to_owned(),
            ranges => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        format!("uids {}; gids {}", list(&self.uids), list(&self.gids))
    }
}

/// The entries of `access` that cannot be used.
pub fn mistakes(share: &LustreShare) -> Vec<WrongAccess> {
    let mut named = BTreeSet::new();
    let entries = share.spec.access.iter().enumerate();
    let wrong = entries.filter_map(|(at, access)| match Entry::new(at, access) {
        Err(wrong) => Some(wrong),
        Ok(_) if access.namespace.is_none() => None,
        Ok(_) => (!named.insert((&access.namespace, &access.claim_name))).then_some(WrongAccess::Twice(at)),
    });
    wrong.collect()
}

/// What a share gives a namespace, in the order of precedence.
pub fn of_namespace(share: &LustreShare, namespace: &str, labels: &Labels) -> Vec<Grant> {
    let entries =
        || share.spec.access.iter().enumerate().filter_map(|(at, access)| Entry::new(at, access).ok());
    let named = entries().filter(|entry| entry.names(namespace));
    let selected = entries().filter(|entry| entry.selects(labels));
    let mut claims = BTreeSet::new();
    let grants = named.chain(selected).map(|entry| entry.grant(share, namespace));
    grants.filter(|grant| claims.insert(grant.claim.clone())).collect()
}

/// Whether a bridge keeps to what its share gives its namespace.
pub fn accept(
    share: &LustreShare,
    namespace: &str,
    labels: &Labels,
    bridge: &SwiftBridge,
) -> Result<Accepted, Refusal> {
    let grant = writable(share, namespace, labels)?;
    check_paths(bridge)?;
    let status = share.grant_status(namespace, &grant.claim);
    let owner = status.and_then(|status| status.uid.zip(status.gid));
    let acts = acts(&grant, owner, bridge)?;
    let directory = paths::join(&grant.sub_path, &bridge.spec.sub_path);
    let accounts = bridge.spec.accounts.iter().map(|account| AccountDirectory {
        account: account.name.clone(),
        path: paths::join(&directory, account.directory()),
        owner: account.owner(),
    });
    Ok(Accepted { accounts: accounts.collect(), directory, grant, acts })
}

/// The first grant that may write.
fn writable(share: &LustreShare, namespace: &str, labels: &Labels) -> Result<Grant, Refusal> {
    let grants = of_namespace(share, namespace, labels);
    let none = grants.is_empty();
    let (share, namespace) = (name(share), namespace.to_owned());
    grants.into_iter().find(|grant| !grant.read_only).ok_or(if none {
        Refusal::NamespaceNotGranted { share, namespace }
    } else {
        Refusal::ReadOnlyGrant { share, namespace }
    })
}

fn check_paths(bridge: &SwiftBridge) -> Result<(), Refusal> {
    let accounts = bridge.spec.accounts.iter();
    let directories =
        accounts.map(|account| (format!("the directory of account {:?}", account.name), account.directory()));
    let own = (String::from("spec.subPath"), bridge.spec.sub_path.as_str());
    // An account needs a directory of its own; the bridge may have the whole of what is granted.
    let wrong = directories.filter(|(_, path)| path.is_empty() || !paths::is_relative(path));
    match Some(own).filter(|(_, path)| !paths::is_relative(path)).into_iter().chain(wrong).next() {
        Some((what, path)) => Err(Refusal::WrongPath(what, path.to_owned())),
        None => Ok(()),
    }
}

/// As whom a bridge acts, if it may.
fn acts(grant: &Grant, owner: Option<Owner>, bridge: &SwiftBridge) -> Result<Acts, Refusal> {
    let wanted = Wanted::new(grant, bridge)?;
    let mut identities = BTreeSet::new();
    for (what, identity) in wanted.named {
        if !allowed(grant, owner, &what, identity)? {
            return Ok(Acts::Unknown);
        }
        identities.insert(identity);
    }
    if wanted.owner {
        let Some(owner) = owner else { return Ok(Acts::Unknown) };
        allowed(grant, Some(owner), "the owner of the directory granted", owner)?;
        identities.insert(owner);
    }
    match identities.iter().next() {
        Some(only) if identities.len() == 1 && !wanted.any => Ok(Acts::As(*only)),
        _ if grant.bridges == Bridges::Single => Err(Refusal::Several),
        _ => within(grant, owner),
    }
}

/// Several identities: all that the grant allows, as lists that are not empty, since to the server an empty one means
/// everybody.
fn within(grant: &Grant, owner: Option<Owner>) -> Result<Acts, Refusal> {
    let Some(allowed) = grant.identities.with_owner(owner) else { return Ok(Acts::Unknown) };
    match owner {
        Some((uid, gid)) if allowed.uids.is_empty() || allowed.gids.is_empty() => {
            Err(Refusal::Root { uid, gid })
        }
        _ => Ok(Acts::Within(allowed)),
    }
}

/// Whether an identity may be taken; false while that is not known.
fn allowed(grant: &Grant, owner: Option<Owner>, what: &str, (uid, gid): Owner) -> Result<bool, Refusal> {
    if uid == 0 || gid == 0 {
        return Err(Refusal::Root { uid, gid });
    }
    match grant.identities.allows((uid, gid), owner) {
        Some(false) => {
            let allowed = grant.identities.for_people();
            Err(Refusal::IdentityNotGranted { what: what.to_owned(), uid, gid, allowed })
        }
        known => Ok(known.is_some()),
    }
}

/// The identities that a bridge asks for.
struct Wanted {
    /// By number, and by what.
    named: Vec<(String, Owner)>,
    /// The owner of the directory granted.
    owner: bool,
    /// Whoever owns what is there, or whom a map names.
    any: bool,
}

impl Wanted {
    fn new(grant: &Grant, bridge: &SwiftBridge) -> Result<Self, Refusal> {
        let identity = &bridge.spec.identity;
        match identity.mode {
            IdentityMode::Owner => Ok(Self::owners(grant, bridge)),
            IdentityMode::Map if identity.map_ref.is_none() => {
                Err(Refusal::Incomplete("identity.mode Map needs identity.mapRef"))
            }
            IdentityMode::Map => Ok(Self { named: Self::of_accounts(bridge), owner: false, any: true }),
            IdentityMode::Fixed => match identity.uid.zip(identity.gid) {
                Some(owner) => {
                    Ok(Self { named: vec![("identity.mode Fixed".into(), owner)], owner: false, any: false })
                }
                None => Err(Refusal::Incomplete("identity.mode Fixed needs identity.uid and identity.gid")),
            },
        }
    }

    /// An account whose owner is not said has that of the directory granted, unless it is there already and has
    /// another one; only a bridge that may serve several identities can serve that.
    fn owners(grant: &Grant, bridge: &SwiftBridge) -> Self {
        let accounts = &bridge.spec.accounts;
        let unsaid = accounts.iter().any(|account| account.owner().is_none());
        let any = unsaid && grant.bridges == Bridges::Many;
        Self { named: Self::of_accounts(bridge), owner: accounts.is_empty() || (unsaid && !any), any }
    }

    fn of_accounts(bridge: &SwiftBridge) -> Vec<(String, Owner)> {
        let accounts = bridge.spec.accounts.iter();
        accounts
            .filter_map(|account| Some((format!("account {:?}", account.name), account.owner()?)))
            .collect()
    }
}

/// An entry of `access` that can be used.
struct Entry<'a> {
    access: &'a Access,
    selector: Option<Selector>,
    identities: Allowed,
}

impl<'a> Entry<'a> {
    fn new(at: usize, access: &'a Access) -> Result<Self, WrongAccess> {
        if access.namespace.is_some() == access.namespace_selector.is_some() {
            return Err(WrongAccess::Whom(at));
        }
        if !paths::is_relative(&access.sub_path) {
            return Err(WrongAccess::SubPath(at, access.sub_path.clone()));
        }
        let selector = access.namespace_selector.clone().map(Selector::try_from).transpose();
        let selector = selector.map_err(|error| WrongAccess::Selector(at, error.to_string()))?;
        let identities = allowed_of(access).map_err(|wrong| WrongAccess::Identities(at, wrong))?;
        Ok(Self { access, selector, identities })
    }

    fn names(&self, namespace: &str) -> bool {
        self.access.namespace.as_deref() == Some(namespace)
    }

    fn selects(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    fn grant(&self, share: &LustreShare, namespace: &str) -> Grant {
        let share = name(share);
        Grant {
            namespace: namespace.to_owned(),
            claim: self.access.claim_name.clone().unwrap_or_else(|| share.clone()),
            sub_path: self.access.sub_path.clone(),
            read_only: self.access.mode == AccessMode::ReadOnlyMany,
            identities: self.identities.clone(),
            bridges: self.access.bridges,
            share,
        }
    }
}

fn allowed_of(access: &Access) -> Result<Allowed, WrongRange> {
    let ranges = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<_, WrongRange>>();
    match &access.identities {
        None => Ok(Allowed::default()),
        Some(identities) => Ok(Allowed { uids: ranges(&identities.uids)?, gids: ranges(&identities.gids)? }),
    }
}

fn name(share: &LustreShare) -> String {
    share.metadata.name.clone().unwrap_or_default()
}
