//! The access log: one line per request, field by field as Swift's proxy writes it, with the identity that touched the
//! files among the log info.
//!
//! A request only appends its line to a buffer; a thread writes the buffer out. When the disk is too slow lines are
//! dropped and counted rather than requests held up.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode;

use crate::metrics::Counter;

/// How long lines may gather before they are written together.
const GATHER: Duration = Duration::from_millis(50);
/// How much of a token or signature is shown.
const REVEALED: usize = 16;
/// The request's headers have a field, but are not logged.
const NO_HEADERS: &[u8] = b"";
/// Query parameters that are as good as a key.
const SENSITIVE: [&str; 3] = ["temp_url_sig", "Signature", "X-Amz-Signature"];

/// A request, as its line tells of it. Absent and empty values show as `-`.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The client, see [`crate::auth::client_address`].
    pub client: IpAddr,
    /// The peer.
    pub peer: IpAddr,
    /// When the request came.
    pub start: SystemTime,
    /// How long it took until the last byte of its answer.
    pub duration: Duration,
    /// The method.
    pub method: &'a str,
    /// Path and query as they stand in the request.
    pub target: &'a [u8],
    /// The protocol, as `HTTP/1.1`.
    pub protocol: &'a str,
    /// The status; 499 where the client went away.
    pub status: u16,
    /// The `Referer` header.
    pub referer: Option<&'a [u8]>,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a [u8]>,
    /// The `X-Auth-Token` header, of which the beginning is shown.
    pub auth_token: Option<&'a [u8]>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// The request's `ETag` header.
    pub client_etag: Option<&'a [u8]>,
    /// The transaction id.
    pub trans_id: &'a str,
    /// The part of the server that made this request itself (`SLO`); none for a client's.
    pub source: Option<&'a str>,
    /// Further notes, such as `x-delete-at:…`.
    pub log_info: &'a [&'a str],
    /// uid and gid that touched the files, if they are not the server's own.
    pub identity: Option<(u32, u32)>,
    /// The storage policy's index.
    pub policy_index: Option<u32>,
    /// `account:user`, or empty.
    pub user: &'a str,
}

impl Line<'_> {
    /// Appends the line. Byte by byte, since formatters cost several times as much and every request pays.
    fn append_to(&self, out: &mut Vec<u8>) {
        let start = self.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = start + self.duration;
        // Writing to memory does not fail.
        _ = write!(out, "{} {} ", self.client, self.peer);
        append_date(out, end.as_secs());
        out.push(b' ');
        append_field(out, self.method.as_bytes());
        out.push(b' ');
        append_target(out, self.target);
        out.push(b' ');
        append_field(out, self.protocol.as_bytes());
        out.push(b' ');
        append_number(out, self.status.into(), 1);
        for field in [self.referer, self.user_agent] {
            out.push(b' ');
            append_field(out, field.unwrap_or_default());
        }
        out.push(b' ');
        append_beginning(out, self.auth_token.unwrap_or_default());
        for bytes in [self.received, self.sent] {
            out.push(b' ');
            append_count(out, bytes);
        }
        for field in [self.client_etag.unwrap_or_default(), self.trans_id.as_bytes(), NO_HEADERS] {
            out.push(b' ');
            append_field(out, field);
        }
        out.push(b' ');
        append_decimals(out, self.duration, 4);
        out.push(b' ');
        append_field(out, self.source.unwrap_or_default().as_bytes());
        out.push(b' ');
        self.append_log_info(out);
        for time in [start, end] {
            out.push(b' ');
            append_decimals(out, time, 9);
        }
        out.push(b' ');
        match self.policy_index {
            Some(index) => append_number(out, index.into(), 1),
            None => out.push(b'-'),
        }
        out.push(b' ');
        append_field(out, self.user.as_bytes());
        out.push(b'\n');
    }

    fn append_log_info(&self, out: &mut Vec<u8>) {
        if self.log_info.is_empty() && self.identity.is_none() {
            out.push(b'-');
        }
        for (before, note) in self.log_info.iter().enumerate() {
            if before > 0 {
                out.extend_from_slice(b"%2C");
            }
            append_quoted(out, note.as_bytes());
        }
        if let Some((uid, gid)) = self.identity {
            if !self.log_info.is_empty() {
                out.extend_from_slice(b"%2C");
            }
            append_number(out, uid.into(), 1);
            out.push(b':');
            append_number(out, gid.into(), 1);
        }
    }
}

/// Bytes that a field shows as they are; of these, `:{}` are quoted in a path before it becomes a field.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'~' | b'/' | b':' | b'{' | b'}')
}

