//! Writing a history: one task owns the file, clients hand it records through a bounded queue.

use crate::error::BenchError;
use crate::history::Record;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Most records that wait for the file. When as many do, clients wait: a history is complete or it is worthless.
const QUEUE_RECORDS_MAX: usize = 16_384;

/// Where clients put their records. Cheap to copy.
#[derive(Clone, Debug)]
pub(crate) struct HistorySender(mpsc::Sender<Record>);

impl HistorySender {
    /// Hands a record over. After the file failed, records are dropped: [`HistoryFile::finish`] returns the failure.
    pub(crate) async fn send(&self, record: Record) {
        let _ = self.0.send(record).await;
    }
}

/// The file and the task that writes it.
#[derive(Debug)]
pub(crate) struct HistoryFile {
    path: PathBuf,
    task: JoinHandle<io::Result<()>>,
}

impl HistoryFile {
    /// Creates the file, replacing an older one.
    pub(crate) fn create(path: &Path) -> Result<(Self, HistorySender), BenchError> {
        let file = File::create(path).map_err(|source| BenchError::History { path: path.to_owned(), source })?;
        let (sender, receiver) = mpsc::channel(QUEUE_RECORDS_MAX);
        let task = tokio::task::spawn_blocking(move || write_all(file, receiver));
        Ok((Self { path: path.to_owned(), task }, HistorySender(sender)))
    }

    /// Waits until every record is in the file. All senders must be gone.
    pub(crate) async fn finish(self) -> Result<(), BenchError> {
        self.task.await?.map_err(|source| BenchError::History { path: self.path, source })
    }
}

fn write_all(file: File, mut records: mpsc::Receiver<Record>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    while let Some(record) = records.blocking_recv() {
        serde_json::to_writer(&mut out, &record)?;
        out.write_all(b"\n")?;
    }
    out.into_inner()?.sync_all()
}
