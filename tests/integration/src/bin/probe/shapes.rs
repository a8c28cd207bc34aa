//! The ways in which a process comes to be. Each shape ends in a process that connects to an allowed address and to a
//! refused one, and reports the chain of processes that made it, as the kernel counts them: by who called.

use std::ffi::CString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, clone, unshare};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::wait;
use nix::unistd::{ForkResult, Pid, fork, getppid, setsid};

use crate::{attempt, parse};

type Shape = fn(&Job);

const SHAPES: &[(&str, Shape)] = &[
    ("plain", |job| job.connect(&[own_pid()])),
    ("fork", in_fork),
    ("deep-fork", |job| in_deep_fork(job, &[own_pid()], 5)),
    ("vfork", in_vfork),
    ("clone3", |job| in_clone3(job, 0)),
    ("clone-parent", in_clone_parent),
    ("posix-spawn", in_posix_spawn),
    ("thread", in_thread),
    ("fork-of-thread", in_fork_of_thread),
    ("double-fork-setsid", in_double_fork_setsid),
    ("exec-of-thread", in_exec_of_thread),
    ("leader-exits", in_leader_exits),
    ("pid-namespace", in_pid_namespace),
];

/// What the last process of a shape does.
#[derive(Clone)]
pub(crate) struct Job {
    name: String,
    magic: String,
    allowed: SocketAddr,
    refused: SocketAddr,
}

impl Job {
    pub(crate) fn new(name: &str, magic: &str, allowed: &str, refused: &str) -> Self {
        let [name, magic] = [name, magic].map(str::to_owned);
        Self { name, magic, allowed: parse(allowed), refused: parse(refused) }
    }

    /// The job of a program executed by [`Job::after_exec`] in a process that the chain does not hold yet or, with an exec
    /// in place, ends with.
    pub(crate) fn connect_after_exec(&self, chain: &str) {
        let mut chain: Vec<i32> =
            chain.split(',').map(|pid| pid.parse().expect("a chain is numbers")).collect();
        if chain.last() != Some(&own_pid()) {
            chain.push(own_pid());
        }
        self.connect(&chain);
    }

    fn connect(&self, chain: &[i32]) {
        for (which, address) in [("allowed", self.allowed), ("refused", self.refused)] {
            let label = format!("{}/{which}", self.name);
            let message = format!("{} {label}", self.magic);
            attempt::report(&label, &attempt::tcp_echo(address, message.as_bytes()), chain);
        }
    }

    /// The arguments with which another run of this program does the job.
    fn after_exec(&self, chain: &[i32]) -> Vec<String> {
        let chain: Vec<String> = chain.iter().map(i32::to_string).collect();
        let [allowed, refused] = [self.allowed, self.refused].map(|address| address.to_string());
        vec!["connect".into(), self.name.clone(), self.magic.clone(), chain.join(","), allowed, refused]
    }
}

pub(crate) fn run(job: &Job) {
    let (_, shape) = SHAPES
        .iter()
        .find(|(name, _)| *name == job.name)
        .unwrap_or_else(|| panic!("no such shape: {}", job.name));
    shape(job);
}

fn in_fork(job: &Job) {
    let parent = own_pid();
    fork_to(|| job.connect(&[parent, own_pid()]));
    wait_for_children();
}

fn in_deep_fork(job: &Job, chain: &[i32], levels: u32) {
    if levels == 0 {
        return job.connect(chain);
    }
    fork_to(|| in_deep_fork(job, &[chain, &[own_pid()]].concat(), levels - 1));
    wait_for_children();
}

/// The connection is made while the child still runs on its parent's memory. By `clone`, since `vfork` returns twice
/// into one frame, which a Rust function cannot do; the kernel sees the same flags.
fn in_vfork(job: &Job) {
    let parent = own_pid();
    let mut stack = vec![0; 1 << 20];
    let child = Box::new(|| {
        job.connect(&[parent, own_pid()]);
        0
    });
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the child has its own stack, and the parent stands still until the child has exited.
    unsafe { clone(child, &mut stack, flags, Some(libc::SIGCHLD)) }.expect("clone");
    wait_for_children();
}

fn in_clone3(job: &Job, flags: i32) {
    let parent = own_pid();
    clone3_to(flags, || job.connect(&[parent, own_pid()]));
    wait_for_children();
}

/// The child is its maker's sibling: `getppid` does not lead to the process that made it.
fn in_clone_parent(job: &Job) {
    let root = own_pid();
    fork_to(|| {
        let maker = own_pid();
        clone3_to(libc::CLONE_PARENT, || job.connect(&[root, maker, own_pid()]));
    });
    wait_for_children();
}

