use lustre::fs::Fid;
use namespace::Spot;

use super::*;

fn state() -> State {
    State { text: String::new(), immediate: true, overflows: 0, directories: 0 }
}

fn hub(records: usize) -> Hub {
    Hub::new(Bounds { records, ..Bounds::default() }, state()).unwrap()
}

fn mark(path: &str) -> Mark {
    let dir = Fid::from_bytes(b"d").unwrap();
    Mark::Entry(Spot { dir, path: path.into(), name: b"x".to_vec() })
}

fn publish(hub: &Hub, paths: &[&str]) {
    let marks = paths.iter().map(|path| mark(path)).collect();
    hub.publish(Batch { marks, newest: SystemTime::now(), drained: true }, state(), SystemTime::now());
}

fn bridge(path: &str) -> Bridge {
    Bridge { scope: Scope::parse(path.as_bytes()).unwrap(), name: "b".into() }
}

#[test]
fn a_bridge_gets_what_it_has_not_got() {
    let (hub, bridge) = (hub(100), bridge("a"));
    publish(&hub, &["a"]);
    let begin = hub.begin(&bridge, None).unwrap();
    assert!(begin.gap && begin.sequence == 1);
    publish(&hub, &["a", "b", "a/c", "a"]);
    let news = hub.news(&bridge, begin.connection, 1, 2).unwrap();
    assert_eq!((news.marks.len(), news.sequence, news.drained), (2, 4, None));
    let news = hub.news(&bridge, begin.connection, 4, 2).unwrap();
    assert_eq!((news.marks.len(), news.sequence), (1, 5));
    assert!(news.drained.is_some());
    publish(&hub, &["b"]);
    let news = hub.news(&bridge, begin.connection, 5, 2).unwrap();
    assert_eq!((news.marks.len(), news.sequence), (0, 6));
}

#[test]
fn what_is_durable_is_not_kept_and_the_rest_is_there_after_a_break() {
    let (hub, bridge) = (hub(100), bridge(""));
    let first = hub.begin(&bridge, None).unwrap();
    publish(&hub, &["a", "b", "c"]);
    assert_eq!(hub.standings()[0].records, 3);
    hub.acknowledge(&bridge, first.connection, 2, 3).unwrap();
    assert_eq!(hub.standings()[0].records, 1);
    hub.leave(&bridge, first.connection);
    assert!(!hub.followed());
    publish(&hub, &["d"]);
    let second = hub.begin(&bridge, Some(2)).unwrap();
    assert!(!second.gap && second.sequence == 2);
    assert_eq!(hub.news(&bridge, second.connection, 2, 9).unwrap().marks.len(), 2);
    // What was acknowledged is gone, and what was never sent is unknown.
    assert!(hub.begin(&bridge, Some(1)).unwrap().gap);
    assert!(hub.begin(&bridge, Some(99)).unwrap().gap);
}

#[test]
fn nobody_acknowledges_what_was_not_sent() {
    let (hub, bridge) = (hub(100), bridge(""));
    let begin = hub.begin(&bridge, None).unwrap();
    publish(&hub, &["a", "b"]);
    assert_eq!(hub.acknowledge(&bridge, begin.connection, 2, 1), Err(Ended::Ahead(2)));
}

#[test]
fn the_newer_connection_counts() {
    let (hub, bridge) = (hub(100), bridge(""));
    let first = hub.begin(&bridge, None).unwrap();
    let second = hub.begin(&bridge, Some(0)).unwrap();
    assert!(!second.gap);
    assert_eq!(hub.news(&bridge, first.connection, 0, 9), Err(Ended::Replaced));
    hub.leave(&bridge, first.connection);
    assert!(hub.news(&bridge, second.connection, 0, 9).is_ok());
}

#[test]
fn too_much_is_dropped_and_told() {
    let (hub, slow, other) = (hub(3), bridge(""), bridge("b"));
    let begin = hub.begin(&slow, None).unwrap();
    let fine = hub.begin(&other, None).unwrap();
    publish(&hub, &["a", "a", "a", "b"]);
    assert_eq!(hub.news(&slow, begin.connection, 0, 9), Err(Ended::Dropped));
    assert_eq!(hub.news(&other, fine.connection, 0, 9).unwrap().marks.len(), 1);
    assert_eq!(hub.counts(), (4, 1));
    let again = hub.begin(&slow, Some(0)).unwrap();
    assert!(again.gap && again.sequence == 4);
    publish(&hub, &["a"]);
    assert_eq!(hub.news(&slow, again.connection, 4, 9).unwrap().marks.len(), 1);
    // While it is away.
    hub.leave(&slow, again.connection);
    publish(&hub, &["a", "a", "a"]);
    assert_eq!(hub.standings().len(), 1);
    assert!(hub.begin(&slow, Some(5)).unwrap().gap);
}

#[test]
fn what_is_too_old_is_dropped() {
    let bounds = Bounds { age: Duration::ZERO, ..Bounds::default() };
    let hub = Hub::new(bounds, state()).unwrap();
    let begin = hub.begin(&bridge(""), None).unwrap();
    publish(&hub, &["a"]);
    std::thread::sleep(Duration::from_millis(2));
    publish(&hub, &[]);
    assert_eq!(hub.news(&bridge(""), begin.connection, 0, 9), Err(Ended::Dropped));
}

#[test]
fn bridges_that_are_away_make_room() {
    let hub = Hub::new(Bounds { bridges: 2, ..Bounds::default() }, state()).unwrap();
    let first = hub.begin(&bridge("a"), None).unwrap();
    hub.begin(&bridge("b"), None).unwrap();
    assert_eq!(hub.begin(&bridge("c"), None), Err(Ended::Full(2)));
    hub.leave(&bridge("a"), first.connection);
    hub.begin(&bridge("c"), None).unwrap();
    assert!(hub.standings().iter().all(|standing| standing.bridge != bridge("a")));
}

#[test]
fn a_full_queue_is_no_rest() {
    let (hub, bridge) = (hub(9), bridge(""));
    let begin = hub.begin(&bridge, None).unwrap();
    hub.publish(
        Batch { marks: vec![mark("a")], newest: SystemTime::now(), drained: false },
        state(),
        SystemTime::now(),
    );
    assert_eq!(hub.news(&bridge, begin.connection, 0, 9).unwrap().drained, None);
    assert_ne!(hub.epoch(), self::hub(1).epoch());
}
