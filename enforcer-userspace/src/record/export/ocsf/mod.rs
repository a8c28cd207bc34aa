//! An event in OCSF 1.9. `docs/events.md` says field by field what stands where.

mod finding;
mod network;
mod objects;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Event, Host,
    facts::{self, Outcome, Severity, UNKNOWN},
    kinds::{self, Activity, Class},
    object::{IntoNode, Node, Object},
};
use crate::record::{EventKind, LineGap, LineImage, LineLoss, LineRecord, LineSession, line::VERSION};

/// An event of one's own in the version that all others are made from.
pub(super) fn form<'a>(event: &'a Event, time: Timestamp, id: Uuid, host: &'a Host) -> Object<'a> {
    let (class, activity) = kinds::activity(event);
    let Form { mut object, severity } = head(event, time, class, &activity);
    object.add("metadata", metadata(event, class, id, host));
    object.add("message", facts::message(event));
    object.add("device", objects::device(event, host));
    if class != Class::Finding {
        object.add("ai_agent", event.session.as_ref().map(|session| objects::ai_agent(session, host)));
    }
    match class {
        Class::Process => add_process(&mut object, event, host),
        Class::Network => network::add(&mut object, event, host),
        Class::Finding => add_finding(&mut object, event, id, host),
        Class::Session => add_session(&mut object, event),
        Class::Application => object.add("app", objects::product(host)),
        Class::EventLog => {
            object.add("log_name", "events");
            object.add("log_provider", "enforcer");
            object.add("count", event.lost.map(|lost| i64::try_from(lost).unwrap_or(i64::MAX)));
        }
        Class::Base => {}
    }
    if object.get("actor").is_none() {
        object.add("actor", objects::actor(event, objects::Agent::Beside, host));
    }
    if let Some(repeats) = &event.repeats {
        object.add("count", network::int(repeats.count));
        network::add_time(&mut object, Some(&repeats.since), Some(repeats.duration_ms));
    }
    add_control(&mut object, event, class, severity);
    object.add("unmapped", unmapped(event, host));
    object
}

struct Form<'a> {
    object: Object<'a>,
    severity: Severity,
}

/// What every event has.
fn head<'a>(event: &'a Event, time: Timestamp, class: Class, activity: &Activity) -> Form<'a> {
    let severity = facts::severity(event);
    let (status, status_name) = status(event, class);
    let decision = event.egress.as_ref().map(|egress| (egress.refused, egress.reason.as_ref()));
    let decision =
        decision.or_else(|| event.guard.as_ref().map(|guard| (guard.refused, guard.reason.as_ref())));
    // A refusal of the kernel's is this error number, whatever the reason.
    let code = decision.is_some_and(|(refused, _)| refused).then_some("EPERM");
    let detail = decision.map(|(_, reason)| reason).or(event.detail.as_deref());
    let object = Object::with_room(48)
        .with("time", time.as_millisecond())
        .with("time_dt", event.time.as_str())
        .with("class_uid", class.number())
        .with("class_name", class.name())
        .with("category_uid", class.category())
        .with("activity_id", activity.id)
        .with("activity_name", activity.name.clone())
        .with("type_uid", class.number() * 100 + activity.id)
        .with("severity_id", severity as u32)
        .with("severity", severity.name())
        .with("status_id", status)
        .with("status", status_name)
        .with("status_code", code)
        .with("status_detail", detail);
    Form { object, severity }
}

/// Of a finding it is how far it is dealt with, of all others whether what was to be done was.
fn status(event: &Event, class: Class) -> (u32, &'static str) {
    let failed = match event.kind {
        EventKind::RequestRefused | EventKind::DaemonFault | EventKind::RecordsLost => true,
        EventKind::FileMeasured | EventKind::ImageMeasured => {
            event.image.as_ref().is_some_and(|image| image.sha256.is_none())
        }
        _ => facts::outcome(event) == Some(Outcome::Refused),
    };
    match (class, failed) {
        (Class::Finding, _) => (1, "New"),
        (_, false) => (1, "Success"),
        (_, true) => (2, "Failure"),
    }
}

