//! Reconciliation against an API server in memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::similar_names,
    clippy::semicolon_if_nothing_returned,
    missing_docs,
    dead_code,
    reason = "also the helpers of tests may fail them, and not every test uses every helper"
)]

mod fake;
mod harness;

use std::path::Path;

use fake::Fault;
use harness::{Cluster, bridge, condition, share};
use object_server::config::{Config, Durability, IdentityMode};
use serde_json::{Value, json};

fn names(objects: &[Value]) -> Vec<String> {
    let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    objects.iter().map(|object| format!("{}/{}", text(object, "namespace"), text(object, "name"))).collect()
}

/// As the object server itself understands it.
fn understood(config: &Value) -> Config {
    Config::parse(
        config["data"]["object-server.toml"].as_str().unwrap(),
        Path::new("/etc/object-server.toml"),
    )
    .unwrap()
}

#[tokio::test]
async fn disks_have_a_class_of_their_own_and_a_class_that_changes_is_made_anew() {
    let cluster = Cluster::new(&[]);
    let provisioning = json!({
        "quota": "Advisory", "onDelete": "Archive", "virtualMachineDisks": { "allocation": "Thick" },
    });
    cluster.put(&share("projects", &json!({ "provisioning": provisioning })));
    cluster.settle().await;
    let parameters = |name| cluster.server.get("storageclasses", "", name).unwrap()["parameters"].clone();
    assert_eq!(parameters("projects")["quota"], "advisory");
    assert_eq!(
        parameters("projects-disks"),
        json!({
            "share": "projects", "directoryTemplate": "${pvc.namespace}/${pvc.name}-${pv.name}",
            "type": "disk", "allocation": "thick", "onDelete": "archive",
        })
    );
    // The API server changes no parameters.
    cluster.server.take_writes();
    cluster.server.fail(Fault { on: "PATCH /apis/storage.k8s.io/v1/storageclasses", code: 422, times: 1 });
    cluster.server.change("lustreshares", "", "projects", |share| {
        share["spec"]["provisioning"]["virtualMachineDisks"] = json!({ "storageClassName": "vm" });
        share["spec"]["provisioning"]["quota"] = json!("Enforced");
    });
    cluster.settle().await;
    assert_eq!(parameters("projects")["quota"], "enforced");
    assert_eq!(parameters("vm")["allocation"], "thin");
    assert!(cluster.server.get("storageclasses", "", "projects-disks").is_none());
    let deleted = "DELETE /apis/storage.k8s.io/v1/storageclasses/projects";
    assert!(cluster.server.take_writes().contains(&deleted.to_owned()));
}

