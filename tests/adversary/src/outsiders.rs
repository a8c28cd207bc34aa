//! Those outside whom an attacker uses: deputies who pass on what they get, donors of descriptors, victims. The harness starts
//! one for an attempt; it says `ready` when it is, and what the attempt has to know of it in numbers.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::context::{self, ALLOWED4, Context, INBOUND_PORT, MAILBOX, RELAY_PORT, TARGET4, target4};
use crate::far_side::{pass_on, pass_on_by};
use crate::sys::{self, At as _, Attempt};
use crate::techniques::{families, uring};
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
    ("victim", |_| victim()),
    ("programs", programs),
    ("donor-tcp", |context| donate(context, connected_tcp()?.into())),
    ("donor-udp", |context| donate(context, connected_udp()?)),
    ("donor-udp-unconnected", |context| donate(context, sys::udp(target4())?)),
    ("donor-listener", donate_listener),
    ("donor-packet", |context| donate(context, sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?)),
    ("donor-closed-window", donate_closed_window),
    ("donor-ring", donate_ring),
    ("donor-control", donate_control),
    ("ring-owner", own_ring),
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

/// Has a place in memory, a connected socket, and a nameless file; sends what appears in the first or the last.
fn victim() -> Attempt {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let place: &'static mut [u8; 64] = Box::leak(Box::new([0; 64]));
    let place = place.as_mut_ptr();
    let socket = connected_tcp()?;
    let mut memory = File::from(memfd_create(c"notes", MFdFlags::MFD_CLOEXEC).at("memfd_create")?);
    ready(&[place as u64, socket.as_raw_fd() as u64, memory.as_raw_fd() as u64]);
    loop {
        // SAFETY: the place is leaked, so it stays; others write to it, so the compiler may not remember it.
        let seen = unsafe { place.cast::<[u8; 64]>().read_volatile() };
        if seen[0] != 0 {
            pass_on(&seen)?;
        }
        let mut text = Vec::new();
        memory.rewind().at("seek")?;
        memory.read_to_end(&mut text).at("read")?;
        if !text.is_empty() {
            pass_on(&text)?;
        }
        thread::sleep(TICK);
    }
}

/// Two copies of this program that may do more than who starts them.
fn programs(context: &Context) -> Attempt {
    let copy = |name: &str, mode| {
        let path = context.dir.join(name);
        fs::copy("/proc/self/exe", &path).at("copy")?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).at("chmod")?;
        Ok(path)
    };
    copy("set-user-id", 0o4755)?;
    let path = copy("with-capability", 0o755)?;
    // Version 2, in effect at once; which are permitted and inherited, low words first.
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path has no zero in it");
    let name = c"security.capability";
    // SAFETY: both texts end with a zero, and the value is as long as is said.
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    sys::check("setxattr", set as isize)?;
    ready(&[]);
    wait_forever()
}

fn connected_tcp() -> Attempt<TcpStream> {
    TcpStream::connect(target4()).at("connect")
}

fn connected_udp() -> Attempt<OwnedFd> {
    let socket = sys::udp(target4())?;
    sys::connect(&socket, &sys::name(target4()))?;
    Ok(socket)
}

/// Gives the descriptor to whoever connects.
fn donate(context: &Context, fd: OwnedFd) -> Attempt {
    donate_with(context, &fd, &[])
}

fn donate_with(context: &Context, fd: &OwnedFd, facts: &[u64]) -> Attempt {
    let listener = UnixListener::bind(context.socket()).at("bind")?;
    open_to_all(&context.socket())?;
    ready(facts);
    let (stream, _) = listener.accept().at("accept")?;
    sys::pass_fd(&stream, fd)?;
    wait_forever()
}

/// Listens here; whoever connects to it is passed on what comes.
fn donate_listener(context: &Context) -> Attempt {
    let listener = TcpListener::bind((TARGET4, 0)).at("bind")?;
    let address = listener.local_addr().at("getsockname")?;
    thread::spawn(move || {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let mut data = Vec::new();
            // What came before an error counts.
            let _ = stream.read_to_end(&mut data);
            pass_on(&data)
        } else {
            Ok(())
        }
    });
    donate(context, listener.into())
}

/// A connection whose other end does not read until the attempt has ended.
fn donate_closed_window(context: &Context) -> Attempt {
    let listener = sys::tcp(target4())?;
    // Small, so that it is soon full.
    sys::set_option(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, &4096_i32.to_ne_bytes())?;
    sys::bind(&listener, &sys::name(context::at(TARGET4, 0)))?;
    sys::listen(&listener)?;
    let listener = TcpListener::from(listener);
    let mut stream = TcpStream::connect(listener.local_addr().at("getsockname")?).at("connect")?;
    let (mut other_end, _) = listener.accept().at("accept")?;
    stream.set_nonblocking(true).at("fcntl")?;
    while stream.write(&[b'.'; 1024]).is_ok() {}
    // Room for the attacker's few bytes.
    sys::set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF, &(8_i32 << 20).to_ne_bytes())?;
    let path = context.dir.join("sent");
    thread::spawn(move || {
        while !path.exists() {
            thread::sleep(TICK);
        }
        // The attacker has closed its descriptor before it said so; it has ended a moment later.
        thread::sleep(Duration::from_millis(50));
        let mut data = vec![0; 1 << 16];
        while matches!(other_end.read(&mut data), Ok(1..)) {}
    });
    donate(context, stream.into())
}

/// The ring of this process, at which a thread of the kernel's works for it.
fn donate_ring(context: &Context) -> Attempt {
    let (ring, facts, _keep) = ring_with_facts(context)?;
    donate_with(context, &ring, &facts)
}

fn own_ring(context: &Context) -> Attempt {
    let (_ring, facts, _keep) = ring_with_facts(context)?;
    ready(&facts);
    wait_forever()
}

/// The socket has to stay open.
fn ring_with_facts(context: &Context) -> Attempt<(OwnedFd, Vec<u64>, OwnedFd)> {
    let socket = connected_udp()?;
    let data: &'static [u8] = context.magic.clone().leak().as_bytes();
    let (ring, sizes) = uring::setup_polled()?;
    let mut facts = vec![0, ring.as_raw_fd() as u64, socket.as_raw_fd() as u64, data.as_ptr() as u64];
    facts.extend(sizes.iter().map(|size| u64::from(*size)));
    Ok((ring, facts, socket))
}

/// A connection to the daemon. It is root's, and this process stays.
fn donate_control(context: &Context) -> Attempt {
    donate(
        context,
        UnixStream::connect(&context.control_socket).at("connect")?.as_fd().try_clone_to_owned().at("dup")?,
    )
}

fn wait_forever() -> Attempt {
    loop {
        thread::park();
    }
}
