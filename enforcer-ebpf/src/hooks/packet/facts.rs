//! What the parts of the packet gate hand each other: plain memory, with a layout that the kernel can check.

use aya_ebpf::programs::SkBuffContext;
use enforcer_common::{
    decision::Decision,
    identity::SessionRef,
    net::{Address, Direction, Family, Protocol},
    packet::Packet,
    record::Operation,
    rules::NO_RULE,
    session::ControlWord,
    verdict::{Mode, Reason, Verdict},
};

/// What is known of a packet. Handed on by its address: the parts below are functions of their own, which the kernel verifies once
/// each and which have each what the 512 bytes of stack leave it. Such a function takes numbers and addresses of plain memory only, all of
/// which must have been written to: hence no padding.
#[repr(C)]
pub(super) struct Facts {
    pub(super) remote: [u8; 16],
    pub(super) remote_port: u16,
    pub(super) local_port: u16,
    pub(super) len: u32,
    /// [`Direction`], [`Protocol`] and [`Family`] as numbers.
    pub(super) direction: u8,
    pub(super) protocol: u8,
    pub(super) family: u8,
    /// [`Reason`] as a number, if the packet cannot be judged by its header; 0 if it can.
    pub(super) unread: u8,
    pub(super) opens: u8,
    pub(super) resets: u8,
    /// Of the session that is asked: 1 if the socket is not of its making.
    pub(super) foreign: u8,
    /// 1 if the process that runs is of that session, and sends the packet.
    pub(super) sent_by_current: u8,
}
const _: () = assert!(size_of::<Facts>() == 32);

impl Facts {
    #[inline(always)]
    pub(super) fn new(ctx: &SkBuffContext, direction: Direction) -> Self {
        Self {
            remote: [0; 16],
            remote_port: 0,
            local_port: 0,
            len: ctx.len(),
            direction: direction.raw(),
            protocol: 0,
            family: 0,
            unread: Reason::Header.raw(),
            opens: 0,
            resets: 0,
            foreign: 0,
            sent_by_current: 0,
        }
    }

    #[inline(always)]
    pub(super) const fn is_out(&self) -> bool {
        self.direction == Direction::Out.raw()
    }

    #[inline(always)]
    pub(super) fn address(&self) -> Address {
        match Family::try_from(self.family) {
            Ok(Family::V6) => Address::v6(self.remote),
            _ => Address::v4([self.remote[0], self.remote[1], self.remote[2], self.remote[3]]),
        }
    }

    #[inline(always)]
    pub(super) fn packet(&self) -> Packet {
        Packet {
            direction: if self.is_out() { Direction::Out } else { Direction::In },
            protocol: match self.protocol {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                _ => Protocol::Icmp,
            },
            opens: self.opens != 0,
            resets: self.resets != 0,
            remote: self.address(),
            remote_port: self.remote_port,
            local_port: self.local_port,
        }
    }

    /// Why the packet cannot be judged by its header.
    #[inline(always)]
    pub(super) fn unread(&self) -> Option<Reason> {
        match self.unread {
            0 => None,
            reason => Some(Reason::try_from(reason).unwrap_or(Reason::Header)),
        }
    }

    /// As its record and its total call it.
    #[inline(always)]
    pub(super) const fn operation(&self) -> Operation {
        if self.is_inbound_opening() {
            Operation::Accept
        } else if self.is_out() {
            Operation::PacketOut
        } else {
            Operation::PacketIn
        }
    }

    /// Whether somebody else begins a connection to us.
    #[inline(always)]
    pub(super) const fn is_inbound_opening(&self) -> bool {
        self.unread == 0 && self.opens != 0 && !self.is_out()
    }
}

/// A decision, with the control word that it went by. As [`Facts`].
#[repr(C)]
pub(super) struct Judged {
    pub(super) control: u64,
    pub(super) rule: u32,
    pub(super) envelope: u32,
    pub(super) verdict: u8,
    pub(super) reason: u8,
    pub(super) mode: u8,
    /// 1 if the packet is to be let through all the same: see `gate_decide`.
    pub(super) resets: u8,
    pub(super) pad: [u8; 4],
}
const _: () = assert!(size_of::<Judged>() == 24);

impl Judged {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self { control: 0, rule: 0, envelope: 0, verdict: 0, reason: 0, mode: 0, resets: 0, pad: [0; 4] }
    }

    /// A refusal for this reason, under this control word, that no rule decided.
    #[inline(always)]
    pub(super) const fn refusal(control: u64, reason: u8) -> Self {
        Self {
            control,
            rule: NO_RULE,
            envelope: ControlWord(control).envelope(),
            verdict: Verdict::Deny.raw(),
            reason,
            mode: Mode::Enforce.raw(),
            resets: 0,
            pad: [0; 4],
        }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, decision: &Decision) {
        self.rule = decision.rule;
        self.envelope = decision.envelope;
        self.verdict = decision.verdict.raw();
        self.reason = decision.reason.raw();
        self.mode = decision.mode.raw();
    }

    /// Whether it is a refusal for what the sender executes.
    #[inline(always)]
    pub(super) const fn is_for_image(&self) -> bool {
        self.reason == Reason::ImageNotMeasured.raw() || self.reason == Reason::ImageNotListed.raw()
    }

    /// What cannot be read is a deny.
    #[inline(always)]
    pub(super) fn decision(&self) -> Decision {
        Decision {
            verdict: if self.verdict == Verdict::Allow.raw() { Verdict::Allow } else { Verdict::Deny },
            reason: Reason::try_from(self.reason).unwrap_or(Reason::Fault),
            rule: self.rule,
            envelope: self.envelope,
            mode: if self.mode == Mode::Audit.raw() { Mode::Audit } else { Mode::Enforce },
        }
    }
}

/// A session as one number: 0 is none, since no session is of generation 0 but the one of no table.
#[inline(always)]
pub(in crate::hooks) const fn pack(session: SessionRef) -> u64 {
    (session.generation as u64) << 32 | session.slot as u64
}

#[inline(always)]
pub(in crate::hooks) const fn unpack(session: u64) -> SessionRef {
    SessionRef { slot: session as u32, generation: (session >> 32) as u32 }
}
