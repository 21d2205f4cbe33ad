//! Leases that a process of their own holds, while drivers come and go: two nodes, each with driver and holder.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use csi_node::holder::Client;
use csi_node::id::VolumeId;
use csi_node::lease::GRACE;
use csi_node::proto::csi::volume_capability::access_mode::Mode;
use csi_node::proto::csi::{CapacityRange, CreateVolumeRequest, NodePublishVolumeRequest};
use harness::{Driver, Holder, alone, capability, is_root, publish, socket_of_holder, with};
use serde_json::Value;
use tokio::runtime::Handle;
use tonic::{Code, Status};

struct Nodes {
    one: Driver,
    other: Driver,
    id: String,
}

impl Nodes {
    /// With a disk for one node.
    async fn start() -> Nodes {
        alone();
        let one = Driver::start().await;
        let id = one.create(disk("vm")).await.unwrap();
        let other = Driver::beside(&one, "n2").await;
        Nodes { one: one.held("n1").await, other: other.held("n2").await, id }
    }

    async fn publish_one(&self, target: &str) -> Result<(), Status> {
        self.one.publish(writes(&self.id, &self.one.target(target))).await
    }

    async fn publish_other(&self) -> Result<(), Status> {
        self.other.publish(writes(&self.id, &self.other.target("vm"))).await
    }

    async fn unpublish_one(&self, target: &str) -> Result<(), Status> {
        self.one.unpublish(&self.id, &self.one.target(target)).await
    }

    /// Epoch and node.
    fn lease(&self) -> (u64, String) {
        let file = fs::read_dir(self.one.share(".lb~dcsi/leases")).unwrap().next().unwrap().unwrap();
        let lease: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        (lease["epoch"].as_u64().unwrap(), lease["node"].as_str().unwrap().into())
    }
}

fn disk(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: 8 << 20, limit_bytes: 0 }),
        volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
        ..with(name, &[("type", "disk"), ("uid", "0"), ("gid", "0")])
    }
}

fn writes(id: &str, target: &str) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_capability: Some(capability(Mode::SingleNodeWriter)),
        ..publish(id, target)
    }
}

fn refused(result: Result<(), Status>, code: Code, word: &str) {
    let status = result.unwrap_err();
    assert!(status.code() == code && status.message().contains(word), "{status}");
}

#[tokio::test]
async fn a_driver_that_is_away_for_long_loses_nothing() {
    if !is_root() {
        return;
    }
    let mut nodes = Nodes::start().await;
    assert_eq!(fs::metadata(nodes.one.path("holder-n1.sock")).unwrap().mode() & 0o777, 0o600);
    nodes.publish_one("vm").await.unwrap();
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1 (epoch 1)");
    nodes.one.kill();
    tokio::time::sleep(GRACE + Duration::from_secs(2)).await;
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1 (epoch 1)");
    nodes.one.back("n1").await;
    nodes.publish_one("vm").await.unwrap();
    nodes.publish_one("second").await.unwrap();
    assert_eq!(nodes.lease(), (1, "n1".into()));
    // The lease goes with the last of them, and then at once.
    nodes.unpublish_one("vm").await.unwrap();
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1");
    nodes.unpublish_one("second").await.unwrap();
    assert_eq!(nodes.lease(), (1, String::new()));
    nodes.publish_other().await.unwrap();
    assert_eq!(nodes.lease(), (2, "n2".into()));
}

#[tokio::test]
async fn a_holder_that_restarts_keeps_its_leases() {
    if !is_root() {
        return;
    }
    let mut nodes = Nodes::start().await;
    nodes.publish_one("vm").await.unwrap();
    nodes.one.holder.as_mut().unwrap().restart().await;
    // Its lock comes back before its sign of life has stood still for long enough.
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1 (epoch 1)");
    nodes.publish_one("vm").await.unwrap();
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1");
}

#[tokio::test]
async fn without_the_holder_nothing_is_lost_but_disks() {
    if !is_root() {
        return;
    }
    let mut nodes = Nodes::start().await;
    let shared = nodes.one.create(with("shared", &[])).await.unwrap();
    nodes.publish_one("vm").await.unwrap();
    nodes.one.holder.as_mut().unwrap().kill();
    refused(nodes.publish_one("second").await, Code::Unavailable, "lustre-bridge-csi-holder on node n1");
    // What needs no lease needs no holder.
    let target = nodes.one.target("shared");
    nodes.one.publish(publish(&shared, &target)).await.unwrap();
    nodes.one.unpublish(&shared, &target).await.unwrap();
    // The mount goes, and the call is repeated until the lease can go too.
    for _ in 0..2 {
        refused(nodes.unpublish_one("vm").await, Code::Unavailable, "lustre-bridge-csi-holder");
        assert!(!fs::exists(nodes.one.target("vm")).unwrap());
    }
    assert_eq!(nodes.lease(), (1, "n1".into()));
    nodes.one.holder.as_mut().unwrap().restart().await;
    nodes.unpublish_one("vm").await.unwrap();
    assert_eq!(nodes.lease(), (1, String::new()));
}

#[tokio::test]
async fn a_holder_that_died_is_outwaited_and_its_node_publishes_no_more() {
    if !is_root() {
        return;
    }
    let mut nodes = Nodes::start().await;
    nodes.publish_one("vm").await.unwrap();
    nodes.one.holder.as_mut().unwrap().kill();
    // This takes the grace.
    nodes.publish_other().await.unwrap();
    assert_eq!(nodes.lease(), (2, "n2".into()));
    // What is another's does not have to be given back.
    nodes.unpublish_one("never").await.unwrap();
    nodes.one.holder.as_mut().unwrap().restart().await;
    refused(nodes.publish_one("again").await, Code::FailedPrecondition, "node n2 (epoch 2)");
    refused(nodes.publish_one("again").await, Code::FailedPrecondition, "node n2 (epoch 2)");
    nodes.unpublish_one("vm").await.unwrap();
    assert_eq!(nodes.lease(), (2, "n2".into()));
}

#[tokio::test]
async fn leases_of_a_driver_go_over_to_its_new_holder() {
    if !is_root() {
        return;
    }
    alone();
    let mut one = Driver::start().await;
    let id = one.create(disk("vm")).await.unwrap();
    // The holder is there before the driver that knows of it, and has found that there is nothing to hold.
    one.holder = Some(Holder::start(&one.base, "n1").await);
    let holder = Client::new(&one.path(&socket_of_holder("n1")), "n1", Handle::current());
    let volume = VolumeId::parse(&id).unwrap();
    while holder.concerns(&volume).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    one.publish(writes(&id, &one.target("vm"))).await.unwrap();
    let other = Driver::beside(&one, "n2").await.held("n2").await;
    one.kill();
    one.back("n1").await;
    while !holder.concerns(&volume).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut nodes = Nodes { one, other, id };
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1 (epoch 1)");
    nodes.one.kill();
    tokio::time::sleep(GRACE + Duration::from_secs(2)).await;
    refused(nodes.publish_other().await, Code::FailedPrecondition, "node n1 (epoch 1)");
    nodes.one.back("n1").await;
    nodes.publish_one("vm").await.unwrap();
    assert_eq!(nodes.lease(), (1, "n1".into()));
    nodes.unpublish_one("vm").await.unwrap();
    nodes.publish_other().await.unwrap();
}
