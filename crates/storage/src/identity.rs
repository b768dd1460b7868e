//! The record that ties the two stores, the node and the cluster together.

use crate::error::{StorageError, StoreName};
use meridian_proto::internal::v1::StoreIdentity;
use prost::Message as _;
use rocksdb::{DB, FlushOptions, WriteOptions};

/// Format of everything that this crate writes. Raised by every change that an older build cannot read.
pub(crate) const FORMAT: u32 = 1;

/// Where the identity lies, in the default column family of both stores.
const KEY: &[u8] = b"identity";

/// A new identity with a random incarnation, of no cluster yet.
pub(crate) fn draw() -> StoreIdentity {
    StoreIdentity { format: FORMAT, cluster_id: String::new(), node: 0, incarnation: rand::random() }
}

/// Reads the identity of one store and refuses formats that this build does not know.
pub(crate) fn read(db: &DB, store: StoreName) -> Result<StoreIdentity, StorageError> {
    let bytes = db.get(KEY).map_err(StorageError::engine("read the store's identity"))?;
    let bytes = bytes.ok_or(StorageError::IdentityMissing { missing: store })?;
    let identity = StoreIdentity::decode(bytes.as_slice())
        .map_err(|e| StorageError::corrupt(format!("identity of {store}: {e}")))?;
    if identity.format > FORMAT {
        return Err(StorageError::FormatTooNew { found: identity.format, known: FORMAT });
    }
    Ok(identity)
}

/// Writes the identity and waits until it is in a synced file. It bypasses the write-ahead log, so that it pins
/// none of it.
pub(crate) fn write(db: &DB, identity: &StoreIdentity) -> Result<(), StorageError> {
    let failed = || StorageError::engine("write the store's identity");
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    db.put_opt(KEY, identity.encode_to_vec(), &unlogged).map_err(failed())?;
    let mut wait = FlushOptions::default();
    wait.set_wait(true);
    db.flush_opt(&wait).map_err(failed())
}
