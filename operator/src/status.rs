//! Status: what is said of a share or a bridge.

use crds::conditions::{self, READY, RECONCILING, STALLED, Statement, Status};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use crate::World;
use crate::cluster::{Key, WriteError};
use crate::queue::Next;

/// What another controller says, as far as it is about this generation.
pub fn said_by_driver(all: &[Condition], kind: &'static str, generation: Option<i64>) -> Statement {
    let current =
        |found: &&Condition| found.observed_generation.is_none() || found.observed_generation >= generation;
    match conditions::find(all, kind).filter(current) {
        None => Statement::unknown(kind, "WaitingForDriver", "the CSI controller has not looked at it yet"),
        Some(found) => {
            let status = match found.status.as_str() {
                "True" => Status::True,
                "False" => Status::False,
                _ => Status::Unknown,
            };
            Statement { kind, status, reason: found.reason.clone().into(), message: found.message.clone() }
        }
    }
}

/// Ready, as it follows from its parts: what is wrong counts before what is not known.
pub fn ready(parts: &[Statement]) -> Statement {
    let first = |status: Status| parts.iter().find(|part| part.status == status);
    match first(Status::False).or_else(|| first(Status::Unknown)) {
        Some(part) => Statement { kind: READY, ..part.clone() },
        None => Statement::yes(READY, "AsSpecified", "everything is as specified"),
    }
}

/// Ready, and Reconciling or Stalled, which exist only while they are true.
pub fn summary(parts: &[Statement], stalled: Option<(&'static str, String)>) -> Vec<Statement> {
    let ready = ready(parts);
    let state = match stalled {
        Some((reason, message)) => Some(Statement::yes(STALLED, reason, message)),
        None if ready.status == Status::True => None,
        None => Some(Statement::yes(RECONCILING, "Progressing", ready.message.clone())),
    };
    [ready].into_iter().chain(state).collect()
}

/// Those conditions that the operator writes. Others are not its business, whoever writes them.
pub fn ours(all: &[Condition], own: &[&str]) -> Vec<Condition> {
    all.iter().filter(|condition| own.contains(&condition.type_.as_str())).cloned().collect()
}

/// Says that a share or a bridge is not understood, and forgets what else was said by `own`.
pub async fn invalid(
    world: &World,
    key: &Key,
    value: &Value,
    own: &[&str],
    why: &str,
) -> Result<Next, WriteError> {
    let old: Vec<Condition> =
        serde_json::from_value(value["status"]["conditions"].clone()).unwrap_or_default();
    let message = format!("the object does not have the form that this operator knows: {why}");
    let say = summary(&[Statement::no("", "InvalidSpec", message.clone())], Some(("InvalidSpec", message)));
    let generation = value["metadata"]["generation"].as_i64();
    let new = conditions::merge(&old, &now(), generation, &say);
    if ours(&old, own) != new {
        world.writer.status(key, &json!({ "observedGeneration": generation, "conditions": new })).await?;
    }
    Ok(Next::Rest)
}

/// The present, as precise as the API server keeps it: whole seconds.
pub fn now() -> Time {
    Time(jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default())
}

/// What to tell of when Ready changed: nothing while it is not known.
pub fn news<'a>(old: &[Condition], new: &'a [Condition]) -> Option<&'a Condition> {
    let new = conditions::find(new, READY)?;
    let told =
        conditions::find(old, READY).is_some_and(|old| old.status == new.status && old.reason == new.reason);
    (new.status != "Unknown" && !told).then_some(new)
}

/// A list for people: the first few, and how many more.
pub fn few(all: &[String]) -> String {
    const MOST: usize = 10;
    let shown = all.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_counts_before_what_is_not_known() {
        let yes = Statement::yes("A", "Fine", "");
        let no = Statement::no("B", "Broken", "it is broken");
        let unknown = Statement::unknown("C", "Waiting", "");
        assert_eq!(ready(&[yes.clone(), unknown.clone(), no.clone()]).reason, "Broken");
        assert_eq!(ready(&[yes.clone(), unknown]).status, Status::Unknown);
        assert_eq!(ready(std::slice::from_ref(&yes)).status, Status::True);
        let kinds = |of: Vec<Statement>| of.iter().map(|one| one.kind).collect::<Vec<_>>();
        assert_eq!(kinds(summary(&[yes], None)), ["Ready"]);
        assert_eq!(kinds(summary(std::slice::from_ref(&no), None)), ["Ready", "Reconciling"]);
        assert_eq!(kinds(summary(&[no], Some(("Taken", String::new())))), ["Ready", "Stalled"]);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(few(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(few(&names[..2]), "0, 1");
    }
}
