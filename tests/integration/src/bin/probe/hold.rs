//! Sockets that are held, and used as standard input says: one command a line, one line of JSON in answer.
//!
//! ```text
//! open NAME KIND               tcp4, tcp6, udp4, udp6 or ping4
//! bind NAME ADDRESS
//! connect NAME ADDRESS
//! listen NAME
//! accept NAME FROM
//! patience NAME MILLISECONDS   how long each call on it may take; 10 s at first
//! option NAME LEVEL NUMBER HEX
//! send NAME TEXT
//! send-to NAME ADDRESS TEXT
//! send-with NAME ADDRESS LEVEL TYPE HEX TEXT   with a control message
//! scan NAME COUNT TEXT         a datagram to each of so many addresses of 127.1.0.0/16, port 9
//! ping NAME ADDRESS            an echo request, and its answer
//! fill NAME BYTES              so much of the pattern, as long as it takes
//! take-in NAME BYTES           reads so much
//! receive NAME                 what arrives next
//! local NAME                   its own address
//! close NAME
//! mailbox PATH                 where sockets may be sent to
//! give NAME PATH               sends it there
//! take NAME                    takes one from the mailbox
//! namespace                    enters a network namespace of its own, with loopback up
//! child                        from now on a child answers, with all that is held; when it has ended, its maker does again, and says so
//! exit                         at once, without an answer
//! ```

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    Backlog, ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, listen, recv, recvmsg, send, sendmsg,
    setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use serde_json::json;

use crate::attempt::print_line;
use crate::sys;

/// What `fill` sends, again and again.
pub(crate) const PATTERN: &[u8; 16] = b"0123456789abcdef";

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Held {
    sockets: HashMap<String, OwnedFd>,
    mailbox: Option<UnixDatagram>,
}

pub(crate) fn run() {
    let mut held = Held::default();
    for line in io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let words: Vec<&str> = line.split(' ').collect();
        let result = held.obey(&words);
        let errno = result.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        let text = result.unwrap_or_else(|error| error.to_string());
        print_line(&json!({ "label": line, "errno": errno, "text": text }).to_string());
    }
}

impl Held {
    fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        let done = |result: io::Result<()>| result.map(|()| String::new());
        match *words {
            ["open", name, kind] => done(open(kind).map(|socket| self.keep(name, socket))),
            ["bind", name, address] => done(sys::bind(self.socket(name), crate::parse(address).into())),
            ["connect", name, address] => {
                done(sys::connect_in_time(self.socket(name), crate::parse(address).into()))
            }
            ["listen", name] => done(Ok(listen(self.socket(name), Backlog::MAXCONN)?)),
            ["accept", name, from] => {
                let socket = sys::accept(self.socket(from))?;
                set_patience(&socket, PATIENCE)?;
                self.keep(name, socket);
                Ok(String::new())
            }
            ["patience", name, ms] => {
                let patience = Duration::from_millis(crate::number(ms).into());
                done(set_patience(self.socket(name), patience))
            }
            ["option", name, level, number, value] => {
                done(sys::set_option(self.socket(name), [level, number].map(signed), &bytes(value)))
            }
            ["send", name, text] => {
                let sent = send(self.socket(name).as_raw_fd(), text.as_bytes(), MsgFlags::MSG_NOSIGNAL);
                Ok(sent?.to_string())
            }
            ["send-to", name, address, text] => {
                let to = crate::parse(address).into();
                done(sys::sendto(self.socket(name), text.as_bytes(), libc::MSG_NOSIGNAL, to))
            }
            ["send-with", name, address, level, kind, value, text] => {
                let to = crate::parse(address).into();
                let control = ([level, kind].map(signed), bytes(value));
                done(sys::sendmsg_with(self.socket(name), text.as_bytes(), to, control.0, &control.1))
            }
            ["scan", name, count, text] => done(scan(self.socket(name), crate::number(count), text)),
            ["ping", name, address] => done(ping(self.socket(name), address)),
            ["fill", name, count] => done(fill(self.socket(name), crate::number(count) as usize)),
            ["take-in", name, count] => take_in(self.socket(name), crate::number(count) as usize),
            ["receive", name] => receive(self.socket(name)),
            ["local", name] => Ok(sys::local_address(self.socket(name))?.to_string()),
            ["close", name] => {
                self.sockets.remove(name).expect("it is held");
                Ok(String::new())
            }
            ["mailbox", path] => {
                let mailbox = UnixDatagram::bind(path)?;
                mailbox.set_read_timeout(Some(PATIENCE))?;
                self.mailbox = Some(mailbox);
                Ok(String::new())
            }
            ["give", name, path] => done(give(self.socket(name), path)),
            ["take", name] => {
                let socket = take(self.mailbox.as_ref().expect("there is a mailbox"))?;
                self.keep(name, socket);
                Ok(String::new())
            }
            ["namespace"] => {
                // With a user namespace it needs no privileges.
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
                done(sys::loopback_up())
            }
            ["child"] => {
                // SAFETY: this program has one thread.
                match unsafe { fork() }? {
                    ForkResult::Child => Ok(std::process::id().to_string()),
                    ForkResult::Parent { child } => {
                        waitpid(child, None)?;
                        Ok("ended".to_owned())
                    }
                }
            }
            // SAFETY: takes no pointer. Nothing of this process is left to be run.
            ["exit"] => unsafe { libc::_exit(0) },
            _ => panic!("no such command: {words:?}"),
        }
    }

    fn keep(&mut self, name: &str, socket: OwnedFd) {
        self.sockets.insert(name.to_owned(), socket);
    }

    fn socket(&self, name: &str) -> &OwnedFd {
        self.sockets.get(name).unwrap_or_else(|| panic!("no socket `{name}` is held"))
    }
}

