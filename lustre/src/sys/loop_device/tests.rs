//! Real devices. Without root none are attached, and the tests say so and pass.

use std::os::unix::fs::OpenOptionsExt as _;

use tempfile::NamedTempFile;

use super::*;

const DEV: &str = "/dev";
const PASSING: LoopOptions = LoopOptions { read_only: false, autoclear: true };
const KEPT: LoopOptions = LoopOptions { read_only: false, autoclear: false };

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: not root, so NO loop device was attached");
    }
    root
}

fn image() -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    image
}

fn find(image: &NamedTempFile, options: LoopOptions) -> Option<u64> {
    loop_find(Path::new(DEV), image.as_file().as_fd(), options).unwrap().map(|device| device.number())
}

#[test]
fn a_device_goes_with_its_last_close_or_is_kept() {
    if !is_root() {
        return;
    }
    let image = image();
    let attach = || loop_attach(Path::new(DEV), image.as_file().as_fd(), PASSING).unwrap();
    let device = attach();
    let options = device.status().unwrap().unwrap().options;
    assert!(device.is_of(image.as_file().as_fd(), PASSING).unwrap() && options == PASSING);
    assert_eq!(find(&image, PASSING), Some(device.number()));
    drop(device);
    assert_eq!(find(&image, PASSING), None);
    let device = attach();
    device.keep().unwrap();
    let number = device.number();
    drop(device);
    assert_eq!((find(&image, PASSING), find(&image, KEPT)), (None, Some(number)));
    let device = loop_find(Path::new(DEV), image.as_file().as_fd(), KEPT).unwrap().unwrap();
    device.detach().unwrap();
    drop(device);
    assert_eq!(find(&image, KEPT), None);
}

#[test]
fn a_device_is_as_large_as_its_file_was() {
    if !is_root() {
        return;
    }
    let image = image();
    let device = loop_attach(Path::new(DEV), image.as_file().as_fd(), PASSING).unwrap();
    image.as_file().set_len(3 << 20).unwrap();
    assert_eq!(device.size().unwrap(), 1 << 20);
    device.set_capacity().unwrap();
    assert_eq!(device.size().unwrap(), 3 << 20);
    device.flush_buffers().unwrap();
}

#[test]
fn an_image_that_is_not_opened_for_it_is_refused() {
    if !is_root() {
        return;
    }
    let image = image();
    let reader = File::open(image.path()).unwrap();
    let direct = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(image.path());
    // Some file systems have no direct IO.
    for wrong in [Ok(reader), direct].into_iter().flatten() {
        let error = loop_attach(Path::new(DEV), wrong.as_fd(), PASSING).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    assert!(find(&image, PASSING).is_none());
}

#[test]
fn only_nodes_of_loop_devices_are_opened() {
    for path in ["/dev/null", "/dev", "/proc/self/exe"] {
        assert!(LoopDevice::of_node(File::open(path).unwrap().as_fd()).unwrap().is_none());
    }
    assert!(is_name("loop0") && is_name("loop12"));
    assert!(!is_name("loop") && !is_name("loop0p1") && !is_name("loop-control"));
}
