//! What fuzz targets call: the decoders of this crate of what comes from clients and peers, with what must hold of their
//! answers. A broken rule is a panic. The values inside requests are decoded by `meridian-wire`.

use crate::{failure, kv};
use bytes::Bytes;
use meridian_proto::internal::v1 as internal;
use prost::Message as _;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: &[Target] = &[("page_token", page_token), ("failure", failure)];

/// A page token, which came from any gateway by way of a client: what is accepted is one of this build's format.
pub fn page_token(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    match kv::decode_page_token(&bytes) {
        Ok(None) => assert!(bytes.is_empty()),
        Ok(Some(token)) => {
            let again = kv::decode_page_token(&token.encode_to_vec().into());
            assert_eq!(again, Ok(Some(token)));
        }
        Err(_) => {}
    }
}

/// A failure at another node: whether something happened is kept, whatever the reason.
pub fn failure(data: &[u8]) {
    let Ok(told) = internal::Failure::decode(data) else { return };
    let error = failure::from_pb(told.clone());
    let again = failure::to_pb(&error);
    assert_eq!((again.outcome_unknown, &again.message), (told.outcome_unknown, &told.message));
    assert_eq!(failure::from_pb(again), error);
}