#[tokio::test]
async fn a_share_becomes_volumes_claims_and_a_storage_class() {
    let cluster = Cluster::new(&["team-a", "team-b", "other"]);
    cluster.put(&share(
        "projects",
        &json!({
            "access": [
                { "namespace": "team-a", "subPath": "a" },
                { "namespace": "team-b", "mode": "ReadOnlyMany", "claimName": "reading" },
                { "namespace": "absent" },
            ],
            "provisioning": { "reclaimPolicy": "Delete" },
            "ownership": { "uid": 2000, "gid": 2001 },
        }),
    ));
    cluster.settle().await;
    assert_eq!(names(&cluster.server.all("persistentvolumeclaims")), ["team-a/projects", "team-b/reading"]);
    let class = cluster.server.get("storageclasses", "", "projects").unwrap();
    assert_eq!(class["provisioner"], "csi.lustre-bridge.io");
    assert_eq!(
        class["parameters"],
        json!({
            "share": "projects", "directoryTemplate": "${pvc.namespace}/${pvc.name}-${pv.name}",
            "uid": "2000", "gid": "2001", "mode": "2770", "quota": "enforced", "onDelete": "remove",
        })
    );
    assert_eq!(class["allowVolumeExpansion"], true);
    let volumes = cluster.server.all("persistentvolumes");
    let read_only = volumes.iter().find(|volume| volume["spec"]["csi"]["readOnly"] == true).unwrap();
    assert_eq!(read_only["spec"]["claimRef"]["name"], "reading");
    assert_eq!(read_only["spec"]["accessModes"], json!(["ReadOnlyMany"]));
    let handle = read_only["spec"]["csi"]["volumeHandle"].as_str().unwrap();
    assert_eq!(
        handle,
        format!("projects/{}", crds::names::grant_volume_id("projects", "team-b", "reading", "", true))
    );
    let share = cluster.share("projects");
    assert_eq!(share["metadata"]["finalizers"], json!(["lustre-bridge.io/in-use"]));
    assert_eq!(condition(&share, "AccessGranted")["reason"], "ClaimsPending");
    assert_eq!(condition(&share, "Ready")["reason"], "WaitingForDriver");
    assert_eq!(condition(&share, "Reconciling")["status"], "True");
    cluster.bind();
    cluster.driver();
    cluster.settle().await;
    let share = cluster.share("projects");
    assert_eq!(condition(&share, "Ready")["status"], "True", "{share}");
    assert!(condition(&share, "Reconciling").is_null());
    assert_eq!(share["status"]["grants"][0]["phase"], "Bound");
    assert_eq!(share["status"]["grants"][0]["uid"], 2000, "the driver's part stays");
    assert_eq!(share["status"]["backend"], "directory:/srv/x");
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() {
    let cluster = Cluster::serving().await;
    cluster.server.take_writes();
    for _ in 0..3 {
        cluster.pass().await;
    }
    assert_eq!(cluster.server.take_writes(), Vec::<String>::new());
    // A new instance, that remembers nothing, has nothing to write either.
    let other = cluster.restarted();
    other.pass().await;
    assert_eq!(other.server.take_writes(), Vec::<String>::new());
    assert!(other.server.requests().iter().all(|request| !request.contains("secrets")), "no Secret is read");
}

#[tokio::test]
async fn drift_is_repaired_and_what_the_api_server_insists_on_is_left_alone() {
    let cluster = Cluster::serving().await;
    cluster.server.change("deployments", "team-a", "objects-swift", |all| {
        all["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil");
    });
    cluster.server.delete("services", "team-a", "objects-swift");
    cluster.settle().await;
    let deployment = cluster.server.get("deployments", "team-a", "objects-swift").unwrap();
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "object-server:test");
    assert!(cluster.server.get("services", "team-a", "objects-swift").is_some());
}

#[tokio::test]
async fn a_bridge_becomes_an_object_server_with_no_more_rights_than_it_needs() {
    let cluster = Cluster::serving().await;
    let deployment = cluster.server.get("deployments", "team-a", "objects-swift").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], 2000);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "projects");
    assert_eq!(pod["volumes"][2]["secret"]["items"][0]["key"], "users.toml");
    let config = cluster.server.get("configmaps", "team-a", "objects-swift").unwrap();
    let config = understood(&config);
    assert_eq!(config.root, Path::new("/srv/objects"));
    assert_eq!(config.identity.mode, IdentityMode::Process);
    assert_eq!(config.durability, Durability::Full);
    assert_eq!(config.accounts["AUTH_a"], "a");
    assert!(!config.account_autocreate, "it lists its accounts");
    let policy = cluster.server.get("networkpolicies", "team-a", "objects-swift").unwrap();
    assert!(policy["spec"]["egress"].is_null() && policy["spec"]["policyTypes"][1] == "Egress");
    let bridge = cluster.bridge("team-a", "objects");
    for kind in ["Ready", "ShareAccepted", "DirectoryReady", "Available", "AuthReady"] {
        assert_eq!(condition(&bridge, kind)["status"], "True", "{kind} {bridge}");
    }
    assert_eq!(
        bridge["status"]["endpoints"],
        json!([{ "protocol": "swift", "url": "http://objects-swift.team-a.svc" }])
    );
    assert_eq!(bridge["status"]["readyReplicas"], 1);
    assert_eq!(cluster.share("projects")["status"]["bridges"], json!(["team-a/objects"]));
}

