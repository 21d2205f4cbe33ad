//! The service that bridges follow.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt as _};
use futures::{FutureExt as _, Stream};
use lustre::fs::Fid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::grants::Grants;
use crate::hub::{Begin, Bridge, Ended, Hub};
use crate::listen::Peer;
use crate::proto::PROTOCOL;
use crate::proto::relay::follow_request::What as Asked;
use crate::proto::relay::follow_response::What as Said;
use crate::proto::relay::relay_server::Relay as Service;
use crate::proto::relay::{Checkpoint, FollowRequest, FollowResponse, Heartbeat, Marks, Open, Start};
use crate::root::Root;
use crate::scope::Scope;
use crate::source::Kind;

/// Marks in a message.
const MOST: usize = 4096;
/// How long a bridge may take to say what it wants, and the file system to say what is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between heartbeats.
const BEAT: Duration = Duration::from_millis(500);
/// How often a connection looks whether it may go on.
const TICK: Duration = Duration::from_millis(250);
/// Of a bridge's name.
const LONGEST: usize = 253;

/// See the module.
#[derive(Clone)]
pub struct Relay {
    hub: Arc<Hub>,
    root: Arc<Root>,
    source: Kind,
    grants: Option<Arc<Grants>>,
    stop: CancellationToken,
}

impl Relay {
    /// Of the marks in `hub`. `grants` is for bridges that come with certificates.
    pub fn new(
        hub: Arc<Hub>,
        root: Arc<Root>,
        source: Kind,
        grants: Option<Arc<Grants>>,
        stop: CancellationToken,
    ) -> Relay {
        Relay { hub, root, source, grants, stop }
    }

    /// What a bridge may follow: what its certificate is granted, or on a socket of this machine what it asks for.
    fn scope(&self, peer: &Peer, asked: &[u8]) -> Result<Scope, Status> {
        let asked = Scope::parse(asked).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Some(granted) = self.granted(peer)? else { return Ok(asked) };
        if asked != Scope::default() && asked != granted {
            return Err(Status::permission_denied(format!(
                "sub-path {asked:?} was asked for, and the certificate is for {granted:?}: ask for that, or for none",
                asked = asked.to_string(),
                granted = granted.to_string()
            )));
        }
        Ok(granted)
    }

    fn granted(&self, peer: &Peer) -> Result<Option<Scope>, Status> {
        let Peer::Named(names) = peer else { return Ok(None) };
        let granted = self.grants.as_ref().and_then(|grants| grants.scope(names));
        granted.map(Some).ok_or_else(|| {
            Status::permission_denied(format!(
                "no sub-path, or more than one, is granted to a certificate of the names {names:?}"
            ))
        })
    }

    /// The identity of the directory that a bridge follows.
    async fn directory(&self, scope: &Scope) -> Result<Fid, Status> {
        let (root, path) = (Arc::clone(&self.root), scope.path().to_vec());
        let open = tokio::task::spawn_blocking(move || {
            let dir = root.open_dir(&path)?;
            root.fid_of(std::os::fd::AsFd::as_fd(&dir))
        });
        match timeout(PATIENCE, open).await {
            Ok(Ok(Ok(fid))) => Ok(fid),
            Ok(Ok(Err(error))) => {
                Err(Status::not_found(format!("the sub-path {:?}: {error}", scope.to_string())))
            }
            Ok(Err(_)) | Err(_) => Err(Status::unavailable("the file system does not answer")),
        }
    }

    async fn open(&self, peer: Peer, inbound: &mut Streaming<FollowRequest>) -> Result<Following, Status> {
        let first = timeout(PATIENCE, inbound.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("the bridge did not say what it follows"))??;
        let Some(FollowRequest { what: Some(Asked::Open(open)) }) = first else {
            return Err(Status::invalid_argument("the first message has to be an Open"));
        };
        if open.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "the bridge speaks protocol {} and this relay speaks {PROTOCOL}: bring the older of the two up to date",
                open.protocol
            )));
        }
        let scope = self.scope(&peer, &open.sub_path)?;
        let directory = self.directory(&scope).await?;
        let bridge = Bridge { scope, name: checked_name(&open)? };
        let epoch = self.hub.epoch();
        let durable = open.resume.filter(|resume| resume.epoch == epoch.as_bytes());
        let published = self.hub.subscribe();
        let begin =
            self.hub.begin(&bridge, durable.map(|resume| resume.sequence)).map_err(|ended| status(&ended))?;
        tracing::info!(bridge = bridge.name, sub_path = %bridge.scope, gap = begin.gap, from = begin.sequence, "a bridge follows");
        let start = Start {
            protocol: PROTOCOL,
            from: Some(Checkpoint { epoch: epoch.as_bytes().to_vec(), sequence: begin.sequence }),
            gap: begin.gap,
            source: self.source.name().into(),
            directory: directory.as_bytes().to_vec(),
        };
        Ok(Following {
            relay: self.clone(),
            peer,
            bridge,
            begin,
            cursor: begin.sequence,
            beat: None,
            published,
            ready: Some(Said::Start(start)),
        })
    }
}

fn checked_name(open: &Open) -> Result<String, Status> {
    let name = &open.bridge;
    if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "the bridge's name has to have 1 to {LONGEST} bytes, and no control characters"
        )));
    }
    Ok(name.clone())
}

