//! KubeVirt's images: static programs alone, and a small Debian with libvirt and QEMU for the pods of machines.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::{VERSION, programs};
use crate::images::Image;
use crate::report::seconds;
use crate::{paths, proc, tools};

const PACKAGES: [&str; 2] = ["debootstrap", "libcap2-bin"];
const RELEASE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const INCLUDED: &str = "iproute2,libcap2-bin,libvirt-clients,libvirt-daemon,libvirt-daemon-driver-qemu,nftables,passt,\
                        procps,qemu-system-x86,qemu-utils,util-linux,xorriso";
/// Debian's libvirt is one daemon, KubeVirt calls the part that drives QEMU.
const VIRTQEMUD: &str = "#!/bin/sh
mkdir -p /run/libvirt
ln -sf libvirt-sock /run/libvirt/virtqemud-sock
exec libvirtd \"$@\"
";
/// Who QEMU runs as.
const USERS: [&str; 2] = ["qemu", "libvirt-qemu"];

/// Archives of all of them.
pub(super) fn all() -> Result<Vec<PathBuf>> {
    let bin = programs::build()?;
    let out = paths::cache().join("kubevirt");
    let mut archives = Vec::new();
    for name in ["virt-api", "virt-controller", "virt-operator"] {
        let image = Image {
            files: vec![(format!("usr/bin/{name}"), bin.join(name))],
            user: "1001",
            ..Image::named(&image_name(name), &[&format!("/usr/bin/{name}")])
        };
        archives.push(image.write(&out)?);
    }
    archives.push(launcher(&bin, &out)?);
    Ok(archives)
}

fn image_name(program: &str) -> String {
    format!("localhost/kubevirt/{program}:{VERSION}")
}

/// The launcher's image, which is the handler's too: both need the same Debian.
fn launcher(bin: &Path, out: &Path) -> Result<PathBuf> {
    let archive = out.join(format!("virt-launcher-{VERSION}-amd64.tar"));
    let stamp = out.join("virt-launcher.pinned");
    let recipe = format!("{}{INCLUDED}{VIRTQEMUD}{}", programs::pinned()?, include_str!("images.rs"));
    if archive.is_file() && fs::read_to_string(&stamp).is_ok_and(|s| s == recipe) {
        return Ok(archive);
    }
    tools::debian(&PACKAGES)?;
    println!("making the image of KubeVirt's launcher, a Debian with libvirt and QEMU (one minute) …");
    let start = Instant::now();
    let base = out.join("base.tar");
    let root = out.join("root");
    remove(&root)?;
    let mut cmd = Command::new("debootstrap");
    cmd.args(["--variant=minbase", &format!("--include={INCLUDED}"), RELEASE]).arg(&root).arg(MIRROR);
    proc::logged(&mut cmd, &paths::cache().join("log/debootstrap.log"))?;
    furnish(&root, bin)?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--xattrs", "--xattrs-include=security.capability", "--file"]);
    proc::run(tar.arg(&base).arg("--directory").arg(&root).arg("."))?;
    remove(&root)?;
    let names = ["virt-launcher", "virt-handler"].map(image_name).to_vec();
    let image = Image { names, base: Some(base.clone()), ..Image::named("", &["/usr/bin/virt-launcher"]) };
    let written = image.write(out)?;
    fs::remove_file(base)?;
    fs::write(stamp, recipe)?;
    println!("the launcher's image is there after {}", seconds(start.elapsed()));
    Ok(written)
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

/// What Debian lacks.
fn furnish(root: &Path, bin: &Path) -> Result<()> {
    let source = programs::source()?.join("cmd");
    for dir in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"] {
        remove(&root.join(dir))?;
    }
    for dir in [
        "etc/libvirt/hooks",
        "home/qemu",
        "var/log/libvirt/qemu",
        "var/lib/libvirt/qemu",
        "var/cache/libvirt/qemu",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    // It must stay right where the image is not the root.
    fs::remove_file(root.join("var/run"))?;
    symlink("../run", root.join("var/run"))?;
    let programs = ["chroot", "freezer", "handler", "launcher", "launcher-monitor", "probe", "tail"];
    for name in programs.map(|p| format!("virt-{p}")) {
        copy(&bin.join(&name), &root.join("usr/bin").join(&name), 0o755)?;
    }
    for (from, to, mode) in [
        ("virt-launcher/node-labeller/node-labeller.sh", "usr/bin/node-labeller.sh", 0o755),
        ("virt-launcher/qemu.conf", "etc/libvirt/qemu.conf", 0o644),
        ("virt-launcher/virtqemud.conf", "etc/libvirt/virtqemud.conf", 0o644),
        ("virt-launcher/qemu", "etc/libvirt/hooks/qemu", 0o755),
        ("virt-launcher/nsswitch.conf", "etc/nsswitch.conf", 0o644),
    ] {
        copy(&source.join(from), &root.join(to), mode)?;
    }
    fs::write(root.join("etc/libvirt/virtlogd.conf"), "")?;
    let daemon = root.join("usr/sbin/virtqemud");
    fs::write(&daemon, VIRTQEMUD)?;
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755))?;
    let mut cc = Command::new("gcc");
    cc.args(["-O2", "-static", "-o"]).arg(root.join("usr/bin/container-disk"));
    proc::run(cc.arg(source.join("container-disk-v2alpha/main.c")))?;
    users(root)?;
    let mut cmd = Command::new("setcap");
    proc::run(cmd.arg("cap_net_bind_service=+ep").arg(root.join("usr/bin/virt-launcher-monitor")))
}

/// User and group 107.
fn users(root: &Path) -> Result<()> {
    for (file, rest) in [("etc/passwd", ":x:107:107::/home/qemu:/bin/sh"), ("etc/group", ":x:107:")] {
        let path = root.join(file);
        let mut text: String = fs::read_to_string(&path)?
            .lines()
            .filter(|l| !l.contains(":107:"))
            .flat_map(|l| [l, "\n"])
            .collect();
        for user in USERS {
            let _ = writeln!(text, "{user}{rest}");
        }
        fs::write(path, text)?;
    }
    for dir in ["home/qemu", "var/log/libvirt/qemu", "var/lib/libvirt/qemu", "var/cache/libvirt/qemu"] {
        std::os::unix::fs::chown(root.join(dir), Some(107), Some(107))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}