#[tokio::test]
async fn several_identities_take_a_grant_that_says_so() {
    let cluster = Cluster::new(&["team-a"]);
    cluster.put(&share(
        "projects",
        &json!({ "access": [{
        "namespace": "team-a", "bridges": "Many", "identities": { "uids": ["2000-2099"], "gids": ["2000"] },
    }] }),
    ));
    cluster.put(&bridge("team-a", "objects", &json!({
        "identity": { "mode": "Map", "mapRef": { "name": "people" } },
        "exposure": { "tls": { "secretRef": { "name": "certificate" } }, "publicUrl": "https://o.example.org" },
    })));
    cluster.settle().await;
    cluster.driver();
    cluster.settle().await;
    let deployment = cluster.server.get("deployments", "team-a", "objects-swift").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], 0);
    let capabilities = &pod["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(*capabilities, json!({ "drop": ["ALL"], "add": ["SETUID", "SETGID"] }));
    let config = cluster.server.get("configmaps", "team-a", "objects-swift").unwrap();
    let config = understood(&config);
    assert_eq!(config.identity.mode, IdentityMode::Map);
    assert!(config.identity.allows_uid(2099) && !config.identity.allows_uid(2100));
    assert!(config.account_autocreate, "it lists none");
    assert!(config.listen.is_empty() && config.tls.unwrap().listen[0].port() == 8443);
    assert_eq!(config.auth.public_url.as_deref(), Some("https://o.example.org"));
    let bridge = cluster.bridge("team-a", "objects");
    assert_eq!(bridge["status"]["endpoints"][0]["url"], "https://o.example.org");
    assert_eq!(condition(&bridge, "CertificateValid")["status"], "Unknown");
}

#[tokio::test]
async fn wrong_references_are_shown_and_what_is_no_longer_granted_is_taken_away() {
    let cluster = Cluster::serving().await;
    cluster.put(&bridge("other", "lost", &json!({ "shareRef": { "name": "absent" } })));
    cluster.put(&bridge("other", "stranger", &json!({})));
    cluster.settle().await;
    let reason = |namespace: &str, name: &str| {
        condition(&cluster.bridge(namespace, name), "ShareAccepted")["reason"].clone()
    };
    assert_eq!(reason("other", "lost"), "ShareNotFound");
    assert_eq!(reason("other", "stranger"), "NamespaceNotGranted");
    let stalled = condition(&cluster.bridge("other", "stranger"), "Stalled");
    assert!(stalled["message"].as_str().unwrap().contains("spec.access must name it"), "{stalled}");
    assert!(names(&cluster.server.all("deployments")).iter().all(|name| !name.starts_with("other")));
    cluster.server.change("lustreshares", "", "projects", |share| share["spec"]["access"] = json!([]));
    cluster.settle().await;
    assert_eq!(reason("team-a", "objects"), "NamespaceNotGranted");
    for plural in ["deployments", "services", "configmaps", "networkpolicies", "serviceaccounts"] {
        assert!(cluster.server.all(plural).is_empty(), "{plural}");
    }
    assert!(
        cluster.server.all("persistentvolumeclaims").is_empty()
            && cluster.server.all("persistentvolumes").is_empty()
    );
}

#[tokio::test]
async fn what_somebody_else_made_is_neither_changed_nor_deleted() {
    let cluster = Cluster::new(&["team-a", "team-b"]);
    let foreign = json!({ "metadata": { "namespace": "team-a", "name": "projects" }, "spec": { "volumeName": "theirs" } });
    cluster.server.put("persistentvolumeclaims", &foreign);
    cluster.put(&share(
        "projects",
        &json!({ "access": [{ "namespace": "team-a" }, { "namespace": "team-b" }] }),
    ));
    cluster.settle().await;
    let claim = cluster.server.get("persistentvolumeclaims", "team-a", "projects").unwrap();
    assert_eq!(claim["spec"], json!({ "volumeName": "theirs" }));
    let share = cluster.share("projects");
    assert_eq!(condition(&share, "AccessGranted")["reason"], "NameTaken");
    let said = condition(&share, "Stalled")["message"].clone();
    assert!(said.as_str().unwrap().contains("PersistentVolumeClaim team-a/projects exists"), "{said}");
    assert!(
        cluster.server.get("persistentvolumeclaims", "team-b", "projects").is_some(),
        "the others are made"
    );
}