fn status(ended: &Ended) -> Status {
    let text = ended.to_string();
    match ended {
        Ended::Dropped => Status::data_loss(text),
        Ended::Replaced => Status::aborted(text),
        Ended::Ahead(_) => Status::invalid_argument(text),
        Ended::Full(_) => Status::resource_exhausted(text),
    }
}

type Outbound = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Relay {
    type FollowStream = Outbound;

    async fn follow(&self, request: Request<Streaming<FollowRequest>>) -> Result<Response<Outbound>, Status> {
        // Whoever has no extension came by no listener of ours.
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Named(Arc::new([])));
        let mut inbound = request.into_inner();
        let following = self.open(peer, &mut inbound).await?;
        let (outbound, said) = mpsc::channel(2);
        // The last word does not wait for room among the others.
        let (end, ended) = oneshot::channel();
        tokio::spawn(async move {
            let why = following.run(inbound, outbound).await;
            let _ = end.send(why);
        });
        let last = ended.into_stream().filter_map(async |why| why.ok().flatten().map(Err));
        Ok(Response::new(Box::pin(
            ReceiverStream::new(said).map(Ok).chain(last.boxed()).chain(stream::empty()),
        )))
    }
}

/// A bridge that is connected.
struct Following {
    relay: Relay,
    peer: Peer,
    bridge: Bridge,
    begin: Begin,
    /// All up to here was sent.
    cursor: u64,
    /// When something was said last, and up to when the source had read all if that was a heartbeat.
    beat: Option<(Instant, SystemTime)>,
    published: watch::Receiver<()>,
    ready: Option<Said>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.relay.hub.leave(&self.bridge, self.begin.connection);
    }
}

impl Following {
    /// Until one side ends it; why, if it was this one.
    async fn run(
        mut self,
        mut inbound: Streaming<FollowRequest>,
        outbound: mpsc::Sender<FollowResponse>,
    ) -> Option<Status> {
        let mut tick = tokio::time::interval(TICK);
        let stop = self.relay.stop.clone();
        let why = loop {
            if let Err(why) = self.prepare() {
                break Some(why);
            }
            tokio::select! {
                () = stop.cancelled() => break Some(Status::unavailable("the relay stops")),
                asked = inbound.message() => match asked {
                    Ok(Some(asked)) => if let Err(why) = self.asked(&asked) {
                        break Some(why);
                    },
                    // It is gone.
                    Ok(None) | Err(_) => break None,
                },
                room = outbound.reserve(), if self.ready.is_some() => match room {
                    Ok(room) => room.send(FollowResponse { what: self.ready.take() }),
                    Err(_) => break None,
                },
                _ = self.published.changed(), if self.ready.is_none() => {}
                _ = tick.tick() => if let Err(why) = self.may_go_on() {
                    break Some(why);
                },
            }
        };
        let reason = why.as_ref().map_or("it went away", |why| why.message());
        tracing::info!(bridge = self.bridge.name, sub_path = %self.bridge.scope, reason, "a bridge follows no more");
        why
    }

    /// Whether this is the connection that counts, and its certificate is granted what it was.
    fn may_go_on(&self) -> Result<(), Status> {
        if self.relay.granted(&self.peer)?.is_some_and(|granted| granted != self.bridge.scope) {
            return Err(Status::permission_denied("another sub-path is granted to the certificate now"));
        }
        let news = self.relay.hub.news(&self.bridge, self.begin.connection, self.cursor, 0);
        news.map(|_| ()).map_err(|ended| status(&ended))
    }

    fn asked(&mut self, asked: &FollowRequest) -> Result<(), Status> {
        match &asked.what {
            Some(Asked::Ack(ack)) => {
                let (hub, connection) = (&self.relay.hub, self.begin.connection);
                let done = hub.acknowledge(&self.bridge, connection, ack.sequence, self.cursor);
                done.map_err(|ended| status(&ended))
            }
            Some(Asked::Open(_)) => Err(Status::invalid_argument("an Open comes once, and first")),
            // Of a newer bridge.
            None => Ok(()),
        }
    }

    /// Has the next thing to say ready, if there is one.
    fn prepare(&mut self) -> Result<(), Status> {
        if self.ready.is_some() {
            return Ok(());
        }
        self.published.mark_unchanged();
        let hub = &self.relay.hub;
        let news = hub.news(&self.bridge, self.begin.connection, self.cursor, MOST);
        let news = news.map_err(|ended| status(&ended))?;
        self.cursor = news.sequence;
        let marks: Vec<_> =
            news.marks.iter().filter_map(|mark| self.bridge.scope.narrow(mark)).map(Into::into).collect();
        if !marks.is_empty() {
            let newest_ns = nanoseconds(news.newest);
            self.ready = Some(Said::Marks(Marks { sequence: news.sequence, newest_ns, marks }));
        } else if let Some(drained) = news.drained {
            self.ready = self.heartbeat(drained);
        }
        Ok(())
    }

    fn heartbeat(&mut self, drained: SystemTime) -> Option<Said> {
        let now = Instant::now();
        if self.beat.is_some_and(|(said, before)| now < said + BEAT || drained <= before) {
            return None;
        }
        self.beat = Some((now, drained));
        let state = self.relay.hub.state();
        Some(Said::Heartbeat(Heartbeat {
            sequence: self.cursor,
            drained_ns: nanoseconds(drained),
            immediate: state.immediate,
            state: state.text,
        }))
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