fn append_escape(out: &mut Vec<u8>, percent: &[u8], byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(percent);
    out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

fn append_quoted(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        if is_plain(byte) {
            out.push(byte);
        } else {
            append_escape(out, b"%", byte);
        }
    }
}

fn append_field(out: &mut Vec<u8>, value: &[u8]) {
    append_quoted(out, if value.is_empty() { b"-" } else { value });
}

/// The beginning of something secret.
fn append_beginning(out: &mut Vec<u8>, value: &[u8]) {
    match value.split_at_checked(REVEALED) {
        Some((shown, hidden)) if !hidden.is_empty() => {
            append_quoted(out, shown);
            out.extend_from_slice(b"...");
        }
        _ => append_field(out, value),
    }
}

fn append_count(out: &mut Vec<u8>, bytes: u64) {
    if bytes == 0 { out.push(b'-') } else { append_number(out, bytes, 1) }
}

/// The number, with zeros before it up to so many digits.
fn append_number(out: &mut Vec<u8>, mut number: u64, digits: usize) {
    let mut text = [b'0'; 20];
    let mut at = text.len();
    while number > 0 || text.len() - at < digits {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&text[at..]);
}

/// Seconds with so many decimals, rounded.
fn append_decimals(out: &mut Vec<u8>, time: Duration, decimals: u32) {
    let unit = 10_u64.pow(9 - decimals);
    let units = (u64::from(time.subsec_nanos()) + unit / 2) / unit;
    let per_second = 10_u64.pow(decimals);
    append_number(out, time.as_secs() + units / per_second, 1);
    out.push(b'.');
    append_number(out, units % per_second, decimals as usize);
}

/// The day and time in UTC: `04/Jul/2026/18/05/09`.
fn append_date(out: &mut Vec<u8>, seconds: u64) {
    thread_local! {
        static LAST: RefCell<(u64, Vec<u8>)> = const { RefCell::new((u64::MAX, Vec::new())) };
    }
    LAST.with_borrow_mut(|(of, date)| {
        if *of != seconds {
            // Past the year 9999 the HTTP date has no form. `Sat, 04 Jul 2026 18:05:09 GMT`
            let time = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
            let text = httpdate::fmt_http_date(time);
            let parts: Vec<&str> = text.split([' ', ':']).skip(1).take(6).collect();
            (*of, *date) = (seconds, parts.join("/").into_bytes());
        }
        out.extend_from_slice(date);
    });
}

/// Path and query in the form that Swift logs: the path decoded and quoted, then all of it quoted once more, and what
/// is secret in the query cut off.
fn append_target(out: &mut Vec<u8>, target: &[u8]) {
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &[][..]),
    };
    for byte in percent_decode(path) {
        if is_plain(byte) && !matches!(byte, b':' | b'{' | b'}') {
            out.push(byte);
        } else {
            append_escape(out, b"%25", byte);
        }
    }
    let mut before: &[u8] = b"%3F";
    for pair in query.split(|byte| *byte == b'&').filter(|_| !query.is_empty()) {
        out.extend_from_slice(before);
        before = b"%26";
        let value = memchr::memchr(b'=', pair).map_or(pair.len(), |at| at + 1);
        let (name, value) = pair.split_at(value);
        append_quoted(out, name);
        if is_sensitive(name) && !value.is_empty() {
            append_beginning(out, value);
        } else {
            append_quoted(out, value);
        }
    }
}

fn is_sensitive(name: &[u8]) -> bool {
    let name = name.strip_suffix(b"=").unwrap_or(name);
    SENSITIVE.iter().any(|sensitive| percent_decode(name).eq(sensitive.bytes()))
}

/// Takes lines and writes them out behind the requests' back.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    written: Condvar,
    capacity: usize,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    writer: Writer,
    /// Somebody waits: do not gather.
    urgent: bool,
    closed: bool,
}

/// What the writer does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Writer {
    /// It waits for a first line, and must be woken.
    Idle,
    /// It knows of lines, and lets more gather.
    #[default]
    Gathering,
    /// It has lines of which it is not known whether they are written.
    Writing,
}