#[tokio::test]
async fn a_claim_whose_volume_changed_is_made_anew_and_a_released_volume_too() {
    let cluster = Cluster::serving().await;
    cluster
        .server
        .change("lustreshares", "", "projects", |share| share["spec"]["access"][0]["subPath"] = json!("b"));
    cluster.settle().await;
    let claim = cluster.server.get("persistentvolumeclaims", "team-a", "projects").unwrap();
    let volumes = cluster.server.all("persistentvolumes");
    assert_eq!(volumes.len(), 1);
    assert_eq!(claim["spec"]["volumeName"], volumes[0]["metadata"]["name"]);
    let name = volumes[0]["metadata"]["name"].as_str().unwrap();
    cluster
        .server
        .change("persistentvolumes", "", name, |volume| volume["status"]["phase"] = json!("Released"));
    cluster.settle().await;
    assert!(cluster.server.get("persistentvolumes", "", name).unwrap()["status"].is_null());
}

#[tokio::test]
async fn a_storage_class_whose_parameters_changed_is_made_anew() {
    let cluster = Cluster::new(&[]);
    cluster.put(&share("projects", &json!({ "provisioning": {} })));
    cluster.settle().await;
    cluster
        .server
        .change("lustreshares", "", "projects", |share| share["spec"]["ownership"] = json!({ "uid": 7 }));
    cluster.server.take_writes();
    cluster.settle().await;
    assert_eq!(cluster.server.get("storageclasses", "", "projects").unwrap()["parameters"]["uid"], "7");
    assert!(cluster.server.take_writes().iter().any(|write| write.starts_with("DELETE")));
}

#[tokio::test]
async fn a_share_stays_while_it_is_used_and_names_its_users() {
    let cluster = Cluster::serving().await;
    let pod = |name: &str, phase: &str| {
        json!({
            "metadata": { "namespace": "team-a", "name": name }, "status": { "phase": phase },
            "spec": { "volumes": [{ "persistentVolumeClaim": { "claimName": "projects" } }] },
        })
    };
    cluster.server.put("pods", &pod("job", "Running"));
    cluster.server.put("pods", &pod("done", "Succeeded"));
    let handle = crds::names::volume_handle("projects", &crds::names::request_volume_id("pvc-1"));
    cluster.server.put("persistentvolumes", &json!({
        "metadata": { "name": "pvc-1" }, "status": { "phase": "Bound" },
        "spec": { "csi": { "driver": "csi.lustre-bridge.io", "volumeHandle": handle }, "claimRef": { "namespace": "team-a", "name": "data" } },
    }));
    cluster.server.delete("lustreshares", "", "projects");
    cluster.settle().await;
    let said = condition(&cluster.share("projects"), "InUse")["message"].as_str().unwrap().to_owned();
    for user in ["SwiftBridge team-a/objects", "Pod team-a/job", "PersistentVolumeClaim team-a/data"] {
        assert!(said.contains(user), "{said}");
    }
    assert!(!said.contains("done"), "{said}");
    cluster.server.delete("swiftbridges", "team-a", "objects");
    cluster.server.delete("pods", "team-a", "job");
    cluster.settle().await;
    assert!(cluster.server.get("lustreshares", "", "projects").is_some(), "a claim is left");
    cluster.server.delete("persistentvolumes", "", "pvc-1");
    cluster.settle().await;
    assert!(cluster.server.get("lustreshares", "", "projects").is_none());
    cluster.server.collect();
    for plural in
        ["persistentvolumes", "persistentvolumeclaims", "storageclasses", "deployments", "configmaps"]
    {
        assert!(cluster.server.all(plural).is_empty(), "{plural}");
    }
}

#[tokio::test]
async fn one_bad_object_stops_no_other() {
    let cluster = Cluster::new(&["team-a"]);
    let mut wrong = share("wrong", &json!({}));
    wrong["spec"] = json!({ "backend": 7, "access": "everybody" });
    cluster.put(&wrong);
    let mut bad = bridge("team-a", "bad", &json!({}));
    bad["spec"] = json!({ "shareRef": { "name": "wrong" }, "replicas": "many" });
    cluster.put(&bad);
    cluster.put(&bridge("team-a", "of-wrong", &json!({ "shareRef": { "name": "wrong" } })));
    cluster.put(&share("right", &json!({ "access": [{ "namespace": "team-a" }] })));
    cluster.settle().await;
    assert_eq!(condition(&cluster.share("wrong"), "Stalled")["reason"], "InvalidSpec");
    assert_eq!(condition(&cluster.bridge("team-a", "bad"), "Stalled")["reason"], "InvalidSpec");
    assert_eq!(names(&cluster.server.all("persistentvolumeclaims")), ["team-a/right"]);
}

