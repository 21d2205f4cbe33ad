//! Volumes whose size is held by a file system of their own: real images, mounts and loop devices, in a mount
//! namespace of the test's own.
//!
//! Without root nothing is made, and the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use csi_node::proto::csi::volume_capability::access_mode::Mode;
use csi_node::proto::csi::volume_capability::{AccessType, BlockVolume};
use csi_node::proto::csi::{
    CapacityRange, ControllerExpandVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
    NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    ValidateVolumeCapabilitiesRequest, VolumeCapability,
};
use harness::{Driver, alone, capability, is_root, mounts, publish, with};
use tonic::{Code, Status};

const MI: u64 = 1 << 20;
/// What the kernel keeps for itself, and what the next piece of an inode table may make of a size.
const MORE: u64 = 3 * MI;

fn bytes(required: u64) -> CapacityRange {
    CapacityRange { required_bytes: required as i64, limit_bytes: 0 }
}

fn image(name: &str, size: u64, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    CreateVolumeRequest {
        capacity_range: Some(bytes(size)),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        ..with(name, &[&[("quota", "image")], parameters].concat())
    }
}

fn at(id: &str, target: &str, mode: Mode) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest { volume_capability: Some(capability(mode)), ..publish(id, target) }
}

fn writes(id: &str, target: &str) -> NodePublishVolumeRequest {
    at(id, target, Mode::SingleNodeWriter)
}

fn delete(id: &str) -> DeleteVolumeRequest {
    DeleteVolumeRequest { volume_id: id.into(), ..DeleteVolumeRequest::default() }
}

/// What `df` says: all of it, and what may be taken.
fn space(path: &str) -> (u64, u64) {
    let space = lustre::sys::statfs(File::open(path).unwrap().as_fd()).unwrap();
    (space.total, space.available)
}

/// That there is as much as was asked for, and little more.
fn is_about(path: &str, size: u64) {
    let (total, available) = space(path);
    assert!(available >= size && total <= size + size / 20 + MORE, "{size}: {total} of which {available}");
}

fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How many loop devices have an image of the driver's share.
fn attached(driver: &Driver) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let file = |device: PathBuf| fs::read_to_string(device.join("loop/backing_file")).ok();
    devices
        .filter_map(file)
        .filter(|file| Path::new(file.trim_end()).starts_with(driver.path("share")))
        .count()
}

/// Whether this process, and the driver that it starts, may grow a file system that is mounted.
fn may_resize() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may = u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << 24 != 0;
    if !may {
        eprintln!("SKIPPED: no CAP_SYS_RESOURCE, so nothing grew while it was mounted");
    }
    may
}

async fn expand(driver: &Driver, id: &str, size: u64) {
    let request = ControllerExpandVolumeRequest {
        volume_id: id.into(),
        capacity_range: Some(bytes(size)),
        ..ControllerExpandVolumeRequest::default()
    };
    let grown = driver.controller().await.controller_expand_volume(request).await.unwrap().into_inner();
    assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (size as i64, true));
}

async fn expand_here(driver: &Driver, id: &str, target: &str, size: u64) -> Result<i64, Status> {
    let request = NodeExpandVolumeRequest {
        volume_id: id.into(),
        volume_path: target.into(),
        capacity_range: Some(bytes(size)),
        ..NodeExpandVolumeRequest::default()
    };
    Ok(driver.node().await.node_expand_volume(request).await?.into_inner().capacity_bytes)
}

