//! The whole exchange: log-in, token, decision, on real files with a clock that stands still.

use std::net::IpAddr;
use std::path::Path;

use tempfile::TempDir;

use super::clock::fake::FakeClock;
use super::reload::tests::write_settled;
use super::users::tests::entry;
use super::*;
use crate::config::Reseller;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

struct Server {
    folder: TempDir,
    clock: Arc<FakeClock>,
    auth: Arc<Authenticator>,
}

fn users() -> String {
    entry("test", "tester", "testing", "'.admin'")
        + &entry("test", "reader", "reading", "")
        + &entry("admin", "admin", "ruling", "'.admin', '.reseller_admin'")
        + &entry("glance", "glance", "serving", "'.service'")
        + &entry("tést", "tester", "páss", "'.admin'")
}

fn config(folder: &Path) -> Auth {
    Auth {
        users: folder.join("users"),
        token_secret: folder.join("secret"),
        token_life_seconds: 3600,
        reseller_prefixes: vec![
            Reseller { prefix: "AUTH_".into(), require_group: None },
            Reseller { prefix: "SERVICE_".into(), require_group: Some(".service".into()) },
        ],
        storage_url_scheme: None,
        public_url: None,
        reload_seconds: 1,
        concurrent_checks: 2,
    }
}

impl Server {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Auth)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_settled(&folder.path().join("users"), &users(), 1000);
        write_settled(&folder.path().join("secret"), SECRET, 1000);
        let clock = Arc::new(FakeClock::default());
        let mut config = config(folder.path());
        change(&mut config);
        let auth = Arc::new(Authenticator::new(&config, clock.clone()).unwrap());
        Self { folder, clock, auth }
    }

    fn rewrite(&self, file: &str, text: &str, age_seconds: u64) {
        write_settled(&self.folder.path().join(file), text, age_seconds);
        self.auth.refresh();
    }

    async fn log_in(&self, request: LogIn<'_>) -> LogInAnswer {
        self.auth.log_in(&request).await.unwrap()
    }

    async fn token(&self, user: &str, key: &str) -> String {
        let answer = self.log_in(request(user, key)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        header(&answer, "X-Auth-Token").to_owned()
    }

    fn who(&self, token: &str) -> String {
        match self.auth.authenticate(Some(token), None) {
            Caller::Rejected => "rejected".to_owned(),
            caller => caller.user().to_owned(),
        }
    }
}

fn request<'a>(user: &'a str, key: &'a str) -> LogIn<'a> {
    LogIn {
        method: "GET",
        path: "/auth/v1.0",
        auth_user: Some(user),
        auth_key: Some(key),
        storage_user: None,
        storage_pass: None,
        host: Some("swift.example:8080"),
        secure: false,
        local: ([127, 0, 0, 1], 8080).into(),
        client: [192, 0, 2, 1].into(),
    }
}

fn header<'a>(answer: &'a LogInAnswer, name: &str) -> &'a str {
    answer.headers.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

/// Swift's `test_get_token_success`, `test_storage_url_based_on_host` and `test_successful_token_unicode_user`.
#[tokio::test]
async fn a_key_gives_a_token() {
    let server = Server::new();
    let answer = server.log_in(request("test:tester", "testing")).await;
    assert_eq!((answer.status, answer.outcome), (200, LogInOutcome::Granted));
    assert_eq!(answer.user, "test:tester");
    assert_eq!(header(&answer, "X-Storage-Url"), "http://swift.example:8080/v1/AUTH_test");
    assert_eq!(header(&answer, "X-Auth-Token"), header(&answer, "X-Storage-Token"));
    assert_eq!(header(&answer, "X-Auth-Token-Expires"), "3600");
    assert_eq!(server.who(header(&answer, "X-Auth-Token")), "test:tester");

    let answer = server.log_in(request("tést:tester", "páss")).await;
    assert_eq!(header(&answer, "X-Storage-Url"), "http://swift.example:8080/v1/AUTH_t%C3%A9st");
    let caller = server.auth.authenticate(Some(header(&answer, "X-Auth-Token")), None);
    let subject = Subject { method: "GET", account: "AUTH_tést", ..Subject::default() };
    assert_eq!(server.auth.authorize(&caller, &subject), Decision::Allow { owner: true });
}

