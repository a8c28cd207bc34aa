//! An event in the Elastic Common Schema. What it has no field for is below `enforcer`.

use uuid::Uuid;

use super::{
    Event, Host,
    facts::{self, Outcome, UNKNOWN, address, program, program_of},
    kinds::{self, Class},
    object::Object,
    ocsf,
};
use crate::record::{
    EventKind, LineDestination, LineEgress, LineFinding, LineFlow, LineGuard, LineProcess, LineSession,
};

/// The version whose fields these are.
const VERSION: &str = "9.2.0";

pub(super) fn form<'a>(event: &'a Event, id: Uuid, host: &'a Host) -> Object<'a> {
    let session = event.session.as_ref();
    let mut object = Object::new()
        .with("@timestamp", event.time.as_str())
        .with("ecs", Object::new().with("version", VERSION))
        .with("message", facts::message(event))
        .with("event", what(event, id))
        .with("host", machine(event, host))
        .with("observer", product(host))
        .with("process", event.process.as_ref().map(|process| self::process(event, process)));
    if let Some(container) = session.and_then(|session| session.container.as_ref()) {
        let named = Object::new().with("id", container.id.as_str());
        object.add("container", named.with("runtime", container.runtime.as_deref()));
        object.add("orchestrator", facts::pod(container).map(orchestrator));
    }
    if let Some(egress) = &event.egress {
        add_network(&mut object, egress);
    }
    if let Some(flow) = &event.flow {
        add_flow(&mut object, flow);
    }
    if let Some(guard) = event.guard.as_ref().filter(|guard| facts::is_about_socket(guard)) {
        add_socket(&mut object, guard);
    }
    object.add("rule", rule(event));
    object.add("user", session.map(owner));
    object.add("gen_ai", session.map(|session| agent(session, host)));
    object.add("enforcer", own(event));
    object
}

fn orchestrator(pod: &str) -> Object<'_> {
    let resource = Object::new().with("type", "pod").with("id", pod);
    Object::new().with("type", facts::ORCHESTRATOR).with("resource", resource)
}

fn what(event: &Event, id: Uuid) -> Object<'_> {
    let shape = kinds::shape(event.kind);
    let outcome = facts::outcome(event);
    let is_network = event.guard.as_ref().is_some_and(facts::is_about_socket);
    let category = if is_network { "network" } else { shape.category };
    let mut types = shape.types.to_vec();
    if is_network {
        types.push("connection");
    }
    if event.egress.is_some() || event.guard.is_some() {
        types.push(match outcome {
            Some(Outcome::Refused) => "denied",
            _ => "allowed",
        });
    }
    let is_alert = kinds::activity(event).0 == Class::Finding;
    let action = match (&event.egress, &event.guard) {
        (Some(egress), _) => egress.operation.as_ref(),
        (None, Some(guard)) => guard.operation.as_ref(),
        (None, None) => shape.name,
    };
    let reason = match (&event.egress, &event.guard) {
        (Some(egress), _) => Some(egress.reason.as_ref()),
        (None, Some(guard)) => Some(guard.reason.as_ref()),
        (None, None) => event.detail.as_deref(),
    };
    let failed =
        matches!(event.kind, EventKind::RequestRefused | EventKind::DaemonFault | EventKind::RecordsLost);
    let (flow, repeats) = (event.flow.as_ref(), event.repeats.as_ref());
    let since = flow.and_then(|flow| flow.since.as_ref()).or(repeats.map(|repeats| &repeats.since));
    let took_ms = flow.and_then(|flow| flow.duration_ms).or(repeats.map(|repeats| repeats.duration_ms));
    let result = if failed || outcome == Some(Outcome::Refused) { "failure" } else { "success" };
    Object::new()
        .with("id", id.to_string())
        .with("kind", if is_alert { "alert" } else { "event" })
        .with("category", vec![category])
        .with("type", types)
        .with("action", action)
        .with("code", shape.name)
        .with("outcome", result)
        .with("reason", reason)
        .with("severity", facts::severity(event) as u32)
        .with("sequence", event.sequence)
        .with("provider", "enforcer")
        .with("module", "enforcer")
        .with("dataset", "enforcer.events")
        .with("start", since.map(String::as_str))
        .with("duration", took_ms.map(|ms| ms.saturating_mul(1_000_000)))
}

fn machine<'a>(event: &'a Event, host: &'a Host) -> Object<'a> {
    let name = if host.name.is_empty() { UNKNOWN } else { host.name.as_str() };
    Object::new()
        .with("name", name)
        .with("hostname", name)
        .with("os", Object::new().with("type", "linux").with("family", "linux"))
        .with("boot", Object::new().with("id", facts::boot_id(event)))
}

