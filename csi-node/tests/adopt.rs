//! The program as an administrator uses it, and the driver that then has the volume.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::fs;
use std::process::{Command, Output};

use csi_node::id::{Uuid, VolumeId};
use csi_node::proto::csi::volume_capability::access_mode::Mode;
use csi_node::proto::csi::{DeleteVolumeRequest, NodePublishVolumeRequest};
use harness::{Driver, alone, capability, is_root, publish};
use tonic::Code;

fn run(driver: &Driver, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_csi-node"))
        .args([
            arguments[0],
            "--host-root",
            driver.path("").to_str().unwrap(),
            "--share",
            "s=directory:/share",
        ])
        .args(&arguments[1..])
        .output()
        .unwrap()
}

fn said(done: &Output) -> String {
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout.clone()).unwrap()
}

#[tokio::test]
async fn a_file_is_handed_over_and_taken_back() {
    if !is_root() {
        return;
    }
    alone();
    let driver = Driver::start().await;
    fs::create_dir(driver.share("images")).unwrap();
    fs::write(driver.share("images/old.img"), vec![7; 1 << 20]).unwrap();
    let claim = ["--namespace", "machines", "--claim", "root", "--storage-class", "s-disks"];
    let adopt = [&["adopt", "--path", "images/old.img", "--name", "old"], &claim[..]].concat();
    let printed = said(&run(&driver, &adopt));
    let id = VolumeId { share: "s".into(), uuid: Uuid::of_name("old") }.to_string();
    for line in [
        "kind: PersistentVolume",
        "namespace: machines",
        &format!("volumeHandle: {id}"),
        "storage: '1048576'",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    assert_eq!(said(&run(&driver, &adopt)), printed);

    let target = driver.target("pod");
    let how = capability(Mode::SingleNodeWriter);
    let request = NodePublishVolumeRequest { volume_capability: Some(how), ..publish(&id, &target) };
    driver.publish(request).await.unwrap();
    assert_eq!(fs::read(format!("{target}/disk.img")).unwrap(), vec![7; 1 << 20]);
    let release = ["release", "--name", "old"];
    let used = run(&driver, &release);
    assert!(
        !used.status.success() && String::from_utf8_lossy(&used.stderr).contains("in use on node n1"),
        "{used:?}"
    );
    driver.unpublish(&id, &target).await.unwrap();
    assert_eq!(said(&run(&driver, &release)), "machines/root-old/disk.img\n");
    let gone = driver.publish(publish(&id, &target)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    // What the driver forgot it does not delete.
    let delete = DeleteVolumeRequest { volume_id: id, ..DeleteVolumeRequest::default() };
    driver.controller().await.delete_volume(delete).await.unwrap();
    assert_eq!(fs::metadata(driver.share("machines/root-old/disk.img")).unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn wrong_command_lines_are_refused() {
    if !is_root() {
        return;
    }
    let driver = Driver::start().await;
    for (arguments, word) in [
        (&["adopt", "--name", "v"][..], "--path"),
        (&["adopt", "--name", "v", "--path", "../x"], "normal form"),
        (&["adopt", "--name", "v", "--path", "none"], "no none"),
        (&["adopt", "--name", "a/b", "--path", "none"], "a/b"),
        (&["adopt", "--name", "v", "--path", "x", "--claim", "c"], "--namespace"),
        (&["adopt", "--name", "v", "--path", "x", "--size", "1GB"], "no size"),
        (&["release", "--name", "v"], "no volume"),
        (&["forget", "--name", "v"], "forget"),
    ] {
        let done = run(&driver, arguments);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && stderr.contains(word), "{arguments:?}: {stderr}");
    }
    // Without a command it is the driver, which has to be told more.
    let nothing = Command::new(env!("CARGO_BIN_EXE_csi-node")).output().unwrap();
    assert!(!nothing.status.success());
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--endpoint"), "{nothing:?}");
}
