//! One request on its way through the handlers: who asks, as whom, when, and how the store is called.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lustre::identity::Identity;
use lustre::pool::{Pool, PoolError};
use namespace::{Error, Namespace, System, Timestamp};

use super::errors::Answer;
use super::info::Features;
use super::path::Target;
use super::text;
use crate::auth::{Authenticator, Caller, Decision, Grants, Subject};
use crate::config::Limits;
use crate::http::{Headers, Response, ResponseBody};
use crate::identities::{Identities, Refused};

/// Everything that the handlers share.
#[derive(Debug)]
pub struct Service {
    /// The store.
    pub namespace: Arc<Namespace>,
    /// Where its calls run.
    pub pool: Pool,
    /// Who may do what.
    pub auth: Arc<Authenticator>,
    /// As whom.
    pub identities: Arc<Identities>,
    /// Swift's constraints.
    pub limits: Limits,
    /// What `/info` tells beside them.
    pub features: Features,
    /// How far ahead of our clock an X-Timestamp may be.
    pub clock_skew: Duration,
    /// How long an upload may take: as long as deletions are remembered.
    pub max_upload: Duration,
}

/// A request whose caller is known.
#[derive(Debug)]
pub struct Call {
    /// What the handlers share.
    pub service: Arc<Service>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: Target,
    /// The headers.
    pub headers: Headers,
    /// Who asks.
    pub caller: Caller,
    /// Where from.
    pub client: IpAddr,
    /// When it counts as made: X-Timestamp, or now.
    pub timestamp: Timestamp,
    /// As whom it touched files first, if not as the server: for the log.
    pub acted_as: OnceLock<(u32, u32)>,
}

/// What a permission is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The account.
    pub account: &'a str,
    /// The container, if any.
    pub container: Option<&'a str>,
    /// Whether it is about an object.
    pub object: bool,
}

/// What the store was asked for: it decides how some failures are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// An upload: losing against a newer version is as good as being overwritten at once.
    Upload,
    /// Anything else.
    Other,
}

impl Call {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name)
    }

    /// A header that is UTF-8 and not empty.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.headers.get_str(name).filter(|value| !value.is_empty())
    }

    /// Whether it is a HEAD.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Runs `job` on the store as `who`.
    pub async fn run<T: Send + 'static>(
        &self,
        who: Option<Arc<Identity>>,
        job: impl FnOnce(&Namespace) -> T + Send + 'static,
    ) -> Result<T, Answer> {
        let namespace = Arc::clone(&self.service.namespace);
        self.service.pool.run(who, move || job(&namespace)).await.map_err(|e| pool_failure(&e))
    }

    /// Runs `job` on the store as `who`, and answers its failure.
    pub async fn store<T: Send + 'static>(
        &self,
        who: Option<Arc<Identity>>,
        doing: Doing,
        job: impl FnOnce(&Namespace) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Answer> {
        self.run(who, job).await?.map_err(|e| failure(&e, doing))
    }

    /// As whom the request acts on files of `account`.
    pub async fn identity(&self, account: &str) -> Result<Option<Arc<Identity>>, Answer> {
        let Service { namespace, pool, identities, .. } = &*self.service;
        let user = self.caller.user();
        let identity = identities.of_request(namespace, pool, account, user).await.or_else(refused)?;
        if let Some(identity) = &identity {
            self.acted_as.get_or_init(|| (identity.uid, identity.gid));
        }
        Ok(identity)
    }

    /// As whom the service keeps the settings of `account`.
    pub async fn keeper(&self, account: &str) -> Result<Option<Arc<Identity>>, Answer> {
        let Service { namespace, pool, identities, .. } = &*self.service;
        identities.of_owner(namespace, pool, account).await.or_else(refused)
    }

    /// Settings of an account or container; none where it does not exist.
    pub async fn settings(&self, account: &str, container: Option<&str>) -> Result<System, Answer> {
        let keeper = self.keeper(account).await?;
        let (account, container) = (account.to_owned(), container.map(str::to_owned));
        let job = move |ns: &Namespace| match ns.system(&account, container.as_deref()) {
            Err(Error::NoAccount | Error::NoContainer) => Ok(System::new()),
            other => other,
        };
        self.store(keeper, Doing::Other, job).await
    }

    /// Whether the caller may do `method` there. True: as an owner.
    pub async fn authorize(&self, method: &str, scope: Scope<'_>) -> Result<bool, Answer> {
        let mut subject = Subject {
            method,
            account: scope.account,
            container: scope.container,
            object: scope.object,
            referer: self.headers.get_str("referer"),
            account_access_control: self.headers.get_str("x-account-access-control"),
            sync_key: self
                .headers
                .get_str("x-container-sync-key")
                .filter(|_| self.headers.contains("x-timestamp")),
            grants: None,
        };
        let first = self.service.auth.authorize(&self.caller, &subject);
        if first != Decision::NeedsGrants {
            return self.decided(first);
        }
        let of_account = self.settings(scope.account, None).await?;
        let of_container = match scope.container {
            Some(container) => self.settings(scope.account, Some(container)).await?,
            None => System::new(),
        };
        let get = |system: &'_ System, key: &str| system.get(key).cloned();
        let (read, write) = (get(&of_container, "read"), get(&of_container, "write"));
        let (account, sync) = (get(&of_account, "access-control"), get(&of_container, "sync-key"));
        subject.grants = Some(Grants {
            container_read: read.as_deref(),
            container_write: write.as_deref(),
            account: account.as_deref(),
            sync_key: sync.as_deref(),
        });
        let second = self.service.auth.authorize(&self.caller, &subject);
        self.decided(second)
    }

    fn decided(&self, decision: Decision) -> Result<bool, Answer> {
        match decision {
            Decision::Allow { owner } => Ok(owner),
            Decision::Forbidden => Err(Answer::new(403)),
            Decision::BadAccountAcl(text) => {
                Err(Answer { content_type: "text/plain; charset=UTF-8", ..Answer::plain(400, text) })
            }
            Decision::Unauthorized | Decision::NeedsGrants => {
                Err(Answer::new(401).with("Www-Authenticate", self.target.realm()))
            }
        }
    }
}

