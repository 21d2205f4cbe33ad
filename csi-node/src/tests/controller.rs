//! What the controller answers, of shares on a real directory: two of this node, one of another.

use std::fs;

use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::path::SubPath;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::proto::csi::volume_content_source::{self, VolumeSource};
use crate::proto::csi::{CapacityRange, VolumeCapability, VolumeContentSource};
use crate::share::{Named, Spec};

struct Place {
    base: TempDir,
    shares: Shares,
    controller: Controller,
}

fn place() -> Place {
    let base = TempDir::new().unwrap();
    let shares = Shares::unknown(base.path());
    let spec = |name: &str, node: Option<&str>| {
        fs::create_dir(base.path().join(name)).unwrap();
        let named: Named = format!("{name}=directory:/{name}").parse().unwrap();
        (named.name, Spec { node: node.map(str::to_owned), ..named.spec })
    };
    shares.replace([spec("a", None), spec("away", Some("n2")), spec("b", Some("n1"))]);
    let janitor = Janitor::new(shares.clone());
    let controller = Controller::new(shares.clone(), "n1", janitor, Metrics::default());
    Place { base, shares, controller }
}

impl Place {
    async fn create(&self, name: &str, share: &str, more: &[(&str, &str)]) -> Result<Volume, Error> {
        self.controller.create(wanted(name, share, more)).await.map(|made| made.volume.unwrap())
    }

    async fn list(&self, max_entries: i32, token: &str) -> Result<ListVolumesResponse, Error> {
        self.controller.list(ListVolumesRequest { max_entries, starting_token: token.into() }).await
    }

    /// The ids on all pages of this many, and how many pages there were.
    async fn pages(&self, of: i32) -> (Vec<String>, usize) {
        let (mut ids, mut pages, mut token) = (Vec::new(), 0, String::new());
        loop {
            let page = self.list(of, &token).await.unwrap();
            assert!(of == 0 || page.entries.len() <= of as usize);
            ids.extend(page.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id));
            pages += 1;
            token = page.next_token;
            if token.is_empty() {
                return (ids, pages);
            }
        }
    }

    /// Why a volume cannot be used so; empty if it can.
    async fn judged(&self, request: ValidateVolumeCapabilitiesRequest) -> String {
        let answer = self.controller.validate(request).await.unwrap();
        assert_eq!(answer.confirmed.is_some(), answer.message.is_empty());
        answer.message
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A directory that belongs to whoever runs the test.
fn wanted(name: &str, share: &str, more: &[(&str, &str)]) -> CreateVolumeRequest {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let gid = rustix::process::getegid().as_raw().to_string();
    let mut parameters = map(&[("share", share), ("uid", &uid), ("gid", &gid), ("quota", "advisory")]);
    parameters.extend(map(more));
    CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![mount(Mode::MultiNodeMultiWriter)],
        parameters,
        ..CreateVolumeRequest::default()
    }
}

fn mount(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

fn on_node(node: &str) -> Topology {
    Topology { segments: map(&[(crate::TOPOLOGY, node)]) }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: Code, word: &str) {
    let error = result.unwrap_err();
    assert!(error.code() == code && error.to_string().contains(word), "{word}: {error}");
}

fn nothing() -> VolumeId {
    VolumeId { share: "a".into(), uuid: Uuid::of_name("nothing") }
}

#[tokio::test]
async fn every_volume_is_on_one_page() {
    let place = place();
    assert_eq!(place.pages(2).await, (Vec::new(), 1));
    let mut made = Vec::new();
    for (name, share) in [("1", "a"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "b")] {
        made.push(place.create(name, share, &[]).await.unwrap().volume_id);
    }
    made.sort();
    for (of, pages) in [(0, 1), (5, 1), (4, 2), (2, 3), (1, 5)] {
        assert_eq!(place.pages(of).await, (made.clone(), pages), "{of}");
    }
    // What a page ended with may go before the next is asked for.
    let first = place.list(2, "").await.unwrap();
    let gone = first.next_token.clone();
    assert_eq!(gone, made[1]);
    place
        .controller
        .delete(DeleteVolumeRequest { volume_id: gone.clone(), ..Default::default() })
        .await
        .unwrap();
    let second = place.list(2, &gone).await.unwrap();
    assert_eq!(second.entries[0].volume.as_ref().unwrap().volume_id, made[2]);
    // A damaged record hides its own volume only.
    let record = made[2].trim_start_matches("a/");
    let path = place.base.path().join(format!("a/.lb~dcsi/volumes/{record}.json"));
    assert!(path.exists());
    fs::write(path, "{").unwrap();
    assert_eq!(place.pages(0).await.0, [&made[..1], &made[3..]].concat());
}

#[tokio::test]
async fn pages_that_cannot_be_are_refused() {
    let place = place();
    refused(place.list(-1, "").await, Code::InvalidArgument, "max_entries is -1");
    for token in ["x", "a/../b", &format!("/{}", Uuid::of_name("v"))] {
        refused(place.list(0, token).await, Code::Aborted, "starting_token");
    }
    let unknown = Shares::unknown("/");
    let janitor = Janitor::new(unknown.clone());
    let controller = Controller::new(unknown, "n1", janitor, Metrics::default());
    refused(controller.list(ListVolumesRequest::default()).await, Code::Unavailable, "not known yet");
}

#[tokio::test]
async fn a_volume_is_shown_as_it_is() {
    let place = place();
    let request = CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: 4096, limit_bytes: 0 }),
        ..wanted("v", "b", &[])
    };
    let made = place.controller.create(request).await.unwrap().volume.unwrap();
    assert_eq!((made.capacity_bytes, &made.accessible_topology), (4096, &vec![on_node("n1")]));
    let get = async |id: &str| {
        let request = ControllerGetVolumeRequest { volume_id: id.into() };
        place.controller.get(request).await.map(|got| got.volume.unwrap())
    };
    assert_eq!(get(&made.volume_id).await.unwrap(), made);
    refused(get("").await, Code::InvalidArgument, "volume_id is missing");
    refused(get("v").await, Code::NotFound, "no volume id of this driver");
    refused(get(&nothing().to_string()).await, Code::NotFound, "no volume");
    refused(get(&format!("c/{}", nothing().uuid)).await, Code::NotFound, "no share \"c\"");
    refused(get(&format!("away/{}", nothing().uuid)).await, Code::Unavailable, "on node n2 only");
}

