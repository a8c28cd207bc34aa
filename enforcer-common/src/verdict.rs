//! What a decision says: [`Verdict`], [`Reason`] and the [`Mode`] it was taken in.

use crate::wire_enum;

wire_enum! {
    /// The answer of a decision.
    pub enum Verdict: u8 = "verdict" {
        /// Inside the envelope.
        Allow = 1 => "allow",
        /// Outside it, or not decidable.
        Deny = 2 => "deny",
    }
}

wire_enum! {
    /// Whether a deny is carried out.
    pub enum Mode: u8 = "mode" {
        /// A deny refuses the operation.
        Enforce = 1 => "enforce",
        /// What the rules would refuse is recorded and let through. A session that is over, and an identity that cannot
        /// be established, are refused in this mode as well.
        Audit = 2 => "audit",
    }
}

wire_enum! {
    /// Why a decision came out as it did.
    pub enum Reason: u8 = "reason" {
        /// An allow rule matched; the record names it.
        AllowRule = 1 => "allow-rule",
        /// No rule matched: default deny.
        NoRule = 2 => "no-rule",
        /// A deny rule matched; the record names it.
        DenyRule = 3 => "deny-rule",
        /// The session was revoked.
        Revoked = 4 => "revoked",
        /// The session's time to live has passed.
        Expired = 5 => "expired",
        /// The session has ended, or its slot now belongs to another one.
        SessionOver = 6 => "session-over",
        /// The destination has a form that no rule can speak of.
        Unclassifiable = 7 => "unclassifiable",
        /// A family, type or protocol of socket that an envelope cannot describe.
        SocketType = 8 => "socket-type",
        /// A process without a tag inside a session's cgroup: its tag could not be stored, or it was moved there.
        Untagged = 9 => "untagged",
        /// A kernel program could not gather what a decision needs.
        Fault = 10 => "fault",
        /// A process of one session inside the cgroup of another one.
        OtherSession = 11 => "other-session",
        /// An operator has put the session in quarantine.
        Quarantined = 12 => "quarantined",
        /// A limit of the envelope is reached.
        Limit = 13 => "limit",
        /// A packet with IP options, a routing header, a fragment, or a header that cannot be read: it may go somewhere
        /// else than it says.
        Header = 14 => "header",
        /// What the guard keeps sessions from, whatever their rules say: others' processes, and enforcement itself.
        Guarded = 15 => "guarded",
        /// What the process executes has not been measured, and the envelope says what may be.
        ImageNotMeasured = 16 => "image-not-measured",
        /// What the process executes is not what the envelope lists.
        ImageNotListed = 17 => "image-not-listed",
    }
}

impl Reason {
    /// Whether this reason to deny is about the rules of an envelope, and not about whether the session stands at all.
    /// Only such a deny is let through in [`Mode::Audit`].
    pub const fn is_about_rules(self) -> bool {
        matches!(
            self,
            Self::NoRule
                | Self::DenyRule
                | Self::Unclassifiable
                | Self::SocketType
                | Self::Limit
                | Self::Header
        )
    }
}