#[tokio::test]
async fn refusals_of_single_objects_are_shown_and_passing_troubles_pass() {
    let cluster = Cluster::new(&["team-a", "team-b"]);
    cluster.server.fail(Fault {
        on: "PATCH /api/v1/namespaces/team-a/persistentvolumeclaims",
        code: 403,
        times: 1,
    });
    cluster.put(&share(
        "projects",
        &json!({ "access": [{ "namespace": "team-a" }, { "namespace": "team-b" }] }),
    ));
    cluster.pass().await;
    cluster.pass().await;
    assert_eq!(condition(&cluster.share("projects"), "AccessGranted")["reason"], "NotApplied");
    assert!(cluster.server.get("persistentvolumeclaims", "team-b", "projects").is_some());
    cluster.settle().await;
    assert!(cluster.server.get("persistentvolumeclaims", "team-a", "projects").is_some());
    for code in [409, 429, 500] {
        let cluster = Cluster::new(&["team-a"]);
        cluster.server.fail(Fault { on: "PATCH", code, times: 3 });
        cluster.put(&share("projects", &json!({ "access": [{ "namespace": "team-a" }] })));
        cluster.settle().await;
        assert!(cluster.server.get("persistentvolumeclaims", "team-a", "projects").is_some(), "{code}");
    }
}