fn product(host: &Host) -> Object<'_> {
    Object::new()
        .with("product", "enforcer")
        .with("vendor", "enforcer")
        .with("type", "firewall")
        .with("version", host.release.as_str())
}

fn process<'a>(event: &'a Event, process: &'a LineProcess) -> Object<'a> {
    let digest = event.image.as_ref().filter(|image| image.script.is_none());
    let digest = digest.and_then(|image| image.sha256.as_deref());
    let parent = facts::ancestors(process).next().map(|parent| {
        Object::new()
            .with("pid", parent.pid)
            .with("name", facts::base_name(program_of(parent)))
            .with("executable", parent.path.as_deref())
            .with("command_line", program_of(parent))
    });
    let user = process.uid.map(|uid| Object::new().with("id", uid.to_string()));
    Object::new()
        .with("pid", process.pid)
        .with("entity_id", process.key.as_deref())
        .with("name", facts::base_name(program(process)))
        .with("title", process.comm.as_str())
        .with("executable", process.path.as_deref())
        .with("command_line", program(process))
        .with("thread", process.tid.map(|tid| Object::new().with("id", tid)))
        .with("user", user)
        .with("hash", digest.map(|digest| Object::new().with("sha256", digest)))
        .with("parent", parent)
        .with("exit_code", event.exit_code)
}

fn add_network<'a>(object: &mut Object<'a>, egress: &'a LineEgress) {
    let direction = match egress.operation.as_ref() {
        "connect" | "send" | "packet-out" => Some(EGRESS),
        "accept" | "packet-in" => Some(INGRESS),
        _ => None,
    };
    let here = Object::new().with("port", egress.local_port);
    let far = egress.destination.as_ref().map(far_end);
    add_ends(object, direction, here, far);
    object.add("network", network(&egress.protocol, egress.destination.as_ref(), direction));
}

const EGRESS: &str = "egress";
const INGRESS: &str = "ingress";

/// What each end sent is that end's.
fn add_flow<'a>(object: &mut Object<'a>, flow: &'a LineFlow) {
    let direction = match flow.direction.as_deref() {
        Some("outbound") => Some(EGRESS),
        Some("inbound") => Some(INGRESS),
        _ => None,
    };
    let here = Object::new()
        .with("port", flow.local_port)
        .with("bytes", flow.bytes_out)
        .with("packets", flow.packets_out);
    let far = flow.destination.as_ref().map_or_else(Object::new, far_end);
    let far = far.with("bytes", flow.bytes_in).with("packets", flow.packets_in);
    add_ends(object, direction, here, Some(far));
    let network = network(&flow.protocol, flow.destination.as_ref(), direction)
        .with("bytes", flow.bytes_out.saturating_add(flow.bytes_in))
        .with("packets", flow.packets_out.saturating_add(flow.packets_in));
    object.add("network", network);
}

fn far_end(far: &LineDestination) -> Object<'_> {
    let ip = address(&far.address).map(|_| far.address.as_str());
    Object::new().with("address", far.address.as_str()).with("ip", ip).with("port", far.port)
}

fn add_ends<'a>(object: &mut Object<'a>, direction: Option<&str>, here: Object<'a>, far: Option<Object<'a>>) {
    let (source, destination) =
        if direction == Some(INGRESS) { (far, Some(here)) } else { (Some(here), far) };
    object.add("source", source);
    object.add("destination", destination);
}

fn network<'a>(
    protocol: &'a str,
    far: Option<&LineDestination>,
    direction: Option<&'static str>,
) -> Object<'a> {
    let ip = far.and_then(|far| address(&far.address));
    let number = facts::protocol_number(protocol, ip);
    Object::new()
        .with("transport", protocol)
        .with("iana_number", number.map(|number| number.to_string()))
        .with("type", ip.map(|ip| if ip.is_ipv4() { "ipv4" } else { "ipv6" }))
        .with("direction", direction)
}

fn add_socket<'a>(object: &mut Object<'a>, guard: &'a LineGuard) {
    let to = guard.object.name.as_deref().map(|name| Object::new().with("address", name));
    object.add("destination", to);
    object.add("network", Object::new().with("transport", facts::family_name(guard)));
}

