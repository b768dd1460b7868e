//! Staging: what arrived whole is not sent again, whatever breaks in between, and nothing else counts as arrived.

use crate::support::{Machine, block_on, folder, on_both_engines, state};
use meridian_probe::{Sabotage, set_sabotages};
use meridian_proto::internal::v1::SnapshotManifest;
use meridian_storage::{DataBatch, StorageError, Store};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(8);

on_both_engines!(
    files_that_are_whole_are_not_asked_for_again,
    a_file_that_is_not_what_the_manifest_says_is_not_taken,
    another_manifest_discards_what_was_collected,
    damage_in_between_is_found_when_the_folder_is_opened,
    a_power_loss_leaves_whole_files_and_no_part,
    leftovers_that_nobody_can_use_are_removed,
    manifests_that_cannot_be_staged_are_refused,
    resuming_with_another_snapshots_files_is_noticed,
);

/// Puts rows and ledger records up to `last`, and the position.
fn fill(store: &Store, last: u64) {
    let mut batch = DataBatch::default();
    for ts in 1..=last {
        batch.put_version(TABLE, format!("k{ts:03}").as_bytes(), Timestamp(ts), Some(format!("v{ts}").into()));
        batch.put_ledger(SHARD, &RequestId { time: Timestamp(ts), client: 1, sequence: ts }, b"outcome");
    }
    batch.put_shard_state(SHARD, &state(last, last));
    store.data.write(batch).unwrap();
}

/// A snapshot, with the content of its files in order. Two files: versions and ledger.
fn cut(store: &Store) -> (SnapshotManifest, Vec<bytes::Bytes>) {
    let dir = folder(store, "s3-out-0");
    let manifest = store.data.build_snapshot(SHARD, TABLE, &KeyRange::all(), &dir).unwrap();
    let read = async |name: &String| {
        let mut file = store.files().open(&dir.join(name)).await.unwrap();
        file.chunk(1 << 20).await.unwrap().unwrap()
    };
    let contents = block_on(async {
        let mut contents = Vec::new();
        for file in &manifest.files {
            contents.push(read(&file.name).await);
        }
        contents
    });
    assert!(contents.len() >= 2, "resuming by file needs files");
    (manifest, contents)
}

fn lacking(store: &Store, manifest: &SnapshotManifest) -> Vec<usize> {
    store.stage(SHARD, manifest).unwrap().lacking().collect()
}

/// Receives so many whole files, and half of the next one.
fn receive(store: &Store, manifest: &SnapshotManifest, contents: &[bytes::Bytes], whole: usize) {
    let mut staging = store.stage(SHARD, manifest).unwrap();
    block_on(async {
        for _ in 0..whole {
            let mut file = staging.begin().await.unwrap().unwrap();
            let content = &contents[file.index()];
            for chunk in content.chunks(content.len() / 2 + 1) {
                assert!(!file.is_complete());
                file.write(chunk).await.unwrap();
            }
            assert!(file.is_complete() && file.offset() == content.len() as u64);
            staging.finish(file).await.unwrap();
        }
        if let Some(mut part) = staging.begin().await.unwrap() {
            let content = &contents[part.index()];
            part.write(&content[..content.len() / 2]).await.unwrap();
        }
    });
}

fn files_that_are_whole_are_not_asked_for_again(there: Machine) {
    let here = there.another();
    let (from, to) = (there.open(), here.open());
    fill(&from, 300);
    let (manifest, contents) = cut(&from);
    let all: Vec<usize> = (0..contents.len()).collect();
    assert_eq!(lacking(&to, &manifest), all);
    for whole in all {
        receive(&to, &manifest, &contents, 1);
        assert_eq!(lacking(&to, &manifest), (whole + 1..contents.len()).collect::<Vec<_>>());
    }
    let staging = to.stage(SHARD, &manifest).unwrap();
    assert_eq!((staging.lacking_bytes(), block_on(staging.begin()).unwrap().is_none()), (0, true));
    to.install_snapshot(SHARD, TABLE, &KeyRange::all(), staging.dir(), staging.manifest()).unwrap();
    let rows = |store: &Store| {
        let all = store.data.view().scan(TABLE, &KeyRange::all(), Timestamp::MAX, false, usize::MAX, usize::MAX);
        all.unwrap().rows
    };
    assert_eq!((rows(&to).len(), rows(&to)), (300, rows(&from)));
    to.discard_staged(SHARD).unwrap();
    assert_eq!(rows(&to), rows(&from), "the database has its own names of the files");
}

