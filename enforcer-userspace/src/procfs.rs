//! The only code that opens /proc, apart from the kernel's type information.

mod executable;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use enforcer_common::record::PATH_LEN;

pub(crate) use executable::{executable_path, kernel_file, open_executable, open_named};

/// Why /proc did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcError {
    #[error("read `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("parse `{path}`")]
    Parse {
        path: String,
        #[source]
        source: Box<procfs::ProcError>,
    },
}

fn parse(path: &str) -> impl FnOnce(procfs::ProcError) -> ProcError {
    let path = path.to_owned();
    move |source| ProcError::Parse { path, source: Box::new(source) }
}

fn read(path: &str) -> Result<String, ProcError> {
    std::fs::read_to_string(path).map_err(|source| ProcError::Read { path: path.to_owned(), source })
}

/// Where the cgroup v2 hierarchy is mounted with its root, if it is: also beside v1 hierarchies, as in a hybrid tree.
pub(crate) fn cgroup2_mount() -> Result<Option<PathBuf>, ProcError> {
    let mounts = procfs::process::Process::myself().and_then(|myself| myself.mountinfo());
    let mounts = mounts.map_err(parse("/proc/self/mountinfo"))?;
    // The last mount over a place is the one that is seen there.
    let found = mounts.0.iter().rev().find(|mount| mount.fs_type == "cgroup2" && mount.root == "/");
    Ok(found.map(|mount| mount.mount_point.clone()))
}

/// The largest process id that this host gives out.
pub(crate) fn pid_max() -> Result<u32, ProcError> {
    let path = "/proc/sys/kernel/pid_max";
    let text = read(path)?;
    text.trim().parse().map_err(|_| parse(path)(procfs::ProcError::Other("not a number".into())))
}

/// The names of the kernel's security modules, with commas between them. In securityfs, which need not be mounted.
pub(crate) fn security_modules() -> Result<String, ProcError> {
    Ok(read("/sys/kernel/security/lsm")?.trim().to_owned())
}

