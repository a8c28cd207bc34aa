//! What is counted of packets: datagrams that pass, and packets that are refused again; for each socket of a session and each address, in
//! periods that the daemon begins. An entry of a period that is over does not change any more, so the daemon reads it, and what it has
//! written down it takes away.

use crate::{identity::SessionRef, kernel_pod, net::Address, rules::Place};

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The period, as `FLOW_PERIOD` had it.
    pub period: u64,
    pub session: SessionRef,
    /// The socket's; 0 of [`FlowKey::others`].
    pub cookie: u64,
    /// [`Place`] of the far end.
    pub remote_high: u64,
    pub remote_low: u64,
    pub remote_port: u16,
    /// [`crate::net::Family`] as a number; 0 of [`FlowKey::others`].
    pub family: u8,
    /// [`crate::net::Protocol`] as a number.
    pub protocol: u8,
    /// [`crate::verdict::Reason`] of a refusal as a number; 0: it was let through. [`FlowKey::SEVERAL_REASONS`] of
    /// [`FlowKey::others`].
    pub reason: u8,
    /// [`crate::record::Operation`] of a refusal as a number.
    pub operation: u8,
    /// Always zero.
    pub pad: u16,
}

impl FlowKey {
    /// No reason in particular.
    pub const SEVERAL_REASONS: u8 = u8::MAX;

    /// The datagrams that this socket exchanges with this address.
    #[inline(always)]
    pub const fn new(
        session: SessionRef,
        cookie: u64,
        remote: Address,
        remote_port: u16,
        protocol: u8,
    ) -> Self {
        let Place { high, low } = Place::of(remote);
        Self {
            period: 0,
            session,
            cookie,
            remote_high: high,
            remote_low: low,
            remote_port,
            family: remote.family().raw(),
            protocol,
            reason: 0,
            operation: 0,
            pad: 0,
        }
    }

    /// Those of a session that found no place of their own: all that were let through, or all that were refused.
    #[inline(always)]
    pub const fn others(self) -> Self {
        let reason = if self.is_refused() { Self::SEVERAL_REASONS } else { 0 };
        Self {
            cookie: 0,
            remote_high: 0,
            remote_low: 0,
            remote_port: 0,
            family: 0,
            protocol: 0,
            reason,
            operation: 0,
            ..self
        }
    }

    /// Whether it is of packets that were refused.
    #[inline(always)]
    pub const fn is_refused(&self) -> bool {
        self.reason != 0
    }
}

/// How much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The first packet, ns on the boot clock.
    pub first_ns: u64,
    /// The last one.
    pub last_ns: u64,
    /// As the kernel handles them: with segmentation offload, one may be several on the wire.
    pub packets_out: u64,
    /// Without headers.
    pub bytes_out: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
    /// The rule that decided about the last one; [`crate::rules::NO_RULE`] if none did.
    pub rule: u32,
    pub envelope: u32,
    /// A process that sent one; 0: none was seen to.
    pub tgid: u32,
    /// Our own port.
    pub local_port: u16,
    /// Of [`Self::SEVERAL`] and [`Self::FOREIGN`].
    pub flags: u16,
}

impl Flow {
    /// The process that it names is not the only one that sent.
    pub const SEVERAL: u16 = 1;
    /// The socket is not of the session's own cgroup.
    pub const FOREIGN: u16 = 2;

    /// What came after this much, if anything did.
    pub const fn since(&self, before: &Self) -> Option<Self> {
        let more = Self {
            first_ns: before.last_ns,
            packets_out: self.packets_out.saturating_sub(before.packets_out),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            packets_in: self.packets_in.saturating_sub(before.packets_in),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            ..*self
        };
        if more.packets_out == 0 && more.packets_in == 0 { None } else { Some(more) }
    }
}

/// Flows that are counted one by one, of all sessions, in two periods.
pub const MAX_FLOWS: u32 = 16_384;

/// Likewise of one session in one period: what is of others is counted together.
pub const MAX_FLOWS_OF_SESSION: u64 = 512;

/// What is counted together has a table of its own, with room for what is let through and what is refused of each session in two
/// periods: nobody can take it from another.
pub const MAX_RESTS: u32 = 2 * 2 * crate::config::MAX_SESSIONS;

kernel_pod!(FlowKey: 48, Flow: 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_the_difference() {
        let said =
            Flow { first_ns: 1, last_ns: 5, packets_out: 3, bytes_out: 30, rule: 7, ..Flow::default() };
        assert_eq!(said.since(&said), None);
        let now = Flow { last_ns: 9, packets_out: 5, bytes_out: 44, packets_in: 1, bytes_in: 2, ..said };
        let more = Flow { first_ns: 5, packets_out: 2, bytes_out: 14, ..now };
        assert_eq!(now.since(&said), Some(more));
    }
}