fn in_posix_spawn(job: &Job) {
    let program = own_program();
    let mut arguments = vec![program.clone()];
    arguments.extend(job.after_exec(&[own_pid()]));
    let arguments: Vec<CString> =
        arguments.into_iter().map(|text| CString::new(text).expect("no zero in it")).collect();
    let actions = PosixSpawnFileActions::init().expect("posix_spawn_file_actions_init");
    let attributes = PosixSpawnAttr::init().expect("posix_spawnattr_init");
    posix_spawn(program.as_str(), &actions, &attributes, &arguments, &[c""]).expect("posix_spawn");
    wait_for_children();
}

fn in_thread(job: &Job) {
    thread::scope(|scope| scope.spawn(|| job.connect(&[own_pid()])).join().expect("the thread ends well"));
}

fn in_fork_of_thread(job: &Job) {
    thread::scope(|scope| scope.spawn(|| in_fork(job)).join().expect("the thread ends well"));
}

/// As daemons do it: by the time of the connection nobody who made the process is left, nor its terminal session.
fn in_double_fork_setsid(job: &Job) {
    let root = own_pid();
    fork_to(|| {
        setsid().expect("setsid");
        let middle = own_pid();
        fork_to(|| {
            wait_until(|| getppid() != Pid::from_raw(middle));
            job.connect(&[root, middle, own_pid()]);
        });
    });
    wait_for_children();
}

/// The thread that executes takes over the process id; the leader and all others go.
fn in_exec_of_thread(job: &Job) {
    let job = job.clone();
    let thread = thread::spawn(move || {
        let error = Command::new(own_program()).args(job.after_exec(&[own_pid()])).exec();
        panic!("exec: {error}");
    });
    thread.join().expect("exec replaces this thread");
}

fn in_leader_exits(job: &Job) {
    let job = job.clone();
    thread::spawn(move || {
        wait_until(|| leader_state() == Some('Z'));
        job.connect(&[own_pid()]);
        // SAFETY: nothing of this process is left to be run.
        unsafe { libc::_exit(0) };
    });
    // SAFETY: ends this thread only. Its stack stays mapped, and nobody refers to it: the thread owns its job.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the leader is gone");
}

/// In its own namespace the child is process 1; everybody else knows it by another number. With a user namespace it needs no
/// privileges.
fn in_pid_namespace(job: &Job) {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).expect("unshare");
    in_fork(job);
}

/// Runs `child` in a child process. A panic must not unwind into the code of the parent.
pub(crate) fn fork_to(child: impl FnOnce()) {
    // SAFETY: no other thread of this program holds a lock that the child takes: they only wait.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => run_and_exit(child),
        ForkResult::Parent { .. } => {}
    }
}

/// [`fork_to`] by the newer call, which the C library does not offer.
fn clone3_to(flags: i32, child: impl FnOnce()) {
    // With CLONE_PARENT the child takes its maker's exit signal, and the kernel refuses another.
    let exit_signal = if flags & libc::CLONE_PARENT != 0 { 0 } else { libc::SIGCHLD };
    let arguments: [u64; 8] = [flags as u64, 0, 0, 0, exit_signal as u64, 0, 0, 0];
    // SAFETY: the argument is the first version of `struct clone_args`; without CLONE_VM this is a fork.
    match unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) } {
        0 => run_and_exit(child),
        -1 => panic!("clone3: {}", std::io::Error::last_os_error()),
        _ => {}
    }
}

fn run_and_exit(child: impl FnOnce()) -> ! {
    let code = if catch_unwind(AssertUnwindSafe(child)).is_ok() { 0 } else { 101 };
    // SAFETY: takes no pointer. What the parent registered to run at exit is the parent's.
    unsafe { libc::_exit(code) }
}

fn wait_for_children() {
    while wait().is_ok() {}
}

/// The process's number where `/proc` was mounted, which is how the rest of the system knows it; in a pid namespace,
/// `getpid` gives another.
fn own_pid() -> i32 {
    let link = fs::read_link("/proc/self").expect("/proc is mounted");
    link.to_str().and_then(|text| text.parse().ok()).expect("/proc/self names a process")
}

/// By its path, not as `/proc/self/exe`: the file's name becomes the process's.
fn own_program() -> String {
    let path = std::env::current_exe().expect("the program's file is there");
    path.into_os_string().into_string().expect("the path is text")
}

fn leader_state() -> Option<char> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim().chars().next()
}

/// Waits for what has to come; not for ever, because whoever started this may be gone.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(600);
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
