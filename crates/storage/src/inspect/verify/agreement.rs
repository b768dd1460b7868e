//! The third pass: do the parts agree with each other?

use super::{Place, Report};
use crate::inspect::{ShardInfo, StoppedNode};
use crate::{Files, verify_snapshot};

/// Checks both stores against each other.
pub(super) fn check(node: &StoppedNode, shards: &[ShardInfo], report: &mut Report) {
    identities(node, report);
    for shard in shards {
        positions(shard, report);
        staged(node, shard, report);
    }
}

fn identities(node: &StoppedNode, report: &mut Report) {
    let [raft, data] = node.identities();
    let claimed = |cluster: &str, node: u64| format!("node {node} of `{cluster}`");
    let mut found = |what: String| report.found(Place::Agreement("identities of the stores".into()), what);
    if raft.incarnation != data.incarnation {
        found(format!("incarnation {:016x} in raft/, {:016x} in data/", raft.incarnation, data.incarnation));
    } else if !raft.cluster_id.is_empty() && !data.cluster_id.is_empty() && raft != data {
        let (raft, data) = (claimed(&raft.cluster_id, raft.node), claimed(&data.cluster_id, data.node));
        found(format!("raft/ belongs to {raft}, data/ to {data}"));
    }
}

/// The data must not be ahead of the log, nor the log begin behind the data (rule D1).
fn positions(info: &ShardInfo, report: &mut Report) {
    let shard = info.shard;
    let mut found = |what: String| report.found(Place::Agreement(format!("{shard}")), what);
    let purged = info.purged.as_ref().map(|id| id.index);
    let applied = info.state.as_ref().and_then(|state| state.applied.as_ref()).map(|id| id.index);
    let last = info.log.map(|(_, last)| last).max(purged);
    // While a snapshot is being installed, the data may be of either side of it.
    if info.install.is_none() {
        if let Some(applied) = applied.filter(|applied| last.is_none_or(|last| last < *applied)) {
            let last = last.map_or_else(|| "is empty".to_owned(), |last| format!("ends with {last}"));
            found(format!("entry {applied} is applied, the log {last}"));
        }
        if let Some(purged) = purged.filter(|purged| applied.is_none_or(|applied| applied < *purged)) {
            let holds = match applied {
                Some(applied) => format!("up to {applied}"),
                None => "nothing, which is right only if its table was being dropped".to_owned(),
            };
            found(format!("the log was purged up to entry {purged}, the data holds {holds}"));
        }
    }
    if let (Some((first, _)), Some(purged)) = (info.log, purged)
        && first > purged + 1
    {
        found(format!("the log was purged up to entry {purged} and begins with {first}"));
    }
    if let (Some(committed), last) = (info.committed.as_ref().map(|id| id.index), last)
        && last.is_none_or(|last| last < committed)
    {
        found(format!("entry {committed} was known to be committed and is not in the log"));
    }
}

/// A snapshot that was being installed has to be there, or the shard is lost.
fn staged(node: &StoppedNode, info: &ShardInfo, report: &mut Report) {
    let Some(mark) = &info.install else { return };
    let shard = info.shard;
    let place = || Place::Agreement(format!("snapshot being installed for {shard}"));
    let Some(manifest) = &mark.manifest else {
        report.found(place(), "the mark has no manifest");
        return;
    };
    if let Err(error) = verify_snapshot(&Files::real(), &node.dir().join(&mark.dir), manifest) {
        report.found(place(), error.to_string());
    }
}
