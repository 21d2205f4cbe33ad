//! The relay put together: from a root to a listening socket, and to a clean stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::admin;
use crate::grants::{Grants, GrantsError};
use crate::hub::{Bounds, Hub};
use crate::listen::{self, Address, Listener};
use crate::metrics::Metrics;
use crate::proto::relay::relay_server::RelayServer;
use crate::relay::Relay;
use crate::root::Root;
use crate::source::{self, Choice, Source, SourceError};
use crate::tls::{Files, Tls, TlsError};

/// How long a call to the source takes at most, and so a stop.
const STEP: Duration = Duration::from_millis(250);
/// Between looks at certificates and grants.
const LOOK: Duration = Duration::from_secs(1);
/// How long bridges have to take the last word at a stop.
const GRACE: Duration = Duration::from_secs(2);
/// Of bridges that do not answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why the relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket of bridges.
    #[error("cannot listen at {0:?}")]
    Listen(Address, #[source] io::Error),
    /// The address of the metrics.
    #[error("cannot listen at {0}")]
    Admin(SocketAddr, #[source] io::Error),
    /// TCP without certificates.
    #[error(
        "bridges come over TCP with certificates only: give the authority, the certificate, the key and the grants"
    )]
    NoTls,
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The grants.
    #[error(transparent)]
    Grants(#[from] GrantsError),
    /// The source.
    #[error("the source")]
    Source(#[from] SourceError),
    /// There are no random numbers.
    #[error("no random numbers")]
    Random(#[from] getrandom::Error),
    /// A thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The source's thread is gone.
    #[error("the thread of the source ended by itself")]
    Died,
    /// Serving ended by itself.
    #[error("cannot serve")]
    Serve(#[from] tonic::transport::Error),
}

/// What a relay is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is followed.
    pub root: PathBuf,
    /// By what.
    pub source: Choice,
    /// Of scans.
    pub interval: Duration,
    /// Where bridges come in.
    pub listen: Address,
    /// For TCP: certificates, and the file of grants.
    pub tls: Option<(Files, PathBuf)>,
    /// How much is kept for a bridge.
    pub bounds: Bounds,
    /// Where metrics are served.
    pub admin: Option<SocketAddr>,
}

/// Where it listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// For bridges, if that is TCP.
    pub relay: Option<SocketAddr>,
    /// For metrics.
    pub admin: Option<SocketAddr>,
}

/// Serves until `stop` is cancelled or the source ends. `ready` is told where.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(Bound),
) -> Result<(), DaemonError> {
    let _ends_with_this = stop.clone().drop_guard();
    let metrics = Arc::new(Metrics::default());
    // First of all: a start that takes long shows as not ready, not as dead.
    let admin = serve_admin(config.admin, &metrics).await?;
    let secrets = secrets(&config)?;
    let (root, source) = open(&config).await?;
    let (kind, state) = (source.kind(), source.state());
    tracing::info!(root = %config.root.display(), source = kind.name(), state = state.text, "following");
    let hub = Arc::new(Hub::new(config.bounds, state)?);
    let (listener, relay) = bind(&config.listen, secrets.as_ref().map(|(tls, _)| tls)).await?;
    let grants = secrets.as_ref().map(|(_, grants)| Arc::clone(grants));
    let service = Relay::new(Arc::clone(&hub), root, kind, grants, stop.clone());
    let ended = follow(source, Arc::clone(&hub), stop.clone())?;
    if let Some((tls, grants)) = secrets {
        tokio::spawn(watch(tls, grants, stop.clone()));
    }
    metrics.opened(hub, kind);
    ready(Bound { relay, admin });
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(RelayServer::new(service))
        .serve_with_incoming_shutdown(listen::incoming(listener), stop.clone().cancelled_owned());
    // Neither a bridge that does not listen nor a dead file system holds up a stop, and one end is the other's.
    let served = async {
        let served = tokio::select! {
            served = serving => served.map_err(DaemonError::from),
            () = late(&stop) => Ok(()),
        };
        stop.cancel();
        served
    };
    let read = async {
        let read = tokio::select! {
            ended = ended => ended.unwrap_or(Err(DaemonError::Died)),
            () = late(&stop) => Ok(()),
        };
        stop.cancel();
        read
    };
    let (served, read) = tokio::join!(served, read);
    if let Address::Unix(path, _) = &config.listen {
        let _ = std::fs::remove_file(path);
    }
    read.and(served)
}

