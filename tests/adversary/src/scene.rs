//! One attempt set up: a directory, an outsider, the attacker, in a session or outside any; and what came of it.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use integration::{DEADLINE, Daemon, Envelope, Process};
use tempfile::TempDir;

use crate::attempt::Report;
use crate::bpf_objects::{self, Pinned};
use crate::catalogue::{Outsider, Proof, Technique};
use crate::context::{self, ALLOWED4, ALLOWED6, Context};
use crate::far_side::{FarSide, ROUTE_MARK, new_magic};
use crate::left::leave;
use crate::techniques::files::CORE_PATTERN;
use crate::world;

/// How a last word begins where no session did.
pub(crate) const NO_SESSION: &str = "`run`";

/// How long the effect of an attempt is waited for whose last call failed.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

const NOBODY: u32 = 65_534;

/// What came of an attempt.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) magic: String,
    pub(crate) got_out: bool,
    /// What the attacker said of itself, if it came to that.
    pub(crate) report: Option<Report>,
    /// How it ended; nothing if it was ended by us.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stderr: String,
    /// How long the attacker ran, and how long it then took until the effect was there.
    pub(crate) ran: Duration,
    pub(crate) waited: Duration,
}

/// How long an attempt may run, and how long its effect may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) run: Duration,
    pub(crate) effect: Duration,
}

/// Where an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Outside,
    InSession,
}