/// Swift's `test_get_token_fail…`, `test_request_method_not_allowed`, and what `handle_get_token` says of the rest.
#[tokio::test]
async fn log_ins_are_answered_as_swift_does() {
    let server = Server::new();
    let plain = LogIn { auth_user: None, auth_key: None, ..request("", "") };
    let by_path = LogIn { path: "/auth/v1/test/auth", ..plain };
    let [user, key] = ["test:tester", "testing"].map(Some);
    for (name, request, status, realm) in [
        ("nothing given", plain, 401, "unknown"),
        ("no colon", LogIn { auth_user: Some("tester"), auth_key: key, ..plain }, 401, "unknown"),
        ("no key", LogIn { auth_user: user, ..plain }, 401, "test"),
        ("empty key", LogIn { auth_user: user, auth_key: Some(""), ..plain }, 401, "test"),
        ("no user", LogIn { auth_user: Some("test:"), auth_key: key, ..plain }, 401, "test"),
        ("no account", LogIn { auth_user: Some(":tester"), auth_key: key, ..plain }, 401, "unknown"),
        ("wrong key", LogIn { auth_user: user, auth_key: Some("testinG"), ..plain }, 401, "test"),
        ("no such user", LogIn { auth_user: Some("act:usr"), auth_key: Some("key"), ..plain }, 401, "act"),
        ("the other headers", LogIn { storage_user: user, storage_pass: key, ..plain }, 200, ""),
        (
            "empty headers count as absent",
            LogIn { auth_user: Some(""), storage_user: user, auth_key: Some(""), storage_pass: key, ..plain },
            200,
            "",
        ),
        (
            "the auth headers come first",
            LogIn { auth_user: user, storage_user: Some("a:b"), auth_key: key, storage_pass: user, ..plain },
            200,
            "",
        ),
        (
            "a slash at the end",
            LogIn { path: "/auth/v1.0/", auth_user: user, auth_key: key, ..plain },
            200,
            "",
        ),
        ("without /auth", LogIn { path: "/v1.0", auth_user: user, auth_key: key, ..plain }, 200, ""),
        ("by path", LogIn { storage_user: Some("tester"), storage_pass: key, ..by_path }, 200, ""),
        ("by path, both", LogIn { auth_user: user, auth_key: key, ..by_path }, 200, ""),
        ("by path, none", LogIn { storage_pass: key, ..by_path }, 401, "test"),
        ("by path, no key", LogIn { storage_user: Some("tester"), ..by_path }, 401, "test"),
        ("by path, no colon", LogIn { auth_user: Some("usr"), auth_key: key, ..by_path }, 401, "test"),
        ("by path, another", LogIn { auth_user: Some("act2:usr"), auth_key: key, ..by_path }, 401, "test"),
        ("junk behind", LogIn { path: "/auth/v1/act/auth/invalid", ..by_path }, 400, ""),
        ("no such version", LogIn { path: "/auth/v3", ..by_path }, 400, ""),
        ("a hole", LogIn { path: "/auth//v1.0", ..plain }, 404, ""),
        ("HEAD", LogIn { method: "HEAD", auth_user: user, auth_key: key, ..plain }, 405, ""),
        ("PUT", LogIn { method: "PUT", path: "/auth/nothing", ..plain }, 405, ""),
    ] {
        let answer = server.log_in(request).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        let challenge = header(&answer, "Www-Authenticate");
        if status == 401 {
            assert_eq!(challenge, format!("Swift realm=\"{realm}\""), "{name}");
        } else {
            assert_eq!(challenge, "", "{name}");
        }
        assert_eq!(answer.outcome == LogInOutcome::Granted, status == 200, "{name}");
    }
    let other = LogIn { path: "/v1/AUTH_test", ..plain };
    assert_eq!(server.auth.log_in(&other).await, None);
}

