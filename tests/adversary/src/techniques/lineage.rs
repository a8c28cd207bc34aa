//! Out of the session by birth: processes that might come without the tag, or lose it. Each ends in a plain TCP connection.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, setsid};

use crate::context::{Context, target4};
use crate::sys::{self, At as _, Attempt, name};
use crate::techniques::inet;

/// Waits for a child of the child, which nobody waits for otherwise: it writes this when it is done.
const DONE: &str = "done";

pub(crate) fn double_fork(context: &Context) -> Attempt {
    let child = forked(|| {
        setsid().at("setsid")?;
        // Nobody waits for this one: it is left to init.
        forked(|| finish(context)).map(drop)
    })?;
    waitpid(child, None).at("wait")?;
    wait_done(context)
}

/// The child of a child becomes the attacker's sibling, and so nobody's that the enforcer could know by its parent.
pub(crate) fn clone_parent(context: &Context) -> Attempt {
    let arguments = CloneArguments { flags: libc::CLONE_PARENT as u64, ..CloneArguments::default() };
    clone3(&arguments, || finish(context))?;
    wait_done(context)
}

/// Straight into another cgroup.
pub(crate) fn clone_into_cgroup(context: &Context) -> Attempt {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let cgroup = File::open(&context.cgroup).at("open the cgroup")?;
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    clone3(&arguments, || finish(context))?;
    wait_done(context)
}

pub(crate) fn move_cgroup(context: &Context) -> Attempt {
    fs::write(context.cgroup.join("cgroup.procs"), "0").at("write cgroup.procs")?;
    inet::tcp4(context)
}

pub(crate) fn in_thread(context: &Context) -> Attempt {
    thread::scope(|scope| scope.spawn(|| inet::tcp4(context)).join()).expect("the thread does not panic")
}

/// The first thread ends, and the process lives on in another.
pub(crate) fn leader_exits(context: &Context) -> Attempt {
    let copy = context.clone();
    thread::spawn(move || {
        let status = format!("/proc/{}/stat", std::process::id());
        // The leader is a zombie when it has gone.
        while fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z ")) {
            thread::sleep(Duration::from_millis(1));
        }
        crate::attempt::report(&inet::tcp4(&copy));
        std::process::exit(0);
    });
    // SAFETY: ends this thread alone. Nothing of its stack is in use by the other: what that needs was moved to it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    Ok(())
}

/// Executes from a thread that is not the first: it takes over the first one's number.
pub(crate) fn exec_from_thread(context: &Context) -> Attempt {
    let copy = context.clone();
    thread::spawn(move || exec_own(&copy, "/proc/self/exe")).join().expect("the thread does not panic")
}

/// A program that is in no file.
pub(crate) fn exec_from_memory(context: &Context) -> Attempt {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let memory = memfd_create(c"adversary", MFdFlags::empty()).at("memfd_create")?;
    std::io::copy(
        &mut File::open("/proc/self/exe").at("open")?,
        &mut File::from(memory.try_clone().at("dup")?),
    )
    .at("write")?;
    exec_own(context, &format!("/proc/self/fd/{}", memory.as_raw_fd()))
}

/// The first process of another table of process numbers: it is number 1.
pub(crate) fn process_namespace(context: &Context) -> Attempt {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).at("unshare")?;
    waitpid(forked(|| finish(context))?, None).at("wait")?;
    wait_done(context)
}

/// Into the network of somebody else, where the same address is another machine.
pub(crate) fn network_namespace(context: &Context) -> Attempt {
    let namespace = File::open(format!("/proc/{}/ns/net", context.outsider)).at("open the namespace")?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).at("setns")?;
    inet::udp_sendto4(context)
}

/// More children than the one that was seen first, each with its own datagram.
pub(crate) fn many_children(context: &Context) -> Attempt {
    let children: Vec<Pid> =
        (0..200).map(|_| forked(|| inet::udp_sendto4(context))).collect::<Attempt<_>>()?;
    children.into_iter().try_for_each(|child| waitpid(child, None).at("wait").map(drop))
}

/// On the memory of the parent, which stands still meanwhile.
pub(crate) fn vfork(context: &Context) -> Attempt {
    let mut stack = vec![0; 1 << 20];
    let mut outcome = Ok(());
    let body = Box::new(|| {
        outcome = inet::tcp4(context);
        0
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the child has its own stack, and the parent stands still until the child has exited.
    let child = unsafe { nix::sched::clone(body, &mut stack, flags, Some(libc::SIGCHLD)) }.at("clone")?;
    waitpid(child, None).at("wait")?;
    outcome
}

/// Socket made by one process, used by another that has left the cgroup meanwhile.
pub(crate) fn socket_before_move(context: &Context) -> Attempt {
    let socket = sys::tcp(target4())?;
    fs::write(context.cgroup.join("cgroup.procs"), "0").at("write cgroup.procs")?;
    sys::connect(&socket, &name(target4()))?;
    sys::send(&socket, context.magic())
}

fn exec_own(context: &Context, program: &str) -> Attempt {
    let text = serde_json::to_string(context).map_err(std::io::Error::from).at("write")?;
    Err(Command::new(program).args(["attempt", "tcp-connect4", &text]).exec()).at("execve")
}

/// What the last process of a family does.
fn finish(context: &Context) -> Attempt {
    let outcome = inet::tcp4(context);
    let said = match &outcome {
        Ok(()) => String::new(),
        Err(stop) => format!("{} {}", stop.error.raw_os_error().unwrap_or(0), stop.at),
    };
    let part = context.dir.join("done.part");
    File::create(&part).and_then(|mut file| file.write_all(said.as_bytes())).at("write")?;
    fs::rename(part, context.dir.join(DONE)).at("rename")?;
    outcome
}

/// What [`finish`] came to, in whatever process.
fn wait_done(context: &Context) -> Attempt {
    let path = context.dir.join(DONE);
    for _ in 0..5_000 {
        if let Ok(text) = fs::read_to_string(&path) {
            return match text.split_once(' ') {
                Some((errno, _)) => {
                    let error = std::io::Error::from_raw_os_error(errno.parse().unwrap_or(0));
                    Err(error).at("the last process")
                }
                None => Ok(()),
            };
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err(std::io::Error::from_raw_os_error(libc::ETIMEDOUT)).at("wait for the last process")
}

/// Does something in a child, which ends with it.
fn forked(body: impl FnOnce() -> Attempt) -> Attempt<Pid> {
    // SAFETY: there is one thread.
    match unsafe { fork() }.at("fork")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let outcome = body();
            std::process::exit(i32::from(outcome.is_err()))
        }
    }
}

/// The kernel's `clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3(arguments: &CloneArguments, body: impl FnOnce() -> Attempt) -> Attempt {
    let words = [std::ptr::from_ref(arguments) as usize, size_of::<CloneArguments>()];
    // SAFETY: the arguments outlive the call; without `CLONE_VM` the child has a copy of everything, and one thread.
    if unsafe { sys::syscall("clone3", libc::SYS_clone3, &words) }? == 0 {
        let outcome = body();
        std::process::exit(i32::from(outcome.is_err()));
    }
    Ok(())
}
