//! `/metrics`, `/healthz` and `/readyz`: one GET a connection, nothing more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Of a request's head; and how long it may take.
const LONGEST: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const MOST: usize = 32;

/// What the endpoints say.
pub trait State: Send + Sync + 'static {
    /// The metrics, in the text format.
    fn metrics(&self) -> String;
    /// Why the driver is not ready, if it is not.
    fn not_ready(&self) -> Option<&'static str>;
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, state: Arc<dyn State>) {
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    // Whoever asked is gone, or asked nothing.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &*state)).await;
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

async fn answer(mut stream: TcpStream, state: &dyn State) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= LONGEST || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace();
    let (status, kind, body) =
        route(words.next().unwrap_or_default(), words.next().unwrap_or_default(), state);
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn route(method: &str, target: &str, state: &dyn State) -> (&'static str, &'static str, String) {
    if method != "GET" {
        return ("405 Method Not Allowed", TEXT, "only GET\n".into());
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => ("200 OK", OPEN_METRICS, state.metrics()),
        "/healthz" => ("200 OK", TEXT, "ok\n".into()),
        "/readyz" => match state.not_ready() {
            None => ("200 OK", TEXT, "ok\n".into()),
            Some(reason) => ("503 Service Unavailable", TEXT, format!("{reason}\n")),
        },
        _ => ("404 Not Found", TEXT, "there are /metrics, /healthz and /readyz\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Option<&'static str>);

    impl State for Fixed {
        fn metrics(&self) -> String {
            "x 1\n".into()
        }

        fn not_ready(&self) -> Option<&'static str> {
            self.0
        }
    }

    async fn get(request: &str, reason: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed(reason))));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn each_endpoint_answers() {
        assert!(get("GET /metrics HTTP/1.1\r\n\r\n", None).await.ends_with("\r\n\r\nx 1\n"));
        assert!(get("GET /healthz HTTP/1.1\r\n\r\n", Some("no")).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(get("GET /readyz HTTP/1.1\r\n\r\n", None).await.starts_with("HTTP/1.1 200"));
        let waiting = get("GET /readyz?x HTTP/1.1\r\n\r\n", Some("waiting")).await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("waiting\n"));
        assert!(get("GET / HTTP/1.1\r\n\r\n", None).await.starts_with("HTTP/1.1 404"));
        assert!(get("POST /metrics HTTP/1.1\r\n\r\n", None).await.starts_with("HTTP/1.1 405"));
    }

    #[tokio::test]
    async fn what_is_no_request_is_not_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(Fixed(None))));
        for part in ["GET /metr", &"a".repeat(LONGEST)] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // The end, or a reset where not all was read.
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, b"");
        }
    }
}
