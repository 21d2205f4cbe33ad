//! Logging in: the auth version 1 exchange, a GET that trades a key for a token and a storage URL.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::Authenticator;
use super::address::host_url;
use super::keys::Verdict;
use super::token::Claims;
use super::users::User;

/// A request that may be a log-in. Header values are none where the header is absent or not UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct LogIn<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as it stands in the request, without the query.
    pub path: &'a str,
    /// `X-Auth-User`.
    pub auth_user: Option<&'a str>,
    /// `X-Auth-Key`.
    pub auth_key: Option<&'a str>,
    /// `X-Storage-User`.
    pub storage_user: Option<&'a str>,
    /// `X-Storage-Pass`.
    pub storage_pass: Option<&'a str>,
    /// `Host`.
    pub host: Option<&'a str>,
    /// Whether the request came by HTTPS.
    pub secure: bool,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client, see [`super::client_address`].
    pub client: IpAddr,
}

/// The answer. A body is the status' usual one; that of 200 is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogInAnswer {
    /// 200, 400, 401, 404, 405, 429 or 503.
    pub status: u16,
    /// Headers to add.
    pub headers: Vec<(&'static str, String)>,
    /// Who tried, for the access log; empty where nobody was named.
    pub user: String,
    /// What happened, for the metrics.
    pub outcome: LogInOutcome,
}

/// What came of a log-in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LogInOutcome {
    /// A token was given.
    Granted,
    /// No such user, or not its key.
    Denied,
    /// Not a log-in as it should be.
    Malformed,
    /// Too many failures before: not even looked at.
    BackedOff,
    /// Too many log-ins at once.
    Busy,
}

/// Which kind of log-in a path is.
#[derive(PartialEq, Eq, Debug)]
enum Route {
    /// `/auth/v1/<account>/auth`.
    Account(String),
    /// `/auth/v1.0`, `/auth/auth`, or `/v1.0`.
    Plain,
    /// Below `/auth/`, but nothing.
    NotFound,
    /// Below `/auth/`, but no version that is known.
    Bad,
}

impl Authenticator {
    /// Answers a log-in. None if the request is none: the path is neither below `/auth/` nor, for a GET, `/v1.0`.
    pub async fn log_in(&self, request: &LogIn<'_>) -> Option<LogInAnswer> {
        let route = route(request.method, request.path)?;
        if request.method != "GET" {
            return Some(LogInAnswer::malformed(405));
        }
        let (account, user, key) = match route {
            Route::NotFound => return Some(LogInAnswer::malformed(404)),
            Route::Bad => return Some(LogInAnswer::malformed(400)),
            Route::Account(account) => {
                let Some(user) = user_of(request, &account) else {
                    return Some(LogInAnswer::denied(&account, ""));
                };
                (account, user, given(request.storage_pass).or(request.auth_key))
            }
            Route::Plain => {
                let user = given(request.auth_user).or(request.storage_user).unwrap_or_default();
                let Some((account, user)) = user.split_once(':') else {
                    return Some(LogInAnswer::denied("", ""));
                };
                (account.to_owned(), user, given(request.auth_key).or(request.storage_pass))
            }
        };
        let Some(key) = given(key).filter(|_| !account.is_empty() && !user.is_empty()) else {
            return Some(LogInAnswer::denied(&account, ""));
        };
        Some(self.check_log_in(request, &account, format!("{account}:{user}"), key).await)
    }

    async fn check_log_in(&self, request: &LogIn<'_>, account: &str, name: String, key: &str) -> LogInAnswer {
        let user = self.users.get().get(&name).cloned();
        let verdict = self.keys.check(&name, user.as_deref(), key, request.client).await;
        match (verdict, user) {
            (Verdict::Right, Some(user)) => {
                self.grant(request, &user).unwrap_or_else(|| LogInAnswer::busy(name))
            }
            (Verdict::Right | Verdict::Wrong, _) => LogInAnswer::denied(account, &name),
            (Verdict::Wait(wait), _) => LogInAnswer::later(429, name, wait, LogInOutcome::BackedOff),
            (Verdict::Busy, _) => LogInAnswer::busy(name),
        }
    }

    fn grant(&self, request: &LogIn<'_>, user: &User) -> Option<LogInAnswer> {
        let now = self.clock.unix_seconds();
        let expires = now.saturating_add(self.token_life_seconds);
        let name = &user.principal.user;
        let claims = Claims { user: name, expires, issued: now, fingerprint: user.fingerprint };
        let token = self.secrets.get().issue(&claims)?;
        Some(LogInAnswer {
            status: 200,
            headers: vec![
                ("X-Auth-Token", token.clone()),
                ("X-Storage-Token", token),
                ("X-Auth-Token-Expires", self.token_life_seconds.to_string()),
                ("X-Storage-Url", self.storage_url(request, user)),
            ],
            user: name.clone(),
            outcome: LogInOutcome::Granted,
        })
    }

