//! Many connections, and many threads that want one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use serde_json::json;

use crate::attempt::{print_line, tcp_socket};
use crate::sys;

/// What each connection sends in its turn.
const MESSAGE: &[u8] = &[b'x'; 64];

/// How long a connection may make no progress before it is counted as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Opens the connections, says `ready`, and has each send in turn, without waiting, until none is left. Then prints what
/// ended how many of them: `ECONNABORTED` and so on.
pub(crate) fn run(count: u32, address: SocketAddr) {
    let descriptors = u64::from(count) + 100;
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be read");
    assert!(allowed >= descriptors, "{allowed} descriptors are not enough");
    let mut sockets: Vec<OwnedFd> = (0..count)
        .map(|_| connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}")))
        .collect();
    print_line("ready");
    let mut ends = std::collections::BTreeMap::<String, u64>::new();
    let mut sent = 0u64;
    let mut progress = Instant::now();
    while !sockets.is_empty() {
        sockets.retain(|socket| match send(socket.as_raw_fd(), MESSAGE, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => {
                sent += 1;
                progress = Instant::now();
                true
            }
            Err(Errno::EAGAIN) => true,
            Err(errno) => {
                *ends.entry(format!("{errno:?}")).or_default() += 1;
                progress = Instant::now();
                false
            }
        });
        if progress.elapsed() > STUCK {
            ends.insert("stuck".into(), sockets.len() as u64);
            break;
        }
    }
    print_line(&json!({ "sent": sent, "ends": ends }).to_string());
}

fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tcp_socket(address)?;
    sys::connect(&socket, address.into())?;
    // Each message is a packet.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(socket)
}

/// Makes so many TCP connections, one after another, each of which is reset at once. Prints how many were made, and how many not.
pub(crate) fn dial(count: u32, address: SocketAddr) {
    let [mut made, mut failed] = [0u32; 2];
    // One that is not answered takes a minute to be given up.
    while made + failed < count && failed == 0 {
        match crate::load::connect_tcp(address) {
            Ok(_) => made += 1,
            Err(_) => failed += 1,
        }
    }
    print_line(&format!("{made} {failed}"));
    // Until standard input closes: what the session has is looked at meanwhile.
    io::stdin().lines().for_each(drop);
}

/// Connects UDP sockets, from threads that begin at one time, each as fast as it can; prints how many connects passed, and how
/// many were refused with `EPERM`.
pub(crate) fn race(threads: u32, count: u32, address: SocketAddr) {
    let [passed, refused, other] = [const { AtomicU64::new(0) }; 3];
    let start = Barrier::new(threads as usize);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let socket = crate::attempt::udp_socket(address).expect("a socket");
                start.wait();
                for _ in 0..count {
                    let result = sys::connect(&socket, address.into()).map_err(|error| error.raw_os_error());
                    match result {
                        Ok(()) => passed.fetch_add(1, Relaxed),
                        Err(Some(libc::EPERM)) => refused.fetch_add(1, Relaxed),
                        Err(_) => other.fetch_add(1, Relaxed),
                    };
                }
            });
        }
    });
    let counts = json!({
        "passed": passed.load(Relaxed), "refused": refused.load(Relaxed), "other": other.load(Relaxed),
    });
    print_line(&counts.to_string());
}
