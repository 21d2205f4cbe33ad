//! Writing: nothing is written that is there already, nothing by an instance that does not lead, and nothing over
//! what somebody else made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use serde_json::{Value, json};
use thiserror::Error;

use super::cache::Owner;
use super::same::{digest, holds};
use super::{Cache, Key, Kind};
use crate::child::{self, Child};
use crate::lease::Claim;
use crate::metrics::Metrics;

/// Why something was not written or read.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Another instance leads.
    #[error("this instance does not lead")]
    NotLeading,
    /// The API server said no, or nothing.
    #[error("cannot {verb} {key}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// With what.
        key: Key,
        /// What came back.
        source: Box<kube::Error>,
    },
}

impl WriteError {
    /// The API server's status, if it gave one.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::NotLeading => None,
        }
    }

    /// The API server's code.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    /// What the API server said, for people.
    pub fn said(&self) -> String {
        match (self.status(), self) {
            (Some(status), _) => status.message.clone(),
            (None, Self::Api { source, .. }) => source.to_string(),
            (None, Self::NotLeading) => self.to_string(),
        }
    }

    /// Whether it is about the one object, so that others may still be written.
    pub fn is_of_the_object(&self) -> bool {
        self.status().is_some_and(|status| matches!(status.code, 400 | 403 | 404 | 409 | 422))
    }

    /// When to come again, if the API server said that.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }
}

/// Writes what one instance may write.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    claim: Claim,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    /// What each object was like after it was last applied, and for what: the API server may change what was wanted,
    /// and applying it again would change nothing.
    settled: Arc<Mutex<HashMap<Key, (u64, u64)>>>,
}

/// What became of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is as wanted.
    Same,
    /// It was written.
    Written,
    /// It is in the way, and goes; it will be made anew.
    Replacing,
    /// Its name is taken by something that is not the owner's.
    Taken,
}

impl Writer {
    /// A writer.
    pub fn new(client: Client, claim: Claim, cache: Arc<Cache>, metrics: Arc<Metrics>) -> Self {
        Self { client, claim, cache, metrics, settled: Arc::default() }
    }

    /// Makes an object what it should be.
    pub async fn ensure(&self, child: &Child) -> Result<Outcome, WriteError> {
        let Some(kept) = self.cache.get(&child.key) else { return self.ensure_unseen(child).await };
        if is_taken(child, kept.owner.as_ref()) {
            return Ok(Outcome::Taken);
        }
        let actual = kept.value();
        if actual["metadata"]["deletionTimestamp"].is_string() {
            return Ok(Outcome::Replacing);
        }
        if child::is_in_the_way(child.key.kind, &actual, &child.body) {
            self.delete(&child.key, actual["metadata"]["uid"].as_str()).await?;
            return Ok(Outcome::Replacing);
        }
        if holds(&actual, &child.body) || self.is_settled(child, &actual) {
            return Ok(Outcome::Same);
        }
        self.apply(child).await
    }

    /// What is not watched may be there all the same: another's, or ours without its label.
    async fn ensure_unseen(&self, child: &Child) -> Result<Outcome, WriteError> {
        match self.get(&child.key).await? {
            Some(object) if is_taken(child, super::cache::owner_of(&object).as_ref()) => Ok(Outcome::Taken),
            Some(object) if object.metadata.deletion_timestamp.is_some() => Ok(Outcome::Replacing),
            _ => self.apply(child).await,
        }
    }

    async fn apply(&self, child: &Child) -> Result<Outcome, WriteError> {
        let parameters = PatchParams::apply(crds::OPERATOR).force();
        self.check("apply", &child.key)?;
        let applied =
            self.api(&child.key).patch(&child.key.name, &parameters, &Patch::Apply(&child.body)).await;
        let object = applied.map_err(|source| failed("apply", &child.key, source))?;
        tracing::info!(object = %child.key, "applied");
        self.settle(child, &json!(object));
        self.cache.put(child.key.kind, object);
        Ok(Outcome::Written)
    }

    fn is_settled(&self, child: &Child, actual: &Value) -> bool {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.get(&child.key) == Some(&(digest(&child.body), digest(actual)))
    }

