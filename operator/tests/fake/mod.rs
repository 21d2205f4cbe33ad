//! An API server in memory: objects, versions, server-side apply, finalizers, watches, and faults on demand.

pub(crate) mod wire;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Plural, namespace, name.
pub(crate) type Place = (String, String, String);

/// The server. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Place, Value>,
    applied: BTreeMap<(Place, String), Value>,
    requests: Vec<String>,
    faults: Vec<Fault>,
    /// Plurals of optional kinds that it has.
    offered: Vec<&'static str>,
    /// Those that it had.
    withdrawn: Vec<&'static str>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    /// What happened, by version and plural: a watch begins with what happened since its list.
    history: Vec<(u64, String, Value)>,
}

/// What goes wrong, for requests whose method and path contain a text.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) on: &'static str,
    pub(crate) code: u16,
    pub(crate) times: usize,
}

/// A path, taken apart.
struct Path {
    plural: String,
    namespace: String,
    name: String,
    sub: String,
}

impl Path {
    fn new(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3.min(parts.len())..] };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let at = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        Self { plural: at(0), namespace: namespace.to_owned(), name: at(1), sub: at(2) }
    }

    fn place(&self) -> Place {
        (self.plural.clone(), self.namespace.clone(), self.name.clone())
    }
}

impl Server {
    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Puts an object there, as somebody else would.
    pub(crate) fn put(&self, plural: &str, object: &Value) {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        self.state().store(&(plural.to_owned(), text("namespace"), text("name")), object.clone());
    }

    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(plural.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Changes an object, as somebody else would.
    pub(crate) fn change(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let place = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut state = self.state();
        let mut object = state.objects[&place].clone();
        change(&mut object);
        state.store(&place, object);
    }

    /// Deletes an object, as somebody else would.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.state().delete(&(plural.to_owned(), namespace.to_owned(), name.to_owned()));
    }

    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.state();
        state
            .objects
            .iter()
            .filter(|(place, _)| place.0 == plural)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.state().objects.len()
    }

    /// Every request so far, as `METHOD path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Every request so far that changes something; they are forgotten.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        let requests = std::mem::take(&mut self.state().requests);
        requests.into_iter().filter(|request| !request.starts_with("GET")).collect()
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// From now on nothing goes wrong.
    pub(crate) fn mend(&self) {
        self.state().faults.clear();
    }

    /// Everything whose owner is gone goes, as the garbage collector would see to.
    pub(crate) fn collect(&self) {
        let mut state = self.state();
        let uids: Vec<String> = state.objects.values().map(uid).collect();
        let orphans: Vec<Place> = state
            .objects
            .iter()
            .filter(|(_, object)| {
                let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                owners
                    .iter()
                    .any(|owner| !uids.contains(&owner["uid"].as_str().unwrap_or_default().to_owned()))
            })
            .map(|(place, _)| place.clone())
            .collect();
        for place in orphans {
            state.delete(&place);
        }
    }

    /// From now on it has this kind.
    pub(crate) fn offer(&self, plural: &'static str) {
        self.state().offered.push(plural);
    }

    /// It has this kind no more.
    pub(crate) fn withdraw(&self, plural: &'static str) {
        let mut state = self.state();
        state.offered.retain(|offered| *offered != plural);
        state.objects.retain(|place, _| place.0 != plural);
        state.withdrawn.push(plural);
    }

    /// Ends all watches with an error, as after too long a time away.
    pub(crate) fn end_watches(&self, code: u16) {
        for (_, watcher) in self.state().watchers.drain(..) {
            let _ = watcher.send(json!({ "type": "ERROR", "object": failure(code, "too old") }));
        }
    }

    async fn answer<B: http_body::Body<Data: Send> + Send>(self, request: Request<B>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decode(value)))
            .collect();
        let mut state = self.state();
        let line = format!("{} {}", head.method, head.uri.path());
        state.requests.push(line.clone());
        if let Some(fault) = state.faults.iter_mut().find(|fault| fault.times > 0 && line.contains(fault.on))
        {
            fault.times -= 1;
            let code = fault.code;
            return send(code, &failure(code, "as the test wants it"));
        }
        let path = Path::new(head.uri.path());
        let kind = head
            .headers
            .get("content-type")
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        if state.withdrawn.iter().any(|plural| *plural == path.plural) {
            // Not a Status: the API server knows nothing of the path.
            return send(404, &json!("404 page not found"));
        }
        if query.get("watch").is_some_and(|watch| watch == "true") {
            return state.watch(&path, &query);
        }
        let result = match head.method {
            Method::GET if path.plural.is_empty() => {
                let named = |name: &&str| json!({ "name": name });
                Ok(json!({ "resources": state.offered.iter().map(named).collect::<Vec<_>>() }))
            }
            Method::GET if path.name.is_empty() => Ok(state.list(&path, &query)),
            Method::GET => state.objects.get(&path.place()).cloned().ok_or(404),
            Method::POST => state.create(&path, body),
            Method::PUT => state.replace(&path, body),
            Method::PATCH if kind.contains("apply-patch") => state.apply(&path, body, &query["fieldManager"]),
            Method::PATCH => state.merge(&path, &body),
            Method::DELETE => state.remove(&path, &body),
            _ => Err(405),
        };
        match result {
            Ok(object) => send(200, &object),
            Err(code) => send(code, &failure(code, "no")),
        }
    }
}

