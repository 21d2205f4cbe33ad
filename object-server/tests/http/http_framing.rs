//! Requests one after the other, and what must not pass.

use std::io::Write;
use std::time::Instant;

use object_server::http::Limits;

use crate::support::{Server, took};

#[test]
fn keeps_connections_alive() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for _ in 0..3 {
        let answer = client.get("/hello");
        assert_eq!((answer.status, answer.text()), (200, "hello"));
        assert_eq!(answer.field("Connection"), None);
        assert!(answer.field("Date").unwrap().ends_with(" GMT"));
    }
    client.send("GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().field("Connection"), Some("close"));
    client.assert_closed();
}

#[test]
fn speaks_http_1_0() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().field("Connection"), Some("keep-alive"));
    client.send("GET /pieces?-,ab,cd HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head();
    assert_eq!((head.field("Connection"), head.field("Transfer-Encoding")), (Some("close"), None));
    assert_eq!(client.rest(), b"abcd");
    let mut client = server.connect();
    client.send("GET /hello HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "hello");
    client.assert_closed();
}

#[test]
fn answers_pipelined_requests_in_order() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let put = |body: &str| format!("PUT /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked = "PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthr\r\n2\r\nee\r\n0\r\n\r\n";
    let all = [
        &put("one"),
        "GET /hello HTTP/1.1\r\n\r\n",
        &put("two"),
        chunked,
        "PUT /ignore HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz",
        chunked,
    ]
    .concat();
    // However the stream is cut: a byte at a time, and all at once.
    for size in [1, 7, all.len()] {
        for part in all.as_bytes().chunks(size) {
            client.send(part);
        }
        for body in ["one", "hello", "two", "three", "ignored", "three"] {
            assert_eq!(client.answer().text(), body);
        }
    }
}

#[test]
fn many_pipelined_requests() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let mut writer = client.stream.try_clone().unwrap();
    let all = std::thread::spawn(move || writer.write_all(&b"GET /hello HTTP/1.1\r\n\r\n".repeat(20_000)));
    for _ in 0..20_000 {
        assert_eq!(client.answer().text(), "hello");
    }
    all.join().unwrap().unwrap();
}

#[test]
fn refuses_smuggling_and_closes() {
    let server = Server::start(Limits::default());
    let smuggled = "0\r\n\r\nGET /hello HTTP/1.1\r\n\r\n";
    for (head, status) in [
        ("PUT /echo HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\r\nContent-Length: +4\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        ("PUT /echo HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\r\nA: b\r\n Transfer-Encoding: chunked\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\r\nA: b\rc\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\r\nA: b\0c\r\n\r\n", 400),
        ("PUT /echo HTTP/1.1\nContent-Length: 4\n\n", 400),
        ("P\0T /echo HTTP/1.1\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("PUT /echo HTTP/1.1\r\nExpect: 200-ok\r\nContent-Length: 4\r\n\r\n", 417),
    ] {
        let mut client = server.connect();
        let answer = client.send(head).send(smuggled).answer();
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")), "{head:?}");
        client.assert_closed();
        assert_eq!(server.refused.recv().unwrap(), status);
    }
    assert!(server.outcomes.try_recv().is_err());
}

#[test]
fn gives_absolute_targets_and_many_fields_to_the_handler() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("GET http://example.org/head HTTP/1.1\r\nHost: x\r\nB: 1\r\n\r\n");
    assert_eq!(client.answer().text(), "GET B;Host;");
    let fields = (0..512).map(|index| format!("X-Object-Meta-{index}: v\r\n")).collect::<Vec<_>>().concat();
    client.send(format!("GET /head HTTP/1.1\r\n{fields}\r\n"));
    assert_eq!(client.answer().text().matches(';').count(), 512);
}

#[test]
fn bounds_the_head() {
    let server = Server::start(Limits::default());
    for (head, status) in [
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000)), 414),
        (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(9000)), 400),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(700)), 431),
        ("\r\n".repeat(40_000), 431),
    ] {
        let mut client = server.connect();
        assert_eq!(client.send(head).answer().status, status);
        client.assert_closed();
    }
}

#[test]
fn a_hundred_megabytes_of_header_get_their_answer() {
    let server = Server::start(Limits::default());
    let before = resident();
    let many =
        [("A: b\r\n".to_owned(), 431), (format!("A: {}\r\n", "x".repeat(8000)), 431), ("x".to_owned(), 400)];
    for (line, status) in many {
        let mut client = server.connect();
        let mut writer = client.stream.try_clone().unwrap();
        let flood = std::thread::spawn(move || {
            let part = line.repeat((1 << 20) / line.len());
            writer.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            // The server may close before all is written.
            (0..100).take_while(|_| writer.write_all(part.as_bytes()).is_ok()).count()
        });
        assert_eq!(client.answer().status, status);
        client.assert_closed();
        drop(client);
        flood.join().unwrap();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 10, "grew by {grown} KiB");
}

/// KiB of this process, server and client.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn closes_on_slow_heads_and_idle_connections() {
    let limits = Limits {
        head_timeout: std::time::Duration::from_millis(600),
        idle_timeout: std::time::Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::start(limits);
    let start = Instant::now();
    let mut client = server.connect();
    let mut writer = client.stream.try_clone().unwrap();
    std::thread::spawn(move || {
        for byte in b"GET /hello HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
            std::thread::sleep(std::time::Duration::from_millis(100));
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    assert_eq!(client.answer().status, 408);
    took(start, 600, 2000);
    let start = Instant::now();
    let mut client = server.connect();
    client.assert_closed();
    took(start, 300, 2000);
    let mut client = server.connect();
    client.get("/hello");
    let start = Instant::now();
    client.assert_closed();
    took(start, 300, 2000);
}
