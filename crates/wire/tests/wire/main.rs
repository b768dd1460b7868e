//! The format of the wire: what a node or a client of an earlier build says is understood for ever, and it understands
//! what this build says.
//!
//! `fixtures/v1` has the bytes of one or more messages of every kind that a service takes or gives, as the build wrote
//! them that introduced the kind, or a field of it. They are never written again. Two things hold of each:
//!
//! * It decodes to the values that went in, and what is not in it has its default.
//! * The same values are encoded to the same bytes. So a build that wrote the fixture can read them: fields that came
//!   later take no place while they are not set.
//!
//! When a message is added, add its fixtures in `client.rs` or `peer.rs`; when a field is added, a further one with the
//! field set. Then
//!
//! ```text
//! cargo test -p meridian-wire --test wire -- --ignored write_new_fixtures
//! ```
//!
//! writes the files that are not there yet, and no others.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as the tests themselves do")]

mod client;
mod peer;

use prost::Message;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Says what is wrong with bytes that should decode to a message.
type Check = Box<dyn Fn(&[u8]) -> Result<(), String>>;

/// One message of one kind.
pub(crate) struct Fixture {
    /// Its kind: the message's full name.
    kind: &'static str,
    /// Tells it from others of its kind.
    variant: &'static str,
    /// As this build encodes it.
    encoded: Vec<u8>,
    check: Check,
}

/// The fixture of these values.
pub(crate) fn fixture<M>(kind: &'static str, variant: &'static str, value: M) -> Fixture
where
    M: Message + Default + PartialEq + Debug + 'static,
{
    let encoded = value.encode_to_vec();
    let check = move |bytes: &[u8]| match M::decode(bytes) {
        Ok(found) if found == value => Ok(()),
        Ok(found) => Err(format!("it is {found:?}, not {value:?}")),
        Err(error) => Err(error.to_string()),
    };
    Fixture { kind, variant, encoded, check: Box::new(check) }
}

fn all() -> Vec<Fixture> {
    client::fixtures().into_iter().chain(peer::fixtures()).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

impl Fixture {
    fn name(&self) -> String {
        format!("{}-{}", self.kind, self.variant)
    }

    fn file(&self) -> PathBuf {
        folder().join(format!("{}.bin", self.name()))
    }
}

#[test]
fn what_was_ever_said_is_understood_and_said_the_same_way() {
    let mut named = BTreeSet::new();
    for fixture in all() {
        assert!(named.insert(fixture.file()), "{} twice", fixture.name());
        let bytes = std::fs::read(fixture.file()).unwrap_or_else(|e| panic!("{}: {e}", fixture.file().display()));
        (fixture.check)(&bytes).unwrap_or_else(|why| panic!("{}: {why}", fixture.name()));
        assert_eq!(fixture.encoded, bytes, "{}: an earlier build would read something else", fixture.name());
    }
    let there: BTreeSet<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(there, named, "every file is somebody's");
}

/// A later build's fields do not disturb this one.
#[test]
fn fields_that_are_not_known_are_passed_over() {
    // Field 1000, varint; field 1001, bytes.
    const LATER: [u8; 8] = [0xc0, 0x3e, 0x2a, 0xca, 0x3e, 0x02, b'h', b'i'];
    for fixture in all() {
        let later = [&fixture.encoded[..], &LATER].concat();
        (fixture.check)(&later).unwrap_or_else(|why| panic!("{}: {why}", fixture.name()));
    }
}

#[test]
fn a_fixture_that_says_something_else_is_found() {
    for fixture in all() {
        let Some((_, rest)) = fixture.encoded.split_last() else { continue };
        assert!((fixture.check)(rest).is_err(), "{}", fixture.name());
    }
}

#[test]
fn every_message_of_every_service_has_a_fixture() {
    let descriptors = prost_types::FileDescriptorSet::decode(meridian_proto::DESCRIPTORS).unwrap();
    let methods = descriptors.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let spoken: BTreeSet<&str> = methods.flat_map(|method| [method.input_type(), method.output_type()]).collect();
    assert!(spoken.len() > 30, "{spoken:?}");
    let fixtures = all();
    for message in spoken {
        let kind = message.trim_start_matches('.');
        assert!(fixtures.iter().any(|fixture| fixture.kind == kind), "{kind} has no fixture");
    }
}

#[test]
#[ignore = "writes the fixtures that are not there yet"]
fn write_new_fixtures() {
    for fixture in all().iter().filter(|fixture| !fixture.file().exists()) {
        std::fs::write(fixture.file(), &fixture.encoded).unwrap();
    }
}
