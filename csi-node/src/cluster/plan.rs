//! What should exist on a share, as its LustreShare, the namespaces and the bridges say. Pure.

use std::collections::BTreeMap;

use crds::grants::{self, Labels};
use crds::{LustreShare, SwiftBridge};

use crate::id::Uuid;
use crate::path::{PathError, SubPath};
use crate::share::Spec;
use crate::tree::Owner;

/// Why a LustreShare is none that the driver can use. The API server refuses such a one; this is for one that is
/// older than its rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No backend.
    #[error("spec.backend.directory is missing")]
    Backend,
    /// The backend's path.
    #[error("spec.backend.directory.hostPath {0:?} is not absolute in normal form")]
    HostPath(String),
    /// The share's path.
    #[error("spec.path: {0}")]
    Path(#[from] PathError),
    /// The mode.
    #[error("spec.ownership.mode {0:?} is not three or four octal digits")]
    Mode(String),
}

/// Where the share is.
pub fn spec(share: &LustreShare) -> Result<Spec, SpecError> {
    let directory = share.spec.backend.directory.as_ref().ok_or(SpecError::Backend)?;
    let host_path = directory.host_path.clone();
    if !crds::paths::is_absolute(&host_path) {
        return Err(SpecError::HostPath(host_path));
    }
    let ownership = &share.spec.ownership;
    let mode = ownership.mode_bits().ok_or_else(|| SpecError::Mode(ownership.mode.clone()))?;
    Ok(Spec {
        host_path,
        path: SubPath::parse_absolute(&share.spec.path)?,
        node: directory.node.clone(),
        owner: Owner { uid: ownership.uid, gid: ownership.gid, mode },
    })
}

/// Everything that should exist on one share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the share is.
    pub spec: Spec,
    /// The directories that its `access` names, each a volume.
    pub grants: Vec<Grant>,
    /// The bridges that refer to it.
    pub bridges: Vec<Bridge>,
}

/// One claim's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where the claim is.
    pub namespace: String,
    /// The claim.
    pub claim: String,
    /// The volume.
    pub uuid: Uuid,
    /// Its directory.
    pub path: SubPath,
    /// Nobody writes to it.
    pub read_only: bool,
}

/// One bridge's directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is to be made for it.
    pub wants: Wants,
}

/// What a bridge wants of its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wants {
    /// These directories; without an owner of their own they get that of the directory granted.
    Directories {
        /// The directory granted.
        granted: SubPath,
        /// From the uppermost to the lowest.
        directories: Vec<(SubPath, Option<(u32, u32)>)>,
    },
    /// Not yet: whose the directory granted is has not been seen.
    Later,
    /// Nothing: the share does not let it be.
    Nothing(String),
}

/// The namespaces' labels, by name.
pub type Namespaces = BTreeMap<String, Labels>;

/// What should exist.
pub fn plan(
    share: &LustreShare,
    namespaces: &Namespaces,
    bridges: &[&SwiftBridge],
) -> Result<Plan, SpecError> {
    let granted = namespaces.iter().flat_map(|(name, labels)| grants::of_namespace(share, name, labels));
    let grants = granted.filter_map(|granted| grant(&granted)).collect();
    let bridges = bridges.iter().map(|bridge| plan_bridge(share, namespaces, bridge)).collect();
    Ok(Plan { spec: spec(share)?, grants, bridges })
}

/// `None` never happens while [`crds::paths`] and [`crate::path`] agree on what a path is, but for its length.
fn grant(granted: &grants::Grant) -> Option<Grant> {
    Some(Grant {
        namespace: granted.namespace.clone(),
        claim: granted.claim.clone(),
        uuid: Uuid::parse(&granted.volume_id())?,
        path: SubPath::parse(&granted.sub_path).ok()?,
        read_only: granted.read_only,
    })
}

