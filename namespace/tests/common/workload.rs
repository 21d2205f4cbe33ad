//! Random operations whose outcome is known, and the judgement of what is left of them after a crash.
//!
//! Every object and container is changed by one thread only, so that its history has an order; what differs
//! between threads is entangled: one thread's object is the directory of another's.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use namespace::metadata::Slo;
use namespace::{Error, ListQuery, MetadataMode, Namespace, ObjectMeta, ObjectPost, Orphans, Row, Timestamp};

use crate::common::{ACCOUNT, CONTAINER, md5, object};

/// Splitmix64: reproducible, and enough to choose by.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another run, another seed; print it when something fails.
    pub fn seed() -> u64 {
        use std::hash::{BuildHasher, RandomState};
        std::env::var("LB_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| RandomState::new().hash_one(0))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

pub type Headers = Vec<(String, Vec<u8>)>;

/// What a container or an object is when it is there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content {
    pub body: Arc<Vec<u8>>,
    /// Content-Type.
    pub kind: Option<String>,
    pub headers: Headers,
    pub directory: bool,
    /// Of a static large object: the manifest, which is the body until that is assembled.
    pub manifest: Option<Arc<Vec<u8>>>,
    /// X-Delete-At.
    pub delete_at: Option<u64>,
}

impl Content {
    fn slo(&self) -> Option<Slo> {
        let manifest = self.manifest.as_ref()?;
        Some(Slo { etag: md5(manifest), size: assembled(manifest).len() as u64, kept: None })
    }
}

/// What the segments of a manifest hold.
fn assembled(manifest: &[u8]) -> Vec<u8> {
    [b"assembled".as_slice(), manifest, manifest].concat()
}

/// Bodies are told apart by their length and digest.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        let tag =
            self.headers.first().map(|(_, v)| String::from_utf8_lossy(&v[..v.len().min(8)]).into_owned());
        let digest = u16::from_be_bytes([md5(&self.body)[0], md5(&self.body)[1]]);
        write!(f, "{} bytes {digest:04x}, {headers} bytes of headers {tag:?}", self.body.len())?;
        if self.directory {
            write!(f, ", a directory")?;
        }
        match &self.manifest {
            Some(manifest) if *manifest == self.body => write!(f, ", a manifest"),
            Some(_) => write!(f, ", assembled"),
            None => Ok(()),
        }
    }
}

/// `None`: absent.
pub type State = Option<Content>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Container(String),
    Object(String),
}

#[derive(Debug, Clone)]
pub enum Act {
    Put,
    Copy(String),
    Post,
    Delete,
    Assemble,
    Expire,
}

/// One operation, and what its subject is afterwards.
#[derive(Debug, Clone)]
pub struct Step {
    pub subject: Subject,
    pub act: Act,
    pub after: State,
}

/// The names that the threads share out among them.
fn names() -> Vec<String> {
    let long = "l".repeat(250);
    let plain = ["a", "a/b", "a/b/c", "d/e/f", "d", "d/e", "g//h", "g", "i/../j", "i", "k", "m/n", "m"];
    let mut names: Vec<String> = plain.iter().map(ToString::to_string).collect();
    names.extend([long.clone(), format!("{long}/x"), "o".repeat(300), ".lb~self/p".to_string()]);
    names
}

/// What thread `thread` of `threads` does.
pub fn plan(seed: u64, thread: usize, threads: usize, steps: usize) -> Vec<Step> {
    let mut random = Random::new(seed ^ (thread as u64) << 48);
    let mut subjects: Vec<Subject> = names()
        .into_iter()
        .enumerate()
        .filter(|(at, _)| at % threads == thread)
        .map(|(_, name)| Subject::Object(name))
        .collect();
    subjects.push(Subject::Container(format!("container-{thread}")));
    let mut now: BTreeMap<Subject, Content> = BTreeMap::new();
    let mut plan = Vec::new();
    for _ in 0..steps {
        let subject = subjects[random.below(subjects.len())].clone();
        let (act, after) = match &subject {
            Subject::Container(_) => container_act(&mut random, now.get(&subject)),
            Subject::Object(_) => object_act(&mut random, &subject, &now),
        };
        match &after {
            Some(content) => now.insert(subject.clone(), content.clone()),
            None => now.remove(&subject),
        };
        plan.push(Step { subject, act, after });
    }
    plan
}

