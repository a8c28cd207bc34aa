//! What whoever starts an attempt leaves to it: a socket that was forgotten, or the terminal that they share.

use std::fs::File;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::catalogue::Leave;
use crate::context;
use crate::far_side::pass_on;
use crate::techniques::foreign::INHERITED;

/// Kept until the attempt has ended.
#[derive(Debug)]
pub(crate) enum Left {
    Nothing,
    /// It has to be open until the child has it.
    Socket {
        _kept: OwnedFd,
    },
    /// Both ends: what is typed is read from the second, as a shell would.
    Terminal {
        _screen: OwnedFd,
        keyboard: OwnedFd,
    },
}

/// Prepares the command that makes the attempt.
pub(crate) fn leave(what: Leave, command: &mut Command) -> Left {
    command.stdin(Stdio::null());
    match what {
        Leave::Nothing => Left::Nothing,
        Leave::Socket => {
            let socket = connected();
            let from = socket.as_raw_fd();
            // SAFETY: takes no pointer.
            let duplicate = move || done(unsafe { libc::dup2(from, INHERITED) });
            // SAFETY: the closure makes one system call and allocates nothing.
            unsafe { command.pre_exec(duplicate) };
            Left::Socket { _kept: socket }
        }
        Leave::SocketAsInput => {
            let socket = connected();
            command.stdin(socket.try_clone().expect("a descriptor is free"));
            Left::Socket { _kept: socket }
        }
        Leave::Terminal => {
            let ends = nix::pty::openpty(None, None).expect("the system has terminals");
            command.stdin(ends.slave.try_clone().expect("a descriptor is free"));
            let adopt = || {
                // SAFETY: takes no pointer.
                done(unsafe { libc::setsid() })?;
                // SAFETY: takes a number.
                done(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })
            };
            // SAFETY: the closure makes two system calls and allocates nothing.
            unsafe { command.pre_exec(adopt) };
            Left::Terminal { _screen: ends.master, keyboard: ends.slave }
        }
    }
}

impl Left {
    /// What the supervisor does when the attempt has ended.
    pub(crate) fn end(self) {
        let Self::Terminal { _screen, keyboard } = self else { return };
        // SAFETY: takes a number.
        done(unsafe { libc::fcntl(keyboard.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })
            .expect("every file can be");
        let mut line = [0; 256];
        // An error is that nothing was typed.
        if let Ok(len @ 1..) = File::from(keyboard).read(&mut line) {
            pass_on(&line[..len]).expect("the far side listens");
        }
    }
}

fn connected() -> OwnedFd {
    TcpStream::connect(context::target4()).expect("the far side listens").into()
}

fn done(result: i32) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