    fn settle(&self, child: &Child, actual: &Value) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the few that the API server changes are worth remembering.
        if holds(actual, &child.body) {
            settled.remove(&child.key);
        } else {
            settled.insert(child.key.clone(), (digest(&child.body), digest(actual)));
        }
    }

    /// Deletes an object, if it is still the one with this uid. One that is gone is as good.
    pub async fn delete(&self, key: &Key, uid: Option<&str>) -> Result<(), WriteError> {
        self.check("delete", key)?;
        let uid = uid.map(str::to_owned);
        let parameters =
            DeleteParams::background().preconditions(Preconditions { uid, ..Preconditions::default() });
        let deleted = self.api(key).delete(&key.name, &parameters).await;
        match deleted {
            Ok(_) => tracing::info!(object = %key, "deleted"),
            Err(kube::Error::Api(status)) if status.is_not_found() => drop(self.cache.remove(key)),
            Err(source) => return Err(failed("delete", key, source)),
        }
        Ok(())
    }

    /// Says what is observed of a share or a bridge: the operator's part of its status.
    pub async fn status(&self, key: &Key, status: &Value) -> Result<(), WriteError> {
        self.check("update the status of", key)?;
        let api = key.kind.api();
        let body = json!({
            "apiVersion": api.api_version, "kind": api.kind,
            "metadata": { "name": key.name }, "status": status,
        });
        let parameters = PatchParams::apply(crds::OPERATOR).force();
        let patched = self.api(key).patch_status(&key.name, &parameters, &Patch::Apply(&body)).await;
        let object = patched.map_err(|source| failed("update the status of", key, source))?;
        self.cache.put(key.kind, object);
        Ok(())
    }

    /// Sets the finalizers of an object, if it is still of this version.
    pub async fn finalizers(
        &self,
        key: &Key,
        version: Option<&str>,
        finalizers: &[String],
    ) -> Result<(), WriteError> {
        self.check("set the finalizers of", key)?;
        let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } });
        let parameters =
            PatchParams { field_manager: Some(crds::OPERATOR.to_owned()), ..PatchParams::default() };
        let patched = self.api(key).patch(&key.name, &parameters, &Patch::Merge(&patch)).await;
        let object = patched.map_err(|source| failed("set the finalizers of", key, source))?;
        self.cache.put(key.kind, object);
        Ok(())
    }

    /// Tells of a share or a bridge. Failing is not worth more than a line in the log.
    pub async fn tell(&self, of: &Value, warning: bool, reason: &str, note: &str) {
        let key = Key::new(Kind::Event, event_namespace(of), String::new());
        if self.check("create", &key).is_err() {
            return;
        }
        let event: Result<DynamicObject, _> = serde_json::from_value(event(of, warning, reason, note));
        let Ok(event) = event else { return };
        if let Err(error) = self.api(&key).create(&PostParams::default(), &event).await {
            tracing::warn!(%error, reason, "cannot tell of an event");
        }
    }

    /// Reads one object from the API server.
    pub async fn get(&self, key: &Key) -> Result<Option<DynamicObject>, WriteError> {
        self.api(key).get_opt(&key.name).await.map_err(|source| failed("get", key, source))
    }

    /// Reads objects from the API server that are not watched.
    pub async fn list(
        &self,
        api: &ApiResource,
        namespace: &str,
        of: &ListParams,
    ) -> Result<Vec<DynamicObject>, WriteError> {
        let objects: Api<DynamicObject> = match namespace {
            "" => Api::all_with(self.client.clone(), api),
            namespace => Api::namespaced_with(self.client.clone(), namespace, api),
        };
        let mut all = Vec::new();
        let mut page = of.clone().limit(500);
        loop {
            let list = objects.list(&page).await;
            let list =
                list.map_err(|source| failed("list", &Key::new(Kind::Namespace, "", namespace), source))?;
            all.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    fn api(&self, key: &Key) -> Api<DynamicObject> {
        match key.namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &key.kind.api()),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &key.kind.api()),
        }
    }

    /// Before each write: whether this instance still leads.
    fn check(&self, verb: &'static str, key: &Key) -> Result<(), WriteError> {
        if !self.claim.holds() {
            return Err(WriteError::NotLeading);
        }
        self.metrics.wrote(verb, key.kind);
        Ok(())
    }
}

/// Whether an object that is there belongs to somebody else.
fn is_taken(child: &Child, owner: Option<&Owner>) -> bool {
    match owner {
        Some(owner) => owner.uid != child.owner,
        None => !child.key.kind.is_shared(),
    }
}

fn failed(verb: &'static str, key: &Key, source: kube::Error) -> WriteError {
    WriteError::Api { verb, key: key.clone(), source: Box::new(source) }
}

/// Events of what has no namespace are in `default`.
fn event_namespace(of: &Value) -> &str {
    of["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn event(of: &Value, warning: bool, reason: &str, note: &str) -> Value {
    let metadata = &of["metadata"];
    let regarding = ObjectReference {
        api_version: of["apiVersion"].as_str().map(str::to_owned),
        kind: of["kind"].as_str().map(str::to_owned),
        name: metadata["name"].as_str().map(str::to_owned),
        namespace: metadata["namespace"].as_str().map(str::to_owned),
        uid: metadata["uid"].as_str().map(str::to_owned),
        ..ObjectReference::default()
    };
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {
            // It may end in a hyphen, and in nothing else.
            "generateName": format!("{}-", metadata["name"].as_str().unwrap_or("lustre-bridge")),
            "namespace": event_namespace(of),
        },
        "eventTime": format!("{:.6}", jiff::Timestamp::now()),
        "reportingController": crds::OPERATOR, "reportingInstance": crds::OPERATOR,
        "action": "Reconcile", "reason": reason, "type": if warning { "Warning" } else { "Normal" },
        // The API server takes 1 kB.
        "note": note.chars().take(250).collect::<String>(), "regarding": regarding,
    })
}
