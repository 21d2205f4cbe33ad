//! The holder of a node's leases, in a process of its own, and the driver as its client.
//!
//! Locks and signs of life end with the process that has them. A driver is replaced at every upgrade; a holder is
//! replaced when its node is drained. What they say to each other is in `proto/holder.proto`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::error::Error;
use crate::id::VolumeId;
use crate::lease::{BEAT, GRACE, Leases};
use crate::metrics::Metrics;
use crate::proto::holder::holder_client::HolderClient;
use crate::proto::holder::holder_server::Holder as Service;
use crate::proto::holder::{LeaseRequest, LeaseResponse, RecoverRequest, RecoverResponse};
use crate::share::{Share, Shares};
use crate::tree::Tree;

/// Of the contract.
const VERSION: u32 = 1;
/// How long a holder may take to say what it knows by heart.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long for what it asks the share, after the grace of another node.
const SHARE: Duration = Duration::from_secs(20);

/// The service of a holder.
#[derive(Clone, Debug)]
pub struct Holder {
    shares: Shares,
    leases: Leases,
    metrics: Metrics,
}

impl Holder {
    /// Of these leases.
    pub fn new(shares: Shares, leases: Leases, metrics: Metrics) -> Holder {
        Holder { shares, leases, metrics }
    }

    fn check_node(&self, asked_by: &str) -> Result<(), Error> {
        if asked_by != self.leases.node() {
            return Err(Error::Precondition(format!(
                "this is the holder of leases of node {}, and it was asked by the driver of node {}",
                self.leases.node(),
                asked_by
            )));
        }
        Ok(())
    }

    fn volume(&self, request: &LeaseRequest) -> Result<VolumeId, Error> {
        self.check_node(&request.node_id)?;
        Ok(VolumeId::parse(&request.volume_id)?)
    }

    /// The driver knows the share; so will the holder soon, if it does not yet.
    fn share(&self, id: &VolumeId) -> Result<Arc<Share>, Error> {
        self.shares.get(&id.share)?.ok_or_else(|| {
            Error::Unavailable(format!(
                "the holder of leases does not know share {} yet: ask again",
                id.share
            ))
        })
    }

    async fn take(&self, request: LeaseRequest) -> Result<LeaseResponse, Error> {
        let id = self.volume(&request)?;
        let leases = self.leases.clone();
        let share = self.share(&id)?;
        share.run(move |tree: &Tree| leases.take(&tree.make_store()?, &id)).await?;
        Ok(said(true))
    }

    async fn release(&self, request: LeaseRequest) -> Result<LeaseResponse, Error> {
        let id = self.volume(&request)?;
        let leases = self.leases.clone();
        let share = self.share(&id)?;
        let job = move |tree: &Tree| tree.store()?.map_or(Ok(()), |store| leases.release(&store, &id));
        share.run(job).await?;
        Ok(said(false))
    }

    fn concerns(&self, request: &LeaseRequest) -> Result<LeaseResponse, Error> {
        let id = self.volume(request)?;
        Ok(said(self.leases.concerns(&id)))
    }

    fn recover(&self, request: &RecoverRequest) -> Result<RecoverResponse, Error> {
        self.check_node(&request.node_id)?;
        self.leases.look_again();
        Ok(RecoverResponse { version: VERSION })
    }
}

fn said(held: bool) -> LeaseResponse {
    LeaseResponse { version: VERSION, held }
}

#[tonic::async_trait]
impl Service for Holder {
    async fn take(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        self.metrics.observe("TakeLease", self.take(request.into_inner())).await
    }

    async fn release(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        self.metrics.observe("ReleaseLease", self.release(request.into_inner())).await
    }

    async fn concerns(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        self.metrics.observe("AskLease", async { self.concerns(request.get_ref()) }).await
    }

    async fn recover(&self, request: Request<RecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        self.metrics.observe("RecoverLeases", async { self.recover(request.get_ref()) }).await
    }
}

/// A driver's way to the holder of its node. It keeps no connection: each may be the last before a restart.
#[derive(Clone, Debug)]
pub struct Client {
    socket: Arc<Path>,
    node: Arc<str>,
    runtime: Handle,
}