fn metadata<'a>(event: &'a Event, class: Class, id: Uuid, host: &'a Host) -> Object<'a> {
    let agent = (event.session.is_some() && class != Class::Finding).then_some("ai_operation");
    let control = has_control(class).then_some("security_control");
    let container = facts::container(event).map(|_| "container");
    Object::with_room(12)
        .with("version", super::Version::V1_9.text())
        .with("uid", id.to_string())
        .with("sequence", event.sequence)
        .with("correlation_uid", event.session.as_ref().map(|session| session.id.as_str()))
        .with("event_code", kinds::shape(event.kind).name)
        .with("product", objects::product(host))
        .with("log_name", "events")
        .with("log_provider", "enforcer")
        .with("log_version", VERSION.to_string())
        .with("profiles", vec![Some("host"), Some("datetime"), control, agent, container])
}

/// Which classes say what was decided: the others, in older versions, have no room for it.
const fn has_control(class: Class) -> bool {
    matches!(class, Class::Process | Class::Network | Class::Finding | Class::EventLog)
}

fn add_control<'a>(object: &mut Object<'a>, event: &'a Event, class: Class, severity: Severity) {
    if !has_control(class) {
        return;
    }
    let outcome = facts::outcome(event);
    let killed = event.image.as_ref().is_some_and(|image| image.on_mismatch == "kill");
    let (action, action_name, disposition, disposition_name) = match outcome {
        Some(Outcome::Allowed) => (1, "Allowed", 1, "Allowed"),
        Some(Outcome::Observed) => (3, "Observed", 17, "Logged"),
        Some(Outcome::Refused) if killed => (2, "Denied", 24, "Access Revoked"),
        Some(Outcome::Refused) => (2, "Denied", 2, "Blocked"),
        None if class == Class::Finding => (0, "Unknown", 15, "Detected"),
        None if class == Class::Process || event.flow.is_some() => (1, "Allowed", 16, "No Action"),
        None => (0, "Unknown", 0, "Unknown"),
    };
    object.add("action_id", action);
    object.add("action", action_name);
    object.add("disposition_id", disposition);
    object.add("disposition", disposition_name);
    object.add("is_alert", severity as u32 >= Severity::Medium as u32);
    let decided = event.egress.is_some() || event.guard.is_some() || event.flow.is_some();
    if let Some(session) = event.session.as_ref().filter(|_| decided) {
        object.add("policy", objects::policy(session, outcome != Some(Outcome::Observed)));
    }
    object.add("firewall_rule", objects::firewall_rule(event));
}

fn add_process<'a>(object: &mut Object<'a>, event: &'a Event, host: &'a Host) {
    object.add("actor", objects::actor(event, objects::Agent::Inside, host));
    let launch = match event.kind {
        EventKind::Fork => Some((2, "Fork")),
        EventKind::Exec => Some((3, "Exec")),
        _ => None,
    };
    object.add("launch_type_id", launch.map(|(id, _)| id));
    object.add("launch_type", launch.map(|(_, name)| name));
    let process = match (event.kind, event.child_pid) {
        (EventKind::Fork, Some(child)) => objects::child(event, child),
        _ => objects::process(event, None),
    };
    object.add("process", process);
    object.add("exit_code", event.exit_code);
}

fn add_finding<'a>(object: &mut Object<'a>, event: &'a Event, id: Uuid, host: &'a Host) {
    if let Some(finding) = &event.finding {
        return finding::add(object, event, finding, host);
    }
    let kind = kinds::shape(event.kind).name;
    let (title, rule) = match &event.guard {
        Some(guard) => {
            (format!("Guarded operation: {}", guard.operation), format!("guard/{}", guard.operation))
        }
        None if event.kind == EventKind::EscapeSign => {
            ("Sign of an escape: a process is not where its session is".to_owned(), kind.to_owned())
        }
        None => (kind.to_owned(), kind.to_owned()),
    };
    object.add("actor", objects::actor(event, objects::Agent::Beside, host));
    let info = Object::new()
        .with("uid", id.to_string())
        .with("title", title)
        .with("desc", event.detail.as_deref())
        .with("types", vec![kind])
        .with("analytic", Object::new().with("name", rule).with("type_id", 1).with("type", "Rule"));
    object.add("finding_info", info);
    let agent = event.session.as_ref().map(|session| objects::ai_agent(session, host));
    let evidence = objects::evidence(event).with("ai_agent", agent);
    object.add("evidences", vec![evidence]);
}

fn add_session<'a>(object: &mut Object<'a>, event: &'a Event) {
    let session = event.session.as_ref();
    object.add("user", session.map_or_else(objects::nobody, objects::owner));
    object.add("session", session.map(objects::session));
    // What it may do is its envelope.
    let privileges = session.map_or_else(
        || vec![UNKNOWN.to_owned()],
        |session| vec![format!("agent {}, envelope {}", session.agent, session.envelope_digest)],
    );
    object.add("privileges", privileges);
}

