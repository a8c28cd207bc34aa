//! Many attempts, counted.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::{WaitStatus, wait};
use serde_json::json;

use crate::attempt::{print_line, tcp_socket, udp_socket};
use crate::sys::Name;
use crate::{shapes, sys};

/// Children of `quick_forks` at one time.
const PARALLEL: u32 = 16;

/// In `connect_loop`, one round of so many is made by a child.
const ROUNDS_PER_FORK: u64 = 64;

const REFUSED: i32 = 0;
const SUCCEEDED: i32 = 1;

/// Each child's first act is a `connect()`, which is soon after its birth: a tag that comes late is seen here.
pub(crate) fn quick_forks(count: u32, address: SocketAddr) {
    let [mut refused, mut succeeded, mut other] = [0u32; 3];
    let mut reap = || match wait().expect("there is a child") {
        WaitStatus::Exited(_, REFUSED) => refused += 1,
        WaitStatus::Exited(_, SUCCEEDED) => succeeded += 1,
        _ => other += 1,
    };
    for started in 0..count {
        if started >= PARALLEL {
            reap();
        }
        shapes::fork_to(|| {
            let result = udp_socket(address).and_then(|socket| sys::connect(&socket, address.into()));
            let code = match result.map_err(|error| error.raw_os_error()) {
                Err(Some(libc::EPERM)) => REFUSED,
                Ok(()) => SUCCEEDED,
                Err(_) => 2,
            };
            // SAFETY: takes no pointer.
            unsafe { libc::_exit(code) };
        });
    }
    (0..count.min(PARALLEL)).for_each(|_| reap());
    print_line(&json!({ "refused": refused, "succeeded": succeeded, "other": other }).to_string());
}

/// What `connect_loop` has counted.
#[derive(Default)]
struct Totals {
    allowed_ok: AtomicU64,
    allowed_failed: AtomicU64,
    refused_ok: AtomicU64,
    /// Refused with `EPERM`.
    refused_eperm: AtomicU64,
    /// Failed for another reason.
    refused_failed: AtomicU64,
    /// The first errno that neither side explains; 0 for none.
    unexpected: AtomicI32,
}

impl Totals {
    fn allowed(&self, result: io::Result<OwnedFd>) {
        match result {
            Ok(_) => count(&self.allowed_ok),
            Err(error) => {
                count(&self.allowed_failed);
                self.note(&error);
            }
        }
    }

    fn refused(&self, result: io::Result<OwnedFd>) {
        match result {
            Ok(_) => count(&self.refused_ok),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => count(&self.refused_eperm),
            Err(error) => {
                count(&self.refused_failed);
                self.note(&error);
            }
        }
    }

    fn note(&self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(-1);
        // Fails when there has been one before.
        let _ = self.unexpected.compare_exchange(0, errno, Relaxed, Relaxed);
    }

    fn print(&self) {
        let line = json!({
            "allowed_ok": self.allowed_ok.load(Relaxed),
            "allowed_failed": self.allowed_failed.load(Relaxed),
            "refused_ok": self.refused_ok.load(Relaxed),
            "refused_eperm": self.refused_eperm.load(Relaxed),
            "refused_failed": self.refused_failed.load(Relaxed),
            "unexpected": self.unexpected.load(Relaxed),
        });
        print_line(&line.to_string());
    }
}

/// Connects to both addresses until standard input closes. A line on standard input prints the totals so far; they are
/// printed once more at the end.
pub(crate) fn connect_loop(allowed: SocketAddr, refused: SocketAddr) {
    let totals = Totals::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in io::stdin().lock().lines() {
                totals.print();
            }
            stop.store(true, Relaxed);
        });
        for round in 0.. {
            if stop.load(Relaxed) {
                break;
            }
            if round % ROUNDS_PER_FORK == 0 {
                round_of_child(&totals, allowed, refused);
            }
            totals.allowed(connect_tcp(allowed));
            totals.refused(connect_tcp(refused));
            totals.allowed(connect_udp(allowed));
            totals.refused(connect_udp(refused));
        }
    });
    totals.print();
}

