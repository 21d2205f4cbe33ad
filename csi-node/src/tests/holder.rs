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
    let leases = Leases::new("n", Duration::from_millis(300));
    let holder = Holder::new(Shares::unknown("/"), leases, Metrics::default());
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(Server::builder().add_service(HolderServer::new(holder)).serve_with_incoming(incoming));
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