/// What no attribute is for.
fn unmapped<'a>(event: &'a Event, host: &'a Host) -> Object<'a> {
    let mut all = Object::new()
        .with("session", event.session.as_ref().map(said_of))
        .with("delegation", event.session.as_ref().and_then(|session| delegation(session, host)));
    if let Some(egress) = &event.egress {
        all.add("operation", egress.operation.as_ref());
        all.add("netns", egress.netns);
        all.add("foreign_socket", egress.foreign.then_some(true));
        all.add("placement", egress.placement.as_deref());
    }
    if let Some(flow) = &event.flow {
        all.add("netns", flow.netns);
        all.add("foreign_socket", flow.foreign.then_some(true));
        all.add("tcp_state_before", flow.was.as_deref());
    }
    if let Some(guard) = &event.guard {
        all.add("operation", guard.operation.as_ref());
        let object = Object::new()
            .with("pid", guard.object.pid)
            .with("family", guard.object.family)
            .with("number", guard.object.number)
            .with("name", guard.object.name.as_deref());
        all.add("object", object);
    }
    all.add("asked_by", event.asked_by.map(objects::asker));
    all.add("image", event.image.as_ref().map(image));
    all.add("exit_signal", event.exit_signal);
    all.add("lost", event.lost);
    all.add("lost_records", event.lost_records.as_ref().map(loss));
    all.add("lost_events", event.lost_events.as_ref().map(gap));
    all.add("record", event.record.as_ref().map(record));
    let cut = event.process.as_ref().is_some_and(|process| process.lineage_cut);
    all.add("lineage_cut", cut.then_some(true));
    all
}

/// What was said of a session, and what it is held to.
pub(super) fn said_of(session: &LineSession) -> Object<'_> {
    let context = &session.context;
    let labels = context.labels.iter();
    Object::new()
        .with("agent", session.agent.as_str())
        .with("owner", session.owner.as_str())
        .with("operator", session.operator.as_str())
        .with("model", session.model.as_str())
        .with("purpose", session.purpose.as_str())
        .with("parent", session.parent.as_deref())
        .with("task", context.task.as_deref())
        .with("trigger", context.trigger.as_deref())
        .with(
            "labels",
            labels.fold(Object::new(), |all, (name, value)| all.with(name.as_str(), value.as_str())),
        )
        .with("container", session.container.as_ref().map(|container| container.id.as_str()))
        .with("envelope_digest", session.envelope_digest.as_str())
}

/// As the object of this name in the released 1.9 is drawn: the schemas that are tested against are older than that.
fn delegation<'a>(session: &'a LineSession, host: &Host) -> Option<Object<'a>> {
    let parent = session.parent.as_deref()?;
    let all = Object::new().with("uid", session.id.as_str()).with("parent_uid", parent);
    Some(all.with("issuer_uid", host.trust_domain.id()))
}

/// Which of the kernel's records it was made of.
pub(super) fn record<'a>(record: &LineRecord) -> Object<'a> {
    let lost = (record.lost > 0).then_some(record.lost);
    Object::new().with("cpu", record.cpu).with("sequence", record.sequence).with("lost", lost)
}

pub(super) fn loss(loss: &LineLoss) -> Object<'_> {
    Object::new()
        .with("cpu", loss.cpu)
        .with("before", loss.before)
        .with("after", loss.after.as_deref())
        .with("until", loss.until.as_str())
        .with("numbers", loss.numbers.map(|numbers| numbers.to_vec()))
}

pub(super) fn gap(gap: &LineGap) -> Object<'_> {
    Object::new()
        .with("first", gap.first)
        .with("last", gap.last)
        .with("after", gap.after.as_deref())
        .with("until", gap.until.as_str())
}

pub(super) fn image(image: &LineImage) -> Object<'_> {
    let content = |content: &'_ crate::record::LineContent| {
        Object::new().with("path", content.path.clone()).with("sha256", content.sha256.clone())
    };
    Object::new()
        .with("path", image.path.as_deref())
        .with("inode", image.inode)
        .with("sha256", image.sha256.as_deref())
        .with("verdict", image.verdict.as_ref())
        .with("on_mismatch", image.on_mismatch.as_ref())
        .with("script", image.script.as_ref().map(content))
        .with("loader", image.loader.as_ref().map(content))
}
