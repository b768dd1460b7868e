//! `kill -9`: a child process appends and says what was acknowledged; all of that is found afterwards.
//!
//! This shows that acknowledgements follow the write to the operating system, not that they follow the disk's own
//! cache: that an fsync comes first is shown by the order of calls in the sync thread's tests.

use crate::support::{entry, indexes, open};
use meridian_types::ShardId;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;

/// Set for the child: where it writes.
const CHILD_DIR: &str = "MERIDIAN_STORAGE_KILL_DIR";

const SHARDS: u64 = 3;

/// Acknowledgements after which the child is killed.
const ACKS: usize = 2000;

/// Not a test by itself: the process that is killed.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let store = open(dir.as_ref());
    let logs: Vec<_> = (0..SHARDS).map(|s| store.raft.shard(ShardId(s))).collect();
    let (acked, acks) = mpsc::channel();
    std::thread::spawn(move || {
        for index in 0.. {
            for log in &logs {
                let (acked, shard) = (acked.clone(), log.shard());
                let done = move |result: Result<(), _>| acked.send(result.map(|()| (shard, index))).unwrap();
                log.append(&[(index, entry(index))], Box::new(done)).unwrap();
            }
            // A moment for the disk, now and then, so that there are many groups.
            if index % 16 == 0 {
                logs[0].mark("pause", Some("x".into())).unwrap();
            }
        }
    });
    let mut out = std::io::stdout().lock();
    for ack in acks {
        let (shard, index) = ack.unwrap();
        writeln!(out, "acked {} {index}", shard.0).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn every_acknowledged_entry_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_that_appends_until_it_is_killed", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = [None; SHARDS as usize];
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acks = 0;
    let mut note = |line: std::io::Result<String>| {
        let line = line.unwrap();
        let Some(ack) = line.split("acked ").nth(1) else { return 0 };
        // The last line may have been cut off by the kill.
        let Some((shard, index)) = ack.split_once(' ') else { return 0 };
        let (Ok(shard), Ok(index)) = (shard.parse::<usize>(), index.parse::<u64>()) else { return 0 };
        last[shard] = last[shard].max(Some(index));
        1
    };
    while acks < ACKS {
        acks += note(lines.next().expect("the child goes on"));
    }
    child.kill().unwrap();
    acks += lines.by_ref().map(note).sum::<usize>();
    child.wait().unwrap();

    assert!(acks >= ACKS);
    let store = open(dir.path());
    for (shard, last) in last.into_iter().enumerate() {
        let found = indexes(&store.raft.shard(ShardId(shard as u64)));
        let last = last.expect("every shard had an acknowledgement");
        assert!(found.last().is_some_and(|f| *f >= last), "shard {shard}: acknowledged {last}, found {found:?}");
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "no holes");
    }
}
