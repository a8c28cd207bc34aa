//! What an event says beyond its kind, its time and its session, for people: `events` and `audit query` print it. All of it is harmless.

use super::text::{Colour, colour, harmless};
use crate::record::{
    EventKind, EventLine, LineDestination, LineEgress, LineFinding, LineFlow, LineGuard, LineImage,
    LineProcess, LineSession,
};

/// What happened; nothing of events that are only what their kind is called.
pub(super) fn of(event: &EventLine<LineSession>) -> String {
    let process = event.process.as_ref();
    let comm = process.map_or_else(String::new, name);
    if let Some(flow) = &event.flow {
        return describe_flow(flow);
    }
    match event.kind {
        EventKind::Egress | EventKind::EgressRepeated => {
            let again = event.repeats.as_ref().map_or_else(String::new, |repeats| {
                format!("  again {} times in {} ms", repeats.count, repeats.duration_ms)
            });
            event.egress.as_ref().map_or_else(String::new, describe) + &again
        }
        EventKind::Guard => event.guard.as_ref().map_or_else(String::new, describe_guard),
        EventKind::Fork => format!("{comm} made {}", event.child_pid.unwrap_or(0)),
        EventKind::Exec => {
            let path = process.and_then(|process| process.path.as_deref()).unwrap_or("?");
            format!("{comm} runs {}", harmless(path))
        }
        EventKind::Exit => match (event.exit_code, event.exit_signal) {
            (_, Some(signal)) => format!("{comm} by signal {signal}"),
            (code, None) => format!("{comm} with {}", code.unwrap_or(0)),
        },
        EventKind::Finding => event.finding.as_ref().map_or_else(String::new, describe_finding),
        EventKind::RecordsLost => format!("{} records", event.lost.unwrap_or(0)),
        _ => String::new(),
    }
}

/// Where it came from, what was measured, and what else is said of it.
pub(super) fn further(event: &EventLine<LineSession>) -> impl Iterator<Item = String> {
    let asks = matches!(event.kind, EventKind::Egress | EventKind::Guard | EventKind::CredentialIssued);
    let process = event.process.as_ref().filter(|_| asks).map(lineage);
    let image = event.image.as_ref().map(describe_image);
    let detail = event.detail.as_deref().map(harmless);
    process.into_iter().chain(image).chain(detail)
}

fn name(process: &LineProcess) -> String {
    format!("{}[{}]", harmless(&process.comm), process.pid)
}

fn lineage(process: &LineProcess) -> String {
    let ancestors = process
        .lineage
        .iter()
        .map(|ancestor| format!("{}[{}]", harmless(ancestor.comm.as_deref().unwrap_or("?")), ancestor.pid));
    let ancestors: Vec<String> = ancestors.collect();
    if ancestors.is_empty() { name(process) } else { ancestors.join(" > ") }
}

fn describe(egress: &LineEgress) -> String {
    let verdict = verdict(&egress.verdict, egress.refused);
    let to = far_end(egress.destination.as_ref());
    let why = why(&egress.reason, egress.rule.as_deref());
    format!("{verdict}  {}", harmless(&format!("{} {}{to}  {why}", egress.operation, egress.protocol)))
}

fn why(reason: &str, rule: Option<&str>) -> String {
    rule.map_or_else(|| reason.to_owned(), |rule| format!("{reason} {rule}"))
}

fn far_end(to: Option<&LineDestination>) -> String {
    to.map_or_else(String::new, |to| {
        if to.address.contains(':') {
            format!(" [{}]:{}", to.address, to.port)
        } else {
            format!(" {}:{}", to.address, to.port)
        }
    })
}

fn describe_flow(flow: &LineFlow) -> String {
    let to = far_end(flow.destination.as_ref());
    let time = flow.duration_ms.map_or_else(String::new, |ms| format!(", {ms} ms"));
    let carried = format!("{} B out, {} B in{time}", flow.bytes_out, flow.bytes_in);
    let rule = flow.rule.as_deref().map_or_else(String::new, |rule| format!("  {rule}"));
    harmless(&format!("{}{to}  {carried}{rule}", flow.protocol))
}

fn describe_image(image: &LineImage) -> String {
    let digest = image.sha256.as_deref().map_or(String::new(), |digest| format!(" {digest}"));
    let path = image.path.as_deref().map_or(String::new(), |path| format!(" {path}"));
    let script = image.script.as_ref().map_or(String::new(), |script| format!(" for {}", script.path));
    harmless(&format!("image {}{path}{script}{digest}", image.verdict))
}

fn describe_guard(guard: &LineGuard) -> String {
    let object = &guard.object;
    let on = match (&object.name, object.pid, object.family) {
        (Some(name), ..) => name.clone(),
        (None, Some(pid), _) => format!("pid {pid}"),
        (None, None, Some(family)) => format!("family {family}, protocol {}", object.number),
        (None, None, None) => String::new(),
    };
    let why = why(&guard.reason, guard.rule.as_deref());
    let verdict = verdict(&guard.verdict, guard.refused);
    format!("{verdict}  {}", harmless(&format!("{} {on}  {why}", guard.operation)))
}

fn describe_finding(finding: &LineFinding) -> String {
    let LineFinding { detection, title, count, evidence, .. } = finding;
    let of = match (evidence.last(), *count) {
        (Some(last), 1) => format!(", event {}", last.sequence),
        (Some(last), _) => format!(", last event {}", last.sequence),
        (None, _) => String::new(),
    };
    harmless(&format!("{detection}: {title}{of}"))
}

fn verdict(verdict: &str, refused: bool) -> String {
    match (verdict, refused) {
        ("allow", _) => colour("ALLOW ", Colour::Green),
        (_, true) => colour("REFUSE", Colour::Red),
        (_, false) => colour("AUDIT ", Colour::Yellow),
    }
}