fn open(kind: &str) -> io::Result<OwnedFd> {
    let socket = match kind {
        "tcp4" => sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        "tcp6" => sys::socket(libc::AF_INET6, libc::SOCK_STREAM, 0),
        "udp4" => sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
        "udp6" => sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0),
        "ping4" => sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        _ => panic!("no such kind of socket: {kind}"),
    }?;
    if kind.starts_with("tcp") {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    set_patience(&socket, PATIENCE)?;
    Ok(socket)
}

fn set_patience(socket: &OwnedFd, patience: Duration) -> io::Result<()> {
    let time = TimeVal::milliseconds(patience.as_millis() as i64);
    setsockopt(socket, sockopt::ReceiveTimeout, &time)?;
    Ok(setsockopt(socket, sockopt::SendTimeout, &time)?)
}

fn scan(socket: &OwnedFd, count: u32, text: &str) -> io::Result<()> {
    for at in 1..=count {
        let [.., high, low] = at.to_be_bytes();
        let to = std::net::SocketAddr::from(([127, 1, high, low], 9));
        sys::sendto(socket, text.as_bytes(), libc::MSG_NOSIGNAL, to.into())?;
    }
    Ok(())
}

/// Nobody answers but the kernel, so it is enough that an echo reply comes back from there.
fn ping(socket: &OwnedFd, address: &str) -> io::Result<()> {
    // Echo request; the kernel fills in checksum and identifier.
    let request = [8, 0, 0, 0, 0, 0, 0, 1];
    let to = format!("{address}:0");
    sys::sendto(socket, &request, 0, crate::parse(&to).into())?;
    let mut answer = [0; 64];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer[..len] {
        [0, 0, ..] => Ok(()),
        _ => Err(io::Error::other("the answer is no echo reply")),
    }
}

fn fill(socket: &OwnedFd, count: usize) -> io::Result<()> {
    let block = PATTERN.repeat(4096);
    let mut sent = 0;
    while sent < count {
        let part = &block[sent % PATTERN.len()..];
        let part = &part[..part.len().min(count - sent)];
        sent += send(socket.as_raw_fd(), part, MsgFlags::MSG_NOSIGNAL)?;
    }
    Ok(())
}

/// The number of bytes that arrived: fewer than asked for, if it ends before.
fn take_in(socket: &OwnedFd, count: usize) -> io::Result<String> {
    let mut block = vec![0; 64 << 10];
    let mut taken = 0;
    while taken < count {
        let most = block.len().min(count - taken);
        match recv(socket.as_raw_fd(), &mut block[..most], MsgFlags::empty())? {
            0 => break,
            len => taken += len,
        }
    }
    Ok(taken.to_string())
}

fn receive(socket: &OwnedFd) -> io::Result<String> {
    let mut message = [0; 512];
    let len = recv(socket.as_raw_fd(), &mut message, MsgFlags::empty())?;
    Ok(String::from_utf8_lossy(&message[..len]).into_owned())
}

fn give(socket: &OwnedFd, path: &str) -> io::Result<()> {
    let from = UnixDatagram::unbound()?;
    let to = UnixAddr::new(path)?;
    let fds = [socket.as_raw_fd()];
    let message = [io::IoSlice::new(b"x")];
    sendmsg(from.as_raw_fd(), &message, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), Some(&to))?;
    Ok(())
}

fn take(mailbox: &UnixDatagram) -> io::Result<OwnedFd> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut byte = [0];
    let mut message = [io::IoSliceMut::new(&mut byte)];
    let received =
        recvmsg::<UnixAddr>(mailbox.as_raw_fd(), &mut message, Some(&mut space), MsgFlags::empty())?;
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let [fd] = fds[..]
        {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::other("the message came without a socket"))
}

/// A number that may be negative.
fn signed(text: &str) -> i32 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
    let bytes = (0..hex.len()).step_by(2).map(digits).collect::<Result<_, _>>();
    bytes.unwrap_or_else(|_| panic!("not hexadecimal: {hex}"))
}
