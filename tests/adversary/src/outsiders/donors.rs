//! Those from whom an attacker gets what it may not make itself: descriptors, programs with privileges, another's memory.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{TICK, open_to_all, ready, wait_forever};
use crate::context::{self, Context, TARGET4, target4};
use crate::far_side::pass_on;
use crate::sys::{self, At as _, Attempt};
use crate::techniques::uring;

/// Has a place in memory, a connected socket, and a nameless file; sends what appears in the first or the last.
pub(super) fn victim() -> Attempt {
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

/// Uses processor time, so that a limit on it is reached; not for ever.
pub(super) fn busy() -> Attempt {
    ready(&[]);
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Two copies of this program that may do more than who starts them.
pub(super) fn programs(context: &Context) -> Attempt {
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
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path has no zero in it");
    let name = c"security.capability";
    // SAFETY: both texts end with a zero, and the value is as long as is said.
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    sys::check("setxattr", set as isize)?;
    ready(&[]);
    wait_forever()
}

pub(super) fn connected_tcp() -> Attempt<TcpStream> {
    TcpStream::connect(target4()).at("connect")
}

pub(super) fn connected_udp() -> Attempt<OwnedFd> {
    let socket = sys::udp(target4())?;
    sys::connect(&socket, &sys::name(target4()))?;
    Ok(socket)
}

/// Gives the descriptor to whoever connects.
pub(super) fn donate(context: &Context, fd: OwnedFd) -> Attempt {
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
pub(super) fn donate_listener(context: &Context) -> Attempt {
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
pub(super) fn donate_closed_window(context: &Context) -> Attempt {
    let listener = sys::tcp(target4())?;
    // Small, so that it is soon full.
    sys::set_option(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, &4096_i32.to_ne_bytes())?;
    sys::bind(&listener, &sys::name(context::at(TARGET4, 0)))?;
    sys::listen(&listener)?;
    let listener = TcpListener::from(listener);
    let mut stream = TcpStream::connect(listener.local_addr().at("getsockname")?).at("connect")?;
    let (mut other_end, _) = listener.accept().at("accept")?;
    stream.set_nonblocking(true).at("fcntl")?;
    // Of a fixed size, so that the kernel makes it no larger than an option may below.
    sys::set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF, &(64_i32 << 10).to_ne_bytes())?;
    while stream.write(&[b'.'; 1024]).is_ok() {}
    // Room for the attacker's few bytes.
    sys::set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF, &(8_i32 << 20).to_ne_bytes())?;
    let path = context.dir.join("sent");
    thread::spawn(move || {
        // The attacker says who it is when it has closed its descriptor; it has ended a moment later.
        while !fs::read_to_string(&path).is_ok_and(|pid| pid.ends_with('\n') && has_ended(pid.trim())) {
            thread::sleep(TICK);
        }
        let mut data = vec![0; 1 << 16];
        while matches!(other_end.read(&mut data), Ok(1..)) {}
    });
    donate(context, stream.into())
}

/// Also if nobody has asked how it ended.
fn has_ended(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Connects a socket that somebody else has made.
pub(super) fn borrow(context: &Context) -> Attempt {
    let listener = UnixListener::bind(context.socket()).at("bind")?;
    open_to_all(&context.socket())?;
    ready(&[]);
    let (mut stream, _) = listener.accept().at("accept")?;
    let socket = sys::receive_fd(&stream)?;
    sys::connect(&socket, &sys::name(target4()))?;
    stream.write_all(b"!").at("write")?;
    wait_forever()
}

/// The ring of this process, at which a thread of the kernel's works for it.
pub(super) fn donate_ring(context: &Context) -> Attempt {
    let (ring, facts, _keep) = ring_with_facts(context)?;
    donate_with(context, &ring, &facts)
}

pub(super) fn own_ring(context: &Context) -> Attempt {
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
pub(super) fn donate_control(context: &Context) -> Attempt {
    donate(
        context,
        UnixStream::connect(&context.control_socket).at("connect")?.as_fd().try_clone_to_owned().at("dup")?,
    )
}
