//! What is kept of the cluster: every watched object as compact text, so that a thousand of them take little memory.
//!
//! A reconciliation reads only from here. What a write answered is put here too, so that the next one does not act on
//! what it has just changed; an event that is older than what is here is not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::api::{DynamicObject, TypeMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Key, Kind};

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Kept {
    text: Arc<str>,
    version: Option<u64>,
    /// The share or bridge that controls it.
    pub owner: Option<Owner>,
    /// The share that a bridge refers to.
    pub share: Option<String>,
}

/// What controls an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its uid.
    pub uid: String,
    /// Its kind and name.
    pub key: Key,
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub ends: bool,
}

/// What is kept of the cluster.
#[derive(Default, Debug)]
pub struct Cache(RwLock<Objects>);

#[derive(Default, Debug)]
struct Objects {
    kept: BTreeMap<Key, Kept>,
    owned: BTreeMap<String, BTreeSet<Key>>,
    namespaces: BTreeMap<String, Namespace>,
    ready: BTreeSet<Kind>,
}

impl Kept {
    /// The object, if it can be read as what it should be.
    pub fn parse<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_str(&self.text)
    }

    /// Whether it is this version of the object.
    pub fn is_of(&self, object: &DynamicObject) -> bool {
        self.version.is_some() && self.version == version_of(object)
    }

    /// The object as it is.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl Cache {
    /// Takes an object in; what the cache held before is returned.
    pub fn put(&self, kind: Kind, mut object: DynamicObject) -> Option<Kept> {
        object.metadata.managed_fields = None;
        // In lists the API server leaves it out.
        let api = kind.api();
        object.types = Some(TypeMeta { api_version: api.api_version, kind: api.kind });
        let metadata = &object.metadata;
        let key = key_of(kind, &object);
        let kept = Kept {
            version: version_of(&object),
            owner: owner_of(&object),
            share: object.data.pointer("/spec/shareRef/name").and_then(Value::as_str).map(str::to_owned),
            text: serde_json::to_string(&object).unwrap_or_default().into(),
        };
        let mut objects = self.write();
        if kind == Kind::Namespace {
            let labels = metadata.labels.clone().unwrap_or_default();
            let ends = metadata.deletion_timestamp.is_some();
            objects.namespaces.insert(key.name.clone(), Namespace { labels, ends });
        }
        objects.put(key, kept)
    }

    /// Lets go of an object.
    pub fn remove(&self, key: &Key) -> Option<Kept> {
        self.write().remove(key)
    }

    /// Lets go of all objects of a kind but these, and says which.
    pub fn retain(&self, kind: Kind, seen: &BTreeSet<Key>) -> Vec<(Key, Kept)> {
        let mut objects = self.write();
        let gone: Vec<Key> =
            objects.kept.keys().filter(|key| key.kind == kind && !seen.contains(key)).cloned().collect();
        gone.into_iter().filter_map(|key| objects.remove(&key).map(|kept| (key, kept))).collect()
    }

    /// Every object of a kind has been seen.
    pub fn set_ready(&self, kind: Kind) {
        self.write().ready.insert(kind);
    }

    /// The kind is not in the cluster any more.
    pub fn forget(&self, kind: Kind) {
        self.retain(kind, &BTreeSet::new());
        self.write().ready.remove(&kind);
    }

    /// Whether every object of a kind has been seen.
    pub fn is_ready(&self, kind: Kind) -> bool {
        self.read().ready.contains(&kind)
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Option<Kept> {
        self.read().kept.get(key).cloned()
    }

    /// The keys of all objects of a kind.
    pub fn keys(&self, kind: Kind) -> Vec<Key> {
        self.read().kept.keys().filter(|key| key.kind == kind).cloned().collect()
    }

    /// The bridges that refer to a share.
    pub fn bridges_of(&self, share: &str) -> Vec<Key> {
        let objects = self.read();
        let bridges = objects
            .kept
            .iter()
            .filter(|(key, kept)| key.kind == Kind::SwiftBridge && kept.share.as_deref() == Some(share));
        bridges.map(|(key, _)| key.clone()).collect()
    }

    /// What the object with this uid controls.
    pub fn owned_by(&self, uid: &str) -> Vec<Key> {
        self.read().owned.get(uid).into_iter().flatten().cloned().collect()
    }

    /// A namespace.
    pub fn namespace(&self, name: &str) -> Option<Namespace> {
        self.read().namespaces.get(name).cloned()
    }

    /// All namespaces.
    pub fn namespaces(&self) -> BTreeMap<String, Namespace> {
        self.read().namespaces.clone()
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.read().kept.keys().filter(|key| key.kind == kind).count()
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    fn put(&mut self, key: Key, kept: Kept) -> Option<Kept> {
        let old = self.kept.get(&key).cloned();
        // Versions of one kind come from one counter.
        if old.as_ref().is_some_and(|old| old.version > kept.version) {
            return old;
        }
        self.forget_owner(&key, old.as_ref());
        if let Some(owner) = &kept.owner {
            self.owned.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        self.kept.insert(key, kept);
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Kept> {
        let old = self.kept.remove(key);
        self.forget_owner(key, old.as_ref());
        if key.kind == Kind::Namespace {
            self.namespaces.remove(&key.name);
        }
        old
    }

    fn forget_owner(&mut self, key: &Key, old: Option<&Kept>) {
        let Some(owner) = old.and_then(|old| old.owner.as_ref()) else { return };
        if let Some(keys) = self.owned.get_mut(&owner.uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(&owner.uid);
            }
        }
    }
}

fn version_of(object: &DynamicObject) -> Option<u64> {
    object.metadata.resource_version.as_ref()?.parse().ok()
}

/// The key of an object that came from the API server.
pub fn key_of(kind: Kind, object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    Key::new(kind, metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The share or bridge that controls an object.
pub fn owner_of(object: &DynamicObject) -> Option<Owner> {
    let metadata = &object.metadata;
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let key = match owner.kind.as_str() {
        "LustreShare" => Key::new(Kind::LustreShare, "", &owner.name),
        "SwiftBridge" => Key::new(Kind::SwiftBridge, metadata.namespace.clone()?, &owner.name),
        _ => return None,
    };
    Some(Owner { uid: owner.uid.clone(), key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, version: &str, owner: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "a", "resourceVersion": version, "managedFields": [{ "manager": "m" }],
                "ownerReferences": [{ "apiVersion": "v1", "kind": "SwiftBridge", "name": "o", "uid": owner, "controller": true }],
            },
            "spec": { "shareRef": { "name": "s" } },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_older_than_what_is_kept_is_not_taken() {
        let cache = Cache::default();
        let key = Key::new(Kind::SwiftBridge, "a", "b");
        cache.put(Kind::SwiftBridge, object("b", "10", "x"));
        cache.put(Kind::SwiftBridge, object("b", "9", "y"));
        let kept = cache.get(&key).unwrap();
        assert_eq!(
            (kept.owner.clone().map(|owner| owner.uid), kept.share.as_deref()),
            (Some("x".to_owned()), Some("s"))
        );
        assert!(!kept.value().to_string().contains("managedFields"));
        assert_eq!(cache.bridges_of("s"), std::slice::from_ref(&key));
        assert_eq!(cache.owned_by("x"), std::slice::from_ref(&key));
        cache.put(Kind::SwiftBridge, object("b", "11", "y"));
        assert!(cache.owned_by("x").is_empty() && cache.owned_by("y") == [key.clone()]);
        cache.remove(&key);
        assert!(cache.owned_by("y").is_empty() && cache.bridges_of("s").is_empty());
    }

    #[test]
    fn a_new_list_lets_go_of_what_it_does_not_have() {
        let cache = Cache::default();
        cache.put(Kind::Service, object("old", "1", "x"));
        cache.put(Kind::ConfigMap, object("other", "1", "x"));
        let gone = cache.retain(Kind::Service, &BTreeSet::new());
        assert_eq!(gone.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>(), ["old"]);
        assert_eq!((cache.count(Kind::Service), cache.count(Kind::ConfigMap)), (0, 1));
    }
}