#[tokio::test]
async fn a_size_is_held_and_shown() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let class = [("uid", "1000"), ("gid", "1001"), ("mode", "2770")];
    let id = driver.create(image("v", 32 * MI - 1, &class)).await.unwrap();
    assert_eq!(driver.create(image("v", 32 * MI - 1, &class)).await.unwrap(), id);
    let target = driver.target("pod");
    for _ in 0..2 {
        driver.publish(writes(&id, &target)).await.unwrap();
        assert_eq!((mounts(&target).len(), attached(&driver)), (1, 1));
    }
    let (_, options, root) = mounts(&target).remove(0);
    assert!(options.contains("nosuid") && options.contains("nodev") && root == "/volume", "{options} {root}");
    let is = fs::metadata(&target).unwrap();
    assert_eq!((is.uid(), is.gid(), is.mode() & 0o7777), (1000, 1001, 0o2770));
    assert!(names(&target).is_empty(), "{:?}", names(&target));
    is_about(&target, 32 * MI);
    let request = NodeGetVolumeStatsRequest {
        volume_id: id.clone(),
        volume_path: target.clone(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let usage = driver.node().await.node_get_volume_stats(request).await.unwrap().into_inner().usage;
    assert_eq!((usage.len(), usage[0].total as u64), (2, space(&target).0));

    let mut file = File::create(format!("{target}/file")).unwrap();
    let piece = vec![7; MI as usize];
    let mut written = 0;
    let error = loop {
        match file.write_all(&piece).and_then(|()| file.sync_all()) {
            Ok(()) => written += MI,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!((31 * MI..32 * MI + MORE).contains(&written), "{written}");
    drop(file);

    driver.unpublish(&id, &target).await.unwrap();
    driver.unpublish(&id, &target).await.unwrap();
    assert!(attached(&driver) == 0 && mounts(&target).is_empty() && !Path::new(&target).exists());
    let image = driver.share(&format!(".lb~dcsi/images/{}.img", id.split_once('/').unwrap().1));
    let checked = Command::new("e2fsck").arg("-fn").arg(&image).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    driver.publish(writes(&id, &target)).await.unwrap();
    assert!(fs::metadata(format!("{target}/file")).unwrap().len() >= written);
    let used = driver.controller().await.delete_volume(delete(&id)).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);
    driver.unpublish(&id, &target).await.unwrap();
    driver.controller().await.delete_volume(delete(&id)).await.unwrap();
    assert!(!image.exists() && !driver.share("v").exists());
}

#[tokio::test]
async fn pods_of_one_node_have_one_file_system() {
    if !is_root() {
        return;
    }
    alone();
    let mut driver = Driver::start_on_host().await;
    let id = driver.create(image("v", 16 * MI, &[])).await.unwrap();
    let (one, other, reader) = (driver.target("one"), driver.target("other"), driver.target("reader"));
    driver.publish(writes(&id, &one)).await.unwrap();
    driver.publish(writes(&id, &other)).await.unwrap();
    let read_only = NodePublishVolumeRequest { readonly: true, ..writes(&id, &reader) };
    for _ in 0..2 {
        driver.publish(read_only.clone()).await.unwrap();
    }
    assert_eq!(attached(&driver), 1);
    fs::write(format!("{one}/file"), "seen").unwrap();
    assert_eq!(fs::read_to_string(format!("{other}/file")).unwrap(), "seen");
    assert_eq!(fs::read_to_string(format!("{reader}/file")).unwrap(), "seen");
    assert_eq!(fs::write(format!("{reader}/no"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(driver.publish(writes(&id, &reader)).await.unwrap_err().code(), Code::AlreadyExists);
    let second = driver.create(image("w", 16 * MI, &[])).await.unwrap();
    assert_eq!(driver.publish(writes(&second, &one)).await.unwrap_err().code(), Code::AlreadyExists);
    let third = driver.publish(at(&id, &driver.target("third"), Mode::SingleNodeSingleWriter)).await;
    assert_eq!(third.unwrap_err().code(), Code::FailedPrecondition);

    // A driver that is killed takes nothing with it, and the next knows what it needs.
    let before = mounts(&one);
    driver.restart("n1").await;
    assert_eq!(mounts(&one), before);
    driver.publish(writes(&id, &one)).await.unwrap();
    assert_eq!((mounts(&one), attached(&driver)), (before, 1));
    for (target, left) in [(&one, 1), (&reader, 1), (&other, 0)] {
        driver.unpublish(&id, target).await.unwrap();
        assert_eq!(attached(&driver), left);
        assert!(mounts(target).is_empty() && !Path::new(target).exists());
    }
    driver.publish(at(&id, &one, Mode::SingleNodeSingleWriter)).await.unwrap();
    assert_eq!(fs::read_to_string(format!("{one}/file")).unwrap(), "seen");
    driver.unpublish(&id, &one).await.unwrap();
    assert_eq!(attached(&driver), 0);
}

#[tokio::test]
async fn what_an_interrupted_call_mounted_is_put_right() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let id = driver.create(image("v", 16 * MI, &[])).await.unwrap();
    let (target, other) = (driver.target("pod"), driver.target("other"));
    driver.publish(writes(&id, &other)).await.unwrap();
    // Killed when all of the file system was at the target.
    fs::create_dir(&target).unwrap();
    let device = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = device.lines().find(|line| line.contains(&other)).unwrap();
    let source = line.split(" - ext4 ").nth(1).unwrap().split(' ').next().unwrap();
    let mounted = Command::new("mount").args(["-t", "ext4", source, &target]).status().unwrap();
    assert!(mounted.success());
    assert!(names(&target).contains(&"lost+found".to_owned()));
    driver.publish(writes(&id, &target)).await.unwrap();
    assert!(names(&target).is_empty() && mounts(&target).len() == 1);
    for target in [&target, &other] {
        driver.unpublish(&id, target).await.unwrap();
    }
    assert_eq!(attached(&driver), 0);
}

#[tokio::test]
async fn a_volume_grows_when_it_is_published_next() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let id = driver.create(image("v", 16 * MI, &[])).await.unwrap();
    let target = driver.target("pod");
    driver.publish(writes(&id, &target)).await.unwrap();
    fs::write(format!("{target}/file"), "kept").unwrap();
    driver.unpublish(&id, &target).await.unwrap();
    // Just past its first group of blocks; within it, and far away. Without the capability each takes long: e2fsprogs
    // look whether another node has it.
    let sizes = [132 * MI, 140 * MI, 3000 * MI];
    for size in sizes.into_iter().take(if may_resize() { 3 } else { 1 }) {
        expand(&driver, &id, size).await;
        driver.publish(writes(&id, &target)).await.unwrap();
        is_about(&target, size);
        assert_eq!(expand_here(&driver, &id, &target, size).await.unwrap(), size as i64);
        assert_eq!(fs::read_to_string(format!("{target}/file")).unwrap(), "kept");
        driver.unpublish(&id, &target).await.unwrap();
        assert_eq!(attached(&driver), 0);
    }
}

#[tokio::test]
async fn a_volume_grows_while_it_is_used() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let id = driver.create(image("v", 16 * MI, &[])).await.unwrap();
    let (target, reader) = (driver.target("pod"), driver.target("reader"));
    driver.publish(writes(&id, &target)).await.unwrap();
    driver.publish(NodePublishVolumeRequest { readonly: true, ..writes(&id, &reader) }).await.unwrap();
    let missing = expand_here(&driver, &id, &driver.target("no"), 0).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(expand_here(&driver, &id, &target, 300 * MI).await.unwrap_err().code(), Code::OutOfRange);
    expand(&driver, &id, 300 * MI).await;
    let grown = expand_here(&driver, &id, &reader, 300 * MI).await;
    if may_resize() {
        assert_eq!(grown.unwrap(), 300 * MI as i64);
        is_about(&target, 300 * MI);
    } else {
        let refused = grown.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("CAP_SYS_RESOURCE"), "{refused}");
    }
    // Another pod comes in either case.
    let late = driver.target("late");
    driver.publish(writes(&id, &late)).await.unwrap();
    fs::write(format!("{target}/file"), "still works").unwrap();
    assert_eq!(fs::read_to_string(format!("{late}/file")).unwrap(), "still works");
    for target in [&target, &reader, &late] {
        driver.unpublish(&id, target).await.unwrap();
    }
    assert_eq!(attached(&driver), 0);
}

#[tokio::test]
async fn two_nodes_never_mount_it() {
    if !is_root() {
        return;
    }
    alone();
    let mut one = Driver::start_on_host().await;
    let other = Driver::beside(&one, "n2").await;
    let id = one.create(image("v", 16 * MI, &[])).await.unwrap();
    let (here, there) = (one.target("pod"), other.target("pod"));
    one.publish(writes(&id, &here)).await.unwrap();
    fs::write(format!("{here}/file"), "kept").unwrap();
    let reads = NodePublishVolumeRequest { readonly: true, ..writes(&id, &there) };
    for refused in [other.publish(writes(&id, &there)).await, other.publish(reads).await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("node n1"), "{refused}");
    }
    // What a process has open is still on its way to the file: not yet for another node.
    let open = File::open(format!("{here}/file")).unwrap();
    let waiting = one.unpublish(&id, &here);
    let busy = async {
        while !mounts(&here).is_empty() {
            tokio::task::yield_now().await;
        }
        let refused = other.publish(writes(&id, &there)).await.unwrap_err();
        assert!(refused.message().contains("node n1"), "{refused}");
        drop(open);
    };
    tokio::join!(waiting, busy).0.unwrap();
    other.publish(writes(&id, &there)).await.unwrap();
    assert_eq!(fs::read_to_string(format!("{there}/file")).unwrap(), "kept");
    other.unpublish(&id, &there).await.unwrap();
    assert_eq!(attached(&one), 0);
    one.kill();
}

