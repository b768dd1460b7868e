//! The real data that the demo imports: countries and languages, as the iso-codes project publishes them.
//!
//! The files are part of the program, so that the demo works wherever the program is. Their licence (LGPL 2.1 or
//! later) and authors are in `data/iso-codes`.

use crate::commands::import::{Target, write_all};
use crate::records::{self, InputFormat};
use anyhow::Context as _;
use indicatif::ProgressBar;
use meridian_client::Session;

/// Writes under way at the same time.
const CONCURRENCY: usize = 32;

/// One file and where it goes.
#[derive(Debug)]
pub(super) struct Dataset {
    /// What the records are.
    pub(super) what: &'static str,
    /// The file's name.
    pub(super) file: &'static str,
    /// The table that it is imported into.
    pub(super) table: &'static str,
    /// The field that becomes the key.
    pub(super) key: &'static str,
    content: &'static [u8],
}

/// ISO 3166-1.
pub(super) const COUNTRIES: Dataset = Dataset {
    what: "countries (ISO 3166-1)",
    file: "iso_3166-1.json",
    table: "countries",
    key: "alpha_2",
    content: include_bytes!("../../../../../data/iso-codes/iso_3166-1.json"),
};

/// ISO 639-2.
pub(super) const LANGUAGES: Dataset = Dataset {
    what: "languages (ISO 639-2)",
    file: "iso_639-2.json",
    table: "languages",
    key: "alpha_3",
    content: include_bytes!("../../../../../data/iso-codes/iso_639-2.json"),
};

impl Dataset {
    /// Imports all records; returns how many.
    pub(super) async fn import(&self, session: &Session) -> anyhow::Result<u64> {
        let records = records::read(self.file.to_owned(), self.content, InputFormat::Json)?;
        let target = Target { table: self.table, key: self.key, concurrency: CONCURRENCY };
        let tally = write_all(session, &target, records, &ProgressBar::hidden()).await;
        tally.imported().with_context(|| format!("the import of the {} is not complete", self.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_record_has_a_key_of_its_own() {
        for (dataset, count) in [(COUNTRIES, 249), (LANGUAGES, 487)] {
            let records = records::read(dataset.file.into(), dataset.content, InputFormat::Json).unwrap();
            let keys: HashSet<_> = records.map(|r| r.unwrap().key(dataset.key).unwrap()).collect();
            assert_eq!(keys.len(), count, "{}", dataset.what);
        }
    }
}
