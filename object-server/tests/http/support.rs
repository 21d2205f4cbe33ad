//! A server with a handler that does what the target says, and a client that speaks bytes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lustre::pool::Pool;
use object_server::http::{
    self, FileRange, Handler, Limits, Outcome, Pace, Piece, Request, Response, ResponseBody,
};
use object_server::tls::Reloading;
use tokio::sync::watch;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) outcomes: mpsc::Receiver<(String, Outcome)>,
    pub(crate) refused: mpsc::Receiver<u16>,
    stop: watch::Sender<bool>,
    served: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(limits: Limits) -> Self {
        Self::with(limits, None, None, Pool::new("test", 4, 64))
    }

    pub(crate) fn with_file(limits: Limits, file: File) -> Self {
        Self::with(limits, None, Some(file), Pool::new("test", 4, 64))
    }

    pub(crate) fn with(limits: Limits, tls: Option<Reloading>, file: Option<File>, pool: Pool) -> Self {
        let (outcome, outcomes) = mpsc::channel();
        let (refusal, refused) = mpsc::channel();
        let (stop, stopped) = watch::channel(false);
        let (bound, address) = mpsc::channel();
        let served = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let handler = Routes { outcome, refusal, file: file.map(Arc::new), pool };
                http::serve(listener, tls, Arc::new(handler), limits, http::Workers::here(), stopped).await;
            });
        });
        let address = address.recv().unwrap();
        Self { address, outcomes, refused, stop, served: Some(served) }
    }

    pub(crate) fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    pub(crate) fn outcome(&self) -> (String, Outcome) {
        self.outcomes.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    pub(crate) fn stop(&self) {
        self.stop.send(true).unwrap();
    }

    /// Waits until the server has ended.
    pub(crate) fn ended(&mut self) {
        self.served.take().unwrap().join().unwrap();
    }
}

/// Answers by the target; tells what became of each answer.
struct Routes {
    outcome: mpsc::Sender<(String, Outcome)>,
    refusal: mpsc::Sender<u16>,
    file: Option<Arc<File>>,
    pool: Pool,
}

impl Handler for Routes {
    async fn call(&self, mut request: Request) -> Response {
        let target = String::from_utf8_lossy(&request.target).into_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pace = request.headers.get_str("x-pace").map(|most| Arc::new(Budget::new(most.parse().unwrap())));
        if let Some(pace) = &pace {
            request.body.set_pace(Arc::<Budget>::clone(pace));
        }
        let number = |index: usize| query.split(',').nth(index).unwrap_or("0").parse::<u64>().unwrap();
        let mut response = match path {
            "/hello" => Response::with_body(200, "hello"),
            "/panic" => panic!("as asked"),
            "/head" => {
                let fields = request.headers.iter().map(|(name, _)| [name, ";"].concat()).collect::<String>();
                Response::with_body(200, format!("{} {fields}", request.method))
            }
            "/echo" => match body_of(&mut request).await {
                Ok((body, chunks)) => Response::with_body(200, body).header("X-Chunks", chunks.to_string()),
                Err(status) => Response::with_body(status, "broken"),
            },
            "/sum" => {
                let (mut length, mut sum) = (0, 0_u64);
                loop {
                    match request.body.chunk().await {
                        Ok(Some(chunk)) => {
                            sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
                            length += chunk.len();
                        }
                        Ok(None) => break Response::with_body(200, format!("{length} {sum}")),
                        Err(error) => break Response::new(error.status()),
                    }
                }
            }
            "/most" => {
                request.body.set_limit(number(0));
                Response::with_body(body_of(&mut request).await.map_or_else(|status| status, |_| 200), "")
            }
            "/ignore" => Response::with_body(200, "ignored"),
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(number(0))).await;
                Response::with_body(200, "slow")
            }
            "/large" => Response::with_body(200, vec![b'l'; number(0) as usize]),
            "/status" => Response::with_body(number(0) as u16, "body"),
            "/empty" => Response::new(number(0) as u16).header("Content-Length", "77"),
            "/evil" => Response::with_body(200, "x").header("X-A", "1\r\nX-Evil: 2"),
            "/file" => {
                let range = self.range(number(0), number(1));
                Response { body: ResponseBody::File(range), ..Response::new(200) }
            }
            "/pieces" => self.pieces(query),
            "/held" => held(request),
            _ => Response::new(404),
        };
        response.pace = pace.map(|pace| pace as Arc<dyn Pace>);
        let outcome = self.outcome.clone();
        response.done = Some(Box::new(move |told| drop(outcome.send((target, told)))));
        response
    }

    fn refused(&self, _peer: SocketAddr, status: u16) {
        // A test that is over does not hear it.
        let _ = self.refusal.send(status);
    }
}

