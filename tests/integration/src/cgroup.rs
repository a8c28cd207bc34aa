//! The cgroup that a daemon under test makes for its sessions.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{DEADLINE, scaled, wait_until};

/// Where version 2 of the hierarchy is mounted.
pub fn root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .expect("the integration tests need a mounted cgroup v2 hierarchy")
}

/// Whether somebody wants the processes in `cgroup` to stand still; they may not do so yet.
pub fn is_to_be_frozen(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.freeze")).expect("it is there").trim() == "1"
}

/// The processes in `cgroup` and below it.
pub fn members(cgroup: &Path) -> Vec<i32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let own = own.lines().filter_map(|line| line.parse().ok());
    own.chain(children(cgroup).iter().flat_map(|child| members(child))).collect()
}

/// Kills the processes in `cgroup` and below it, one by one, until there are none. They are the test's own: nobody else
/// knows of this cgroup.
pub(crate) fn kill_members(cgroup: &Path) {
    let end = std::time::Instant::now() + scaled(DEADLINE);
    loop {
        let members = members(cgroup);
        if members.is_empty() || std::time::Instant::now() > end {
            return;
        }
        for pid in members {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::yield_now();
    }
}

/// Removes `cgroup` and those below it. What it cannot remove, it leaves.
pub fn remove(cgroup: &Path) {
    for child in children(cgroup) {
        remove(&child);
    }
    let _ = fs::remove_dir(cgroup);
}

/// Returns when `cgroup` has no process.
pub(crate) fn wait_empty(cgroup: &Path) {
    wait_until(DEADLINE, "the cgroup is empty", || members(cgroup).is_empty().then_some(()));
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
