//! Attempts at what is not the network: system calls, other processes, the terminal. Each is `KIND/REST`, and is reported as a
//! network attempt is.
//!
//! A call that `call/NAME` makes has arguments with which it does nothing, whoever makes it: what matters is whether the error is
//! the one of a call that was refused.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use libc::{c_long, c_ulong};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::attempt;

const BAD_FD: c_long = -1;
const BAD_FLAGS: c_long = 0x4000_0000;

#[rustfmt::skip]
const CALLS: &[(&str, c_long, [c_long; 6])] = &[
    ("io_uring_setup",     libc::SYS_io_uring_setup,     [1, 0, 0, 0, 0, 0]),
    ("io_uring_enter",     libc::SYS_io_uring_enter,     [BAD_FD, 0, 0, 0, 0, 0]),
    ("io_uring_register",  libc::SYS_io_uring_register,  [BAD_FD, 0, 0, 0, 0, 0]),
    ("bpf",                libc::SYS_bpf,                [10_000, 0, 0, 0, 0, 0]),
    ("perf_event_open",    libc::SYS_perf_event_open,    [0, 0, 0, BAD_FD, 0, 0]),
    ("kexec_load",         libc::SYS_kexec_load,         [0, 0, 0, 0x8000, 0, 0]),
    ("kexec_file_load",    libc::SYS_kexec_file_load,    [BAD_FD, BAD_FD, 0, 0, 0x8000, 0]),
    ("init_module",        libc::SYS_init_module,        [0, 0, 0, 0, 0, 0]),
    ("finit_module",       libc::SYS_finit_module,       [BAD_FD, 0, 0, 0, 0, 0]),
    ("delete_module",      libc::SYS_delete_module,      [0, 0, 0, 0, 0, 0]),
    ("pidfd_getfd",        libc::SYS_pidfd_getfd,        [BAD_FD, 0, 0, 0, 0, 0]),
    ("process_vm_readv",   libc::SYS_process_vm_readv,   [0, 0, 0, 0, 0, 1]),
    ("process_vm_writev",  libc::SYS_process_vm_writev,  [0, 0, 0, 0, 0, 1]),
    ("open_by_handle_at",  libc::SYS_open_by_handle_at,  [BAD_FD, 0, 0, 0, 0, 0]),
    ("userfaultfd",        libc::SYS_userfaultfd,        [BAD_FLAGS, 0, 0, 0, 0, 0]),
    ("add_key",            libc::SYS_add_key,            [0, 0, 0, 0, 0, 0]),
    ("request_key",        libc::SYS_request_key,        [0, 0, 0, 0, 0, 0]),
    ("keyctl",             libc::SYS_keyctl,             [10_000, 0, 0, 0, 0, 0]),
    ("mount",              libc::SYS_mount,              [0, 0, 0, 0, 0, 0]),
    ("umount2",            libc::SYS_umount2,            [0, 0, 0, 0, 0, 0]),
    ("pivot_root",         libc::SYS_pivot_root,         [0, 0, 0, 0, 0, 0]),
    ("fsopen",             libc::SYS_fsopen,             [0, 0, 0, 0, 0, 0]),
    ("fspick",             libc::SYS_fspick,             [BAD_FD, 0, 0, 0, 0, 0]),
    ("fsmount",            libc::SYS_fsmount,            [BAD_FD, 0, 0, 0, 0, 0]),
    ("move_mount",         libc::SYS_move_mount,         [BAD_FD, 0, BAD_FD, 0, BAD_FLAGS, 0]),
    ("open_tree",          libc::SYS_open_tree,          [BAD_FD, 0, BAD_FLAGS, 0, 0, 0]),
    ("mount_setattr",      libc::SYS_mount_setattr,      [BAD_FD, 0, 0, 0, 0, 0]),
];

/// Makes the attempt and reports it.
pub(crate) fn run(spec: &str) {
    let Some((kind, rest)) = spec.split_once('/') else {
        panic!("not a specification: {spec}");
    };
    let pid = || Pid::from_raw(rest.parse().unwrap_or_else(|_| panic!("not a process: {rest}")));
    let result = match kind {
        "call" => call(rest),
        "socket" => attempt::open(rest),
        "socketpair" => pair(rest),
        "abi" => other_abi(rest),
        "terminal" => type_on_terminal(rest),
        "own" => own_child(rest),
        "trace" => seize(pid()),
        "memory" => read_memory(pid()),
        "environment" => File::open(format!("/proc/{rest}/environ")).map(drop),
        "signal" => kill(pid(), Signal::SIGCONT).map_err(io::Error::from),
        _ => panic!("no such kind of attempt: {kind}"),
    };
    attempt::report(spec, &result, &[]);
}

/// A process for others to trace. Where Yama lets only ancestors do so, it says that anybody may.
pub(crate) fn be_target() {
    // SAFETY: takes no pointer. It fails where there is no Yama, and then nothing has to be said.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
    attempt::print_line("ready");
    io::stdin().read_to_end(&mut Vec::new()).expect("standard input is open");
}

