//! Who the driver is.

use tonic::{Request, Response, Status};

use crate::proto::csi::identity_server::Identity as Service;
use crate::proto::csi::plugin_capability::{self, service, volume_expansion};
use crate::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse,
};
use crate::share::Shares;

/// The identity service; both roles have it, and say the same.
#[derive(Clone, Debug)]
pub struct Identity {
    shares: Shares,
}

impl Identity {
    /// Of a driver with these shares.
    pub fn new(shares: Shares) -> Identity {
        Identity { shares }
    }
}

#[tonic::async_trait]
impl Service for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: crate::DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
            ..GetPluginInfoResponse::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let capability = |kind: service::Type| PluginCapability {
            r#type: Some(plugin_capability::Type::Service(plugin_capability::Service {
                r#type: kind.into(),
            })),
        };
        let online = plugin_capability::VolumeExpansion { r#type: volume_expansion::Type::Online.into() };
        let capabilities = vec![
            capability(service::Type::ControllerService),
            capability(service::Type::VolumeAccessibilityConstraints),
            PluginCapability { r#type: Some(plugin_capability::Type::VolumeExpansion(online)) },
        ];
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(self.shares.ready()) }))
    }
}
