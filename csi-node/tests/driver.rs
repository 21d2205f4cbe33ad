//! The driver as an orchestrator meets it: calls on its socket, and real mounts.
//!
//! The mounts are made in a mount namespace of the test's own and go with it. Without root nothing is mounted, and
//! the tests that need it say so and pass.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use csi_node::id::{Uuid, VolumeId};
use csi_node::proto::csi::controller_client::ControllerClient;
use csi_node::proto::csi::identity_client::IdentityClient;
use csi_node::proto::csi::node_client::NodeClient;
use csi_node::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use csi_node::proto::csi::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, GetCapacityRequest, GetPluginInfoRequest,
    NodeGetInfoRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    ProbeRequest, ValidateVolumeCapabilitiesRequest, VolumeCapability,
};
use csi_node::proto::registration::registration_client::RegistrationClient;
use csi_node::proto::registration::{InfoRequest, RegistrationStatus};
use hyper_util::rt::TokioIo;
use rustix::mount::{MountPropagationFlags, mount_change};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// The binary on a share of its own.
struct Driver {
    base: TempDir,
    process: Child,
}

impl Driver {
    async fn start() -> Driver {
        let base = TempDir::new().unwrap();
        for name in ["share", "outside", "kubelet"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        fs::write(base.path().join("outside/secret"), "kept").unwrap();
        let process = spawn(base.path());
        let driver = Driver { base, process };
        driver.wait().await;
        driver
    }

    /// Until the socket answers.
    async fn wait(&self) {
        for _ in 0..600 {
            if UnixStream::connect(self.path("csi.sock")).await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the driver does not answer");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn share(&self, name: &str) -> PathBuf {
        self.path("share").join(name)
    }

    fn target(&self, name: &str) -> String {
        self.path("kubelet").join(name).to_str().unwrap().to_owned()
    }

    async fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(connect(self.path("csi.sock")).await)
    }

    async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(connect(self.path("csi.sock")).await)
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<String, Status> {
        let made = self.controller().await.create_volume(request).await?.into_inner();
        Ok(made.volume.unwrap().volume_id)
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.node().await.node_publish_volume(request).await.map(|_| ())
    }

    async fn unpublish(&self, id: &str, target: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: target.into() };
        self.node().await.node_unpublish_volume(request).await.map(|_| ())
    }

    /// That nothing outside the share was touched.
    fn outside_is_untouched(&self) -> bool {
        let names = |path: PathBuf| {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        let mut top = names(self.path(""));
        top.sort();
        names(self.path("outside")) == ["secret"]
            && fs::read_to_string(self.path("outside/secret")).unwrap() == "kept"
            && top == ["csi.sock", "kubelet", "outside", "registration", "share"]
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(base: &Path) -> Child {
    let path = |name: &str| base.join(name).to_str().unwrap().to_owned();
    Command::new(env!("CARGO_BIN_EXE_csi-node"))
        .args(["--role", "all", "--node-id", "n1"])
        .args(["--endpoint", &format!("unix://{}", path("csi.sock"))])
        .args(["--share", &format!("s=directory:{}", path("share"))])
        .args(["--kubelet-root", &path("kubelet"), "--registration-dir", &path("registration")])
        .env("RUST_LOG", "error")
        .spawn()
        .unwrap()
}

async fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://driver").connect_with_connector(connector).await.unwrap()
}

fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

fn wanted(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![capability(Mode::MultiNodeMultiWriter)],
        parameters: HashMap::from([("share".to_owned(), "s".to_owned())]),
        ..CreateVolumeRequest::default()
    }
}

fn with(name: &str, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    let mut request = wanted(name);
    request.parameters.extend(parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    request
}

fn publish(id: &str, target: &str) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: id.into(),
        target_path: target.into(),
        volume_capability: Some(capability(Mode::MultiNodeMultiWriter)),
        ..NodePublishVolumeRequest::default()
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: not root, so NOTHING was made or mounted");
    }
    root
}

/// This thread, and the driver that it starts, in a mount namespace that nobody else sees.
fn alone() {
    // Deprecated for what other flags do; a mount namespace alone is no matter of memory.
    #[allow(deprecated)]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    // As /var/lib/kubelet is: what is mounted below is seen by the host.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
}

