//! What both forms say of an event: how a decision came out, how grave it is, which file a process runs.

use std::net::IpAddr;

use enforcer_common::guard::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX};

use uuid::Uuid;

use super::{
    Event, Host,
    kinds::{self, Class},
};
use crate::{
    credentials::SpiffeId,
    record::{EventKind, LineDestination, LineGuard, LineProcess, LineSession, Lineage},
    session::Container,
};

/// Stands where a form wants something that nobody knows.
pub(super) const UNKNOWN: &str = "unknown";

/// The agent's name among all workloads. Nothing where it is not known which agents were above it.
pub(super) fn spiffe_id(session: &LineSession, host: &Host) -> Option<SpiffeId> {
    let known = session.parent.is_none() || !session.agents_above.is_empty();
    known
        .then(|| SpiffeId::of_agent(&host.trust_domain, &session.agents_above, &session.agent).ok())
        .flatten()
}

/// How a decision came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    /// It would have been refused, but for the audit mode.
    Observed,
    Refused,
}

impl Outcome {
    pub(super) fn of(verdict: &str, refused: bool) -> Self {
        match (verdict, refused) {
            (_, true) => Self::Refused,
            ("allow", false) => Self::Allowed,
            (_, false) => Self::Observed,
        }
    }
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Informational = 1,
    Low = 2,
    Medium = 3,
    High = 4,
}

impl Severity {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
        }
    }
}

/// The decision in an event, if there is one.
pub(super) fn outcome(event: &Event) -> Option<Outcome> {
    match (&event.egress, &event.guard, &event.image) {
        (Some(egress), ..) => Some(Outcome::of(&egress.verdict, egress.refused)),
        (None, Some(guard), _) => Some(Outcome::of(&guard.verdict, guard.refused)),
        (None, None, Some(image)) => match (image.verdict.as_ref(), image.on_mismatch.as_ref()) {
            ("listed" | "as-named", _) => Some(Outcome::Allowed),
            ("unlisted" | "other" | "under-unlisted", "audit") => Some(Outcome::Observed),
            ("unlisted" | "other" | "under-unlisted" | "lost", _) => Some(Outcome::Refused),
            // It is not decided yet.
            _ => None,
        },
        (None, None, None) => None,
    }
}

pub(super) fn severity(event: &Event) -> Severity {
    let kind = event.kind;
    let is_sign = kinds::shape(kind).class == Class::Finding;
    if let Some(finding) = &event.finding {
        return match finding.detection.as_ref() {
            "limit-reached" => Severity::Low,
            "refusal-burst" | "new-executable" | "new-destination" => Severity::Medium,
            _ => Severity::High,
        };
    }
    match (kind, outcome(event)) {
        _ if is_sign => Severity::High,
        (EventKind::RecordsLost | EventKind::DaemonFault, _) => Severity::High,
        (_, Some(Outcome::Refused)) => Severity::Medium,
        (EventKind::RequestRefused | EventKind::SessionRevoked | EventKind::SessionQuarantined, _) => {
            Severity::Medium
        }
        (_, Some(Outcome::Observed)) => Severity::Low,
        _ => Severity::Informational,
    }
}

/// The last part of a path.
pub(super) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

/// What family of sockets a decision of the guard's is about: its name, or its number.
pub(super) fn family_name(guard: &LineGuard) -> String {
    match guard.object.family {
        Some(AF_UNIX) => "unix".to_owned(),
        Some(AF_INET | AF_INET6) => "ip".to_owned(),
        Some(AF_NETLINK) => "netlink".to_owned(),
        Some(family) => format!("family-{family}"),
        None if guard.operation.starts_with("unix_") => "unix".to_owned(),
        None => UNKNOWN.to_owned(),
    }
}

/// Whether what the guard decided is about a socket, and not about a process, a file or the kernel.
pub(super) fn is_about_socket(guard: &LineGuard) -> bool {
    matches!(
        guard.operation.as_ref(),
        "socket_create" | "socket_sendmsg" | "unix_stream_connect" | "unix_may_send"
    )
}

/// The file that a process runs: its path as whoever executed it wrote it, or what the process calls itself.
pub(super) fn program(process: &LineProcess) -> &str {
    first_known([process.path.as_deref(), Some(&process.comm)])
}

/// Likewise of one of those that made it.
pub(super) fn program_of(process: &Lineage) -> &str {
    first_known([process.path.as_deref(), process.comm.as_deref()])
}

