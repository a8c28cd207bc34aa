//! `enforcer audit verify`: whether the log is what was written.

use std::{fmt::Write as _, ops::ControlFlow, path::PathBuf};

use ring::rand::SystemRandom;
use serde::Serialize;

use super::{Format, Settings, Source, no_log, print_json, text};
use crate::{
    audit::{Anchor, LastCheckpoint, Report, Stub, Verifier},
    exit::{ExitStatus, Failure},
    signature::TrustKey,
    state::{AuditError, LogDir, SegmentFile, read_json},
};

/// How often a log is read from which the daemon removes what is to be read next.
const TRIES: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// A checkpoint that must be in the log, as `enforcer audit checkpoint` printed it; may be given several times
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Document {
    version: u32,
    sound: bool,
    log: Option<String>,
    host: Option<String>,
    begun: Option<String>,
    first: u64,
    last: u64,
    segments: u64,
    events: u64,
    events_lost: u64,
    checkpoint: Option<LastCheckpoint>,
    /// Entries behind the last checkpoint, for which nobody vouches yet, and bytes of one that is not whole.
    unsigned_entries: u64,
    torn_bytes: u64,
    finding: Option<Found>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    sequence: u64,
    segment: String,
    what: String,
}

/// The segments of the log in a directory, and a verifier for them. What is beside it is read before it: the log may be written meanwhile.
pub(super) fn verifier<'r>(
    dir: &LogDir,
    trusted: Vec<TrustKey>,
    random: &'r SystemRandom,
) -> Result<(Vec<SegmentFile>, Verifier<'r>), Failure> {
    let head = none_if_unreadable(dir.head())?;
    // Something that is no stub is none that is signed.
    let no_stub = || Stub { statement: String::new(), signature: None };
    let (segments, stub) = match dir.segments_and_stub() {
        Err(AuditError::Format { .. }) => (dir.segments()?, Some(no_stub())),
        read => read?,
    };
    let mut verifier = Verifier::new(trusted, stub, random);
    match head {
        Some(head) => verifier.expect(format!("`{}`", dir.head_path().display()), head),
        None => verifier.note(format!(
            "there is no `{}`: whether the end of the log is missing cannot be told",
            dir.head_path().display()
        )),
    }
    Ok((segments, verifier))
}

/// The inner nothing: there is something, and it cannot be read as what it should be.
fn none_if_unreadable<T>(read: Result<Option<T>, AuditError>) -> Result<Option<Option<T>>, Failure> {
    match read {
        Ok(read) => Ok(read.map(Some)),
        Err(AuditError::Format { .. }) => Ok(Some(None)),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let dir = args.source.dir(settings);
    let trusted = args.source.keys(&dir)?;
    let random = SystemRandom::new();
    if !dir.path().is_dir() {
        return Err(no_log(dir.path()));
    }
    let verify = || {
        let (segments, mut verifier) = verifier(&dir, trusted.clone(), &random)?;
        for path in &args.checkpoints {
            let anchor: Option<Anchor> = none_if_unreadable(read_json(path))?.flatten();
            verifier.expect(format!("`{}`", path.display()), anchor);
        }
        Ok::<_, Failure>(dir.walk(&segments, verifier, &mut |_| ControlFlow::Continue(())))
    };
    let mut tries = 1..TRIES;
    let report = loop {
        match verify()? {
            Err(error) if error.is_gone() && tries.next().is_some() => {}
            report => break report?,
        }
    };
    if report.log.is_none() && report.finding.is_none() {
        return Err(no_log(dir.path()));
    }
    let sound = report.finding.is_none();
    match format {
        Format::Json => print_json(&document(report))?,
        Format::Text => text::print(&render(&report))?,
    }
    Ok(if sound { ExitStatus::Ok } else { ExitStatus::No })
}

fn document(report: Report) -> Document {
    let found = report.finding.map(|finding| Found {
        sequence: finding.sequence,
        segment: finding.segment,
        what: finding.flaw.to_string(),
    });
    let begun = report.begun;
    Document {
        version: 1,
        sound: found.is_none(),
        log: report.log.map(|log| log.to_string()),
        host: begun.as_ref().map(|begun| begun.host.clone()),
        begun: begun.map(|begun| begun.time),
        first: report.first,
        last: report.last,
        segments: report.segments,
        events: report.events,
        events_lost: report.lost,
        checkpoint: report.checkpoint,
        unsigned_entries: report.unsigned,
        torn_bytes: report.torn_bytes,
        finding: found,
        notes: report.notes,
    }
}

fn render(report: &Report) -> String {
    let mut out = String::new();
    if let Some(finding) = &report.finding {
        let _infallible = writeln!(
            out,
            "NOT SOUND entry {} in segment {}\n          {}",
            finding.sequence,
            text::harmless(&finding.segment),
            text::harmless(&finding.flaw.to_string())
        );
    } else {
        let _infallible = writeln!(out, "sound");
    }
    if let (Some(log), Some(begun)) = (report.log, &report.begun) {
        let _infallible = writeln!(
            out,
            "log       {log} of {}, begun {}",
            text::harmless(&begun.host),
            text::harmless(&begun.time)
        );
    }
    let lost = if report.lost > 0 { format!(", {} events lost", report.lost) } else { String::new() };
    let _infallible = writeln!(
        out,
        "entries   {} to {} in {} segments, {} events{lost}",
        report.first, report.last, report.segments, report.events
    );
    if let Some(LastCheckpoint { number, sequence, time, key }) = &report.checkpoint {
        let _infallible = writeln!(
            out,
            "signed    to entry {sequence}, by checkpoint {number} at {} with key {}",
            text::harmless(time),
            text::harmless(key)
        );
    }
    if report.unsigned > 0 || report.torn_bytes > 0 {
        let _infallible = writeln!(
            out,
            "unsigned  {} entries behind it, and {} bytes of one that is not whole",
            report.unsigned, report.torn_bytes
        );
    }
    for note in &report.notes {
        let _infallible = writeln!(out, "note      {}", text::harmless(note));
    }
    out
}
