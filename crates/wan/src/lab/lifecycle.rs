//! A lab's life: made, used, and removed whatever became of its router.

use super::client::LabControl;
use super::control::{Controlled, LabStatus, serve};
use super::plan::Plan;
use super::router::{Router, lock};
use super::state::{LabFolder, Lock};
use super::switch::Switch;
use super::tun::Tun;
use super::{Host, LabError, namespace};
use crate::{Place, Topology};
use meridian_clock::{Mono, sleep};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// How long a router may take to end after it was asked to; then it is killed, and then as long again.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Pause between looks at a router that is to end.
const LOOK: Duration = Duration::from_millis(20);

/// What a program finds in its environment: the name of its host.
pub const HOST_VARIABLE: &str = "MERIDIAN_WAN_HOST";

/// What a program finds in its environment: the address of its host.
pub const ADDRESS_VARIABLE: &str = "MERIDIAN_WAN_ADDRESS";

/// A lab whose router runs in this process. [`Lab::down`] or dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    switch: Arc<Mutex<Switch>>,
    stop: CancellationToken,
    server: AbortHandle,
    // Ends before the namespaces are removed.
    router: Option<Router>,
    /// Removed already, so that dropping it has nothing to do.
    is_down: bool,
    folder: LabFolder,
    // The last one: until then nobody else may make a lab of this name.
    _lock: Lock,
}

/// What [`down`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A router that ran.
    Running,
    /// What a router had left that has not cleaned up.
    LeftOver,
    /// Nothing.
    Nothing,
}

impl Lab {
    /// Makes the hosts of a valid topology and carries packets between them. Has to be called inside a tokio runtime,
    /// which then serves the lab's control. `seed` decides the jitter.
    pub async fn up(folder: LabFolder, topology: Topology, seed: u64) -> Result<Self, LabError> {
        let plan = Plan::new(folder.name(), topology, seed)?;
        namespace::check_privilege()?;
        let lock = folder.lock()?;
        if folder.load()?.is_some() || !namespace::of_lab(folder.name())?.is_empty() {
            return Err(LabError::LeftOver(folder.name().to_owned()));
        }
        folder.save(&plan)?;
        let made = tokio::task::spawn_blocking(move || (make(&plan), plan)).await;
        let (tuns, plan) = made.map_err(|e| LabError::system("make the hosts", std::io::Error::other(e)))?;
        let mut lab = Self {
            switch: Arc::new(Mutex::new(Switch::new(plan))),
            stop: CancellationToken::new(),
            server: tokio::spawn(async {}).abort_handle(),
            router: None,
            is_down: false,
            folder,
            _lock: lock,
        };
        // From here on dropping it removes what was made.
        lab.router = Some(Router::start(lab.switch.clone(), tuns?)?);
        let socket = lab.folder.socket();
        let listener = UnixListener::bind(&socket);
        let listener = listener.map_err(|e| LabError::system(format!("listen on {}", socket.display()), e))?;
        let controlled = Controlled { switch: lab.switch.clone(), stop: lab.stop.clone() };
        let server = tokio::spawn(async move {
            if let Err(error) = serve(controlled, listener).await {
                tracing::error!("the lab's control has ended: {error}");
            }
        });
        lab.server = server.abort_handle();
        Ok(lab)
    }

    /// All hosts, in the topology's order.
    pub fn hosts(&self) -> Vec<Host> {
        lock(&self.switch).plan().hosts.clone()
    }

