//! What each kind of event is in other forms, as one table: a kind that is not in it does not compile.

use std::borrow::Cow;

use super::{Event, facts};
use crate::record::{EventKind, LineEgress, LineGuard};

/// A class of OCSF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// What there is for events that no class is for.
    Base = 0,
    Process = 1007,
    EventLog = 1008,
    Finding = 2004,
    Session = 3003,
    Network = 4001,
    Application = 6002,
}

impl Class {
    pub(super) const fn number(self) -> u32 {
        self as u32
    }

    pub(super) const fn category(self) -> u32 {
        self.number() / 1000
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Base => "Base Event",
            Self::Process => "Process Activity",
            Self::EventLog => "Event Log Activity",
            Self::Finding => "Detection Finding",
            Self::Session => "Authorize Session",
            Self::Network => "Network Activity",
            Self::Application => "Application Lifecycle",
        }
    }
}

/// What was done, in the words of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Activity {
    pub(super) id: u32,
    pub(super) name: Cow<'static, str>,
}

/// What no class has a number for.
pub(super) const OTHER: u32 = 99;

/// A kind of event in other forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// As our own lines write it.
    pub(super) name: &'static str,
    pub(super) class: Class,
    /// Number and name of the activity; of a decision it goes by what was decided: see [`activity`].
    activity: (u32, &'static str),
    /// `event.category` of ECS.
    pub(super) category: &'static str,
    /// `event.type` of ECS, which takes no others than its own.
    pub(super) types: &'static [&'static str],
}

/// Of a decision it says what holds for all of this kind: what the guard decided about something else than a socket is a finding.
#[rustfmt::skip]
pub(super) const fn shape(kind: EventKind) -> Shape {
    use Class::{Application, EventLog, Finding, Network, Process, Session};
    let (name, class, activity, category, types): (_, _, _, _, &[&str]) = match kind {
        EventKind::Egress => ("egress", Network, DECIDED, "network", &["connection"]),
        EventKind::EgressRepeated => ("egress-repeated", Network, DECIDED, "network", &["connection"]),
        EventKind::Guard => ("guard", Network, DECIDED, "intrusion_detection", &[]),
        EventKind::ConnectionClosed => ("connection-closed", Network, (2, "Close"), "network", &["connection", "end"]),
        EventKind::Datagrams => ("datagrams", Network, (6, "Traffic"), "network", &["connection", "info"]),
        EventKind::Listening => ("listening", Network, (7, "Listen"), "network", &["connection", "start"]),
        EventKind::ListeningEnded => ("listening-ended", Network, (OTHER, "Stop Listening"), "network", &["connection", "end"]),
        EventKind::Fork => ("fork", Process, (1, "Launch"), "process", &["start"]),
        EventKind::Exec => ("exec", Process, (1, "Launch"), "process", &["change"]),
        EventKind::Exit => ("exit", Process, (2, "Terminate"), "process", &["end"]),
        EventKind::ImageMeasured => ("image-measured", Process, (OTHER, "Measure"), "process", &["info"]),
        EventKind::SessionStarted => ("session-started", Session, (1, "Assign Privileges"), "session", &["start"]),
        EventKind::SessionGranted => ("session-granted", Session, (OTHER, "Grant"), "session", &["info"]),
        EventKind::SessionRevoked => ("session-revoked", Session, (OTHER, "Revoke"), "session", &["change"]),
        EventKind::SessionExpired => ("session-expired", Session, (OTHER, "Expire"), "session", &["change"]),
        EventKind::SessionQuarantined => ("session-quarantined", Session, (OTHER, "Quarantine"), "session", &["change"]),
        EventKind::SessionReleased => ("session-released", Session, (OTHER, "Release"), "session", &["change"]),
        EventKind::SessionEnded => ("session-ended", Session, (OTHER, "End"), "session", &["end"]),
        EventKind::SocketsDestroyed => ("sockets-destroyed", Session, (OTHER, "Destroy Sockets"), "session", &["change"]),
        EventKind::CredentialIssued => ("credential-issued", Session, (OTHER, "Issue Credential"), "iam", &["creation"]),
        EventKind::EscapeSign => ("escape-sign", Finding, (1, "Create"), "intrusion_detection", &["info"]),
        EventKind::TamperSign => ("tamper-sign", Finding, (1, "Create"), "intrusion_detection", &["info"]),
        EventKind::Finding => ("finding", Finding, (1, "Create"), "intrusion_detection", &["info"]),
        EventKind::DaemonStarted => ("daemon-started", Application, (3, "Start"), "host", &["start"]),
        EventKind::DaemonStopped => ("daemon-stopped", Application, (4, "Stop"), "host", &["end"]),
        EventKind::DaemonFault => ("daemon-fault", Application, (OTHER, "Fault"), "host", &["error"]),
        EventKind::RequestRefused => ("request-refused", Application, (OTHER, "Refuse Request"), "iam", &["denied"]),
        EventKind::EnvelopeReplaced => ("envelope-replaced", Application, (8, "Update"), "configuration", &["change"]),
        EventKind::EnvelopeAccepted => ("envelope-accepted", Application, (8, "Update"), "configuration", &["creation"]),
        EventKind::AuthorityChanged => ("authority-changed", Application, (8, "Update"), "configuration", &["change"]),
        EventKind::AuditCheckpoint => ("audit-checkpoint", Application, (OTHER, "Checkpoint"), "configuration", &["info"]),
        EventKind::FileMeasured => ("file-measured", Application, (OTHER, "Measure"), "file", &["info"]),
        EventKind::SinkTest => ("sink-test", Application, (OTHER, "Test Sink"), "host", &["info"]),
        EventKind::RecordsLost => ("records-lost", EventLog, (OTHER, "Lose Records"), "host", &["error"]),
    };
    Shape { name, class, activity, category, types }
}

/// It depends on the decision.
const DECIDED: (u32, &str) = (0, "Unknown");

/// The class of an event, and what was done.
pub(super) fn activity(event: &Event) -> (Class, Activity) {
    let Shape { class, activity: (id, name), .. } = shape(event.kind);
    let fixed = Activity { id, name: name.into() };
    match (event.kind, &event.egress, &event.guard) {
        (EventKind::Egress | EventKind::EgressRepeated, Some(egress), _) => (class, of_egress(egress)),
        (EventKind::Guard, _, Some(guard)) => of_guard(guard),
        (EventKind::Finding, ..) if event.finding.as_ref().is_some_and(|finding| finding.state == "over") => {
            (class, Activity { id: 2, name: "Update".into() })
        }
        _ => (class, fixed),
    }
}

fn of_egress(egress: &LineEgress) -> Activity {
    let (id, name): (u32, Cow<'static, str>) = match egress.operation.as_ref() {
        _ if egress.refused => (5, "Refuse".into()),
        "connect" | "accept" => (1, "Open".into()),
        "send" | "packet-out" | "packet-in" => (6, "Traffic".into()),
        "bind" => (7, "Listen".into()),
        other => (OTHER, other.to_owned().into()),
    };
    Activity { id, name }
}

fn of_guard(guard: &LineGuard) -> (Class, Activity) {
    if !facts::is_about_socket(guard) {
        return (Class::Finding, Activity { id: 1, name: "Create".into() });
    }
    let (id, name): (u32, Cow<'static, str>) = match guard.operation.as_ref() {
        _ if guard.refused => (5, "Refuse".into()),
        "unix_stream_connect" => (1, "Open".into()),
        "unix_may_send" | "socket_sendmsg" => (6, "Traffic".into()),
        other => (OTHER, other.to_owned().into()),
    };
    (Class::Network, Activity { id, name })
}
