use super::*;
use crate::cluster::fixtures;
use crate::cluster::plan::{Namespaces, plan};
use crds::grants::Labels;
use crds::share::LustreShareStatus;

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
}

fn planned(share: &LustreShare) -> Plan {
    let namespaces = Namespaces::from([("team-a".to_owned(), Labels::new())]);
    plan(share, &namespaces, &[]).unwrap()
}

fn reachable(grants: Vec<Result<(u32, u32), String>>) -> Outcome {
    Outcome::Reachable { share: None, grants, bridges: Vec::new() }
}

/// As the API server would merge it.
fn applied(share: &mut LustreShare, patch: &Value) {
    let status: LustreShareStatus = serde_json::from_value(patch["status"].clone()).unwrap();
    share.status = Some(status);
}

fn condition<'a>(patch: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
    (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

#[test]
fn what_is_said_already_is_not_said_again() {
    let mut share = fixtures::share("/srv");
    let plan = planned(&share);
    let outcome = reachable(vec![Ok((2000, 2000))]);
    let patch = of_share(&share, &plan, &outcome, &at(1)).unwrap();
    assert_eq!(condition(&patch, FILESYSTEM_REACHABLE), ("True", "Answers"));
    assert_eq!(condition(&patch, DIRECTORY_READY), ("True", "Exists"));
    let grant = json!([{ "namespace": "team-a", "claimName": "projects", "uid": 2000, "gid": 2000 }]);
    assert_eq!(patch["status"]["grants"], grant);
    applied(&mut share, &patch);
    assert_eq!(of_share(&share, &plan, &outcome, &at(2)), None);
    // Another owner, and another generation, are news.
    assert!(of_share(&share, &plan, &reachable(vec![Ok((1, 2000))]), &at(2)).is_some());
    share.metadata.generation = Some(4);
    assert!(of_share(&share, &plan, &outcome, &at(2)).is_some());
}

#[test]
fn what_the_operator_says_of_a_grant_is_not_ours() {
    let mut share = fixtures::share("/srv");
    let plan = planned(&share);
    let outcome = reachable(vec![Ok((2000, 2000))]);
    let patch = of_share(&share, &plan, &outcome, &at(1)).unwrap();
    applied(&mut share, &patch);
    let status = share.status.as_mut().unwrap();
    status.grants[0].phase = Some("Bound".into());
    status.grants.push(crds::share::GrantStatus {
        namespace: "x".into(),
        claim_name: "c".into(),
        ..Default::default()
    });
    assert_eq!(of_share(&share, &plan, &outcome, &at(2)), None);
}

#[test]
fn an_owner_that_was_seen_is_kept_while_the_share_is_away() {
    let mut share = fixtures::share("/srv");
    let plan = planned(&share);
    let patch = of_share(&share, &plan, &reachable(vec![Ok((2000, 2000))]), &at(1)).unwrap();
    applied(&mut share, &patch);
    let patch = of_share(&share, &plan, &Outcome::Unreachable("gone".into()), &at(2)).unwrap();
    assert_eq!(condition(&patch, FILESYSTEM_REACHABLE), ("False", "NotReachable"));
    assert_eq!(condition(&patch, DIRECTORY_READY), ("Unknown", "NotReachable"));
    assert_eq!(patch["status"]["grants"][0]["uid"], 2000);
}

#[test]
fn a_share_of_another_node_says_which() {
    let share = fixtures::share("/srv");
    let patch = of_share(&share, &planned(&share), &Outcome::OtherNode("n2".into()), &at(1)).unwrap();
    assert_eq!(condition(&patch, DIRECTORY_READY), ("False", "OtherNode"));
}

#[test]
fn a_grant_that_failed_is_named() {
    let share = fixtures::share("/srv");
    let outcome = reachable(vec![Err("a link is in the way".into())]);
    let patch = of_share(&share, &planned(&share), &outcome, &at(1)).unwrap();
    assert_eq!(condition(&patch, DIRECTORY_READY), ("False", "NotMade"));
    assert!(patch.to_string().contains("grant of namespace team-a: a link is in the way"));
    assert_eq!(patch["status"]["grants"], json!([]));
}

#[test]
fn a_bridge_has_one_condition_of_ours() {
    let mut bridge = fixtures::bridge("team-a");
    let patch = of_bridge(&bridge, &Made::Later, &at(1)).unwrap();
    assert_eq!(condition(&patch, DIRECTORY_READY), ("Unknown", "OwnerUnknown"));
    bridge.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
    assert_eq!(of_bridge(&bridge, &Made::Later, &at(2)), None);
    for (made, is) in [
        (Made::Ready, ("True", "Exists")),
        (Made::NotAccepted("no".into()), ("False", "NotAccepted")),
        (Made::Failed("no".into()), ("False", "NotMade")),
    ] {
        assert_eq!(condition(&of_bridge(&bridge, &made, &at(2)).unwrap(), DIRECTORY_READY), is);
    }
}
