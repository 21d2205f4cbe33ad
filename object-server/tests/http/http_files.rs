//! Bodies that are files.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use lustre::pool::Pool;
use object_server::http::Limits;

use crate::support::{Client, Server, pattern, took};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn sends_ranges() {
    let content = pattern(300_000);
    let server = Server::with_file(Limits::default(), file(&content));
    let mut client = server.connect();
    for (offset, len) in [(0, 300_000), (0, 0), (5, 1), (100, 4096), (299_999, 1), (65_535, 131_073)] {
        let answer = client.get(&format!("/file?{offset},{len}"));
        assert!(answer.body == content[offset..offset + len], "{offset} {len}");
        let outcome = server.outcome().1;
        assert_eq!((outcome.sent, outcome.status), (len as u64, 200));
        assert!(outcome.first_byte <= outcome.total && outcome.total < Duration::from_secs(5));
    }
    let answer = client.get("/pieces?20,abc,@10:14,def");
    assert!(answer.body == [&b"abc"[..], &content[10..24], b"def"].concat());
    let answer = client.get("/pieces?-,@0:200000,abc,@200000:100000");
    assert!(answer.body == [&content[..200_000], b"abc", &content[200_000..]].concat());
}

/// What comes until nothing more does.
fn all_that_comes(mut stream: TcpStream) -> usize {
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = vec![0; 1 << 20];
    std::iter::from_fn(|| stream.read(&mut buffer).ok().filter(|bytes| *bytes > 0)).sum()
}

#[test]
fn a_body_moves_no_faster_than_its_pace() {
    let server = Server::with_file(Limits::default(), file(&pattern(4 << 20)));
    let ask = |request: &str| {
        let mut client = server.connect();
        client.send(format!("{request} HTTP/1.1\r\nHost: h\r\nX-Pace: 100000\r\n\r\n"));
        client.stream
    };
    let whole = all_that_comes(ask("GET /file?0,90000"));
    assert!((90_000..91_000).contains(&whole), "{whole}");
    for target in ["/file?0,4194304", "/pieces?-,@0:50000,@0:50000,@0:4000000"] {
        let came = all_that_comes(ask(&format!("GET {target}")));
        assert!((100_000..140_000).contains(&came), "{target}: {came}");
    }
}

#[test]
fn a_slow_reader_gets_every_byte_of_a_large_file() {
    let content = pattern(64 << 20);
    let server = Server::with(Limits::default(), None, Some(file(&content)), Pool::new("one", 1, 8));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // A small window: the server meets a full socket thousands of times.
    socket.set_recv_buffer_size(32 << 10).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut slow = Client::new(TcpStream::from(socket));
    slow.send(format!("GET /file?0,{} HTTP/1.1\r\n\r\n", content.len())).head();
    let mut at = 0;
    let mut buffer = vec![0; 1 << 20];
    // While it stalls in the middle, the pool's only thread is free for others.
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    assert!(server.connect().get("/file?7,1000").body == content[7..1007]);
    took(start, 0, 300);
    let mut read = slow.rest_from(&mut at, &content);
    while read > 0 {
        read = slow.stream.read(&mut buffer[..200_000]).unwrap();
        assert!(buffer[..read] == content[at..at + read], "at {at}");
        at += read;
        if at >= content.len() {
            break;
        }
        if at % 3 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    assert_eq!(at, content.len());
    assert_eq!(slow.get("/hello").text(), "hello");
}

impl Client<TcpStream> {
    /// Compares what was read beyond the head; at least 1, so that a loop begins.
    fn rest_from(&mut self, at: &mut usize, content: &[u8]) -> usize {
        let rest = self.buffered();
        assert!(rest == content[..rest.len()]);
        *at = rest.len();
        rest.len().max(1)
    }
}

#[test]
fn large_bytes_to_a_slow_reader() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("GET /large?30000000 HTTP/1.1\r\n\r\n");
    std::thread::sleep(Duration::from_millis(300));
    let answer = client.answer();
    assert!(answer.body.len() == 30_000_000 && answer.body.iter().all(|byte| *byte == b'l'));
}

#[test]
fn a_file_that_is_cut_closes_the_connection() {
    let content = pattern(32 << 20);
    let source = file(&content);
    let server = Server::with_file(Limits::default(), source.try_clone().unwrap());
    let mut client = server.connect();
    let head = client.send(format!("GET /file?0,{} HTTP/1.1\r\n\r\n", content.len())).head();
    assert_eq!(head.field("Content-Length"), Some("33554432"));
    std::thread::sleep(Duration::from_millis(200));
    source.set_len(20 << 20).unwrap();
    let rest = client.rest();
    assert!(rest.len() <= 20 << 20 && rest == content[..rest.len()]);
    let outcome = server.outcome().1;
    assert_eq!((outcome.status, outcome.sent), (500, rest.len() as u64));
    // A file that is short from the beginning.
    let mut client = server.connect();
    client.send("GET /file?0,33554432 HTTP/1.1\r\n\r\n").head();
    assert_eq!(client.rest().len(), 20 << 20);
    source.write_all_at(b"x", 0).unwrap();
}

#[test]
fn a_client_that_takes_nothing_is_dropped() {
    let content = pattern(32 << 20);
    let limits = Limits { client_timeout: Duration::from_millis(500), ..Limits::default() };
    let server = Server::with_file(limits, file(&content));
    for target in ["/file?0,33554432", "/large?33554432"] {
        let start = Instant::now();
        let mut client = server.connect();
        client.send(format!("GET {target} HTTP/1.1\r\n\r\n"));
        let outcome = server.outcome().1;
        assert_eq!(outcome.status, 499, "{target}");
        took(start, 500, 3000);
    }
}

#[test]
fn a_client_that_goes_is_told_as_499() {
    let content = pattern(32 << 20);
    let server = Server::with_file(Limits::default(), file(&content));
    for target in ["/file?0,33554432", "/large?33554432"] {
        let mut client = server.connect();
        client.send(format!("GET {target} HTTP/1.1\r\n\r\n")).head();
        drop(client);
        let outcome = server.outcome().1;
        assert_eq!(outcome.status, 499, "{target}");
        assert!(outcome.sent < 32 << 20);
    }
}

#[test]
fn a_full_pool_is_503_before_the_first_byte_and_patience_after() {
    let content = pattern(100_000);
    let pool = Pool::new("full", 1, 0);
    let server = Server::with(Limits::default(), None, Some(file(&content)), pool.clone());
    let hold = |milliseconds| {
        let pool = pool.clone();
        std::thread::spawn(move || {
            let job = move || std::thread::sleep(Duration::from_millis(milliseconds));
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(pool.run(None, job))
        })
    };
    let busy = hold(500);
    std::thread::sleep(Duration::from_millis(100));
    let mut client = server.connect();
    let answer = client.get("/file?0,100000");
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert_eq!(server.outcome().1.status, 503);
    // The body has begun: it waits for its turn.
    let answer = client.get("/pieces?100003,abc,~600,@0:100000");
    assert!(answer.status == 200 && answer.body[3..] == content);
    busy.join().unwrap().unwrap();
}