    /// The host of this name, else the first host at the place of this name.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        lock(&self.switch).plan().host(name).cloned()
    }

    /// The topology that it was made from; delays may have been changed since.
    pub fn topology(&self) -> Topology {
        lock(&self.switch).plan().topology.clone()
    }

    /// Hosts, ways and counters.
    pub fn status(&self) -> LabStatus {
        LabStatus::of(&lock(&self.switch))
    }

    /// Cuts two places off from each other.
    pub fn partition(&self, a: &Place, b: &Place) -> Result<(), LabError> {
        Ok(lock(&self.switch).partition(a, b)?)
    }

    /// Cuts a place off from everything outside it.
    pub fn isolate(&self, place: &Place) -> Result<(), LabError> {
        Ok(lock(&self.switch).isolate(place)?)
    }

    /// Lets everything through again. Changed delays stay.
    pub fn heal_all(&self) {
        lock(&self.switch).heal_all();
    }

    /// Completes when somebody has asked the router to end.
    pub async fn asked_to_stop(&self) {
        self.stop.cancelled().await;
    }

    /// Removes everything. Programs in the lab go on, without a network.
    pub fn down(mut self) -> Result<(), LabError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), LabError> {
        if std::mem::replace(&mut self.is_down, true) {
            return Ok(());
        }
        self.server.abort();
        drop(self.router.take());
        clean(&self.folder)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::error!("lab `{}` is not removed: {error}", self.folder.name());
        }
    }
}

/// Makes all hosts; their devices are in the plan's order.
fn make(plan: &Plan) -> Result<Vec<Tun>, LabError> {
    plan.hosts.iter().map(namespace::create).collect()
}

/// Removes the namespaces and the folder of a lab without a router. None of it need exist.
fn clean(folder: &LabFolder) -> Result<(), LabError> {
    for name in namespace::of_lab(folder.name())? {
        namespace::remove(&name)?;
    }
    folder.remove()
}

/// Removes a lab, with its router if that still runs, and says what was there and how many programs are left without a
/// network. A lab that does not exist is removed already.
pub async fn down(folder: &LabFolder) -> Result<(Found, usize), LabError> {
    namespace::check_privilege()?;
    let names = namespace::of_lab(folder.name())?;
    let programs = names.iter().map(|name| namespace::programs(name)).sum();
    let mut found = if folder.exists() || !names.is_empty() { Found::LeftOver } else { Found::Nothing };
    if let Some(pid) = folder.router()? {
        found = Found::Running;
        // Whether it hears or not: next it is looked at whether it ends.
        let asked = LabControl::new(folder.clone()).stop().await;
        if asked.is_err() || !ends(folder, STOP_LIMIT).await? {
            kill(folder, pid)?;
            if !ends(folder, STOP_LIMIT).await? {
                return Err(LabError::Stuck { name: folder.name().to_owned(), pid });
            }
        }
    }
    if folder.exists() || !names.is_empty() {
        let _lock = folder.lock()?;
        clean(folder)?;
    }
    Ok((found, programs))
}

/// Ends a router that does not hear. As long as it holds its lock, the number is its own.
fn kill(folder: &LabFolder, pid: u32) -> Result<(), LabError> {
    if folder.router()? != Some(pid) || pid == std::process::id() {
        return Ok(());
    }
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match process.map(|process| kill_process(process, Signal::KILL)) {
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(LabError::system(format!("kill process {pid}"), error)),
    }
}

/// Whether the router ends within this time.
async fn ends(folder: &LabFolder, within: Duration) -> Result<bool, LabError> {
    let start = Mono::now();
    while folder.router()?.is_some() {
        if start.elapsed() > within {
            return Ok(false);
        }
        sleep(LOOK).await;
    }
    Ok(true)
}

/// Moves the calling thread, and what it starts from now on, into a host's network. Other threads stay where they are.
pub fn enter(host: &Host) -> Result<(), LabError> {
    namespace::enter(host)
}

/// Becomes a program on a host: this process goes on as that program, with its exit code and its signals. Returns only
/// if that fails.
pub fn exec(host: &Host, mut command: Command) -> LabError {
    if let Err(error) = namespace::enter(host) {
        return error;
    }
    command.env(HOST_VARIABLE, &host.name).env(ADDRESS_VARIABLE, host.address.to_string());
    let error = command.exec();
    LabError::system(format!("run {}", command.get_program().display()), error)
}
