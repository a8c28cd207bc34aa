//! Somebody else's process of the same user: its memory, its life.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::context::Context;
use crate::sys::{self, At as _, Attempt};

/// Puts the data into the outsider's memory, who sends whatever appears there.
pub(crate) fn trace(context: &Context) -> Attempt {
    let pid = outsider(context);
    ptrace::attach(pid).at("ptrace")?;
    waitpid(pid, None).at("wait")?;
    let place = context.facts[0] as usize;
    // The last word first: the outsider looks at the first.
    for (index, word) in context.magic().chunks(8).enumerate().rev() {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        let address = (place + index * 8) as ptrace::AddressType;
        ptrace::write(pid, address, i64::from_ne_bytes(bytes)).at("ptrace")?;
    }
    ptrace::detach(pid, None).at("ptrace")
}

pub(crate) fn memory_file(context: &Context) -> Attempt {
    let memory =
        File::options().write(true).open(format!("/proc/{}/mem", context.outsider)).at("open mem")?;
    memory.write_all_at(context.magic(), context.facts[0]).at("write mem")
}

pub(crate) fn memory_call(context: &Context) -> Attempt {
    let local = [std::io::IoSlice::new(context.magic())];
    let remote = [RemoteIoVec { base: context.facts[0] as usize, len: context.magic.len() }];
    process_vm_writev(outsider(context), &local, &remote).at("process_vm_writev").map(drop)
}

/// Ends it.
pub(crate) fn signal(context: &Context) -> Attempt {
    kill(outsider(context), Signal::SIGKILL).at("kill")
}

pub(crate) fn signal_by_descriptor(context: &Context) -> Attempt {
    // SAFETY: takes no pointer.
    let process =
        unsafe { sys::syscall("pidfd_open", libc::SYS_pidfd_open, &[context.outsider as usize, 0]) }?;
    let arguments = [process, libc::SIGKILL as usize, 0, 0];
    // SAFETY: no information is passed along.
    unsafe { sys::syscall("pidfd_send_signal", libc::SYS_pidfd_send_signal, &arguments) }.map(drop)
}

/// The kernel signals for us: whoever owns a file is told of it.
pub(crate) fn signal_by_file_owner(context: &Context) -> Attempt {
    use std::os::fd::AsRawFd as _;
    const F_SETSIG: i32 = 10;
    let (reader, writer) = nix::unistd::pipe().at("pipe")?;
    for (command, argument) in [
        (libc::F_SETOWN, context.outsider),
        (F_SETSIG, libc::SIGKILL),
        (libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK),
    ] {
        // SAFETY: these take numbers.
        let set = unsafe { libc::fcntl(reader.as_raw_fd(), command, argument) };
        sys::check("fcntl", set as isize)?;
    }
    nix::unistd::write(&writer, b"!").at("write").map(drop)
}

/// Limits it to no processor time, which ends it.
pub(crate) fn limit(context: &Context) -> Attempt {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let limit = &raw const none;
    // SAFETY: the limit outlives the call, and the old one is not asked for.
    let set = unsafe { libc::prlimit(context.outsider, libc::RLIMIT_CPU, limit, std::ptr::null_mut()) };
    sys::check("prlimit", set as isize).map(drop)
}

/// All of somebody else's cgroup.
pub(crate) fn cgroup_kill(context: &Context) -> Attempt {
    std::fs::write(context.cgroup.join("cgroup.kill"), "1").at("write cgroup.kill")
}

/// The daemon itself.
pub(crate) fn kill_daemon(context: &Context) -> Attempt {
    kill(Pid::from_raw(context.daemon), Signal::SIGKILL).at("kill")
}

fn outsider(context: &Context) -> Pid {
    Pid::from_raw(context.outsider)
}