impl AccessLog {
    /// Writes to a file, or for `-` to standard output. `buffer_bytes` may wait; `dropped` counts lines beyond it and
    /// lines that could not be written.
    pub fn open(path: &Path, buffer_bytes: usize, dropped: Counter) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::to(Plain(io::stdout()), buffer_bytes, dropped);
        }
        Self::to(Rotated::open(path)?, buffer_bytes, dropped)
    }

    fn to(out: impl Sink, buffer_bytes: usize, dropped: Counter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            capacity: buffer_bytes,
            dropped,
        });
        let writer = shared.clone();
        let writer = thread::Builder::new().name("access-log".into()).spawn(move || writer.run(out))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Takes a line. Never waits for the disk.
    pub fn write(&self, line: &Line<'_>) {
        thread_local! {
            static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            line.append_to(text);
            self.shared.push(text);
        });
    }

    /// Waits until all lines so far are written, or have failed to be.
    pub fn flush(&self) {
        let mut state = self.shared.lock();
        while state.writer == Writer::Writing || !state.lines.is_empty() {
            state.urgent = true;
            self.shared.wake.notify_all();
            state = self.shared.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been reported already.
            _ = writer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > self.capacity {
            drop(state);
            self.dropped.inc();
            return;
        }
        state.lines.extend_from_slice(line);
        // Waking a thread is a system call; only the first line after a pause pays it.
        let wake = state.writer == Writer::Idle;
        if wake {
            state.writer = Writer::Gathering;
        }
        drop(state);
        if wake {
            self.wake.notify_all();
        }
    }

    fn run(&self, mut out: impl Sink) {
        let mut lines = Vec::new();
        while self.next(&mut lines) {
            if out.write_lines(&lines).is_err() {
                self.dropped.inc_by(memchr::memchr_iter(b'\n', &lines).count() as u64);
            }
            lines.clear();
        }
    }

    /// Waits for lines and takes them; false when there will be no more.
    fn next(&self, lines: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        state.writer = Writer::Gathering;
        self.written.notify_all();
        while state.lines.is_empty() && !state.closed {
            state.writer = Writer::Idle;
            state.urgent = false;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writer = Writer::Gathering;
        let gathering = |state: &mut State| !state.urgent && !state.closed;
        let waited = self.wake.wait_timeout_while(state, GATHER, gathering);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut state.lines, lines);
        state.writer = Writer::Writing;
        !lines.is_empty()
    }
}

/// Where lines go, in batches of whole lines.
trait Sink: Send + 'static {
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()>;
}

/// Standard output.
struct Plain<W>(W);

impl<W: Write + Send + 'static> Sink for Plain<W> {
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        self.0.write_all(lines)?;
        self.0.flush()
    }
}

/// A file that is made anew when it was moved away, as log rotation does.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
}