#[tokio::test]
async fn a_suspended_object_is_left_alone() {
    let cluster = Cluster::serving().await;
    cluster
        .server
        .change("swiftbridges", "team-a", "objects", |bridge| bridge["spec"]["suspend"] = json!(true));
    cluster.server.change("lustreshares", "", "projects", |share| share["spec"]["suspend"] = json!(true));
    cluster.server.delete("services", "team-a", "objects-swift");
    cluster.server.take_writes();
    cluster.settle().await;
    assert_eq!(cluster.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_secret_that_cannot_be_mounted_is_named() {
    let cluster = Cluster::new(&["team-a"]);
    cluster.put(&share("projects", &json!({ "access": [{ "namespace": "team-a" }] })));
    cluster.put(&bridge("team-a", "objects", &json!({})));
    cluster.settle().await;
    cluster.driver();
    cluster.settle().await;
    cluster.server.put(
        "pods",
        &json!({ "metadata": {
        "namespace": "team-a", "name": "objects-swift-1",
        "labels": { "lustre-bridge.io/bridge": "objects", "app.kubernetes.io/name": "object-server" },
    }, "status": { "containerStatuses": [{ "state": { "waiting": { "reason": "ContainerCreating" } } }] } }),
    );
    cluster.server.put(
        "events",
        &json!({
            "metadata": { "namespace": "team-a", "name": "e" },
            "message": "MountVolume.SetUp failed for volume \"auth\" : secret \"users\" not found",
        }),
    );
    cluster.settle().await;
    let bridge = cluster.bridge("team-a", "objects");
    let auth = condition(&bridge, "AuthReady");
    assert_eq!((&auth["status"], &auth["reason"]), (&json!("False"), &json!("SecretNotMounted")));
    assert_eq!(condition(&bridge, "Ready")["reason"], "SecretNotMounted");
    assert_eq!(condition(&bridge, "Available")["reason"], "ContainerCreating");
}

#[tokio::test]
async fn who_does_not_lead_writes_nothing() {
    let cluster = Cluster::without_claim(&["team-a"]);
    cluster.put(&share("projects", &json!({ "access": [{ "namespace": "team-a" }] })));
    for _ in 0..3 {
        cluster.pass().await;
    }
    assert_eq!(cluster.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_observed_is_told_in_events() {
    let cluster = Cluster::serving().await;
    for name in ["projects", "objects"] {
        let events = cluster.server.all("events");
        let of = events.iter().find(|event| event["regarding"]["name"] == name).unwrap();
        assert!(of["metadata"]["name"].as_str().unwrap().starts_with(&format!("{name}-")), "{of}");
        assert!(of["note"].is_string() && of["reason"].is_string(), "{of}");
    }
}

#[tokio::test]
async fn the_addresses_of_a_load_balancer_are_told() {
    let cluster = Cluster::new(&["team-a"]);
    cluster.put(&share("projects", &json!({ "access": [{ "namespace": "team-a" }] })));
    let exposure = json!({ "service": { "type": "LoadBalancer" } });
    cluster.put(&bridge("team-a", "objects", &json!({ "exposure": exposure })));
    cluster.settle().await;
    cluster.driver();
    cluster.settle().await;
    let urls = || {
        let bridge = cluster.bridge("team-a", "objects");
        let endpoints = bridge["status"]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|endpoint| endpoint["url"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(urls(), ["http://objects-swift.team-a.svc"]);
    cluster.server.change("services", "team-a", "objects-swift", |service| {
        service["status"]["loadBalancer"]["ingress"] =
            json!([{ "hostname": "lb.example.org", "ip": "192.0.2.1" }, { "ip": "192.0.2.2" }, { "ip": "2001:db8::1" }]);
    });
    cluster.settle().await;
    assert_eq!(
        urls(),
        [
            "http://lb.example.org",
            "http://192.0.2.2",
            "http://[2001:db8::1]",
            "http://objects-swift.team-a.svc"
        ]
    );
}

#[tokio::test]
async fn what_the_driver_has_against_a_share_is_why_it_is_not_ready() {
    let cluster = Cluster::new(&["team-a"]);
    cluster.put(&share("projects", &json!({ "access": [{ "namespace": "team-a" }] })));
    cluster.settle().await;
    cluster.bind();
    let says = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "as the test wants it",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    for (reachable, directory, status, reason) in [
        // What is wrong counts before what is not known.
        (["False", "NotReachable"], ["Unknown", "NotKnown"], "False", "NotReachable"),
        (["Unknown", "OtherNode"], ["True", "Exists"], "Unknown", "OtherNode"),
        (["True", "Answers"], ["True", "Exists"], "True", "AsSpecified"),
    ] {
        cluster.server.change("lustreshares", "", "projects", |share| {
            let conditions = share["status"]["conditions"].as_array_mut().unwrap();
            let ours = ["FilesystemReachable", "DirectoryReady"];
            conditions.retain(|one| !ours.contains(&one["type"].as_str().unwrap()));
            conditions.push(says(ours[0], reachable[0], reachable[1]));
            conditions.push(says(ours[1], directory[0], directory[1]));
        });
        cluster.settle().await;
        let ready = condition(&cluster.share("projects"), "Ready");
        assert_eq!((&ready["status"], &ready["reason"]), (&json!(status), &json!(reason)));
    }
}

#[tokio::test]
async fn what_is_going_is_waited_for() {
    let cluster = Cluster::serving().await;
    let place = ("persistentvolumeclaims", "team-a", "projects");
    // A pod has it.
    cluster.server.change(place.0, place.1, place.2, |claim| {
        claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    });
    cluster.server.change("lustreshares", "", "projects", |share| {
        share["spec"]["access"][0]["subPath"] = json!("b");
    });
    cluster.settle().await;
    let going = cluster.server.get(place.0, place.1, place.2).unwrap();
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    assert_eq!(cluster.share("projects")["status"]["grants"][0]["phase"], "Terminating");
    cluster.server.take_writes();
    for _ in 0..3 {
        cluster.pass().await;
    }
    assert_eq!(cluster.server.take_writes(), Vec::<String>::new(), "it is not deleted again");
    cluster.server.change(place.0, place.1, place.2, |claim| claim["metadata"]["finalizers"] = json!([]));
    cluster.server.delete(place.0, place.1, place.2);
    cluster.settle().await;
    let anew = cluster.server.get(place.0, place.1, place.2).unwrap();
    assert_ne!(anew["spec"]["volumeName"], going["spec"]["volumeName"]);
    assert!(anew["metadata"]["deletionTimestamp"].is_null(), "{anew}");
    // The same of what is wanted no more.
    cluster.server.change(place.0, place.1, place.2, |claim| {
        claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    });
    cluster.server.change("lustreshares", "", "projects", |share| share["spec"]["access"] = json!([]));
    cluster.settle().await;
    assert!(cluster.server.get(place.0, place.1, place.2).is_some());
    cluster.server.take_writes();
    for _ in 0..3 {
        cluster.pass().await;
    }
    assert_eq!(cluster.server.take_writes(), Vec::<String>::new());
}
