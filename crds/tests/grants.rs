//! Who may use what.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a test may fail, and reads better without borrows"
)]

use crds::grants::{Acts, Labels, Refusal, WrongAccess, accept, mistakes, of_namespace};
use crds::{LustreShare, SwiftBridge};
use serde_json::{Value, json};

fn share(access: &Value) -> LustreShare {
    serde_json::from_value(json!({
        "metadata": { "name": "projects" },
        "spec": { "backend": { "directory": { "hostPath": "/srv" } }, "access": access },
    }))
    .unwrap()
}

/// A share whose grant to `a` has a directory with an owner.
fn owned(access: &Value, uid: u32, gid: u32) -> LustreShare {
    let mut share = share(access);
    let grants = json!({ "grants": [{ "namespace": "a", "claimName": "projects", "uid": uid, "gid": gid }] });
    share.status = Some(serde_json::from_value(grants).unwrap());
    share
}

fn bridge(spec: Value) -> SwiftBridge {
    let mut whole = json!({ "shareRef": { "name": "projects" }, "auth": { "credentials": { "secretRef": { "name": "u" } } } });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({ "metadata": { "name": "b", "namespace": "a" }, "spec": whole })).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn acts(share: &LustreShare, spec: Value) -> Result<Acts, Refusal> {
    accept(share, "a", &Labels::new(), &bridge(spec)).map(|accepted| accepted.acts)
}

fn reason(share: &LustreShare, spec: Value) -> &'static str {
    acts(share, spec).map_or_else(|refusal| refusal.reason(), |_| "accepted")
}

#[test]
fn names_come_before_labels_and_one_claim_is_granted_once() {
    let share = share(&json!([
        { "namespaceSelector": { "matchLabels": { "team": "x" } }, "subPath": "labelled" },
        { "namespaceSelector": {}, "claimName": "all", "mode": "ReadOnlyMany" },
        { "namespace": "a", "subPath": "named" },
    ]));
    let paths = |namespace: &str, of: &Labels| {
        let grants = of_namespace(&share, namespace, of);
        grants.iter().map(|grant| format!("{}:{}", grant.claim, grant.sub_path)).collect::<Vec<_>>()
    };
    let team = labels(&[("team", "x")]);
    assert_eq!(paths("a", &team), ["projects:named", "all:"]);
    assert_eq!(paths("b", &team), ["projects:labelled", "all:"]);
    assert_eq!(paths("b", &Labels::new()), ["all:"]);
}

#[test]
fn entries_that_cannot_be_used_are_named_and_give_nothing() {
    let share = share(&json!([
        {},
        { "namespace": "a", "namespaceSelector": {} },
        { "namespace": "a", "subPath": "../b" },
        { "namespace": "a", "identities": { "uids": ["0"] } },
        { "namespaceSelector": { "matchExpressions": [{ "key": "k", "operator": "Nor" }] } },
        { "namespace": "a" },
        { "namespace": "a", "subPath": "x" },
    ]));
    let wrong = mistakes(&share);
    let at: Vec<_> = wrong.iter().map(|wrong| wrong.to_string().chars().nth(7).unwrap()).collect();
    assert_eq!(at, ['0', '1', '2', '3', '4', '6']);
    assert!(matches!(wrong[2], WrongAccess::SubPath(2, _)) && wrong[5] == WrongAccess::Twice(6));
    let grants = of_namespace(&share, "a", &Labels::new());
    assert_eq!(grants.iter().map(|grant| grant.sub_path.as_str()).collect::<Vec<_>>(), [""]);
}

#[test]
fn a_bridge_needs_a_grant_that_may_write() {
    assert_eq!(reason(&share(&json!([])), json!({})), "NamespaceNotGranted");
    assert_eq!(reason(&share(&json!([{ "namespace": "b" }])), json!({})), "NamespaceNotGranted");
    let read = json!({ "namespace": "a", "claimName": "r", "mode": "ReadOnlyMany" });
    assert_eq!(reason(&share(&json!([read])), json!({})), "ReadOnlyGrant");
    assert_eq!(acts(&share(&json!([read, { "namespace": "a" }])), json!({})), Ok(Acts::Unknown));
}

#[test]
fn paths_are_judged_and_joined() {
    let share = owned(&json!([{ "namespace": "a", "subPath": "team/a" }]), 1000, 1000);
    let spec =
        json!({ "subPath": "objects", "accounts": [{ "name": "A" }, { "name": "B", "directory": "x/y" }] });
    let accepted = accept(&share, "a", &Labels::new(), &bridge(spec)).unwrap();
    assert_eq!(accepted.directory, "team/a/objects");
    let paths: Vec<_> = accepted.accounts.iter().map(|account| account.path.as_str()).collect();
    assert_eq!(paths, ["team/a/objects/A", "team/a/objects/x/y"]);
    for spec in [
        json!({ "subPath": "../b" }),
        json!({ "accounts": [{ "name": ".." }] }),
        json!({ "accounts": [{ "name": "a", "directory": "/etc" }] }),
        json!({ "accounts": [{ "name": "a", "directory": ".lb~dcsi" }] }),
    ] {
        assert_eq!(reason(&share, spec.clone()), "InvalidSpec", "{spec}");
    }
}

