//! What goes in, and what comes out.

use std::fmt;

use jiff::Timestamp;
use uuid::Uuid;

use super::Endpoint;

/// The detections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detection {
    /// A session is refused very often in a short time.
    RefusalBurst,
    /// An agent executes what it never has.
    NewExecutable,
    /// An agent reaches what it never has.
    NewDestination,
    /// A process is not where its session is, or would get hold of what is outside.
    EscapeSign,
    /// Somebody changes what enforcement or evidence is made of, or would.
    TamperSign,
    /// A session has used up a limit.
    LimitReached,
}

impl Detection {
    pub(crate) const ALL: [Self; 6] = [
        Self::RefusalBurst,
        Self::NewExecutable,
        Self::NewDestination,
        Self::EscapeSign,
        Self::TamperSign,
        Self::LimitReached,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RefusalBurst => "refusal-burst",
            Self::NewExecutable => "new-executable",
            Self::NewDestination => "new-destination",
            Self::EscapeSign => "escape-sign",
            Self::TamperSign => "tamper-sign",
            Self::LimitReached => "limit-reached",
        }
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When: intervals go by the boot clock, which nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) boot_ns: u64,
    /// As the event says it.
    pub(crate) time: Timestamp,
}

/// An event, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// None of one that could not be written.
    pub(crate) sequence: Option<u64>,
    pub(crate) at: Moment,
    /// The session, and the agent whose baseline it is compared with. None of what is the host's.
    pub(crate) by: Option<(Uuid, &'a str)>,
}

/// What was done. One event may tell of several.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed<'a> {
    /// The session was refused something that it tried itself.
    Refused,
    /// This limit is used up, whoever tried.
    Limit(&'static str),
    /// It may have reached this: nobody refused it.
    Reached(Endpoint),
    /// The path as it was executed.
    Executed { path: &'a str, sha256: Option<&'a str> },
    /// In words.
    Escape(&'a str),
    /// Likewise.
    Tamper(&'a str),
}

/// An event that a finding is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) sequence: u64,
    pub(crate) time: Timestamp,
}

/// Whether a finding is told of for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    New,
    /// What was told of is over; how much of it there was in all.
    Over,
}

impl Phase {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Over => "over",
        }
    }
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// That of the first time, also when it is over.
    pub(crate) id: String,
    pub(crate) detection: Detection,
    pub(crate) phase: Phase,
    pub(crate) session: Option<Uuid>,
    /// In words.
    pub(crate) title: String,
    /// What is new, or which limit it is.
    pub(crate) subject: Option<String>,
    /// Of how many events.
    pub(crate) count: u64,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
    /// The newest of these, oldest first.
    pub(crate) evidence: Vec<Evidence>,
    /// Whether a session may be put in quarantine for it: it is of the session's own doing, and new.
    pub(crate) is_grave: bool,
}
