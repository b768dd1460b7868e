//! How errors and common values look on the wire.
//!
//! This crate alone knows how the values of `meridian-types` and the messages of `meridian-proto` translate into
//! each other, and which gRPC code an error travels under. The server encodes replies and decodes requests with it,
//! the client does the opposite, so the two cannot disagree. One module per value, each with `encode` and `decode`;
//! what can be malformed decodes into a [`meridian_types::Error`] that says what to do.

pub mod consistency;
pub mod header;
pub mod placement;
pub mod range;
pub mod receipt;
pub mod request_id;
pub mod status;
pub mod timing;
pub mod within;
