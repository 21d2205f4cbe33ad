//! Tests that mount file systems: each runs in a process and a mount namespace of its own, so that whatever
//! becomes of it, its mounts and loop devices go with it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says that a test proves nothing here; also where the output of tests that pass is not shown.
pub fn not_run(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "NOT RUN: {test}: {why}");
}

/// Runs `body` with a directory in memory to work in, as the test `test` of this program, if this machine can.
pub fn alone(test: &str, needs: &[&str], body: impl FnOnce(&Path)) {
    const ALONE: &str = "LB_ALONE";
    if std::env::var(ALONE).is_ok_and(|name| name == test) {
        let dir = tempfile::tempdir().unwrap();
        let memory = Mount::new(&["-t", "tmpfs", "-o", "size=4g,mode=755", "none"], dir.path());
        body(memory.path());
        return;
    }
    if let Some(why) = missing(needs) {
        return not_run(test, &why);
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, test)
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{test}: {}\n{out}\n{err}", output.status);
}

/// What this machine lacks.
fn missing(needs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_string());
    }
    for need in needs {
        let there = if need.starts_with('/') {
            File::options().read(true).write(true).open(need).map(drop)
        } else {
            Command::new(need).arg("--version").output().map(drop)
        };
        if let Err(e) = there {
            return Some(format!("it needs {need}: {e}"));
        }
    }
    let output = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("it may not mount: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(e) => Some(format!("it needs unshare: {e}")),
    }
}

/// Runs a command that must succeed.
pub fn run(command: &str, args: &[&str]) -> Output {
    let output = Command::new(command).args(args).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {}: {}, {said}", args.join(" "), output.status);
    output
}

/// Something mounted; dropped, it is detached at once, also where it is in use.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    mounted: bool,
}

impl Mount {
    /// As mount(8) does it with `args`.
    pub fn new(args: &[&str], path: &Path) -> Self {
        run("mount", &[args, &[path.to_str().unwrap()]].concat());
        Self::over(path)
    }

    /// Of what is mounted there already.
    pub fn over(path: &Path) -> Self {
        Self { path: path.to_path_buf(), mounted: true }
    }

    /// The file system in an image; its loop device goes with the mount.
    pub fn image(image: &Path, path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        Self::new(&["-o", "loop", image.to_str().unwrap()], path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until everything is written.
    pub fn unmount(mut self) {
        self.mounted = false;
        run("umount", &[self.path.to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(&self.path).output();
        }
    }
}

/// A new file system of this kind in a sparse image.
pub fn make_image(kind: &str, image: &Path) {
    // XFS makes none below 300 MiB, Btrfs none below 110.
    let (size, args): (u64, &[&str]) = match kind {
        "ext4" => (64 << 20, &["-q", "-F", "-b", "4096", "-E", "nodiscard"]),
        "xfs" => (300 << 20, &["-q", "-f", "-K"]),
        _ => (128 << 20, &["-q", "-f", "-K"]),
    };
    File::create(image).unwrap().set_len(size).unwrap();
    run(&format!("mkfs.{kind}"), &[args, &[image.to_str().unwrap()]].concat());
}
