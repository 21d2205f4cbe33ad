//! Bodies both ways.

use std::io::Write;
use std::time::{Duration, Instant};

use object_server::http::Limits;
use proptest::prelude::*;

use crate::support::{Server, pattern, sum, took};

fn short() -> Limits {
    Limits { client_timeout: Duration::from_millis(400), ..Limits::default() }
}

#[test]
fn reads_bodies_of_all_sizes() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for size in [0, 1, 4096, 8000, 65_535, 65_536, 65_537, 262_144, 300_000, 5_000_000] {
        let body = pattern(size);
        client.send(format!("PUT /sum HTTP/1.1\r\nContent-Length: {size}\r\n\r\n")).send(&body);
        assert_eq!(client.answer().text(), sum(&body), "{size}");
        client.send("PUT /sum HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(70_000) {
            client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
        }
        client.send("0\r\nTrailer: dropped\r\n\r\n");
        assert_eq!(client.answer().text(), sum(&body), "{size} chunked");
        let (_, outcome) = server.outcome();
        assert_eq!((outcome.received, outcome.status), (size as u64, 200));
        assert_eq!(server.outcome().1.received, size as u64);
    }
}

#[test]
fn gives_large_bodies_in_large_pieces() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let body = pattern(8 << 20);
    client.send("PUT /echo HTTP/1.1\r\nContent-Length: 8388608\r\n\r\n").send(&body);
    let answer = client.answer();
    assert!(answer.body == body);
    let chunks: usize = answer.field("X-Chunks").unwrap().parse().unwrap();
    assert!(chunks <= 64, "{chunks}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn chunked_bodies_arrive_whole_however_they_are_split(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..6),
        cut in 1_usize..400,
    ) {
        let server = Server::start(Limits::default());
        let mut client = server.connect();
        let mut stream = b"PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in &chunks {
            stream.extend(format!("{:x};x\r\n", chunk.len()).bytes());
            stream.extend(chunk);
            stream.extend(b"\r\n");
        }
        stream.extend(b"0\r\n\r\nGET /hello HTTP/1.1\r\n\r\n");
        for part in stream.chunks(cut) {
            client.send(part);
        }
        prop_assert_eq!(client.answer().body, chunks.concat());
        prop_assert_eq!(client.answer().body, b"hello");
    }
}

#[test]
fn a_broken_chunked_body_is_400_and_the_end() {
    let server = Server::start(Limits::default());
    for broken in ["x\r\n", "3\r\nabcd\r\n", "fffffffffffffffff\r\n", "3\nabc"] {
        let mut client = server.connect();
        client.send("PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").send(broken);
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("Connection")), (400, Some("close")), "{broken:?}");
        client.assert_closed();
    }
}

#[test]
fn truncated_bodies_are_told_as_499() {
    let server = Server::start(Limits::default());
    for (head, body) in [
        ("Content-Length: 100", pattern(99)),
        ("Content-Length: 1000000", pattern(500_000)),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n".to_vec()),
    ] {
        let mut client = server.connect();
        client.send(format!("PUT /echo HTTP/1.1\r\n{head}\r\n\r\n")).send(&body);
        client.shutdown();
        assert_eq!(client.answer().status, 499, "{head}");
        let mut client = server.connect();
        client.send(format!("PUT /echo HTTP/1.1\r\n{head}\r\n\r\n")).send(&body);
        drop(client);
        assert_eq!(server.outcome().1.status, 499);
        assert_eq!(server.outcome().1.status, 499);
    }
}

#[test]
fn stalled_bodies_time_out() {
    let server = Server::start(short());
    for (head, body) in [
        ("Content-Length: 100", &b"abc"[..]),
        ("Content-Length: 1000000", b"abc"),
        ("Transfer-Encoding: chunked", b"5\r\nhel"),
    ] {
        let start = Instant::now();
        let mut client = server.connect();
        client.send(format!("PUT /echo HTTP/1.1\r\n{head}\r\n\r\n")).send(body);
        assert_eq!(client.answer().status, 408, "{head}");
        took(start, 400, 2000);
        client.assert_closed();
    }
}

#[test]
fn slow_but_steady_bodies_arrive() {
    let server = Server::start(short());
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nContent-Length: 100000\r\n\r\n");
    let body = pattern(100_000);
    for part in body.chunks(10_000) {
        std::thread::sleep(Duration::from_millis(120));
        client.send(part);
    }
    assert!(client.answer().body == body);
}

#[test]
fn bodies_beyond_the_handlers_limit_are_413() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("PUT /most?5 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status, 200);
    client.send("PUT /most?4 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status, 413);
    client.send("PUT /most?4 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    let mut client = server.connect();
    client.send("PUT /most?4 HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nhello");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("Connection")), (413, Some("close")));
}

