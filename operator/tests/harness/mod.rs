//! A cluster in memory, and the operator's work in it, one pass at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use operator::cluster::cache::key_of;
use operator::cluster::{Cache, Key, Kind, Writer};
use operator::lease::Claim;
use operator::metrics::Metrics;
use operator::queue::Next;
use operator::{Settings, World};
use serde_json::{Value, json};

use crate::fake::Server;

pub(crate) struct Cluster {
    pub(crate) server: Server,
    pub(crate) world: World,
}

pub(crate) fn share(name: &str, spec: &Value) -> Value {
    let mut share = json!({
        "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "LustreShare", "metadata": { "name": name },
        "spec": { "backend": { "directory": { "hostPath": "/srv/x" } } },
    });
    share["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    share
}

pub(crate) fn bridge(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut bridge = json!({
        "apiVersion": "lustre-bridge.io/v1alpha1", "kind": "SwiftBridge",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "shareRef": { "name": "projects" }, "auth": { "credentials": { "secretRef": { "name": "users" } } } },
    });
    bridge["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    bridge
}

pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// As many shares as bridges, each share with three grants and a storage class.
pub(crate) fn crowd(server: &Server, count: usize) {
    let namespace = |n: usize| format!("team-{}", n % 50);
    for n in 0..50 {
        server.put("namespaces", &json!({ "metadata": { "name": namespace(n) } }));
    }
    for n in 0..count {
        let name = format!("share-{n}");
        let grant = |n: usize| json!({ "namespace": namespace(n), "subPath": "a", "claimName": name });
        let access = json!([grant(n), grant(n + 1), grant(n + 2)]);
        server.put("lustreshares", &share(&name, &json!({ "access": access, "provisioning": {} })));
        let spec = json!({
            "shareRef": { "name": name },
            "accounts": [{ "name": "AUTH_a", "directory": "a" }],
            "resources": { "requests": { "cpu": "500m", "memory": "1Gi" } },
        });
        server.put("swiftbridges", &bridge(&namespace(n), &format!("bridge-{n}"), &spec));
    }
}

/// How many objects of a kind have a condition, whatever it says, and how many of them say True.
pub(crate) fn conditions(server: &Server, plural: &str, kind: &str) -> (usize, usize) {
    let all = server.all(plural);
    let of = all.iter().map(|object| condition(object, kind)).filter(Value::is_object);
    of.fold((0, 0), |(said, yes), condition| (said + 1, yes + usize::from(condition["status"] == "True")))
}

fn world(server: &Server, claim: Claim) -> World {
    let cache = Arc::new(Cache::default());
    let writer = Writer::new(server.client(), claim, Arc::clone(&cache), Metrics::new());
    let settings =
        Settings { object_server_image: "object-server:test".into(), image_pull_policy: "Never".into() };
    World { cache, writer, settings }
}

impl Cluster {
    pub(crate) fn new(namespaces: &[&str]) -> Self {
        Self::with_claim(namespaces, Claim::for_ever())
    }

    pub(crate) fn without_claim(namespaces: &[&str]) -> Self {
        Self::with_claim(namespaces, Claim::default())
    }

    /// Around a server that is there.
    pub(crate) fn of(server: &Server) -> Self {
        Self { world: world(server, Claim::for_ever()), server: server.clone() }
    }

    fn with_claim(namespaces: &[&str], claim: Claim) -> Self {
        let server = Server::default();
        for name in namespaces {
            server.put("namespaces", &json!({ "metadata": { "name": name, "labels": { "name": name } } }));
        }
        Self { world: world(&server, claim), server }
    }

    /// A share with a bridge that serves, everything ready.
    pub(crate) async fn serving() -> Self {
        let cluster = Self::new(&["team-a", "other"]);
        cluster.put(&share(
            "projects",
            &json!({
                "access": [{ "namespace": "team-a", "subPath": "a" }], "provisioning": {},
            }),
        ));
        let accounts = json!([{ "name": "AUTH_a", "directory": "a" }]);
        let resources = json!({ "requests": { "cpu": "500m", "memory": "1Gi" } });
        cluster.put(&bridge("team-a", "objects", &json!({ "accounts": accounts, "resources": resources })));
        cluster.settle().await;
        cluster.driver();
        cluster.bind();
        cluster.settle().await;
        cluster.start_pods();
        cluster.settle().await;
        cluster
    }

    /// Another instance of the operator in the same cluster.
    pub(crate) fn restarted(&self) -> Self {
        Self { server: self.server.clone(), world: world(&self.server, Claim::for_ever()) }
    }

    pub(crate) fn put(&self, object: &Value) {
        let plural = if object["kind"] == "LustreShare" { "lustreshares" } else { "swiftbridges" };
        self.server.put(plural, object);
    }

    pub(crate) fn share(&self, name: &str) -> Value {
        self.server.get("lustreshares", "", name).unwrap()
    }

    pub(crate) fn bridge(&self, namespace: &str, name: &str) -> Value {
        self.server.get("swiftbridges", namespace, name).unwrap()
    }

    /// The volume controller: every claim is bound to its volume.
    pub(crate) fn bind(&self) {
        for (plural, namespace, name) in self.places(&["persistentvolumes", "persistentvolumeclaims"]) {
            self.server
                .change(&plural, &namespace, &name, |object| object["status"]["phase"] = json!("Bound"));
        }
    }

    /// The CSI controller: every directory is there and belongs to 2000.
    pub(crate) fn driver(&self) {
        for (plural, namespace, name) in self.places(&["lustreshares", "swiftbridges"]) {
            self.server.change(&plural, &namespace, &name, |object| {
                for kind in ["FilesystemReachable", "DirectoryReady"] {
                    let conditions = &mut object["status"]["conditions"];
                    if conditions.is_null() {
                        *conditions = json!([]);
                    }
                    conditions.as_array_mut().unwrap().push(json!({
                        "type": kind, "status": "True", "reason": "There", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }));
                }
                for grant in object["status"]["grants"].as_array_mut().into_iter().flatten() {
                    grant["uid"] = json!(2000);
                    grant["gid"] = json!(2000);
                }
            });
        }
    }

    /// The deployment controller: every pod answers.
    pub(crate) fn start_pods(&self) {
        for (plural, namespace, name) in self.places(&["deployments"]) {
            // As the API server spells it.
            self.server.change(&plural, &namespace, &name, |object| {
                object["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] =
                    json!("0.5");
            });
            self.server.change(&plural, &namespace, &name, |object| {
                let generation = object["metadata"]["generation"].clone();
                object["status"] = json!({
                    "observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
                    "availableReplicas": 1,
                });
            });
        }
    }

    fn places(&self, plurals: &[&str]) -> Vec<(String, String, String)> {
        let text =
            |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let all = plurals.iter().flat_map(|plural| {
            let objects = self.server.all(plural);
            objects
                .into_iter()
                .map(|object| ((*plural).to_owned(), text(&object, "namespace"), text(&object, "name")))
        });
        all.collect()
    }

    /// What the watches would bring.
    fn look(&self) {
        let cache = &self.world.cache;
        for kind in Kind::WATCHED {
            let mut seen = BTreeSet::new();
            for object in self.server.all(&kind.api().plural) {
                if kind.is_made_here()
                    && object["metadata"]["labels"]["app.kubernetes.io/managed-by"] != "lustre-bridge"
                {
                    continue;
                }
                let object = serde_json::from_value(object).unwrap();
                seen.insert(key_of(kind, &object));
                cache.put(kind, object);
            }
            cache.retain(kind, &seen);
            cache.set_ready(kind);
        }
    }

    /// Every share and bridge is reconciled once. Whether any is to be tried again.
    pub(crate) async fn pass(&self) -> bool {
        self.look();
        let mut again = false;
        let shares = self.world.cache.keys(Kind::LustreShare);
        for key in shares.into_iter().chain(self.world.cache.keys(Kind::SwiftBridge)) {
            again |= match self.reconcile(&key).await {
                Ok(next) => matches!(next, Next::Retry(_)),
                Err(_) => true,
            };
        }
        again
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, operator::cluster::WriteError> {
        match key.kind {
            Kind::LustreShare => operator::share::reconcile(&self.world, key).await,
            _ => operator::bridge::reconcile(&self.world, key).await,
        }
    }

    /// Passes, until one writes nothing. What was written before stays in the server's list of requests.
    pub(crate) async fn settle(&self) {
        for _ in 0..30 {
            let writes =
                || self.server.requests().iter().filter(|request| !request.starts_with("GET")).count();
            let before = writes();
            let again = self.pass().await;
            if !again && writes() == before {
                return;
            }
        }
        panic!("never at rest: {:?}", self.server.requests().iter().rev().take(20).collect::<Vec<_>>());
    }
}
