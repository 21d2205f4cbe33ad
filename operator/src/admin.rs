//! What the admin address answers: /metrics, /healthz, /readyz. One request a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Longest head of a request.
const MOST: usize = 8192;
/// Longest time that a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it answers from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Whether the cluster is known, or another instance leads.
    pub ready: Arc<AtomicBool>,
}

impl Admin {
    /// Answers, for ever.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let this = self.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(PATIENCE, this.connection(stream)).await;
                    });
                }
                // No descriptors: they come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MOST {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let line = String::from_utf8_lossy(&head);
        let mut words = line.split_ascii_whitespace();
        let (status, kind, body) =
            self.answer(words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    }

    fn answer(&self, method: &str, path: &str) -> (&'static str, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        match (method, path.split('?').next().unwrap_or_default()) {
            ("GET", "/metrics") => ("200 OK", CONTENT_TYPE, self.metrics.render()),
            ("GET", "/healthz") => ("200 OK", TEXT, "ok\n".to_owned()),
            ("GET", "/readyz") if self.ready.load(Ordering::Relaxed) => ("200 OK", TEXT, "ok\n".to_owned()),
            ("GET", "/readyz") => {
                ("503 Service Unavailable", TEXT, "the cluster is not known yet\n".to_owned())
            }
            ("GET", _) => ("404 Not Found", TEXT, "/metrics, /healthz, /readyz\n".to_owned()),
            _ => ("405 Method Not Allowed", TEXT, "method not allowed\n".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn health_metrics_and_nothing_else() {
        let admin = Admin { metrics: Metrics::new(), ready: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin.clone().serve(listener));
        let ask = async |request: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(ask("GET /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(ask("GET /readyz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503"));
        admin.ready.store(true, Ordering::Relaxed);
        assert!(ask("GET /readyz?verbose HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(ask("GET /metrics HTTP/1.1\r\n\r\n").await.contains("lustre_bridge_operator_leading 0"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        // Whoever goes in the middle of a request is not answered.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metr").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"");
    }
}
