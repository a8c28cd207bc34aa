//! Network namespaces of the tests' own, with nothing in them but loopback.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A network namespace. Gone when nothing uses it any more.
#[derive(Debug)]
pub struct NetNs(File);

impl NetNs {
    /// A new one; its loopback device is up.
    #[track_caller]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("as root");
            loopback_up();
            File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
        });
        Self(made.join().expect("a namespace can be made"))
    }

    /// The one that a process is in.
    #[track_caller]
    pub fn of(pid: i32) -> Self {
        Self(File::open(format!("/proc/{pid}/ns/net")).expect("the process is there"))
    }

    /// Does something in it, in a thread of its own. A socket made there stays there.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("as root");
            work()
        };
        thread::scope(|scope| scope.spawn(there).join()).expect("it does not panic")
    }

    /// A command line that will run in it.
    #[track_caller]
    pub fn put(&self, command: &mut Command) {
        let namespace = self.0.try_clone().expect("a descriptor is free");
        let enter = move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?);
        // SAFETY: `setns` is one system call: nothing is allocated, no lock is taken.
        unsafe { command.pre_exec(enter) };
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

/// Switches on the loopback device of this thread's network namespace.
fn loopback_up() {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None).expect("a socket");
    // SAFETY: all zeros is a valid value of this structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` outlives the call, and is what this request takes.
    let done = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    assert_eq!(done, 0, "lo: {}", std::io::Error::last_os_error());
}
