//! The members' processes.

use crate::metrics::Metrics;
use anyhow::{Context as _, bail};
use meridian_server::listen_free;
use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How many members.
pub(crate) const MEMBERS: usize = 3;
/// Room for every version of every key that a long run writes: the most that etcd recommends; its default is 2 GiB.
const QUOTA_BYTES: u64 = 8 << 30;
/// Pause between looks at members that are not ready yet.
const LOOK: Duration = Duration::from_millis(50);
/// How long a member has to end after it was asked to; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Where Debian puts it; not on every user's PATH.
const DEBIAN: &str = "/usr/bin/etcd";

/// Running members. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Members(Vec<Member>);

/// One running member.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    /// `host:port` for clients; metrics are served there as well.
    client: String,
    log: PathBuf,
    child: Child,
}

/// The etcd program: the one that was named, else the first on `PATH`, else Debian's.
pub(crate) fn find_program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return if named.is_file() { Ok(named.to_owned()) } else { bail!("there is no program {}", named.display()) };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = env::split_paths(&path).map(|dir| dir.join("etcd")).chain([PathBuf::from(DEBIAN)]);
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    found.context(
        "etcd is not installed: on Debian, `apt-get install etcd-server` (and stop the service that it starts), \
         or name the program with --etcd FILE; `--only meridian` measures without it",
    )
}

/// Where one member serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// `host:port` for clients.
    pub(crate) client: String,
    /// `host:port` for the other members.
    pub(crate) peer: String,
}

/// A member that is ready to be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    name: String,
    client: String,
    log: PathBuf,
    command: Command,
}

impl Prepared {
    /// Starts the process, in the network of the calling thread. Has to be called inside a tokio runtime.
    pub(crate) fn launch(mut self) -> anyhow::Result<Member> {
        let child =
            self.command.spawn().with_context(|| format!("cannot run {:?}", self.command.as_std().get_program()))?;
        Ok(Member { name: self.name, client: self.client, log: self.log, child })
    }
}

/// The members of a new cluster at these addresses; data and logs go to `dir`. etcd's own defaults, except for the room
/// that it may use and `options`.
pub(crate) fn prepare(
    program: &Path,
    dir: &Path,
    addresses: &[Addresses],
    options: &[String],
) -> anyhow::Result<Vec<Prepared>> {
    let cluster: Vec<_> =
        addresses.iter().enumerate().map(|(i, at)| format!("{}=http://{}", name(i), at.peer)).collect();
    let member = |(i, Addresses { client, peer }): (usize, &Addresses)| {
        let name = name(i);
        let log = dir.join(format!("{name}.log"));
        let mut command = Command::new(program);
        command
            .args(["--name", &name, "--data-dir"])
            .arg(dir.join(&name))
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-token", "meridian-peers", "--initial-cluster-state", "new"])
            .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string(), "--logger", "zap"])
            .args(options);
        // Options of the user's own etcd are none of ours.
        for (variable, _) in env::vars_os().filter(|(v, _)| v.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(variable);
        }
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // A process group of its own: Ctrl-C reaches only this program, which then stops all.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Prepared { name, client: client.clone(), log, command })
    };
    addresses.iter().enumerate().map(member).collect()
}

impl Members {
    /// Starts a new cluster on free ports of loopback. Has to be called inside a tokio runtime.
    pub(crate) fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        // Held until all are found, so that they differ; released before the members bind them.
        let held = (0..2 * MEMBERS).map(|_| listen_free()).collect::<Result<Vec<_>, _>>()?;
        let found = held.iter().map(|l| Ok(l.local_addr()?.to_string())).collect::<anyhow::Result<Vec<_>>>()?;
        drop(held);
        let (clients, peers) = found.split_at(MEMBERS);
        let pairs = clients.iter().cloned().zip(peers.iter().cloned());
        let addresses: Vec<_> = pairs.map(|(client, peer)| Addresses { client, peer }).collect();
        let launched = prepare(program, dir, &addresses, &[])?.into_iter().map(Prepared::launch);
        Ok(Self(launched.collect::<anyhow::Result<_>>()?))
    }

    /// Members that were started one by one.
    #[cfg(target_os = "linux")]
    pub(crate) fn launched(members: Vec<Member>) -> Self {
        Self(members)
    }

    /// Waits until every member knows a leader. Fails at once if one ends.
    pub(crate) async fn ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let all = async {
            for i in 0..self.0.len() {
                while !knows_leader(&self.0[i].client).await {
                    self.check()?;
                    tokio::time::sleep(LOOK).await;
                }
            }
            Ok(())
        };
        let ready = tokio::time::timeout(within, all).await;
        ready.unwrap_or_else(|_| bail!("the etcd cluster had no leader within {within:?}"))
    }

    /// Fails if a member has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for member in &mut self.0 {
            if let Some(status) = member.child.try_wait()? {
                bail!("etcd member {} ended ({status}); {}", member.name, last_words(&member.log));
            }
        }
        Ok(())
    }

    /// Process ids, in the members' order.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.iter().filter_map(|m| m.child.id()).collect()
    }

    /// `host:port` for clients and metrics, in the members' order.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|m| m.client.clone()).collect()
    }

    /// Asks every member to end, waits, and kills what does not follow.
    pub(crate) async fn stop(mut self) {
        for member in &self.0 {
            // No id, or no such process: it has ended already.
            let pid = member.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        for member in &mut self.0 {
            if tokio::time::timeout(STOP_LIMIT, member.child.wait()).await.is_err() {
                // Fails only if it has ended meanwhile.
                let _ = member.child.kill().await;
            }
        }
    }
}

fn name(index: usize) -> String {
    format!("etcd{}", index + 1)
}

async fn knows_leader(address: &str) -> bool {
    Metrics::fetch(address).await.is_ok_and(|metrics| metrics.sum("etcd_server_has_leader") == Some(1.0))
}

/// The end of a log, for an error: the folder is removed with this program's end.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<_> = text.lines().rev().take(3).collect();
    format!("its last words: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
