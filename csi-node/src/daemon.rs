//! What runs: the services of the roles, each on its socket, until it is stopped.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::admin::{self, State};
use crate::controller::Controller;
use crate::holder::{Client, Holder};
use crate::identity::Identity;
use crate::janitor::Janitor;
use crate::keeper::{self, Keeper};
use crate::lease::{self, Leases};
use crate::metrics::Metrics;
use crate::node::{Here, Node};
use crate::proto::csi::controller_server::ControllerServer;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;
use crate::proto::holder::holder_server::HolderServer;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::registration::Registration;
use crate::share::Shares;
use crate::socket;
use crate::turns::Turns;

/// Why the driver does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A socket.
    #[error("cannot listen at {0}")]
    Listen(PathBuf, #[source] io::Error),
    /// The address of the metrics.
    #[error("cannot listen at {0}")]
    Admin(SocketAddr, #[source] io::Error),
    /// Serving ended by itself.
    #[error("cannot serve")]
    Serve(#[from] tonic::transport::Error),
}

/// What a driver is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its socket.
    pub endpoint: PathBuf,
    /// The node it is on.
    pub node: String,
    /// Whether it makes volumes.
    pub controller: bool,
    /// Whether it shows them to pods; and beneath what, if that is known.
    pub node_service: bool,
    /// Whether it holds the leases of a driver that does.
    pub holds_leases: bool,
    /// The socket of who does that for it; without it the driver does.
    pub holder: Option<PathBuf>,
    /// All targets lie beneath it.
    pub targets: Option<PathBuf>,
    /// Where the host's device nodes are.
    pub devices: PathBuf,
    /// Where the kubelet looks for plugins.
    pub registration: Option<PathBuf>,
    /// Where metrics are served.
    pub admin: Option<SocketAddr>,
}

/// What the parts of a driver share.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The shares.
    pub shares: Shares,
    /// What empties their trash.
    pub janitor: Janitor,
    /// What is counted.
    pub metrics: Metrics,
}

impl Parts {
    /// Of a driver with these shares.
    pub fn new(shares: Shares) -> Parts {
        Parts { janitor: Janitor::new(shares.clone()), shares, metrics: Metrics::default() }
    }
}

struct Status {
    parts: Parts,
    registration: Option<Registration>,
}

impl State for Status {
    fn metrics(&self) -> String {
        self.parts.metrics.text()
    }

    fn not_ready(&self) -> Option<&'static str> {
        if !self.parts.shares.ready() {
            return Some("the shares are not known yet");
        }
        let waiting = self.registration.as_ref().is_some_and(|registration| !registration.done());
        waiting.then_some("the kubelet has not registered the driver yet")
    }
}

/// Serves until `stop` is cancelled; calls that are under way then are answered.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) -> Result<(), DaemonError> {
    let registration = config.registration.as_ref().map(|_| Registration::new(&config.endpoint));
    let status = Status { parts: parts.clone(), registration: registration.clone() };
    let admin = serve_admin(config.admin, status).await?;
    let services = serve(&config, &parts, stop.clone());
    let registered = serve_registration(config.registration.clone(), registration, stop.clone());
    // If one of them ends, so does the other.
    let ended = tokio::try_join!(end_with(&stop, services), end_with(&stop, registered));
    parts.janitor.stop();
    if let Some(admin) = admin {
        admin.abort();
    }
    ended.map(|_| ())
}

async fn end_with<T>(stop: &CancellationToken, task: impl Future<Output = T>) -> T {
    let _guard = stop.clone().drop_guard();
    task.await
}

async fn serve(config: &Config, parts: &Parts, stop: CancellationToken) -> Result<(), DaemonError> {
    let listener = socket::listen(&config.endpoint)
        .map_err(|error| DaemonError::Listen(config.endpoint.clone(), error))?;
    let Parts { shares, janitor, metrics } = parts.clone();
    let controller = config.controller.then(|| {
        ControllerServer::new(Controller::new(shares.clone(), &config.node, janitor, metrics.clone()))
    });
    let node = config.node_service.then(|| node_service(config, parts, &stop));
    let holder = config.holds_leases.then(|| {
        let leases = keep_leases(config, &shares, &stop);
        HolderServer::new(Holder::new(shares.clone(), leases, metrics))
    });
    let identity = holder.is_none().then(|| IdentityServer::new(Identity::new(shares)));
    tracing::info!(endpoint = %config.endpoint.display(), node = config.node, "serving");
    Server::builder()
        .add_optional_service(identity)
        .add_optional_service(controller)
        .add_optional_service(node)
        .add_optional_service(holder)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await?;
    Ok(())
}

fn node_service(config: &Config, parts: &Parts, stop: &CancellationToken) -> NodeServer<Node> {
    let leases = match &config.holder {
        Some(socket) => {
            let holder = Client::new(socket, &config.node, Handle::current());
            tokio::spawn(holder.clone().start());
            Keeper::Holder(holder)
        }
        None => Keeper::Own(keep_leases(config, &parts.shares, stop)),
    };
    let here = Here {
        id: config.node.clone(),
        targets: config.targets.clone(),
        devices: config.devices.clone(),
        leases,
        turns: Turns::new(),
    };
    NodeServer::new(Node::new(parts.shares.clone(), here.into(), parts.metrics.clone()))
}

fn keep_leases(config: &Config, shares: &Shares, stop: &CancellationToken) -> Leases {
    let leases = Leases::new(&config.node, lease::GRACE);
    tokio::spawn(keeper::keep(shares.clone(), leases.clone(), stop.clone()));
    leases
}

/// The socket goes when the driver does: the kubelet takes that as the end of the driver on this node.
async fn serve_registration(
    directory: Option<PathBuf>,
    registration: Option<Registration>,
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let (Some(directory), Some(registration)) = (directory, registration) else {
        stop.cancelled().await;
        return Ok(());
    };
    let path = Registration::socket(&directory);
    let listener = socket::listen(&path).map_err(|error| DaemonError::Listen(path.clone(), error))?;
    let served = Server::builder()
        .add_service(RegistrationServer::new(registration))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    let _ = std::fs::remove_file(path);
    Ok(served?)
}

async fn serve_admin(
    address: Option<SocketAddr>,
    status: Status,
) -> Result<Option<tokio::task::JoinHandle<()>>, DaemonError> {
    let Some(address) = address else { return Ok(None) };
    let listener = match TcpListener::bind(address).await {
        // All addresses, on a host that has no IPv6.
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    let listener = listener.map_err(|error| DaemonError::Admin(address, error))?;
    Ok(Some(tokio::spawn(admin::serve(listener, Arc::new(status)))))
}