fn call(name: &str) -> io::Result<()> {
    let found = CALLS.iter().find(|(known, ..)| *known == name);
    let (_, number, [a, b, c, d, e, f]) = *found.unwrap_or_else(|| panic!("no such call: {name}"));
    // SAFETY: every pointer among the arguments is null, which the kernel refuses or does not look at.
    check(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn pair(name: &str) -> io::Result<()> {
    assert_eq!(name, "unix", "the one family that has pairs on every kernel");
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    Ok(())
}

/// Calls by numbers of another set, in a child: a kernel without the set may end whoever tries.
#[cfg(target_arch = "x86_64")]
fn other_abi(name: &str) -> io::Result<()> {
    const I386_GETPID: i64 = 20;
    const I386_SOCKET: i64 = 359;
    const X32: c_long = 0x4000_0000;
    let body: fn() -> i64 = match name {
        "i386-getpid" => || int80(I386_GETPID, [0; 3]),
        "i386-packet" => || int80(I386_SOCKET, [libc::AF_PACKET, libc::SOCK_RAW, 0]),
        // SAFETY: takes no argument.
        "x32-getpid" => || unsafe { raw_result(libc::syscall(X32 + libc::SYS_getpid)) },
        _ => panic!("no such call: {name}"),
    };
    // Errors are small numbers, and 0 is success.
    let errno = match in_child(|| i32::try_from(-body().min(0)).unwrap_or(254)) {
        WaitStatus::Exited(_, code) => code,
        _ => libc::ENOSYS,
    };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

#[cfg(not(target_arch = "x86_64"))]
fn other_abi(_: &str) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// A call as 32-bit programs make it; the kernel's own result.
#[cfg(target_arch = "x86_64")]
fn int80(number: i64, [first, second, third]: [i32; 3]) -> i64 {
    let result: i64;
    // SAFETY: no argument is a pointer. The compiler keeps `rbx` for itself, so it is exchanged and put back; the others are clobbered as
    // the kernel does for 32-bit callers.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) i64::from(first) => _,
            inlateout("rax") number => result,
            in("rcx") i64::from(second),
            in("rdx") i64::from(third),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
            options(nostack)
        );
    }
    i64::from(result as i32)
}

#[cfg(target_arch = "x86_64")]
fn raw_result(result: c_long) -> i64 {
    if result < 0 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(254)) } else { result }
}

/// Types a letter on a terminal that is this process's own: privileges are needed for others only.
fn type_on_terminal(request: &str) -> io::Result<()> {
    let request: c_ulong = match request {
        "TIOCSTI" => libc::TIOCSTI,
        "TIOCLINUX" => libc::TIOCLINUX,
        // What editors ask all the time.
        "TIOCGWINSZ" => libc::TIOCGWINSZ,
        _ => panic!("no such request: {request}"),
    };
    let pair = nix::pty::openpty(None, None)?;
    let code = in_child(|| errno_of(ask_own_terminal(&pair.slave, request)));
    match code {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
        other => panic!("{other:?}"),
    }
}

fn ask_own_terminal(terminal: &OwnedFd, request: c_ulong) -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())?;
    let mut room = [b'x'; 64];
    // SAFETY: the requests read one byte, or write less than the room there is.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), request, room.as_mut_ptr()) }.into())
}

/// What a debugger does with a program that it has started.
fn own_child(what: &str) -> io::Result<()> {
    // SAFETY: this program has one thread, and the child allocates nothing.
    match unsafe { fork() }? {
        ForkResult::Child => {
            if what == "traceme" && ptrace::traceme().is_err() {
                // SAFETY: takes no pointer.
                unsafe { libc::_exit(1) };
            }
            let _ = raise(Signal::SIGSTOP);
            // SAFETY: takes no pointer.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let result = match what {
                "traceme" => trace_stopped(child),
                "seize" => seize(child),
                "memory" => read_memory(child),
                "signal" => kill(child, Signal::SIGCONT).map_err(io::Error::from),
                _ => panic!("no such attempt: {what}"),
            };
            kill(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            result
        }
    }
}

/// The child has stopped by itself; reads a word of it as debuggers do.
fn trace_stopped(child: Pid) -> io::Result<()> {
    static WORD: c_long = 0x5eed;
    match waitpid(child, None)? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        other => return Err(io::Error::other(format!("{other:?}"))),
    }
    let read = ptrace::read(child, ptr::from_ref(&WORD).cast_mut().cast())?;
    if read == WORD { Ok(()) } else { Err(io::Error::other("another word")) }
}

fn seize(pid: Pid) -> io::Result<()> {
    ptrace::seize(pid, ptrace::Options::empty())?;
    ptrace::interrupt(pid)?;
    waitpid(pid, None)?;
    ptrace::detach(pid, None)?;
    Ok(())
}

/// A byte of the process's memory, at an address that every copy of this program has in common: none, so the first mapping's.
fn read_memory(pid: Pid) -> io::Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let first = maps.split('-').next().and_then(|text| u64::from_str_radix(text, 16).ok());
    let first = first.ok_or_else(|| io::Error::other("no mapping"))?;
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    memory.seek(SeekFrom::Start(first))?;
    memory.read_exact(&mut [0])
}

/// Runs it in a child whose exit code it gives.
fn in_child(body: impl FnOnce() -> i32) -> WaitStatus {
    // SAFETY: this program has one thread.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            let code = body();
            // SAFETY: takes no pointer.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => waitpid(child, None).expect("it is our child"),
    }
}

fn errno_of(result: io::Result<()>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(254))
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
