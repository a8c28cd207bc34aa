//! The objects that OCSF's events are made of.

use super::{
    Event, Host, Node, Object, UNKNOWN,
    facts::{self, program, program_of},
};
use crate::record::{LineAsker, LineImage, LineProcess, LineSession, Lineage};

/// Where in an event its agent is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// In the process as well.
    Inside,
    /// Not there.
    Beside,
}

pub(super) fn product(host: &Host) -> Object<'_> {
    Object::new()
        .with("name", "enforcer")
        .with("vendor_name", "enforcer")
        .with("version", host.release.as_str())
}

pub(super) fn device<'a>(event: &'a Event, host: &'a Host) -> Object<'a> {
    named(host)
        .with("type_id", 0)
        .with("type", "Unknown")
        .with("os", Object::new().with("name", "Linux").with("type_id", 200).with("type", "Linux"))
        .with("boot_uid", facts::boot_id(event))
}

/// The host by its name, which older versions take for a host's name only if it has the form of one.
pub(super) fn named(host: &Host) -> Object<'_> {
    let name = host.name.as_str();
    let name = if name.is_empty() { UNKNOWN } else { name };
    Object::new().with("name", name).with("hostname", Some(name).filter(|name| facts::is_host_name(name)))
}

/// Who asked the daemon, for which no class has a place beside the actor.
pub(super) fn asker(asker: LineAsker) -> Object<'static> {
    Object::new().with("pid", asker.pid).with("uid", asker.uid)
}

pub(super) fn ai_agent<'a>(session: &'a LineSession, host: &Host) -> Object<'a> {
    let id = facts::spiffe_id(session, host);
    // Whoever has no model says so in a word.
    let model = Some(session.model.as_str()).filter(|model| !matches!(*model, "" | "none"));
    let model = model.map(|model| match model.split_once('/') {
        Some((provider, name)) => Object::new().with("name", name).with("ai_provider", provider),
        None => Object::new().with("name", model).with("ai_provider", UNKNOWN),
    });
    Object::new()
        .with("uid", id.map(|id| id.to_string()))
        .with("instance_uid", session.id.as_str())
        .with("name", session.agent.as_str())
        .with("type_id", 0)
        .with("ai_model", model)
}

/// Who acted, and for whom.
pub(super) fn actor<'a>(event: &'a Event, agent: Agent, host: &'a Host) -> Object<'a> {
    let session = event.session.as_ref();
    // Where rules look for it, it is there, also where nobody knows which it is.
    let has_process = event.process.is_some() || agent == Agent::Inside;
    let agent = session.filter(|_| agent == Agent::Inside).map(|session| ai_agent(session, host));
    Object::new()
        .with("app_name", session.map(|session| session.agent.as_str()))
        .with("user", session.map(owner))
        .with("session", session.map(self::session))
        .with("process", has_process.then(|| process(event, agent)))
}

pub(super) fn owner(session: &LineSession) -> Object<'_> {
    let owner = session.owner.as_str();
    Object::new()
        .with("name", owner)
        .with("uid", owner)
        .with("email_addr", Some(owner).filter(|owner| facts::is_mail_address(owner)))
        .with("type_id", 1)
        .with("type", "User")
}

/// The owner of a session of which nothing is known any more.
pub(super) fn nobody<'a>() -> Object<'a> {
    Object::new().with("name", UNKNOWN).with("type_id", 0)
}

pub(super) fn session(session: &LineSession) -> Object<'_> {
    let id = session.id.as_str();
    Object::new()
        .with("uid", id)
        .with("uuid", facts::is_uuid(id).then_some(id))
        .with("issuer", session.operator.as_str())
}

/// The envelope.
pub(super) fn policy(session: &LineSession, is_applied: bool) -> Object<'_> {
    Object::new()
        .with("uid", session.envelope_digest.as_str())
        .with("name", session.agent.as_str())
        .with("is_applied", is_applied)
}

/// The rule that let a connection or datagrams through.
fn allowing(rule: &str) -> Object<'_> {
    Object::new().with("uid", rule).with("name", rule)
}

/// The rule that decided. Where none did, its name is the reason.
pub(super) fn firewall_rule(event: &Event) -> Option<Object<'_>> {
    let (rule, reason, hook) = match (&event.egress, &event.guard) {
        (Some(egress), _) => (&egress.rule, &egress.reason, &egress.operation),
        (None, Some(guard)) => (&guard.rule, &guard.reason, &guard.operation),
        (None, None) => return event.flow.as_ref().and_then(|flow| flow.rule.as_deref()).map(allowing),
    };
    let rule = rule.as_deref();
    Some(
        Object::new()
            .with("uid", rule)
            .with("name", rule.unwrap_or(reason))
            .with("type", reason.as_ref())
            .with("match_location", hook.as_ref()),
    )
}

