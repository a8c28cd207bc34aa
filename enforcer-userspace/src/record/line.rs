//! The written form of an event: one JSON object a line. Also read back, by the command line.

use std::{borrow::Cow, fmt, sync::Arc};

use enforcer_common::{
    net::Protocol,
    record::Operation,
    verdict::{Reason, Verdict},
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Egress, LineFinding, LineFlow, LineGap, LineGuard, LineImage, LineLoss, LineRecord, LineRepeats, Loss,
    Unwritten, read::ReadLine,
};
use crate::session::{Container, Context, EnvelopeInForce, Grant, ProcessView, Session};

/// The version of the line format. Fields are added; a change of meaning changes the number.
pub(crate) const VERSION: u32 = 1;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventKind {
    DaemonStarted,
    DaemonStopped,
    SessionStarted,
    SessionRevoked,
    SessionExpired,
    SessionEnded,
    Egress,
    Fork,
    Exec,
    Exit,
    /// What the guard refused, or a Unix socket that a rule decided about.
    Guard,
    RecordsLost,
    RequestRefused,
    /// A session is held to another envelope from now on.
    EnvelopeReplaced,
    /// A signed envelope, of a revision that no envelope of its agent had before.
    EnvelopeAccepted,
    /// The daemon could not do part of its housekeeping.
    DaemonFault,
    SessionQuarantined,
    /// A session in quarantine may go on.
    SessionReleased,
    /// Open sockets of a session were destroyed.
    SocketsDestroyed,
    /// A process is not in the cgroup that its tag says, or in a session's cgroup without a tag. Once for each process.
    EscapeSign,
    /// A session of a user who is no operator was begun, by a grant of the registration policy.
    SessionGranted,
    /// A process of a session got a credential.
    CredentialIssued,
    /// What signs credentials, or what they are checked with, is another from now on.
    AuthorityChanged,
    /// What a process executes was measured, or could not be.
    ImageMeasured,
    /// A file that an envelope names was measured, or could not be.
    FileMeasured,
    /// The audit log, or what is known of an agent, does not say any more what it said.
    TamperSign,
    /// Where the audit log is: kept elsewhere, it shows that the log is still the one that had it.
    AuditCheckpoint,
    /// Events before it are something that somebody should look at.
    Finding,
    /// A TCP socket waits for connections from now on.
    Listening,
    /// It does not any more.
    ListeningEnded,
    /// A TCP connection is over, and this is what it carried.
    ConnectionClosed,
    /// What was exchanged with somebody in datagrams, in some seconds.
    Datagrams,
    /// Packets that were refused like one before them that has a line of its own.
    EgressRepeated,
    /// Made to try a sink, and in no event file.
    SinkTest,
}

/// An event. Written, its session is text already; read, it is a [`LineSession`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "ReadLine<S>", bound(deserialize = "S: Deserialize<'de>"))]
pub(crate) struct EventLine<S = SessionText> {
    pub(crate) version: u32,
    pub(crate) kind: EventKind,
    /// RFC 3339, UTC, ns.
    pub(crate) time: String,
    /// Likewise, of one that is to be written.
    #[serde(skip)]
    pub(crate) at: jiff::Timestamp,
    /// Counts the lines of this host, across restarts; a gap is a loss.
    pub(crate) sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<S>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<LineProcess>,
    #[serde(flatten)]
    pub(crate) egress: Option<LineEgress>,
    #[serde(flatten)]
    pub(crate) guard: Option<LineGuard>,
    /// How often it was decided like this again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repeats: Option<LineRepeats>,
    /// What was carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flow: Option<LineFlow>,
    /// What a process executes, in a session that may not execute everything; or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<LineImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) child_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_signal: Option<i32>,
    /// Records or lines that are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<u64>,
    /// Which records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost_records: Option<LineLoss>,
    /// Which events, of those that a sink was to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost_events: Option<LineGap>,
    /// The kernel's record that this was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<LineRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finding: Option<LineFinding>,
    /// Who asked for it, of what somebody asks the daemon for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked_by: Option<LineAsker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Who asked the daemon for something, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LineAsker {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

impl fmt::Display for LineAsker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (uid {})", self.pid, self.uid)
    }
}

/// Who acted, and for whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineSession {
    pub(crate) id: String,
    /// The session that handed it a part of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// The agents of the sessions above it, from the top down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) agents_above: Vec<String>,
    pub(crate) agent: String,
    pub(crate) owner: String,
    pub(crate) operator: String,
    pub(crate) model: String,
    pub(crate) purpose: String,
    /// What was said of it when it began.
    #[serde(flatten)]
    pub(crate) context: Context,
    /// The one that its first process ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<Container>,
    /// Who had it begun, as the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registered_by_uid: Option<u32>,
    /// SHA-256 of the text of the envelope that it was held to; of a decision, the one that decided.
    #[serde(default)]
    pub(crate) envelope_digest: String,
}

/// A [`LineSession`] as it is written. Made once for a session and its envelope: it is a third of a line, and of thousands of lines
/// a second the same.
#[derive(Clone, Debug)]
pub(crate) struct SessionText(Arc<RawValue>);

impl Serialize for SessionText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

/// The process that acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LineProcess {
    pub(crate) pid: u32,
    /// Boot, id and start: the same for no two processes. Null of one whose start is not known.
    #[serde(default)]
    pub(crate) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// A hint: a process can name itself.
    pub(crate) comm: String,
    pub(crate) path: Option<String>,
    /// From the session's first process to this one.
    pub(crate) lineage: Vec<Lineage>,
    /// Whether some are left out behind the first: there are too many, or what they were is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lineage_cut: bool,
}

/// One process of a lineage. What is not known is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) pid: u32,
    pub(crate) comm: Option<String>,
    pub(crate) path: Option<String>,
}

