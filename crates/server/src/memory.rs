//! How much memory the machine, or the control group that this process is confined to, has.

use meridian_types::MemoryBudget;
use std::path::Path;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The budget of a node that is not told one, of `nodes` on this machine.
pub(crate) fn default_budget(nodes: usize) -> MemoryBudget {
    MemoryBudget::for_machine(available() / nodes.max(1) as u64)
}

/// Bytes that this process may use: the machine's memory, or less if its control group says so.
fn available() -> u64 {
    let machine = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "the fields are narrower on 32-bit machines")]
    let machine = u64::from(machine.totalram).saturating_mul(u64::from(machine.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit(Path::new(CGROUPS), &groups).map_or(machine, |limit| limit.min(machine))
}

/// The smallest limit from the process' control group up to the root. `groups` is what `/proc/self/cgroup` says.
fn limit(root: &Path, groups: &str) -> Option<u64> {
    let smallest = |(base, group, file): (std::path::PathBuf, &str, &str)| {
        // A process in a container may be told a path that is outside of what it sees: then only the root is there.
        let ancestors = Path::new(group.trim_start_matches('/')).ancestors();
        ancestors.filter_map(|at| std::fs::read_to_string(base.join(at).join(file)).ok()?.trim().parse().ok()).min()
    };
    groups.lines().filter_map(|line| of_line(root, line)).filter_map(smallest).min()
}

/// Mount point, group and limit's file of a line: version 2 of control groups, or version 1's memory controller.
fn of_line<'a>(root: &Path, line: &'a str) -> Option<(std::path::PathBuf, &'a str, &'static str)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    match controllers {
        "" => Some((root.to_owned(), group, "memory.max")),
        _ if controllers.split(',').any(|c| c == "memory") => {
            Some((root.join("memory"), group, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("a/memory.max", "1000\n");
        put("a/b/memory.max", "max\n");
        put("memory/x/memory.limit_in_bytes", "500\n");
        let limit = |groups: &str| limit(dir.path(), groups);
        assert_eq!(limit("0::/a/b\n"), Some(1000), "`max` is no limit, the parent's holds");
        assert_eq!(limit("0::/elsewhere\n"), None);
        assert_eq!(limit("5:cpu,memory:/x\n0::/a\n"), Some(500));
        assert_eq!(limit("5:cpuset:/x\n"), None);
        assert_eq!(limit(""), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available() > 32 << 20, "{}", available());
    }
}
