//! What a session may ask about itself: who it is, and why it was refused something, in words that a model can act on.

use axum::http::StatusCode;
use enforcer_common::verdict::Reason;

use super::{Daemon, internal, standing::ended};
use crate::{
    clock,
    control::{dto, peer::Peer, server::Refusal},
    record::protocol_name,
    session::{Attempt, Refused, Session},
};

impl Daemon {
    /// The session of the process that asks.
    pub(super) fn whoami(&self, peer: &Peer) -> Result<dto::Whoami, Refusal> {
        let session = self.own_session(peer)?;
        let now_ns = clock::boot_ns();
        let above = session.grant.ancestors().map(|slot| match self.registry.at(slot) {
            Some(above) => dto::Above {
                id: above.grant.id.to_string(),
                agent: above.agent().to_owned(),
                state: above.status(now_ns).name().to_owned(),
            },
            None => dto::Above { id: String::new(), agent: String::new(), state: "ended".to_owned() },
        });
        Ok(dto::Whoami {
            version: dto::VERSION,
            above: above.collect(),
            expires_in_s: session.grant.expires_ns.saturating_sub(now_ns) / 1_000_000_000,
            session: self.describe(session, now_ns),
        })
    }

    /// What was refused last to the session of the process that asks; or to another one, for an operator.
    pub(super) fn why(&self, peer: &Peer, id: Option<&str>) -> Result<dto::Refusals, Refusal> {
        let session = match id {
            None => self.own_session(peer)?,
            Some(id) => {
                let id = self.find(id)?;
                self.registry.get(id).ok_or_else(ended)?
            }
        };
        Ok(dto::Refusals {
            version: dto::VERSION,
            session: session.grant.id.to_string(),
            since: self.started.to_string(),
            refusals: session.refusals.latest().map(|refused| explain(refused, session)).collect(),
        })
    }

    pub(super) fn own_session(&self, peer: &Peer) -> Result<&Session, Refusal> {
        let tag = self.kernel.sessions.tag(peer.pid).map_err(|error| internal(&error))?;
        tag.and_then(|tag| self.registry.at(tag.session)).ok_or_else(|| {
            Refusal::new(StatusCode::NOT_FOUND, "no-session", "the process is in no session")
                .hint("`enforcer why ID` asks about one, from outside")
        })
    }
}

fn explain(refused: &Refused, session: &Session) -> dto::RefusalInfo {
    let Refused { attempt, reason, envelope, rule, tgid, comm, first_ns, last_ns, times } = refused;
    let (operation, what, destination) = match attempt {
        Attempt::Egress { operation, protocol, to } => {
            let to = to.map(|(address, port)| std::net::SocketAddr::new(address, port).to_string());
            let toward = to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
            (operation.name(), format!("{}{toward}", protocol_name(*protocol)), to)
        }
        Attempt::Guard { hook, name, pid, family } => {
            let pid = pid.map(|pid| format!("process {pid}"));
            let family = family.map(|family| format!("sockets of family {family}"));
            let object = name.clone().or(pid).or(family);
            (hook.name(), object.clone().unwrap_or_else(|| "an object of the kernel's".to_owned()), object)
        }
    };
    let rule = rule.and_then(|rule| match attempt {
        Attempt::Egress { .. } => session.rule_name(*envelope, rule),
        Attempt::Guard { .. } => session.unix_rule_name(*envelope, rule),
    });
    let (explanation, advice) = words(*reason, rule, session);
    dto::RefusalInfo {
        operation: operation.to_owned(),
        destination,
        reason: reason.name().to_owned(),
        rule: rule.map(str::to_owned),
        pid: *tgid,
        comm: comm.clone(),
        first: clock::wall(*first_ns).to_string(),
        last: clock::wall(*last_ns).to_string(),
        times: *times,
        explanation: format!("{operation} {what} was refused: {explanation}"),
        advice,
    }
}

/// Why, and what can be done about it.
fn words(reason: Reason, rule: Option<&str>, session: &Session) -> (String, String) {
    let metadata = &session.envelope.envelope.metadata;
    let ask = |what: &str| {
        format!(
            "Trying again does not help. If the task needs it, ask {} to have {} {what}.",
            metadata.owner, metadata.operator
        )
    };
    let over = |what: &str| {
        let advice = format!("Everything is refused. Stop, and tell {}.", metadata.owner);
        (format!("the session {what}"), advice)
    };
    let named = rule.map_or_else(String::new, |rule| format!(" `{rule}`"));
    match reason {
        Reason::NoRule => {
            ("no rule of the envelope allows it".to_owned(), ask("add a rule that allows it"))
        }
        Reason::DenyRule => (
            format!("the envelope's rule{named} denies it"),
            ask("change that rule; it is there on purpose"),
        ),
        Reason::Limit => (
            "a limit of the envelope is reached".to_owned(),
            "Close connections that are not needed, or wait; if the limit is one of the whole session, it stays reached. \
             `enforcer whoami` shows the envelope's digest for whoever is to look at its limits."
                .to_owned(),
        ),
        Reason::Revoked => over("is revoked, or one that it descends from is"),
        Reason::Expired => over("has expired, or one that it descends from has"),
        Reason::SessionOver => over("is over"),
        Reason::Quarantined => over("is in quarantine, or one that it descends from is"),
        Reason::Unclassifiable => (
            "the destination has a form that no rule can speak of".to_owned(),
            "Name an address of a host, and no wildcard or mapped one.".to_owned(),
        ),
        Reason::SocketType => (
            "sockets of this family, type or protocol cannot be described by an envelope".to_owned(),
            "Use TCP or UDP over IPv4 or IPv6.".to_owned(),
        ),
        Reason::Header => (
            "the packet has IP options, a routing header, or is a fragment".to_owned(),
            "Send it without those, and in packets that fit the path.".to_owned(),
        ),
        Reason::ImageNotMeasured => (
            "the program that runs has not been measured yet".to_owned(),
            "Wait a moment, and try again; if it stays so, an operator has to look at `enforcer status`.".to_owned(),
        ),
        Reason::ImageNotListed => (
            "the program that runs is not one that the envelope lists".to_owned(),
            ask("list it"),
        ),
        Reason::Guarded => (
            "sessions are kept from other processes, and from enforcement itself".to_owned(),
            "No rule allows this. Do without it.".to_owned(),
        ),
        Reason::Untagged | Reason::OtherSession | Reason::Fault | Reason::AllowRule => (
            format!("who asks could not be told for certain ({})", reason.name()),
            "Start the process again from a process of the session; if that does not help, an operator has to look at \
             `enforcer status`."
                .to_owned(),
        ),
    }
}
