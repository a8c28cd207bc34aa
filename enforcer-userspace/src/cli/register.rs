//! `enforcer register`: hold what runs already to an envelope.

use std::{fmt::Write as _, path::PathBuf};

use super::{Format, ask, parse_envelope, print_json, read_envelope, said::SaidArgs, text};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    key_files,
    settings::Settings,
};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub(super) struct Args {
    /// The envelope; a signature beside it, with `.sig` after its name, is sent along
    #[arg(long, value_name = "FILE")]
    envelope: PathBuf,
    /// This process
    #[arg(long, group = "target", value_name = "PID")]
    pid: Option<u32>,
    /// And every process that it has made, and that those have
    #[arg(long, requires = "pid")]
    children: bool,
    /// Every process in this cgroup and below it, such as a container's: it is used as it stands
    #[arg(long, group = "target", value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Every process of this unit of systemd's
    #[arg(long, group = "target", value_name = "NAME")]
    unit: Option<String>,
    /// Leave the sockets of connections outside the envelope as they are; nothing leaves on them all the same
    #[arg(long)]
    keep_connections: bool,
    #[command(flatten)]
    said: SaidArgs,
}

pub(super) fn execute(settings: &Settings, format: Format, args: &Args) -> Result<ExitStatus, Failure> {
    let Some((envelope, _)) = parse_envelope(&args.envelope, read_envelope(&args.envelope)?) else {
        return Ok(ExitStatus::No);
    };
    let target = match (args.pid, &args.cgroup, &args.unit) {
        (Some(pid), ..) => dto::Target::Process { pid, children: args.children },
        (_, Some(path), _) => dto::Target::Cgroup { path: path.to_string_lossy().into_owned() },
        (_, _, Some(name)) => dto::Target::Unit { name: name.clone() },
        _ => unreachable!("the arguments have one of them"),
    };
    let request = dto::Register {
        envelope,
        signature: key_files::signature_of(&args.envelope)?,
        target,
        keep_connections: args.keep_connections,
        said: args.said.said(),
    };
    let registered: dto::Registered =
        ask(settings, async |client| client.post("/v1/registrations", &request).await)?;
    match format {
        Format::Json => print_json(&registered)?,
        Format::Text => text::print(&render(&registered))?,
    }
    Ok(ExitStatus::Ok)
}

fn render(registered: &dto::Registered) -> String {
    let mut out = String::new();
    let _infallible = writeln!(out, "registered {}", registered.id);
    let _infallible = writeln!(
        out,
        "{} processes; {} open sockets kept, {} outside the envelope destroyed",
        registered.processes, registered.sockets_kept, registered.sockets_destroyed
    );
    if registered.complete {
        out.push_str("complete: nothing of it was found that is not held to the envelope\n");
    }
    for reason in &registered.incomplete_because {
        let _infallible = writeln!(out, "incomplete: {}", text::harmless(reason));
    }
    out
}
