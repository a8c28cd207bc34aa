//! Does with one socket what standard input says, a line at a time, and answers each with `ok` or the error's number.

use std::fs::File;
use std::io::{self, BufRead, IoSliceMut, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use nix::unistd::{ForkResult, fork};

use crate::parse;

pub(crate) fn run() {
    let mut stream: Option<OwnedFd> = None;
    for line in io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words[..] {
            ["connect", address] => connect(parse(address)).map(|made| stream = Some(made)),
            ["take", mailbox] => take(Path::new(mailbox)).map(|taken| stream = Some(taken)),
            ["send", text] => write(stream.as_ref(), text, MsgFlags::MSG_DONTWAIT),
            // Not to be sent before there is more of it.
            ["more", text] => write(
                stream.as_ref(),
                text,
                MsgFlags::MSG_DONTWAIT | MsgFlags::from_bits_retain(libc::MSG_MORE),
            ),
            // Likewise, and ends at once.
            ["last", text] => {
                let more = MsgFlags::MSG_DONTWAIT | MsgFlags::from_bits_retain(libc::MSG_MORE);
                let done = write(stream.as_ref(), text, more);
                // SAFETY: ends this process; what it has open, the kernel closes.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            ["join", device, text] => join(device, text),
            ["hoard", count] => hoard(crate::number(count)),
            ["orphan", address, signal] => orphan(parse(address), Path::new(signal)),
            _ => panic!("not a command: {line}"),
        };
        let answer =
            done.map_or_else(|error| error.raw_os_error().unwrap_or(-1).to_string(), |()| "ok".into());
        say(&answer);
    }
}

fn say(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).expect("standard output is open");
}

fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(OwnedFd::from)
}

fn write(stream: Option<&OwnedFd>, text: &str, flags: MsgFlags) -> io::Result<()> {
    let stream = stream.expect("a socket was made or taken");
    send(stream.as_raw_fd(), text.as_bytes(), flags | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// A descriptor that somebody gives away at a Unix socket.
fn take(mailbox: &Path) -> io::Result<OwnedFd> {
    let giver = UnixStream::connect(mailbox)?;
    let mut byte = [0];
    let mut vector = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(giver.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::empty())?;
    let given = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(given) => given.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    given.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).ok_or_else(|| io::Error::other("nothing was given"))
}

/// Wants to hear of a multicast group, but only from sources whose addresses spell a text: the kernel reports that to the network
/// (RFC 3810), in a packet of its own.
fn join(device: &str, text: &str) -> io::Result<()> {
    const MCAST_JOIN_SOURCE_GROUP: libc::c_int = 46;
    /// v6.1/include/uapi/linux/in.h, `group_source_req`.
    #[repr(C)]
    struct Request {
        interface: u32,
        pad: u32,
        group: [u8; 128],
        source: [u8; 128],
    }
    let name = |octets: [u8; 16]| {
        let mut storage = [0; 128];
        storage[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        storage[8..24].copy_from_slice(&octets);
        storage
    };
    let socket = UdpSocket::bind("[::]:0")?;
    for part in text.as_bytes().chunks(15) {
        // Of the addresses that one can have, 2000::/3.
        let mut source = [b'.'; 16];
        source[0] = 0x20;
        source[1..=part.len()].copy_from_slice(part);
        let group = "ff15::1234".parse::<std::net::Ipv6Addr>().expect("it is one").octets();
        let request = Request {
            interface: nix::net::if_::if_nametoindex(device)?,
            pad: 0,
            group: name(group),
            source: name(source),
        };
        let (value, len) = (ptr::from_ref(&request).cast(), size_of_val(&request) as u32);
        // SAFETY: `request` outlives the call, and the length is its own.
        let done = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, value, len)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // Not left again before the report has been made, which the kernel does some time later.
    std::mem::forget(socket);
    Ok(())
}

/// Makes processes that hold as many descriptors as they may, so many all together at least.
fn hoard(count: u32) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut held = 0;
    while held < u64::from(count) {
        let (mut done, said) = io::pipe()?;
        // SAFETY: this program has one thread.
        if let ForkResult::Child = unsafe { fork() }? {
            drop(done);
            let nothing = File::open("/dev/null")?;
            while let Ok(copy) = nothing.try_clone() {
                std::mem::forget(copy);
            }
            drop(said);
            loop {
                nix::unistd::pause();
            }
        }
        drop(said);
        // The child has filled its table when it closes this.
        io::copy(&mut done, &mut io::sink())?;
        held += most;
    }
    Ok(())
}

/// Leaves behind a process that has lost its parent. When a file of this name appears, it connects, and says what came of it.
fn orphan(address: SocketAddr, signal: &Path) -> io::Result<()> {
    // SAFETY: this program has one thread.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        nix::sys::wait::waitpid(child, None)?;
        return Ok(());
    }
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        std::process::exit(0);
    }
    crate::shapes::wait_until(|| signal.exists());
    let reached = connect(address).map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0);
    say(&format!("orphan {reached}"));
    std::process::exit(0);
}
