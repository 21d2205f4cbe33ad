//! `/metrics`, `/healthz` and `/readyz`: one GET a connection, nothing more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Of a request's head; and how long it may take.
const LONGEST: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const MOST: usize = 32;

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                tokio::spawn(async move {
                    // Whoever asked is gone, or asked nothing.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &metrics)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= LONGEST || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = route(method, target, metrics);
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

const TEXT: &str = "text/plain; charset=utf-8";

fn route(method: &str, target: &str, metrics: &Metrics) -> (&'static str, &'static str, String) {
    if method != "GET" {
        return ("405 Method Not Allowed", TEXT, "only GET\n".into());
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => ("200 OK", CONTENT_TYPE, metrics.text()),
        "/healthz" => ("200 OK", TEXT, "ok\n".into()),
        "/readyz" => match metrics.hub() {
            Some(hub) => ("200 OK", TEXT, format!("{}\n", hub.state().text)),
            None => ("503 Service Unavailable", TEXT, "starting: the source is not open yet\n".into()),
        },
        _ => ("404 Not Found", TEXT, "there are /metrics, /healthz and /readyz\n".into()),
    }
}
