//! Disks as an orchestrator and two nodes meet them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use csi_node::proto::csi::volume_capability::{AccessType, BlockVolume, access_mode::Mode};
use csi_node::proto::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetVolumeRequest, CreateVolumeRequest,
    DeleteVolumeRequest, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    VolumeCapability,
};
use harness::{Driver, alone, capability, is_root, publish, spawn_as, with};
use tonic::Code;

const MI: i64 = 1 << 20;

fn block(mode: Mode) -> VolumeCapability {
    VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..capability(mode) }
}

fn disk(name: &str, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    let class = [&[("type", "disk"), ("uid", "0"), ("gid", "0")], parameters].concat();
    CreateVolumeRequest {
        capacity_range: Some(bytes(8 * MI - 1)),
        volume_capabilities: vec![block(Mode::SingleNodeWriter), capability(Mode::SingleNodeWriter)],
        ..with(name, &class)
    }
}

fn at(id: &str, target: &str, how: VolumeCapability) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest { volume_capability: Some(how), ..publish(id, target) }
}

fn bytes(required_bytes: i64) -> CapacityRange {
    CapacityRange { required_bytes, limit_bytes: 0 }
}

#[tokio::test]
async fn a_disk_is_a_file_in_a_directory_and_a_block_device() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let id = driver.create(disk("vm", &[])).await.unwrap();
    let file = driver.share("vm/disk.img");
    assert_eq!(fs::metadata(&file).unwrap().len(), 8 << 20);
    let (device, directory) = (driver.target("device"), driver.target("directory"));
    driver.publish(at(&id, &device, block(Mode::SingleNodeWriter))).await.unwrap();
    driver.publish(at(&id, &device, block(Mode::SingleNodeWriter))).await.unwrap();
    driver.publish(at(&id, &directory, capability(Mode::SingleNodeWriter))).await.unwrap();
    assert!(fs::metadata(&device).unwrap().file_type().is_block_device());
    let mut open = fs::File::options().read(true).write(true).open(&device).unwrap();
    open.write_all(&[7; 4096]).unwrap();
    open.sync_all().unwrap();
    assert_eq!(fs::read(format!("{directory}/disk.img")).unwrap()[..4096], [7; 4096]);

    let stats = |path: &str| NodeGetVolumeStatsRequest {
        volume_id: id.clone(),
        volume_path: path.into(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let seen = driver.node().await.node_get_volume_stats(stats(&device)).await.unwrap().into_inner();
    assert_eq!(seen.usage[0].total, 8 * MI);
    assert_eq!(
        driver.node().await.node_get_volume_stats(stats(&driver.target("no"))).await.unwrap_err().code(),
        Code::NotFound
    );

    let expand = ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: Some(bytes(16 * MI)),
        ..ControllerExpandVolumeRequest::default()
    };
    let grown = driver.controller().await.controller_expand_volume(expand).await.unwrap().into_inner();
    assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (16 * MI, true));
    let expand = |required| NodeExpandVolumeRequest {
        volume_id: id.clone(),
        volume_path: device.clone(),
        capacity_range: Some(bytes(required)),
        ..NodeExpandVolumeRequest::default()
    };
    driver.node().await.node_expand_volume(expand(16 * MI)).await.unwrap();
    assert_eq!(open.seek(SeekFrom::End(0)).unwrap(), 16 << 20);
    let error = driver.node().await.node_expand_volume(expand(32 * MI)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    let get = ControllerGetVolumeRequest { volume_id: id.clone() };
    let got = driver.controller().await.controller_get_volume(get).await.unwrap().into_inner();
    assert_eq!(got.volume.unwrap().capacity_bytes, 16 * MI);
    drop(open);

    let delete = || DeleteVolumeRequest { volume_id: id.clone(), ..DeleteVolumeRequest::default() };
    let used = driver.controller().await.delete_volume(delete()).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);
    for target in [&device, &directory] {
        driver.unpublish(&id, target).await.unwrap();
        driver.unpublish(&id, target).await.unwrap();
        assert!(!fs::exists(target).unwrap());
    }
    driver.controller().await.delete_volume(delete()).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test]