impl Rotated {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: append(path)? })
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Sink for Rotated {
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let named = std::fs::metadata(&self.path).map(identity).ok();
        // Where the name cannot be opened, writing on into the moved file loses nothing.
        if named != self.file.metadata().map(identity).ok()
            && let Ok(file) = append(&self.path)
        {
            self.file = file;
        }
        self.file.write_all(lines)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use proptest::prelude::*;

    use super::*;

    const LINE: Line<'_> = Line {
        client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
        peer: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        start: UNIX_EPOCH,
        duration: Duration::ZERO,
        method: "GET",
        target: b"/",
        protocol: "HTTP/1.1",
        status: 200,
        referer: None,
        user_agent: None,
        auth_token: None,
        received: 0,
        sent: 0,
        client_etag: None,
        trans_id: "",
        source: None,
        log_info: &[],
        identity: None,
        policy_index: None,
        user: "",
    };

    impl Line<'_> {
        fn text(&self) -> String {
            let mut text = Vec::new();
            self.append_to(&mut text);
            String::from_utf8(text).unwrap()
        }
    }

    #[test]
    fn a_full_line_is_swifts() {
        let line = Line {
            start: UNIX_EPOCH + Duration::from_nanos(1_783_188_309_250_000_001),
            duration: Duration::from_micros(1_750_060),
            method: "PUT",
            target: b"/v1/AUTH_test/c/a%20b:\xc3\xa9?format=json&x",
            status: 201,
            referer: Some(b"http://www.example.com/a b"),
            user_agent: Some(b"python-swiftclient-4.11 {x}"),
            auth_token: Some(b"AUTH_tk0123456789abcdef"),
            received: 10,
            sent: 20,
            client_etag: Some(b"\"d41d8\""),
            trans_id: "tx0123456789abcdef01234-006a493c15",
            source: Some("SLO"),
            log_info: &["x-delete-at:5", "a,b"],
            identity: Some((1000, 1001)),
            policy_index: Some(0),
            user: "test:tester",
            ..LINE
        };
        assert_eq!(
            line.text(),
            "192.0.2.7 127.0.0.1 04/Jul/2026/18/05/11 PUT \
             /v1/AUTH_test/c/a%2520b%253A%25C3%25A9%3Fformat%3Djson%26x HTTP/1.1 201 \
             http://www.example.com/a%20b python-swiftclient-4.11%20{x} AUTH_tk012345678... 10 20 %22d41d8%22 \
             tx0123456789abcdef01234-006a493c15 - 1.7501 SLO x-delete-at:5%2Ca%2Cb%2C1000:1001 \
             1783188309.250000001 1783188311.000060001 0 test:tester\n"
        );
        // The reference's template has 22 fields.
        assert_eq!(line.text().split(' ').count(), 22);
    }

    #[test]
    fn what_is_absent_is_a_hyphen() {
        assert_eq!(
            LINE.text(),
            "192.0.2.7 127.0.0.1 01/Jan/1970/00/00/00 GET / HTTP/1.1 200 - - - - - - - - 0.0000 - - 0.000000000 \
             0.000000000 - -\n"
        );
        let only_identity = Line { identity: Some((1, 2)), ..LINE }.text();
        assert!(only_identity.contains(" 0.0000 - 1:2 0.0"), "{only_identity}");
        let far = Line { start: UNIX_EPOCH + Duration::from_hours(90_000_000), ..LINE }.text();
        assert!(far.contains(" 31/Dec/9999/23/59/59 "), "{far}");
    }

    #[test]
    fn secrets_are_cut() {
        let target = |target: &'static str| Line { target: target.as_bytes(), ..LINE }.text();
        let signed = target("/v1/a/c/o?temp_url_sig=0123456789abcdef0123&temp_url_expires=9&Signature=short");
        assert!(
            signed.contains(
                " /v1/a/c/o%3Ftemp_url_sig%3D0123456789abcdef...%26temp_url_expires%3D9%26Signature%3Dshort "
            ),
            "{signed}"
        );
        let hidden = target("/?temp%5Furl_sig=0123456789abcdef0123");
        assert!(hidden.contains("%3D0123456789abcdef... "), "{hidden}");
        for (token, shown) in [(&b"AUTH_tk012345678"[..], " AUTH_tk012345678 "), (b"AUTH_t", " AUTH_t ")] {
            let line = Line { auth_token: Some(token), ..LINE }.text();
            assert!(line.contains(shown), "{line}");
        }
        assert_eq!(target("/a?").split(' ').nth(4), Some("/a"));
    }

    #[test]
    fn lines_reach_a_file_and_follow_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let moved = folder.path().join("access.log.1");
        assert!(AccessLog::open(folder.path(), 1 << 20, Counter::default()).is_err());
        std::fs::write(&path, "before\n").unwrap();
        let log = AccessLog::open(&path, 1 << 20, Counter::default()).unwrap();
        log.write(&LINE);
        log.flush();
        std::fs::rename(&path, &moved).unwrap();
        log.write(&LINE);
        log.write(&LINE);
        drop(log);
        let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&moved), lines(&path)), (2, 2));
    }

    #[test]
    fn standard_output_can_be_chosen() {
        let log = AccessLog::open(Path::new("-"), 1 << 20, Counter::default()).unwrap();
        log.flush();
    }

    /// Tells of each batch, and writes it only when it is let.
    struct Slow {
        begun: Sender<usize>,
        go_on: Receiver<io::Result<()>>,
    }

    impl Sink for Slow {
        fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
            self.begun.send(memchr::memchr_iter(b'\n', lines).count()).unwrap();
            self.go_on.recv().unwrap()
        }
    }

    #[test]
    fn a_slow_or_failing_disk_costs_lines_not_time() {
        let (begun, batches) = channel();
        let (go_on, let_go) = channel();
        let dropped = Counter::default();
        let room = 10 * LINE.text().len();
        let log = AccessLog::to(Slow { begun, go_on: let_go }, room, dropped.clone()).unwrap();
        log.write(&LINE);
        assert_eq!(batches.recv(), Ok(1));
        for _ in 0..13 {
            log.write(&LINE);
        }
        assert_eq!(dropped.get(), 3);
        go_on.send(Ok(())).unwrap();
        assert_eq!(batches.recv(), Ok(10));
        go_on.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        log.flush();
        assert_eq!(dropped.get(), 13);
        log.write(&LINE);
        go_on.send(Ok(())).unwrap();
        drop(log);
        assert_eq!(batches.recv(), Ok(1));
        assert_eq!(dropped.get(), 13);
    }

    proptest! {
        #[test]
        fn every_line_is_one_line_of_22_fields(
            target in prop::collection::vec(any::<u8>(), 0..60),
            value in prop::collection::vec(any::<u8>(), 0..30),
            method in "\\PC{0,8}",
            nanoseconds in any::<u64>(),
        ) {
            let line = Line {
                target: &target,
                method: &method,
                referer: Some(&value),
                auth_token: Some(&value),
                start: UNIX_EPOCH + Duration::from_nanos(nanoseconds),
                duration: Duration::from_nanos(nanoseconds),
                ..LINE
            };
            let text = line.text();
            prop_assert!(text.ends_with('\n') && text.matches('\n').count() == 1);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(text.trim_end().split(' ').count(), 22);
        }
    }
}
