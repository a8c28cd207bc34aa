//! `enforcer teardown`: through the daemon if one runs, else by hand.

use std::fmt::Write as _;

use super::{Format, client_failure, print_json, text};
use crate::{
    cgroup::Cgroups,
    control::{
        client::{Client, ClientError},
        dto,
    },
    daemon,
    exit::{ExitStatus, Failure},
    host::HostError,
    procfs,
    settings::Settings,
    teardown,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave the recorded events where they are
    #[arg(long)]
    keep_events: bool,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    if !nix::unistd::geteuid().is_root() {
        let error = HostError::NotRoot;
        let hint = error.hint();
        return Err(Failure::new(ExitStatus::Unsupported, error).hint(hint));
    }
    let torn_down = match through_daemon(settings, args)? {
        Some(torn_down) => torn_down,
        None => by_hand(settings, args)?,
    };
    match format {
        Format::Json => print_json(&torn_down)?,
        Format::Text => text::print(&render(&torn_down))?,
    }
    Ok(if torn_down.left.is_empty() { ExitStatus::Ok } else { ExitStatus::No })
}

fn through_daemon(settings: &Settings, args: &Args) -> Result<Option<dto::TornDown>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let path = format!("/v1/enforcement?keep_events={}", args.keep_events);
    match runtime.block_on(Client::new(&settings.socket()).delete(&path)) {
        Ok(torn_down) => Ok(Some(torn_down)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(client_failure(error)),
    }
}

fn by_hand(settings: &Settings, args: &Args) -> Result<dto::TornDown, Failure> {
    let root = procfs::cgroup2_mount()?.ok_or_else(|| {
        let error = HostError::NoCgroup2;
        let hint = error.hint();
        Failure::new(ExitStatus::Unsupported, error).hint(hint)
    })?;
    let cgroups = Cgroups::new(&root, &settings.cgroup);
    // A root process of a session could end its own enforcement here. The programs cannot stop it before a guard is in
    // place; this at least is no tool for it.
    let myself = procfs::cgroup2_of(std::process::id())?;
    if myself.is_none_or(|path| cgroups.holds(&path)) {
        let error = anyhow::anyhow!("a process of a session may not end enforcement");
        return Err(Failure { status: ExitStatus::No, error, hint: None });
    }
    // A daemon that starts meanwhile, or that runs and does not answer, would find its pins gone.
    let _lock = if settings.run_dir.is_dir() {
        Some(daemon::lock(&settings.lock()).map_err(daemon::StartError::into_failure)?)
    } else {
        None
    };
    let sessions = teardown::known_sessions(settings, &cgroups);
    Ok(teardown::remove_all(settings, &cgroups, sessions, args.keep_events))
}

fn render(torn_down: &dto::TornDown) -> String {
    let mut out = String::new();
    for session in &torn_down.released {
        let dto::Released { id, agent, owner, processes } = session;
        let _infallible = writeln!(
            out,
            "released {id}\n  {agent} for {owner}: {processes} processes are held to nothing now"
        );
    }
    let _infallible = if torn_down.ended {
        writeln!(out, "enforcement has ended; {} sessions released", torn_down.released.len())
    } else {
        writeln!(out, "enforcement goes on: the programs could not be removed")
    };
    for left in &torn_down.left {
        let _infallible = writeln!(out, "left behind: {left}");
    }
    out
}
