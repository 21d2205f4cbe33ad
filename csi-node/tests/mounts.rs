//! Volumes as pods see them: real mounts, in a mount namespace of the test's own, with which they go.
//!
//! Without root nothing is mounted, and the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use csi_node::id::{Uuid, VolumeId};
use csi_node::proto::csi::{DeleteVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest};
use harness::{Driver, alone, is_root, mounts, publish, spawn, wanted, with};
use tonic::Code;

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

/// Directories on a directory, and files on a file.
#[tokio::test]
async fn whatever_is_mounted_on_one_another_goes_together() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let id = driver.create(wanted("v")).await.unwrap();
    let (directory, file) = (driver.target("directory"), driver.target("file"));
    driver.publish(publish(&id, &directory)).await.unwrap();
    fs::write(&file, "").unwrap();
    let outside = driver.path("outside");
    for (source, target) in [(&outside, &directory), (&outside.join("secret"), &file)] {
        for _ in 0..2 {
            rustix::mount::mount_bind(source, target).unwrap();
        }
        driver.unpublish(&id, target).await.unwrap();
        assert!(mounts(target).is_empty() && !Path::new(target).exists());
    }
    assert!(driver.outside_is_untouched() && driver.share("v").exists());
    // What is no mount and not empty stays.
    fs::create_dir(&directory).unwrap();
    fs::write(format!("{directory}/theirs"), "").unwrap();
    assert!(driver.unpublish(&id, &directory).await.is_err());
    assert!(Path::new(&directory).join("theirs").exists());
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
async fn a_share_that_is_read_only_is_not_published_for_writing() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let id = driver.create(wanted("v")).await.unwrap();
    let share = driver.path("share");
    rustix::mount::mount_bind(&share, &share).unwrap();
    rustix::mount::mount_remount(
        &share,
        rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY,
        c"",
    )
    .unwrap();
    let target = driver.target("pod");
    let error = driver.publish(publish(&id, &target)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    let read_only = NodePublishVolumeRequest { readonly: true, ..publish(&id, &target) };
    for _ in 0..2 {
        driver.publish(read_only.clone()).await.unwrap();
    }
    driver.unpublish(&id, &target).await.unwrap();
}

#[tokio::test]
async fn a_share_that_its_node_only_reads_is_not_written_to() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let id = driver.create(wanted("v")).await.unwrap();
    let share = driver.path("share");
    rustix::mount::mount_bind(&share, &share).unwrap();
    let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount_remount(&share, flags, "").unwrap();
    let target = driver.target("pod");
    let error = driver.publish(publish(&id, &target)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("the share is mounted read-only on this node"), "{error}");
    assert!(mounts(&target).is_empty());
    let read_only = NodePublishVolumeRequest { readonly: true, ..publish(&id, &target) };
    driver.publish(read_only).await.unwrap();
    driver.unpublish(&id, &target).await.unwrap();
    // No record can be written either.
    let error = driver.create(wanted("w")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(!driver.share("w").exists());
}

#[tokio::test]
async fn what_is_at_a_target_already_is_not_covered() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    let id = driver.create(wanted("v")).await.unwrap();
    let target = driver.target("pod");
    fs::create_dir(&target).unwrap();
    rustix::mount::mount_bind(driver.path("outside"), &target).unwrap();
    let error = driver.publish(publish(&id, &target)).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    assert!(error.message().contains("something else is mounted at"), "{error}");
    assert_eq!(mounts(&target).len(), 1);
    // A file with something in it is neither a target nor removed.
    let file = driver.target("file");
    fs::write(&file, "kept").unwrap();
    assert!(driver.publish(publish(&id, &file)).await.is_err());
    let error = driver.unpublish(&id, &file).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    assert!(driver.outside_is_untouched());
}