fn plan_bridge(share: &LustreShare, namespaces: &Namespaces, bridge: &SwiftBridge) -> Bridge {
    let namespace = bridge.metadata.namespace.clone().unwrap_or_default();
    let none = Labels::new();
    let labels = namespaces.get(&namespace).unwrap_or(&none);
    let wants = match grants::accept(share, &namespace, labels, bridge) {
        Err(refusal) => Wants::Nothing(refusal.to_string()),
        Ok(accepted) if accepted.acts == grants::Acts::Unknown => Wants::Later,
        Ok(accepted) => directories(&accepted).unwrap_or_else(|error| Wants::Nothing(error.to_string())),
    };
    Bridge { namespace, name: bridge.metadata.name.clone().unwrap_or_default(), wants }
}

fn directories(accepted: &grants::Accepted) -> Result<Wants, PathError> {
    let mut directories = vec![(SubPath::parse(&accepted.directory)?, None)];
    for account in &accepted.accounts {
        directories.push((SubPath::parse(&account.path)?, account.owner));
    }
    Ok(Wants::Directories { granted: SubPath::parse(&accepted.grant.sub_path)?, directories })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures;

    fn namespaces(list: &[(&str, &str)]) -> Namespaces {
        let labels = |reader: &str| Labels::from([("reader".to_owned(), reader.to_owned())]);
        list.iter().map(|(name, reader)| ((*name).to_owned(), labels(reader))).collect()
    }

    #[test]
    fn a_share_is_where_its_specification_says() {
        let spec = spec(&fixtures::share("/srv/projects")).unwrap();
        assert_eq!((spec.host_path.as_str(), spec.path.as_str()), ("/srv/projects", ""));
        assert_eq!(spec.owner, Owner { uid: 2000, gid: 2000, mode: 0o2770 });
        let mut wrong = fixtures::share("/srv/../etc");
        assert!(matches!(super::spec(&wrong), Err(SpecError::HostPath(_))));
        wrong.spec.backend.directory = None;
        assert_eq!(super::spec(&wrong), Err(SpecError::Backend));
        let mut wrong = fixtures::share("/srv");
        wrong.spec.path = "/a/../..".into();
        assert!(matches!(super::spec(&wrong), Err(SpecError::Path(_))));
    }

    #[test]
    fn each_namespace_gets_its_grants() {
        let share = fixtures::share("/srv");
        let all = namespaces(&[("team-a", "yes"), ("team-b", "no"), ("team-c", "yes")]);
        let plan = plan(&share, &all, &[]).unwrap();
        let seen: Vec<_> = plan
            .grants
            .iter()
            .map(|grant| (grant.namespace.as_str(), grant.path.as_str(), grant.read_only))
            .collect();
        assert_eq!(seen, [("team-a", "team-a", false), ("team-c", "", true)]);
        assert_eq!(
            plan.grants[0].uuid.as_str(),
            grants::of_namespace(&share, "team-a", &all["team-a"])[0].volume_id()
        );
    }

    #[test]
    fn a_bridge_waits_for_the_owner_and_then_has_directories() {
        let mut share = fixtures::share("/srv");
        let bridge = fixtures::bridge("team-a");
        let all = namespaces(&[("team-a", "no"), ("team-b", "no")]);
        assert_eq!(plan(&share, &all, &[&bridge]).unwrap().bridges[0].wants, Wants::Later);
        fixtures::set_owner(&mut share, "team-a", 2000, 2000);
        let plan_of = plan(&share, &all, &[&bridge, &fixtures::bridge("team-b")]).unwrap();
        let path = |text: &str| SubPath::parse(text).unwrap();
        let directories = vec![(path("team-a"), None), (path("team-a/physics"), None)];
        assert_eq!(plan_of.bridges[0].wants, Wants::Directories { granted: path("team-a"), directories });
        assert!(matches!(&plan_of.bridges[1].wants, Wants::Nothing(why) if why.contains("team-b")));
    }
}
