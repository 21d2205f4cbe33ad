//! What a driver hears of its holder.

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::*;
use crate::id::Uuid;
use crate::proto::holder::holder_server::HolderServer;

fn id() -> VolumeId {
    VolumeId { share: "s".into(), uuid: Uuid::of_name("v") }
}

/// Shares are not known to it yet.
fn holder(socket: &Path) {
    holder_of(socket, Shares::unknown("/"));
}

fn holder_of(socket: &Path, shares: Shares) {
    let leases = Leases::new("n", Duration::from_millis(300));
    serve(socket, Holder::new(shares, leases, Metrics::default()));
}

fn serve(socket: &Path, holder: impl Service) {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(Server::builder().add_service(HolderServer::new(holder)).serve_with_incoming(incoming));
}

/// One that answers everything with a code.
struct Says(Code);

impl Says {
    fn status(&self) -> Status {
        Status::new(self.0, "as the test wants it")
    }
}

#[tonic::async_trait]
impl Service for Says {
    async fn take(&self, _: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        Err(self.status())
    }

    async fn release(&self, _: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        Err(self.status())
    }

    async fn concerns(&self, _: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        Err(self.status())
    }

    async fn recover(&self, _: Request<RecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        Err(self.status())
    }
}

fn client(socket: &Path, node: &str) -> Client {
    Client::new(socket, node, Handle::current())
}

async fn refused(client: Client, call: Call, id: VolumeId) -> (Code, String) {
    let error = client.call(call, &id).await.unwrap_err();
    (error.code(), error.to_string())
}

#[tokio::test]
async fn one_that_is_not_there_is_unavailable_and_named() {
    let base = TempDir::new().unwrap();
    let socket = base.path().join("holder.sock");
    let (code, text) = refused(client(&socket, "n"), Call::Take, id()).await;
    assert_eq!(code, Code::Unavailable, "{text}");
    assert!(text.contains("lustre-bridge-csi-holder on node n") && text.contains("No such file"), "{text}");
    drop(UnixListener::bind(&socket).unwrap());
    let (code, text) = refused(client(&socket, "n"), Call::Concerns, id()).await;
    assert!(code == Code::Unavailable && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn what_it_says_is_passed_on() {
    let base = TempDir::new().unwrap();
    let socket = base.path().join("holder.sock");
    holder(&socket);
    let (code, text) = refused(client(&socket, "n"), Call::Take, id()).await;
    assert_eq!((code, text.as_str()), (Code::Unavailable, "the shares are not known yet: ask again"));
    let (code, text) = refused(client(&socket, "m"), Call::Release, id()).await;
    assert!(code == Code::FailedPrecondition && text.contains("node n") && text.contains("node m"), "{text}");
    // What it has not looked for yet it may have.
    assert!(client(&socket, "n").concerns(&id()).await.unwrap());
}

#[tokio::test]
async fn one_that_is_older_is_told_of() {
    let base = TempDir::new().unwrap();
    let socket = base.path().join("holder.sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    // It has none of the calls.
    let nothing: Option<HolderServer<Holder>> = None;
    tokio::spawn(Server::builder().add_optional_service(nothing).serve_with_incoming(incoming));
    let (code, text) = refused(client(&socket, "n"), Call::Take, id()).await;
    assert!(code == Code::FailedPrecondition && text.contains("too old"), "{text}");
}

#[tokio::test]
async fn a_share_that_it_does_not_know_yet_is_asked_for_again() {
    let base = TempDir::new().unwrap();
    let socket = base.path().join("holder.sock");
    let shares = Shares::unknown("/");
    shares.replace([]);
    holder_of(&socket, shares);
    for call in [Call::Take, Call::Release] {
        let (code, text) = refused(client(&socket, "n"), call, id()).await;
        assert_eq!(code, Code::Unavailable);
        assert_eq!(text, "the holder of leases does not know share s yet: ask again");
    }
}

#[tokio::test]
async fn its_codes_are_the_drivers() {
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::Aborted,
        Code::OutOfRange,
        Code::FailedPrecondition,
        Code::ResourceExhausted,
        Code::Unavailable,
        Code::Internal,
    ] {
        let base = TempDir::new().unwrap();
        let socket = base.path().join("holder.sock");
        serve(&socket, Says(code));
        let (passed_on, text) = refused(client(&socket, "n"), Call::Release, id()).await;
        assert!(passed_on == code && text.contains("as the test wants it"), "{code:?}: {passed_on:?} {text}");
        assert!(!text.contains("does not answer"), "{text}");
    }
    // What it never says itself is the connection's.
    let base = TempDir::new().unwrap();
    let socket = base.path().join("holder.sock");
    serve(&socket, Says(Code::DataLoss));
    let (code, text) = refused(client(&socket, "n"), Call::Take, id()).await;
    assert!(code == Code::Unavailable && text.contains("does not answer at"), "{text}");
}

#[tokio::test]
async fn a_driver_tells_it_of_its_start_as_soon_as_it_can_be_told() {
    let base = TempDir::new().unwrap();
    let socket = base.path().join("holder.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let started = tokio::spawn(client(&socket, "n").start());
    // The first try meets one that hangs up.
    drop(listener.accept().await.unwrap());
    drop(listener);
    assert!(!started.is_finished());
    std::fs::remove_file(&socket).unwrap();
    holder(&socket);
    started.await.unwrap();
}
