//! `enforcer audit query`: the events that somebody asks for, out of a log of any size.

use std::{io, ops::ControlFlow};

use clap::ValueEnum as _;
use jiff::Timestamp;
use ring::rand::SystemRandom;

use super::{Format, Settings, Source, no_log, particulars, text, verify};
use crate::{
    audit::Kind,
    exit::{ExitStatus, Failure},
    record::{EventKind, EventLine, LineSession},
    selection::{Destination, Filter, Selection},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Of this session, by its id or how that begins
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// And of the sessions that have a part of it, and those that have a part of these
    #[arg(long, requires = "session")]
    descendants: bool,
    /// Of this agent's sessions
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Of sessions that this person answers for
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// To these addresses, and this port: `192.0.2.0/24`, `192.0.2.1:443`, `[2001:db8::/32]:443`
    #[arg(long, value_name = "CIDR[:PORT]")]
    destination: Option<Destination>,
    /// What was decided: `allow` or `deny`
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Such as `egress`, `exec` or `session-started`
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<EventKind>,
    /// From then on: RFC 3339, or how long ago, such as `90d`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before then, likewise
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Verdict {
    Allow,
    Deny,
}

fn kind(text: &str) -> Result<EventKind, String> {
    let read = serde_json::from_value(serde_json::Value::String(text.to_owned()));
    read.map_err(|_| "no kind of events".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = text::duration(text);
    let time = ago.ok().and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    time.ok_or_else(|| "a time such as `2026-01-31T12:00:00Z`, or how long ago, such as `90d`".to_owned())
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let dir = args.source.dir(settings);
    let trusted = args.source.keys(&dir)?;
    if !dir.path().is_dir() {
        return Err(no_log(dir.path()));
    }
    let verdict = args.verdict.and_then(|verdict| verdict.to_possible_value());
    let mut selection = Selection::new(Filter {
        session: args.session.clone(),
        descendants: args.descendants,
        agent: args.agent.clone(),
        owner: args.owner.clone(),
        destination: args.destination,
        verdict: verdict.map(|verdict| verdict.get_name().to_owned()),
        kind: args.kind,
        since: args.since,
        until: args.until,
    });
    let random = SystemRandom::new();
    let (segments, verifier) = verify::verifier(&dir, trusted, &random)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut failed, mut unreadable) = (None, 0_u64);
    let report = dir.walk(&segments, verifier, &mut |entry| {
        if entry.kind != Kind::Event {
            return ControlFlow::Continue(());
        }
        let event = str::from_utf8(entry.payload).ok().map(|line| (line, selection.take(line)));
        let written = match event {
            Some((line, Ok(Some(event)))) => print(&mut out, format, entry.sequence, line, &event),
            Some((_, Ok(None))) => Ok(()),
            Some((_, Err(_))) | None => {
                unreadable += 1;
                Ok(())
            }
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    let report = match report {
        Err(error) if error.is_gone() => {
            return Err(Failure::from(error).hint("the daemon has removed it meanwhile: ask again"));
        }
        report => report?,
    };
    let failed = failed.map_or_else(|| io::Write::flush(&mut out), Err);
    match failed {
        // Nobody reads it any more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitStatus::Ok),
        failed => failed?,
    }
    if unreadable > 0 {
        eprintln!("warning: {unreadable} events could not be read, and were left out");
    }
    if let Some(finding) = report.finding {
        let error = anyhow::anyhow!(
            "the log is not sound: entry {} in segment {}: {}",
            finding.sequence,
            text::harmless(&finding.segment),
            text::harmless(&finding.flaw.to_string())
        );
        let failure = Failure { status: ExitStatus::No, error, hint: None };
        return Err(failure.hint("what was printed is of the entries before it"));
    }
    if report.log.is_none() {
        return Err(no_log(dir.path()));
    }
    Ok(ExitStatus::Ok)
}

fn print(
    out: &mut impl io::Write,
    format: Format,
    entry: u64,
    line: &str,
    event: &EventLine<LineSession>,
) -> io::Result<()> {
    if format == Format::Json {
        // As it was written.
        return writeln!(out, "{line}");
    }
    let (agent, owner, session) = event.session.as_ref().map_or(("-", "-", "-"), |session| {
        (session.agent.as_str(), session.owner.as_str(), text::short(&session.id))
    });
    let kind = serde_json::to_value(event.kind).ok();
    let kind = kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or("?");
    let what = Some(particulars::of(event)).filter(|what| !what.is_empty());
    let what: Vec<String> = what.into_iter().chain(particulars::further(event)).collect();
    let what = what.join("  ");
    let (time, _) = event.time.split_at_checked(23).unwrap_or((&event.time, ""));
    let columns = [time, kind, agent, owner, session].map(text::harmless);
    let [time, kind, agent, owner, session] = &columns;
    writeln!(out, "{entry:>8}  {time:<23}  {kind:<18}  {agent:<20}  {owner:<24}  {session:<18}  {what}")
}
