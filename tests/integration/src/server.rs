//! The far side: servers that echo, and remember what reached them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{Backlog, listen};

use crate::{DEADLINE, NEVER, scaled, unique, wait_until};

/// How soon a server sees that it is to stop.
const TICK: Duration = Duration::from_millis(20);

/// An echo server on a loopback address. Stops on drop.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    protocol: &'static str,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    messages: Mutex<Vec<String>>,
    /// Connections, or datagrams.
    arrivals: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn record(&self, message: &[u8]) {
        let message = String::from_utf8_lossy(message).into_owned();
        self.messages.lock().expect("no panic while it is held").push(message);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Server {
    /// A server on `ip`, with a port of the kernel's choice; `protocol` is `tcp` or `udp`.
    pub fn start(protocol: &'static str, ip: &str) -> Self {
        Self::try_start(protocol, ip, 0).expect("a local port is free")
    }

    /// A server with a port of the test's choice, if it is free.
    pub fn try_start(protocol: &'static str, ip: &str, port: u16) -> Option<Self> {
        let ip: IpAddr = ip.parse().expect("an address");
        let address = SocketAddr::new(ip, port);
        let seen = Arc::new(Seen::default());
        let (address, thread) = match protocol {
            "tcp" => serve_tcp(TcpListener::bind(address).ok()?, Arc::clone(&seen)),
            "udp" => serve_udp(UdpSocket::bind(address).ok()?, Arc::clone(&seen)),
            _ => panic!("no such protocol: {protocol}"),
        };
        Some(Self { address, protocol, seen, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections or datagrams have arrived, whosever they were.
    pub fn arrivals(&self) -> u64 {
        self.settle();
        // One of them is this call's own, and so was one for each call before.
        self.seen.arrivals.load(Ordering::Relaxed) - self.count_of_own()
    }

    /// The labels of the messages that arrived with `magic`, sorted.
    pub fn received(&self, magic: &str) -> Vec<String> {
        self.settle();
        let messages = self.seen.messages.lock().expect("no panic while it is held");
        let mut labels: Vec<String> = messages
            .iter()
            .filter_map(|message| message.strip_prefix(magic)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect();
        labels.sort();
        labels
    }

    /// Returns when all that has arrived is recorded: a message sent now comes after it.
    fn settle(&self) {
        let marker = unique(MARKER);
        match self.protocol {
            "tcp" => {
                let mut stream = TcpStream::connect(self.address).expect("the server listens");
                stream.write_all(marker.as_bytes()).expect("the server reads");
            }
            _ => {
                let from = UdpSocket::bind((unspecified(self.address), 0)).expect("a local port is free");
                from.send_to(marker.as_bytes(), self.address).expect("the server listens");
            }
        }
        wait_until(DEADLINE, "the server has read all there is", || {
            let messages = self.seen.messages.lock().expect("no panic while it is held");
            messages.contains(&marker).then_some(())
        });
    }

    fn count_of_own(&self) -> u64 {
        let messages = self.seen.messages.lock().expect("no panic while it is held");
        messages.iter().filter(|message| message.starts_with(MARKER)).count() as u64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A server that panicked has failed its test already.
            let _ = thread.join();
        }
    }
}

/// Two servers of one kind: an envelope of the test allows the one and not the other.
#[derive(Debug)]
pub struct Pair {
    pub allowed: Server,
    pub refused: Server,
}

impl Pair {
    /// 127.0.0.10 is allowed, 127.0.0.20 is not.
    pub fn v4(protocol: &'static str) -> Self {
        Self {
            allowed: Server::start(protocol, "127.0.0.10"),
            refused: Server::start(protocol, "127.0.0.20"),
        }
    }

    /// There is one loopback address only: the ports differ.
    pub fn v6(protocol: &'static str) -> Self {
        Self { allowed: Server::start(protocol, "::1"), refused: Server::start(protocol, "::1") }
    }

    /// Both addresses as arguments.
    pub fn arguments(&self) -> [String; 2] {
        [&self.allowed, &self.refused].map(|server| server.address().to_string())
    }
}

/// Somewhere to connect to, for a test that takes the connections itself.
pub fn far_end() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// What arrives in the time in which nothing should.
pub fn arrives(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("it is not zero");
    let (mut all, mut block) = (Vec::new(), [0; 4096]);
    let end = Instant::now() + scaled(NEVER);
    while Instant::now() < end {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(len) => all.extend_from_slice(&block[..len]),
            Err(_) => {}
        }
    }
    all
}

const MARKER: &str = "settle";

fn serve_tcp(listener: TcpListener, seen: Arc<Seen>) -> (SocketAddr, JoinHandle<()>) {
    listen(&listener, Backlog::MAXCONN).expect("it listens already, with a shorter queue");
    listener.set_nonblocking(true).expect("every socket can be");
    let address = listener.local_addr().expect("it is bound");
    let thread = thread::spawn(move || {
        while !seen.stopped() {
            match listener.accept() {
                Ok((stream, _)) => {
                    seen.arrivals.fetch_add(1, Ordering::Relaxed);
                    // An error is the client's: it closed without a word, which some tests do thousands of times.
                    let _ = echo_tcp(stream, &seen);
                }
                Err(_) => wait_readable(&listener),
            }
        }
    });
    (address, thread)
}

fn echo_tcp(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    // One client at a time: all of ours send as soon as they are connected.
    stream.set_read_timeout(Some(scaled(Duration::from_secs(10))))?;
    let mut message = [0; 512];
    let len = stream.read(&mut message)?;
    let message = &message[..len];
    seen.record(message);
    stream.write_all(message)
}

fn serve_udp(socket: UdpSocket, seen: Arc<Seen>) -> (SocketAddr, JoinHandle<()>) {
    socket.set_read_timeout(Some(TICK)).expect("the time is not zero");
    let address = socket.local_addr().expect("it is bound");
    let thread = thread::spawn(move || {
        let mut message = [0; 512];
        while !seen.stopped() {
            if let Ok((len, from)) = socket.recv_from(&mut message) {
                seen.arrivals.fetch_add(1, Ordering::Relaxed);
                seen.record(&message[..len]);
                // The sender may be gone.
                let _ = socket.send_to(&message[..len], from);
            }
        }
    });
    (address, thread)
}

fn wait_readable(listener: &TcpListener) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let timeout = PollTimeout::try_from(TICK).expect("it is short");
    // On an error the loop asks again.
    let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout);
}

fn unspecified(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    }
}