/// A missing account has no owner; the store will say that it is missing.
fn refused(why: Refused) -> Result<Option<Arc<Identity>>, Answer> {
    match why {
        Refused::NoAccount => Ok(None),
        Refused::Pool(e) => Err(pool_failure(&e)),
        Refused::Namespace(e) => Err(failure(&e, Doing::Other)),
        Refused::Owner { .. } | Refused::Unmapped { .. } => {
            tracing::warn!(error = %why, "a request has no identity");
            Err(Answer::new(403))
        }
    }
}

/// The answer to a job that was not run.
pub fn pool_failure(error: &PoolError) -> Answer {
    match error {
        PoolError::Busy => Answer::new(503).with("Retry-After", "1"),
        PoolError::Lost | PoolError::Identity(_) => {
            tracing::error!(%error, "a file-system job failed");
            Answer::new(500)
        }
    }
}

/// The answer to a failure of the store.
pub fn failure(error: &Error, doing: Doing) -> Answer {
    match error {
        Error::NoAccount | Error::NoContainer | Error::NoObject => Answer::new(404),
        Error::Forbidden { .. } => Answer::new(403),
        Error::Exists => Answer::new(412),
        Error::NoSpace { .. } => Answer::new(507),
        Error::Superseded { .. } if doing == Doing::Upload => Answer::new(202),
        Error::Superseded { .. } | Error::TooOld { .. } => Answer::new(409),
        Error::NotEmpty { first } => {
            let mut shown = String::new();
            text::push_xml(&mut shown, first);
            let page = Answer::new(409);
            let body = [&page.body[..], format!("<p>It still holds {shown}</p>").as_bytes()].concat();
            Answer::html(409, body)
        }
        Error::Blocked { .. } | Error::PrefixConflict { .. } => Answer::plain(409, error.to_string()),
        Error::Name(why) => Answer::plain(400, why.clone()),
        Error::Digest { .. } => Answer::new(422),
        Error::Contended { .. } => Answer::new(503).with("Retry-After", "1"),
        Error::Newer { .. } | Error::Index(_) | Error::Io { .. } => {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, source, "the store failed");
            Answer::new(500)
        }
    }
}

/// The response that an answer becomes.
pub fn respond(answer: Answer, head: bool) -> Response {
    let mut response = Response::new(answer.status);
    for (name, value) in &answer.headers {
        response.headers.append(name, value);
    }
    response.headers.append("Content-Type", answer.content_type);
    if head || answer.body.is_empty() {
        response.headers.append("Content-Length", "0");
    } else {
        response.body = ResponseBody::Bytes(answer.body);
    }
    response
}

/// An answer that has nothing to say but its status.
pub fn done(status: u16) -> Response {
    let answer = Answer::new(status);
    respond(answer, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_status_that_swift_gives() {
        let existing = Timestamp::now();
        let status = |e: Error, doing| failure(&e, doing).status;
        assert_eq!(status(Error::Superseded { existing }, Doing::Upload), 202);
        assert_eq!(status(Error::Superseded { existing }, Doing::Other), 409);
        assert_eq!(status(Error::NoSpace { what: String::new() }, Doing::Upload), 507);
        assert_eq!(status(Error::Forbidden { what: String::new() }, Doing::Other), 403);
        let held = failure(&Error::NotEmpty { first: "a<b".into() }, Doing::Other);
        assert!(held.body.ends_with(b"<p>It still holds a&lt;b</p>"));
    }

    #[test]
    fn answers_to_head_have_no_body() {
        let response = respond(Answer::new(404), true);
        assert!(matches!(response.body, ResponseBody::Empty));
        assert_eq!(response.headers.get("content-length"), Some(&b"0"[..]));
        assert!(matches!(respond(Answer::new(404), false).body, ResponseBody::Bytes(_)));
    }
}
