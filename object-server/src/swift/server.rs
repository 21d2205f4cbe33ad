//! The handler of all requests: routes, authenticates, keeps clients within their share, and tells what happened.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use namespace::{ObjectName, Timestamp};

use super::call::{self, Call, Scope, Service};
use super::cors::Rules;
use super::errors::Answer;
use super::path::{Resource, Target};
use super::{account, bulk_delete, container, info, object};
use crate::auth::{Caller, LogIn, LogInOutcome, client_address};
use crate::config::Network;
use crate::http::{Body, Handler, Outcome, Request, Response, Version};
use crate::limits::{Permit, Refusal, Throttle};
use crate::python::repr;
use crate::trans_id::TransIds;

/// A request that was answered, for logs and counters.
#[derive(Debug)]
pub struct Record {
    /// The transaction.
    pub trans_id: String,
    /// Who asked: `account:user`, or empty.
    pub user: String,
    /// Where from.
    pub client: IpAddr,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The method.
    pub method: String,
    /// The raw request target.
    pub target: Vec<u8>,
    /// The Referer header.
    pub referer: Option<String>,
    /// The User-Agent header.
    pub user_agent: Option<String>,
    /// The X-Auth-Token header.
    pub auth_token: Option<String>,
    /// The Etag header.
    pub client_etag: Option<String>,
    /// The protocol.
    pub version: Version,
    /// As whom files were touched, if not as the server.
    pub identity: Option<(u32, u32)>,
    /// How it went.
    pub outcome: Outcome,
}

/// Is told of every request.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// A request has been answered, or its client went away.
    fn answered(&self, record: Record);
    /// A client was refused before there was a request.
    fn refused(&self, peer: SocketAddr, status: u16);
    /// Somebody tried to log in.
    fn logged_in(&self, _outcome: LogInOutcome) {}
    /// A request came too early, or was one too many.
    fn throttled(&self, _refusal: Refusal) {}
}

/// Answers all requests.
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    throttle: Throttle,
    trans_ids: TransIds,
    trusted_proxies: Vec<Network>,
    /// The address that clients reach us at, for storage URLs without a Host header.
    local: SocketAddr,
    observer: Arc<dyn Observer>,
}

impl Server {
    /// Puts the parts together.
    pub fn new(
        service: Arc<Service>,
        throttle: Throttle,
        trans_ids: TransIds,
        trusted_proxies: Vec<Network>,
        local: SocketAddr,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { service, throttle, trans_ids, trusted_proxies, local, observer }
    }

    async fn answer(&self, request: Request, trace: &mut Trace) -> Response {
        let head = request.method == "HEAD";
        self.route(request, trace).await.unwrap_or_else(|answer| call::respond(answer, head))
    }

    async fn route(&self, mut request: Request, trace: &mut Trace) -> Result<Response, Answer> {
        let target = Target::new(&request.target);
        if target.path == b"/healthcheck" {
            return Ok(call::respond(Answer::plain(200, "OK"), request.method == "HEAD"));
        }
        let timestamp = timestamp_of(&request, self.service.clock_skew)?;
        if let Some(response) = self.log_in(&request, &target, trace).await {
            return Ok(response);
        }
        let resource = target.resource()?;
        if resource == Resource::Info {
            return Ok(self.info(&request));
        }
        let headers = std::mem::take(&mut request.headers);
        let token = headers.get_str("x-auth-token").or_else(|| headers.get_str("x-storage-token"));
        let caller = self.service.auth.authenticate(token, headers.get_str("x-service-token"));
        caller.user().clone_into(&mut trace.user);
        let call = Arc::new(Call {
            service: Arc::clone(&self.service),
            method: request.method,
            target,
            headers,
            caller,
            client: trace.client,
            timestamp,
            acted_as: OnceLock::new(),
        });
        let (name, methods) = names(resource);
        let allowed = |method: &&str| {
            let account_itself = name.1.is_none() && ["PUT", "DELETE"].contains(method);
            !account_itself || self.service.features.account_management
        };
        let methods: Vec<&str> = methods.iter().copied().filter(allowed).collect();
        if !methods.contains(&call.method.as_str()) && !bulk_delete::is_meant(&call) {
            return Err(Answer::new(405).with("Allow", methods.join(", ")));
        }
        let permit = Arc::new(self.admit(&call, &name.0).await?);
        if permit.is_paced() {
            request.body.set_pace(Arc::<Permit>::clone(&permit));
        }
        trace.permit = Some(permit);
        let result = dispatch(&call, name, &methods, request.body).await;
        trace.identity = call.acted_as.get().copied();
        result
    }

