//! `cargo xtask images`: OCI images of static programs, without a daemon and without a base image.

mod archive;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

pub(crate) use archive::Image;

use crate::build::Contents;
use crate::cluster::{provisioner, resizer};
use crate::report::seconds;
use crate::{build, paths, proc};

/// Where the product's images are published.
pub(crate) const REGISTRY: &str = "ghcr.io/lustre-bridge";
/// The programs that pods run.
const PROGRAMS: [&str; 3] = ["csi-node", "object-server", "operator"];

/// Makes the product's images.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Where to put the archives. Default: images/ in the target directory.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The Rust target, with musl: for other machines install its C compiler and linker first.
    #[arg(long, default_value = build::MUSL)]
    target: String,
}

impl Options {
    pub(crate) fn main(&self) -> Result<()> {
        let out = self.out.clone().unwrap_or_else(|| paths::target().join("images"));
        for file in write_ours(&out, &self.target, Contents::Named)? {
            println!("{} ({} bytes)", file.display(), fs::metadata(&file)?.len());
        }
        println!(
            "skopeo copy oci-archive:FILE docker://REGISTRY/NAME:TAG publishes one; ctr images import FILE takes one"
        );
        Ok(())
    }
}

/// Builds the product's programs and writes an archive of each.
pub(crate) fn write_ours(out: &Path, target: &str, contents: Contents) -> Result<Vec<PathBuf>> {
    let programs = build::static_programs(&PROGRAMS, target, contents)?;
    write_programs(out, architecture(target)?, &programs, &[])
}

/// The same of what the tests are built with, for tests alone: the programs link this machine's C library, which goes
/// with them.
pub(crate) fn write_debug(out: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    let mut libraries = Vec::new();
    for name in PROGRAMS {
        let program = build::existing(paths::target().join("debug").join(name))?;
        let linked = proc::output(std::process::Command::new("ldd").arg(&program))?;
        libraries.extend(linked.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
        let stripped = out.join(name);
        fs::create_dir_all(out)?;
        proc::run(
            std::process::Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(program),
        )?;
        programs.push(stripped);
    }
    libraries.sort();
    libraries.dedup();
    write_programs(out, "amd64", &programs, &libraries)
}

fn write_programs(
    out: &Path,
    architecture: &'static str,
    programs: &[PathBuf],
    libraries: &[String],
) -> Result<Vec<PathBuf>> {
    let start = std::time::Instant::now();
    let mut files = Vec::new();
    for (name, program) in PROGRAMS.iter().zip(programs) {
        let beside = libraries.iter().map(|l| (l.trim_start_matches('/').to_owned(), PathBuf::from(l)));
        let image = Image {
            architecture,
            files: beside.chain([(format!("bin/{name}"), program.clone())]).collect(),
            ..Image::named(
                &format!("{REGISTRY}/{name}:{}", env!("CARGO_PKG_VERSION")),
                &[&format!("/bin/{name}")],
            )
        };
        files.push(image.write(out)?);
    }
    println!("images of {} in {}", PROGRAMS.join(", "), seconds(start.elapsed()));
    Ok(files)
}

/// The images of others that a node of ours needs: it can reach no registry.
pub(crate) fn of_others() -> Result<Vec<Image>> {
    let busybox = PathBuf::from("/bin/busybox");
    let tools =
        ["sh", "cat", "chroot", "id", "ls", "mkdir", "mount", "nc", "rm", "sleep", "stat", "touch", "wget"];
    let image = |name: &str, path: &str, file: PathBuf, entrypoint: &[&str]| Image {
        files: vec![(path.to_owned(), file)],
        ..Image::named(name, entrypoint)
    };
    let mut shell = image("localhost/busybox:1", "bin/busybox", busybox.clone(), &[]);
    shell.links = tools.iter().map(|t| (format!("bin/{t}"), "busybox".to_owned())).collect();
    Ok(vec![
        image("localhost/pause:1", "bin/busybox", busybox, &["/bin/busybox", "sleep", "infinity"]),
        shell,
        image(
            "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0",
            "csi-provisioner",
            provisioner()?,
            &["/csi-provisioner"],
        ),
        image("registry.k8s.io/sig-storage/csi-resizer:v2.3.0", "csi-resizer", resizer()?, &["/csi-resizer"]),
    ])
}

/// Go's name of a target's architecture, as images have it.
fn architecture(target: &str) -> Result<&'static str> {
    match target.split('-').next() {
        Some("x86_64") => Ok("amd64"),
        Some("aarch64") => Ok("arm64"),
        _ => bail!("images are made for x86_64 and aarch64, not for {target}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_their_names_in_images() {
        assert_eq!(architecture("aarch64-unknown-linux-musl").unwrap(), "arm64");
        assert!(architecture("riscv64gc-unknown-linux-musl").is_err());
    }
}
