//! Follows a relay: what it says may have changed is looked at, and acknowledged once that is durable in the index.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use lustre::fs::Fid;
use namespace::{Mark, Namespace, Spot};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::config;
use crate::http::stopped;
use crate::metrics::Metrics;

/// The contract's messages.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
mod proto {
    tonic::include_proto!("lustrebridge.relay.v1");
}

use proto::follow_request::What as Ask;
use proto::follow_response::What;
use proto::relay_client::RelayClient;
use proto::{Ack, Checkpoint, FollowRequest, FollowResponse, Open, Start, mark};

/// The contract as spoken here.
const PROTOCOL: u32 = 1;

/// How often what was committed is made durable and acknowledged.
const FLUSH: Duration = Duration::from_secs(1);

/// Pause before the relay is called again.
const PAUSE: Duration = Duration::from_secs(1);

/// A relay that says nothing for so long is gone: it sends a heartbeat every second.
const SILENCE: Duration = Duration::from_secs(15);

/// Why the relay is not followed any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the relay cannot be reached")]
    Connect(#[source] tonic::transport::Error),
    #[error("the relay ended the call: {0}")]
    Status(#[from] Box<tonic::Status>),
    #[error("the relay said nothing for {SILENCE:?}")]
    Silent,
    #[error("the relay closed the call")]
    Closed,
    #[error("the relay sent what is not understood: {0}")]
    Message(&'static str),
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    #[error("a job was lost")]
    Lost,
}

/// One server's share in a relay.
#[derive(Debug)]
pub struct Follower {
    /// Whose index.
    pub namespace: Arc<Namespace>,
    /// Which relay.
    pub config: config::Index,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// One call's state.
struct Call {
    namespace: Arc<Namespace>,
    acks: mpsc::Sender<FollowRequest>,
    epoch: Vec<u8>,
    // The newest sequence that is in the index, and the newest that is durable there.
    seen: u64,
    durable: u64,
    flushed: Instant,
}

impl Follower {
    /// Follows until `shutdown` becomes true, calling again whenever a call ends.
    pub async fn run(self, shutdown: watch::Receiver<bool>) {
        let mut stop = shutdown;
        let mut before = String::new();
        loop {
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = stopped(&mut stop) => return,
            };
            // The same again and again is said once.
            let now = ended.to_string();
            if now != before {
                tracing::warn!(
                    relay = self.config.relay,
                    error = &ended as &dyn std::error::Error,
                    "not following"
                );
                before = now;
            }
            self.metrics.index.connected.set(0);
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    async fn follow(&self) -> Ended {
        match self.try_follow().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_follow(&self) -> Result<std::convert::Infallible, Ended> {
        let channel = connect(&self.config).await.map_err(Ended::Connect)?;
        let resume = self.checkpoint().await?;
        let (acks, requests) = mpsc::channel(16);
        let open = Open {
            protocol: PROTOCOL,
            bridge: self.config.name.clone(),
            sub_path: self.config.sub_path.clone().into_bytes(),
            resume,
        };
        let _ = acks.send(FollowRequest { what: Some(Ask::Open(open)) }).await;
        let mut client = RelayClient::new(channel).max_decoding_message_size(64 << 20);
        let answer = client.follow(ReceiverStream::new(requests)).await.map_err(Box::new)?;
        let mut answers = answer.into_inner();
        let mut call: Option<Call> = None;
        loop {
            let next = tokio::time::timeout(SILENCE, answers.message()).await.map_err(|_| Ended::Silent)?;
            let FollowResponse { what } = next.map_err(Box::new)?.ok_or(Ended::Closed)?;
            match (what, &mut call) {
                (Some(What::Start(start)), None) => call = Some(self.start(start, acks.clone()).await?),
                (Some(What::Marks(marks)), Some(call)) => {
                    self.metrics.index.marks.inc_by(marks.marks.len() as u64);
                    call.observe(marks).await?;
                }
                (Some(What::Heartbeat(beat)), Some(call)) => call.beat(&beat).await?,
                // Of a newer relay.
                (None, _) => {}
                (Some(_), _) => return Err(Ended::Message("a message out of turn")),
            }
        }
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, Ended> {
        let stored = on_thread(&self.namespace, |ns| match ns.index() {
            Some(index) => index.checkpoint(),
            None => Ok(Vec::new()),
        })
        .await?;
        let Some((sequence, epoch)) = stored.split_first_chunk() else { return Ok(None) };
        Ok(Some(Checkpoint { epoch: epoch.to_vec(), sequence: u64::from_be_bytes(*sequence) }))
    }

    async fn start(&self, start: Start, acks: mpsc::Sender<FollowRequest>) -> Result<Call, Ended> {
        let Start { from, gap, source, directory, .. } = start;
        let Checkpoint { epoch, sequence } = from.ok_or(Ended::Message("no place to start from"))?;
        let here = on_thread(&self.namespace, Namespace::root_fid).await?;
        if directory != here.as_bytes() {
            return Err(Ended::Message("it follows another directory than this server serves"));
        }
        tracing::info!(relay = self.config.relay, source, gap, "following");
        if gap {
            on_thread(&self.namespace, |ns| ns.observe(&[Mark::Everything])).await?;
        }
        self.metrics.index.connected.set(1);
        let namespace = Arc::clone(&self.namespace);
        let mut call =
            Call { namespace, acks, epoch, seen: sequence, durable: sequence, flushed: Instant::now() };
        // What was unproven by then is known to be so after a crash.
        call.flush().await?;
        Ok(call)
    }
}

impl Call {
    async fn observe(&mut self, batch: proto::Marks) -> Result<(), Ended> {
        let marks = batch.marks.into_iter().map(from_wire).collect::<Vec<_>>();
        on_thread(&self.namespace, move |ns| {
            // What could not be looked at is not proven any more, or else all is.
            ns.observe(&marks).or_else(|error| {
                tracing::warn!(%error, "marks could not be looked at");
                ns.observe(&[Mark::Everything])
            })
        })
        .await?;
        self.seen = batch.sequence;
        if batch.newest_ns > 0 {
            self.heard(batch.newest_ns);
        }
        self.flush_if_due().await
    }

    async fn beat(&mut self, beat: &proto::Heartbeat) -> Result<(), Ended> {
        if beat.immediate {
            self.heard(beat.drained_ns);
        } else if let Some(index) = self.namespace.index() {
            // Only scans find changes: until then listings would be old without saying so.
            index.silent();
        }
        self.flush_if_due().await
    }

    fn heard(&self, at_ns: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let lag = now.saturating_sub(Duration::from_nanos(at_ns));
        if let Some(index) = self.namespace.index() {
            index.heard(lag);
        }
    }

    async fn flush_if_due(&mut self) -> Result<(), Ended> {
        if self.seen == self.durable || self.flushed.elapsed() < FLUSH {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let checkpoint = [&self.seen.to_be_bytes()[..], &self.epoch].concat();
        on_thread(&self.namespace, move |ns| ns.index().map_or(Ok(()), |index| index.flush(&checkpoint)))
            .await?;
        self.flushed = Instant::now();
        self.durable = self.seen;
        let ack = Ack { sequence: self.durable };
        self.acks.send(FollowRequest { what: Some(Ask::Ack(ack)) }).await.map_err(|_| Ended::Closed)
    }
}

async fn on_thread<T: Send + 'static>(
    namespace: &Arc<Namespace>,
    work: impl FnOnce(&Namespace) -> namespace::Result<T> + Send + 'static,
) -> Result<T, Ended> {
    let namespace = Arc::clone(namespace);
    let done = tokio::task::spawn_blocking(move || work(&namespace)).await;
    Ok(done.map_err(|_| Ended::Lost)??)
}

fn spot(spot: proto::Spot) -> Option<Spot> {
    Some(Spot { dir: Fid::from_bytes(&spot.dir)?, path: spot.path, name: spot.name })
}

/// What is not understood may be anything.
fn from_wire(mark: proto::Mark) -> Mark {
    let known = match mark.what {
        Some(mark::What::Entry(entry)) => spot(entry).map(Mark::Entry),
        Some(mark::What::Moved(proto::Moved { from, to })) => {
            let whole = |side: &Option<proto::Spot>| {
                side.as_ref().is_none_or(|side| Fid::from_bytes(&side.dir).is_some())
            };
            (whole(&from) && whole(&to))
                .then(|| Mark::Moved { from: from.and_then(spot), to: to.and_then(spot) })
        }
        Some(mark::What::Below(proto::Below { dir, path })) => {
            Fid::from_bytes(&dir).map(|dir| Mark::Below { dir, path })
        }
        Some(mark::What::Everything(_)) | None => None,
    };
    known.unwrap_or(Mark::Everything)
}

async fn connect(config: &config::Index) -> Result<Channel, tonic::transport::Error> {
    let endpoint = |uri: &str| {
        Ok::<_, tonic::transport::Error>(
            Endpoint::from_shared(uri.to_owned())?
                .connect_timeout(Duration::from_secs(5))
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(10)),
        )
    };
    match config.relay.strip_prefix("unix:") {
        Some(path) => {
            let path = PathBuf::from(path);
            let dial = move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            endpoint("http://relay")?.connect_with_connector(tower::service_fn(dial)).await
        }
        None => {
            let tls = config.tls.clone();
            // The stream is encrypted below what tonic sees.
            let plain = config.relay.replacen("https://", "http://", 1);
            let dial = move |uri: Uri| {
                let tls = tls.clone();
                async move { dial_tls(&uri, tls.as_ref()).await.map(TokioIo::new) }
            };
            endpoint(&plain)?.connect_with_connector(tower::service_fn(dial)).await
        }
    }
}

async fn dial_tls(
    uri: &Uri,
    tls: Option<&config::RelayTls>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let tls = tls.ok_or_else(|| wrong("no certificates"))?;
    let host = uri.host().ok_or_else(|| wrong("no host in the relay's address"))?;
    let unread = |path: &PathBuf, e: pem::Error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&tls.ca).map_err(|e| unread(&tls.ca, e))? {
        roots.add(certificate.map_err(|e| unread(&tls.ca, e))?).map_err(io::Error::other)?;
    }
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&tls.certificate).map_err(|e| unread(&tls.certificate, e))?.collect();
    let chain = chain.map_err(|e| unread(&tls.certificate, e))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| unread(&tls.key, e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(io::Error::other)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await
}