#[tokio::test]
async fn a_volume_is_made_where_it_can_be() {
    let place = place();
    refused(place.create("v", "away", &[]).await, Code::Unavailable, "this is the driver of node n1");
    refused(place.create("v", "c", &[]).await, Code::InvalidArgument, "there is no share \"c\"");
    let reachable = |share: &str, requisite: Vec<Topology>| CreateVolumeRequest {
        accessibility_requirements: Some(TopologyRequirement { requisite, preferred: Vec::new() }),
        ..wanted("v", share, &[])
    };
    let elsewhere = reachable("b", vec![on_node("n2"), on_node("n3")]);
    refused(place.controller.create(elsewhere).await, Code::ResourceExhausted, "share b is on node n1 only");
    for right in [
        reachable("b", vec![on_node("n2"), on_node("n1")]),
        // What is of another driver says nothing against a node.
        reachable("b", vec![Topology { segments: map(&[("zone", "z")]) }]),
    ] {
        place.controller.create(right).await.unwrap();
    }
    place.controller.create(reachable("a", vec![on_node("n2")])).await.unwrap();
    assert!(fs::read_dir(place.base.path().join("away")).unwrap().next().is_none());
}

#[tokio::test]
async fn what_is_not_offered_is_not_left_out() {
    let place = place();
    let source = VolumeSource { volume_id: nothing().to_string() };
    let source = VolumeContentSource { r#type: Some(volume_content_source::Type::Volume(source)) };
    let clone = CreateVolumeRequest { volume_content_source: Some(source), ..wanted("v", "a", &[]) };
    refused(place.controller.create(clone).await, Code::InvalidArgument, "from snapshots or other volumes");
    let mutable = CreateVolumeRequest { mutable_parameters: map(&[("x", "y")]), ..wanted("v", "a", &[]) };
    refused(place.controller.create(mutable).await, Code::InvalidArgument, "no mutable parameters");
    let mounted = |mount: MountVolume| CreateVolumeRequest {
        volume_capabilities: vec![VolumeCapability {
            access_type: Some(AccessType::Mount(mount)),
            access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
        }],
        ..wanted("v", "a", &[])
    };
    for (mount, word) in [
        (MountVolume { fs_type: "xfs".into(), ..Default::default() }, "fs_type \"xfs\""),
        (MountVolume { mount_flags: vec!["noatime".into()], ..Default::default() }, "mount options"),
        (MountVolume { volume_mount_group: "100".into(), ..Default::default() }, "volume_mount_group"),
    ] {
        refused(place.controller.create(mounted(mount)).await, Code::InvalidArgument, word);
    }
    for (unclear, word) in [
        (
            VolumeCapability { access_type: None, ..mount(Mode::MultiNodeMultiWriter) },
            "access_type is missing",
        ),
        (mount(Mode::Unknown), "access_mode is missing"),
        (VolumeCapability { access_mode: None, ..mount(Mode::Unknown) }, "access_mode is missing"),
    ] {
        let request = CreateVolumeRequest { volume_capabilities: vec![unclear], ..wanted("v", "a", &[]) };
        refused(place.controller.create(request).await, Code::InvalidArgument, word);
    }
    assert!(fs::read_dir(place.base.path().join("a")).unwrap().next().is_none());
}

#[tokio::test]
async fn how_a_volume_can_be_used_is_judged() {
    let place = place();
    let id = place.create("v", "a", &[]).await.unwrap().volume_id;
    let asked = |how: VolumeCapability| ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![how],
        ..Default::default()
    };
    let many = || asked(mount(Mode::MultiNodeMultiWriter));
    let with =
        |pairs: &[(&str, &str)]| ValidateVolumeCapabilitiesRequest { parameters: map(pairs), ..many() };
    assert_eq!(place.judged(many()).await, "");
    assert_eq!(place.judged(with(&[("share", "a")])).await, "");
    assert_eq!(place.judged(with(&[("share", "b")])).await, "the volume is of another share");
    assert!(
        place.judged(with(&[("share", "a"), ("stripes", "4")])).await.contains("unknown parameters: stripes")
    );
    let access_type = Some(AccessType::Block(BlockVolume {}));
    let block = VolumeCapability { access_type, ..mount(Mode::SingleNodeWriter) };
    assert!(place.judged(asked(block)).await.contains("no block device"));
    let context = ValidateVolumeCapabilitiesRequest { volume_context: map(&[("path", "../x")]), ..many() };
    assert!(place.judged(context).await.contains("volume_context has path"));

    refused(
        place
            .controller
            .validate(ValidateVolumeCapabilitiesRequest { volume_id: id.clone(), ..Default::default() })
            .await,
        Code::InvalidArgument,
        "volume_capabilities is missing",
    );
    let gone = ValidateVolumeCapabilitiesRequest { volume_id: nothing().to_string(), ..many() };
    refused(place.controller.validate(gone).await, Code::NotFound, "no volume");
}

