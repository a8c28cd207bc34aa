//! `enforcer events`: what happened, and with `--follow` what happens.

use std::ops::ControlFlow;

use super::{
    Format, ask, export,
    text::{self, Colour, colour, harmless, short},
};
use crate::{
    exit::{ExitStatus, Failure},
    record::{
        EventKind, EventLine, LineDestination, LineEgress, LineFinding, LineFlow, LineGuard, LineImage,
        LineSession,
    },
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on with what is still to come
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    export: export::FormArgs,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    if let Some(done) = export::execute(settings, &args.export, args.follow) {
        return done;
    }
    let path = format!("/v1/events?follow={}", args.follow);
    let mut failed = None;
    ask(settings, async |client| {
        let print = |line: &str| {
            let line = match format {
                Format::Json => format!("{line}\n"),
                Format::Text => render(line),
            };
            match text::print_while_read(&line) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            }
        };
        client.lines(&path, print).await
    })?;
    failed.map_or(Ok(ExitStatus::Ok), Err)
}

/// One event in at most three short lines; a line that is no event as it stands.
fn render(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<EventLine<LineSession>>(line) else {
        return format!("{}\n", harmless(line));
    };
    let time = event.time.get(11..23).unwrap_or(&event.time);
    let process = event.process.as_ref();
    let comm =
        process.map_or_else(String::new, |process| format!("{}[{}]", harmless(&process.comm), process.pid));
    let what = match (event.kind, &event.egress) {
        (EventKind::Egress, Some(egress)) => describe(egress),
        (EventKind::Guard, _) => event.guard.as_ref().map_or_else(String::new, describe_guard),
        (kind, _) if event.flow.is_some() => {
            format!("{:<7} {}", kind_name(kind), event.flow.as_ref().map_or_else(String::new, describe_flow))
        }
        (EventKind::Fork, _) => format!("fork    {comm} made {}", event.child_pid.unwrap_or(0)),
        (EventKind::Exec, _) => {
            let path = process.and_then(|process| process.path.as_deref()).unwrap_or("?");
            format!("exec    {comm} runs {}", harmless(path))
        }
        (EventKind::Exit, _) => match (event.exit_code, event.exit_signal) {
            (_, Some(signal)) => format!("exit    {comm} by signal {signal}"),
            (code, None) => format!("exit    {comm} with {}", code.unwrap_or(0)),
        },
        (EventKind::Finding, _) => event.finding.as_ref().map_or_else(String::new, describe_finding),
        (EventKind::RecordsLost, _) => {
            colour(&format!("LOST    {} records", event.lost.unwrap_or(0)), Colour::Yellow)
        }
        (kind, _) => kind_name(kind).to_owned(),
    };
    let mut out = format!("{} {what}\n", colour(time, Colour::Dim));
    if let Some(session) = &event.session {
        let who = format!("{} for {} ({})", session.agent, session.owner, short(&session.id));
        out.push_str(&format!("             {}\n", harmless(&who)));
    }
    if let (EventKind::Egress | EventKind::Guard | EventKind::CredentialIssued, Some(process)) =
        (event.kind, process)
    {
        let lineage: Vec<String> = process
            .lineage
            .iter()
            .map(|ancestor| {
                format!("{}[{}]", harmless(ancestor.comm.as_deref().unwrap_or("?")), ancestor.pid)
            })
            .collect();
        out.push_str(&format!(
            "             {}\n",
            if lineage.is_empty() { comm } else { lineage.join(" > ") }
        ));
    }
    if let Some(image) = &event.image {
        out.push_str(&format!("             {}\n", describe_image(image)));
    }
    if let Some(detail) = &event.detail {
        out.push_str(&format!("             {}\n", harmless(detail)));
    }
    out
}