/// Some time after a stop.
async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
    tracing::warn!("not all has ended in time, and is left");
}

async fn serve_admin(
    address: Option<SocketAddr>,
    metrics: &Arc<Metrics>,
) -> Result<Option<SocketAddr>, DaemonError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |error| DaemonError::Admin(address, error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(admin::serve(listener, Arc::clone(metrics)));
    Ok(Some(bound))
}

type Secrets = (Arc<Tls>, Arc<Grants>);

fn secrets(config: &Config) -> Result<Option<Secrets>, DaemonError> {
    match (&config.listen, &config.tls) {
        (Address::Unix(..), _) => Ok(None),
        (Address::Tcp(_), None) => Err(DaemonError::NoTls),
        (Address::Tcp(_), Some((files, grants))) => {
            Ok(Some((Arc::new(Tls::load(files.clone())?), Arc::new(Grants::load(grants)?))))
        }
    }
}

/// Opens the root and its source, which may take as long as the tree is large.
async fn open(config: &Config) -> Result<(Arc<Root>, Box<dyn Source>), DaemonError> {
    let Config { root, source, interval, .. } = config.clone();
    let open = move || {
        let root = Arc::new(Root::open(&root).map_err(SourceError::from)?);
        let source = source::open(&source, &root, interval)?;
        Ok((root, source))
    };
    tokio::task::spawn_blocking(open).await.unwrap_or(Err(DaemonError::Died))
}

async fn bind(
    address: &Address,
    tls: Option<&Arc<Tls>>,
) -> Result<(Listener, Option<SocketAddr>), DaemonError> {
    let failed = |error| DaemonError::Listen(address.clone(), error);
    match address {
        Address::Unix(path, mode) => Ok((listen::unix(path, *mode).map_err(failed)?, None)),
        Address::Tcp(socket) => {
            let listener = TcpListener::bind(socket).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            let tls = tls.ok_or(DaemonError::NoTls)?;
            Ok((Listener::Tls(listener, Arc::clone(tls)), Some(bound)))
        }
    }
}

/// Reads the source on a thread of its own, which waits for nobody.
fn follow(
    source: Box<dyn Source>,
    hub: Arc<Hub>,
    stop: CancellationToken,
) -> Result<oneshot::Receiver<Result<(), DaemonError>>, DaemonError> {
    let (end, ended) = oneshot::channel();
    let read = move || {
        let result = read(source, &hub, &stop);
        // Nobody listens any more if the relay was told to stop and did.
        let _ = end.send(result.map_err(DaemonError::from));
    };
    std::thread::Builder::new().name("source".into()).spawn(read).map_err(DaemonError::Thread)?;
    Ok(ended)
}

fn read(mut source: Box<dyn Source>, hub: &Hub, stop: &CancellationToken) -> Result<(), SourceError> {
    while !stop.is_cancelled() {
        if source.waits() && !hub.followed() {
            std::thread::sleep(STEP / 10);
            continue;
        }
        let asked = SystemTime::now();
        let batch = source.next(STEP)?;
        hub.publish(batch, source.state(), asked);
    }
    Ok(())
}

/// Reads certificates and grants again when they change.
async fn watch(tls: Arc<Tls>, grants: Arc<Grants>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let (tls, grants) = (Arc::clone(&tls), Arc::clone(&grants));
        let look = move || {
            tls.look();
            grants.look();
        };
        if let Err(error) = tokio::task::spawn_blocking(look).await {
            tracing::error!(%error, "certificates and grants could not be looked at");
        }
    }
}
