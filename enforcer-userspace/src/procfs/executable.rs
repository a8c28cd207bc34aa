//! What a process executes, and the files that it names.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

use super::ProcError;

/// A file as the kernel tells it from others: on some file systems (overlayfs, btrfs) `stat` says something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelFile {
    pub(crate) inode: u64,
    /// Of its file system, as the kernel counts; nothing if its mount is not to be found, as that of a file in no directory.
    pub(crate) device: Option<u32>,
}

/// The file that a process executes, whatever became of its name; nothing if there is none any more.
pub(crate) fn open_executable(pid: u32) -> Result<Option<File>, ProcError> {
    let path = format!("/proc/{pid}/exe");
    match open_at_once(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(source) => Err(ProcError::Read { path, source }),
    }
}

/// The name that it has, for people.
pub(crate) fn executable_path(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// A file by the name that a process has for it, as `execve` took it: absolute, relative, or `/dev/fd/N`. Goes through no link that leads to
/// a descriptor of ours, and out of no root directory.
pub(crate) fn open_named(pid: u32, name: &str) -> Result<File, ProcError> {
    let opened = match name.strip_prefix("/dev/fd/") {
        Some(rest) => open_by_descriptor(pid, rest),
        None if name.starts_with('/') => {
            let root = directory(&format!("/proc/{pid}/root"));
            root.and_then(|root| open_below(&root, name, ResolveFlag::RESOLVE_IN_ROOT))
        }
        None => shares_our_root(pid).and_then(|()| {
            let here = directory(&format!("/proc/{pid}/cwd"))?;
            open_below(&here, name, ResolveFlag::RESOLVE_NO_MAGICLINKS)
        }),
    };
    opened.map_err(|source| ProcError::Read { path: format!("`{name}` of process {pid}"), source })
}

/// `N`, or `N/name`.
fn open_by_descriptor(pid: u32, rest: &str) -> io::Result<File> {
    let (number, name) = rest.split_once('/').map_or((rest, None), |(number, name)| (number, Some(name)));
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = format!("/proc/{pid}/fd/{number}");
    match name {
        None => regular(open(Path::new(&path), PLACE, Mode::empty())?),
        Some(name) => {
            shares_our_root(pid)?;
            open_below(&directory(&path)?, name, ResolveFlag::RESOLVE_NO_MAGICLINKS)
        }
    }
}

/// A place, which is looked at before anything is opened: to open a device can do something, and a pipe keeps who opens it waiting.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Opens what is at a place, if it is a regular file.
fn regular(place: OwnedFd) -> io::Result<File> {
    let place = File::from(place);
    if !place.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    open_at_once(&format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// Without waiting for whoever has a lease of it (fcntl(2), F_SETLEASE): that can be who is to be measured.
fn open_at_once(path: &str) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn directory(path: &str) -> io::Result<OwnedFd> {
    Ok(open(Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn open_below(directory: &OwnedFd, name: &str, resolve: ResolveFlag) -> io::Result<File> {
    let how = OpenHow::new().flags(PLACE).resolve(resolve);
    regular(openat2(directory.as_fd(), Path::new(name), how)?)
}

/// Where it does not, a link in a relative path could lead somewhere else for us than for the process.
fn shares_our_root(pid: u32) -> io::Result<()> {
    for part in ["root", "ns/mnt"] {
        let of = |process: &str| {
            let metadata = std::fs::metadata(format!("/proc/{process}/{part}"))?;
            io::Result::Ok((metadata.dev(), metadata.ino()))
        };
        if of(&pid.to_string())? != of("self")? {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it has a root directory of its own"));
        }
    }
    Ok(())
}

/// A file that we have open, as the kernel tells it. Its mount is looked for among ours, and among those of a process.
pub(crate) fn kernel_file(file: &File, pid: Option<u32>) -> Result<KernelFile, ProcError> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = super::read(&path)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    let missing = || super::parse(&path)(procfs::ProcError::Other("no inode".into()));
    let inode = field("ino").ok_or_else(missing)?;
    let mount = field("mnt_id");
    let find = |process: &str| {
        let mounts = std::fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
        device_of_mount(&mounts, mount?)
    };
    let device = find("self").or_else(|| find(&pid?.to_string()));
    Ok(KernelFile { inode, device })
}

/// The device of the mount with this number: `36 35 98:0 /mnt1 ...` (proc_pid_mountinfo(5)).
fn device_of_mount(mounts: &str, number: u64) -> Option<u32> {
    const MINOR_BITS: u32 = 20;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let is_it = fields.next()?.parse() == Ok(number);
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let device = major.parse::<u32>().ok()? << MINOR_BITS | minor.parse::<u32>().ok()?;
        is_it.then_some(device)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number() {
        let mounts = "36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw\n360 35 0:4096 / /x rw - overlay o rw\n";
        assert_eq!(device_of_mount(mounts, 36), Some(98 << 20));
        assert_eq!(device_of_mount(mounts, 360), Some(4096));
        assert_eq!(device_of_mount(mounts, 35), None);
    }

    #[test]
    fn an_open_file_is_told_as_the_kernel_does() {
        let file = File::open("/proc/self/exe").unwrap();
        let told = kernel_file(&file, None).unwrap();
        assert!(told.inode != 0, "{told:?}");
    }

    #[test]
    fn names_lead_to_no_descriptor_of_ours() {
        let pid = std::process::id();
        assert!(open_named(pid, "/proc/self/exe").is_err(), "a magic link");
        assert!(open_named(pid, "/dev/fd/x").is_err());
        assert!(open_named(pid, "/etc/passwd").is_ok(), "control: a plain name");
        assert!(open_named(pid, "Cargo.toml").is_ok(), "control: a relative one");
    }
}