fn rule(event: &Event) -> Option<Object<'_>> {
    if let Some(finding) = &event.finding {
        let rule = Object::new().with("name", finding.detection.as_ref());
        return Some(rule.with("description", finding.title.as_str()).with("category", "detection"));
    }
    let (rule, reason) = match (&event.egress, &event.guard) {
        (Some(egress), _) => (&egress.rule, &egress.reason),
        (None, Some(guard)) => (&guard.rule, &guard.reason),
        (None, None) => {
            return event.flow.as_ref().map(|flow| {
                Object::new().with("id", flow.rule.as_deref()).with("name", flow.rule.as_deref())
            });
        }
    };
    let session = event.session.as_ref();
    Some(
        Object::new()
            .with("id", rule.as_deref())
            .with("name", rule.as_deref().unwrap_or(reason))
            .with("category", reason.as_ref())
            .with("ruleset", session.map(|session| session.agent.as_str()))
            .with("version", session.map(|session| session.envelope_digest.as_str())),
    )
}

/// For whom it was done.
fn owner(session: &LineSession) -> Object<'_> {
    let owner = session.owner.as_str();
    Object::new().with("name", owner).with("email", Some(owner).filter(|owner| facts::is_mail_address(owner)))
}

fn agent<'a>(session: &'a LineSession, host: &Host) -> Object<'a> {
    let id = facts::spiffe_id(session, host);
    let agent = Object::new()
        .with("id", id.map(|id| id.to_string()))
        .with("name", session.agent.as_str())
        .with("description", session.purpose.as_str());
    let model = Some(session.model.as_str()).filter(|model| !matches!(*model, "" | "none"));
    Object::new()
        .with("agent", agent)
        .with("conversation", Object::new().with("id", session.id.as_str()))
        .with("request", Object::new().with("model", model))
}

fn finding(finding: &LineFinding) -> Object<'_> {
    let evidence = finding.evidence.iter().map(|evidence| {
        Object::new().with("sequence", evidence.sequence).with("time", evidence.time.as_str())
    });
    Object::new()
        .with("id", finding.id.as_str())
        .with("detection", finding.detection.as_ref())
        .with("state", finding.state.as_ref())
        .with("subject", finding.subject.as_deref())
        .with("count", finding.count)
        .with("first", finding.first.as_str())
        .with("last", finding.last.as_str())
        .with("evidence", evidence.collect::<Vec<_>>())
}

/// What ECS has no field for.
fn own(event: &Event) -> Object<'_> {
    let session =
        event.session.as_ref().map(|session| ocsf::said_of(session).with("id", session.id.as_str()));
    let mut own = Object::new().with("session", session);
    if let Some(egress) = &event.egress {
        let socket = Object::new()
            .with("cookie", egress.socket)
            .with("netns", egress.netns)
            .with("foreign", egress.foreign.then_some(true));
        own.add("socket", socket);
        own.add("placement", egress.placement.as_deref());
    }
    if let Some(flow) = &event.flow {
        let socket = Object::new()
            .with("cookie", flow.socket)
            .with("netns", flow.netns)
            .with("foreign", flow.foreign.then_some(true))
            .with("tcp_state_before", flow.was.as_deref());
        own.add("socket", socket);
    }
    if let Some(guard) = &event.guard {
        let object = Object::new()
            .with("pid", guard.object.pid)
            .with("family", guard.object.family)
            .with("number", guard.object.number)
            .with("name", guard.object.name.as_deref());
        own.add("object", object);
    }
    if let Some(outcome) = facts::outcome(event) {
        own.add("outcome", outcome.name());
    }
    let lineage = event.process.iter().flat_map(|process| &process.lineage);
    let lineage: Vec<_> = lineage
        .map(|process| {
            Object::new()
                .with("pid", process.pid)
                .with("name", process.comm.as_deref())
                .with("executable", process.path.as_deref())
        })
        .collect();
    own.add("lineage", lineage);
    let cut = event.process.as_ref().is_some_and(|process| process.lineage_cut);
    own.add("lineage_cut", cut.then_some(true));
    own.add("image", event.image.as_ref().map(ocsf::image));
    own.add("finding", event.finding.as_ref().map(finding));
    own.add("repeats", event.repeats.as_ref().map(|repeats| repeats.count));
    own.add("child_pid", event.child_pid);
    own.add("exit_signal", event.exit_signal);
    own.add("lost", event.lost);
    own.add("lost_records", event.lost_records.as_ref().map(ocsf::loss));
    own.add("lost_events", event.lost_events.as_ref().map(ocsf::gap));
    own.add("record", event.record.as_ref().map(ocsf::record));
    own
}