#[test]
fn an_endless_body_nobody_reads_gets_its_answer_and_the_end() {
    let server = Server::start(Limits::default());
    for head in ["Content-Length: 99999999999", "Transfer-Encoding: chunked"] {
        let mut client = server.connect();
        let mut writer = client.stream.try_clone().unwrap();
        client.send(format!("PUT /ignore HTTP/1.1\r\n{head}\r\n\r\n"));
        let flood = std::thread::spawn(move || {
            let part = [b"100000\r\n".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
            (0..64).take_while(|_| writer.write_all(&part).is_ok()).count()
        });
        assert_eq!(client.answer().text(), "ignored");
        drop(client);
        flood.join().unwrap();
    }
}

#[test]
fn small_unread_bodies_are_drained() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for body in [pattern(10), pattern(1_000_000)] {
        client.send(format!("PUT /ignore HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len())).send(&body);
        let answer = client.answer();
        assert_eq!((answer.text(), answer.field("Connection")), ("ignored", None));
    }
    assert_eq!(client.get("/hello").text(), "hello");
}

#[test]
fn expect_is_answered_when_the_body_is_asked_for() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for size in [5, 100_000] {
        let body = pattern(size);
        client.send(format!("PUT /sum HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"));
        assert_eq!(client.head().head, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.send(&body).answer().text(), sum(&body));
    }
    client.send("PUT /echo HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().status, 100);
    assert_eq!(client.send("1\r\na\r\n0\r\n\r\n").answer().text(), "a");
    // The body is here already: no interim answer.
    client.send("PUT /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nb");
    assert_eq!(client.answer().text(), "b");
    // No body, nothing to wait for.
    client.send("PUT /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    // The handler answers first: the body may come or not, so the connection ends.
    client.send("PUT /ignore HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text(), answer.field("Connection")), ("ignored", Some("close")));
    client.assert_closed();
}

#[test]
fn head_and_bodiless_statuses_never_have_a_body() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for (target, length) in [
        ("/hello", Some("5")),
        ("/empty?200", Some("77")),
        ("/pieces?9,ab", Some("9")),
        ("/pieces?-,ab", None),
    ] {
        client.send(format!("HEAD {target} HTTP/1.1\r\n\r\n"));
        let head = client.head();
        assert_eq!((head.status, head.field("Content-Length")), (200, length), "{target}");
    }
    for (target, length) in [("/status?204", None), ("/status?304", None), ("/empty?304", Some("77"))] {
        client.send(format!("GET {target} HTTP/1.1\r\n\r\n"));
        assert_eq!(client.head().field("Content-Length"), length, "{target}");
    }
    assert_eq!(client.get("/empty?404").field("Content-Length"), Some("0"));
    assert_eq!(client.get("/hello").text(), "hello");
}

#[test]
fn never_writes_what_would_end_a_line() {
    let server = Server::start(Limits::default());
    let answer = server.connect().get("/evil");
    assert_eq!((answer.field("X-A"), answer.field("X-Evil")), (Some("1  X-Evil: 2"), None));
}

#[test]
fn pieces_are_sent_as_they_come() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for target in
        ["/pieces?6,ab,cd,ef", "/pieces?-,ab,cd,ef", "/pieces?-,ab,~700,cdef", "/pieces?-,~700,abcdef"]
    {
        assert_eq!(client.get(target).text(), "abcdef", "{target}");
        assert_eq!(server.outcome().1.sent, 6);
    }
    assert_eq!(client.get("/pieces?-").text(), "");
    assert_eq!(client.get("/pieces?0").text(), "");
    // What comes before a pause is not held back for what comes after.
    let start = Instant::now();
    client.send("GET /pieces?6,ab,~900,cdef HTTP/1.1\r\n\r\n").head();
    took(start, 0, 700);
}

#[test]
fn pieces_that_end_wrongly_close_the_connection() {
    let server = Server::start(Limits::default());
    for (target, sent) in [("/pieces?6,ab,~600", "ab"), ("/pieces?6,ab,!", "ab"), ("/pieces?3,ab,cd", "ab")] {
        let mut client = server.connect();
        client.send(format!("GET {target} HTTP/1.1\r\n\r\n"));
        // Either a 500 in its place, or a part of the body and then the end; never a whole answer.
        let head = client.head();
        if head.status == 200 {
            assert_eq!(String::from_utf8_lossy(&client.rest()), sent, "{target}");
        } else {
            assert_eq!((head.status, head.field("Content-Length")), (500, Some("0")), "{target}");
        }
        assert_eq!(server.outcome().1.status, 500);
    }
    let mut client = server.connect();
    client.send("GET /pieces?-,ab,~600,! HTTP/1.1\r\n\r\n");
    let rest = client.rest();
    assert!(rest.ends_with(b"2\r\nab\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(client_status(&server, "/pieces?-,!"), 500);
    assert_eq!(client_status(&server, "/pieces?9"), 500);
    // Nothing but a reset tells a 1.0 client that a body without a length is not whole.
    let mut client = server.connect();
    client.send("GET /pieces?-,ab,~600,! HTTP/1.0\r\n\r\n").head();
    let end = loop {
        match std::io::Read::read(&mut client.stream, &mut [0; 100]) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset));
}

fn client_status(server: &Server, target: &str) -> u16 {
    server.connect().get(target).status
}

#[test]
fn a_task_may_read_the_body_while_the_answer_is_sent() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let body = pattern(2_000_000);
    for _ in 0..2 {
        let mut writer = client.stream.try_clone().unwrap();
        let sent = body.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(b"PUT /held HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n").unwrap();
            writer.write_all(&sent).unwrap();
        });
        assert!(client.answer().body == body);
        writing.join().unwrap();
    }
}

#[test]
fn a_body_is_read_no_faster_than_its_pace() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let length = 256 << 20;
    client
        .send(format!("PUT /sum HTTP/1.1\r\nHost: h\r\nX-Pace: 1000000\r\nContent-Length: {length}\r\n\r\n"));
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < length {
        match client.stream.write(&block) {
            Ok(bytes) => sent += bytes,
            Err(_) => break,
        }
    }
    // What the kernel's buffers hold comes on top.
    assert!((1_000_000..length / 2).contains(&sent), "{sent}");
}