/// A decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineEgress {
    pub(crate) operation: Cow<'static, str>,
    pub(crate) protocol: Cow<'static, str>,
    /// The far end; of `bind`, the local address. Null for `socket()`.
    pub(crate) destination: Option<LineDestination>,
    /// Our own port, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) local_port: Option<u16>,
    pub(crate) verdict: Cow<'static, str>,
    /// Whether the operation was refused; a deny in audit mode is not.
    pub(crate) refused: bool,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) rule: Option<String>,
    /// The socket's cookie, as `ss -e` shows it.
    pub(crate) socket: u64,
    /// The inode of the network namespace that the socket is in, as `ls -l /proc/PID/ns/net` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<u32>,
    /// True if the socket was not made in the session: it was inherited, or received.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) foreign: bool,
    /// Where the process stands, if that is not where its tag says: `outside`, `other-session`, `untagged`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<Cow<'static, str>>,
}

/// The name of an IP protocol, or its number.
pub(crate) fn protocol_name(number: u16) -> Cow<'static, str> {
    let known = Protocol::of_ip(u32::from(number));
    known.map_or_else(|| number.to_string().into(), |protocol| protocol.name().into())
}

/// Where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineDestination {
    pub(crate) address: String,
    pub(crate) port: u16,
}

impl<S> EventLine<S> {
    /// An event without particulars.
    pub(crate) fn bare(kind: EventKind, time: String, sequence: u64) -> Self {
        Self {
            version: VERSION,
            kind,
            time,
            at: jiff::Timestamp::UNIX_EPOCH,
            sequence,
            session: None,
            process: None,
            egress: None,
            guard: None,
            repeats: None,
            flow: None,
            image: None,
            child_pid: None,
            exit_code: None,
            exit_signal: None,
            lost: None,
            lost_records: None,
            lost_events: None,
            record: None,
            finding: None,
            asked_by: None,
            detail: None,
        }
    }
}

impl EventLine<SessionText> {
    /// Likewise. The writer gives it its sequence.
    pub(crate) fn new(kind: EventKind, time: &jiff::Timestamp) -> Self {
        Self { at: *time, ..Self::bare(kind, format!("{time:.9}"), 0) }
    }

    pub(crate) fn asked_by(mut self, asker: LineAsker) -> Self {
        self.asked_by = Some(asker);
        self
    }

    pub(crate) fn session(mut self, session: &Session) -> Self {
        self.session = Some(session.text.clone());
        self
    }

    pub(crate) fn loss(mut self, loss: &Loss, wall: impl Fn(u64) -> jiff::Timestamp) -> Self {
        self.lost = Some(loss.records);
        self.lost_records = Some(LineLoss::new(loss, wall));
        self
    }

    pub(crate) fn unwritten(mut self, unwritten: &Unwritten, wall: impl Fn(u64) -> jiff::Timestamp) -> Self {
        self.lost = Some(unwritten.records);
        self.lost_records = Some(LineLoss::unwritten(unwritten, wall));
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl SessionText {
    /// A session while it was held to this envelope.
    pub(crate) fn under(grant: &Grant, envelope: &EnvelopeInForce) -> Self {
        let metadata = &envelope.envelope.metadata;
        let line = LineSession {
            id: grant.id.to_string(),
            parent: grant.parent_id().map(|id| id.to_string()),
            agents_above: grant.agents_above().unwrap_or_default().to_vec(),
            agent: metadata.name.clone(),
            owner: metadata.owner.clone(),
            operator: metadata.operator.clone(),
            model: metadata.model.clone(),
            purpose: metadata.purpose.clone(),
            context: grant.context.clone(),
            container: grant.container.clone(),
            registered_by_uid: Some(grant.registered_by_uid),
            envelope_digest: envelope.digest.clone(),
        };
        let text = serde_json::value::to_raw_value(&line).expect("it holds only text");
        Self(text.into())
    }
}

impl LineProcess {
    /// A process as a record names it, with what the session knows of it.
    pub(crate) fn new(tgid: u32, comm: String, session: Option<&Session>, boot_id: &str) -> Self {
        let (lineage, lineage_cut) =
            session.map(|session| session.processes.lineage(tgid)).unwrap_or_default();
        let key = lineage.last().map(|process| process.key.unique(boot_id));
        let lineage: Vec<Lineage> = lineage.into_iter().map(Lineage::from).collect();
        let path = lineage.last().and_then(|process| process.path.clone());
        Self { pid: tgid, key, tid: None, uid: None, comm, path, lineage, lineage_cut }
    }
}

impl From<ProcessView<'_>> for Lineage {
    fn from(process: ProcessView<'_>) -> Self {
        Self {
            pid: process.tgid,
            comm: process.comm.map(str::to_owned),
            path: process.path.map(str::to_owned),
        }
    }
}

impl LineEgress {
    pub(crate) fn new(egress: &Egress, session: Option<&Session>) -> Self {
        let (operation, verdict, reason): (Operation, Verdict, Reason) =
            (egress.operation, egress.verdict, egress.reason);
        Self {
            operation: operation.name().into(),
            protocol: protocol_name(egress.protocol),
            destination: egress
                .to
                .map(|(address, port)| LineDestination { address: address.to_string(), port }),
            local_port: egress.local_port,
            verdict: verdict.name().into(),
            refused: egress.refused,
            reason: reason.name().into(),
            rule: egress.rule.and_then(|rule| {
                session.and_then(|session| session.rule_name(egress.envelope, rule)).map(str::to_owned)
            }),
            socket: egress.cookie,
            netns: egress.netns,
            foreign: egress.foreign,
            placement: egress.is_misplaced().then(|| egress.placement.name().into()),
        }
    }
}