/// Swift's `test_storage_url_overridden_scheme`, and a public URL.
#[tokio::test]
async fn storage_urls_can_be_told() {
    let server = Server::with(|config| config.storage_url_scheme = Some("https".into()));
    let answer = server.log_in(request("test:tester", "testing")).await;
    assert_eq!(header(&answer, "X-Storage-Url"), "https://swift.example:8080/v1/AUTH_test");
    let server = Server::with(|config| config.public_url = Some("https://objects.example".into()));
    let answer = server.log_in(request("test:tester", "testing")).await;
    assert_eq!(header(&answer, "X-Storage-Url"), "https://objects.example/v1/AUTH_test");
}

/// Swift's `test_auth_fail`, `test_auth_deny_non_reseller_prefix` and `test_auth_no_reseller_prefix_deny`.
#[tokio::test]
async fn foreign_and_false_tokens() {
    let server = Server::new();
    let authenticate = |token| server.auth.authenticate(token, None);
    assert_eq!(authenticate(None), Caller::Anonymous);
    assert_eq!(authenticate(Some("")), Caller::Anonymous);
    assert_eq!(authenticate(Some("BLAH_t")), Caller::Anonymous);
    assert_eq!(authenticate(Some("AUTH_t")), Caller::Rejected);
    assert_eq!(authenticate(Some("AUTH_tkAAAA")), Caller::Rejected);
    let every = Server::with(|config| {
        config.reseller_prefixes = vec![Reseller { prefix: String::new(), require_group: None }];
    });
    assert_eq!(every.auth.authenticate(Some("t"), None), Caller::Rejected);
    let token = every.token("test:tester", "testing").await;
    let caller = every.auth.authenticate(Some(&token), None);
    let subject = Subject { method: "PUT", account: "test", container: Some("c"), ..Subject::default() };
    assert_eq!(every.auth.authorize(&caller, &subject), Decision::Allow { owner: true });
}

/// Swift's `test_authed_for_second_path_with_operator_role_and_service` and its contraries, with real tokens.
#[tokio::test]
async fn a_service_token_counts_beside_a_users_only() {
    let server = Server::new();
    let user = server.token("test:tester", "testing").await;
    let service = server.token("glance:glance", "serving").await;
    let subject = Subject {
        method: "PUT",
        account: "SERVICE_test",
        container: Some("c"),
        grants: Some(Grants::default()),
        ..Subject::default()
    };
    let judge = |token: Option<&str>, service: Option<&str>| {
        server.auth.authorize(&server.auth.authenticate(token, service), &subject)
    };
    assert_eq!(judge(Some(&user), None), Decision::Forbidden);
    assert_eq!(judge(Some(&user), Some(&user)), Decision::Forbidden);
    assert_eq!(judge(Some(&user), Some("AUTH_tknone")), Decision::Forbidden);
    assert_eq!(judge(Some(&user), Some(&service)), Decision::Allow { owner: true });
    assert_eq!(judge(Some(&service), None), Decision::Forbidden);
    assert_eq!(judge(None, Some(&service)), Decision::Unauthorized);
}

#[tokio::test]
async fn tokens_end_with_time() {
    let server = Server::new();
    let token = server.token("test:tester", "testing").await;
    server.clock.advance(Duration::from_secs(3599));
    assert_eq!(server.who(&token), "test:tester");
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(server.who(&token), "rejected");
}

#[tokio::test]
async fn a_shorter_life_ends_older_tokens() {
    let long = Server::new();
    let token = long.token("test:tester", "testing").await;
    let mut config = config(long.folder.path());
    config.token_life_seconds = 60;
    let short = Authenticator::new(&config, long.clock.clone()).unwrap();
    assert_eq!(short.authenticate(Some(&token), None).user(), "test:tester");
    long.clock.advance(Duration::from_mins(1));
    assert_eq!(short.authenticate(Some(&token), None), Caller::Rejected);
}

/// Two servers with the same files take each other's tokens.
#[tokio::test]
async fn replicas_share_tokens() {
    let server = Server::new();
    let token = server.token("test:tester", "testing").await;
    let replica = Authenticator::new(&config(server.folder.path()), server.clock.clone()).unwrap();
    assert_eq!(replica.authenticate(Some(&token), None).user(), "test:tester");
}

