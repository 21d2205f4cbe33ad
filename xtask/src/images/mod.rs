//! `cargo xtask images`: OCI images of static programs, without a daemon and without a base image.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest as _, Sha256};

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
            name: format!("{REGISTRY}/{name}:{}", env!("CARGO_PKG_VERSION")),
            architecture,
            files: beside.chain([(format!("bin/{name}"), program.clone())]).collect(),
            links: Vec::new(),
            entrypoint: vec![format!("/bin/{name}")],
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
        name: name.to_owned(),
        architecture: "amd64",
        files: vec![(path.to_owned(), file)],
        links: Vec::new(),
        entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
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

/// An image of one layer.
pub(crate) struct Image {
    name: String,
    architecture: &'static str,
    /// Path in the image, file here.
    files: Vec<(String, PathBuf)>,
    /// Path in the image, what the link says.
    links: Vec<(String, String)>,
    entrypoint: Vec<String>,
}

impl Image {
    /// Writes the OCI archive into `out`; the same programs give the same bytes.
    pub(crate) fn write(&self, out: &Path) -> Result<PathBuf> {
        fs::create_dir_all(out)?;
        let base = self.name.rsplit('/').next().unwrap_or(&self.name).replace(':', "-");
        let path = out.join(format!("{base}-{}.tar", self.architecture));
        let layer = self.layer()?;
        let (compressed, diff_id) = (gzip(&layer)?, digest(&layer));
        let config = serde_json::to_vec(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/bin"],
                "Labels": {
                    "org.opencontainers.image.source": "https://github.com/lustre-bridge/lustre-bridge",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }))?;
        let kind = |k: &str| format!("application/vnd.oci.image.{k}");
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": kind("manifest.v1+json"),
            "config": descriptor(&kind("config.v1+json"), &config),
            "layers": [descriptor(&kind("layer.v1.tar+gzip"), &compressed)],
        }))?;
        let mut entry = descriptor(&kind("manifest.v1+json"), &manifest);
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next(),
        });
        let index = serde_json::to_vec(
            &json!({"schemaVersion": 2, "mediaType": kind("index.v1+json"), "manifests": [entry]}),
        )?;
        let mut tar = tar::Builder::new(File::create(&path)?);
        add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        add(&mut tar, "index.json", &index, 0o644)?;
        for blob in [&config, &manifest, &compressed] {
            add(&mut tar, &format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644)?;
        }
        tar.into_inner()?.flush()?;
        Ok(path)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        // Mount points that a read-only root cannot make; a world-writable /tmp for shells.
        for (dir, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
            let mut header = header(0, mode);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, dir, std::io::empty())?;
        }
        for (path, file) in &self.files {
            let mut bytes = Vec::new();
            File::open(file).with_context(|| file.display().to_string())?.read_to_end(&mut bytes)?;
            add(&mut tar, path, &bytes, 0o755)?;
        }
        for (path, to) in &self.links {
            let mut header = header(0, 0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, to)?;
        }
        Ok(tar.into_inner()?)
    }
}

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn add(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    Ok(tar.append_data(&mut header(bytes.len(), mode), path, bytes)?)
}

fn descriptor(kind: &str, blob: &[u8]) -> serde_json::Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    Sha256::digest(blob).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(4));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>, u32)> {
        let mut archive = tar::Archive::new(Cursor::new(bytes));
        let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes, entry.header().mode().unwrap())
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn an_archive_leads_from_the_index_to_the_program() {
        let dir = paths::RunDir::new("images-test").unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "the program").unwrap();
        let image = Image {
            name: "example.org/a/b:1.0".to_owned(),
            architecture: "amd64",
            files: vec![("bin/b".to_owned(), program)],
            links: vec![("bin/c".to_owned(), "b".to_owned())],
            entrypoint: vec!["/bin/b".to_owned()],
        };
        let file = image.write(dir.path()).unwrap();
        let bytes = fs::read(&file).unwrap();
        let all = entries(&bytes);
        let blob = |descriptor: &serde_json::Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let name = format!("blobs/{}", digest.replace(':', "/"));
            let found = all.iter().find(|e| e.0 == name).unwrap().1.clone();
            assert_eq!(super::digest(&found), digest);
            assert_eq!(descriptor["size"], found.len());
            found
        };
        let index: serde_json::Value =
            serde_json::from_slice(&all.iter().find(|e| e.0 == "index.json").unwrap().1).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.org/a/b:1.0");
        let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/b"]));
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&blob(&manifest["layers"][0])[..]).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], super::digest(&layer));
        assert!(entries(&layer).contains(&("bin/b".to_owned(), b"the program".to_vec(), 0o755)));
        assert_eq!(fs::read(image.write(dir.path()).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn architectures_have_their_names_in_images() {
        assert_eq!(architecture("aarch64-unknown-linux-musl").unwrap(), "arm64");
        assert!(architecture("riscv64gc-unknown-linux-musl").is_err());
    }
}