/// The release of the running kernel.
pub(crate) fn kernel_release() -> Result<String, ProcError> {
    Ok(read("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// What this host calls itself.
pub(crate) fn host_name() -> Result<String, ProcError> {
    Ok(read("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// Changes at every boot.
pub(crate) fn boot_id() -> Result<String, ProcError> {
    Ok(read("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Which of the namespaces that our programs do not see are not the host's own: kernel programs deal in the initial pid
/// namespace's ids and the whole cgroup tree. The numbers are fixed (v6.1/include/linux/proc_ns.h).
pub(crate) fn foreign_namespaces() -> Result<Vec<&'static str>, ProcError> {
    let initial =
        [("cgroup", 0xEFFF_FFFB_u64), ("pid", 0xEFFF_FFFC), ("user", 0xEFFF_FFFD), ("time", 0xEFFF_FFFA)];
    let mut foreign = Vec::new();
    for (name, inode) in initial {
        let path = format!("/proc/self/ns/{name}");
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.ino() == inode => {}
            Ok(_) => foreign.push(name),
            // A kernel without the namespace has only the initial one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ProcError::Read { path, source }),
        }
    }
    Ok(foreign)
}

/// When a process started, in clock ticks (10 ms) on the boot clock; `None` if there is no such process.
pub(crate) fn start_ticks(pid: u32) -> Result<Option<u64>, ProcError> {
    Ok(stat(pid)?.map(|stat| stat.starttime))
}

fn stat(pid: u32) -> Result<Option<procfs::process::Stat>, ProcError> {
    let stat = i32::try_from(pid)
        .map_err(|_| procfs::ProcError::NotFound(None))
        .and_then(procfs::process::Process::new)
        .and_then(|process| process.stat());
    match stat {
        Ok(stat) => Ok(Some(stat)),
        Err(procfs::ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(parse(&format!("/proc/{pid}/stat"))(error)),
    }
}

/// The capabilities in force for this process, one bit each.
pub(crate) fn effective_capabilities() -> Result<u64, ProcError> {
    let status = procfs::process::Process::myself().and_then(|myself| myself.status());
    Ok(status.map_err(parse("/proc/self/status"))?.capeff)
}

/// The id of the process that a pidfd holds, as this pid namespace knows it; `None` if it has ended.
pub(crate) fn pid_of(pidfd: &std::os::fd::OwnedFd) -> Result<Option<u32>, ProcError> {
    use std::os::fd::AsRawFd as _;
    let text = read(&format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    // -1: ended; 0: in another namespace, which `foreign_namespaces` rules out.
    Ok(pid.and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0))
}

/// The ids of those BPF links that this process has open and that somebody has detached from their cgroup: the kernel then
/// shows no cgroup for them (v6.1/kernel/bpf/cgroup.c, bpf_cgroup_link_show_fdinfo).
pub(crate) fn detached_links() -> Result<HashSet<u32>, ProcError> {
    let dir = "/proc/self/fdinfo";
    let failed = |source| ProcError::Read { path: dir.to_owned(), source };
    let mut detached = HashSet::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        // The descriptor that reads this directory is gone when its own entry is opened.
        let Ok(text) = std::fs::read_to_string(entry.map_err(failed)?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(link), Some(0)) = (field("link_id"), field("cgroup_id")) {
            detached.extend(u32::try_from(link));
        }
    }
    Ok(detached)
}

/// The network namespaces that the threads of these processes are in, each once: its inode, and the namespace held open. Processes and
/// threads that are gone have none.
pub(crate) fn network_namespaces(pids: impl Iterator<Item = u32>) -> Vec<(u32, File)> {
    let mut found: BTreeMap<u32, File> = BTreeMap::new();
    for pid in pids {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let path = thread.path().join("ns/net");
            let inode = std::fs::metadata(&path).ok().and_then(|ns| u32::try_from(ns.ino()).ok());
            let Some(inode) = inode.filter(|inode| !found.contains_key(inode)) else { continue };
            if let Ok(namespace) = File::open(&path) {
                found.insert(inode, namespace);
            }
        }
    }
    found.into_iter().collect()
}

/// A process's arguments, as many as fit what is written down; none if it cannot be read.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    const WORDS: usize = 64;
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).take(WORDS);
    words.map(|word| String::from_utf8_lossy(word).chars().take(PATH_LEN).collect()).collect()
}

/// Whether a process is a thread of the kernel's, which has no program.
pub(crate) fn is_kernel_thread(pid: u32) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let stat = stat(pid).ok().flatten();
    stat.is_some_and(|stat| stat.flags & PF_KTHREAD != 0)
}

/// The processes that a process has made and that are still its own.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let all = all_processes().unwrap_or_default();
    all.into_iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child).collect()
}

/// Every process, with its parent.
pub(crate) fn all_processes() -> Result<Vec<(u32, u32)>, ProcError> {
    let all = procfs::process::all_processes().map_err(parse("/proc"))?;
    let read = |process: procfs::process::Process| {
        let stat = process.stat().ok()?;
        Some((u32::try_from(stat.pid).ok()?, u32::try_from(stat.ppid).ok()?))
    };
    Ok(all.flatten().filter_map(read).collect())
}

/// The processes that a process descends from, up to the first one.
pub(crate) fn ancestors(pid: u32) -> Result<HashSet<u32>, ProcError> {
    let mut above = HashSet::from([1]);
    let mut next = pid;
    while let Some(stat) = stat(next)? {
        match u32::try_from(stat.ppid) {
            Ok(parent) if parent > 1 && above.insert(parent) => next = parent,
            _ => break,
        }
    }
    Ok(above)
}

/// The user that a process runs as; `None` if there is no such process.
pub(crate) fn uid_of(pid: u32) -> Result<Option<u32>, ProcError> {
    let path = format!("/proc/{pid}");
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok(Some(metadata.uid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ProcError::Read { path, source }),
    }
}

/// Whether a process has an io_uring open: files can be registered in it that it has no descriptor for.
pub(crate) fn has_io_uring(pid: u32) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let target = |file: std::fs::DirEntry| std::fs::read_link(file.path()).ok();
    files.flatten().filter_map(target).any(|target| target.as_os_str() == "anon_inode:[io_uring]")
}

/// Clock ticks a second in what /proc says (`USER_HZ`).
pub(crate) const TICKS_PER_SECOND: u64 = 100;
/// How long one is, ns.
pub(crate) const TICK_NS: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// A process's cgroup in the v2 hierarchy, from its root; `None` if there is no such process.
pub(crate) fn cgroup2_of(pid: u32) -> Result<Option<String>, ProcError> {
    let path = format!("/proc/{pid}/cgroup");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(source) => Err(ProcError::Read { path, source }),
    }
}

/// A process's name and executable now, the path as long as a record keeps it; either may be unreadable while it exits.
pub(crate) fn describe(pid: u32) -> (Option<String>, Option<String>) {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let path = path.map(|path| path.to_string_lossy().chars().take(PATH_LEN - 1).collect());
    (comm.map(|comm| comm.trim_end().to_owned()), path)
}
