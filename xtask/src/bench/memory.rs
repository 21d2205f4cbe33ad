//! Resident memory under many large transfers at once, and the first HEAD of a huge foreign file.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::procstat::Watch;
use super::servers::{Name, Running};
use super::table::size as text_of;
use crate::http;

const CONNECTIONS: usize = 64;
const PIECE: usize = 256 << 10;

/// What was seen; memory in bytes.
pub(crate) struct Memory {
    pub(crate) server: Name,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) idle: u64,
    pub(crate) put: u64,
    pub(crate) get: u64,
    pub(crate) first_head: Option<Duration>,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory: {} MiB idle, {} MiB with {} PUTs of {} at once, {} MiB with as many GETs",
            self.idle >> 20,
            self.put >> 20,
            self.connections,
            text_of(self.size),
            self.get >> 20
        )?;
        match self.first_head {
            Some(time) => {
                write!(f, "; first HEAD of a foreign 100 GiB file {:.2} ms", time.as_secs_f64() * 1e3)
            }
            None => Ok(()),
        }
    }
}

/// Uploads and downloads `size` bytes on every connection at once.
pub(crate) fn measure(server: &Running, size: usize) -> Result<Memory> {
    server.clear()?;
    let pids = server.pids();
    let idle = Watch::start(&pids).peak();
    let watch = Watch::start(&pids);
    at_once(|n| put(server, &format!("m{n}"), size))?;
    let put = watch.peak();
    let watch = Watch::start(&pids);
    at_once(|n| get(server, &format!("m{n}"), size))?;
    let get = watch.peak();
    server.clear()?;
    let first_head = first_head(server)?;
    Ok(Memory { server: server.name(), connections: CONNECTIONS, size, idle, put, get, first_head })
}

fn at_once(work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..CONNECTIONS).map(|n| scope.spawn(move || work(n))).collect();
        all.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a thread was lost")))
    })
}

fn connect(server: &Running, method: &str, name: &str, length: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    let port = server.port();
    let mut head = format!("{method} {} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n", server.target(method, name));
    for header in server.headers() {
        head.push_str(&header);
        head.push_str("\r\n");
    }
    let _ = write!(head, "Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}

/// Uploads one object in pieces.
pub(crate) fn put(server: &Running, name: &str, size: usize) -> Result<()> {
    let mut stream = connect(server, "PUT", name, size)?;
    let piece = vec![b'x'; PIECE];
    for _ in 0..size / PIECE {
        stream.write_all(&piece)?;
    }
    status(&mut BufReader::new(stream))
}

/// Downloads one object and drops it.
pub(crate) fn get(server: &Running, name: &str, size: usize) -> Result<()> {
    let mut reader = BufReader::new(connect(server, "GET", name, 0)?);
    status(&mut reader)?;
    let mut piece = vec![0; PIECE];
    let mut came = 0;
    loop {
        match reader.read(&mut piece)? {
            0 => break,
            n => came += n,
        }
    }
    if came < size {
        bail!("{came} of {size} bytes came");
    }
    Ok(())
}

fn status(reader: &mut impl std::io::BufRead) -> Result<()> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.split(' ').nth(1).is_none_or(|code| !code.starts_with('2')) {
        bail!("answered {line}");
    }
    Ok(())
}

/// Only where objects are plain files.
fn first_head(server: &Running) -> Result<Option<Duration>> {
    let Some(files) = server.files() else { return Ok(None) };
    let path = files.join("huge");
    File::create(&path)?.set_len(100 << 30).context("making a sparse file")?;
    let headers = server.headers();
    let pairs: Vec<(&str, &str)> = headers.iter().filter_map(|h| h.split_once(": ")).collect();
    let target = server.target("HEAD", "huge");
    let start = Instant::now();
    http::ok("HEAD", server.port(), &target, &pairs, &[])?;
    let took = start.elapsed();
    std::fs::remove_file(&path)?;
    Ok(Some(took))
}
