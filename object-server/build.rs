//! Compiles the relay's contract, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../changelog-syncer/proto");
    let files = protox::compile(["relay.proto"], ["../changelog-syncer/proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