/// The child counts for itself and tells by its exit code whether all was as it should be.
fn round_of_child(totals: &Totals, allowed: SocketAddr, refused: SocketAddr) {
    shapes::fork_to(|| {
        let reached = connect_tcp(allowed).is_ok();
        let kept_out = connect_tcp(refused).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
        // SAFETY: takes no pointer.
        unsafe { libc::_exit(i32::from(!reached) | i32::from(!kept_out) << 1) };
    });
    let code = match wait().expect("there is a child") {
        WaitStatus::Exited(_, code) => code,
        _ => 3,
    };
    count(if code & 1 == 0 { &totals.allowed_ok } else { &totals.allowed_failed });
    count(if code & 2 == 0 { &totals.refused_eperm } else { &totals.refused_ok });
}

/// Connects to each address in turn, as fast as `threads` threads can, until standard input closes. Prints one line: for each
/// address how many connects passed, and how many were refused with `EPERM`.
pub(crate) fn verdicts(threads: u32, addresses: &[SocketAddr]) {
    let counts: Vec<[AtomicU64; 2]> = addresses.iter().map(|_| Default::default()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // A UDP socket may be connected again and again.
                let sockets: Vec<OwnedFd> =
                    addresses.iter().map(|address| udp_socket(*address).expect("a socket")).collect();
                while !stop.load(Relaxed) {
                    for ((socket, address), [passed, refused]) in sockets.iter().zip(addresses).zip(&counts) {
                        match sys::connect(socket, (*address).into()).map_err(|error| error.raw_os_error()) {
                            Err(Some(libc::EPERM)) => count(refused),
                            _ => count(passed),
                        }
                    }
                }
            });
        }
        // Nothing is written to it.
        io::stdin().lock().lines().for_each(drop);
        stop.store(true, Relaxed);
    });
    let counts: serde_json::Map<_, _> = addresses
        .iter()
        .zip(&counts)
        .map(|(address, [passed, refused])| {
            (address.to_string(), json!([passed.load(Relaxed), refused.load(Relaxed)]))
        })
        .collect();
    print_line(&serde_json::Value::from(counts).to_string());
}

/// Reads addresses, each after a word and a space. For each line `WORD COUNT` on standard input, connects to so many of them,
/// and prints how many nanoseconds that took, how many connects passed, and how many were refused with `EPERM`.
pub(crate) fn connect_times(file: &Path) {
    let text = std::fs::read_to_string(file).expect("the file of addresses");
    let mut addresses: HashMap<&str, Vec<Name>> = HashMap::new();
    for line in text.lines() {
        let (word, address) = line.split_once(' ').expect("WORD ADDRESS");
        addresses.entry(word).or_default().push(crate::parse(address).into());
    }
    let [v4, v6] = ["0.0.0.0:0", "[::]:0"].map(|any| udp_socket(crate::parse(any)).expect("a socket"));
    let mut endless: HashMap<&str, _> =
        addresses.iter().map(|(word, list)| (*word, list.iter().cycle())).collect();
    print_line("ready");
    for line in io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let (word, count) = line.split_once(' ').expect("WORD COUNT");
        let names = endless.get_mut(word).expect("a word of the file");
        let [mut passed, mut refused] = [0u64; 2];
        let start = Instant::now();
        for name in names.take(crate::number(count) as usize) {
            let socket = if matches!(name, Name::V4(_)) { &v4 } else { &v6 };
            match sys::connect(socket, *name) {
                Ok(()) => passed += 1,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => refused += 1,
                Err(error) => panic!("connect: {error}"),
            }
        }
        let took = start.elapsed().as_nanos();
        print_line(&format!("{took} {passed} {refused}"));
    }
}

pub(crate) fn connect_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tcp_socket(address)?;
    // Close with a reset: thousands of connections in TIME_WAIT would use up the local ports.
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    sys::connect(&socket, address.into())?;
    Ok(socket)
}

fn connect_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = udp_socket(address)?;
    sys::connect(&socket, address.into())?;
    Ok(socket)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
