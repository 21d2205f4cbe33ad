//! The driver as an orchestrator meets it: calls on its socket, good ones and bad ones.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use csi_node::id::Uuid;
use csi_node::proto::csi::identity_client::IdentityClient;
use csi_node::proto::csi::volume_capability::access_mode::Mode;
use csi_node::proto::csi::{
    CapacityRange, ControllerGetCapabilitiesRequest, CreateVolumeRequest, DeleteVolumeRequest,
    GetCapacityRequest, GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest,
    NodeGetInfoRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest, ProbeRequest,
    ValidateVolumeCapabilitiesRequest,
};
use csi_node::proto::registration::registration_client::RegistrationClient;
use csi_node::proto::registration::{InfoRequest, RegistrationStatus};
use harness::{Driver, capability, connect, is_root, publish, wanted, with};
use tonic::{Code, Status};

#[tokio::test]
async fn who_it_is_and_how_it_registers() {
    let driver = Driver::start().await;
    let mut identity = IdentityClient::new(connect(driver.path("csi.sock")).await);
    let info = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "csi.lustre-bridge.io");
    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    let info = driver.node().await.node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    let segments = info.accessible_topology.unwrap().segments;
    assert_eq!(
        (info.node_id.as_str(), segments["topology.csi.lustre-bridge.io/node"].as_str()),
        ("n1", "n1")
    );
    let socket = driver.path("registration/registration@csi.lustre-bridge.io.sock");
    let mut kubelet = RegistrationClient::new(connect(socket.clone()).await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.lustre-bridge.io"));
    assert_eq!(Path::new(&info.endpoint), driver.path("csi.sock"));
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    kubelet.notify_registration_status(status).await.unwrap();
    assert_eq!(fs::metadata(driver.path("csi.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    drop(kubelet);
    drop(identity);
    stop(driver, &socket).await;
}

#[tokio::test]
async fn what_it_offers_and_what_not() {
    let driver = Driver::start().await;
    let mut identity = IdentityClient::new(connect(driver.path("csi.sock")).await);
    let asked = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
    let offered = format!("{:?}", asked.into_inner().capabilities);
    for word in ["ControllerService", "VolumeAccessibilityConstraints", "Online"] {
        assert!(offered.contains(word), "{word}: {offered}");
    }
    let (mut controller, mut node) = (driver.controller().await, driver.node().await);
    let asked = controller.controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await.unwrap();
    let offered = format!("{:?}", asked.into_inner().capabilities);
    for word in ["CreateDeleteVolume", "ListVolumes", "GetCapacity", "ExpandVolume", "GetVolume"] {
        assert!(offered.contains(word), "{word}: {offered}");
    }
    let asked = node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await.unwrap();
    let offered = format!("{:?}", asked.into_inner().capabilities);
    for word in ["GetVolumeStats", "ExpandVolume", "SingleNodeMultiWriter"] {
        assert!(offered.contains(word), "{word}: {offered}");
    }
    assert!(!offered.contains("StageUnstage"), "{offered}");

    for (service, call) in [
        ("Controller", "ControllerPublishVolume"),
        ("Controller", "ControllerUnpublishVolume"),
        ("Controller", "CreateSnapshot"),
        ("Controller", "DeleteSnapshot"),
        ("Controller", "ListSnapshots"),
        ("Controller", "GetSnapshot"),
        ("Controller", "ControllerModifyVolume"),
        ("Node", "NodeStageVolume"),
        ("Node", "NodeUnstageVolume"),
    ] {
        let error = empty(&driver, &format!("/csi.v1.{service}/{call}")).await;
        assert_eq!(error.code(), Code::Unimplemented, "{call}");
        assert_eq!(error.message(), format!("this driver does not offer {call}"));
    }
}

/// What a call is answered whose request says nothing.
async fn empty(driver: &Driver, path: &str) -> Status {
    let mut client = tonic::client::Grpc::new(connect(driver.path("csi.sock")).await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.unary(tonic::Request::new(()), path.parse().unwrap(), codec).await.unwrap_err()
}

/// SIGTERM ends it at once, and well, and takes the kubelet's socket away.
async fn stop(mut driver: Driver, socket: &Path) {
    let pid = rustix::process::Pid::from_child(&driver.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || driver.process.wait().map(|status| (status, driver)));
    let (status, _driver) = ended.await.unwrap().unwrap();
    assert!(status.success() && !socket.exists());
}

#[tokio::test]
async fn bad_requests_get_the_code_of_the_specification() {
    let driver = Driver::start().await;
    let no_capability = CreateVolumeRequest { volume_capabilities: Vec::new(), ..wanted("v") };
    let range = |required_bytes, limit_bytes| CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes, limit_bytes }),
        ..wanted("v")
    };
    for (request, code) in [
        (wanted(""), Code::InvalidArgument),
        (wanted(&"n".repeat(4096)), Code::InvalidArgument),
        (wanted("a\0b"), Code::InvalidArgument),
        (wanted("a/b"), Code::InvalidArgument),
        (wanted(".."), Code::InvalidArgument),
        (wanted("/etc"), Code::InvalidArgument),
        (wanted(".lb~dcsi"), Code::InvalidArgument),
        (no_capability, Code::InvalidArgument),
        (with("v", &[("share", "other")]), Code::InvalidArgument),
        (with("v", &[("share", "../s")]), Code::InvalidArgument),
        (with("v", &[("stripeCount", "4")]), Code::InvalidArgument),
        (with("v", &[("directoryTemplate", "../outside/${pv.name}")]), Code::InvalidArgument),
        (with("v", &[("directoryTemplate", "/${pv.name}")]), Code::InvalidArgument),
        (with("v", &[("directoryTemplate", "fixed")]), Code::InvalidArgument),
        (with("v", &[("csi.storage.k8s.io/pv/name", "../../outside/v")]), Code::InvalidArgument),
        (with("v", &[("mode", "rwx")]), Code::InvalidArgument),
        (range(-1, 0), Code::InvalidArgument),
        (range(0, -1), Code::InvalidArgument),
        // 16 EiB is more than the field holds, and arrives as what is left of it.
        (range((1_u128 << 64) as i64 - 1, 0), Code::InvalidArgument),
        (range(i64::MAX, 0), Code::OutOfRange),
        (range(2, 1), Code::OutOfRange),
    ] {
        let error = driver.create(request.clone()).await.unwrap_err();
        assert_eq!(error.code(), code, "{request:?}: {error}");
        assert!(!error.message().is_empty());
    }
    assert_eq!(fs::read_dir(driver.path("share")).unwrap().count(), 0);
    assert!(driver.outside_is_untouched());
}

#[tokio::test]
async fn a_name_that_is_not_text_is_refused() {
    let driver = Driver::start().await;
    let mut client = tonic::client::Grpc::new(connect(driver.path("csi.sock")).await);
    client.ready().await.unwrap();
    // CreateVolumeRequest with a name of the bytes ff fe, which no string may have.
    let path = http::uri::PathAndQuery::from_static("/csi.v1.Controller/CreateVolume");
    let request = tonic::Request::new(NotText { name: vec![0xff, 0xfe] });
    let codec = tonic_prost::ProstCodec::<NotText, csi_node::proto::csi::CreateVolumeResponse>::default();
    let error = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    assert_eq!(fs::read_dir(driver.path("share")).unwrap().count(), 0);
}

/// The first field of a request as bytes instead of text.
#[derive(Clone, PartialEq, prost::Message)]
struct NotText {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
}

#[tokio::test]
async fn ids_of_others_name_nothing() {
    let driver = Driver::start().await;
    let uuid = Uuid::of_name("x");
    let (mut controller, mut node) = (driver.controller().await, driver.node().await);
    for id in
        ["other-volume", "s/../../outside", "../outside", "s\0/x", &format!("t/{uuid}"), &format!("s/{uuid}")]
    {
        let error = driver.publish(publish(id, &driver.target("t"))).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{id}");
        let request = NodeGetVolumeStatsRequest {
            volume_id: id.into(),
            volume_path: driver.target("t"),
            ..NodeGetVolumeStatsRequest::default()
        };
        assert_eq!(node.node_get_volume_stats(request).await.unwrap_err().code(), Code::NotFound, "{id}");
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.into(),
            volume_capabilities: vec![capability(Mode::MultiNodeMultiWriter)],
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        assert_eq!(
            controller.validate_volume_capabilities(request).await.unwrap_err().code(),
            Code::NotFound
        );
    }
    let request = DeleteVolumeRequest { volume_id: "other-volume".into(), ..DeleteVolumeRequest::default() };
    controller.delete_volume(request).await.unwrap();
    assert!(driver.outside_is_untouched() && !Path::new(&driver.target("t")).exists());
}

#[tokio::test]
async fn planted_links_and_edited_contexts() {
    if !is_root() {
        return;
    }
    let driver = Driver::start().await;
    symlink(driver.path("outside"), driver.share("team")).unwrap();
    let error = driver.create(with("v", &[("directoryTemplate", "team/${pv.name}")])).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    let id = driver.create(wanted("v")).await.unwrap();
    let context = |key: &str, value: &str| NodePublishVolumeRequest {
        volume_context: HashMap::from([(key.to_owned(), value.to_owned())]),
        ..publish(&id, &driver.target("t"))
    };
    for edited in [
        context("path", "../outside"),
        context("share", "t"),
        context("csi.storage.k8s.io/ephemeral", "true"),
    ] {
        assert_eq!(driver.publish(edited).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // The volume's own directory becomes a link.
    fs::remove_dir(driver.share("v")).unwrap();
    symlink(driver.path("outside"), driver.share("v")).unwrap();
    let error = driver.publish(publish(&id, &driver.target("t"))).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    for target in ["", "t", "../t", "/etc/t", &format!("{}/../../outside/t", driver.target("a"))] {
        assert_eq!(
            driver.publish(publish(&id, target)).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{target}"
        );
        assert_eq!(
            driver.unpublish(&id, target).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{target}"
        );
    }
    assert!(driver.outside_is_untouched());
}

#[tokio::test]
async fn space_is_that_of_the_share() {
    let driver = Driver::start().await;
    let answer = driver.controller().await.get_capacity(GetCapacityRequest::default()).await.unwrap();
    assert!(answer.into_inner().available_capacity > 0);
}

#[tokio::test]
async fn calls_at_once_do_not_interleave() {
    if !is_root() {
        return;
    }
    let driver = Driver::start().await;
    let many = (0..64)
        .map(|at| driver.create(with(&format!("v{}", at % 8), &[("directoryTemplate", "a/${pv.name}")])));
    let made = futures::future::join_all(many).await;
    for (at, made) in made.into_iter().enumerate() {
        match made {
            Ok(id) => assert_eq!(id, format!("s/{}", Uuid::of_name(&format!("v{}", at % 8)))),
            Err(error) => assert_eq!(error.code(), Code::Aborted, "{error}"),
        }
    }
    assert_eq!(fs::read_dir(driver.share("a")).unwrap().count(), 8);
    assert_eq!(fs::read_dir(driver.share(".lb~dcsi/volumes")).unwrap().count(), 8);
    assert_eq!(fs::read_dir(driver.share(".lb~dcsi/new")).unwrap().count(), 0);
}
