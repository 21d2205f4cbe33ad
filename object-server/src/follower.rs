//! Follows a relay: what it says may have changed is looked at, and acknowledged once that is durable in the index.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use changelog_syncer::client::{self, ClientError, Following};
use changelog_syncer::proto::relay::follow_response::What;
use changelog_syncer::proto::relay::{Checkpoint, Heartbeat, Marks, Start};
use changelog_syncer::tls::Files;
use namespace::{Mark, Namespace};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::config;
use crate::http::stopped;
use crate::metrics::Metrics;

/// How often what was committed is made durable and acknowledged.
const FLUSH: Duration = Duration::from_secs(1);

/// Pause before the relay is called again.
const PAUSE: Duration = Duration::from_secs(1);

/// A relay that says nothing for so long is gone: it sends a heartbeat every second.
const SILENCE: Duration = Duration::from_secs(15);

/// Why the relay is not followed any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the relay ended the call: {}", .0.message())]
    Status(Box<tonic::Status>),
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
    following: Following,
    epoch: Vec<u8>,
    // The newest sequence that is in the index, and the newest that is durable there.
    seen: u64,
    durable: u64,
    flushed: Instant,
    // Whether the relay has said that nothing is missing: until then what was missed is still coming.
    complete: bool,
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
            if let Some(index) = self.namespace.index() {
                // Nobody would say what changes now.
                index.silent();
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
        let channel = connect(&self.config).await?;
        let resume = self.checkpoint().await?;
        let open = Following::open(channel, &self.config.name, self.config.sub_path.as_bytes(), resume);
        let following = tokio::time::timeout(SILENCE, open).await.map_err(|_| Ended::Silent)??;
        let mut call = self.start(following).await?;
        loop {
            let next = tokio::time::timeout(SILENCE, call.following.next()).await;
            let said = next.map_err(|_| Ended::Silent)?.map_err(|status| Ended::Status(Box::new(status)))?;
            match said.ok_or(Ended::Closed)? {
                What::Marks(marks) => {
                    self.metrics.index.marks.inc_by(marks.marks.len() as u64);
                    call.observe(marks).await?;
                }
                What::Heartbeat(beat) => call.beat(&beat).await?,
                What::Start(_) => return Err(Ended::Message("a start out of turn")),
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

    async fn start(&self, following: Following) -> Result<Call, Ended> {
        let Start { from, gap, source, directory, .. } = following.start.clone();
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
        let (seen, durable, flushed) = (sequence, sequence, Instant::now());
        let mut call = Call { namespace, following, epoch, seen, durable, flushed, complete: false };
        // What was unproven by then is known to be so after a crash.
        call.flush().await?;
        Ok(call)
    }
}

impl Call {
    async fn observe(&mut self, batch: Marks) -> Result<(), Ended> {
        let marks = batch.marks.into_iter().map(Mark::from).collect::<Vec<_>>();
        on_thread(&self.namespace, move |ns| {
            // What could not be looked at is not proven any more, or else all is.
            ns.observe(&marks).or_else(|error| {
                tracing::warn!(%error, "marks could not be looked at");
                ns.observe(&[Mark::Everything])
            })
        })
        .await?;
        self.seen = batch.sequence;
        if self.complete && batch.newest_ns > 0 {
            self.heard(batch.newest_ns);
        }
        self.flush_if_due().await
    }

    async fn beat(&mut self, beat: &Heartbeat) -> Result<(), Ended> {
        self.complete = beat.immediate;
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
        if self.following.acknowledge(self.durable).await { Ok(()) } else { Err(Ended::Closed) }
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

/// To the relay's socket, or with certificates to its address.
async fn connect(config: &config::Index) -> Result<Channel, ClientError> {
    let config::Index { relay, tls, .. } = config;
    match tls {
        None => client::unix(Path::new(relay.trim_start_matches("unix:"))).await,
        Some(config::RelayTls { ca, certificate, key }) => {
            let address = relay.trim_start_matches("tcp:");
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
            let files = Files { authority: ca.clone(), certificate: certificate.clone(), key: key.clone() };
            client::tls(address, host, &files).await
        }
    }
}
