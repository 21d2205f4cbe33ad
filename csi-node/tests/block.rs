//! Disks as pods see them in block mode: real loop devices and mounts, in a mount namespace of the test's own.
//! Loop devices have no namespace: each test looks only for those of its own files.
//!
//! Without root nothing is attached, and the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::io::{Error as IoError, ErrorKind};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use csi_node::block;
use csi_node::error::Error;
use csi_node::mounts::{self, Target};
use harness::{alone, is_root, mounts as mounted};
use lustre::sys::{LoopOptions, loop_attach};
use tempfile::TempDir;
use tonic::Code;

const SIZE: u64 = 1 << 20;

/// A disk on a share, and where pods are.
struct Node {
    base: TempDir,
}

impl Node {
    fn new() -> Node {
        let base = TempDir::new().unwrap();
        File::create_new(base.path().join("disk.img")).unwrap().set_len(SIZE).unwrap();
        Node { base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Opened anew, as after a restart.
    fn image(&self, read_only: bool) -> File {
        OpenOptions::new().read(true).write(!read_only).open(self.path("disk.img")).unwrap()
    }

    fn target(&self, name: &str) -> Target {
        Target::parse("target_path", self.path(name).to_str().unwrap(), None).unwrap()
    }

    fn publish(&self, name: &str, read_only: bool) -> Result<(), Error> {
        block::publish(self.image(read_only).as_fd(), &self.target(name), read_only, Path::new("/dev"))
    }

    fn unpublish(&self, name: &str) {
        mounts::unpublish(&self.target(name)).unwrap();
        assert!(!self.path(name).exists() && self.mounts(name) == 0);
    }

    fn mounts(&self, name: &str) -> usize {
        let path = self.target(name).to_string();
        mounted(&path).iter().filter(|(at, _, _)| *at == path).count()
    }

    fn device(&self, name: &str) -> u64 {
        let is = fs::metadata(self.path(name)).unwrap();
        assert!(is.file_type().is_block_device());
        is.rdev()
    }

    fn open(&self, name: &str) -> Result<File, IoError> {
        OpenOptions::new().read(true).write(true).open(self.path(name))
    }

    /// How many loop devices have the disk.
    fn attached(&self) -> usize {
        let of = self.path("disk.img");
        let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
        let file = |device: PathBuf| fs::read_to_string(device.join("loop/backing_file")).ok();
        devices.filter_map(file).filter(|file| Path::new(file.trim_end()) == of).count()
    }
}

/// A test that fails leaves no device.
impl Drop for Node {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.base.path()).unwrap() {
            let path = entry.unwrap().path();
            let target = Target::parse("target", path.to_str().unwrap(), None).unwrap();
            if self.mounts(path.file_name().unwrap().to_str().unwrap()) > 0 {
                let _ = mounts::unpublish(&target);
            }
        }
    }
}

#[test]
fn a_disk_that_is_published_twice_is_one_device() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    for name in ["pod1", "pod1", "pod2"] {
        node.publish(name, false).unwrap();
        assert_eq!((node.attached(), node.mounts(name)), (1, 1));
    }
    assert_eq!(node.device("pod1"), node.device("pod2"));
    let pattern: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let device = node.open("pod1").unwrap();
    device.write_all_at(&pattern, 0).unwrap();
    device.sync_all().unwrap();
    drop(device);
    assert!(fs::read(node.path("disk.img")).unwrap() == pattern);
    node.unpublish("pod1");
    // The other pod still has it.
    assert_eq!(node.attached(), 1);
    assert!(fs::read(node.path("pod2")).unwrap() == pattern);
    node.unpublish("pod2");
    node.unpublish("pod2");
    assert_eq!(node.attached(), 0);
    assert!(fs::read(node.path("disk.img")).unwrap() == pattern);
}