/// The process that acted. What every analyst's rule asks for is always there.
pub(super) fn process<'a>(event: &'a Event, agent: Option<Object<'a>>) -> Object<'a> {
    let Some(process) = &event.process else { return unknown() };
    let hash = event.image.as_ref().filter(|image| image.script.is_none());
    let user = process.uid.map(|uid| Object::new().with("uid", uid.to_string()));
    Object::with_room(16)
        .with("pid", process.pid)
        .with("tid", process.tid)
        .with("uid", process.key.as_deref())
        .with("name", facts::name(Some(&process.comm), program(process)))
        .with("cmd_line", program(process))
        .with("file", file(program(process), process.path.is_some(), hash))
        .with("user", user)
        .with("ai_agent", agent)
        .with("parent_process", parent(process))
        .with("ancestry", facts::ancestors(process).map(ancestor).collect::<Vec<_>>())
        .with("container", container(event))
}

fn container(event: &Event) -> Option<Object<'_>> {
    let container = facts::container(event)?;
    let pod = facts::pod(container);
    Some(
        Object::new()
            .with("uid", container.id.as_str())
            .with("runtime", container.runtime.as_deref())
            .with("orchestrator", pod.map(|_| facts::ORCHESTRATOR))
            .with("pod_uuid", pod),
    )
}

fn parent(process: &LineProcess) -> Object<'_> {
    match facts::ancestors(process).next() {
        Some(parent) => ancestor(parent).with("file", file(program_of(parent), parent.path.is_some(), None)),
        // It is outside the session, and no event says which it is.
        None => outside(),
    }
}

fn ancestor(process: &Lineage) -> Object<'_> {
    Object::new()
        .with("pid", process.pid)
        .with("name", facts::name(process.comm.as_deref(), program_of(process)))
        .with("cmd_line", program_of(process))
}

/// A process that no event says anything of.
fn outside<'a>() -> Object<'a> {
    Object::new()
        .with("uid", UNKNOWN)
        .with("name", UNKNOWN)
        .with("cmd_line", UNKNOWN)
        .with("file", file(UNKNOWN, false, None))
}

/// A packet that no process was seen to send.
fn unknown<'a>() -> Object<'a> {
    outside().with("parent_process", outside())
}

/// What was made by a fork: it runs what its maker runs, until it executes something.
pub(super) fn child(event: &Event, pid: u32) -> Object<'_> {
    let Some(maker) = &event.process else { return unknown().with("pid", pid) };
    let path = file(program(maker), maker.path.is_some(), None);
    let parent = Object::new()
        .with("pid", maker.pid)
        .with("uid", maker.key.as_deref())
        .with("name", facts::name(Some(&maker.comm), program(maker)))
        .with("cmd_line", program(maker))
        .with("file", path.clone());
    Object::new()
        .with("pid", pid)
        .with("name", facts::name(Some(&maker.comm), program(maker)))
        .with("cmd_line", program(maker))
        .with("file", path)
        .with("parent_process", parent)
        .with("container", container(event))
}

fn file<'a>(path: &'a str, is_path: bool, image: Option<&'a LineImage>) -> Object<'a> {
    let digest = image.and_then(|image| image.sha256.as_deref());
    let hash = digest.map(|digest| {
        Object::new().with("algorithm_id", 3).with("algorithm", "SHA-256").with("value", digest)
    });
    Object::new()
        .with("name", facts::base_name(path))
        .with("path", is_path.then_some(path))
        .with("type_id", u8::from(is_path))
        .with("hashes", hash.map(|hash| vec![hash]))
}

/// What a finding is about.
pub(super) fn evidence(event: &Event) -> Object<'_> {
    let target = event.guard.as_ref().map(|guard| {
        Object::new()
            .with("operation", guard.operation.as_ref())
            .with("pid", guard.object.pid)
            .with("family", guard.object.family)
            .with("number", guard.object.number)
            .with("name", guard.object.name.as_deref())
    });
    let kind = super::kinds::shape(event.kind).name;
    let data = target.unwrap_or_else(|| Object::new().with("kind", kind));
    Object::new().with("process", process(event, None)).with("data", Node::Object(data))
}