impl State {
    fn store(&mut self, place: &Place, mut object: Value) -> Value {
        let old = self.objects.get(place).cloned();
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = format!("uid-{}-{}-{}", place.0, place.1, place.2).into();
            metadata["generation"] = 1.into();
            metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        if old.as_ref().is_some_and(|old| old["spec"] != object["spec"]) {
            object["metadata"]["generation"] =
                (object["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
        }
        if old.as_ref() == Some(&object) {
            return object;
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(place.clone(), object.clone());
        self.tell(&place.0, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    fn tell(&mut self, plural: &str, kind: &str, object: &Value) {
        let event = json!({ "type": kind, "object": object });
        self.history.push((self.version, plural.to_owned(), event.clone()));
        self.watchers.retain(|(of, watcher)| of != plural || watcher.send(event.clone()).is_ok());
    }

    fn delete(&mut self, place: &Place) {
        let Some(mut object) = self.objects.get(place).cloned() else { return };
        if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            self.store(place, object);
            return;
        }
        self.objects.remove(place);
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell(&place.0, "DELETED", &object);
    }

    fn list(&self, path: &Path, query: &BTreeMap<String, String>) -> Value {
        let fits = |(place, object): &(&Place, &Value)| {
            let labels: Vec<(&str, &str)> = query
                .get("labelSelector")
                .into_iter()
                .flat_map(|all| all.split(','))
                .filter_map(|one| one.split_once('='))
                .collect();
            place.0 == path.plural
                && (path.namespace.is_empty() || place.1 == path.namespace)
                && labels.iter().all(|(key, value)| object["metadata"]["labels"][*key] == *value)
        };
        // As with the API server's own kinds, the list alone says what its items are.
        let item = |mut object: Value| {
            let fields = object.as_object_mut();
            fields.map(|fields| ["apiVersion", "kind"].map(|name| fields.remove(name)));
            object
        };
        let number = |key: &str| query.get(key).and_then(|text| text.parse::<usize>().ok());
        let (from, most) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
        let mut items: Vec<Value> = self
            .objects
            .iter()
            .filter(fits)
            .skip(from)
            .take(most.saturating_add(1))
            .map(|(_, object)| item(object.clone()))
            .collect();
        let more = items.len() > most;
        items.truncate(most);
        let next = if more { (from + most).to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": next });
        json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items })
    }

    fn create(&mut self, path: &Path, mut object: Value) -> Result<Value, u16> {
        if object["metadata"]["name"].is_null() {
            // What is generated must itself be a name, but for a hyphen at its end.
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
            if prefix.is_empty() || prefix.ends_with('.') {
                return Err(422);
            }
            object["metadata"]["name"] = format!("{prefix}{}", self.version).into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let place = (path.plural.clone(), path.namespace.clone(), name);
        if self.objects.contains_key(&place) {
            return Err(409);
        }
        Ok(self.store(&place, object))
    }

    fn replace(&mut self, path: &Path, object: Value) -> Result<Value, u16> {
        let old = self.objects.get(&path.place()).ok_or(404_u16)?;
        if old["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return Err(409);
        }
        Ok(self.store(&path.place(), object))
    }

    fn merge(&mut self, path: &Path, patch: &Value) -> Result<Value, u16> {
        let mut object = self.objects.get(&path.place()).cloned().ok_or(404_u16)?;
        let version = &patch["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return Err(409);
        }
        object["metadata"]["finalizers"] = patch["metadata"]["finalizers"].clone();
        let ends = object["metadata"]["deletionTimestamp"].is_string();
        let stored = self.store(&path.place(), object);
        if ends {
            self.delete(&path.place());
        }
        Ok(stored)
    }

    fn remove(&mut self, path: &Path, options: &Value) -> Result<Value, u16> {
        let object = self.objects.get(&path.place()).cloned().ok_or(404_u16)?;
        let wanted = &options["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
            return Err(409);
        }
        self.delete(&path.place());
        Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }))
    }

    fn apply(&mut self, path: &Path, wanted: Value, manager: &str) -> Result<Value, u16> {
        let place = path.place();
        let mut object = self.objects.get(&place).cloned();
        if object.is_none() && !path.sub.is_empty() {
            return Err(404);
        }
        let object = object.get_or_insert_with(|| json!({}));
        let key = (place.clone(), format!("{manager}{}", path.sub));
        let last = self.applied.get(&key).cloned().unwrap_or_default();
        apply(object, &last, &wanted, "");
        self.applied.insert(key, wanted);
        Ok(self.store(&place, object.clone()))
    }

    fn watch(&mut self, path: &Path, query: &BTreeMap<String, String>) -> Answer {
        let (sender, receiver) = mpsc::unbounded_channel();
        let since = query.get("resourceVersion").and_then(|version| version.parse().ok());
        let since: u64 = since.unwrap_or(self.version);
        for (_, _, event) in
            self.history.iter().filter(|(version, of, _)| *version > since && *of == path.plural)
        {
            let _ = sender.send(event.clone());
        }
        self.watchers.push((path.plural.clone(), sender));
        let events = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        });
        let frames = events.map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// The keys of lists that are maps.
fn list_keys(field: &str) -> Option<&'static [&'static str]> {
    match field {
        "conditions" => Some(&["type"]),
        "grants" => Some(&["namespace", "claimName"]),
        "ownerReferences" => Some(&["uid"]),
        _ => None,
    }
}