/// So many bytes may move at once, more only in an hour.
struct Budget(AtomicU64);

impl Budget {
    fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }
}

impl Pace for Budget {
    fn take(&self, bytes: u64) -> Duration {
        let before = self.0.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(bytes))).unwrap();
        if before > bytes { Duration::ZERO } else { Duration::from_hours(1) }
    }

    fn stride(&self) -> u64 {
        16 << 10
    }
}

impl Routes {
    fn range(&self, offset: u64, len: u64) -> FileRange {
        let file = Arc::clone(self.file.as_ref().unwrap());
        FileRange { file, offset, len, pool: self.pool.clone() }
    }

    /// `LENGTH,PIECE,...`: `-` for an unknown length; a piece is bytes, `@OFFSET:LEN` of the file, `!` an error
    /// or `~MS` a pause.
    fn pieces(&self, query: &str) -> Response {
        let mut words = query.split(',').map(str::to_owned);
        let length = words.next().unwrap().parse().ok();
        let (sender, pieces) = tokio::sync::mpsc::channel(2);
        let parts: Vec<_> = words
            .map(|word| match word.split_at(1) {
                ("!", _) => Err(None),
                ("~", pause) => Err(Some(Duration::from_millis(pause.parse().unwrap()))),
                ("@", range) => {
                    let (offset, len) = range.split_once(':').unwrap();
                    Ok(Piece::File(self.range(offset.parse().unwrap(), len.parse().unwrap())))
                }
                _ => Ok(Piece::Bytes(Bytes::from(word))),
            })
            .collect();
        tokio::spawn(async move {
            for part in parts {
                let message = match part {
                    Err(Some(pause)) => {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    Err(None) => Err(std::io::Error::other("as asked")),
                    Ok(piece) => Ok(piece),
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        Response { body: ResponseBody::Pieces { length, pieces }, ..Response::new(200) }
    }
}

/// A task that still reads the body while the answer is on its way.
fn held(mut request: Request) -> Response {
    let (sender, pieces) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(Some(chunk)) = request.body.chunk().await {
            if sender.send(Ok(Piece::Bytes(chunk))).await.is_err() {
                return;
            }
        }
    });
    Response { body: ResponseBody::Pieces { length: None, pieces }, ..Response::new(200) }
}

async fn body_of(request: &mut Request) -> Result<(Vec<u8>, usize), u16> {
    let (mut body, mut chunks) = (Vec::new(), 0);
    loop {
        match request.body.chunk().await {
            Ok(Some(chunk)) => {
                assert!(!chunk.is_empty());
                body.extend_from_slice(&chunk);
                chunks += 1;
            }
            Ok(None) => return Ok((body, chunks)),
            Err(error) => return Err(error.status()),
        }
    }
}

/// A client that can say what no library would.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client<TcpStream> {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub(crate) fn shutdown(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).answer()
    }

    /// Reads more; false at the end.
    fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(bytes) => {
                self.read.extend_from_slice(&buffer[..bytes]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
            Err(error) => panic!("{error} after {} bytes", self.read.len()),
        }
    }

    pub(crate) fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.more(), "the end instead of a head after {:?}", String::from_utf8_lossy(&self.read));
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.read.len() < bytes {
            assert!(self.more(), "the end after {} of {bytes} bytes", self.read.len());
        }
        self.read.drain(..bytes).collect()
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.take(1));
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if let Some(length) = answer.field("Content-Length") {
            let length = length.parse().unwrap();
            answer.body = self.take(length);
        } else if answer.field("Transfer-Encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).unwrap();
                let chunk = self.take(size);
                answer.body.extend(chunk);
                assert_eq!(self.line(), "");
                if size == 0 {
                    break;
                }
            }
        }
        answer
    }

    /// What was read beyond the last answer.
    pub(crate) fn buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    /// Everything until the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "");
    }
}

/// A megabyte-sized pattern in which a displaced byte shows.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

pub(crate) fn sum(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    format!("{} {sum}", bytes.len())
}

pub(crate) fn took(start: Instant, least: u64, most: u64) {
    let took = start.elapsed().as_millis() as u64;
    assert!((least..most).contains(&took), "{took} ms");
}
