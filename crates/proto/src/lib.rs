//! Code generated from `proto/`, and nothing else. This crate alone knows the bytes of the wire and of the
//! records on disk; what the messages mean is said in the `.proto` files.

/// The public API, version 1.
#[allow(clippy::all, clippy::disallowed_methods)]
pub mod v1 {
    tonic::include_proto!("meridian.v1");
}

/// Between nodes and on disk, version 1.
pub mod internal {
    /// Version 1.
    #[allow(clippy::all, clippy::disallowed_methods)]
    pub mod v1 {
        tonic::include_proto!("meridian.internal.v1");
    }
}

/// All message and service descriptors, encoded, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
