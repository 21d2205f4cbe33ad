//! Custom resources of every shape: whatever the API server lets through, nothing here panics, and no path leads out.
#![allow(clippy::unwrap_used, missing_docs, reason = "also the helpers of tests may fail them")]

use std::collections::BTreeMap;

use crds::grants::{Acts, accept};
use crds::{LustreShare, SwiftBridge};
use operator::cluster::cache::Namespace;
use operator::cluster::{Key, Kind};
use operator::{Settings, bridge, child::Parent, labels, share};
use proptest::prelude::*;
use serde_json::{Value, json};

fn text() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 12] =
        ["", "a", "b", "a/b", "/", "..", ".lb~x", "2000", "1-5", "Fixed", "${pv.name}", "projects"];
    prop_oneof![proptest::sample::select(&KNOWN[..]).prop_map(str::to_owned), any::<String>()]
}

fn maybe(value: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    proptest::option::of(value)
}

fn word() -> impl Strategy<Value = Value> {
    text().prop_map(Value::from)
}

fn id() -> impl Strategy<Value = Value> {
    prop_oneof![Just(0_u32), Just(2000), Just(u32::MAX), any::<u32>()].prop_map(Value::from)
}

/// An object of those fields that are there.
fn object(fields: Vec<(&'static str, Option<Value>)>) -> Value {
    fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = Value> {
    proptest::sample::select(values).prop_map(Value::from)
}

fn access() -> impl Strategy<Value = Value> {
    let identities = (proptest::collection::vec(word(), 0..3), proptest::collection::vec(word(), 0..3))
        .prop_map(|(uids, gids)| json!({ "uids": uids, "gids": gids }));
    let selector = prop_oneof![
        Just(json!({})),
        word().prop_map(|value| json!({ "matchLabels": { "k": value } })),
        (word(), one_of(&["In", "NotIn", "Exists", "DoesNotExist", "Nor"]))
            .prop_map(|(key, operator)| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": [key] }] })),
    ];
    let modes = one_of(&["ReadWriteMany", "ReadOnlyMany"]);
    let bridges = one_of(&["Single", "Many"]);
    (maybe(word()), maybe(selector), modes, maybe(word()), maybe(word()), maybe(identities), bridges)
        .prop_map(|(namespace, selector, mode, path, claim, identities, bridges)| {
            object(vec![
                ("namespace", namespace),
                ("namespaceSelector", selector),
                ("mode", Some(mode)),
                ("subPath", path),
                ("claimName", claim),
                ("identities", identities),
                ("bridges", Some(bridges)),
            ])
        })
}

prop_compose! {
    fn shares()(
        access in proptest::collection::vec(access(), 0..4),
        path in maybe(word()), host in word(), node in maybe(word()), mode in word(), uid in id(), gid in id(),
        provisioning in maybe((word(), maybe(word())).prop_map(|(template, class)| object(vec![
            ("directoryTemplate", Some(template)), ("storageClassName", class),
        ]))),
        owner in maybe((id(), id()).prop_map(|(uid, gid)| json!([uid, gid]))),
    ) -> LustreShare {
        let directory = object(vec![("hostPath", Some(host)), ("node", node)]);
        let grants = owner.map(|owner| json!([
            { "namespace": "a", "claimName": "projects", "uid": owner[0], "gid": owner[1] },
        ]));
        let spec = object(vec![
            ("backend", Some(json!({ "directory": directory }))), ("path", path), ("access", Some(json!(access))),
            ("ownership", Some(json!({ "uid": uid, "gid": gid, "mode": mode }))), ("provisioning", provisioning),
        ]);
        let metadata = json!({ "name": "projects", "uid": "u" });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": object(vec![("grants", grants)]) })).unwrap()
    }
}

prop_compose! {
    fn bridges()(
        accounts in proptest::collection::vec((word(), maybe(word()), maybe(id()), maybe(id())).prop_map(
            |(name, directory, uid, gid)| object(vec![("name", Some(name)), ("directory", directory), ("uid", uid), ("gid", gid)])
        ), 0..3),
        path in maybe(word()), mode in one_of(&["Owner", "Fixed", "Map"]), uid in maybe(id()), gid in maybe(id()),
        map in maybe(word()), secret in word(), tls in maybe(word()), url in maybe(word()), replicas in any::<i32>(),
        port in maybe(any::<u16>().prop_map(Value::from)), kind in one_of(&["ClusterIP", "NodePort", "LoadBalancer"]),
        host in maybe(word()),
    ) -> SwiftBridge {
        let named = |name: Value| json!({ "name": name });
        let identity = object(vec![("mode", Some(mode)), ("uid", uid), ("gid", gid), ("mapRef", map.map(named))]);
        let service = object(vec![("type", Some(kind)), ("port", port.clone()), ("nodePort", port)]);
        let exposure = object(vec![
            ("service", Some(service)), ("tls", tls.map(|name| json!({ "secretRef": { "name": name } }))), ("publicUrl", url),
            ("ingress", host.clone().map(|host| json!({ "host": host }))),
            ("httpRoute", host.map(|host| json!({ "host": host, "parentRefs": [{ "name": host }] }))),
        ]);
        let spec = object(vec![
            ("shareRef", Some(json!({ "name": "projects" }))), ("subPath", path), ("accounts", Some(json!(accounts))),
            ("auth", Some(json!({ "credentials": { "secretRef": { "name": secret } } }))), ("identity", Some(identity)),
            ("exposure", Some(exposure)), ("replicas", Some(json!(replicas))), ("scheduling", Some(json!({}))),
        ]);
        serde_json::from_value(json!({ "metadata": { "name": "b", "namespace": "a", "uid": "v" }, "spec": spec })).unwrap()
    }
}

fn parent(key: Key) -> Parent {
    Parent { key, uid: "u".into(), labels: labels::of_share("projects") }
}

fn leads_out(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, ".." | ".") || part.starts_with(".lb~"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_share_is_judged_and_built(share in shares()) {
        let namespaces: BTreeMap<String, Namespace> =
            ["a", "b", "2000"].iter().map(|name| ((*name).to_owned(), Namespace::default())).collect();
        let key = Key::new(Kind::LustreShare, "", "projects");
        let seen = share::Seen { key: key.clone(), value: Value::Null, share, namespaces, bridges: Vec::new() };
        let valid = share::validate(&seen);
        prop_assert!(valid.grants.iter().all(|grant| !leads_out(&grant.sub_path)));
        let children = share::build::children(&seen.share, &parent(key), &valid.grants, &|_| true);
        let keys: std::collections::BTreeSet<_> = children.iter().map(|child| child.key.clone()).collect();
        prop_assert_eq!(keys.len(), children.len(), "no two objects have one name");
        for child in &children {
            prop_assert!(child.body["metadata"]["ownerReferences"][0]["uid"] == "u");
        }
    }

    #[test]
    fn every_bridge_is_judged_and_built(share in shares(), bridge in bridges()) {
        let Ok(accepted) = accept(&share, "a", &BTreeMap::new(), &bridge) else { return Ok(()) };
        prop_assert!(!leads_out(&accepted.directory));
        prop_assert!(accepted.accounts.iter().all(|account| !leads_out(&account.path)));
        match &accepted.acts {
            Acts::As((uid, gid)) => prop_assert!(*uid != 0 && *gid != 0),
            Acts::Within(allowed) => prop_assert!(!allowed.uids.is_empty() && !allowed.gids.is_empty()),
            Acts::Unknown => {}
        }
        let settings = Settings { object_server_image: "i".into(), image_pull_policy: "Never".into() };
        let key = Key::new(Kind::SwiftBridge, "a", "b");
        let children = bridge::build::children(&bridge, &parent(key), &accepted, &settings, &|_| true);
        for child in &children {
            if child.key.kind == Kind::ConfigMap {
                let config = child.body["data"]["object-server.toml"].as_str().unwrap();
                prop_assert!(config.parse::<toml::Table>().is_ok(), "{}", config);
            }
        }
    }
}
