//! The node: shows volumes to the pods of its host.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::capability::{self, Access, Capacity, Nodes, Use, signed};
use crate::error::Error;
use crate::id::VolumeId;
use crate::keeper::{Keeper, Known};
use crate::locks::{Guard, Locks};
use crate::metrics::Metrics;
use crate::mounts::{self, Target};
use crate::opened::open;
use crate::proto::csi::node_server::Node as Service;
use crate::proto::csi::node_service_capability::{self, rpc};
use crate::proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology,
};
use crate::record::{Record, Type};
use crate::request::{check_context, require};
use crate::share::{Share, Shares};
use crate::tree::Tree;
use crate::turns::Turns;

/// The node service.
#[derive(Clone, Debug)]
pub struct Node {
    shares: Shares,
    here: Arc<Here>,
    locks: Locks,
    metrics: Metrics,
}

/// What a node is to the volumes that it shows.
#[derive(Debug)]
pub struct Here {
    /// Its id.
    pub id: String,
    /// Targets lie beneath it, if it is given.
    pub targets: Option<PathBuf>,
    /// Where the host's device nodes are.
    pub devices: PathBuf,
    /// What only this node writes to.
    pub leases: Keeper,
    /// A lease is not given back by one call while another shows the volume.
    pub turns: Turns<VolumeId>,
}

impl Node {
    /// The service of a node.
    pub fn new(shares: Shares, here: Arc<Here>, metrics: Metrics) -> Node {
        Node { shares, here, locks: Locks::default(), metrics }
    }

    fn target(&self, field: &str, text: &str) -> Result<Target, Error> {
        Target::parse(field, text, self.here.targets.as_deref())
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<NodePublishVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        let target = self.target("target_path", &request.target_path)?;
        let capability = request.volume_capability.as_ref();
        let capability = capability.ok_or_else(|| Error::Invalid("volume_capability is missing".into()))?;
        let mut how = capability::check(capability)?;
        if request.readonly {
            how.access = Access::ReadOnly;
        }
        check_context(&request.volume_context)?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        share.check_node(&self.here.id)?;
        // Volumes of one pod are published at once, also the same one twice: it is the target that is one's own.
        let guard = self.locks.take(&request.target_path)?;
        let alone = (how.nodes == Nodes::OnePod).then(|| self.locks.take(&request.volume_id)).transpose()?;
        let others = self.shares.all()?;
        let (here, of) = (Arc::clone(&self.here), Arc::clone(&share));
        let job = move |tree: &Tree| {
            let _guards = (guard, alone);
            let volume = open(tree, &id, &here.devices)?;
            let how = how_to_use(&volume.record, how)?;
            if how.nodes == Nodes::OnePod {
                volume.check_alone(&target)?;
            }
            let nested = nested(&of, &volume.record, &others);
            let show = || volume.show(&target, how, &nested);
            if !is_leased(&volume.record, how) {
                return show();
            }
            let _turn = here.turns.take(id.clone());
            let store = tree.make_store()?;
            here.leases.take(&store, &id)?;
            let shown = show();
            // Nobody may come to unpublish what was never published.
            if shown.is_err() && !volume.is_used(here.targets.as_deref())? {
                here.leases.release(&store, &id)?;
            }
            shown
        };
        share.run(job).await.map(|()| NodePublishVolumeResponse {})
    }

    async fn unpublish(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        let target = self.target("target_path", &request.target_path)?;
        let id = VolumeId::parse(&request.volume_id)?;
        let guard = self.locks.take(&request.target_path)?;
        // Neither the share nor the record is asked: both may be gone, and the mount has to go all the same.
        let job = move || {
            mounts::unpublish(&target)?;
            Ok::<_, Error>(guard)
        };
        let done = tokio::task::spawn_blocking(job).await;
        let guard =
            done.map_err(|error| Error::Io("unpublishing".into(), std::io::Error::other(error)))??;
        self.give_back(id, guard).await?;
        Ok(NodeUnpublishVolumeResponse {})
    }

    /// Gives the lease of a volume back that is published nowhere on this node any more.
    async fn give_back(&self, id: VolumeId, guard: Guard) -> Result<(), Error> {
        let Some(share) = self.shares.get(&id.share)? else { return Ok(()) };
        let known = self.here.leases.ask(&id).await;
        if matches!(known, Known::No) {
            return Ok(());
        }
        let here = Arc::clone(&self.here);
        let job = move |tree: &Tree| {
            let _guard = guard;
            let Some(store) = tree.store()? else { return Ok(()) };
            let _turn = here.turns.take(id.clone());
            match open(tree, &id, &here.devices) {
                Ok(volume) if volume.is_used(here.targets.as_deref())? => Ok(()),
                Ok(_) | Err(Error::NotFound(_)) => here.leases.give_back(&store, &id, known),
                Err(error) => Err(error),
            }
        };
        share.run(job).await
    }

    async fn expand(&self, request: NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        require("volume_path", &request.volume_path)?;
        let capacity = Capacity::new(request.capacity_range.as_ref())?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        let path = self.target("volume_path", &request.volume_path);
        let path = path.map_err(|error| Error::NotFound(error.to_string()))?;
        let devices = self.here.devices.clone();
        let job = move |tree: &Tree| {
            let volume = open(tree, &id, &devices)?;
            let bytes = volume.record.capacity;
            if !capacity.admits(bytes) {
                return Err(Error::Range(format!(
                    "the volume has {bytes} bytes: it is the controller that makes it larger"
                )));
            }
            volume.expand(&path).map(|()| bytes)
        };
        let bytes = share.run(job).await?;
        Ok(NodeExpandVolumeResponse { capacity_bytes: signed(bytes) })
    }

    async fn stats(&self, request: NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse, Error> {
        require("volume_id", &request.volume_id)?;
        require("volume_path", &request.volume_path)?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        // Where no target can be, no volume is.
        let path = self.target("volume_path", &request.volume_path);
        let path = path.map_err(|error| Error::NotFound(error.to_string()))?;
        let devices = self.here.devices.clone();
        let job = move |tree: &Tree| open(tree, &id, &devices)?.stats(&path);
        Ok(NodeGetVolumeStatsResponse { usage: share.run(job).await?, volume_condition: None })
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

/// As the volume lets itself be used.
fn how_to_use(record: &Record, how: Use) -> Result<Use, Error> {
    if how.block && record.type_ != Type::Disk {
        return Err(Error::Invalid("the volume is a directory, and no block device".into()));
    }
    if record.is_image() {
        capability::check_one_node(how)?;
    }
    let access = if record.read_only { Access::ReadOnly } else { how.access };
    Ok(Use { access, ..how })
}

/// What one node writes to, and two would spoil: disks, file systems in images (also when they are only read: the
/// kernel writes to them), and what is for one pod.
fn is_leased(record: &Record, how: Use) -> bool {
    if record.is_image() {
        return true;
    }
    let one_node = how.nodes != Nodes::Many && record.type_ == Type::Disk;
    how.access == Access::ReadWrite && (one_node || how.nodes == Nodes::OnePod)
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
        let offered = [rpc::Type::GetVolumeStats, rpc::Type::ExpandVolume, rpc::Type::SingleNodeMultiWriter];
        let capability = |kind: rpc::Type| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(node_service_capability::Rpc {
                r#type: kind.into(),
            })),
        };
        let capabilities = offered.into_iter().map(capability).collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let segments = [(crate::TOPOLOGY.to_owned(), self.here.id.clone())].into();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.here.id.clone(),
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
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        self.metrics.observe("NodeExpandVolume", self.expand(request.into_inner())).await
    }
}
