//! Envelopes compared and combined by what they let through, not by how they are written.
//!
//! An envelope lets a destination through if its decision is not a refusal: in enforce mode what an allow rule matches and
//! no deny rule that is carried out, in audit mode whatever no such deny rule matches. Destinations are compared by
//! address; so are far ends that begin connections, which are let through by listen rules in place of allow rules. Host names and agents are compared by rule: what one envelope allows by name, the other has to allow by that
//! name or a wider one, and not only by an address that the name may stand for.

mod excess;
mod intersect;
mod named;
mod pairs;
mod region;

use std::time::Duration;

use enforcer_common::net::Destination;

use super::{Image, Limits, OnFinding, OnMismatch, Rate, Requirement};

pub(crate) use excess::{difference, excess};
pub(crate) use intersect::intersect;
pub(super) use intersect::{is_loopback, listens_on_loopback};
pub(crate) use region::{Region, Service};

/// The work that comparing two envelopes may take: seconds, and some hundred megabytes. Envelopes come from whoever asks.
const MAX_STEPS: u64 = 20_000_000;

/// A rule of one of the envelopes that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleRef {
    pub(crate) name: String,
    /// Where it stands in its text.
    pub(crate) line: u32,
}

/// Something that one envelope, the inner one, allows and the outer one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) what: What,
    /// The rule of the inner envelope that lets it through. `None`: its mode, or that it says nothing of the matter.
    pub(crate) inner: Option<RuleRef>,
    /// The rule of the outer envelope that refuses it. `None`: no rule of it allows it.
    pub(crate) outer: Option<RuleRef>,
}

impl Excess {
    /// A destination that the inner envelope lets through and the outer one refuses.
    pub(crate) fn example(&self) -> Option<Destination> {
        match &self.what {
            What::Destinations(region) => region.example(),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Destinations(Region),
    /// Host names and agents, as they are written in rules.
    Named {
        names: Vec<String>,
        services: Vec<Service>,
    },
    /// Who may connect to which local ports.
    Listen {
        region: Region,
        /// The rule that denies it denies it from some of the ports that they may connect from.
        in_part: bool,
    },
    Unix(Vec<String>),
    /// Every Unix socket.
    AnyUnix,
    /// What rules deny is let through.
    Audit,
    Ttl {
        inner: Duration,
        outer: Duration,
    },
    Limit {
        which: Limit,
        /// `None`: no limit.
        inner: Option<Amount>,
        outer: Amount,
    },
    /// Programs that may be executed.
    Images(Vec<Image>),
    /// Every program may be.
    AnyImage,
    /// Files whose content is not looked at.
    Files(Vec<Image>),
    /// Less becomes of what is not as it should be.
    OnMismatch {
        inner: OnMismatch,
        outer: OnMismatch,
    },
    /// Less becomes of a session about which there is a finding.
    OnFinding {
        inner: OnFinding,
        outer: OnFinding,
    },
    /// The host need not offer this.
    Requires(Vec<Requirement>),
}

/// One of [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections,
    ConnectionRate,
    BytesOut,
    BytesIn,
    Processes,
    Depth,
}

/// How much a limit lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Count(u64),
    Bytes(u64),
    Rate(Rate),
}

impl Limit {
    const ALL: [Self; 6] = [
        Self::Connections,
        Self::ConnectionRate,
        Self::BytesOut,
        Self::BytesIn,
        Self::Processes,
        Self::Depth,
    ];

    /// The field in `limits`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionRate => "connectionRate",
            Self::BytesOut => "bytesOut",
            Self::BytesIn => "bytesIn",
            Self::Processes => "processes",
            Self::Depth => "depth",
        }
    }

    fn of(self, limits: &Limits) -> Option<Amount> {
        match self {
            Self::Connections => limits.connections.map(Amount::Count),
            Self::ConnectionRate => limits.connection_rate.map(Amount::Rate),
            Self::BytesOut => limits.bytes_out.map(Amount::Bytes),
            Self::BytesIn => limits.bytes_in.map(Amount::Bytes),
            Self::Processes => limits.processes.map(Amount::Count),
            Self::Depth => limits.depth.map(Amount::Count),
        }
    }
}

impl Amount {
    /// Whether no more is let through than by `outer`, which is of the same kind.
    fn is_within(self, outer: Self) -> bool {
        match (self, outer) {
            (Self::Rate(inner), Self::Rate(outer)) => inner.is_within(outer),
            (Self::Count(inner) | Self::Bytes(inner), Self::Count(outer) | Self::Bytes(outer)) => {
                inner <= outer
            }
            _ => false,
        }
    }
}

impl Rate {
    /// Whether whatever keeps to this rate keeps to `outer` too, also if all of it comes at once: 60 in a minute are not
    /// within 1 in a second, but the other way round.
    fn is_within(self, outer: Self) -> bool {
        let windows = outer.seconds.div_ceil(self.seconds.max(1)).max(1);
        self.count.saturating_mul(windows) <= outer.count
    }

    /// The most that can be said as one rate and is within both.
    fn stricter(self, other: Self) -> Self {
        if self.is_within(other) {
            return self;
        }
        if other.is_within(self) {
            return other;
        }
        let (short, long) = if self.seconds <= other.seconds { (self, other) } else { (other, self) };
        let windows = long.seconds.div_ceil(short.seconds.max(1)).max(1);
        let count = short.count.min(long.count / windows);
        let at_once = short.count.min(long.count);
        if count.saturating_mul(windows) >= at_once {
            Self { count, ..short }
        } else {
            Self { count: at_once, ..long }
        }
    }
}

#[cfg(test)]
mod tests;
