//! The controller: makes, deletes, lists volumes.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::capability::{self, Access, Capacity, signed};
use crate::error::Error;
use crate::id::{Uuid, VolumeId};
use crate::janitor::Janitor;
use crate::listing::{after, last_id, page};
use crate::locks::Locks;
use crate::metrics::Metrics;
use crate::parameters::{self, Parameters};
use crate::proto::csi::controller_get_volume_response::VolumeStatus;
use crate::proto::csi::controller_server::Controller as Service;
use crate::proto::csi::controller_service_capability::{self, rpc};
use crate::proto::csi::list_volumes_response::Entry;
use crate::proto::csi::validate_volume_capabilities_response::Confirmed;
use crate::proto::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetCapabilitiesRequest,
    ControllerGetCapabilitiesResponse, ControllerGetVolumeRequest, ControllerGetVolumeResponse,
    ControllerModifyVolumeRequest, ControllerModifyVolumeResponse, ControllerPublishVolumeRequest,
    ControllerPublishVolumeResponse, ControllerServiceCapability, ControllerUnpublishVolumeRequest,
    ControllerUnpublishVolumeResponse, CreateSnapshotRequest, CreateSnapshotResponse, CreateVolumeRequest,
    CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse, DeleteVolumeRequest,
    DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse, GetSnapshotRequest, GetSnapshotResponse,
    ListSnapshotsRequest, ListSnapshotsResponse, ListVolumesRequest, ListVolumesResponse, Topology,
    TopologyRequirement, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume,
};
use crate::record::{Record, Type};
use crate::request::{check_context, check_extras, check_name, require};
use crate::share::{Share, Shares};
use crate::tree::Tree;
use crate::volumes::{self, Wanted};

/// Records that are read for one page where the caller names no limit.
const PAGE: usize = 1000;

/// The controller service.
#[derive(Clone, Debug)]
pub struct Controller {
    shares: Shares,
    node: Arc<str>,
    locks: Locks,
    janitor: Janitor,
    metrics: Metrics,
}

impl Controller {
    /// Of the driver on `node`.
    pub fn new(shares: Shares, node: &str, janitor: Janitor, metrics: Metrics) -> Controller {
        Controller { shares, node: node.into(), locks: Locks::default(), janitor, metrics }
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<CreateVolumeResponse, Error> {
        check_name(&request.name)?;
        capability::check_all(&request.volume_capabilities)?;
        check_extras(&request)?;
        let capacity = Capacity::new(request.capacity_range.as_ref())?;
        let parameters = Parameters::parse(&request.name, &request.parameters)?;
        parameters.check(&request.volume_capabilities, capacity)?;
        let capacity = capacity.rounded(parameters.unit())?;
        let share = self.named(&parameters.share)?;
        share.check_node(&self.node)?;
        check_reachable(&share, request.accessibility_requirements.as_ref())?;
        let id = VolumeId { share: share.name.clone(), uuid: Uuid::of_name(&request.name) };
        let guard = self.locks.take(&id.to_string())?;
        let owner = parameters.owner(share.spec.owner);
        let wanted = Wanted {
            name: request.name,
            path: parameters.path,
            what: parameters.kind,
            owner,
            capacity,
            size: parameters.size,
            on_delete: parameters.on_delete,
        };
        let job = move |tree: &Tree| {
            let _guard = guard;
            volumes::create(tree, &wanted)
        };
        let (_, record) = share.run(job).await?;
        Ok(CreateVolumeResponse { volume: Some(volume(&share, &id, &record)) })
    }

    async fn delete(&self, request: DeleteVolumeRequest) -> Result<DeleteVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        // What is no id of ours names no volume, and so there is nothing to delete.
        let Ok(id) = VolumeId::parse(&request.volume_id) else { return Ok(DeleteVolumeResponse {}) };
        // A share that is gone for good and one whose LustreShare is being made again look the same.
        let share = self.shares.get(&id.share)?.ok_or_else(|| {
            Error::Precondition(format!("share {:?} is not there, and with it the volume's files", id.share))
        })?;
        share.check_node(&self.node)?;
        let guard = self.locks.take(&request.volume_id)?;
        let job = move |tree: &Tree| {
            let _guard = guard;
            volumes::delete(tree, &id.uuid)
        };
        if share.run(job).await? {
            self.janitor.call(&share.name);
        }
        Ok(DeleteVolumeResponse {})
    }