    fn storage_url(&self, request: &LogIn<'_>, user: &User) -> String {
        let host = match &self.public_url {
            Some(url) => url.clone(),
            None => host_url(request.secure, request.host, request.local),
        };
        let url = user.storage_url.replace("$HOST", &host);
        match (&self.storage_url_scheme, url.split_once(':')) {
            (Some(scheme), Some((_, rest))) => format!("{scheme}:{rest}"),
            _ => url,
        }
    }
}

impl LogInAnswer {
    fn malformed(status: u16) -> Self {
        Self { status, headers: Vec::new(), user: String::new(), outcome: LogInOutcome::Malformed }
    }

    fn denied(account: &str, name: &str) -> Self {
        let outcome = if name.is_empty() { LogInOutcome::Malformed } else { LogInOutcome::Denied };
        let headers = vec![("Www-Authenticate", format!("Swift realm=\"{}\"", realm(account)))];
        Self { status: 401, headers, user: name.to_owned(), outcome }
    }

    fn busy(name: String) -> Self {
        Self::later(503, name, Duration::from_secs(1), LogInOutcome::Busy)
    }

    fn later(status: u16, name: String, wait: Duration, outcome: LogInOutcome) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { status, headers: vec![("Retry-After", seconds.to_string())], user: name, outcome }
    }
}

/// Swift writes the account as it came; what could end the quotes or the header is percent-encoded here.
fn realm(account: &str) -> String {
    if account.is_empty() {
        return "unknown".to_owned();
    }
    let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !['"', '\\'].contains(&c);
    if account.chars().all(plain) {
        account.to_owned()
    } else {
        crate::python::quote(account.as_bytes()).to_string()
    }
}

/// The header's value, unless it is empty, which counts as absent.
fn given(header: Option<&str>) -> Option<&str> {
    header.filter(|value| !value.is_empty())
}

/// The user of a log-in that names the account in its path; the header may name it too, if it is the same.
fn user_of<'a>(request: &LogIn<'a>, account: &str) -> Option<&'a str> {
    if let Some(user) = given(request.storage_user) {
        return Some(user);
    }
    let (named, user) = request.auth_user?.split_once(':')?;
    (named == account).then_some(user)
}

fn route(method: &str, path: &str) -> Option<Route> {
    if method == "GET" && ["/v1.0", "/v1.0/"].contains(&path) {
        return Some(Route::Plain);
    }
    let path = percent_decode_str(path).decode_utf8_lossy();
    let mut segments = path.strip_prefix("/auth/")?.splitn(4, '/');
    let version = segments.next().unwrap_or_default();
    let [account, action, rest] = [(); 3].map(|()| segments.next());
    // A segment may be empty only where nothing follows it.
    let hole = |segment: Option<&str>, next: Option<&str>| segment == Some("") && next.is_some();
    if version.is_empty() || hole(account, action) || hole(action, rest) {
        return Some(Route::NotFound);
    }
    Some(match (version, account, action, rest) {
        ("v1", Some(account), Some("auth"), None) => Route::Account(account.to_owned()),
        ("v1.0" | "auth", ..) => Route::Plain,
        _ => Route::Bad,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Swift's `split_path` makes of each, and its `test_get_token_fail_bad_path`.
    #[test]
    fn paths_are_routed_as_swift_does() {
        let account = |name: &str| Some(Route::Account(name.to_owned()));
        for (path, expected) in [
            ("/auth/v1.0", Some(Route::Plain)),
            ("/auth/v1.0/", Some(Route::Plain)),
            ("/auth/auth", Some(Route::Plain)),
            ("/v1.0", Some(Route::Plain)),
            ("/v1.0/", Some(Route::Plain)),
            ("/auth/v1/act/auth", account("act")),
            ("/auth/v1/%C3%A9/auth", account("é")),
            ("/auth/v1/act/auth/", Some(Route::Bad)),
            ("/auth/v1/act/auth/invalid", Some(Route::Bad)),
            ("/auth/v1/act/other", Some(Route::Bad)),
            ("/auth/v1", Some(Route::Bad)),
            ("/auth/v2.0", Some(Route::Bad)),
            ("/auth/", Some(Route::NotFound)),
            ("/auth//v1.0", Some(Route::NotFound)),
            ("/auth/v1//auth", Some(Route::NotFound)),
            ("/auth/v1/a//x", Some(Route::NotFound)),
            ("/auth", None),
            ("/authx/v1.0", None),
            ("/v1/AUTH_a", None),
            ("/v1.0/AUTH_a", None),
        ] {
            assert_eq!(route("GET", path), expected, "{path}");
        }
        assert_eq!(route("PUT", "/v1.0"), None);
    }

    #[test]
    fn realms_stay_within_their_quotes() {
        assert_eq!(realm("act"), "act");
        assert_eq!(realm(""), "unknown");
        assert_eq!(realm("a b"), "a b");
        assert_eq!(realm("a\"\r\nX: é"), "a%22%0D%0AX%3A%20%C3%A9");
    }
}