/// Makes one attempt.
pub(crate) fn play(
    technique: &Technique,
    place: Place,
    daemon: &mut Daemon,
    far_side: &FarSide,
    cgroup: &std::path::Path,
    limits: Limits,
) -> Outcome {
    let directory = TempDir::with_prefix("adversary-").expect("a directory for the attempt");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("the directory is ours");
    let mut context = describe(technique, daemon, directory.path(), cgroup);
    let bystander = (technique.proof == Proof::TagsGone).then(|| bystander(daemon));
    let core_pattern = fs::read_to_string(CORE_PATTERN).unwrap_or_default();
    let mut outsider = technique.outsider.map(|outsider| start_outsider(outsider, place, &mut context));

    let mut command = match place {
        Place::Outside => outside(technique, &context),
        Place::InSession => in_session(technique, daemon, &context),
    };
    let left = leave(technique.leave, &mut command);
    let started = Instant::now();
    let (status, stdout, stderr) = run_within(command, limits.run);
    let ran = started.elapsed();
    left.end();

    let report: Option<Report> = stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    // What the attacker says shortens the wait, and no more: the magic of each is looked for again at the end.
    let failed = report.as_ref().is_some_and(|report| report.call.is_some());
    let patience = if failed { limits.effect.min(AFTER_FAILURE) } else { limits.effect };
    let ended = Instant::now();
    let got_out = loop {
        let seen = match technique.proof {
            Proof::Magic => far_side.has_seen(&context.magic),
            Proof::OutsiderEnds => outsider.as_mut().is_some_and(Process::has_ended),
            Proof::DaemonEnds => daemon.has_ended(),
            Proof::LinksGone => !context.links.iter().all(|id| bpf_objects::link_works(*id)),
            Proof::PinsGone => Pinned::in_directory(&context.pins).links.len() < context.links.len(),
            Proof::TagsGone => daemon.status()["tasks"] == 0,
            Proof::CorePattern => {
                fs::read_to_string(CORE_PATTERN).is_ok_and(|text| text.contains(&context.magic))
            }
            Proof::Route => world::has_route_to(ROUTE_MARK),
        };
        if seen || ended.elapsed() > patience {
            break seen
                || (technique.proof == Proof::Magic && far_side.wait_for(&context.magic, Duration::ZERO));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let waited = ended.elapsed();
    if technique.proof == Proof::CorePattern && got_out {
        fs::write(CORE_PATTERN, core_pattern.trim_end()).expect("it was written before");
    }
    if technique.proof == Proof::Route && got_out {
        world::remove_route_to(ROUTE_MARK).expect("it is there");
    }
    drop(bystander);
    daemon.kill_sessions();
    Outcome { magic: context.magic, got_out, report, status, stderr, ran, waited }
}

fn describe(
    technique: &Technique,
    daemon: &Daemon,
    directory: &std::path::Path,
    cgroup: &std::path::Path,
) -> Context {
    let layout = daemon.layout();
    let mut context = Context {
        magic: new_magic(),
        dir: directory.to_owned(),
        cgroup: cgroup.to_owned(),
        enforcer: integration::enforcer_path(),
        control_socket: layout.socket(),
        pins: layout.pin_dir.clone(),
        ..Context::default()
    };
    if technique.own_daemon {
        let pinned = Pinned::in_directory(&layout.pin_dir);
        assert!(!pinned.links.is_empty() && !pinned.maps.is_empty(), "the daemon has pinned its objects");
        context.daemon = daemon.pid();
        (context.links, context.maps) = (pinned.links, pinned.maps);
    }
    if technique.name == "enrol-again" {
        let wide = Envelope::of("wide").allow("all", "0.0.0.0/0", "any", "any");
        context.wide_envelope = layout.write_envelope(wide);
    }
    context
}

/// A process in a session of its own, which keeps its tag as long as nobody takes it off.
fn bystander(daemon: &Daemon) -> Process {
    let process = daemon.run(&Envelope::of("bystander"), &["sleep", "1000"]);
    integration::wait_until(DEADLINE, "the bystander is tagged", || {
        daemon.status()["tasks"].as_u64().filter(|tasks| *tasks > 0)
    });
    process
}

fn start_outsider(outsider: Outsider, place: Place, context: &mut Context) -> Process {
    let mut command = own(&["outsider", outsider.role], context);
    if !outsider.as_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut process = Process::spawn(command);
    let line = process.read_line(DEADLINE);
    match line.strip_prefix("ready") {
        Some(facts) => {
            context.facts =
                facts.split_whitespace().map(|fact| fact.parse().expect("facts are numbers")).collect();
        }
        // The control will say that the technique is not applicable; what worked there, works again.
        None => assert_eq!(place, Place::Outside, "the outsider `{}`: {line}", outsider.role),
    }
    context.outsider = process.pid();
    process
}

fn own(arguments: &[&str], context: &Context) -> Command {
    let mut command = Command::new(own_path());
    command.args(arguments).arg(serde_json::to_string(context).expect("a context is JSON"));
    command
}

fn own_path() -> std::path::PathBuf {
    std::env::current_exe().expect("this program's file is there")
}

fn outside(technique: &Technique, context: &Context) -> Command {
    let mut command = own(&["attempt", technique.name], context);
    // What `run` would find, for those who ask the daemon.
    command.envs(daemon_variables(context));
    if !technique.as_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// What tells the enforcer's command line where the daemon is.
fn daemon_variables(context: &Context) -> Vec<(&'static str, std::path::PathBuf)> {
    let run = context.control_socket.parent().expect("the socket is in a directory").to_owned();
    vec![("ENFORCER_RUN_DIR", run), ("ENFORCER_PIN_DIR", context.pins.clone())]
}

fn in_session(technique: &Technique, daemon: &Daemon, context: &Context) -> Command {
    let port = format!("[{}]", context::PORT);
    let relay = format!("[{}]", context::RELAY_PORT);
    let v4 = format!("{ALLOWED4}/32");
    let mut envelope = Envelope::of(technique.name)
        .allow("allowed4", &v4, &port, "any")
        .allow("allowed6", &format!("{ALLOWED6}/128"), &port, "any")
        .allow("relay", &v4, &relay, "any");
    if technique.rules_unix {
        envelope = envelope.no_unix();
    }
    let layout = daemon.layout();
    let mut command = layout.command(&["run", "--envelope"]);
    command.arg(layout.write_envelope(envelope));
    if !technique.as_root {
        command.args(["--user", "nobody"]);
    }
    let attempt = own(&["attempt", technique.name], context);
    command.arg("--").arg(attempt.get_program()).args(attempt.get_args());
    command
}

/// Runs a program, and ends it when its time is over. A child of its own that it leaves behind may keep the pipes open, so
/// they are files.
fn run_within(mut command: Command, limit: Duration) -> (Option<ExitStatus>, String, String) {
    let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a file for what it says"));
    command.stdout(stdout.try_clone().expect("a descriptor is free"));
    command.stderr(stderr.try_clone().expect("a descriptor is free"));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break Some(status);
        }
        if Instant::now() > end {
            // Both fail only if it has ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let text = |file: &mut fs::File| {
        use std::io::Seek as _;
        let mut text = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut text)).expect("the file is ours");
        String::from_utf8_lossy(&text).into_owned()
    };
    (status, text(&mut stdout), text(&mut stderr))
}

impl Outcome {
    /// What stopped it, as far as the attacker and its end tell.
    pub(crate) fn last_word(&self) -> String {
        if let Some(Report { call: Some(call), errno }) = &self.report {
            return format!("{}: {call}", errno_name(*errno));
        }
        match &self.status {
            None => "no answer in time".into(),
            Some(status) if status.signal().is_some() => format!("signal {}", status.signal().unwrap_or(0)),
            Some(_) if self.report.is_some() => "nothing arrived".into(),
            Some(_) => {
                let error = self.stderr.lines().find(|line| line.starts_with("error:"));
                format!("{NO_SESSION}: {}", error.unwrap_or("no session").trim_start_matches("error: "))
            }
        }
    }
}

/// As programmers know it.
fn errno_name(errno: i32) -> String {
    // As in "EPERM: Operation not permitted".
    nix::errno::Errno::from_raw(errno).to_string().split(':').next().unwrap_or_default().to_owned()
}
