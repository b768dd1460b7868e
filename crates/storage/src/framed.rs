//! Files that hold one message behind its checksum: `crc32c u32 BE | message`.

use bytes::Bytes;
use prost::Message;

/// Why a file is none of these.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    /// Not even a checksum.
    #[error("it is too short for a manifest")]
    Short,
    /// The message is not what was written.
    #[error("its checksum is {found:08x}, not {stored:08x}")]
    Checksum {
        /// What the file says.
        stored: u32,
        /// Of the message that is there.
        found: u32,
    },
    /// Whole, and no message of this kind.
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
}

/// A message as its file has it.
pub(crate) fn encode(message: &impl Message) -> Vec<u8> {
    seal(&message.encode_to_vec())
}

/// Bytes behind their checksum.
pub(crate) fn seal(body: &[u8]) -> Vec<u8> {
    let mut framed = crc32c::crc32c(body).to_be_bytes().to_vec();
    framed.extend_from_slice(body);
    framed
}

/// The message in such a file.
pub(crate) fn decode<M: Message + Default>(framed: &Bytes) -> Result<M, Malformed> {
    let (crc, body) = framed.split_first_chunk().ok_or(Malformed::Short)?;
    let (stored, found) = (u32::from_be_bytes(*crc), crc32c::crc32c(body));
    if stored != found {
        return Err(Malformed::Checksum { stored, found });
    }
    Ok(M::decode(framed.slice_ref(body))?)
}