/// The mounts of this thread's namespace at or below `path`: where, options, and of what.
fn mounts(path: &str) -> Vec<(String, String, String)> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields[4].starts_with(path))
        .map(|fields| (fields[4].into(), fields[5].into(), fields[3].into()))
        .collect()
}

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
    let socket = driver.path("registration/csi.lustre-bridge.io-reg.sock");
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
async fn a_volume_is_shown_and_taken_away() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let request = with("v", &[("uid", "1000"), ("gid", "1001"), ("mode", "0750")]);
    let id = driver.create(request.clone()).await.unwrap();
    assert_eq!(driver.create(request).await.unwrap(), id);
    let made = fs::metadata(driver.share("v")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1001, 0o750));
    let target = driver.target("pod1");
    for _ in 0..2 {
        driver.publish(publish(&id, &target)).await.unwrap();
        assert_eq!(mounts(&target).len(), 1);
    }
    fs::write(format!("{target}/file"), "seen").unwrap();
    assert_eq!(fs::read_to_string(driver.share("v/file")).unwrap(), "seen");
    let (_, options, root) = mounts(&target).remove(0);
    assert!(
        options.contains("nosuid") && options.contains("nodev") && root.ends_with("/share/v"),
        "{options} {root}"
    );
    // Another pod reads only; the first one still writes.
    let second = driver.target("pod2");
    let read_only = NodePublishVolumeRequest { readonly: true, ..publish(&id, &second) };
    driver.publish(read_only.clone()).await.unwrap();
    driver.publish(read_only).await.unwrap();
    assert_eq!(
        fs::write(format!("{second}/no"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    assert_eq!(driver.publish(publish(&id, &second)).await.unwrap_err().code(), Code::AlreadyExists);
    fs::write(format!("{target}/yes"), "").unwrap();
    stats_are_of_the_volume(&driver, &id, &target).await;
    for target in [&target, &second] {
        driver.unpublish(&id, target).await.unwrap();
        driver.unpublish(&id, target).await.unwrap();
        assert!(mounts(target).is_empty() && !Path::new(target).exists());
    }
    assert!(driver.share("v/file").exists());
}

async fn stats_are_of_the_volume(driver: &Driver, id: &str, target: &str) {
    let stats = |path: &str| NodeGetVolumeStatsRequest {
        volume_id: id.into(),
        volume_path: path.into(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let mut node = driver.node().await;
    let usage = node.node_get_volume_stats(stats(target)).await.unwrap().into_inner().usage;
    assert!(usage.len() == 2 && usage[0].total > 0 && usage[0].used <= usage[0].total);
    for elsewhere in [driver.target("nothing"), driver.target(""), "some/path".into()] {
        let error = node.node_get_volume_stats(stats(&elsewhere)).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{elsewhere}");
    }
}

#[tokio::test]
async fn a_restart_touches_no_mount() {
    if !is_root() {
        return;
    }
    alone();
    let mut driver = Driver::start().await;
    let id = driver.create(wanted("v")).await.unwrap();
    let target = driver.target("pod");
    driver.publish(publish(&id, &target)).await.unwrap();
    fs::write(format!("{target}/file"), "kept").unwrap();
    let before = mounts(&target);
    driver.process.kill().unwrap();
    driver.process.wait().unwrap();
    driver.process = spawn(driver.base.path());
    driver.wait().await;
    assert_eq!(mounts(&target), before);
    driver.publish(publish(&id, &target)).await.unwrap();
    assert_eq!(fs::read_to_string(format!("{target}/file")).unwrap(), "kept");
    assert_eq!(mounts(&target).len(), 1);
    driver.unpublish(&id, &target).await.unwrap();
}

#[tokio::test]
async fn a_volume_that_is_the_whole_share_hides_the_records() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    driver.create(wanted("v")).await.unwrap();
    let uuid = Uuid::of_name("whole");
    let record =
        r#"{"version":1,"kind":"grant","name":"a/b","path":"","capacity":0,"readOnly":false,"created":""}"#;
    fs::write(driver.share(&format!(".lb~dcsi/volumes/{uuid}.json")), record).unwrap();
    let id = VolumeId { share: "s".into(), uuid }.to_string();
    let target = driver.target("pod");
    for _ in 0..2 {
        driver.publish(publish(&id, &target)).await.unwrap();
        assert_eq!(mounts(&target).len(), 2);
    }
    assert!(Path::new(&format!("{target}/v")).exists());
    assert_eq!(fs::read_dir(format!("{target}/.lb~dcsi")).unwrap().count(), 0);
    assert!(fs::write(format!("{target}/.lb~dcsi/x"), "").is_err());
    assert!(fs::rename(format!("{target}/.lb~dcsi"), format!("{target}/moved")).is_err());
    // The cover is the volume's, not the share's.
    assert_eq!(fs::read_dir(driver.share(".lb~dcsi/volumes")).unwrap().count(), 2);
    let request = DeleteVolumeRequest { volume_id: id.clone(), ..DeleteVolumeRequest::default() };
    let error = driver.controller().await.delete_volume(request).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    driver.unpublish(&id, &target).await.unwrap();
    assert!(mounts(&target).is_empty() && driver.share("v").exists());
}

#[tokio::test]
async fn a_record_that_is_read_only_is_mounted_so() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    driver.create(wanted("v")).await.unwrap();
    let uuid = Uuid::of_name("reader");
    let record =
        r#"{"version":1,"kind":"grant","name":"a/b","path":"v","capacity":0,"readOnly":true,"created":""}"#;
    fs::write(driver.share(&format!(".lb~dcsi/volumes/{uuid}.json")), record).unwrap();
    let id = VolumeId { share: "s".into(), uuid }.to_string();
    let target = driver.target("pod");
    driver.publish(publish(&id, &target)).await.unwrap();
    assert_eq!(
        fs::write(format!("{target}/no"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    driver.unpublish(&id, &target).await.unwrap();
}

#[tokio::test]
async fn a_deleted_volume_is_removed_in_the_background() {
    if !is_root() {
        return;
    }
    let driver = Driver::start().await;
    let id = driver.create(with("v", &[("directoryTemplate", "team/${pv.name}")])).await.unwrap();
    fs::create_dir_all(driver.share("team/v/deep/er")).unwrap();
    symlink(driver.path("outside"), driver.share("team/v/link")).unwrap();
    let request = DeleteVolumeRequest { volume_id: id, ..DeleteVolumeRequest::default() };
    for _ in 0..2 {
        driver.controller().await.delete_volume(request.clone()).await.unwrap();
        assert!(!driver.share("team/v").exists());
    }
    while fs::read_dir(driver.share(".lb~dcsi/trash")).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(driver.outside_is_untouched());
}

#[tokio::test]
async fn space_is_that_of_the_share() {
    let driver = Driver::start().await;
    let answer = driver.controller().await.get_capacity(GetCapacityRequest::default()).await.unwrap();
    assert!(answer.into_inner().available_capacity > 0);
}
