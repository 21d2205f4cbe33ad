//! Telling the kubelet of the driver: it finds a socket in its directory of plugins, and asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::{Request, Response, Status};

use crate::proto::registration::registration_server::Registration as Service;
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// The versions of the specification that the kubelet chooses from: it knows major versions only.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// What the kubelet asks. Clones are the same.
#[derive(Clone, Debug)]
pub struct Registration {
    endpoint: Arc<Path>,
    done: Arc<AtomicBool>,
}

impl Registration {
    /// Of a driver at `endpoint`, a path that the kubelet sees as the driver does.
    pub fn new(endpoint: &Path) -> Registration {
        Registration { endpoint: endpoint.into(), done: Arc::default() }
    }

    /// Whether the kubelet took the driver.
    pub fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Where the kubelet looks: any socket in its directory.
    ///
    /// The kubelet's gRPC sends the path as `:authority`, each `/` as `%2F`, and our HTTP/2 refuses a `%` there but
    /// before an `@` (RFC 3986: user information). So the name has one.
    pub fn socket(directory: &Path) -> PathBuf {
        directory.join(format!("registration@{}.sock", crate::DRIVER))
    }
}

#[tonic::async_trait]
impl Service for Registration {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: crate::DRIVER.into(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: VERSIONS.map(String::from).into(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        self.done.store(status.plugin_registered, Ordering::Relaxed);
        if status.plugin_registered {
            tracing::info!("the kubelet has registered the driver");
        } else {
            // It asks again by itself.
            tracing::error!(error = status.error, "the kubelet did not register the driver");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go's gRPC encodes the target of a connection.
    fn authority(socket: &Path) -> String {
        socket.to_str().unwrap().replace('/', "%2F")
    }

    #[test]
    fn the_kubelets_authority_is_one_to_us() {
        let directory = Path::new("/var/lib/kubelet/plugins_registry");
        assert!(authority(&Registration::socket(directory)).parse::<http::uri::Authority>().is_ok());
        assert!(authority(&directory.join("any.sock")).parse::<http::uri::Authority>().is_err());
    }
}
