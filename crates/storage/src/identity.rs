//! The record that ties the two stores, the node and the cluster together.

use crate::engine::{Db, IDENTITY_FAMILY};
use crate::error::{StorageError, StoreName};
use meridian_proto::internal::v1::StoreIdentity;
use prost::Message as _;

/// Format of everything that this crate writes. Raised by every change that an older build cannot read.
pub(crate) const FORMAT: u32 = 1;

/// Where the identity lies, in the default column family of both stores.
const KEY: &[u8] = b"identity";

/// A new identity of no cluster yet. The incarnation has to be random.
pub(crate) fn fresh(incarnation: u64) -> StoreIdentity {
    StoreIdentity { format: FORMAT, cluster_id: String::new(), node: 0, incarnation }
}

/// Reads the identity of one store and refuses formats that this build does not know.
pub(crate) fn read(db: &Db, store: StoreName) -> Result<StoreIdentity, StorageError> {
    let decoded = db.get(IDENTITY_FAMILY, KEY, "read the store's identity", |bytes| decode(bytes, store))?;
    decoded.ok_or(StorageError::IdentityMissing { missing: store })?
}

/// Reads an encoded identity and refuses formats that this build does not know.
pub(crate) fn decode(bytes: &[u8], store: StoreName) -> Result<StoreIdentity, StorageError> {
    let identity =
        StoreIdentity::decode(bytes).map_err(|e| StorageError::corrupt(format!("identity of {store}: {e}")))?;
    if identity.format > FORMAT {
        return Err(StorageError::FormatTooNew { found: identity.format, known: FORMAT });
    }
    Ok(identity)
}

/// Writes the identity and waits until it is in a synced file. It bypasses the write-ahead log, so that it pins
/// none of it.
pub(crate) fn write(db: &Db, identity: &StoreIdentity) -> Result<(), StorageError> {
    db.put_flushed(IDENTITY_FAMILY, KEY, &identity.encode_to_vec(), "write the store's identity")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreOptions};

    #[test]
    fn a_newer_format_in_either_store_is_refused() {
        for newer in [StoreName::Raft, StoreName::Data] {
            let dir = tempfile::tempdir().unwrap();
            let open = || Store::open(dir.path(), StoreOptions::default());
            let store = open().unwrap();
            let db = if newer == StoreName::Raft { store.raft.db() } else { store.data.db() };
            write(db, &StoreIdentity { format: FORMAT + 1, ..store.identity() }).unwrap();
            drop(store);
            let refused = open().err().expect("refused");
            assert!(
                matches!(refused, StorageError::FormatTooNew { found, known } if (found, known) == (FORMAT + 1, FORMAT))
            );
            let refused = crate::inspect::StoppedNode::open(dir.path()).err().expect("refused");
            assert!(matches!(refused, StorageError::FormatTooNew { .. }), "{refused}");
        }
    }
}
