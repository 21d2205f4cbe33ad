//! Builds of the product.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{paths, proc, tools};

/// The target of release binaries: static, so that they run on any Linux.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";

/// Builds the release server, and the syncer beside it; returns the server's path.
pub(crate) fn release() -> Result<PathBuf> {
    Ok(static_programs(&["object-server", "changelog-syncer"], MUSL, Contents::Unnamed)?.remove(0))
}

/// Whether a program carries the list of what it was built from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// It does, as cargo-auditable writes it; that takes a tool which is built first.
    Named,
    /// It does not.
    Unnamed,
}

/// Builds release programs, each of the package of its name, and returns their paths in that order.
pub(crate) fn static_programs(names: &[&str], target: &str, contents: Contents) -> Result<Vec<PathBuf>> {
    tools::rust(&[], &[target])?;
    // Some dependencies hold C code.
    tools::debian(&["gcc", "musl-tools"])?;
    println!("building {} (release, {target}) …", names.join(", "));
    let mut cmd = match contents {
        Contents::Named => {
            let mut cmd = proc::cargo_tool(tools::cargo_tool("cargo-auditable")?);
            cmd.arg("auditable");
            cmd
        }
        Contents::Unnamed => proc::cargo(),
    };
    cmd.args(["build", "--release", "--target", target]);
    for name in names {
        cmd.args(["--package", name]);
    }
    proc::run(&mut cmd)?;
    names.iter().map(|name| existing(paths::target().join(target).join("release").join(name))).collect()
}

/// Builds everything that the tests need, in the one profile that they share, and returns the server's path.
pub(crate) fn debug() -> Result<PathBuf> {
    proc::run(proc::cargo().args(["build", "--workspace", "--exclude", "fuzz", "--all-targets"]))?;
    existing(paths::target().join("debug/object-server"))
}

/// The path, if it was built.
pub(crate) fn existing(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containerfile_has_the_toolchain_of_everything_else() {
        let read = |name: &str| std::fs::read_to_string(paths::repo().join(name)).unwrap();
        let toolchain = read("rust-toolchain.toml");
        let channel = toolchain.lines().find_map(|l| l.strip_prefix("channel = ")).unwrap().trim_matches('"');
        let container = read("Containerfile");
        assert!(container.contains(&format!("ARG RUST=docker.io/library/rust:{channel}-alpine\n")));
        assert!(container.contains(&format!("ENV RUSTUP_TOOLCHAIN={channel}\n")));
    }
}