    async fn admit(&self, call: &Call, account: &str) -> Result<Permit, Answer> {
        let named = (!matches!(call.caller, Caller::Anonymous | Caller::Rejected)).then_some(account);
        match self.throttle.admit(named, call.client) {
            Ok(permit) => {
                let wait = permit.wait();
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Ok(permit)
            }
            Err(refusal) => {
                self.observer.throttled(refusal);
                let answer = match refusal {
                    Refusal::TooOften { .. } => Answer::html(refusal.status(), "Slow down"),
                    Refusal::TooMany => Answer::new(refusal.status()),
                };
                Err(answer.with("Retry-After", refusal.retry_after_seconds().to_string()))
            }
        }
    }

    async fn log_in(&self, request: &Request, target: &Target, trace: &mut Trace) -> Option<Response> {
        let path = std::str::from_utf8(&target.raw_path).ok()?;
        let headers = &request.headers;
        let log_in = LogIn {
            method: &request.method,
            path,
            auth_user: headers.get_str("x-auth-user"),
            auth_key: headers.get_str("x-auth-key"),
            storage_user: headers.get_str("x-storage-user"),
            storage_pass: headers.get_str("x-storage-pass"),
            host: headers.get_str("host"),
            secure: request.secure,
            local: self.local,
            client: trace.client,
        };
        let answer = self.service.auth.log_in(&log_in).await?;
        self.observer.logged_in(answer.outcome);
        trace.user = answer.user;
        let mut response = call::respond(Answer::new(answer.status), request.method == "HEAD");
        for (name, value) in &answer.headers {
            response.headers.append(name, value);
        }
        Some(response)
    }

    fn info(&self, request: &Request) -> Response {
        let head = request.method == "HEAD";
        match request.method.as_str() {
            "GET" | "HEAD" => {}
            "OPTIONS" => return Response::new(200).header("Allow", "HEAD, GET, OPTIONS"),
            _ => {
                let answer = Answer::new(405).with("Allow", "GET, HEAD, OPTIONS");
                return call::respond(answer, head);
            }
        }
        let document = info::document(&self.service.features, &self.service.limits);
        let mut response = Response::with_body(200, document);
        if let Some(origin) = request.headers.get("origin") {
            response.headers.append("Access-Control-Allow-Origin", origin);
            response.headers.append("Access-Control-Expose-Headers", "x-trans-id");
        }
        response.header("Content-Type", "application/json; charset=UTF-8")
    }
}

/// What is learned about a request while it is answered.
struct Trace {
    client: IpAddr,
    user: String,
    identity: Option<(u32, u32)>,
    permit: Option<Arc<Permit>>,
}

type Name = (String, Option<String>, Option<String>);

fn names(resource: Resource) -> (Name, &'static [&'static str]) {
    match resource {
        Resource::Object(a, c, o) => ((a, Some(c), Some(o)), &object::METHODS),
        Resource::Container(a, c) => ((a, Some(c), None), &container::METHODS),
        Resource::Account(a) => ((a, None, None), &account::METHODS),
        // Answered before.
        Resource::Info | Resource::Healthcheck => ((String::new(), None, None), &[]),
    }
}

async fn dispatch(call: &Arc<Call>, name: Name, methods: &[&str], body: Body) -> Result<Response, Answer> {
    let (account, container, object) = name;
    if bulk_delete::is_meant(call) {
        return bulk_delete::handle(call, &account, body).await;
    }
    let origin = call.header_text("origin");
    let rules = match (&container, origin) {
        (Some(container), Some(_)) => Rules::of(&container::cors_headers(call, &account, container).await),
        _ => Rules::default(),
    };
    if call.method == "OPTIONS" {
        let scope = Scope { account: &account, container: container.as_deref(), object: object.is_some() };
        call.authorize("OPTIONS", scope).await?;
        let origin = origin.filter(|_| container.is_some());
        return Ok(rules.preflight(methods, origin, &call.headers));
    }
    let result = match (container, object) {
        (Some(container), Some(object)) => {
            object::handle(call, ObjectName::new(account, container, object), body).await
        }
        (Some(container), None) => container::handle(call, &account, &container).await,
        (None, _) => account::handle(call, &account).await,
    };
    let Some(origin) = origin else { return result };
    let mut response = result.unwrap_or_else(|answer| call::respond(answer, call.is_head()));
    rules.apply(origin, &mut response);
    Ok(response)
}