#[test]
fn the_mount_is_of_a_device_and_of_nothing_else() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    node.publish("pod", false).unwrap();
    let (_, options, root) = mounted(node.path("pod").to_str().unwrap()).remove(0);
    assert!(!options.contains("nodev") && options.contains("nosuid"), "{options}");
    assert!(root.starts_with("/loop"), "{root}");
    let number = node.device("pod");
    let loops = format!("/sys/dev/block/{}:{}/loop", rustix::fs::major(number), rustix::fs::minor(number));
    let setting = |name: &str| fs::read_to_string(format!("{loops}/{name}")).unwrap().trim().to_owned();
    assert_eq!((setting("dio"), setting("autoclear")), ("0".into(), "0".into()));
    node.unpublish("pod");
}

#[test]
fn read_only_refuses_writes_whatever_the_node_says() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    fs::write(node.path("disk.img"), vec![7; SIZE as usize]).unwrap();
    for _ in 0..2 {
        node.publish("reader", true).unwrap();
    }
    let written = node.open("reader").and_then(|device| device.write_all_at(b"no", 0));
    let kind = written.unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem), "{kind}");
    assert_eq!(fs::read(node.path("reader")).unwrap(), vec![7; SIZE as usize]);
    // A pod that writes has a device of its own.
    node.publish("writer", false).unwrap();
    assert_eq!(node.attached(), 2);
    assert_eq!(node.publish("reader", false).unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(node.publish("writer", true).unwrap_err().code(), Code::AlreadyExists);
    node.unpublish("reader");
    assert_eq!(node.attached(), 1);
    node.unpublish("writer");
    assert_eq!(node.attached(), 0);
}

/// What a new process finds is what this one finds: nothing is kept between calls.
#[test]
fn a_device_without_a_target_is_used_again() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    let kept = LoopOptions { read_only: false, autoclear: false };
    let image = node.image(false);
    let left = loop_attach(Path::new("/dev"), image.as_fd(), kept).unwrap().number();
    node.publish("pod", false).unwrap();
    assert_eq!((node.attached(), node.device("pod")), (1, left));
    node.unpublish("pod");
    assert_eq!(node.attached(), 0);
}

#[test]
fn what_somebody_has_open_goes_with_its_last_close() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    node.publish("pod", false).unwrap();
    let device = node.open("pod").unwrap();
    node.unpublish("pod");
    assert_eq!(node.attached(), 1);
    // Of a device that is going nobody makes use.
    node.publish("pod", false).unwrap();
    assert_eq!(node.attached(), 2);
    node.unpublish("pod");
    device.write_all_at(b"late", 0).unwrap();
    drop(device);
    assert_eq!(node.attached(), 0);
    assert_eq!(fs::read(node.path("disk.img")).unwrap()[..4], *b"late");
}

#[test]
fn what_is_at_the_target_already_is_left_alone() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    fs::create_dir(node.path("directory")).unwrap();
    fs::write(node.path("file"), "somebody's").unwrap();
    std::os::unix::fs::symlink(node.path("file"), node.path("link")).unwrap();
    for name in ["directory", "file", "link"] {
        assert_eq!(node.publish(name, false).unwrap_err().code(), Code::AlreadyExists, "{name}");
    }
    for name in ["file", "link"] {
        assert_eq!(mounts::unpublish(&node.target(name)).unwrap_err().code(), Code::FailedPrecondition);
    }
    assert_eq!(fs::read(node.path("file")).unwrap(), b"somebody's");
    // Another disk, and a file.
    let other = Node::new();
    node.publish("disk", false).unwrap();
    let image = other.image(false);
    let error = block::publish(image.as_fd(), &node.target("disk"), false, Path::new("/dev")).unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert_eq!(other.attached(), 0);
    node.unpublish("disk");
    File::create(node.path("bound")).unwrap();
    rustix::mount::mount_bind(node.path("file"), node.path("bound")).unwrap();
    assert_eq!(node.publish("bound", false).unwrap_err().code(), Code::AlreadyExists);
    node.unpublish("bound");
    assert_eq!(node.attached(), 0);
}

