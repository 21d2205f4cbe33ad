//! A server without sockets, and requests for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lustre::pool::Pool;
use namespace::{Namespace, Options};
use object_server::auth::clock::SystemClock;
use object_server::auth::{Authenticator, hash_key, token};
use object_server::config::Config;
use object_server::http::{Body, FileRange, Handler as _, Outcome, Piece, Request, ResponseBody};
use object_server::identities::Identities;
use object_server::limits::Throttle;
use object_server::swift::call::Service;
use object_server::swift::info::Features;
use object_server::swift::server::{Observer, Record, Server};
use object_server::trans_id::TransIds;
use tempfile::TempDir;

/// Users and their tokens: checking keys is slow on purpose, so all tests share them.
struct Users {
    config: Config,
    auth: Arc<Authenticator>,
    tokens: Mutex<Vec<(String, String)>>,
    _dir: TempDir,
}

const USERS: [(&str, &str, &str); 4] = [
    ("test", "owner", "'.admin'"),
    ("test", "reader", ""),
    ("other", "owner", "'.admin'"),
    ("admin", "admin", "'.admin', '.reseller_admin'"),
];

fn users() -> &'static Users {
    static USERS_ONCE: OnceLock<Users> = OnceLock::new();
    USERS_ONCE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let hash = hash_key(b"key").unwrap();
        let entry = |(account, name, groups): (&str, &str, &str)| {
            format!(
                "[[user]]\naccount = '{account}'\nname = '{name}'\nkey_hash = '{hash}'\ngroups = [{groups}]\n"
            )
        };
        let list = file("users", &USERS.map(entry).concat());
        let secret = file("secret", &token::generate_secret().unwrap());
        let text = format!(
            "root = '/nowhere'\nlisten = ['127.0.0.1:1']\n[auth]\nusers = '{}'\ntoken_secret = '{}'\n\
             [identity]\nmode = 'process'\n",
            list.display(),
            secret.display()
        );
        let config = Config::parse(&text, Path::new("/server.toml")).unwrap();
        let auth = Arc::new(Authenticator::new(&config.auth, Arc::new(SystemClock::default())).unwrap());
        Users { config, auth, tokens: Mutex::default(), _dir: dir }
    })
}

/// Remembers what was answered.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Vec<Record>>);

impl Observer for Seen {
    fn answered(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
    fn refused(&self, _peer: SocketAddr, _status: u16) {}
}

/// A server over an empty directory.
pub(crate) struct Site {
    server: Server,
    root: TempDir,
    seen: Arc<Seen>,
}

/// An answer whose body has arrived.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: object_server::http::Headers,
    pub(crate) body: Vec<u8>,
    /// Whether the body broke off.
    pub(crate) broken: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get_str(name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Fails with the whole answer if it has another status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?} {}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// A request under construction.
pub(crate) struct Ask<'a> {
    site: &'a Site,
    request: Request,
    user: Option<&'static str>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With changed settings.
    pub(crate) fn with(change: impl FnOnce(&mut Service)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = Options { durable: false, ..Options::default() };
        let namespace = Arc::new(Namespace::open(root.path(), options).unwrap());
        let users = users();
        let mut service = Service {
            namespace,
            pool: Pool::new("files", 4, 100),
            auth: Arc::clone(&users.auth),
            identities: Arc::new(Identities::new(users.config.identity.clone()).unwrap()),
            limits: users.config.limits.clone(),
            features: Features {
                policies: vec!["gold".to_owned(), "tin".to_owned()],
                account_management: true,
                account_autocreate: true,
            },
            clock_skew: Duration::from_mins(1),
            max_upload: Duration::from_hours(24),
        };
        change(&mut service);
        let seen = Arc::new(Seen::default());
        let throttle = Throttle::new(&service.limits, Arc::new(SystemClock::default()));
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let server = Server::new(
            Arc::new(service),
            throttle,
            TransIds::new(""),
            Vec::new(),
            local,
            Arc::<Seen>::clone(&seen),
        );
        Self { server, root, seen }
    }

