//! Requests that are refused: each is a line, but for what is too much in a second, which is one together.

use super::{
    Daemon, To,
    asker::{asker, vouch},
    reply_to,
};
use crate::{
    clock,
    control::{
        peer::Peer,
        server::{Refusal, Unheard},
    },
    procfs,
    record::{EventKind, EventLine, LineProcess, LineRepeats},
};

/// Those that get a line of their own between two ticks.
const LINES_A_TICK: u64 = 16;

/// The longest that is told of one, in characters: what was asked is somebody else's words.
const MAX_DETAIL: usize = 400;

/// What was refused since the last tick.
#[derive(Debug, Default)]
pub(super) struct RefusedRequests {
    lines: u64,
    /// Those without a line of their own, and the times of the first and the last of them, ns on the boot clock.
    more: u64,
    first_ns: u64,
    last_ns: u64,
}

impl RefusedRequests {
    /// Whether it gets a line of its own.
    fn note(&mut self, now_ns: u64) -> bool {
        if self.lines < LINES_A_TICK {
            self.lines += 1;
            return true;
        }
        if self.more == 0 {
            self.first_ns = now_ns;
        }
        self.more += 1;
        self.last_ns = now_ns;
        false
    }
}

/// Without control characters, and not longer than that.
fn short(what: &str) -> String {
    let printed = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut rest = what.chars();
    let mut text: String = rest.by_ref().take(MAX_DETAIL).map(printed).collect();
    if rest.next().is_some() {
        text.push('…');
    }
    text
}

impl Daemon {
    /// With the session of whoever asked, if it is in one.
    pub(super) fn record_refusal(&mut self, peer: &Peer, what: &str) {
        let now_ns = clock::boot_ns();
        if !self.refused.note(now_ns) {
            return;
        }
        let line = EventLine::new(EventKind::RequestRefused, &clock::wall(now_ns));
        let asker = asker(peer);
        let mut line = line.asked_by(asker).detail(format!("{asker} {}", short(what)));
        // Whoever cannot be told has none: it is refused all the same.
        let tag = self.kernel.sessions.tag(peer.pid).ok().flatten();
        // Asked last: had it ended before, the number could have been another's.
        let tag = tag.filter(|_| vouch(peer).is_ok());
        let session = tag.and_then(|tag| self.registry.at(tag.session));
        line.session = session.map(|session| session.text.clone());
        let (comm, _) = procfs::describe(peer.pid);
        line.process = session.map(|session| {
            LineProcess::new(peer.pid, comm.unwrap_or_default(), Some(session), &self.host.boot_id)
        });
        self.events.write(line);
    }

    /// Refuses what somebody asked for, and records it unless that has been done.
    pub(super) fn refuse(&mut self, peer: &Peer, asked: &str, refusal: Refusal, to: To) {
        if !refusal.recorded {
            self.record_refusal(peer, &format!("asked to {asked}: {}", refusal.message));
        }
        reply_to(to, Err(refusal));
    }

    /// Records a request that the loop did not hear of. Whoever the kernel does not name has no number.
    pub(super) fn record_unheard(&mut self, unheard: &Unheard) {
        let Unheard { peer, what } = unheard;
        match peer {
            Ok(peer) => match vouch(peer) {
                Ok(()) => self.record_refusal(peer, what),
                // Said first: what was asked may be as long as somebody likes.
                Err(why) => self.record_refusal(peer, &format!("or somebody else ({why}) {what}")),
            },
            Err(why) => {
                let now_ns = clock::boot_ns();
                if self.refused.note(now_ns) {
                    let line = EventLine::new(EventKind::RequestRefused, &clock::wall(now_ns));
                    self.events.write(line.detail(format!("somebody {}: {why}", short(what))));
                }
            }
        }
    }

    /// Says how many more there were since the last time, and lets there be as many lines again.
    pub(super) fn say_refused(&mut self) {
        let RefusedRequests { more, first_ns, last_ns, .. } = std::mem::take(&mut self.refused);
        if more == 0 {
            return;
        }
        let line = EventLine::new(EventKind::RequestRefused, &clock::wall(last_ns));
        let mut line = line.detail(format!("{more} more requests, after others in the same second"));
        line.repeats = Some(LineRepeats::new(more, first_ns, last_ns, clock::wall));
        self.events.write(line);
    }
}