#[test]
fn files_that_are_no_disks_are_refused() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    for size in [0, 1000] {
        node.image(false).set_len(size).unwrap();
        assert_eq!(node.publish("pod", false).unwrap_err().code(), Code::FailedPrecondition);
    }
    // Not open for writing, though it is to be written to.
    node.image(false).set_len(SIZE).unwrap();
    let image = node.image(true);
    let published = block::publish(image.as_fd(), &node.target("pod"), false, Path::new("/dev"));
    assert!(published.unwrap_err().to_string().contains("not open for"));
    assert_eq!(node.attached(), 0);
}

#[test]
fn a_disk_that_grew_is_a_device_that_grew() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    node.publish("pod", false).unwrap();
    let image = node.image(false);
    let published = |name| block::check_published(image.as_fd(), &node.target(name));
    assert_eq!(published("pod").unwrap(), SIZE);
    image.set_len(2 * SIZE).unwrap();
    block::expand(image.as_fd(), Path::new("/dev")).unwrap();
    assert_eq!(published("pod").unwrap(), 2 * SIZE);
    image.set_len(3 * SIZE).unwrap();
    node.publish("pod2", false).unwrap();
    assert_eq!(published("pod").unwrap(), 3 * SIZE);
    for name in ["pod", "pod2"] {
        node.unpublish(name);
        assert_eq!(published(name).unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(node.attached(), 0);
}

#[test]
fn pods_that_come_at_once_share_a_device() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    let names: Vec<String> = (0..6).map(|pod| format!("pod{pod}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let node = &node;
            scope.spawn(move || node.publish(name, false).unwrap());
        }
    });
    assert_eq!(node.attached(), 1);
    // Some go while one comes.
    std::thread::scope(|scope| {
        for name in &names {
            let node = &node;
            scope.spawn(move || node.unpublish(name));
        }
        scope.spawn(|| node.publish("late", false).unwrap());
    });
    node.open("late").unwrap().write_all_at(b"works", 0).unwrap();
    node.unpublish("late");
    assert_eq!(node.attached(), 0);
}

/// As in a container, whose `/dev` has the devices that there were when it began.
#[test]
fn a_device_node_that_is_missing_is_made() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    let dev = devices(&node);
    let image = node.image(false);
    block::publish(image.as_fd(), &node.target("pod"), false, &dev).unwrap();
    let number = node.device("pod");
    assert!(fs::read_dir(&dev).unwrap().any(|entry| entry.unwrap().metadata().unwrap().rdev() == number));
    node.open("pod").unwrap().write_all_at(b"data", 0).unwrap();
    // Mounted from the host's nodes it is the same device.
    node.publish("pod2", false).unwrap();
    assert_eq!((node.device("pod2"), node.attached()), (number, 1));
    node.unpublish("pod");
    assert_eq!(node.attached(), 1);
    node.unpublish("pod2");
    assert_eq!(node.attached(), 0);
}

#[test]
fn only_the_right_node_is_taken_for_a_device() {
    if !is_root() {
        return;
    }
    alone();
    let node = Node::new();
    let dev = devices(&node);
    (0..256).for_each(|number| drop(File::create(dev.join(format!("loop{number}"))).unwrap()));
    let image = node.image(false);
    let error = block::publish(image.as_fd(), &node.target("pod"), false, &dev).unwrap_err();
    assert!(error.to_string().contains("is not the node of the device 7:"), "{error}");
    assert_eq!(node.attached(), 0);
}

/// A directory of device nodes with no loop device in it.
fn devices(node: &Node) -> PathBuf {
    let dev = node.path("dev");
    fs::create_dir(&dev).unwrap();
    let made = Command::new("mknod").arg(dev.join("loop-control")).args(["c", "10", "237"]).status();
    assert!(made.unwrap().success());
    dev
}
