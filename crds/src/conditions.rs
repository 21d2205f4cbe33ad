//! Conditions: what is said of an object, and since when.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The object is as its specification wants it.
pub const READY: &str = "Ready";
/// Work is under way. Exists only while that is so.
pub const RECONCILING: &str = "Reconciling";
/// Nothing will happen until someone changes something. Exists only while that is so.
pub const STALLED: &str = "Stalled";
/// A share: the file system answers. Of the CSI controller.
pub const FILESYSTEM_REACHABLE: &str = "FilesystemReachable";
/// The directories are there. Of the CSI controller.
pub const DIRECTORY_READY: &str = "DirectoryReady";
/// A share: each grant has its volume and its claim.
pub const ACCESS_GRANTED: &str = "AccessGranted";
/// A share: pods or bridges use it.
pub const IN_USE: &str = "InUse";
/// A bridge: the share's administrator lets it be.
pub const SHARE_ACCEPTED: &str = "ShareAccepted";
/// A bridge: requests are answered.
pub const AVAILABLE: &str = "Available";
/// A bridge: the users can be read.
pub const AUTH_READY: &str = "AuthReady";
/// A bridge with TLS: the certificate can be read.
pub const CERTIFICATE_VALID: &str = "CertificateValid";

/// Whether something holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told yet.
    Unknown,
}

impl Status {
    /// As it stands in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is to be said now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// What it is about.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// Why, as one word in camel case.
    pub reason: Cow<'static, str>,
    /// Why, for people.
    pub message: String,
}

impl Statement {
    /// It holds.
    pub fn yes(kind: &'static str, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind, status: Status::True, reason: reason.into(), message: message.into() }
    }

    /// It does not hold.
    pub fn no(kind: &'static str, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind, status: Status::False, reason: reason.into(), message: message.into() }
    }

    /// It cannot be told yet.
    pub fn unknown(
        kind: &'static str,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status: Status::Unknown, reason: reason.into(), message: message.into() }
    }
}

/// The longest message that the API server takes, in characters.
pub const MESSAGE_MAX: usize = 32_768;

/// The conditions that say what is to be said now: those of `old` that say the same keep their time, so that nothing
/// changes when nothing has.
pub fn merge(old: &[Condition], now: &Time, generation: Option<i64>, say: &[Statement]) -> Vec<Condition> {
    say.iter().map(|statement| merged(find(old, statement.kind), now, generation, statement)).collect()
}

fn merged(old: Option<&Condition>, now: &Time, generation: Option<i64>, say: &Statement) -> Condition {
    let since = old.filter(|old| old.status == say.status.as_str()).map(|old| &old.last_transition_time);
    Condition {
        type_: say.kind.to_owned(),
        status: say.status.as_str().to_owned(),
        reason: say.reason.to_string(),
        message: say.message.chars().take(MESSAGE_MAX).collect(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(now).clone(),
    }
}

/// The condition of a kind.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is there and true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Whether a condition is there and false.
pub fn is_false(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "False")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_status() {
        let first = merge(&[], &time(1), Some(1), &[Statement::no(READY, "Waiting", "for a claim")]);
        assert_eq!((first[0].last_transition_time.clone(), first[0].status.as_str()), (time(1), "False"));
        let same = merge(&first, &time(2), Some(1), &[Statement::no(READY, "Waiting", "for a claim")]);
        assert_eq!(same, first);
        let reworded = merge(&first, &time(3), Some(2), &[Statement::no(READY, "Waiting", "for a volume")]);
        assert_eq!(
            (reworded[0].last_transition_time.clone(), reworded[0].observed_generation),
            (time(1), Some(2))
        );
        let ready = merge(&reworded, &time(4), Some(2), &[Statement::yes(READY, "AsSpecified", "")]);
        assert_eq!(ready[0].last_transition_time, time(4));
        assert!(is_true(&ready, READY) && !is_false(&ready, READY) && is_false(&first, READY));
        assert!(find(&ready, STALLED).is_none());
    }

    #[test]
    fn a_message_is_no_longer_than_the_api_server_takes() {
        let long = Statement::unknown(READY, "Long", "ä".repeat(MESSAGE_MAX + 1));
        assert_eq!(merge(&[], &time(1), None, &[long])[0].message.chars().count(), MESSAGE_MAX);
    }
}
