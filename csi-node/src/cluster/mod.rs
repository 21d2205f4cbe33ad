//! The driver in a cluster: shares come from the LustreShares, and the controller makes their directories.
//!
//! Three steps, the first two pure or nearly so: what should exist ([`plan`]), making it on one of the share's
//! threads ([`make`]), and saying what came of it ([`status`]), which writes nothing that is there already.

pub mod make;
pub mod plan;
pub mod status;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use crds::{LustreShare, SwiftBridge};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{Store, store};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::daemon::Parts;
use plan::Namespaces;
use worker::Worker;

/// An object of which it is not known whether it is of the form it should have: a bad one stops no other.
type Guarded<K> = DeserializeGuard<K>;

/// What the API server says, kept up to date.
#[derive(Clone)]
pub(crate) struct View {
    shares: Store<Guarded<LustreShare>>,
    bridges: Store<Guarded<SwiftBridge>>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
}

impl View {
    /// The shares that can be read.
    pub(crate) fn shares(&self) -> Vec<LustreShare> {
        self.shares.state().iter().filter_map(|share| share.0.as_ref().ok().cloned()).collect()
    }

    pub(crate) fn share(&self, name: &str) -> Option<LustreShare> {
        let found = self.shares.find(|share| share.name_any() == name)?;
        found.0.as_ref().ok().cloned()
    }

    pub(crate) fn bridges(&self, share: &str) -> Vec<SwiftBridge> {
        let readable = self.bridges.state();
        let readable = readable.iter().filter_map(|bridge| bridge.0.as_ref().ok());
        let mut of_share: Vec<_> =
            readable.filter(|bridge| bridge.spec.share_ref.name == share).cloned().collect();
        of_share.sort_by_key(|bridge| (bridge.namespace(), bridge.name_any()));
        of_share
    }

    pub(crate) fn namespaces(&self) -> Namespaces {
        let all = self.namespaces.state();
        // One that is going takes no new claims, but the volumes of its pods stay until they are gone.
        all.iter().map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect()
    }
}

/// Follows the LustreShares and, as a controller, makes what they and the bridges say. Ends with the task.
pub async fn run(client: Client, parts: Parts, node: String, controller: bool) {
    let changed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    let (shares, writer) = store();
    let all = Api::<Guarded<LustreShare>>::all(client.clone());
    follow(&mut watches, reflector(writer, watcher(all, watcher::Config::default())), &changed);
    let (bridges, bridge_writer) = store();
    let (namespaces, namespace_writer) = store();
    if controller {
        let all = Api::<Guarded<SwiftBridge>>::all(client.clone());
        follow(&mut watches, reflector(bridge_writer, watcher(all, watcher::Config::default())), &changed);
        let all = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        follow(&mut watches, reflector(namespace_writer, watcher(all, watcher::Config::default())), &changed);
    }
    let view = View { shares, bridges, namespaces };
    let mut workers = Workers { client, parts, node, view, running: HashMap::new(), tasks: JoinSet::new() };
    loop {
        if is_known(&workers.view.shares) {
            update(&workers.view, &workers.parts);
            // Without all namespaces a grant could look as if it were gone.
            if controller && is_known(&workers.view.bridges) && is_known(&workers.view.namespaces) {
                workers.wake();
            }
        }
        changed.notified().await;
    }
}

/// Whether all objects have been listed once.
fn is_known<K>(store: &Store<K>) -> bool
where
    K: kube::runtime::reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    store.wait_until_ready().now_or_never().is_some_and(|listed| listed.is_ok())
}

/// Watches until the set is dropped; whatever goes wrong is tried again, ever more slowly.
fn follow<T: Send + 'static>(
    watches: &mut JoinSet<()>,
    events: impl futures::Stream<Item = Result<T, watcher::Error>> + Send + 'static,
    changed: &Arc<Notify>,
) {
    let changed = Arc::clone(changed);
    let each = move |event: Result<T, watcher::Error>| {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot watch; trying again"),
        }
        futures::future::ready(())
    };
    watches.spawn(events.default_backoff().for_each(each));
}

/// The table of shares. One that cannot be used is left out, and the rest stays.
fn update(view: &View, parts: &Parts) {
    let specs = view.shares().into_iter().filter_map(|share| match plan::spec(&share) {
        Ok(spec) => Some((share.name_any(), spec)),
        Err(error) => {
            tracing::warn!(share = share.name_any(), %error, "a LustreShare cannot be used");
            None
        }
    });
    parts.shares.replace(specs);
}

/// One task for each share, so that one that hangs delays no other.
struct Workers {
    client: Client,
    parts: Parts,
    node: String,
    view: View,
    running: HashMap<String, Arc<Notify>>,
    tasks: JoinSet<()>,
}

impl Workers {
    fn wake(&mut self) {
        let names: Vec<_> = self.view.shares().iter().map(ResourceExt::name_any).collect();
        for name in names {
            if !self.running.contains_key(&name) {
                let call = self.start(&name);
                self.running.insert(name, call);
            }
        }
        self.running.values().for_each(|call| call.notify_one());
    }

    fn start(&mut self, name: &str) -> Arc<Notify> {
        let call = Arc::new(Notify::new());
        let worker = Worker::new(name, &self.client, &self.parts, &self.node, &self.view);
        self.tasks.spawn(worker.run(Arc::clone(&call)));
        self.parts.janitor.call(name);
        call
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
#[path = "../tests/cluster.rs"]
mod tests;