fn a_file_that_is_not_what_the_manifest_says_is_not_taken(there: Machine) {
    let here = there.another();
    let (from, to) = (there.open(), here.open());
    fill(&from, 50);
    let (manifest, contents) = cut(&from);
    let mut staging = to.stage(SHARD, &manifest).unwrap();
    block_on(async {
        let mut short = staging.begin().await.unwrap().unwrap();
        short.write(&contents[0][1..]).await.unwrap();
        assert!(matches!(staging.finish(short).await, Err(StorageError::Corrupt { .. })));

        let mut flipped = contents[0].to_vec();
        flipped[7] ^= 1;
        let mut wrong = staging.begin().await.unwrap().unwrap();
        wrong.write(&flipped).await.unwrap();
        assert!(matches!(staging.finish(wrong).await, Err(StorageError::Corrupt { .. })));

        let mut long = staging.begin().await.unwrap().unwrap();
        long.write(&contents[0]).await.unwrap();
        assert!(matches!(long.write(b"x").await, Err(StorageError::Corrupt { .. })));
    });
    assert_eq!(lacking(&to, &manifest), (0..contents.len()).collect::<Vec<_>>());
}

fn another_manifest_discards_what_was_collected(there: Machine) {
    let here = there.another();
    let (from, to) = (there.open(), here.open());
    fill(&from, 300);
    let (manifest, contents) = cut(&from);
    receive(&to, &manifest, &contents, 1);

    // Another id, and the same id with other files: as if another leader had cut the same position.
    let mut other = manifest.clone();
    other.snapshot_id += "x";
    assert_eq!(lacking(&to, &other).len(), contents.len());
    assert_eq!(lacking(&to, &manifest).len(), contents.len(), "one folder at a time");
    receive(&to, &manifest, &contents, 1);
    let mut same_id = manifest.clone();
    same_id.files[1].crc32c ^= 1;
    assert_eq!(lacking(&to, &same_id).len(), contents.len());

    // Another shard's folder is left alone.
    receive(&to, &manifest, &contents, 1);
    let neighbour = SnapshotManifest { shard: 31, ..manifest.clone() };
    drop(to.stage(ShardId(31), &neighbour).unwrap());
    assert_eq!(lacking(&to, &manifest).len(), contents.len() - 1);
}

fn damage_in_between_is_found_when_the_folder_is_opened(there: Machine) {
    let here = there.another();
    let (from, to) = (there.open(), here.open());
    fill(&from, 300);
    let (manifest, contents) = cut(&from);
    receive(&to, &manifest, &contents, 2);
    let path = to.stage(SHARD, &manifest).unwrap().dir().join(&manifest.files[0].name);
    let mut damaged = contents[0].to_vec();
    damaged[9] ^= 1;
    here.tamper(&path, Some(damaged.into()));
    let expected: Vec<usize> = std::iter::once(0).chain(2..contents.len()).collect();
    assert_eq!(lacking(&to, &manifest), expected);
}

fn a_power_loss_leaves_whole_files_and_no_part(there: Machine) {
    let mut here = there.another();
    let from = there.open();
    fill(&from, 300);
    let (manifest, contents) = cut(&from);
    receive(&here.open(), &manifest, &contents, 1);
    let to = here.crash();
    assert_eq!(lacking(&to, &manifest), (1..contents.len()).collect::<Vec<_>>());
}