#[tokio::test]
async fn a_grant_to_read_is_not_for_writers_and_has_no_size() {
    let place = place();
    let id = nothing();
    let uuid = id.uuid.clone();
    let grant = move |tree: &Tree| volumes::grant(tree, &uuid, "team-a/a", &SubPath::share(), true);
    place.shares.of_volume(&id).unwrap().run(grant).await.unwrap();
    let asked = |mode: Mode| ValidateVolumeCapabilitiesRequest {
        volume_id: id.to_string(),
        volume_capabilities: vec![mount(mode)],
        ..Default::default()
    };
    assert_eq!(place.judged(asked(Mode::MultiNodeReaderOnly)).await, "");
    assert_eq!(place.judged(asked(Mode::MultiNodeMultiWriter)).await, "the volume is read-only");
    let request = ControllerExpandVolumeRequest {
        volume_id: id.to_string(),
        capacity_range: Some(CapacityRange { required_bytes: 4096, limit_bytes: 0 }),
        ..Default::default()
    };
    refused(place.controller.expand(request).await, Code::InvalidArgument, "has no size");
}

#[tokio::test]
async fn a_volume_becomes_larger_and_never_smaller() {
    let place = place();
    let id = place.create("v", "a", &[]).await.unwrap().volume_id;
    let expand = async |capacity_range: Option<CapacityRange>| {
        let request =
            ControllerExpandVolumeRequest { volume_id: id.clone(), capacity_range, ..Default::default() };
        place.controller.expand(request).await
    };
    let range = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    let grown = expand(range(8192, 0)).await.unwrap();
    assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (8192, false));
    assert_eq!(expand(range(4096, 0)).await.unwrap().capacity_bytes, 8192);
    refused(expand(range(0, 4096)).await, Code::OutOfRange, "cannot become smaller");
    refused(expand(None).await, Code::InvalidArgument, "capacity_range is missing");
    refused(expand(range(2, 1)).await, Code::OutOfRange, "more than limit_bytes");
}

#[tokio::test]
async fn only_what_is_there_is_deleted() {
    let place = place();
    let delete = async |id: &str| {
        place.controller.delete(DeleteVolumeRequest { volume_id: id.into(), ..Default::default() }).await
    };
    refused(delete("").await, Code::InvalidArgument, "volume_id is missing");
    for nothing in ["of-another-driver", &nothing().to_string()] {
        delete(nothing).await.unwrap();
    }
    refused(delete(&format!("away/{}", nothing().uuid)).await, Code::Unavailable, "on node n2 only");
    // A share that is not there now may come back, and its volume's files with it.
    let of_no_share = format!("c/{}", nothing().uuid);
    refused(delete(&of_no_share).await, Code::FailedPrecondition, "share \"c\" is not there");
}

#[tokio::test]
async fn space_is_asked_of_one_share() {
    let place = place();
    let ask = async |parameters: &[(&str, &str)], how: Vec<VolumeCapability>, node: Option<&str>| {
        let request = GetCapacityRequest {
            parameters: map(parameters),
            volume_capabilities: how,
            accessible_topology: node.map(on_node),
        };
        place.controller.capacity(request).await.map(|answer| answer.available_capacity)
    };
    assert!(ask(&[("share", "b")], vec![mount(Mode::SingleNodeWriter)], Some("n1")).await.unwrap() > 0);
    assert_eq!(ask(&[("share", "b")], Vec::new(), Some("n2")).await.unwrap(), 0);
    assert_eq!(ask(&[("share", "away")], Vec::new(), None).await.unwrap(), 0);
    assert_eq!(ask(&[("share", "a")], vec![mount(Mode::Unknown)], None).await.unwrap(), 0);
    refused(ask(&[], Vec::new(), None).await, Code::InvalidArgument, "the parameter share is missing");
    refused(ask(&[("share", "c")], Vec::new(), None).await, Code::InvalidArgument, "no share \"c\"");
    refused(ask(&[("shar", "a")], Vec::new(), None).await, Code::InvalidArgument, "unknown parameters: shar");
}