/// What is wanted is set; what was wanted last time, and no longer is, goes.
fn apply(actual: &mut Value, last: &Value, wanted: &Value, field: &str) {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            for key in last.as_object().into_iter().flatten().map(|(key, _)| key) {
                if !wanted.contains_key(key) {
                    actual.remove(key);
                }
            }
            for (key, wanted) in wanted {
                let last = last.get(key).cloned().unwrap_or_default();
                apply(actual.entry(key.clone()).or_insert(Value::Null), &last, wanted, key);
            }
        }
        (actual @ Value::Array(_), Value::Array(wanted)) if list_keys(field).is_some() => {
            let keys = list_keys(field).unwrap_or_default();
            let same = |one: &Value, other: &Value| keys.iter().all(|key| one[*key] == other[*key]);
            let list = actual.as_array_mut().unwrap();
            for gone in
                last.as_array().into_iter().flatten().filter(|last| !wanted.iter().any(|one| same(one, last)))
            {
                list.retain(|one| !same(one, gone));
            }
            for one in wanted {
                match list.iter_mut().find(|actual| same(actual, one)) {
                    Some(actual) => apply(actual, &Value::Null, one, ""),
                    None => list.push(one.clone()),
                }
            }
        }
        (actual, wanted) => *actual = wanted.clone(),
    }
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn decode(text: &str) -> String {
    text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/").replace("%21", "!")
}

fn failure(code: u16, message: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "Failure",
    };
    let details = if code == 429 { json!({ "retryAfterSeconds": 1 }) } else { json!({}) };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": message, "details": details })
}

fn send(code: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

impl<B: http_body::Body<Data: Send> + Send + 'static> tower::Service<Request<B>> for Server {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.clone().answer(request).map(Ok).boxed()
    }
}
