//! The nodes of a bootstrapped cluster as child processes.

use crate::bootstrap::NodeFiles;
use futures::future::{join_all, pending, select_all};
use meridian_types::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

/// What `meridian start` prints when its node is ready begins with this.
pub const READY_LINE: &str = "ready:";

/// How long a node has to end after it was asked to; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Running nodes. Dropping it kills those that still run.
#[derive(Debug)]
pub struct Processes {
    program: PathBuf,
    nodes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    files: NodeFiles,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    ready: watch::Receiver<bool>,
}

/// Why the processes do not run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program or the log cannot be opened.
    #[error("cannot run node {}: {source}; its log is {log}", node.0)]
    Spawn {
        /// Which node.
        node: NodeId,
        /// Its log.
        log: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A node ended that nobody had asked to.
    #[error("node {} ended ({status}); its log is {log}", node.0)]
    Died {
        /// Which node.
        node: NodeId,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
    },
    /// A node whose end cannot be waited for.
    #[error("cannot wait for node {}: {source}", node.0)]
    Wait {
        /// Which node.
        node: NodeId,
        /// Why.
        source: io::Error,
    },
    /// Nodes that run and do not become part of the cluster.
    #[error("nodes {nodes:?} were not ready within {within:?}; see their logs")]
    NotReady {
        /// Which ones.
        nodes: Vec<u64>,
        /// How long they had.
        within: Duration,
    },
    /// No such node, or it is not in the state that the request needs.
    #[error("there is no node {} that is {state}", node.0)]
    NoSuchNode {
        /// Which one was named.
        node: NodeId,
        /// What it should have been.
        state: &'static str,
    },
}

impl Processes {
    /// Starts `program start --config …` for every node; their output is appended to their logs. Has to be called
    /// inside a tokio runtime.
    pub fn start(program: &Path, nodes: &[NodeFiles]) -> Result<Self, ProcessError> {
        let started = nodes.iter().map(|files| {
            let running = spawn(program, files).map_err(|source| spawn_error(files, source))?;
            Ok(Process { files: files.clone(), running: Some(running) })
        });
        Ok(Self { program: program.to_owned(), nodes: started.collect::<Result<_, ProcessError>>()? })
    }