    async fn expand(
        &self,
        request: ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        if request.capacity_range.is_none() {
            return Err(Error::Invalid("capacity_range is missing".into()));
        }
        let capacity = Capacity::new(request.capacity_range.as_ref())?;
        let block = request.volume_capability.as_ref().map(capability::check).transpose()?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        share.check_node(&self.node)?;
        let guard = self.locks.take(&request.volume_id)?;
        let job = move |tree: &Tree| {
            let _guard = guard;
            volumes::expand(tree, &id.uuid, capacity)
        };
        let record = share.run(job).await?;
        // A loop device is told by the node that has it, and so is a file system. Whoever boots a disk image looks at
        // the file.
        let device = record.type_ == Type::Disk && block.is_none_or(|block| block.block);
        Ok(ControllerExpandVolumeResponse {
            capacity_bytes: signed(record.capacity),
            node_expansion_required: device || record.is_image(),
        })
    }

    async fn get(&self, request: ControllerGetVolumeRequest) -> Result<ControllerGetVolumeResponse, Error> {
        require("volume_id", &request.volume_id)?;
        let id = VolumeId::parse(&request.volume_id)?;
        let share = self.shares.of_volume(&id)?;
        share.check_node(&self.node)?;
        let uuid = id.uuid.clone();
        let record = share.run(move |tree| volumes::find(tree, &uuid)).await?;
        Ok(ControllerGetVolumeResponse {
            volume: Some(volume(&share, &id, &record)),
            status: Some(VolumeStatus::default()),
        })
    }

    async fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Error> {
        require("volume_id", &request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(Error::Invalid("volume_capabilities is missing".into()));
        }
        let id = VolumeId::parse(&request.volume_id)?;
        let record = self.shares.of_volume(&id)?.run(move |tree| volumes::find(tree, &id.uuid)).await?;
        let judged = capability::check_all(&request.volume_capabilities)
            .and_then(|block| check_type(&record, block))
            .and_then(|()| check_nodes(&record, &request))
            .and_then(|()| check_context(&request.volume_context))
            .and_then(|()| check_writable(&record, &request))
            .and_then(|()| check_parameters(&record, &request));
        Ok(match judged {
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: HashMap::new(),
                }),
                message: String::new(),
            },
            Err(error) => ValidateVolumeCapabilitiesResponse { confirmed: None, message: error.to_string() },
        })
    }

    async fn list(&self, request: ListVolumesRequest) -> Result<ListVolumesResponse, Error> {
        let most = usize::try_from(request.max_entries).map_err(|_| {
            Error::Invalid(format!("max_entries is {}, and cannot be negative", request.max_entries))
        })?;
        let room = if most == 0 { PAGE } else { most };
        let after = after(&request.starting_token)?;
        let mut entries = Vec::new();
        let mut next_token = String::new();
        for share in self.shares.all()? {
            let after = match &after {
                Some(after) if share.name < after.share => continue,
                Some(after) if share.name == after.share => Some(after.uuid.clone()),
                _ => None,
            };
            if share.check_node(&self.node).is_err() {
                continue;
            }
            let wanted = room + 1 - entries.len();
            let page = share.run(move |tree| page(tree, after.as_ref(), wanted)).await?;
            entries.extend(page.into_iter().map(|(uuid, record)| {
                let id = VolumeId { share: share.name.clone(), uuid };
                Entry { volume: Some(volume(&share, &id, &record)), status: None }
            }));
            if entries.len() > room {
                entries.truncate(room);
                next_token = last_id(&entries);
                break;
            }
        }
        Ok(ListVolumesResponse { entries, next_token })
    }

    async fn capacity(&self, request: GetCapacityRequest) -> Result<GetCapacityResponse, Error> {
        parameters::check_known(&request.parameters)?;
        let nothing = GetCapacityResponse::default();
        if !request.volume_capabilities.is_empty()
            && capability::check_all(&request.volume_capabilities).is_err()
        {
            return Ok(nothing);
        }
        let share = match request.parameters.get("share") {
            Some(name) => self.named(name)?,
            None => match <[_; 1]>::try_from(self.shares.all()?) {
                Ok([only]) => only,
                Err(_) => return Err(Error::Invalid("the parameter share is missing".into())),
            },
        };
        let elsewhere =
            request.accessible_topology.as_ref().is_some_and(|topology| !admits(&share, topology));
        if elsewhere || share.check_node(&self.node).is_err() {
            return Ok(nothing);
        }
        let space =
            |tree: &Tree| lustre::sys::statfs(tree.root()).map_err(Error::io("cannot ask the share's space"));
        let space = share.run(space).await?;
        Ok(GetCapacityResponse { available_capacity: signed(space.available), ..nothing })
    }

    /// A share that a class names.
    fn named(&self, name: &str) -> Result<Arc<Share>, Error> {
        self.shares.get(name)?.ok_or_else(|| Error::Invalid(format!("there is no share {name:?}")))
    }
}

