//! A namespace over a temporary directory.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value
)]

use std::path::{Path, PathBuf};

use namespace::{
    ListQuery, Namespace, Object, ObjectMeta, ObjectName, Options, Published, Result, Row, StepHook,
    Timestamp,
};
use tempfile::TempDir;

pub const ACCOUNT: &str = "AUTH_test";
pub const CONTAINER: &str = "c";

pub struct Site {
    pub dir: TempDir,
    pub ns: Namespace,
    pub options: Options,
}

pub fn options() -> Options {
    Options { durable: false, ..Options::default() }
}

impl Site {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: Options) -> Self {
        let dir = TempDir::new().unwrap();
        let ns = Namespace::open(dir.path(), options.clone()).unwrap();
        let site = Self { dir, ns, options };
        site.ns.create_account(ACCOUNT, vec![], Timestamp::now()).unwrap();
        site.ns.create_container(ACCOUNT, CONTAINER, vec![], Timestamp::now()).unwrap();
        site
    }

    /// Another server over the same directory.
    pub fn peer(&self) -> Namespace {
        Namespace::open(self.dir.path(), self.options.clone()).unwrap()
    }

    pub fn peer_with_hook(&self, hook: StepHook) -> Namespace {
        self.peer().with_hook(hook)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(ACCOUNT).join(CONTAINER).join(name)
    }

    pub fn put(&self, name: &str, body: &str) -> Published {
        put(&self.ns, name, body).unwrap()
    }

    pub fn get(&self, name: &str) -> Option<String> {
        get(&self.ns, name)
    }

    pub fn open(&self, name: &str) -> Result<Object> {
        self.ns.open_object(&object(name))
    }

    pub fn delete(&self, name: &str) -> Result<()> {
        self.ns.delete_object(&object(name), Timestamp::now()).map(|_| ())
    }

    pub fn list(&self) -> Vec<String> {
        list(&self.ns, &ListQuery { limit: 100_000, ..ListQuery::default() })
    }

    pub fn query(&self, query: ListQuery) -> Vec<String> {
        list(&self.ns, &query)
    }

    /// Every file-side path beneath the container, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.path("");
        let mut stack = vec![root.clone()];
        while let Some(dir) = stack.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    stack.push(entry.path());
                }
                found.push(entry.path().strip_prefix(&root).unwrap().to_string_lossy().into_owned());
            }
        }
        found.sort();
        found
    }
}

pub fn object(name: &str) -> ObjectName {
    ObjectName::new(ACCOUNT, CONTAINER, name)
}

pub fn put(ns: &Namespace, name: &str, body: &str) -> Result<Published> {
    ns.put_object(&object(name), body.as_bytes(), ObjectMeta::default(), Timestamp::now(), None)
}

pub fn get(ns: &Namespace, name: &str) -> Option<String> {
    match ns.open_object(&object(name)) {
        Ok(object) if object.info.directory => Some(String::new()),
        Ok(object) => Some(std::io::read_to_string(&object.file).unwrap()),
        Err(namespace::Error::NoObject) => None,
        Err(e) => panic!("{name}: {e}"),
    }
}

pub fn list(ns: &Namespace, query: &ListQuery) -> Vec<String> {
    ns.list_objects(ACCOUNT, CONTAINER, query)
        .unwrap()
        .into_iter()
        .map(|row| match row {
            Row::Subdir(name) => format!("[{name}]"),
            Row::Object(row) => row.name,
        })
        .collect()
}

pub fn md5(bytes: &[u8]) -> [u8; 16] {
    use md5::{Digest, Md5};
    Md5::digest(bytes).into()
}
