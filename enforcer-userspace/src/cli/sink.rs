//! `enforcer sink`.

use std::path::PathBuf;

use super::{Format, print_json, text};
use crate::{
    credentials::TrustDomain,
    env_vars,
    exit::{ExitStatus, Failure},
    procfs,
    record::export::Host,
    sinks,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Send one event to a sink, from here and not from the daemon, and say what came of it
    ///
    /// Exit code 0: it was taken; 1: it was not, and why.
    Test(TestArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// The sink's name
    name: String,
    /// The file that the daemon has the sinks from
    #[arg(long, value_name = "FILE", env = env_vars::SINKS)]
    sinks: PathBuf,
}

pub(super) fn execute(format: Format, command: &Command) -> Result<ExitStatus, Failure> {
    let Command::Test(args) = command;
    let sinks = sinks::load(&args.sinks).map_err(|error| Failure::new(ExitStatus::No, error))?;
    let names: Vec<_> = sinks.iter().map(|sink| format!("`{}`", sink.name)).collect();
    let Some(settings) = sinks.iter().find(|sink| sink.name == args.name) else {
        let message = format!("there is no sink `{}` in `{}`", args.name, args.sinks.display());
        let failure = Failure::new(ExitStatus::No, anyhow::Error::msg(message));
        return Err(failure.hint(format!("there is {}", names.join(", "))));
    };
    let host = procfs::host_name().map_err(|error| Failure::new(ExitStatus::Error, error))?;
    // What it says of itself is in no event without a session: it need not be the daemon's.
    let trust_domain = TrustDomain::of_host(&host);
    let host = Host { name: host, release: env!("CARGO_PKG_VERSION").to_owned(), trust_domain };
    let outcome = sinks::test(settings, &host);
    match format {
        Format::Json => print_json(&serde_json::json!({
            "version": 1, "sink": args.name, "taken": outcome.is_ok(),
            "took_ms": outcome.as_ref().ok().map(std::time::Duration::as_millis),
            "why": outcome.as_ref().err(),
        }))?,
        Format::Text => text::print(&match &outcome {
            Ok(took) => format!("sink `{}` has taken an event, after {} ms\n", args.name, took.as_millis()),
            Err(why) => format!("sink `{}` has not taken an event: {}\n", args.name, text::harmless(why)),
        })?,
    }
    Ok(if outcome.is_ok() { ExitStatus::Ok } else { ExitStatus::No })
}
