//! Network namespaces with names, and what is in them.
//!
//! They are made with the program `ip` and not over netlink: a name is a mount in `/run/netns` with rules of its own,
//! `ip netns exec` is what people use beside us, every Linux has it, and what it says when it fails is meant for people.
//! It runs a few times for each host, once in a lab's life.

use super::plan::{PREFIX_BITS, namespace_prefix};
use super::tun::Tun;
use super::{Host, LabError};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// The device of each host.
const DEVICE: &str = "wan0";

/// What Ethernet carries: TCP counts its windows in such packets. The router still gets up to 64 KiB of them at once.
const MTU: u32 = 1500;

/// Packets that wait in a host until the router has run: some hundred milliseconds of a busy host.
const QUEUE_PACKETS: u32 = 10_000;

/// Settings of each namespace. Buffers hold what is on its way in one connection: half of the largest is window, and
/// 32 MiB fill 300 ms with 100 MiB/s. What earlier connections have learned is forgotten, so that runs are alike.
const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/tcp_rmem", "4096 131072 67108864"),
    ("net/ipv4/tcp_wmem", "4096 65536 67108864"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
];

/// Refuses if this process may not make namespaces.
pub fn check_privilege() -> Result<(), LabError> {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    let own = rustix::thread::capabilities(None).map_err(|e| LabError::system("read capabilities", e))?;
    if own.effective.contains(needed) { Ok(()) } else { Err(LabError::Privilege) }
}

/// Makes a host's namespace with its device, and returns the device's other end.
pub(crate) fn create(host: &Host) -> Result<Tun, LabError> {
    ip(&["netns", "add", &host.namespace], "")?;
    let tun = inside(host, || {
        for (name, value) in SETTINGS {
            let path = Path::new("/proc/sys").join(name);
            // An older kernel may not have one of them in a namespace; the lab works with its own value too.
            if let Err(error) = std::fs::write(&path, value) {
                tracing::warn!("{}: {} keeps its value: {error}", host.namespace, path.display());
            }
        }
        Tun::create(DEVICE)
    })?;
    let commands = format!(
        "link set lo up\nlink set {DEVICE} mtu {MTU} txqueuelen {QUEUE_PACKETS} up\n\
         addr add {}/{PREFIX_BITS} dev {DEVICE}\n",
        host.address
    );
    ip(&["-n", &host.namespace, "-batch", "-"], &commands)?;
    Ok(tun)
}

/// Removes a namespace's name; the namespace itself ends with the last process in it. It need not exist.
pub(crate) fn remove(name: &str) -> Result<(), LabError> {
    if !path(name).exists() {
        return Ok(());
    }
    ip(&["netns", "del", name], "").map(drop)
}

/// Names of all namespaces that a lab of this name may have made.
pub(crate) fn of_lab(lab: &str) -> Result<Vec<String>, LabError> {
    let entries = match std::fs::read_dir(NAMES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LabError::system(format!("list {NAMES}"), error)),
    };
    let prefix = namespace_prefix(lab);
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.strip_prefix(&prefix).is_some_and(is_host)).collect())
}

/// `n` and digits: `meridian-a-b-n1` is of the lab `a-b` and not of `a`.
fn is_host(name: &str) -> bool {
    name.strip_prefix('n').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// How many processes are in a namespace.
pub(crate) fn programs(name: &str) -> usize {
    ip(&["netns", "pids", name], "").map_or(0, |pids| pids.lines().count())
}

/// Moves the calling thread, and what it starts from now on, into a host's network. Other threads stay where they are.
pub(crate) fn enter(host: &Host) -> Result<(), LabError> {
    let path = path(&host.namespace);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => LabError::Privilege,
        _ => LabError::system(format!("enter the namespace {}", path.display()), source),
    };
    let namespace = File::open(&path).map_err(failed)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|e| failed(e.into()))
}

/// Runs `f` on a thread of its own in a host's network.
pub(crate) fn inside<T: Send>(host: &Host, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    let run = || {
        enter(host)?;
        f()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Runs `ip` and returns what it prints.
fn ip(arguments: &[&str], input: &str) -> Result<String, LabError> {
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => LabError::Missing { what: "the program `ip`", hint: "install iproute2" },
        _ => LabError::system("run `ip`", error),
    };
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It fails if `ip` has ended, which then says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| LabError::system("wait for `ip`", e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = if said.trim().is_empty() { output.status.to_string() } else { said.trim().to_owned() };
    Err(LabError::Command { command: format!("ip {}", arguments.join(" ")), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_knows_its_own_namespaces() {
        for (name, is) in [("n1", true), ("n12", true), ("n", false), ("b-n1", false), ("n1x", false), ("", false)] {
            assert_eq!(is_host(name), is, "{name}");
        }
    }

    #[test]
    fn what_ip_says_is_handed_on() {
        match ip(&["no-such-object"], "") {
            Err(LabError::Command { command, message }) => {
                assert_eq!(command, "ip no-such-object");
                assert!(message.contains("no-such-object"), "{message}");
            }
            Err(LabError::Missing { .. }) => {} // No iproute2 here.
            other => panic!("{other:?}"),
        }
    }
}
