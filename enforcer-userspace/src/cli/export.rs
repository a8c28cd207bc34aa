//! Events in the forms that other tools read, for `enforcer events --form`: from the daemon, or from lines that were kept.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read as _, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;

use super::{ask, text::harmless};
use crate::{
    control::dto,
    credentials::TrustDomain,
    exit::{ExitStatus, Failure},
    procfs,
    record::export::{self, Event, Host, Version},
    settings::Settings,
};

/// The longest line that is taken for an event: many times what the daemon writes.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Files are read and written in blocks of this size.
const BLOCK_BYTES: usize = 64 << 10;

/// What events are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Open Cybersecurity Schema Framework, as it is made
    #[value(name = "ocsf-1.9")]
    Ocsf19,
    /// Without what 1.9 brought: AI agents stand in `unmapped`
    #[value(name = "ocsf-1.8")]
    Ocsf18,
    /// As CrowdStrike takes it
    #[value(name = "ocsf-1.5")]
    Ocsf15,
    /// As Splunk takes it
    #[value(name = "ocsf-1.3")]
    Ocsf13,
    /// As Amazon Security Lake takes it
    #[value(name = "ocsf-1.1")]
    Ocsf11,
    /// Elastic Common Schema
    Ecs,
}

impl From<Form> for export::Form {
    fn from(form: Form) -> Self {
        match form {
            Form::Ocsf19 => Self::Ocsf(Version::V1_9),
            Form::Ocsf18 => Self::Ocsf(Version::V1_8),
            Form::Ocsf15 => Self::Ocsf(Version::V1_5),
            Form::Ocsf13 => Self::Ocsf(Version::V1_3),
            Form::Ocsf11 => Self::Ocsf(Version::V1_1),
            Form::Ecs => Self::Ecs,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct FormArgs {
    /// Write each event as one JSON object that other tools read
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Read events from a file instead, or from standard input (`-`): lines that `--format json` printed, or `events.jsonl`; needs no
    /// daemon
    #[arg(long, value_name = "FILE", requires = "form", conflicts_with = "follow")]
    file: Option<PathBuf>,
    /// With `--file`: the name of the host that the events are of, if it is another
    #[arg(long, value_name = "NAME", requires = "file")]
    host: Option<String>,
    /// With `--file`: the trust domain of the agents' SPIFFE IDs, if it is not that of the host's name
    #[arg(long, value_name = "NAME", requires = "file")]
    trust_domain: Option<TrustDomain>,
}

/// Prints events in a form, if one is asked for. `None`: none is.
pub(super) fn execute(
    settings: &Settings,
    args: &FormArgs,
    follow: bool,
) -> Option<Result<ExitStatus, Failure>> {
    let form = args.form?.into();
    let done = match &args.file {
        Some(file) => host_of(args).and_then(|host| print_file(file, form, &host)),
        None => print_live(settings, form, follow),
    };
    Some(done.map(|()| ExitStatus::Ok))
}

fn host_of(args: &FormArgs) -> Result<Host, Failure> {
    let name = args.host.clone().map_or_else(procfs::host_name, Ok)?;
    let trust_domain = args.trust_domain.clone().unwrap_or_else(|| TrustDomain::of_host(&name));
    Ok(Host { name, release: env!("CARGO_PKG_VERSION").to_owned(), trust_domain })
}

fn print_live(settings: &Settings, form: export::Form, follow: bool) -> Result<(), Failure> {
    let path = format!("/v1/events?follow={follow}");
    let (mut number, mut failed) = (0, None);
    ask(settings, async |client| {
        let dto::Status { daemon, .. } = client.get("/v1/status").await?;
        // A daemon from before it said so: its host is this one.
        let name = daemon.host.unwrap_or_else(|| procfs::host_name().unwrap_or_default());
        let trust_domain = daemon.trust_domain.and_then(|domain| domain.parse().ok());
        let trust_domain = trust_domain.unwrap_or_else(|| TrustDomain::of_host(&name));
        let host = Host { name, release: daemon.release, trust_domain };
        let mut out = io::stdout().lock();
        let print = |line: &str| {
            number += 1;
            let printed = convert(line.as_bytes(), form, &host, &mut out)
                .with_context(|| format!("export line {number} of the daemon's"));
            let printed = printed.map_err(refused).and_then(|()| Ok(out.flush()?));
            match printed {
                Ok(()) => ControlFlow::Continue(()),
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            }
        };
        client.lines(&path, print).await
    })?;
    failed.map_or(Ok(()), Err).or_else(unless_nobody_reads)
}

fn print_file(file: &Path, form: export::Form, host: &Host) -> Result<(), Failure> {
    let name =
        if file == Path::new("-") { "standard input".into() } else { harmless(&file.to_string_lossy()) };
    let input: Box<dyn io::Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("open `{name}`"));
        Box::new(opened.map_err(refused)?)
    };
    let out = BufWriter::with_capacity(BLOCK_BYTES, io::stdout().lock());
    let input = BufReader::with_capacity(BLOCK_BYTES, input);
    print_lines(&name, input, form, host, out).or_else(unless_nobody_reads)
}

fn print_lines<R: io::Read>(
    name: &str,
    mut input: BufReader<R>,
    form: export::Form,
    host: &Host,
    mut out: impl Write,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        if read.with_context(|| format!("read line {number} of `{name}`")).map_err(refused)? == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let converted = if line.len() as u64 == MAX_LINE_BYTES && text.len() == line.len() {
            Err(anyhow!("it is longer than {MAX_LINE_BYTES} bytes"))
        } else {
            convert(text, form, host, &mut out)
        };
        if let Err(error) = converted {
            // What came before it is right.
            out.flush()?;
            return Err(refused(error.context(format!("export line {number} of `{name}`"))));
        }
        // Whoever writes to our standard input line by line reads what comes of it line by line.
        if input.buffer().is_empty() {
            out.flush()?;
        }
    }
    Ok(out.flush()?)
}

/// Writes one event in another form.
fn convert(line: &[u8], form: export::Form, host: &Host, out: &mut impl Write) -> anyhow::Result<()> {
    let event: Event = serde_json::from_slice(line).map_err(|error| {
        // A line of JSON is its own line 1, which only confuses where lines are counted.
        anyhow!("it is not an event: {}", error.to_string().replace(" at line 1 column ", " at column "))
    })?;
    let object = export::export(&event, form, host)?;
    serde_json::to_writer(&mut *out, &object).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

fn refused(error: anyhow::Error) -> Failure {
    Failure { status: ExitStatus::No, error, hint: None }
}

/// A reader that has gone away (`| head`) is no failure.
fn unless_nobody_reads(failure: Failure) -> Result<(), Failure> {
    let is_broken = failure.error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    });
    if is_broken { Ok(()) } else { Err(failure) }
}