async fn a_directory_is_no_block_device() {
    if !is_root() {
        return;
    }
    let driver = Driver::start().await;
    let id = driver.create(with("v", &[])).await.unwrap();
    let refused = driver.publish(at(&id, &driver.target("t"), block(Mode::SingleNodeWriter))).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let block_directory =
        CreateVolumeRequest { volume_capabilities: vec![block(Mode::SingleNodeWriter)], ..with("b", &[]) };
    assert_eq!(driver.create(block_directory).await.unwrap_err().code(), Code::InvalidArgument);
    let sized = CreateVolumeRequest { capacity_range: Some(bytes(MI)), ..with("s", &[]) };
    let refused = driver.create(sized).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("advisory"), "{refused}");
}

#[tokio::test]
async fn a_volume_for_one_pod_is_shown_once() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let id = driver.create(with("v", &[])).await.unwrap();
    let (one, other) = (driver.target("one"), driver.target("other"));
    let alone = |target: &str| at(&id, target, capability(Mode::SingleNodeSingleWriter));
    driver.publish(alone(&one)).await.unwrap();
    driver.publish(alone(&one)).await.unwrap();
    let refused = driver.publish(alone(&other)).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(&one), "{refused}");
    driver.unpublish(&id, &one).await.unwrap();
    driver.publish(alone(&other)).await.unwrap();
    driver.unpublish(&id, &other).await.unwrap();
}

#[tokio::test]
async fn two_nodes_never_write_to_one_disk() {
    if !is_root() {
        return;
    }
    alone();
    let mut one = Driver::start().await;
    let other = Driver::beside(&one, "n2").await;
    let id = one.create(disk("vm", &[])).await.unwrap();
    let target = one.target("vm");
    let there = other.target("vm-elsewhere");
    let writes = |target: &str| at(&id, target, block(Mode::SingleNodeWriter));
    one.publish(writes(&target)).await.unwrap();
    let refused = other.publish(writes(&there)).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("node n1"), "{refused}");
    // Who reads only may, and who shares the disk sees to that itself.
    other.publish(at(&id, &there, capability(Mode::MultiNodeMultiWriter))).await.unwrap();
    other.unpublish(&id, &there).await.unwrap();

    // What could not be published is not kept either.
    let occupied = other.target("occupied");
    fs::create_dir(&occupied).unwrap();
    one.unpublish(&id, &target).await.unwrap();
    assert!(other.publish(writes(&occupied)).await.is_err());
    one.publish(writes(&target)).await.unwrap();

    // A restart gives nothing away, and what is mounted stays.
    one.process.kill().unwrap();
    one.process.wait().unwrap();
    one.process = spawn_as(one.base.path(), "n1", "csi.sock");
    one.wait().await;
    let mut first = [1; 512];
    fs::File::open(&target).unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, [0; 512]);
    one.publish(writes(&target)).await.unwrap();
    assert!(other.publish(writes(&there)).await.is_err());

    // The node dies.
    one.process.kill().unwrap();
    one.process.wait().unwrap();
    other.publish(writes(&there)).await.unwrap();
    one.process = spawn_as(one.base.path(), "n1", "csi.sock");
    one.wait().await;
    let refused = one.publish(writes(&one.target("again"))).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("node n2"), "{refused}");
    // In order, it goes from one to the other at once.
    other.unpublish(&id, &there).await.unwrap();
    one.unpublish(&id, &target).await.unwrap();
    one.publish(writes(&target)).await.unwrap();
    one.unpublish(&id, &target).await.unwrap();
    let lease = fs::read_dir(one.share(".lb~dcsi/leases")).unwrap().next().unwrap().unwrap();
    assert_eq!(lease.metadata().unwrap().mode() & 0o777, 0o600);
}
