//! Those outside whom an attacker uses: deputies who pass on what they get, donors of descriptors, victims. The harness starts
//! one for an attempt; it says `ready` when it is, and what the attempt has to know of it in numbers.

mod donors;

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::context::{ALLOWED4, Context, INBOUND_PORT, MAILBOX, RELAY_PORT, TARGET4, target4};
use crate::far_side::{pass_on, pass_on_by};
use crate::sys::{self, At as _, Attempt};
use crate::techniques::families;
use crate::world;

/// How often one looks whether something has come.
const TICK: Duration = Duration::from_millis(2);

type Role = fn(&Context) -> Attempt;

const ROLES: &[(&str, Role)] = &[
    ("unix-stream", unix_stream),
    ("unix-abstract", unix_abstract),
    ("unix-datagram", unix_datagram),
    ("unix-packets", unix_packets),
    ("fifo", fifo),
    ("file", file),
    ("message-queue", message_queue),
    ("netlink-user", |_| netlink(libc::NETLINK_USERSOCK)),
    ("netlink-route", |_| netlink(libc::NETLINK_ROUTE)),
    ("vsock", |_| vsock()),
    ("tipc", |_| tipc()),
    ("sctp", |_| sctp()),
    ("relay", |_| relay()),
    ("dialer", |_| dial(|| Some(INBOUND_PORT))),
    ("dialer-by-file", dial_by_file),
    ("datagram-dialer", |_| dial_by_datagrams()),
    ("namespace", |_| namespace()),
    ("victim", |_| donors::victim()),
    ("busy", |_| donors::busy()),
    ("programs", donors::programs),
    ("donor-tcp", |context| donors::donate(context, donors::connected_tcp()?.into())),
    ("donor-udp", |context| donors::donate(context, donors::connected_udp()?)),
    ("donor-udp-unconnected", |context| donors::donate(context, sys::udp(target4())?)),
    ("donor-listener", donors::donate_listener),
    ("donor-packet", |context| donors::donate(context, sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?)),
    ("donor-closed-window", donors::donate_closed_window),
    ("borrower", donors::borrow),
    ("echo", |_| echo()),
    ("cgroup-member", join_cgroup),
    ("donor-ring", donors::donate_ring),
    ("donor-control", donors::donate_control),
    ("ring-owner", donors::own_ring),
];

pub(crate) fn run(role: &str, context: &Context) {
    let (_, act) =
        ROLES.iter().find(|(name, _)| *name == role).unwrap_or_else(|| panic!("no such role: {role}"));
    if let Err(stop) = act(context) {
        println!("failed {}: {}", stop.at, stop.error);
        std::process::exit(1);
    }
}

/// Whether there is such an outsider; the catalogue's test asks.
#[cfg(test)]
pub(crate) fn exists(role: &str) -> bool {
    ROLES.iter().any(|(name, _)| *name == role)
}

/// Says that the attempt may begin, and what it has to know.
fn ready(facts: &[u64]) {
    let facts: String = facts.iter().map(|fact| format!(" {fact}")).collect();
    println!("ready{facts}");
}

fn open_to_all(path: &Path) -> Attempt {
    fs::set_permissions(path, Permissions::from_mode(0o777)).at("chmod")
}

fn unix_stream(context: &Context) -> Attempt {
    let listener = UnixListener::bind(context.socket()).at("bind")?;
    open_to_all(&context.socket())?;
    pass_on_streams(&listener)
}

fn unix_abstract(context: &Context) -> Attempt {
    let name = SocketAddr::from_abstract_name(context.abstract_name()).at("name")?;
    pass_on_streams(&UnixListener::bind_addr(&name).at("bind")?)
}

fn pass_on_streams(listener: &UnixListener) -> Attempt {
    ready(&[]);
    for mut stream in listener.incoming().flatten() {
        let mut data = Vec::new();
        // What came before an error counts.
        let _ = stream.read_to_end(&mut data);
        pass_on(&data)?;
    }
    Ok(())
}

fn unix_datagram(context: &Context) -> Attempt {
    let socket = UnixDatagram::bind(context.socket()).at("bind")?;
    open_to_all(&context.socket())?;
    pass_on_all(socket.into())
}

fn unix_packets(context: &Context) -> Attempt {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at("socket")?;
    bind(socket.as_raw_fd(), &UnixAddr::new(&context.socket()).at("name")?).at("bind")?;
    open_to_all(&context.socket())?;
    accept_and_pass_on(socket)
}

/// Everything that can be read from the descriptor.
fn pass_on_all(from: OwnedFd) -> Attempt {
    ready(&[]);
    let mut from = File::from(from);
    let mut data = [0; 4096];
    loop {
        let len = from.read(&mut data).at("read")?;
        pass_on(&data[..len])?;
    }
}

fn accept_and_pass_on(listener: OwnedFd) -> Attempt {
    sys::listen(&listener)?;
    ready(&[]);
    loop {
        let mut stream = File::from(sys::accept(&listener)?);
        let mut data = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut data) {
            pass_on(&data[..len])?;
        }
    }
}