#[test]
fn without_identities_only_the_owner_of_the_directory_acts() {
    let access = json!([{ "namespace": "a" }]);
    let own = json!({ "accounts": [{ "name": "x", "uid": 1000, "gid": 1001 }] });
    let other = json!({ "accounts": [{ "name": "x", "uid": 1000, "gid": 1002 }] });
    let fixed = json!({ "identity": { "mode": "Fixed", "uid": 1, "gid": 1 } });
    assert_eq!(acts(&share(&access), own.clone()), Ok(Acts::Unknown));
    assert_eq!(acts(&share(&access), json!({})), Ok(Acts::Unknown));
    let share = owned(&access, 1000, 1001);
    assert_eq!(acts(&share, own), Ok(Acts::As((1000, 1001))));
    assert_eq!(acts(&share, json!({})), Ok(Acts::As((1000, 1001))));
    assert_eq!(reason(&share, other), "IdentityNotGranted");
    assert_eq!(reason(&share, fixed), "IdentityNotGranted");
    let root = owned(&access, 0, 0);
    let said = acts(&root, json!({})).unwrap_err();
    assert!(said.reason() == "IdentityNotGranted" && said.to_string().contains("spec.ownership"), "{said}");
}

#[test]
fn identities_bound_everybody() {
    let access = json!([{ "namespace": "a", "identities": { "uids": ["2000-2099"], "gids": ["100"] } }]);
    let account = |uid: u32, gid: u32| json!({ "accounts": [{ "name": "x", "uid": uid, "gid": gid }] });
    assert_eq!(acts(&share(&access), account(2001, 100)), Ok(Acts::As((2001, 100))));
    assert_eq!(reason(&share(&access), account(2001, 101)), "IdentityNotGranted");
    assert_eq!(reason(&share(&access), account(1999, 100)), "IdentityNotGranted");
    assert_eq!(reason(&owned(&access, 1000, 100), json!({})), "IdentityNotGranted");
    let fixed = json!({ "identity": { "mode": "Fixed", "uid": 2099, "gid": 100 } });
    assert_eq!(acts(&owned(&access, 0, 0), fixed), Ok(Acts::As((2099, 100))));
    let zero = json!({ "identity": { "mode": "Fixed", "uid": 0, "gid": 100 } });
    assert_eq!(reason(&share(&access), zero), "IdentityNotGranted");
}

#[test]
fn several_identities_need_a_grant_that_says_so_and_never_an_open_list() {
    let with = |bridges: &str| json!([{ "namespace": "a", "bridges": bridges, "identities": { "uids": ["2000-2099"] } }]);
    let two = json!({ "accounts": [{ "name": "x", "uid": 2000, "gid": 100 }, { "name": "y", "uid": 2001, "gid": 100 }] });
    let map = json!({ "identity": { "mode": "Map", "mapRef": { "name": "m" } } });
    let single = owned(&with("Single"), 2000, 100);
    assert_eq!(reason(&single, two.clone()), "IdentityNotGranted");
    assert_eq!(reason(&single, map.clone()), "IdentityNotGranted");
    for spec in [two.clone(), map.clone(), json!({ "accounts": [{ "name": "x" }] })] {
        let Ok(Acts::Within(allowed)) = acts(&owned(&with("Many"), 2000, 100), spec) else {
            panic!("several")
        };
        assert_eq!(
            (allowed.uids[0].to_string(), allowed.gids[0].to_string()),
            ("2000-2099".into(), "100".into())
        );
    }
    assert_eq!(acts(&share(&with("Many")), map.clone()), Ok(Acts::Unknown));
    assert_eq!(reason(&owned(&with("Many"), 2000, 0), map), "IdentityNotGranted");
    let one = json!({ "accounts": [{ "name": "x", "uid": 2000, "gid": 100 }] });
    assert_eq!(acts(&owned(&with("Many"), 0, 100), one), Ok(Acts::As((2000, 100))));
}

#[test]
fn what_the_schema_would_refuse_is_refused_here_too() {
    let share = owned(&json!([{ "namespace": "a", "bridges": "Many" }]), 1, 1);
    assert_eq!(reason(&share, json!({ "identity": { "mode": "Fixed" } })), "InvalidSpec");
    assert_eq!(reason(&share, json!({ "identity": { "mode": "Map" } })), "InvalidSpec");
}
