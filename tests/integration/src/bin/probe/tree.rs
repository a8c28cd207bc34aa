//! A tree of processes that hold connections and fork all the while, for somebody to register while it runs.

use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpStream};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use serde_json::json;

use crate::attempt::{print_line, tcp_socket};
use crate::{shapes, sys};

/// What all processes of the tree see.
#[derive(Default)]
#[repr(C)]
struct Shared {
    /// Workers whose connections are open.
    ready: AtomicU32,
    phase: AtomicU32,
    /// Children that were begun when it was said to be registered, by what came of their connect.
    refused: AtomicU32,
    reached: AtomicU32,
    failed: AtomicU32,
    /// Children before that.
    before: AtomicU32,
    allowed_alive: AtomicU32,
    allowed_dead: AtomicU32,
    refused_alive: AtomicU32,
    refused_dead: AtomicU32,
}

/// Not registered yet.
const FREE: u32 = 0;
/// Somebody said that it is.
const REGISTERED: u32 = 1;
/// Look at the connections and end.
const LAST: u32 = 2;

/// Lines on standard input move it on: the first says that it is registered, the second asks for the end. Prints `ready` when all
/// connections are open, and what was counted at the end.
pub(crate) fn run(workers: u32, pairs: u32, allowed: SocketAddr, refused: SocketAddr) {
    let shared = share();
    for worker in 0..workers {
        // Pairs as even as can be.
        let pairs = pairs / workers + u32::from(worker < pairs % workers);
        shapes::fork_to(|| {
            // Whatever ends the first process, a failing test among others, ends those that fork.
            prctl::set_pdeathsig(Signal::SIGKILL).expect("it is a signal");
            work(shared, workers, pairs, allowed, refused);
            // SAFETY: takes no pointer.
            unsafe { libc::_exit(0) };
        });
    }
    shapes::wait_until(|| shared.ready.load(SeqCst) == workers);
    print_line("ready");
    for line in io::stdin().lock().lines().take(2) {
        line.expect("standard input is text");
        shared.phase.fetch_add(1, SeqCst);
    }
    shared.phase.store(LAST, SeqCst);
    for _ in 0..workers {
        wait().expect("there is a worker");
    }
    let count = |counter: &AtomicU32| counter.load(SeqCst);
    print_line(
        &json!({
            "before": count(&shared.before),
            "refused": count(&shared.refused),
            "reached": count(&shared.reached),
            "failed": count(&shared.failed),
            "allowed_alive": count(&shared.allowed_alive),
            "allowed_dead": count(&shared.allowed_dead),
            "refused_alive": count(&shared.refused_alive),
            "refused_dead": count(&shared.refused_dead),
        })
        .to_string(),
    );
}

fn work(shared: &Shared, workers: u32, pairs: u32, allowed: SocketAddr, refused: SocketAddr) {
    let connect = |to| TcpStream::connect(to).expect("reachable before anybody is registered");
    let sockets: Vec<[TcpStream; 2]> = (0..pairs).map(|_| [connect(allowed), connect(refused)]).collect();
    shared.ready.fetch_add(1, SeqCst);
    // The forks of the first must not take the ports and the processor from those that still connect.
    shapes::wait_until(|| shared.ready.load(SeqCst) == workers);
    loop {
        let phase = shared.phase.load(SeqCst);
        let code = child(refused);
        let counter = match (phase, code) {
            (FREE, _) => &shared.before,
            (_, REFUSED) => &shared.refused,
            (_, REACHED) => &shared.reached,
            _ => &shared.failed,
        };
        counter.fetch_add(1, SeqCst);
        if phase == LAST {
            break;
        }
        debug_assert!(phase <= REGISTERED, "phases follow each other");
    }
    for [allowed, refused] in sockets {
        let is_alive = |mut socket: &TcpStream| {
            socket.write_all(b"x").is_ok() && socket.take_error().is_ok_and(|e| e.is_none())
        };
        let count = |alive, dead, is_alive: bool| -> &AtomicU32 { if is_alive { alive } else { dead } };
        count(&shared.allowed_alive, &shared.allowed_dead, is_alive(&allowed)).fetch_add(1, SeqCst);
        count(&shared.refused_alive, &shared.refused_dead, is_alive(&refused)).fetch_add(1, SeqCst);
    }
}

const REFUSED: i32 = 0;
const REACHED: i32 = 1;

/// A child that connects at once, and how it ended.
fn child(to: SocketAddr) -> i32 {
    shapes::fork_to(|| {
        let code = match tcp_socket(to).and_then(|socket| sys::connect(&socket, to.into())) {
            Ok(()) => REACHED,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => REFUSED,
            Err(_) => 2,
        };
        // SAFETY: takes no pointer.
        unsafe { libc::_exit(code) };
    });
    match wait().expect("there is a child") {
        WaitStatus::Exited(_, code) => code,
        _ => 3,
    }
}

/// Memory that children share.
fn share() -> &'static Shared {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping, which stays until the process ends.
    let memory = unsafe { libc::mmap(ptr::null_mut(), size_of::<Shared>(), protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED, "there is a page of memory");
    // SAFETY: zeros, which are counters, at the start of a page.
    unsafe { &*memory.cast::<Shared>() }
}