fn describe(egress: &LineEgress) -> String {
    let verdict = verdict(&egress.verdict, egress.refused);
    let to = far_end(egress.destination.as_ref());
    let why = match &egress.rule {
        Some(rule) => format!("{} {}", egress.reason, harmless(rule)),
        None => egress.reason.to_string(),
    };
    format!("{verdict}  {} {}{to}  {why}", egress.operation, egress.protocol)
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
    let rule = flow.rule.as_deref().map_or_else(String::new, |rule| format!("  {}", harmless(rule)));
    format!("{}{to}  {carried}{rule}", flow.protocol)
}

fn describe_image(image: &LineImage) -> String {
    let digest = image.sha256.as_deref().map_or(String::new(), |digest| format!(" {digest}"));
    let path = image.path.as_deref().map_or(String::new(), |path| format!(" {}", harmless(path)));
    let script =
        image.script.as_ref().map_or(String::new(), |script| format!(" for {}", harmless(&script.path)));
    format!("image {}{path}{script}{digest}", image.verdict)
}

fn describe_guard(guard: &LineGuard) -> String {
    let object = &guard.object;
    let on = match (&object.name, object.pid, object.family) {
        (Some(name), ..) => harmless(name),
        (None, Some(pid), _) => format!("pid {pid}"),
        (None, None, Some(family)) => format!("family {family}, protocol {}", object.number),
        (None, None, None) => String::new(),
    };
    let why = match &guard.rule {
        Some(rule) => format!("{} {}", guard.reason, harmless(rule)),
        None => guard.reason.to_string(),
    };
    format!("{}  {} {on}  {why}", verdict(&guard.verdict, guard.refused), guard.operation)
}

fn describe_finding(finding: &LineFinding) -> String {
    let LineFinding { detection, title, count, evidence, .. } = finding;
    let of = match (evidence.last(), *count) {
        (Some(last), 1) => format!(", event {}", last.sequence),
        (Some(last), _) => format!(", last event {}", last.sequence),
        (None, _) => String::new(),
    };
    colour(&format!("FINDING {}: {}{of}", harmless(detection), harmless(title)), Colour::Yellow)
}

fn verdict(verdict: &str, refused: bool) -> String {
    match (verdict, refused) {
        ("allow", _) => colour("ALLOW ", Colour::Green),
        (_, true) => colour("REFUSE", Colour::Red),
        (_, false) => colour("AUDIT ", Colour::Yellow),
    }
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::DaemonStarted => "daemon started",
        EventKind::DaemonStopped => "daemon stopped",
        EventKind::SessionStarted => "session started",
        EventKind::SessionRevoked => "session revoked",
        EventKind::SessionExpired => "session expired",
        EventKind::SessionEnded => "session ended",
        EventKind::RequestRefused => "request refused",
        EventKind::EnvelopeReplaced => "envelope replaced",
        EventKind::EnvelopeAccepted => "envelope accepted",
        EventKind::DaemonFault => "daemon fault",
        EventKind::EscapeSign => "escape sign",
        EventKind::SessionQuarantined => "session quarantined",
        EventKind::SessionReleased => "session released from quarantine",
        EventKind::SocketsDestroyed => "sockets destroyed",
        EventKind::SessionGranted => "session granted",
        EventKind::CredentialIssued => "credential issued",
        EventKind::AuthorityChanged => "authority changed",
        EventKind::ImageMeasured => "image measured",
        EventKind::FileMeasured => "file measured",
        EventKind::TamperSign => "tamper sign",
        EventKind::AuditCheckpoint => "audit checkpoint",
        EventKind::Finding => "finding",
        EventKind::Listening => "listening",
        EventKind::ListeningEnded => "listening ended",
        EventKind::ConnectionClosed => "closed",
        EventKind::Datagrams => "datagrams",
        EventKind::Egress => "egress",
        EventKind::Fork => "fork",
        EventKind::Exec => "exec",
        EventKind::Exit => "exit",
        EventKind::Guard => "guard",
        EventKind::RecordsLost => "records lost",
        EventKind::SinkTest => "sink test",
    }
}