#[tokio::test]
async fn what_cannot_be_had_is_refused() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let invalid = |done: Result<String, Status>, word: &str| {
        let refused = done.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(word), "{refused}");
    };
    let many = [Mode::MultiNodeMultiWriter, Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter];
    for mode in many {
        let volume_capabilities = vec![capability(Mode::SingleNodeWriter), capability(mode)];
        let request = CreateVolumeRequest { volume_capabilities, ..image("v", MI, &[]) };
        invalid(driver.create(request).await, "ReadWriteOnce");
    }
    let block = AccessType::Block(BlockVolume {});
    let block = VolumeCapability { access_type: Some(block), ..capability(Mode::SingleNodeWriter) };
    let request = CreateVolumeRequest { volume_capabilities: vec![block], ..image("v", MI, &[]) };
    invalid(driver.create(request).await, "type: disk");
    invalid(driver.create(image("v", MI, &[("type", "disk")])).await, "directories");
    invalid(driver.create(image("v", MI, &[("allocation", "thick")])).await, "allocation");
    invalid(driver.create(image("v", 0, &[])).await, "size");
    assert!(!driver.share(".lb~dcsi/images").exists());

    let id = driver.create(image("v", MI, &[])).await.unwrap();
    for mode in many {
        let refused = driver.publish(at(&id, &driver.target("pod"), mode)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument, "{refused}");
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.clone(),
            volume_capabilities: vec![capability(mode)],
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        let judged =
            driver.controller().await.validate_volume_capabilities(request).await.unwrap().into_inner();
        assert!(judged.confirmed.is_none() && judged.message.contains("one node"), "{judged:?}");
    }
    // Another quota is another volume.
    let advisory =
        CreateVolumeRequest { capacity_range: Some(bytes(MI)), ..with("v", &[("quota", "advisory")]) };
    assert_eq!(driver.create(advisory).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_host_without_the_program_makes_nothing() {
    if !is_root() {
        return;
    }
    // Its host is an empty directory.
    let driver = Driver::start().await;
    let refused = driver.create(image("v", MI, &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("mkfs.ext4") && refused.message().contains("e2fsprogs"), "{refused}");
    for part in ["images", "new", "volumes"] {
        assert!(names(driver.share(&format!(".lb~dcsi/{part}"))).is_empty(), "{part}");
    }
}

#[tokio::test]
async fn a_driver_that_is_killed_leaves_no_half_volume() {
    if !is_root() {
        return;
    }
    alone();
    let mut driver = Driver::start_on_host().await;
    let images = driver.share(".lb~dcsi/images");
    for round in 0..6 {
        let name = format!("v{round}");
        let create = driver.create(image(&name, 64 * MI, &[]));
        let killed = tokio::time::timeout(std::time::Duration::from_millis(round * 15), create).await;
        drop(killed);
        driver.restart("n1").await;
        // What is there is whole.
        for image in if images.exists() { names(&images) } else { Vec::new() } {
            let checked = Command::new("e2fsck").arg("-fn").arg(images.join(image)).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
        let id = driver.create(image(&name, 64 * MI, &[])).await.unwrap();
        let target = driver.target("pod");
        driver.publish(writes(&id, &target)).await.unwrap();
        is_about(&target, 64 * MI);
        driver.unpublish(&id, &target).await.unwrap();
        driver.controller().await.delete_volume(delete(&id)).await.unwrap();
        assert!(names(&images).is_empty());
    }
    assert_eq!(attached(&driver), 0);
}

#[tokio::test]
async fn an_image_that_is_archived_stays() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let class = [("onDelete", "archive"), ("directoryTemplate", "team/data-${pv.name}")];
    for round in 0..2 {
        let id = driver.create(image("v", MI, &class)).await.unwrap();
        let target = driver.target("pod");
        driver.publish(writes(&id, &target)).await.unwrap();
        fs::write(format!("{target}/file"), "kept").unwrap();
        driver.unpublish(&id, &target).await.unwrap();
        driver.controller().await.delete_volume(delete(&id)).await.unwrap();
        let kept = names(driver.share(".lb~dcsi/images"));
        assert_eq!((kept.len(), kept.last().unwrap().as_str()), (round + 1, "archived-data-v.img"));
    }
    assert!(!driver.share("team").exists());
}

/// As after a power cut: nobody unmounted it, and its journal says what was being done.
#[tokio::test]
async fn a_node_that_died_leaves_a_journal_that_is_replayed() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start_on_host().await;
    let id = driver.create(image("v", 16 * MI, &[])).await.unwrap();
    let target = driver.target("pod");
    driver.publish(writes(&id, &target)).await.unwrap();
    let mut file = File::create(format!("{target}/file")).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    File::open(&target).unwrap().sync_all().unwrap();
    // The image as it is now, while it is mounted.
    let path = driver.share(&format!(".lb~dcsi/images/{}.img", id.split_once('/').unwrap().1));
    let copy = driver.path("copy.img");
    assert!(
        Command::new("cp")
            .args(["--sparse=always".as_ref(), path.as_os_str(), copy.as_os_str()])
            .status()
            .unwrap()
            .success()
    );
    driver.unpublish(&id, &target).await.unwrap();
    fs::rename(&copy, &path).unwrap();
    driver.publish(writes(&id, &target)).await.unwrap();
    assert_eq!(fs::read_to_string(format!("{target}/file")).unwrap(), "synced");
    driver.unpublish(&id, &target).await.unwrap();
    assert_eq!(attached(&driver), 0);
}