/// What a process calls itself, or else what it runs: it can take its name away.
pub(super) fn name<'a>(comm: Option<&'a str>, program: &'a str) -> &'a str {
    first_known([comm, Some(base_name(program))])
}

fn first_known(texts: [Option<&str>; 2]) -> &str {
    texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or(UNKNOWN)
}

/// Those that made a process, its parent first. The lineage ends with the process itself.
pub(super) fn ancestors(process: &LineProcess) -> impl Iterator<Item = &Lineage> {
    process.lineage.iter().rev().skip(1)
}

/// The container of the process that acted.
pub(super) fn container(event: &Event) -> Option<&Container> {
    event.process.as_ref()?;
    event.session.as_ref()?.container.as_ref()
}

/// The UID of its pod, if it is one: an event that was kept is text of anybody's.
pub(super) fn pod(container: &Container) -> Option<&str> {
    container.pod.as_deref().filter(|pod| is_uuid(pod))
}

/// Whether it is a UUID as it is mostly written.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

/// What makes pods.
pub(super) const ORCHESTRATOR: &str = "kubernetes";

/// The boot that a process is of: its key begins with it.
pub(super) fn boot_id(event: &Event) -> Option<&str> {
    let key = event.process.as_ref()?.key.as_deref()?;
    key.split_once(':').map(|(boot, _)| boot)
}

/// The address, if it is one: an event that was kept is text of anybody's.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// The number of an IP protocol.
pub(super) fn protocol_number(name: &str, to: Option<IpAddr>) -> Option<u8> {
    match (name, to) {
        ("icmp", Some(IpAddr::V6(_))) => Some(58),
        ("icmp", _) => Some(1),
        ("tcp", _) => Some(6),
        ("udp", _) => Some(17),
        (number, _) => number.parse().ok(),
    }
}

/// Whether it has the form of a host's name (RFC 1123), which some forms insist on.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.split('.').all(is_label)
}

/// Whether it has the form of a mail address, as OCSF draws it.
pub(super) fn is_mail_address(text: &str) -> bool {
    let is_local = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let is_domain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let Some((local, domain)) = text.split_once('@') else { return false };
    let Some((first, rest)) = domain.split_once('.') else { return false };
    let all = |part: &str, fits: &dyn Fn(char) -> bool| !part.is_empty() && part.chars().all(fits);
    all(local, &is_local) && all(first, &is_domain) && all(rest, &is_domain)
}

/// With a space before it.
fn socket_address(to: &LineDestination) -> String {
    match address(&to.address) {
        Some(ip) => format!(" {}", std::net::SocketAddr::new(ip, to.port)),
        None => format!(" {} port {}", to.address, to.port),
    }
}

/// What happened, in one line.
pub(super) fn message(event: &Event) -> String {
    let mut text = match (&event.egress, &event.guard) {
        (Some(egress), _) => {
            let to = egress.destination.as_ref().map_or_else(String::new, socket_address);
            let outcome = Outcome::of(&egress.verdict, egress.refused).name();
            let mut text =
                format!("{outcome}: {} {}{to}: {}", egress.operation, egress.protocol, egress.reason);
            text.extend(egress.rule.iter().flat_map(|rule| [" ", rule.as_str()]));
            text
        }
        (None, Some(guard)) => {
            let outcome = Outcome::of(&guard.verdict, guard.refused).name();
            let mut text = format!("{outcome}: {}: {}", guard.operation, guard.reason);
            text.extend(guard.object.name.iter().flat_map(|name| [" ", name.as_str()]));
            text
        }
        (None, None) => match &event.flow {
            Some(flow) => {
                let to = flow.destination.as_ref().map_or_else(String::new, socket_address);
                let (name, out, into) = (kinds::shape(event.kind).name, flow.bytes_out, flow.bytes_in);
                format!("{name}: {}{to}: {out} bytes out, {into} bytes in", flow.protocol)
            }
            None => kinds::shape(event.kind).name.to_owned(),
        },
    };
    if let Some(repeats) = &event.repeats {
        text.push_str(&format!(", again {} times", repeats.count));
    }
    text.extend(event.image.iter().flat_map(|image| [", image ", image.verdict.as_ref()]));
    if let Some(finding) = &event.finding {
        text.extend([": ", &finding.detection, ": ", &finding.title]);
    }
    text.extend(event.detail.iter().flat_map(|detail| [": ", detail.as_str()]));
    text
}

impl Outcome {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Observed => "observed",
            Self::Refused => "refused",
        }
    }
}
