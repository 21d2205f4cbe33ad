//! What is said of a bridge.

use crds::bridge::{Endpoint, ServiceType, SwiftBridgeStatus};
use crds::conditions::{
    AUTH_READY, AVAILABLE, CERTIFICATE_VALID, DIRECTORY_READY, READY, RECONCILING, SHARE_ACCEPTED, STALLED,
    Statement, merge,
};
use crds::grants::Acts;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::trouble::Trouble;
use super::{Seen, Valid, build, pod};
use crate::World;
use crate::apply::Applied;
use crate::cluster::WriteError;
use crate::labels;
use crate::status::{few, news, now, ours, said_by_driver, summary};

/// What the operator writes.
pub(super) const OWN: [&str; 7] =
    [READY, RECONCILING, STALLED, SHARE_ACCEPTED, AVAILABLE, AUTH_READY, CERTIFICATE_VALID];

/// Whether the pods that there should be answer.
pub(super) fn is_available(seen: &Seen) -> bool {
    let Some(deployment) = &seen.deployment else { return false };
    let current =
        deployment["status"]["observedGeneration"].as_i64() >= deployment["metadata"]["generation"].as_i64();
    let updated = deployment["status"]["updatedReplicas"].as_i64().unwrap_or_default() > 0;
    current && updated && ready_replicas(deployment) > 0
}

fn ready_replicas(deployment: &Value) -> i32 {
    deployment["status"]["availableReplicas"].as_i64().unwrap_or_default() as i32
}

/// Says what is observed, if it is not said already.
pub(super) async fn write(
    world: &World,
    seen: &Seen,
    valid: &Valid,
    applied: Option<&Applied>,
    trouble: &Trouble,
) -> Result<(), WriteError> {
    let old = conditions(seen);
    let generation = seen.bridge.metadata.generation;
    let say = statements(seen, valid, applied, trouble);
    let serves = matches!(valid, Valid::Serves(_));
    let pods = |key: &str| {
        seen.deployment.as_ref().map_or(0, |all| all["status"][key].as_i64().unwrap_or_default() as i32)
    };
    let new = SwiftBridgeStatus {
        observed_generation: generation,
        conditions: merge(old, &now(), generation, &say),
        replicas: Some(pods("replicas")),
        ready_replicas: Some(pods("readyReplicas")),
        selector: Some(selector(&seen.key.name)),
        endpoints: if serves { endpoints(seen) } else { Vec::new() },
    };
    if sorted(said(seen)) == sorted(new.clone()) {
        return Ok(());
    }
    world.writer.status(&seen.key, &json!(new)).await?;
    if let Some(condition) = news(old, &new.conditions) {
        let warning = condition.status != "True";
        world.writer.tell(&seen.value, warning, &condition.reason, &condition.message).await;
    }
    Ok(())
}

fn statements(seen: &Seen, valid: &Valid, applied: Option<&Applied>, trouble: &Trouble) -> Vec<Statement> {
    let spec = &seen.bridge.spec;
    let directory = said_by_driver(conditions(seen), DIRECTORY_READY, seen.bridge.metadata.generation);
    let mut own = vec![accepted(valid), available(seen, valid, applied, trouble)];
    own.push(files(seen, trouble, AUTH_READY, &spec.auth.credentials.secret_ref.name, "the users"));
    if let Some(tls) = &spec.exposure.tls {
        own.push(files(seen, trouble, CERTIFICATE_VALID, &tls.secret_ref.name, "the certificate"));
    }
    // In the order in which one leads to another, so that Ready names the cause. A bridge without pods is as specified.
    let acceptance = own.first().cloned();
    let running = own[1..].iter().rev().filter(|_| spec.replicas > 0).cloned();
    let parts: Vec<Statement> = acceptance.into_iter().chain([directory]).chain(running).collect();
    let mut say = summary(&parts, stalled(valid, applied));
    say.extend(own);
    say
}

fn accepted(valid: &Valid) -> Statement {
    match valid {
        Valid::Refused(refusal) => Statement::no(SHARE_ACCEPTED, refusal.reason(), refusal.to_string()),
        Valid::Waits(accepted) if accepted.acts == Acts::Unknown => Statement::unknown(
            SHARE_ACCEPTED,
            "WaitingForDirectory",
            "the owner of the directory granted is not known yet; the CSI controller makes it and says",
        ),
        Valid::Waits(accepted) | Valid::Serves(accepted) => {
            let claim = &accepted.grant.claim;
            Statement::yes(SHARE_ACCEPTED, "Granted", format!("by claim {claim}; {}", acts(&accepted.acts)))
        }
    }
}

fn acts(acts: &Acts) -> String {
    match acts {
        Acts::As((uid, gid)) => format!("it acts as {uid}:{gid}"),
        Acts::Within(_) => "it acts as several identities".to_owned(),
        Acts::Unknown => "it is not known yet as whom it acts".to_owned(),
    }
}