fn fifo(context: &Context) -> Attempt {
    let path = context.dir.join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).at("mkfifo")?;
    open_to_all(&path)?;
    // Open for writing as well, so that it does not end with the first writer.
    pass_on_all(File::options().read(true).write(true).open(path).at("open")?.into())
}

fn file(context: &Context) -> Attempt {
    ready(&[]);
    loop {
        if let Ok(data) = fs::read(context.dir.join("drop")) {
            pass_on(&data)?;
        }
        thread::sleep(TICK);
    }
}

fn message_queue(_: &Context) -> Attempt {
    // SAFETY: takes no pointer.
    let queue = unsafe { libc::msgget(MAILBOX.cast_signed(), libc::IPC_CREAT | 0o666) };
    let queue = sys::check("msgget", queue as isize)? as i32;
    ready(&[]);
    loop {
        let mut message = [0_u8; 256];
        // SAFETY: a word for the type, then as much text as is asked for.
        let len = unsafe { libc::msgrcv(queue, message.as_mut_ptr().cast(), message.len() - 8, 0, 0) };
        let len = sys::check("msgrcv", len)?;
        pass_on(&message[8..8 + len])?;
    }
}

fn netlink(protocol: i32) -> Attempt {
    let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    sys::bind(&socket, &families::netlink_name())?;
    pass_on_all(socket)
}

fn vsock() -> Attempt {
    let socket = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    sys::bind(&socket, &families::vsock_name(u32::MAX))?;
    accept_and_pass_on(socket)
}

fn tipc() -> Attempt {
    let socket = sys::socket(libc::AF_TIPC, libc::SOCK_RDM, 0)?;
    sys::bind(&socket, &families::tipc_name())?;
    pass_on_all(socket)
}

fn sctp() -> Attempt {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)?;
    sys::bind(&socket, &sys::name(target4()))?;
    accept_and_pass_on(socket)
}

fn relay() -> Attempt {
    let bind = |ip| TcpListener::bind((ip, RELAY_PORT)).at("bind");
    let [first, second] = [bind(ALLOWED4)?, bind(TARGET4)?];
    ready(&[]);
    let serve = |listener: TcpListener| {
        for mut stream in listener.incoming().flatten() {
            if let Ok(mut onward) = TcpStream::connect(target4()) {
                // Either side may end.
                let _ = std::io::copy(&mut stream, &mut onward);
            }
        }
    };
    thread::spawn(move || serve(first));
    serve(second);
    Ok(())
}

/// Connects to the attacker, over and over, since it has to begin to listen first.
fn dial(port: impl Fn() -> Option<u16>) -> Attempt {
    ready(&[]);
    loop {
        if let Some(mut stream) = port().and_then(|port| TcpStream::connect(("127.0.0.1", port)).ok()) {
            let mut data = Vec::new();
            // What came before an error counts.
            let _ = stream.read_to_end(&mut data);
            pass_on(&data)?;
        }
        thread::sleep(TICK);
    }
}

fn dial_by_file(context: &Context) -> Attempt {
    dial(|| fs::read_to_string(context.dir.join("port")).ok()?.parse().ok())
}

fn dial_by_datagrams() -> Attempt {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).at("bind")?;
    socket.set_read_timeout(Some(TICK)).at("setsockopt")?;
    ready(&[]);
    loop {
        // Refused, until the attacker listens.
        let _ = socket.send_to(b"hello", ("127.0.0.1", INBOUND_PORT));
        let mut data = [0; 2048];
        if let Ok(len) = socket.recv(&mut data) {
            pass_on(&data[..len])?;
        }
    }
}

/// Another network, which has the same addresses.
fn namespace() -> Attempt {
    // It stays in the network that it was made in.
    let home = UdpSocket::bind(("127.0.0.1", 0)).at("bind")?;
    unshare(CloneFlags::CLONE_NEWNET).at("unshare")?;
    world::loopback_up()?;
    let there = UdpSocket::bind(target4()).at("bind")?;
    ready(&[]);
    loop {
        let mut data = [0; 2048];
        let len = there.recv(&mut data).at("recv")?;
        pass_on_by(&home, &data[..len])?;
    }
}

/// Answers every datagram with itself, where the envelopes allow to send.
fn echo() -> Attempt {
    let socket = UdpSocket::bind((ALLOWED4, RELAY_PORT)).at("bind")?;
    ready(&[]);
    loop {
        let mut data = [0; 2048];
        let (len, from) = socket.recv_from(&mut data).at("recvfrom")?;
        socket.send_to(&data[..len], from).at("sendto")?;
    }
}

/// Somebody in a cgroup of its own.
fn join_cgroup(context: &Context) -> Attempt {
    fs::write(context.cgroup.join("cgroup.procs"), "0").at("write cgroup.procs")?;
    ready(&[]);
    wait_forever()
}

fn wait_forever() -> Attempt {
    loop {
        thread::park();
    }
}