fn container_act(random: &mut Random, there: Option<&Content>) -> (Act, State) {
    match there {
        Some(_) if random.below(2) == 0 => (Act::Delete, None),
        // Headers of a container are merged, so there is one.
        _ => (
            Act::Put,
            Some(Content { headers: headers(random, "x-container-meta-tag", 1), ..Content::default() }),
        ),
    }
}

fn object_act(random: &mut Random, subject: &Subject, now: &BTreeMap<Subject, Content>) -> (Act, State) {
    let there = now.get(subject);
    let others: Vec<(&String, &Content)> = now
        .iter()
        .filter_map(|(other, content)| match other {
            Subject::Object(name) if other != subject && !content.directory => Some((name, content)),
            _ => None,
        })
        .collect();
    let meta = Content {
        kind: Some(format!("text/x-{}", random.below(1000))),
        headers: headers(random, "x-object-meta-tag", 60),
        ..Content::default()
    };
    let waiting = there.is_some_and(|there| there.manifest.as_ref() == Some(&there.body));
    match (random.below(10), there) {
        (0..=5, Some(there)) if waiting => {
            let manifest = there.manifest.as_deref().map(Vec::as_slice).unwrap_or_default();
            (Act::Assemble, Some(Content { body: Arc::new(assembled(manifest)), ..there.clone() }))
        }
        (0..=2, Some(there)) if there.delete_at.is_some() => (Act::Expire, None),
        (0..=2, Some(_)) => (Act::Delete, None),
        (3..=4, Some(there)) => {
            let (body, manifest) = (there.body.clone(), there.manifest.clone());
            (Act::Post, Some(Content { body, manifest, directory: there.directory, ..meta }))
        }
        (5, _) => (Act::Put, Some(Content { directory: true, ..meta })),
        (6, _) if !others.is_empty() => {
            let (name, from) = others[random.below(others.len())];
            (Act::Copy(name.clone()), Some(Content { body: from.body.clone(), ..meta }))
        }
        (7, _) => {
            let body = Arc::new(body(random));
            (Act::Put, Some(Content { manifest: Some(body.clone()), body, ..meta }))
        }
        _ => {
            let delete_at = (random.below(4) == 0).then_some(1);
            (Act::Put, Some(Content { body: Arc::new(body(random)), delete_at, ..meta }))
        }
    }
}