#[derive(Clone, Copy)]
enum Call {
    Take,
    Release,
    Concerns,
}

impl Client {
    /// Of the driver on `node`. Its blocking calls are for threads that are not of `runtime`.
    pub fn new(socket: &Path, node: &str, runtime: Handle) -> Client {
        Client { socket: socket.into(), node: node.into(), runtime }
    }

    /// The node of both.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Takes a lease, or finds that this node has it. Blocks, maybe for the grace of another node.
    pub fn take(&self, id: &VolumeId) -> Result<(), Error> {
        self.runtime.block_on(self.call(Call::Take, id)).map(|_| ())
    }

    /// Gives a lease back, if this node has it. Blocks.
    pub fn release(&self, id: &VolumeId) -> Result<(), Error> {
        self.runtime.block_on(self.call(Call::Release, id)).map(|_| ())
    }

    /// Whether this node may have a lease.
    pub async fn concerns(&self, id: &VolumeId) -> Result<bool, Error> {
        self.call(Call::Concerns, id).await
    }

    /// Tells the holder that a driver starts, as soon as it can be told.
    pub async fn start(self) {
        loop {
            match timeout(PATIENCE, self.recover()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the holder of leases does not know of this driver"),
                Err(_) => {}
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    async fn recover(&self) -> Result<(), Error> {
        let request = RecoverRequest { version: VERSION, node_id: (*self.node).into() };
        let answer = self.connect().await?.recover(request).await;
        answer.map(|_| ()).map_err(|status| self.error(&status))
    }

    async fn connect(&self) -> Result<HolderClient<Channel>, Error> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()));
        let channel = endpoint.map_err(|error| self.away(error))?.connect().await;
        Ok(HolderClient::new(channel.map_err(|error| self.away(causes(&error)))?))
    }

    async fn call(&self, call: Call, id: &VolumeId) -> Result<bool, Error> {
        let patience = match call {
            Call::Concerns => PATIENCE,
            // It may be that the release of one call waits for the end of another.
            Call::Take | Call::Release => GRACE + SHARE,
        };
        let answer = timeout(patience, self.answer(call, id)).await;
        answer.map_err(|_| self.away(format!("no answer in {} seconds", patience.as_secs())))?
    }

    async fn answer(&self, call: Call, id: &VolumeId) -> Result<bool, Error> {
        let mut holder = self.connect().await?;
        let request =
            LeaseRequest { version: VERSION, volume_id: id.to_string(), node_id: (*self.node).into() };
        let answer = match call {
            Call::Take => holder.take(request).await,
            Call::Release => holder.release(request).await,
            Call::Concerns => holder.concerns(request).await,
        };
        answer.map(|answer| answer.into_inner().held).map_err(|status| self.error(&status))
    }

    /// What the holder said, as if it had been said here.
    fn error(&self, status: &Status) -> Error {
        let text = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument => Error::Invalid(text),
            Code::NotFound => Error::NotFound(text),
            Code::AlreadyExists => Error::Exists(text),
            Code::Aborted => Error::Aborted(text),
            Code::OutOfRange => Error::Range(text),
            Code::FailedPrecondition => Error::Precondition(text),
            Code::ResourceExhausted => Error::Exhausted(text),
            // A holder says all else that it says itself as one of two codes; what has a cause is the connection's.
            Code::Unavailable | Code::Internal if std::error::Error::source(status).is_some() => {
                self.away(text)
            }
            Code::Unavailable => Error::Unavailable(text),
            Code::Internal => Error::Io("the holder of leases".into(), std::io::Error::other(text)),
            Code::Unimplemented => Error::Precondition(format!(
                "the holder of leases on node {} is too old for this driver: drain the node, and delete the pod of {} there",
                self.node,
                crate::HOLDER
            )),
            _ => self.away(text),
        }
    }

    fn away(&self, why: impl std::fmt::Display) -> Error {
        Error::Unavailable(format!(
            "the holder of leases does not answer at {}: {why}; look at the pod of {} on node {}",
            self.socket.display(),
            crate::HOLDER,
            self.node
        ))
    }
}

/// Of a connection, whose own text says next to nothing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "tests/holder.rs"]
mod tests;
