//! The node: shows volumes to the pods of its host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::os::fd::{AsFd as _, OwnedFd};

use lustre::sys::Space;
use tonic::{Request, Response, Status};

use crate::capability::{self, Access};
use crate::controller::{check_context, require};
use crate::error::Error;
use crate::id::VolumeId;
use crate::locks::Locks;
use crate::metrics::Metrics;
use crate::mounts::{self, Target};
use crate::proto::csi::node_server::Node as Service;
use crate::proto::csi::node_service_capability::{self, rpc};
use crate::proto::csi::volume_usage::Unit;
use crate::proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology, VolumeUsage,
};
use crate::record::Record;
use crate::share::{Share, Shares};
use crate::tree::Tree;
use crate::volumes;

/// The node service.
#[derive(Clone, Debug)]
pub struct Node {
    shares: Shares,
    id: Arc<str>,
    targets: Option<Arc<Path>>,
    locks: Locks,
    metrics: Metrics,
}

impl Node {
    /// Of the node `id`. Targets lie beneath `targets` if that is given.
    pub fn new(shares: Shares, id: &str, targets: Option<PathBuf>, metrics: Metrics) -> Node {
        Node { shares, id: id.into(), targets: targets.map(Into::into), locks: Locks::default(), metrics }
    }

    fn target(&self, field: &str, text: &str) -> Result<Target, Error> {
        Target::parse(field, text, self.targets.as_deref())
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<NodePublishVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        let target = self.target("target_path", &request.target_path)?;
        let capability = request.volume_capability.as_ref();
        let capability = capability.ok_or_else(|| Error::Invalid("volume_capability is missing".into()))?;
        let reads_only = capability::check(capability)? == Access::ReadOnly || request.readonly;
        check_context(&request.volume_context)?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        share.check_node(&self.id)?;
        // Volumes of one pod are published at once, also the same one twice: it is the target that is one's own.
        let guard = self.locks.take(&request.target_path)?;
        let others = self.shares.all()?;
        let here = Arc::clone(&share);
        let job = move |tree: &Tree| {
            let _guard = guard;
            let (record, directory) = open(tree, &id)?;
            let nested = nested(&here, &record, &others);
            mounts::publish(directory.as_fd(), &target, reads_only || record.read_only, &nested)
        };
        share.run(job).await.map(|()| NodePublishVolumeResponse {})
    }

    async fn unpublish(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        let target = self.target("target_path", &request.target_path)?;
        VolumeId::parse(&request.volume_id)?;
        let guard = self.locks.take(&request.target_path)?;
        // Neither the share nor the record is asked: both may be gone, and the mount has to go all the same.
        let job = move || {
            let _guard = guard;
            mounts::unpublish(&target)
        };
        let done = tokio::task::spawn_blocking(job).await;
        done.map_err(|error| Error::Io("unpublishing".into(), std::io::Error::other(error)))??;
        Ok(NodeUnpublishVolumeResponse {})
    }

    async fn stats(&self, request: NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse, Error> {
        require("volume_id", &request.volume_id)?;
        require("volume_path", &request.volume_path)?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        // Where no target can be, no volume is.
        let path = self.target("volume_path", &request.volume_path);
        let path = path.map_err(|error| Error::NotFound(error.to_string()))?;
        let job = move |tree: &Tree| {
            let (_, directory) = open(tree, &id)?;
            mounts::check_published(directory.as_fd(), &path)?;
            lustre::sys::statfs(directory.as_fd()).map_err(Error::io("cannot ask the volume's space"))
        };
        let space = share.run(job).await?;
        Ok(NodeGetVolumeStatsResponse { usage: usage(&space), volume_condition: None })
    }
}

/// A volume's record, and its directory as that says.
fn open(tree: &Tree, id: &VolumeId) -> Result<(Record, OwnedFd), Error> {
    let record = volumes::find(tree, &id.uuid)?;
    match tree.open(&record.path) {
        Ok(directory) => Ok((record, directory)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::NotFound(format!("volume {id} has lost its directory {}", record.path)))
        }
        Err(error) => {
            Err(Error::Io(format!("cannot open the directory {} of volume {id}", record.path), error))
        }
    }
}

/// Where the shares' own directories are beneath the volume, itself among them if it is a whole share.
fn nested(share: &Share, record: &Record, all: &[Arc<Share>]) -> Vec<String> {
    let volume = place(&share.spec.host_path, &[share.spec.path.as_str(), record.path.as_str()]);
    let beneath = |other: &Arc<Share>| {
        let other = place(&other.spec.host_path, &[other.spec.path.as_str()]);
        other.strip_prefix(&volume).ok().map(|path| path.to_string_lossy().into_owned())
    };
    all.iter().filter_map(beneath).collect()
}

fn place(host: &str, below: &[&str]) -> PathBuf {
    let start = PathBuf::from(host);
    below.iter().filter(|part| !part.is_empty()).fold(start, |path, part| path.join(part))
}

fn usage(space: &Space) -> Vec<VolumeUsage> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let usage = |unit: Unit, total: u64, free: u64, available: u64| VolumeUsage {
        available: signed(available),
        total: signed(total),
        used: signed(total.saturating_sub(free)),
        unit: unit.into(),
    };
    vec![
        usage(Unit::Bytes, space.total, space.free, space.available),
        usage(Unit::Inodes, space.files, space.files_free, space.files_free),
    ]
}

fn not_offered<T>(what: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!("this driver does not offer {what}")))
}

#[tonic::async_trait]
impl Service for Node {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.metrics.observe("NodePublishVolume", self.publish(request.into_inner())).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.metrics.observe("NodeUnpublishVolume", self.unpublish(request.into_inner())).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.metrics.observe("NodeGetVolumeStats", self.stats(request.into_inner())).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let stats = node_service_capability::Rpc { r#type: rpc::Type::GetVolumeStats.into() };
        let stats = NodeServiceCapability { r#type: Some(node_service_capability::Type::Rpc(stats)) };
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: vec![stats] }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let segments = [(crate::TOPOLOGY.to_owned(), self.id.to_string())].into();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.id.to_string(),
            max_volumes_per_node: 0,
            accessible_topology: Some(Topology { segments }),
        }))
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        not_offered("NodeStageVolume")
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        not_offered("NodeUnstageVolume")
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        not_offered("NodeExpandVolume")
    }
}
