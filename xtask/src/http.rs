//! A small HTTP/1.1 client: one request a connection, enough to set servers up and to look at them.

use std::fmt::Write as _;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request to the loopback interface.
pub(crate) fn request(
    method: &str,
    port: u16,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_mins(2)))?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    (&stream).write_all(head.as_bytes())?;
    (&stream).write_all(body)?;
    read(BufReader::new(&stream), method == "HEAD").with_context(|| format!("{method} {target}"))
}

fn read(mut from: impl std::io::BufRead, head_only: bool) -> Result<Answer> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status line")?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if head_only {
        return Ok(answer);
    }
    if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        answer.body = chunks(&mut from)?;
    } else if let Some(length) = answer.header("content-length").and_then(|v| v.parse().ok()) {
        from.take(length).read_to_end(&mut answer.body)?;
        if answer.body.len() as u64 != length {
            bail!("{} of {length} bytes came", answer.body.len());
        }
    } else {
        from.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

fn chunks(from: &mut impl std::io::BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end().split(';').next().unwrap_or_default(), 16)?;
        from.by_ref().take(size).read_to_end(&mut body)?;
        line.clear();
        from.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Sends a request and insists on a 2xx.
pub(crate) fn ok(
    method: &str,
    port: u16,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let answer = request(method, port, target, headers, body)?;
    if !(200..300).contains(&answer.status) {
        bail!("{method} {target}: {} {}", answer.status, answer.text());
    }
    Ok(answer)
}

/// Whether a GET is answered 200.
pub(crate) fn is_ok(port: u16, target: &str) -> bool {
    request("GET", port, target, &[], &[]).is_ok_and(|a| a.status == 200)
}

/// Logs in by Swift's auth v1.0; returns (token, path of the account).
pub(crate) fn log_in(port: u16, user: &str, key: &str) -> Result<(String, String)> {
    let answer = ok("GET", port, "/auth/v1.0", &[("X-Auth-User", user), ("X-Auth-Key", key)], &[])?;
    let token = answer.header("X-Auth-Token").context("no token")?.to_owned();
    let url = answer.header("X-Storage-Url").context("no storage URL")?;
    let path = url.splitn(4, '/').nth(3).context("no path in the storage URL")?;
    Ok((token, format!("/{}", path.trim_end_matches('/'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_chunked_answer() {
        let raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = read(&raw[..], false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"));
    }

    #[test]
    fn a_short_body_is_an_error() {
        let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        assert!(read(&raw[..], false).is_err());
    }
}
