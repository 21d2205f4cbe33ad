//! A bridge's way to the relay.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::proto::PROTOCOL;
use crate::proto::relay::follow_request::What as Asked;
use crate::proto::relay::follow_response::What as Said;
use crate::proto::relay::relay_client::RelayClient;
use crate::proto::relay::{Ack, Checkpoint, FollowRequest, FollowResponse, Open, Start};
use crate::tls::{self, Files, TlsError};

/// How long a connection may take, and a relay that is there to say so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a bridge does not follow.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection.
    #[error("cannot connect to the relay")]
    Connect(#[from] tonic::transport::Error),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The relay's name.
    #[error("{0:?} is no name of a relay")]
    Name(String, #[source] InvalidDnsNameError),
    /// What the relay said.
    #[error("the relay refused: {}", .0.message())]
    Refused(#[source] Box<Status>),
    /// It did not begin as it has to.
    #[error("the relay did not say where it begins")]
    NoStart,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> ClientError {
        ClientError::Refused(Box::new(status))
    }
}

/// Connects to a relay's Unix socket.
pub async fn unix(path: &Path) -> Result<Channel, ClientError> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
    Ok(endpoint.connect_timeout(PATIENCE).connect().await?)
}

/// Connects to a relay by TCP, `HOST:PORT`, with the certificates in `files`, which are read now. The relay's certificate has
/// to be for `name`.
pub async fn tls(address: &str, name: &str, files: &Files) -> Result<Channel, ClientError> {
    let connector = TlsConnector::from(Arc::new(tls::bridge(files)?));
    let name =
        ServerName::try_from(name.to_owned()).map_err(|error| ClientError::Name(name.into(), error))?;
    let address: Arc<str> = address.into();
    let connect = tower::service_fn(move |_| {
        let (connector, name, address) = (connector.clone(), name.clone(), Arc::clone(&address));
        async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    // The connector knows where; this is for the requests' heads.
    let endpoint = Endpoint::from_static("http://relay")
        .connect_timeout(PATIENCE)
        .http2_keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connect).await?)
}

/// A bridge that follows.
#[derive(Debug)]
pub struct Following {
    /// Where the relay begins.
    pub start: Start,
    said: Streaming<FollowResponse>,
    asked: mpsc::Sender<FollowRequest>,
}

impl Following {
    /// Opens, with what is durable here.
    pub async fn open(
        channel: Channel,
        bridge: &str,
        sub_path: &[u8],
        resume: Option<Checkpoint>,
    ) -> Result<Following, ClientError> {
        let open = Open { protocol: PROTOCOL, bridge: bridge.into(), sub_path: sub_path.to_vec(), resume };
        Self::open_as(channel, open).await
    }

    /// As [`Self::open`], as it stands.
    pub async fn open_as(channel: Channel, open: Open) -> Result<Following, ClientError> {
        let (asked, requests) = mpsc::channel(16);
        // There is room, and the other end is here.
        let _ = asked.send(FollowRequest { what: Some(Asked::Open(open)) }).await;
        let mut client = RelayClient::new(channel).max_decoding_message_size(64 << 20);
        let mut said = client.follow(ReceiverStream::new(requests)).await?.into_inner();
        match said.message().await?.and_then(|first| first.what) {
            Some(Said::Start(start)) => Ok(Following { start, said, asked }),
            _ => Err(ClientError::NoStart),
        }
    }

    /// What is said next; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Said>, Status> {
        loop {
            match self.said.message().await? {
                Some(FollowResponse { what: Some(said) }) => return Ok(Some(said)),
                // Of a newer relay.
                Some(FollowResponse { what: None }) => {}
                None => return Ok(None),
            }
        }
    }

    /// All up to `sequence` is durable here. Whether the relay is still there to hear it.
    pub async fn acknowledge(&self, sequence: u64) -> bool {
        self.asked.send(FollowRequest { what: Some(Asked::Ack(Ack { sequence })) }).await.is_ok()
    }
}