    /// Waits until every running node has said that it is ready. Fails at once if one ends.
    pub async fn ready(&mut self, within: Duration) -> Result<(), ProcessError> {
        let mut waiting: Vec<_> =
            self.nodes.iter().filter_map(|p| Some((p.files.node, p.running.as_ref()?.ready.clone()))).collect();
        let all = async {
            // The sender is gone if the node has closed its output, and then it is about to end.
            let each = waiting.iter_mut().map(|(_, ready)| async { ready.wait_for(|is| *is).await.is_ok() });
            if !join_all(each).await.into_iter().all(|is| is) {
                pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            () = all => return Ok(()),
            died = self.died() => Err(died),
            () = tokio::time::sleep(within) => Ok(()),
        };
        outcome?;
        let nodes = waiting.iter().filter(|(_, ready)| !*ready.borrow()).map(|(node, _)| node.0).collect();
        Err(ProcessError::NotReady { nodes, within })
    }

    /// Completes when a node ends by itself, with the reason. Never, if none runs. Cancel safe.
    pub async fn died(&mut self) -> ProcessError {
        let running = self.nodes.iter_mut().filter_map(|p| Some((&p.files, p.running.as_mut()?)));
        let ends: Vec<_> = running.map(|(files, running)| Box::pin(end(files, &mut running.child))).collect();
        if ends.is_empty() {
            return pending().await;
        }
        select_all(ends).await.0
    }

    /// The process id of a node that runs.
    pub fn pid(&self, node: NodeId) -> Option<u32> {
        self.nodes.iter().find(|p| p.files.node == node)?.running.as_ref()?.child.id()
    }

    /// Kills a node without warning (`SIGKILL`), if it has not ended already, and waits until it is gone.
    pub async fn kill(&mut self, node: NodeId) -> Result<(), ProcessError> {
        let process = self.process(node, "running", |p| p.running.is_some())?;
        if let Some(mut running) = process.running.take() {
            // Fails only if the child has been waited for already.
            let _ = running.child.start_kill();
            running.child.wait().await.map_err(|source| ProcessError::Wait { node, source })?;
        }
        Ok(())
    }

    /// Starts a node that was killed. [`Processes::ready`] waits for it.
    pub fn restart(&mut self, node: NodeId) -> Result<(), ProcessError> {
        let program = self.program.clone();
        let process = self.process(node, "stopped", |p| p.running.is_none())?;
        let running = spawn(&program, &process.files).map_err(|source| spawn_error(&process.files, source))?;
        process.running = Some(running);
        Ok(())
    }

    /// Asks every node to end (`SIGTERM`), waits, and kills what does not follow within ten seconds. Returns the
    /// nodes that had to be killed.
    pub async fn stop(mut self) -> Vec<NodeId> {
        let running: Vec<_> =
            self.nodes.iter_mut().filter_map(|p| Some((p.files.node, p.running.take()?.child))).collect();
        for (_, child) in &running {
            // No id, or no such process: it has ended already.
            let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        let ends = running.into_iter().map(|(node, mut child)| async move {
            if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_ok() {
                return None;
            }
            if let Err(error) = child.kill().await {
                tracing::error!("node {} cannot be killed: {error}", node.0);
            }
            Some(node)
        });
        join_all(ends).await.into_iter().flatten().collect()
    }

    fn process(
        &mut self,
        node: NodeId,
        state: &'static str,
        is: impl Fn(&Process) -> bool,
    ) -> Result<&mut Process, ProcessError> {
        let found = self.nodes.iter_mut().find(|p| p.files.node == node && is(p));
        found.ok_or(ProcessError::NoSuchNode { node, state })
    }
}

/// Waits until a process ends.
async fn end(files: &NodeFiles, child: &mut Child) -> ProcessError {
    match child.wait().await {
        Ok(status) => ProcessError::Died { node: files.node, status, log: files.log.clone() },
        Err(source) => ProcessError::Wait { node: files.node, source },
    }
}

fn spawn_error(files: &NodeFiles, source: io::Error) -> ProcessError {
    ProcessError::Spawn { node: files.node, log: files.log.clone(), source }
}

/// One node, in a process group of its own: a Ctrl-C in the terminal reaches only the parent, which then stops all.
fn spawn(program: &Path, files: &NodeFiles) -> io::Result<Running> {
    let log = OpenOptions::new().create(true).append(true).open(&files.log)?;
    let mut command = Command::new(program);
    command.arg("start").arg("--config").arg(&files.config).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
    let mut child = command.spawn()?;
    let (sender, ready) = watch::channel(false);
    if let Some(output) = child.stdout.take() {
        tokio::spawn(follow(output, log, sender));
    }
    Ok(Running { child, ready })
}

/// Copies a node's output to its log and notices when it says that it is ready.
async fn follow(output: ChildStdout, log: File, ready: watch::Sender<bool>) {
    let mut log = tokio::fs::File::from_std(log);
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with(READY_LINE) {
            ready.send_replace(true);
        }
        let written = async {
            log.write_all(format!("{line}\n").as_bytes()).await?;
            log.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!("a node's output is lost: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const WITHIN: Duration = Duration::from_secs(20);

    /// A program that takes `start --config FILE` and runs FILE as a shell script.
    fn nodes(dir: &Path, scripts: &[&str]) -> (PathBuf, Vec<NodeFiles>) {
        let program = dir.join("program");
        std::fs::write(&program, "#!/bin/sh\nexec /bin/sh \"$3\"\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = |(i, script): (u64, &&str)| {
            let config = dir.join(format!("script{i}"));
            std::fs::write(&config, script).unwrap();
            NodeFiles { node: NodeId(i), config, log: dir.join(format!("log{i}")) }
        };
        (program, (1..).zip(scripts).map(files).collect())
    }

    const OBEDIENT: &str = "trap 'echo bye; exit 0' TERM\necho ready: here\nwhile :; do sleep 0.05; done";

    #[tokio::test]
    async fn nodes_become_ready_and_end_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (program, files) = nodes(dir.path(), &[OBEDIENT, OBEDIENT]);
        let mut processes = Processes::start(&program, &files).unwrap();
        processes.ready(WITHIN).await.unwrap();
        assert!(processes.pid(NodeId(1)).is_some());
        assert_eq!(processes.stop().await, []);
        // The last lines are copied by a task that outlives the process.
        let log = || std::fs::read_to_string(&files[0].log).unwrap();
        while !log().contains("bye") {
            tokio::task::yield_now().await;
        }
        assert!(log().starts_with("ready: here"));
    }

    #[tokio::test]
    async fn a_node_that_ends_is_named_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let (program, files) = nodes(dir.path(), &[OBEDIENT, "echo no disk >&2; exit 7"]);
        let mut processes = Processes::start(&program, &files).unwrap();
        let error = processes.ready(WITHIN).await.unwrap_err();
        assert!(
            matches!(&error, ProcessError::Died { node: NodeId(2), status, .. } if status.code() == Some(7)),
            "{error}"
        );
        assert!(error.to_string().contains("log2"), "{error}");
        assert_eq!(std::fs::read_to_string(&files[1].log).unwrap(), "no disk\n");
    }

    #[tokio::test]
    async fn a_killed_node_is_no_surprise_and_can_be_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let (program, files) = nodes(dir.path(), &[OBEDIENT, OBEDIENT]);
        let mut processes = Processes::start(&program, &files).unwrap();
        processes.ready(WITHIN).await.unwrap();
        let first = processes.pid(NodeId(2));
        processes.kill(NodeId(2)).await.unwrap();
        assert!(matches!(processes.kill(NodeId(2)).await, Err(ProcessError::NoSuchNode { .. })));
        let quiet = tokio::time::timeout(Duration::from_millis(100), processes.died()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        processes.restart(NodeId(2)).unwrap();
        processes.ready(WITHIN).await.unwrap();
        assert_ne!(processes.pid(NodeId(2)), first);
        assert!(matches!(processes.restart(NodeId(1)), Err(ProcessError::NoSuchNode { .. })));
    }

    #[tokio::test]
    async fn nodes_that_never_get_ready_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (program, files) = nodes(dir.path(), &[OBEDIENT, "sleep 60"]);
        let mut processes = Processes::start(&program, &files).unwrap();
        let error = processes.ready(Duration::from_millis(500)).await.unwrap_err();
        assert!(error.to_string().contains("[2]"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (_, files) = nodes(dir.path(), &[OBEDIENT]);
        assert!(matches!(Processes::start(&dir.path().join("absent"), &files), Err(ProcessError::Spawn { .. })));
    }
}
