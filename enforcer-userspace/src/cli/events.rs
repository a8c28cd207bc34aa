//! `enforcer events`: what happened, and with `--follow` what happens.

use std::ops::ControlFlow;

use super::{
    Format, ask, export, particulars,
    text::{self, Colour, colour, harmless, short},
};
use crate::{
    exit::{ExitStatus, Failure},
    record::{EventKind, EventLine, LineSession},
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

/// One event in a few short lines; a line that is no event as it stands.
fn render(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<EventLine<LineSession>>(line) else {
        return format!("{}\n", harmless(line));
    };
    let time = event.time.get(11..23).unwrap_or(&event.time);
    let what = particulars::of(&event);
    let what = match event.kind {
        EventKind::Egress | EventKind::EgressRepeated | EventKind::Guard => what,
        EventKind::Finding => colour(&format!("FINDING {what}"), Colour::Yellow),
        EventKind::RecordsLost => colour(&format!("LOST    {what}"), Colour::Yellow),
        kind => format!("{:<7} {what}", kind_name(kind)),
    };
    let mut out = format!("{} {}\n", colour(time, Colour::Dim), what.trim_end());
    let who = event.session.as_ref().map(|session| {
        harmless(&format!("{} for {} ({})", session.agent, session.owner, short(&session.id)))
    });
    for more in who.into_iter().chain(particulars::further(&event)) {
        out.push_str(&format!("             {more}\n"));
    }
    out
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
        EventKind::EgressRepeated => "egress repeated",
        EventKind::Fork => "fork",
        EventKind::Exec => "exec",
        EventKind::Exit => "exit",
        EventKind::Guard => "guard",
        EventKind::RecordsLost => "records lost",
        EventKind::SinkTest => "sink test",
    }
}
