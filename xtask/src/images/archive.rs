//! OCI image archives: no daemon, and the same files give the same bytes.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An image of one layer, or of two.
#[derive(Default)]
pub(crate) struct Image {
    /// What it is called; more than one name if it acts for several.
    pub(crate) names: Vec<String>,
    pub(crate) architecture: &'static str,
    /// A tar archive that lies beneath the files.
    pub(crate) base: Option<PathBuf>,
    /// Path in the image, file here.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// Path in the image, what the link says.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) entrypoint: Vec<String>,
    /// Who it runs as; root if empty.
    pub(crate) user: &'static str,
}

impl Image {
    /// One of this architecture without content.
    pub(crate) fn named(name: &str, entrypoint: &[&str]) -> Self {
        Self {
            names: vec![name.to_owned()],
            architecture: "amd64",
            entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// Writes the OCI archive into `out`.
    pub(crate) fn write(&self, out: &Path) -> Result<PathBuf> {
        fs::create_dir_all(out)?;
        let name = self.names.first().context("an image needs a name")?;
        let base = name.rsplit('/').next().unwrap_or(name).replace(':', "-");
        let path = out.join(format!("{base}-{}.tar", self.architecture));
        let layers = self.layers()?;
        let config = Blob::json("config.v1+json", &self.config(&layers))?;
        let manifest = Blob::json(
            "manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": kind("manifest.v1+json"),
                "config": config.descriptor(),
                "layers": layers.iter().map(|l| l.blob.descriptor()).collect::<Vec<_>>(),
            }),
        )?;
        let manifests: Vec<Value> = self.names.iter().map(|name| self.entry(&manifest, name)).collect();
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests}))?;
        let mut tar = tar::Builder::new(File::create(&path)?);
        add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        add(&mut tar, "index.json", &index, 0o644)?;
        for blob in [&config, &manifest].into_iter().chain(layers.iter().map(|l| &l.blob)) {
            blob.write(&mut tar)?;
        }
        tar.into_inner()?.flush()?;
        Ok(path)
    }

    fn config(&self, layers: &[Layer]) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "User": self.user,
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": {
                    "org.opencontainers.image.source": "https://github.com/lustre-bridge/lustre-bridge",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>()},
        })
    }

    fn entry(&self, manifest: &Blob, name: &str) -> Value {
        let mut entry = manifest.descriptor();
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        entry["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rsplit(':').next(),
        });
        entry
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        if let Some(base) = &self.base {
            let blob = Blob::file("layer.v1.tar", base)?;
            layers.push(Layer { diff_id: blob.digest.clone(), blob });
        }
        if self.base.is_none() || !self.files.is_empty() {
            let files = self.files()?;
            let blob = Blob::bytes("layer.v1.tar+gzip", gzip(&files)?);
            layers.push(Layer { diff_id: digest(&files), blob });
        }
        Ok(layers)
    }

    fn files(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        // Mount points that a read-only root cannot make; a world-writable /tmp for shells.
        for (dir, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
            let mut header = header(0, mode);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, dir, io::empty())?;
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

struct Layer {
    blob: Blob,
    /// Of the content without compression.
    diff_id: String,
}

enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

struct Blob {
    kind: String,
    digest: String,
    size: u64,
    content: Content,
}

impl Blob {
    fn bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self {
            kind: kind(name),
            digest: digest(&bytes),
            size: bytes.len() as u64,
            content: Content::Bytes(bytes),
        }
    }

    fn json(name: &str, value: &Value) -> Result<Self> {
        Ok(Self::bytes(name, serde_json::to_vec(value)?))
    }

    /// What is too large to be held in memory.
    fn file(name: &str, path: &Path) -> Result<Self> {
        let mut hash = Sha256::new();
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(buffer.get(..n).unwrap_or_default());
            size += n as u64;
        }
        let content = Content::File(path.to_path_buf());
        Ok(Self { kind: kind(name), digest: hex(&hash.finalize()), size, content })
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": self.digest, "size": self.size})
    }

    fn write(&self, tar: &mut tar::Builder<impl Write>) -> Result<()> {
        let name = format!("blobs/{}", self.digest.replace(':', "/"));
        let mut header = header(self.size, 0o644);
        match &self.content {
            Content::Bytes(bytes) => tar.append_data(&mut header, name, bytes.as_slice())?,
            Content::File(path) => tar.append_data(&mut header, name, File::open(path)?)?,
        }
        Ok(())
    }
}

fn kind(name: &str) -> String {
    format!("application/vnd.oci.image.{name}")
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn add(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    Ok(tar.append_data(&mut header(bytes.len() as u64, mode), path, bytes)?)
}

fn digest(blob: &[u8]) -> String {
    hex(&Sha256::digest(blob))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
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
    use crate::paths;

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
            files: vec![("bin/b".to_owned(), program)],
            links: vec![("bin/c".to_owned(), "b".to_owned())],
            ..Image::named("example.org/a/b:1.0", &["/bin/b"])
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
    fn one_content_has_many_names_and_a_layer_beneath() {
        let dir = paths::RunDir::new("images-base").unwrap();
        let base = dir.path().join("base.tar");
        fs::write(&base, "an archive").unwrap();
        let names = vec!["example.org/a:1".to_owned(), "example.org/b:1".to_owned()];
        let image = Image { names, base: Some(base), user: "1001", ..Image::named("", &["/bin/a"]) };
        let all = entries(&fs::read(image.write(dir.path()).unwrap()).unwrap());
        let json = |name: &str| -> Value {
            serde_json::from_slice(&all.iter().find(|e| e.0 == name).unwrap().1).unwrap()
        };
        let blob = |value: &Value| format!("blobs/{}", value.as_str().unwrap().replace(':', "/"));
        let index = json("index.json");
        let [first, second] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
        assert_eq!(first["digest"], second["digest"]);
        assert_eq!(second["annotations"]["io.containerd.image.name"], "example.org/b:1");
        let manifest = json(&blob(&first["digest"]));
        let [layer] = manifest["layers"].as_array().unwrap().as_slice() else { panic!("{manifest}") };
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        assert!(all.contains(&(blob(&layer["digest"]), b"an archive".to_vec(), 0o644)));
        let config = json(&blob(&manifest["config"]["digest"]));
        assert_eq!(config["config"]["User"], "1001");
        assert_eq!(config["rootfs"]["diff_ids"], json!([layer["digest"]]));
    }
}