fn leftovers_that_nobody_can_use_are_removed(there: Machine) {
    let mut here = there.another();
    let (from, to) = (there.open(), here.open());
    fill(&from, 300);
    let (manifest, contents) = cut(&from);
    let names = |store: &Store| -> Vec<bool> {
        let files = store.files();
        let probe = |dir: &str, file: &str| block_on(files.open(&folder(store, dir).join(file))).is_ok();
        let staged = format!("s3-in-{}", manifest.snapshot_id);
        vec![probe("s3-out-0", "manifest"), probe(&staged, "receiving"), probe("mine", "receiving")]
    };
    to.data.build_snapshot(SHARD, TABLE, &KeyRange::all(), &folder(&to, "s3-out-0")).unwrap();
    receive(&to, &manifest, &contents, 1);
    to.files().create_dir(&folder(&to, "mine")).unwrap();
    block_on(async {
        to.files().create(&folder(&to, "mine").join("receiving")).await.unwrap().finish().await.unwrap();
        to.raft.shard(SHARD).save_vote("vote".into()).await.unwrap();
    });
    to.files().sync_dir(&folder(&to, "mine")).unwrap();
    to.files().sync_dir(&to.snapshots_dir()).unwrap();
    drop(to);

    // What is cut here is of no use to another process; what was received is, and what is not of this module stays.
    let to = here.crash();
    to.remove_leftovers().unwrap();
    assert_eq!(names(&to), [false, true, true]);
    assert_eq!(lacking(&to, &manifest).len(), contents.len() - 1);

    // Not newer than what is here.
    fill(&to, 300);
    to.remove_leftovers().unwrap();
    assert_eq!(names(&to), [false, false, true]);

    // Of a shard that is not here.
    let elsewhere = SnapshotManifest { shard: 4, ..manifest.clone() };
    let dir = to.stage(ShardId(4), &elsewhere).unwrap().dir().to_owned();
    to.remove_leftovers().unwrap();
    assert!(block_on(to.files().open(&dir.join("receiving"))).is_err());
}

fn manifests_that_cannot_be_staged_are_refused(machine: Machine) {
    let store = machine.open();
    fill(&store, 50);
    let (good, _) = cut(&store);
    let refused = |change: &dyn Fn(&mut SnapshotManifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        assert!(matches!(store.stage(SHARD, &manifest), Err(StorageError::BadSnapshot { .. })), "{manifest:?}");
    };
    refused(&|m| m.shard += 1);
    refused(&|m| m.format += 1);
    refused(&|m| m.snapshot_id = "../../raft".into());
    refused(&|m| m.files[0].name = "../x.sst".into());
    refused(&|m| m.files[0].name = "receiving".into());
    refused(&|m| m.files[0].name = m.files[1].name.clone());
    refused(&|m| m.files[0].bytes = 0);
    refused(&|m| m.files[0].family = "shards".into());
}

fn resuming_with_another_snapshots_files_is_noticed(there: Machine) {
    let here = there.another();
    let (from, to) = (there.open(), here.open());
    fill(&from, 300);
    let (older, contents) = cut(&from);
    receive(&to, &older, &contents, contents.len());
    fill(&from, 301);
    let (newer, _) = cut(&from);
    set_sabotages(&[Sabotage::ResumeOtherSnapshot]);
    let staging = to.stage(SHARD, &newer).unwrap();
    set_sabotages(&[]);
    assert!(staging.lacking().count() < newer.files.len(), "files of the older one are taken for the newer one's");
    let installed = to.install_snapshot(SHARD, TABLE, &KeyRange::all(), staging.dir(), &newer);
    assert!(installed.is_err(), "the installation reads every file again");
    assert_eq!(to.data.view().shard_state(SHARD).unwrap(), None, "before it changes anything");
}
