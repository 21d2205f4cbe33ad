//! Watching: what happens in the cluster becomes what is kept of it, and work for whom it concerns.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_kind};
use kube::{Client, ResourceExt};

use super::cache::{Kept, key_of};
use super::{Cache, Key, Kind};
use crate::metrics::Metrics;
use crate::queue::Queue;

/// How often it is looked whether an optional API has appeared.
const DISCOVERY: Duration = Duration::from_mins(1);

/// Takes in what happens to objects.
#[derive(Clone, Debug)]
pub struct Watching {
    /// What is kept.
    pub cache: Arc<Cache>,
    /// Who has work to do.
    pub queue: Arc<Queue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Watching {
    /// Watches a kind, for ever, or until an optional one is no more. A kind that does not exist yet, an API server that
    /// is away or a history that is gone are all the same: it is tried again, ever more slowly.
    pub async fn run(self, client: Client, kind: Kind) {
        let mut config = watcher::Config::default().page_size(100);
        if kind.is_made_here() {
            config = config.labels(&format!("{}={}", crate::labels::MANAGED_BY, crate::labels::PRODUCT));
        }
        let api: Api<DynamicObject> = Api::all_with(client, &kind.api());
        let mut events = pin!(watch_kind(api, config).default_backoff());
        let mut seen = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(kind, &mut seen, event),
                Err(error) if is_no_more(kind, &error) => {
                    tracing::info!(kind = kind.name(), "the cluster has it no more");
                    self.cache.forget(kind);
                    return;
                }
                Err(error) => {
                    self.metrics.watch_failed(kind);
                    tracing::warn!(kind = kind.name(), %error, "cannot watch; trying again");
                }
            }
        }
    }

    /// Watches a kind once its API exists.
    pub async fn run_when_there(self, client: Client, kind: Kind) {
        let api = kind.api();
        let path = format!("/apis/{}/{}", api.group, api.version);
        loop {
            let request = http::Request::get(&path).body(Vec::new());
            let found = match request {
                Ok(request) => client.request_text(request).await,
                Err(_) => return,
            };
            if found.is_ok_and(|text| text.contains(&format!("\"{}\"", api.plural))) {
                self.clone().run(client.clone(), kind).await;
            }
            tokio::time::sleep(DISCOVERY).await;
        }
    }

    fn take(&self, kind: Kind, seen: &mut BTreeSet<Key>, event: Event<DynamicObject>) {
        match event {
            Event::Init => seen.clear(),
            Event::InitApply(object) => {
                let key = key_of(kind, &object);
                seen.insert(key.clone());
                // What happened while nobody watched may be in the answer to a write already.
                self.put(kind, object);
                self.wake_of(&key);
            }
            Event::InitDone => {
                for (key, kept) in self.cache.retain(kind, &std::mem::take(seen)) {
                    self.wake(&key, &kept);
                }
                let late = Kind::OPTIONAL.contains(&kind) && !self.cache.is_ready(kind);
                self.cache.set_ready(kind);
                if late {
                    self.wake_all();
                }
            }
            Event::Apply(object) => self.put(kind, object),
            Event::Delete(object) => {
                let key = key_of(kind, &object);
                if let Some(kept) = self.cache.remove(&key) {
                    self.wake(&key, &kept);
                }
            }
        }
    }

    fn put(&self, kind: Kind, mut object: DynamicObject) {
        object.managed_fields_mut().clear();
        let key = key_of(kind, &object);
        // The answer to a write of ours is kept already. What is older than that came from somebody else, just before
        // the write, and nobody has acted on it.
        let known = self.cache.get(&key).is_some_and(|kept| kept.is_of(&object));
        let old = self.cache.put(kind, object);
        if known {
            return;
        }
        self.wake_of(&key);
        let owner = self.cache.get(&key).and_then(|new| new.owner);
        if let Some(old) = old.filter(|old| old.owner != owner) {
            self.wake(&key, &old);
        }
    }

    /// Gives work to whom an object concerns as it is now.
    fn wake_of(&self, key: &Key) {
        if let Some(kept) = self.cache.get(key) {
            self.wake(key, &kept);
        }
    }

    /// What the cluster offers now may be what anybody waited for.
    fn wake_all(&self) {
        for kind in [Kind::LustreShare, Kind::SwiftBridge] {
            self.cache.keys(kind).into_iter().for_each(|key| self.queue.add(key));
        }
    }

    /// Gives work to whom a change concerns.
    fn wake(&self, key: &Key, kept: &Kept) {
        for target in concerned(&self.cache, key, kept) {
            self.queue.add(target);
        }
    }
}

/// Whether an optional kind was taken out of the cluster.
fn is_no_more(kind: Kind, error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source)) = error else {
        return false;
    };
    Kind::OPTIONAL.contains(&kind) && matches!(source, kube::Error::Api(status) if status.code == 404)
}

/// Whom a change of an object concerns.
fn concerned(cache: &Cache, key: &Key, kept: &Kept) -> Vec<Key> {
    match key.kind {
        Kind::LustreShare => {
            let mut all = cache.bridges_of(&key.name);
            all.push(key.clone());
            all
        }
        Kind::SwiftBridge => {
            let share = kept.share.iter().map(|share| Key::new(Kind::LustreShare, "", share));
            share.chain([key.clone()]).collect()
        }
        // A label may select it, anywhere.
        Kind::Namespace => {
            let bridges =
                cache.keys(Kind::SwiftBridge).into_iter().filter(|bridge| bridge.namespace == key.name);
            bridges.chain(cache.keys(Kind::LustreShare)).collect()
        }
        _ => kept.owner.iter().map(|owner| owner.key.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A bridge of this version.
    fn bridge(version: &str) -> DynamicObject {
        let metadata = json!({ "name": "b", "namespace": "a", "resourceVersion": version });
        serde_json::from_value(json!({ "metadata": metadata, "spec": {} })).unwrap()
    }

    #[tokio::test]
    async fn what_others_did_just_before_a_write_of_ours_is_acted_on() {
        let watching = Watching { cache: Arc::default(), queue: Arc::default(), metrics: Metrics::new() };
        let take =
            |version| watching.take(Kind::SwiftBridge, &mut BTreeSet::new(), Event::Apply(bridge(version)));
        take("1");
        let key = watching.queue.next().await;
        watching.queue.done(key, crate::queue::Next::Rest);
        // Somebody else's write is version 2, ours version 3, and its answer is here first.
        watching.cache.put(Kind::SwiftBridge, bridge("3"));
        take("3");
        assert_eq!(watching.queue.waiting(), 0, "our own");
        take("2");
        assert_eq!(watching.queue.waiting(), 1);
    }
}