fn check_type(record: &Record, block: bool) -> Result<(), Error> {
    if block && record.type_ != Type::Disk {
        return Err(Error::Precondition("the volume is a directory, and no block device".into()));
    }
    Ok(())
}

fn check_nodes(record: &Record, request: &ValidateVolumeCapabilitiesRequest) -> Result<(), Error> {
    if !record.is_image() {
        return Ok(());
    }
    request.volume_capabilities.iter().try_for_each(|how| capability::check_one_node(capability::check(how)?))
}

fn check_writable(record: &Record, request: &ValidateVolumeCapabilitiesRequest) -> Result<(), Error> {
    let writes = |capability| capability::check(capability).is_ok_and(|how| how.access == Access::ReadWrite);
    if record.read_only && request.volume_capabilities.iter().any(writes) {
        return Err(Error::Precondition("the volume is read-only".into()));
    }
    Ok(())
}

fn check_parameters(record: &Record, request: &ValidateVolumeCapabilitiesRequest) -> Result<(), Error> {
    if request.parameters.is_empty() {
        return Ok(());
    }
    let parsed = Parameters::parse(&record.name, &request.parameters)?;
    let id = VolumeId::parse(&request.volume_id)?;
    if parsed.share == id.share {
        Ok(())
    } else {
        Err(Error::Invalid("the volume is of another share".into()))
    }
}

fn check_reachable(share: &Share, wanted: Option<&TopologyRequirement>) -> Result<(), Error> {
    let requisite = wanted.map(|wanted| wanted.requisite.as_slice()).unwrap_or_default();
    if requisite.is_empty() || requisite.iter().any(|topology| admits(share, topology)) {
        return Ok(());
    }
    let node = share.spec.node.as_deref().unwrap_or_default();
    Err(Error::Exhausted(format!(
        "share {} is on node {node} only, which is none of the nodes asked for",
        share.name
    )))
}

/// A topology without our key says nothing against a node.
fn admits(share: &Share, topology: &Topology) -> bool {
    match (&share.spec.node, topology.segments.get(crate::TOPOLOGY)) {
        (Some(node), Some(asked)) => node == asked,
        _ => true,
    }
}

fn volume(share: &Share, id: &VolumeId, record: &Record) -> Volume {
    let segment = |node: &String| Topology { segments: [(crate::TOPOLOGY.to_owned(), node.clone())].into() };
    Volume {
        capacity_bytes: signed(record.capacity),
        volume_id: id.to_string(),
        accessible_topology: share.spec.node.iter().map(segment).collect(),
        ..Volume::default()
    }
}

fn capabilities() -> Vec<ControllerServiceCapability> {
    let offered = [
        rpc::Type::CreateDeleteVolume,
        rpc::Type::ListVolumes,
        rpc::Type::GetCapacity,
        rpc::Type::ExpandVolume,
        rpc::Type::GetVolume,
        rpc::Type::SingleNodeMultiWriter,
    ];
    let capability = |kind: rpc::Type| ControllerServiceCapability {
        r#type: Some(controller_service_capability::Type::Rpc(controller_service_capability::Rpc {
            r#type: kind.into(),
        })),
    };
    offered.into_iter().map(capability).collect()
}

fn not_offered<T>(what: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!("this driver does not offer {what}")))
}

#[tonic::async_trait]
impl Service for Controller {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        self.metrics.observe("CreateVolume", self.create(request.into_inner())).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        self.metrics.observe("DeleteVolume", self.delete(request.into_inner())).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        self.metrics.observe("ValidateVolumeCapabilities", self.validate(request.into_inner())).await
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        self.metrics.observe("ListVolumes", self.list(request.into_inner())).await
    }

    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        self.metrics.observe("GetCapacity", self.capacity(request.into_inner())).await
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities: capabilities() }))
    }

    async fn controller_publish_volume(
        &self,
        _: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        not_offered("ControllerPublishVolume")
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        not_offered("ControllerUnpublishVolume")
    }

    async fn create_snapshot(
        &self,
        _: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        not_offered("CreateSnapshot")
    }

    async fn delete_snapshot(
        &self,
        _: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        not_offered("DeleteSnapshot")
    }

    async fn list_snapshots(
        &self,
        _: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        not_offered("ListSnapshots")
    }

    async fn get_snapshot(
        &self,
        _: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        not_offered("GetSnapshot")
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        self.metrics.observe("ControllerExpandVolume", self.expand(request.into_inner())).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        self.metrics.observe("ControllerGetVolume", self.get(request.into_inner())).await
    }

    async fn controller_modify_volume(
        &self,
        _: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        not_offered("ControllerModifyVolume")
    }
}

#[cfg(test)]
#[path = "tests/controller.rs"]
mod tests;