/// When the request counts as made. A number that can be no time at all (negative, or of more than ten digits) is
/// passed over; Swift, where clients have no say in it, does so with every time.
fn timestamp_of(request: &Request, skew: std::time::Duration) -> Result<Timestamp, Answer> {
    let now = Timestamp::now();
    let Some(value) = request.headers.get("x-timestamp") else { return Ok(now) };
    let text = String::from_utf8_lossy(value);
    let wrong = |why: &str| Answer::plain(400, format!("X-Timestamp should be {why}; was {}", repr(&text)));
    let Ok(given) = text.trim().parse::<Timestamp>() else {
        return match text.trim().parse::<f64>() {
            Ok(number) if !number.is_nan() && !(0.0..1e10).contains(&number) => Ok(now),
            _ => Err(wrong("a UNIX timestamp float value")),
        };
    };
    if given.seconds() > now.seconds().saturating_add(skew.as_secs()) {
        return Err(wrong("no later than now"));
    }
    Ok(given)
}

impl Handler for Server {
    async fn call(&self, request: Request) -> Response {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let trans_id = self.trans_ids.next(now, request.headers.get_str("x-trans-id-extra"));
        let text = |name: &str| request.headers.get_str(name).map(str::to_owned);
        let forwarded = request.headers.get_str("x-forwarded-for");
        let client = client_address(request.peer.ip(), forwarded, &self.trusted_proxies);
        let (method, target, peer) = (request.method.clone(), request.target.clone(), request.peer);
        let (referer, user_agent) = (text("referer"), text("user-agent"));
        let (auth_token, client_etag) = (text("x-auth-token"), text("etag"));
        let version = request.version;
        let mut trace = Trace { client, user: String::new(), identity: None, permit: None };
        let mut response = self.answer(request, &mut trace).await;
        response.headers.append("X-Trans-Id", &trans_id);
        response.headers.append("X-Openstack-Request-Id", &trans_id);
        if let Some(permit) = trace.permit.as_ref().filter(|permit| permit.is_paced()) {
            response.pace = Some(Arc::<Permit>::clone(permit));
        }
        let observer = Arc::clone(&self.observer);
        response.done = Some(Box::new(move |outcome| {
            // The permit ends here.
            let Trace { client, user, identity, permit: _permit } = trace;
            observer.answered(Record {
                trans_id,
                user,
                client,
                peer,
                method,
                target,
                referer,
                user_agent,
                auth_token,
                client_etag,
                version,
                identity,
                outcome,
            });
        }));
        response
    }

    fn refused(&self, peer: SocketAddr, status: u16) {
        self.observer.refused(peer, status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn timestamp(value: &str) -> Result<Option<String>, u16> {
        let mut request = Request::new("PUT", "/v1/a/c/o");
        request.headers.append("X-Timestamp", value);
        let now = Timestamp::now();
        let given = timestamp_of(&request, Duration::from_mins(1)).map_err(|answer| answer.status)?;
        // None: the present.
        Ok(if given >= now { None } else { Some(given.to_string()) })
    }

    #[test]
    fn clients_may_date_their_requests() {
        assert_eq!(timestamp("1700000000.5"), Ok(Some("1700000000.50000".into())));
        assert_eq!(timestamp("-1"), Ok(None));
        assert_eq!(timestamp("99999999999.9999"), Ok(None));
        assert_eq!(timestamp("soon"), Err(400));
        assert_eq!(timestamp(""), Err(400));
        assert_eq!(timestamp("nan"), Err(400));
        assert_eq!(timestamp("9999999999"), Err(400));
    }
}