fn body(random: &mut Random) -> Vec<u8> {
    let len = match random.below(8) {
        0 => 0,
        1..=3 => random.below(200),
        4..=6 => random.below(20_000),
        _ => random.below(300_000),
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// In a quarter of the cases more than an attribute holds.
fn headers(random: &mut Random, key: &str, many: usize) -> Headers {
    let tag = format!("{:016x}", random.next()).into_bytes();
    if random.below(4) > 0 {
        return vec![(key.to_string(), tag)];
    }
    if many == 1 {
        return vec![(key.to_string(), tag.repeat(300))];
    }
    (0..many).map(|at| (format!("{key}-{at:02}"), tag.repeat(6))).collect()
}

/// Does one step; it was acknowledged when this returns.
pub fn perform(ns: &Namespace, step: &Step) -> namespace::Result<()> {
    let ts = Timestamp::now();
    match (&step.subject, &step.act, &step.after) {
        (Subject::Container(container), _, Some(content)) => {
            let update = content.headers.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
            ns.create_container(ACCOUNT, container, update, ts).map(drop)
        }
        (Subject::Container(container), _, None) => ns.delete_container(ACCOUNT, container),
        (Subject::Object(name), Act::Expire, None) => match ns.expire_object(&object(name)) {
            Ok(false) => Err(Error::NoObject),
            result => result.map(drop),
        },
        (Subject::Object(name), Act::Assemble, Some(content)) => {
            let name = object(name);
            let opened = ns.open_object(&name)?;
            let manifest = ns.manifest(&name, &opened)?.ok_or(Error::NoObject)?;
            let mut assembly = ns.begin_assembly(&name, &opened, manifest)?.ok_or(Error::NoObject)?;
            assembly.write(&content.body)?;
            if ns.finish_assembly(assembly)? { Ok(()) } else { Err(Error::NoObject) }
        }
        (Subject::Object(name), _, None) => ns.delete_object(&object(name), ts).map(drop),
        (Subject::Object(name), Act::Post, Some(content)) => {
            let post = ObjectPost {
                content_type: content.kind.clone(),
                headers: content.headers.clone(),
                ..ObjectPost::default()
            };
            ns.post_object(&object(name), post, ts).map(drop)
        }
        (Subject::Object(name), act, Some(content)) => {
            let meta = ObjectMeta {
                content_type: content.kind.clone(),
                headers: content.headers.clone(),
                directory: content.directory,
                slo: content.slo(),
                delete_at: content.delete_at,
                exclusive: false,
            };
            if let Act::Copy(from) = act {
                let from = ns.open_object(&object(from))?;
                let mut upload = ns.begin(&object(name), Some(from.info.size), ts)?;
                upload.copy_from(ns, &from.file, from.info.size, md5(&content.body))?;
                return ns.finish(upload, meta, None).map(drop);
            }
            ns.put_object(&object(name), &content.body, meta, ts, Some(md5(&content.body))).map(drop)
        }
    }
}

/// For each subject the states it may be in: what was acknowledged last, and what was under way.
pub type Allowed = BTreeMap<Subject, Vec<State>>;

/// What one thread's plan allows. `acked` and `begun` judge a step by its number.
pub fn allow(
    allowed: &mut Allowed,
    plan: &[Step],
    acked: &dyn Fn(usize) -> bool,
    begun: &dyn Fn(usize) -> bool,
) {
    for (at, step) in plan.iter().enumerate() {
        let states = allowed.entry(step.subject.clone()).or_insert_with(|| vec![None]);
        if acked(at) {
            *states = vec![step.after.clone()];
        } else if begun(at) {
            states.push(step.after.clone());
        }
    }
}

/// Looks at everything as a client does; an error says what must not be.
pub fn judge(ns: &Namespace, allowed: &Allowed) -> Result<(), String> {
    let listed = listed(ns)?;
    let containers: BTreeSet<String> =
        ns.container_names(ACCOUNT).map_err(|e| format!("the account: {e}"))?.into_iter().collect();
    for name in listed.keys() {
        if !allowed.contains_key(&Subject::Object(name.clone())) {
            return Err(format!("{name:?} is listed, and nobody made it"));
        }
    }
    for container in containers.iter().filter(|c| *c != CONTAINER) {
        if !allowed.contains_key(&Subject::Container(container.clone())) {
            return Err(format!("the container {container:?} is listed, and nobody made it"));
        }
    }
    for (subject, states) in allowed {
        let seen = match subject {
            Subject::Object(name) => object_state(ns, name, listed.get(name))?,
            Subject::Container(name) if containers.contains(name) => {
                let headers = ns.container_headers(ACCOUNT, name).map_err(|e| format!("{subject:?}: {e}"))?;
                // Made and not yet described is allowed to who did not hear of it.
                let bare = headers.is_empty() && states.len() > 1;
                let known = states.iter().flatten().find(|c| bare || c.headers == headers).cloned();
                known.or(Some(Content { headers, ..Content::default() }))
            }
            Subject::Container(_) => None,
        };
        if !states.contains(&seen) {
            return Err(format!("{subject:?} is {seen:?} and may be {states:?}"));
        }
    }
    Ok(())
}

type Listed = BTreeMap<String, (u64, Option<[u8; 16]>)>;

fn listed(ns: &Namespace) -> Result<Listed, String> {
    let query = ListQuery { limit: 10_000, ..ListQuery::default() };
    let rows = ns.list_objects(ACCOUNT, CONTAINER, &query).map_err(|e| format!("the listing: {e}"))?;
    let objects = rows.into_iter().filter_map(|row| match row {
        Row::Object(row) => Some((row.name, (row.size, row.etag))),
        Row::Subdir(_) => None,
    });
    Ok(objects.collect())
}

/// All objects as a reader gets them.
pub fn seen(ns: &Namespace) -> Result<BTreeMap<String, Content>, String> {
    let listed = listed(ns)?;
    let states = listed.iter().map(|(name, row)| {
        let state = object_state(ns, name, Some(row))?;
        state
            .map(|content| (name.clone(), content))
            .ok_or_else(|| format!("{name:?} is listed and not there"))
    });
    states.collect()
}

/// What a reader gets, which must agree with what the listing says.
fn object_state(
    ns: &Namespace,
    name: &str,
    listed: Option<&(u64, Option<[u8; 16]>)>,
) -> Result<State, String> {
    let opened = match ns.open_object(&object(name)) {
        Ok(opened) => opened,
        Err(Error::NoObject) if listed.is_none() => return Ok(None),
        Err(e) => return Err(format!("{name:?}, listed as {listed:?}: {e}")),
    };
    let info = opened.info.clone();
    let mut body = Vec::new();
    if !info.directory {
        std::io::Read::read_to_end(&mut &opened.file, &mut body).map_err(|e| format!("{name:?}: {e}"))?;
    }
    let mut manifest = None;
    if info.slo.is_some() {
        let read = ns.manifest(&object(name), &opened).map_err(|e| format!("{name:?}: {e}"))?;
        let read = read.ok_or_else(|| format!("{name:?} is gone"))?;
        let expected =
            if info.slo.is_some_and(|slo| slo.kept.is_some()) { assembled(&read) } else { read.clone() };
        if body != expected {
            return Err(format!("{name:?} is neither its manifest nor what that stands for"));
        }
        manifest = Some(Arc::new(read));
    }
    let digest = Some(md5(manifest.as_deref().unwrap_or(&body)));
    if info.etag != digest || info.size != body.len() as u64 {
        let (size, etag) = (info.size, info.etag);
        return Err(format!("{name:?} has {} bytes, and its metadata is of {size}: {etag:02x?}", body.len()));
    }
    if listed != Some(&(info.size, digest)) {
        return Err(format!("{name:?} is there and listed as {listed:?}"));
    }
    let (body, directory) = (Arc::new(body), info.directory);
    let (kind, headers, delete_at) = (info.content_type, info.headers, info.delete_at);
    Ok(Some(Content { body, kind, headers, directory, manifest, delete_at }))
}

/// Takes away what crashes leave, then all there is: nothing of ours may be left.
pub fn clear(ns: &Namespace, root: &Path, allowed: &Allowed) -> Result<(), String> {
    for container in ns.container_names(ACCOUNT).map_err(|e| e.to_string())? {
        let proceed = &mut |_| std::ops::ControlFlow::Continue(());
        ns.sweep(ACCOUNT, &container, Duration::ZERO, proceed).map_err(|e| format!("the sweep: {e}"))?;
    }
    let account = root.join(ACCOUNT);
    if let Some(left) = files(&account.join(CONTAINER)).iter().find(|f| f.contains("/.lb~t")) {
        return Err(format!("{left} was left after the sweep"));
    }
    judge(ns, allowed).map_err(|e| format!("after the sweep: {e}"))?;
    for name in listed(ns)?.into_keys() {
        ns.delete_object(&object(&name), Timestamp::now()).map_err(|e| format!("delete {name:?}: {e}"))?;
    }
    for container in ns.container_names(ACCOUNT).map_err(|e| e.to_string())? {
        ns.delete_container(ACCOUNT, &container)
            .map_err(|e| format!("delete container {container:?}: {e}"))?;
    }
    let mut orphans = Orphans::default();
    for _ in 0..2 {
        let proceed = &mut || std::ops::ControlFlow::Continue(());
        ns.reap_orphans(ACCOUNT, Duration::ZERO, &mut orphans, proceed).map_err(|e| e.to_string())?;
    }
    // The account's own may be there.
    let most = usize::from(ns.metadata_mode() == MetadataMode::Sidecar);
    let sides: Vec<String> = files(&account.join(".lb~dm")).into_iter().filter(|f| f.contains('/')).collect();
    if sides.len() > most {
        return Err(format!("{sides:?} were left when all was deleted"));
    }
    let service = |path: &String| path.starts_with(".lb~d");
    match files(&account).into_iter().find(|path| !service(path)) {
        Some(left) => Err(format!("{left} was left when all was deleted")),
        None => Ok(()),
    }
}

/// Every path beneath a directory, sorted.
pub fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(entry.path());
            }
            let path = entry.path();
            found.push(path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// The account and the container that the plans work in.
pub fn prepare(ns: &Namespace) {
    ns.create_account(ACCOUNT, vec![], Timestamp::now()).unwrap();
    ns.create_container(ACCOUNT, CONTAINER, vec![], Timestamp::now()).unwrap();
}