#[tokio::test]
async fn tokens_end_with_the_user_the_key_and_the_secret() {
    let server = Server::new();
    let token = server.token("test:tester", "testing").await;
    let reader = server.token("test:reader", "reading").await;

    let changed = users().replacen("'.admin'", "'plain'", 1);
    server.rewrite("users", &changed, 900);
    // Every hash is new, and so every token is void.
    assert_eq!((server.who(&token), server.who(&reader)), ("rejected".into(), "rejected".into()));
    let token = server.token("test:tester", "testing").await;

    // Groups are those of now.
    let caller = server.auth.authenticate(Some(&token), None);
    assert_eq!(caller.groups(), ["test", "test:tester", "plain"]);
    server.rewrite("users", &changed.replace("'plain'", "'.admin'"), 800);
    let caller = server.auth.authenticate(Some(&token), None);
    assert_eq!(caller.groups(), ["test", "test:tester", "AUTH_test", "SERVICE_test"]);

    // A rotated secret goes on counting while it stands in the file.
    server.rewrite("secret", &format!("{OTHER}\n{SECRET}\n"), 900);
    assert_eq!(server.who(&token), "test:tester");
    let newer = server.token("test:tester", "testing").await;
    server.rewrite("secret", &format!("{OTHER}\n"), 800);
    assert_eq!((server.who(&token), server.who(&newer)), ("rejected".into(), "test:tester".into()));

    server.rewrite("users", &entry("test", "reader", "reading", ""), 700);
    assert_eq!(server.who(&newer), "rejected");
    let answer = server.log_in(request("test:tester", "testing")).await;
    assert_eq!(answer.outcome, LogInOutcome::Denied);
}

#[tokio::test]
async fn broken_files_lock_nobody_out() {
    let server = Server::new();
    let token = server.token("test:tester", "testing").await;
    server.rewrite("users", "[[user]]", 900);
    server.rewrite("secret", "short", 900);
    assert_eq!(server.who(&token), "test:tester");
    server.token("test:tester", "testing").await;
}

#[tokio::test]
async fn files_are_watched() {
    let server = Server::new();
    let watch = tokio::spawn(server.auth.clone().watch());
    write_settled(&server.folder.path().join("users"), &entry("new", "user", "key", ""), 900);
    while server.auth.users.get().get("new:user").is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watch.abort();
}

#[test]
fn missing_or_wrong_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let new = || Authenticator::new(&config(folder.path()), Arc::new(FakeClock::default())).unwrap_err();
    let error = new();
    assert!(
        chain(&error).ends_with("users: cannot be read: No such file or directory (os error 2)"),
        "{error:?}"
    );
    std::fs::write(folder.path().join("users"), users()).unwrap();
    std::fs::write(folder.path().join("secret"), "short").unwrap();
    assert!(chain(&new()).contains("secret: line 1: a secret must be at least 32 bytes"), "{error:?}");
    assert_eq!(chain(&AuthError::Random(io::Error::other("x"))), "no random numbers: x");
}

async fn guess(server: &Server, user: &str, key: &str, client: impl Into<IpAddr>) -> LogInAnswer {
    server.log_in(LogIn { client: client.into(), ..request(user, key) }).await
}

