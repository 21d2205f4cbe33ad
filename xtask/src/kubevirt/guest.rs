//! A guest for the tests: a disk that boots Debian's kernel and one shell script (e2e/kubevirt/guest/init).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::paths::{self, RunDir};
use crate::{proc, tools};

const PACKAGES: [&str; 7] =
    ["busybox-static", "cpio", "dosfstools", "mtools", "qemu-utils", "syslinux", "syslinux-common"];
const KERNEL: &str = "linux-image-cloud-amd64";
/// In the order in which they need each other.
const MODULES: [&str; 10] = [
    "scsi_common",
    "scsi_mod",
    "sd_mod",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
];
const LOADER: &str = "DEFAULT guest\nLABEL guest\nLINUX vmlinuz\nINITRD initrd\nAPPEND console=ttyS0 quiet\n";
/// The disk's size; what it boots from lies in the first half.
const SIZE: u64 = 64 << 20;

/// The disk as a qcow2 file, made once.
pub(crate) fn disk() -> Result<PathBuf> {
    let init = paths::repo().join("e2e/kubevirt/guest/init");
    let out = paths::cache().join("kubevirt/guest.qcow2");
    let stamp = out.with_extension("pinned");
    let recipe = fs::read_to_string(&init)? + include_str!("guest.rs");
    if out.is_file() && fs::read_to_string(&stamp).is_ok_and(|s| s == recipe) {
        return Ok(out);
    }
    tools::debian(&PACKAGES)?;
    println!("making the disk of a guest …");
    let dir = RunDir::new("guest")?;
    let kernel = unpack(dir.path())?;
    let initrd = dir.path().join("initrd");
    fs::write(&initrd, initramfs(dir.path(), &kernel, &init)?)?;
    let raw = dir.path().join("guest.raw");
    boot_disk(&raw, &find(&kernel.join("boot"), |n| n.starts_with("vmlinuz-"))?, &initrd)?;
    fs::create_dir_all(out.parent().unwrap_or(&out))?;
    proc::run(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).arg(&raw).arg(&out))?;
    fs::write(stamp, recipe)?;
    Ok(out)
}

/// Downloads Debian's kernel and lays it out in `dir`, without installing it.
fn unpack(dir: &Path) -> Result<PathBuf> {
    let depends = proc::output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("apt-cache knows no kernel behind {KERNEL}"))?;
    proc::output(Command::new("apt-get").args(["-q", "download", package]).current_dir(dir))?;
    let file = find(dir, |name| name.starts_with(package))?;
    let to = dir.join("kernel");
    proc::output(Command::new("dpkg-deb").arg("--extract").arg(file).arg(&to))?;
    Ok(to)
}

/// The file beneath `dir` whose name is right.
fn find(dir: &Path, right: impl Fn(&str) -> bool + Copy) -> Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Ok(found) = find(&entry.path(), right) {
                return Ok(found);
            }
        } else if entry.file_name().to_str().is_some_and(right) {
            return Ok(entry.path());
        }
    }
    bail!("not found beneath {}", dir.display())
}

fn initramfs(dir: &Path, kernel: &Path, init: &Path) -> Result<Vec<u8>> {
    let root = dir.join("root");
    for sub in ["bin", "dev", "modules", "proc", "sys"] {
        fs::create_dir_all(root.join(sub))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    proc::run(Command::new("install").arg("--mode=755").arg(init).arg(root.join("init")))?;
    for module in MODULES {
        let name = format!("{module}.ko");
        fs::copy(find(kernel, |n| n == name)?, root.join("modules").join(&name))?;
    }
    fs::write(root.join("modules/order"), MODULES.map(|m| format!("{m}.ko\n")).concat())?;
    let list = proc::output(Command::new("find").arg(".").current_dir(&root))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--quiet", "--owner=0:0"]).current_dir(&root);
    let mut child = cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe to cpio")?.write_all(list.as_bytes())?;
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("cpio failed");
    }
    Ok(done.stdout)
}

/// A FAT file system from the disk's first sector on, which holds its own boot loader.
fn boot_disk(raw: &Path, vmlinuz: &Path, initrd: &Path) -> Result<()> {
    let config = raw.with_extension("cfg");
    fs::write(&config, LOADER)?;
    let kibibytes = (SIZE / 2 / 1024).to_string();
    proc::output(Command::new("/usr/sbin/mkfs.fat").arg("-C").arg(raw).arg(kibibytes))?;
    for (file, name) in [(vmlinuz, "::vmlinuz"), (initrd, "::initrd"), (&config, "::syslinux.cfg")] {
        proc::output(Command::new("mcopy").arg("-i").arg(raw).arg(file).arg(name))?;
    }
    proc::output(Command::new("syslinux").arg("--install").arg(raw))?;
    Ok(fs::OpenOptions::new().write(true).open(raw)?.set_len(SIZE)?)
}