    /// A request by the owner of `AUTH_test` for a path beneath it (or, if it begins with `//`, for any path).
    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let target = match path.strip_prefix("//") {
            Some(rest) => format!("/{rest}"),
            None => format!("/v1/AUTH_test{path}"),
        };
        Ask { site: self, request: Request::new(method, target), user: Some("test:owner") }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path).send().await
    }

    /// Uploads, with the container if need be.
    pub(crate) async fn put(&self, path: &str, body: &str) -> Reply {
        let container = path.split('/').nth(1).unwrap();
        self.ask("PUT", &format!("/{container}")).send().await;
        self.ask("PUT", path).body(body).send().await.is(201)
    }

    /// A file or directory as the file system's users see it.
    pub(crate) fn path(&self, beneath: &str) -> PathBuf {
        self.root.path().join("AUTH_test").join(beneath)
    }

    /// The last request that was answered.
    pub(crate) fn last(&self) -> Record {
        self.seen.0.lock().unwrap().pop().unwrap()
    }

    async fn token(&self, user: &str) -> String {
        if let Some((_, token)) = users().tokens.lock().unwrap().iter().find(|(known, _)| known == user) {
            return token.clone();
        }
        let mut request = Request::new("GET", "/auth/v1.0");
        request.headers.append("X-Auth-User", user);
        request.headers.append("X-Auth-Key", "key");
        let response = self.server.call(request).await;
        let token = response.headers.get_str("x-auth-token").unwrap().to_owned();
        users().tokens.lock().unwrap().push((user.to_owned(), token.clone()));
        token
    }
}

impl Ask<'_> {
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.request.headers.append(name, value);
        self
    }

    /// By somebody else; an empty name is nobody.
    pub(crate) fn by(mut self, user: &'static str) -> Self {
        self.user = Some(user).filter(|user| !user.is_empty());
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        self.request.headers.append("Content-Length", body.len().to_string());
        self.request.body = Body::from_bytes(body);
        self
    }

    /// Any body; its length is not told.
    pub(crate) fn set_body(&mut self, body: Body) {
        self.request.body = body;
    }

    pub(crate) async fn send(mut self) -> Reply {
        if let Some(user) = self.user {
            let token = self.site.token(user).await;
            self.request.headers.append("X-Auth-Token", token);
        }
        let head = self.request.method == "HEAD";
        let has_length = self.request.headers.contains("content-length");
        if self.request.method == "PUT" && !has_length && !self.request.headers.contains("transfer-encoding")
        {
            self.request.headers.append("Content-Length", "0");
        }
        let mut response = self.site.server.call(self.request).await;
        let body = std::mem::replace(&mut response.body, ResponseBody::Empty);
        let (body, broken) = collect(body).await;
        if let Some(done) = response.done {
            done(Outcome {
                sent: body.len() as u64,
                received: 0,
                status: response.status,
                first_byte: Duration::ZERO,
                total: Duration::ZERO,
            });
        }
        let body = if head { Vec::new() } else { body };
        Reply { status: response.status, headers: response.headers, body, broken }
    }
}

async fn collect(body: ResponseBody) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    match body {
        ResponseBody::Empty => {}
        ResponseBody::Bytes(bytes) => all.extend_from_slice(&bytes),
        ResponseBody::File(range) => all.extend(read(&range)),
        ResponseBody::Pieces { length, mut pieces } => {
            while let Some(piece) = pieces.recv().await {
                match piece {
                    Ok(Piece::Bytes(bytes)) => all.extend_from_slice(&bytes),
                    Ok(Piece::File(range)) => all.extend(read(&range)),
                    Err(_) => return (all, true),
                }
            }
            let short = length.is_some_and(|length| length != all.len() as u64);
            return (all, short);
        }
    }
    (all, false)
}

fn read(range: &FileRange) -> Vec<u8> {
    let mut bytes = vec![0; range.len as usize];
    range.file.read_exact_at(&mut bytes, range.offset).unwrap();
    bytes
}

/// The MD5 of a text, in hex.
pub(crate) fn md5(text: impl AsRef<[u8]>) -> String {
    use md5::{Digest as _, Md5};
    object_server::swift::text::hex(&Md5::digest(text.as_ref()))
}