#[tokio::test]
async fn who_guesses_a_users_key_must_wait() {
    let server = Server::new();
    for client in 0..6 {
        // From ever other addresses.
        let answer = guess(&server, "test:tester", "guess", [10, 0, 0, client]).await;
        assert_eq!((answer.status, answer.outcome), (401, LogInOutcome::Denied));
    }
    let answer = guess(&server, "test:tester", "testing", [10, 0, 0, 9]).await;
    assert_eq!((answer.status, answer.outcome), (429, LogInOutcome::BackedOff));
    assert_eq!(header(&answer, "Retry-After"), "1");
    assert_eq!(answer.user, "test:tester");
    assert_eq!(guess(&server, "test:reader", "reading", [10, 0, 0, 9]).await.status, 200);

    server.clock.advance(Duration::from_millis(1));
    assert_eq!(header(&guess(&server, "test:tester", "x", [10, 0, 0, 9]).await, "Retry-After"), "1");
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(guess(&server, "test:tester", "guess", [10, 0, 0, 9]).await.status, 401);
    assert_eq!(header(&guess(&server, "test:tester", "x", [10, 0, 0, 9]).await, "Retry-After"), "2");
    server.clock.advance(Duration::from_secs(2));
    assert_eq!(guess(&server, "test:tester", "testing", [10, 0, 0, 9]).await.status, 200);
    // The right key forgives.
    assert_eq!(guess(&server, "test:tester", "guess", [10, 0, 0, 9]).await.status, 401);
}

#[tokio::test]
async fn who_guesses_at_many_users_must_wait() {
    let server = Server::new();
    for user in 0..31 {
        let name = format!("test:user{user}");
        assert_eq!(guess(&server, &name, "guess", [10, 0, 0, 1]).await.status, 401);
    }
    assert_eq!(guess(&server, "test:tester", "testing", [10, 0, 0, 1]).await.status, 429);
    assert_eq!(guess(&server, "test:tester", "testing", [10, 0, 0, 2]).await.status, 200);
}

/// Guessing at a user's name must not lock the user out.
#[tokio::test]
async fn a_known_key_needs_no_check() {
    let server = Server::new();
    server.token("test:tester", "testing").await;
    for _ in 0..6 {
        guess(&server, "test:tester", "guess", [192, 0, 2, 1]).await;
    }
    assert_eq!(guess(&server, "test:tester", "guess", [192, 0, 2, 1]).await.status, 429);
    server.token("test:tester", "testing").await;
    // But only as long as it is the key.
    server.rewrite("users", &entry("test", "tester", "other", ""), 900);
    assert_eq!(guess(&server, "test:tester", "testing", [192, 0, 2, 1]).await.status, 429);
    server.clock.advance(Duration::from_mins(1));
    assert_eq!(guess(&server, "test:tester", "testing", [192, 0, 2, 1]).await.status, 401);
    server.clock.advance(Duration::from_mins(1));
    assert_eq!(guess(&server, "test:tester", "other", [192, 0, 2, 1]).await.status, 200);
}

#[test]
fn many_log_ins_at_once_are_checked_in_turn_or_put_off() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let server = Server::with(|config| config.concurrent_checks = 1);
        // No check begins before all have come.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let blocked = tokio::task::spawn_blocking(move || wait.recv().unwrap());
        let mut log_ins = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let auth = server.auth.clone();
            log_ins.spawn(async move { auth.log_in(&request("test:tester", "testing")).await.unwrap() });
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        blocked.await.unwrap();
        let answers = log_ins.join_all().await;
        // One is checked, 32 wait for it.
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 33);
        let busy: Vec<_> = answers.iter().filter(|answer| answer.outcome == LogInOutcome::Busy).collect();
        assert_eq!(busy.len(), 167);
        assert_eq!((busy[0].status, header(busy[0], "Retry-After")), (503, "1"));
    });
}

/// Swift's `test_top_level_deny`, `test_anon`, `test_anon_badpath`.
#[test]
fn challenges_name_the_account() {
    assert_eq!(challenge(None), "Swift realm=\"unknown\"");
    assert_eq!(challenge(Some("")), "Swift realm=\"unknown\"");
    assert_eq!(challenge(Some("v1.0")), "Swift realm=\"unknown\"");
    assert_eq!(challenge(Some("AUTH_account")), "Swift realm=\"AUTH_account\"");
    assert_eq!(challenge(Some("AUTH_\"é")), "Swift realm=\"AUTH_%22%C3%A9\"");
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let server = Server::new();
    server.token("test:tester", "testing").await;
    let printed = format!("{:?}", server.auth);
    for secret in [SECRET, "argon2id", "testing"] {
        assert!(!printed.contains(secret), "{secret}");
    }
}
