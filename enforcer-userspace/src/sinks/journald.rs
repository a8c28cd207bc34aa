//! Entries for systemd's journal, in its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): a field a line, one datagram an entry.

use std::{
    io::{IoSlice, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixDatagram,
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
};

use super::{
    settings::Journald,
    transport::{Message, NotSent, Sent, Transport},
};

/// How long the journal may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct JournaldTransport {
    settings: Journald,
    open: Option<UnixDatagram>,
}

impl JournaldTransport {
    pub(super) const fn new(settings: Journald) -> Self {
        Self { settings, open: None }
    }
}

/// What an entry is made of. None of it holds a newline: it is JSON on one line, or ours.
fn entry(message: &Message) -> String {
    let priority = if message.is_refusal { 4 } else { 6 };
    let text = message.text.replace('\n', " ");
    format!(
        "MESSAGE={text}\nPRIORITY={priority}\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=enforcer\nENFORCER_UID={}\n\
         ENFORCER_KIND={}\n",
        message.uid, message.kind
    )
}

impl Transport for JournaldTransport {
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent> {
        let socket = match self.open.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.settings.socket)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket
            }
        };
        // One that fails is not kept.
        for message in batch {
            let entry = entry(message);
            match socket.send(entry.as_bytes()) {
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    by_file(&socket, entry.as_bytes())?
                }
                sent => drop(sent?),
            }
        }
        self.open = Some(socket);
        // Of a datagram nobody hears again.
        Ok(Sent::Taken)
    }
}

/// What is too long for a datagram goes as a file that nobody can change any more.
fn by_file(socket: &UnixDatagram, entry: &[u8]) -> Result<(), NotSent> {
    let file = memfd_create("enforcer-event", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC);
    let mut file = std::fs::File::from(file.map_err(NotSent::later)?);
    file.write_all(entry)?;
    let seals =
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(NotSent::later)?;
    let rights = [ControlMessage::ScmRights(&[file.as_raw_fd()])];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[])], &rights, MsgFlags::empty(), None);
    sent.map(drop).map_err(|error: Errno| NotSent::later(error))
}
