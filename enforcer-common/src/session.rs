//! What the kernel knows of a session: one control word that changes, and one row that does not.

use crate::identity::SessionRef;
use crate::verdict::Mode;
use crate::{kernel_pod, wire_enum};

wire_enum! {
    /// Whether a session stands.
    pub enum SessionState: u8 = "session state" {
        /// No session has this slot.
        Free = 0 => "free",
        /// Connections are decided by the envelope.
        Active = 1 => "active",
        /// Everything is refused.
        Revoked = 2 => "revoked",
        /// Everything is refused, and its processes are kept for somebody to look at.
        Quarantined = 3 => "quarantined",
    }
}

/// A session's control word: everything about it that can change, in one 64-bit word, so that a change is one atomic
/// store and a reader sees the old or the new, never a mixture.
///
/// Bits, from the least significant: state (8), mode (8), envelope (24), generation (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct ControlWord(pub u64);

/// A control word taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Whether the session stands.
    pub state: SessionState,
    /// Whether its envelope's denies are carried out.
    pub mode: Mode,
    /// The number of the envelope in force, at most [`Control::MAX_ENVELOPE`].
    pub envelope: u32,
    /// Which holder of the slot, at most [`Control::MAX_GENERATION`].
    pub generation: u32,
}

impl Control {
    /// The largest envelope number that fits the word.
    pub const MAX_ENVELOPE: u32 = (1 << 24) - 1;
    /// The largest generation that fits the word.
    pub const MAX_GENERATION: u32 = (1 << 24) - 1;

    /// The word. An envelope or generation that does not fit is cut: callers keep to the maxima.
    pub const fn pack(self) -> ControlWord {
        ControlWord(
            self.state as u64
                | (self.mode as u64) << 8
                | ((self.envelope & Self::MAX_ENVELOPE) as u64) << 16
                | ((self.generation & Self::MAX_GENERATION) as u64) << 40,
        )
    }
}

impl ControlWord {
    /// The generation, readable in any state.
    pub const fn generation(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// The number of the envelope, likewise.
    pub const fn envelope(self) -> u32 {
        (self.0 >> 16) as u32 & Control::MAX_ENVELOPE
    }

    /// The fields, unless the word holds a state or mode that does not exist (a fresh slot has no mode).
    pub fn unpack(self) -> Option<Control> {
        Some(Control {
            state: SessionState::try_from(self.0 as u8).ok()?,
            mode: Mode::try_from((self.0 >> 8) as u8).ok()?,
            envelope: self.envelope(),
            generation: self.generation(),
        })
    }
}

/// How many ancestors a session may have.
pub const MAX_DEPTH: usize = 8;

/// What is fixed for a session's life. Written before the control word makes the session active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SessionRow {
    /// The session id, a UUID.
    pub id: [u8; 16],
    /// When the session expires, ns on the boot clock (`CLOCK_BOOTTIME`: it counts suspended time).
    pub expires_ns: u64,
    /// The session's cgroup.
    pub cgroup_id: u64,
    /// Its depth below the root of the hierarchy.
    pub cgroup_level: u32,
    /// How many ancestors it has, at most [`MAX_DEPTH`].
    pub depth: u32,
    /// Who handed it a part of itself, nearest first; [`SessionRef::UNKNOWN`] beyond `depth`. It stands as long as each of them does, and
    /// what it spends is theirs as well.
    pub ancestors: [SessionRef; MAX_DEPTH],
}

/// What a session has used of its limits. Written by kernel programs, atomically; set to zero before the session begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Usage {
    /// Connections made, with those of its descendants.
    pub connections: u64,
    /// When the rate will have been kept to if nothing more is asked for, ns on the boot clock.
    pub rate_due_ns: u64,
    /// Bytes of the packets that were sent.
    pub bytes_out: u64,
    /// Bytes of the packets that were received.
    pub bytes_in: u64,
}

kernel_pod!(SessionRow: 104, Usage: 32);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn control_word_survives_a_round_trip(
            state in 0usize..SessionState::ALL.len(),
            mode in 0usize..Mode::ALL.len(),
            envelope in 0..=Control::MAX_ENVELOPE,
            generation in 0..=Control::MAX_GENERATION,
        ) {
            let control = Control {
                state: SessionState::ALL[state], mode: Mode::ALL[mode], envelope, generation,
            };
            prop_assert_eq!(control.pack().unpack(), Some(control));
            prop_assert_eq!(control.pack().generation(), generation);
        }
    }

    #[test]
    fn fresh_slot_is_not_a_session() {
        assert_eq!(ControlWord::default().unpack(), None);
    }
}
