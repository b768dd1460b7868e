//! Compiles `proto/` with protox, a protobuf compiler in Rust, and generates messages and services.

use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = [
        "meridian/v1/common.proto",
        "meridian/v1/kv.proto",
        "meridian/v1/tables.proto",
        "meridian/v1/cluster.proto",
        "meridian/internal/v1/log.proto",
        "meridian/internal/v1/disk.proto",
        "meridian/internal/v1/catalog.proto",
        "meridian/internal/v1/peer.proto",
    ];
    let descriptors = protox::compile(files.map(|f| root.join(f)), [&root])?;
    let out = PathBuf::from(env("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Large values travel as reference-counted bytes, never copied.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

fn env(name: &str) -> Result<String, std::env::VarError> {
    std::env::var(name)
}
