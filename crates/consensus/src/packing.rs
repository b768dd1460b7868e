//! Entries on their way to another region, compressed (zstd): bandwidth between regions is what is paid for.
//!
//! A sender packs for a receiver that has said that it can unpack (an older node cannot), and only what is worth it. Each
//! message is packed for itself, so nothing depends on what came before it, and all streams of a node share what packing
//! takes: a context has up to a megabyte, and a node may have thousands of streams. They also share what is known of the
//! receivers: the first message of a new leader, which brings all that its followers lack, is the one most worth packing.

use crate::codec::Malformed;
use crate::peers::MESSAGE_BYTES_MAX;
use bytes::Bytes;
use meridian_proto::internal::v1 as pb;
use meridian_types::NodeId;
use prost::Message as _;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use zstd_safe::{CCtx, CParameter};

/// Fewer bytes than this are sent as they are: a lone small write gains nothing.
const BYTES_MIN: usize = 1 << 10;
/// Packed entries are sent if they take at most this part of what they take unpacked, in percent.
const WORTH_PERCENT: usize = 90;
/// zstd's fastest ordinary level: about 400 MB for each second of a core, where a shard's log has a tenth of that.
const LEVEL: i32 = 1;

/// Contexts kept while nobody packs. In use are at most as many as there are threads: nobody waits while he packs.
const IDLE_MAX: usize = 2;

/// Packs a node's messages. Clones share it.
#[derive(Clone, Default)]
pub struct Packer {
    idle: Arc<Mutex<Vec<CCtx<'static>>>>,
    unpack: Arc<RwLock<BTreeSet<NodeId>>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl Packer {
    fn idle(&self) -> MutexGuard<'_, Vec<CCtx<'static>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a node has said that it unpacks.
    pub(crate) fn may_pack(&self, to: NodeId) -> bool {
        self.unpack.read().unwrap_or_else(PoisonError::into_inner).contains(&to)
    }

    /// What a node has said of that; after a broken connection, when it may be replaced by an older one, nothing is known.
    pub(crate) fn learn(&self, node: NodeId, unpacks: bool) {
        if self.may_pack(node) != unpacks {
            let mut unpack = self.unpack.write().unwrap_or_else(PoisonError::into_inner);
            if unpacks {
                unpack.insert(node)
            } else {
                unpack.remove(&node)
            };
        }
    }

    /// `None` if the library cannot: what was to be packed goes unpacked then.
    fn context(&self) -> Option<CCtx<'static>> {
        let idle = self.idle().pop();
        idle.or_else(|| {
            let mut context = CCtx::try_create()?;
            context.set_parameter(CParameter::CompressionLevel(LEVEL)).ok()?;
            Some(context)
        })
    }

    /// The entries of an append in as few bytes as possible, either packed or as they are.
    pub(crate) fn pack(&self, append: &mut pb::AppendRequest) {
        let plain: usize = append.entries.iter().map(prost::Message::encoded_len).sum();
        if plain < BYTES_MIN {
            return;
        }
        let Some(mut context) = self.context() else { return };
        let packed = pb::PackedEntries { entries: std::mem::take(&mut append.entries) };
        // Only what is worth it fits.
        let mut buffer = vec![0; plain / 100 * WORTH_PERCENT];
        match context.compress2(&mut buffer[..], &packed.encode_to_vec()) {
            Ok(length) => {
                buffer.truncate(length);
                append.packed = buffer.into();
            }
            Err(_) => append.entries = packed.entries,
        }
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(context);
        }
    }
}

/// The entries of an append, unpacked if they were packed.
pub(crate) fn entries_of(append: &mut pb::AppendRequest) -> Result<Vec<pb::Entry>, Malformed> {
    let entries = std::mem::take(&mut append.entries);
    if append.packed.is_empty() {
        return Ok(entries);
    }
    let packed = Bytes::from(unpack(&append.packed).ok_or(Malformed("packed entries"))?);
    append.packed = Bytes::new();
    Ok(pb::PackedEntries::decode(packed).map_err(|_| Malformed("packed entries"))?.entries)
}

/// No more than a message may have, whatever the bytes claim.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let size = zstd_safe::get_frame_content_size(packed).ok()??;
    let size = usize::try_from(size).ok().filter(|size| *size <= MESSAGE_BYTES_MAX)?;
    let mut plain = vec![0; size];
    let written = zstd_safe::decompress(&mut plain[..], packed).ok()?;
    (written == size).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(values: impl IntoIterator<Item = Vec<u8>>) -> pb::AppendRequest {
        let entry =
            |value: Vec<u8>| pb::Entry { log_id: None, payload: Some(pb::entry::Payload::Command(value.into())) };
        pb::AppendRequest { entries: values.into_iter().map(entry).collect(), ..pb::AppendRequest::default() }
    }

    /// Bytes that do not compress.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn what_compresses_is_packed_and_comes_out_as_it_was() {
        let mut sent = append((0..100).map(|i| format!("the value of row {i}").repeat(5).into_bytes()));
        let (entries, plain) = (sent.entries.clone(), sent.encoded_len());
        Packer::default().pack(&mut sent);
        assert!(sent.entries.is_empty() && sent.encoded_len() < plain / 4, "{} of {plain}", sent.encoded_len());
        assert_eq!(entries_of(&mut sent), Ok(entries));
    }

    #[test]
    fn what_does_not_compress_or_is_small_goes_as_it_is() {
        let packer = Packer::default();
        for mut sent in [append([noise(100_000)]), append([vec![7; BYTES_MIN / 2]]), append([])] {
            let before = sent.clone();
            packer.pack(&mut sent);
            assert_eq!(sent, before);
            assert_eq!(entries_of(&mut sent), Ok(before.entries));
        }
    }

    #[test]
    fn contexts_are_used_again_and_few_are_kept() {
        let packer = Packer::default();
        let contexts: Vec<_> = (0..5).map(|_| packer.context().unwrap()).collect();
        drop(contexts);
        let mut sent = append([vec![7; 10_000]]);
        for _ in 0..3 {
            packer.clone().pack(&mut sent.clone());
            assert_eq!(packer.idle().len(), 1);
        }
        packer.idle().extend((0..IDLE_MAX).map(|_| CCtx::create()));
        let taken = packer.context().unwrap();
        packer.pack(&mut sent);
        assert_eq!(packer.idle().len(), IDLE_MAX);
        drop(taken);
    }

    #[test]
    fn damaged_and_boasting_bytes_are_refused() {
        let mut sent = append([vec![7; 100_000]]);
        Packer::default().pack(&mut sent);
        for cut in [0, 4, sent.packed.len() - 1] {
            let mut damaged = sent.clone();
            damaged.packed = match cut {
                0 => Bytes::from_static(b"no frame"),
                cut => damaged.packed.slice(..cut),
            };
            assert_eq!(entries_of(&mut damaged), Err(Malformed("packed entries")));
        }
        let mut buffer = vec![0; 1 << 20];
        let huge = vec![0; MESSAGE_BYTES_MAX + 1];
        let length = zstd_safe::compress(&mut buffer[..], &huge, LEVEL).unwrap();
        let mut boasting = pb::AppendRequest { packed: Bytes::copy_from_slice(&buffer[..length]), ..append([]) };
        assert_eq!(entries_of(&mut boasting), Err(Malformed("packed entries")));
    }
}