fn available(seen: &Seen, valid: &Valid, applied: Option<&Applied>, trouble: &Trouble) -> Statement {
    let obstacles = applied.map(Applied::obstacles).unwrap_or_default();
    let waits = trouble.pods.iter().map(|(reason, message)| format!("{reason}: {message}"));
    let troubles: Vec<String> = waits.chain(trouble.mounts.iter().cloned()).collect();
    match (valid, trouble.pods.first()) {
        (Valid::Refused(_), _) => Statement::no(AVAILABLE, "NotAccepted", "the share does not accept it"),
        _ if !obstacles.is_empty() => Statement::no(AVAILABLE, "NotApplied", few(&obstacles)),
        (Valid::Waits(_), _) => {
            Statement::no(AVAILABLE, "WaitingForDirectory", "no pod is made before its directories are there")
        }
        _ if seen.bridge.spec.replicas <= 0 => Statement::no(AVAILABLE, "NoReplicas", "spec.replicas is 0"),
        _ if is_available(seen) => Statement::yes(AVAILABLE, "Answers", "its pod answers"),
        (_, Some((reason, _))) if is_reason(reason) => {
            Statement::no(AVAILABLE, reason.clone(), few(&troubles))
        }
        _ => Statement::no(AVAILABLE, "PodNotReady", "its pod does not answer yet"),
    }
}

/// What the API server takes as a reason.
fn is_reason(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Whether what a Secret holds can be read. The operator reads no Secret: a pod that answers has read it, and one that
/// cannot mount it says so.
fn files(seen: &Seen, trouble: &Trouble, kind: &'static str, secret: &str, what: &str) -> Statement {
    if is_available(seen) {
        return Statement::yes(kind, "Read", format!("the pod has read {what} from Secret {secret}"));
    }
    match trouble.of_mount(secret) {
        Some(said) => Statement::no(kind, "SecretNotMounted", said),
        None => Statement::unknown(
            kind,
            "PodNotReady",
            format!("no pod has read {what} from Secret {secret} yet"),
        ),
    }
}

/// What nobody but a person can change.
fn stalled(valid: &Valid, applied: Option<&Applied>) -> Option<(&'static str, String)> {
    if let Valid::Refused(refusal) = valid {
        return Some((refusal.reason(), refusal.to_string()));
    }
    let taken = applied.and_then(|applied| applied.taken().next().map(|_| applied.obstacles()));
    taken.map(|obstacles| ("NameTaken", few(&obstacles)))
}

/// Where clients reach it, the address with the widest reach first.
fn endpoints(seen: &Seen) -> Vec<Endpoint> {
    let exposure = &seen.bridge.spec.exposure;
    let scheme = pod::protocol(&seen.bridge);
    let port = build::service_port(&seen.bridge);
    let suffix =
        if port == if scheme == "https" { 443 } else { 80 } { String::new() } else { format!(":{port}") };
    let hosts = exposure.ingress.iter().map(|ingress| &ingress.host);
    let hosts = hosts.chain(exposure.http_route.iter().map(|route| &route.host));
    let outside = hosts.map(|host| format!("{scheme}://{host}"));
    let balanced = balancers(seen).into_iter().map(|host| format!("{scheme}://{host}{suffix}"));
    let service = crds::names::bridge_object_name(&seen.key.name);
    let inside = format!("{scheme}://{service}.{}.svc{suffix}", seen.key.namespace);
    let public = exposure.public_url.iter().map(|url| url.trim_end_matches('/').to_owned());
    let mut urls: Vec<String> = Vec::new();
    for url in public.chain(outside).chain(balanced).chain([inside]) {
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls.into_iter().take(16).map(|url| Endpoint { protocol: "swift".to_owned(), url }).collect()
}

/// The addresses that a load balancer gave the service.
fn balancers(seen: &Seen) -> Vec<String> {
    let service =
        seen.service.as_ref().filter(|_| seen.bridge.spec.exposure.service.kind == ServiceType::LoadBalancer);
    let given = service.and_then(|service| service["status"]["loadBalancer"]["ingress"].as_array());
    let host = |one: &Value| match (one["hostname"].as_str(), one["ip"].as_str()) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some(ip)) if ip.contains(':') => Some(format!("[{ip}]")),
        (None, ip) => ip.map(str::to_owned),
    };
    given.into_iter().flatten().filter_map(host).collect()
}

fn selector(name: &str) -> String {
    labels::selector(name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn conditions(seen: &Seen) -> &[Condition] {
    seen.bridge.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// What the operator has said before.
fn said(seen: &Seen) -> SwiftBridgeStatus {
    let status = seen.bridge.status.clone().unwrap_or_default();
    SwiftBridgeStatus { conditions: ours(&status.conditions, &OWN), ..status }
}

/// The order of a list that is a map is the API server's.
fn sorted(mut status: SwiftBridgeStatus) -> SwiftBridgeStatus {
    status.conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    status
}
