//! Connections as a whole: shutdown, limits, failures, a real client.

use std::process::Command;
use std::time::{Duration, Instant};

use object_server::http::Limits;

use crate::support::{Server, took};

#[test]
fn shutdown_finishes_what_is_in_flight_and_closes_the_rest() {
    let mut server = Server::start(Limits::default());
    let mut idle = server.connect();
    idle.get("/hello");
    let mut fresh = server.connect();
    let mut busy = server.connect();
    busy.send("GET /slow?800 HTTP/1.1\r\n\r\n");
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    server.stop();
    idle.assert_closed();
    fresh.assert_closed();
    took(start, 0, 400);
    assert!(std::net::TcpStream::connect(server.address).is_err());
    let answer = busy.answer();
    assert_eq!((answer.text(), answer.field("Connection")), ("slow", Some("close")));
    busy.assert_closed();
    server.ended();
    took(start, 500, 2000);
}

#[test]
fn shutdown_cuts_what_takes_longer_than_the_grace() {
    let limits = Limits { grace: Duration::from_millis(300), ..Limits::default() };
    let mut server = Server::start(limits);
    let mut busy = server.connect();
    busy.send("GET /pieces?6,abc,~60000,def HTTP/1.1\r\n\r\n").head();
    server.stop();
    let start = Instant::now();
    server.ended();
    took(start, 200, 2000);
    let (_, outcome) = server.outcome();
    assert_eq!((outcome.status, outcome.sent), (499, 3));
}

#[test]
fn done_is_called_once_per_answer() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for target in ["/hello", "/status?204", "/pieces?-,abc", "/nothing"] {
        client.get(target);
    }
    client.send("PUT /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").answer();
    let expected = [
        ("/hello", 200, 0, 5),
        ("/status?204", 204, 0, 0),
        ("/pieces?-,abc", 200, 0, 3),
        ("/nothing", 404, 0, 0),
        ("/echo", 200, 3, 3),
    ];
    for (target, status, received, sent) in expected {
        let (told, outcome) = server.outcome();
        assert_eq!(
            (told.as_str(), outcome.status, outcome.received, outcome.sent),
            (target, status, received, sent)
        );
    }
    drop(client);
    std::thread::sleep(Duration::from_millis(100));
    assert!(server.outcomes.try_recv().is_err());
}

#[test]
fn a_panicking_handler_costs_its_connection_only() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() });
    for _ in 0..5 {
        server.connect().send("GET /panic HTTP/1.1\r\n\r\n").assert_closed();
    }
    assert_eq!(server.connect().get("/hello").text(), "hello");
}

#[test]
fn connections_beyond_the_limit_get_503() {
    for limits in [
        Limits { connections: 2, ..Limits::default() },
        Limits { connections_per_address: 2, ..Limits::default() },
    ] {
        let server = Server::start(limits);
        let mut first = server.connect();
        let mut second = server.connect();
        assert_eq!((first.get("/hello").status, second.get("/hello").status), (200, 200));
        let mut third = server.connect();
        assert_eq!(third.answer().status, 503);
        assert_eq!(server.refused.recv().unwrap(), 503);
        drop(second);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(server.connect().get("/hello").status, 200);
        assert_eq!(first.get("/hello").status, 200);
    }
}

#[test]
fn curl_is_content() {
    let server = Server::start(Limits::default());
    let url = |path: &str| format!("http://{}{path}", server.address);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("upload");
    let body = crate::support::pattern(3_000_000);
    std::fs::write(&upload, &body).unwrap();
    let upload = upload.to_str().unwrap();
    assert_eq!(curl(&[&url("/hello"), &url("/hello")]), b"hellohello");
    assert_eq!(curl(&["-0", &url("/pieces?-,ab,cd")]), b"abcd");
    // curl asks with Expect: 100-continue above 1 MiB.
    assert!(curl(&["-T", upload, &url("/echo")]) == body);
    assert!(curl(&["-T", upload, "-H", "Transfer-Encoding: chunked", &url("/echo")]) == body);
    assert_eq!(curl(&["-T", upload, &url("/ignore")]), b"ignored");
    let head = String::from_utf8(curl(&["-I", &url("/hello")])).unwrap();
    assert!(head.contains("Content-Length: 5\r\n"), "{head}");
}
