//! `cargo xtask bench rules`: what a connect costs inside a session, by how many rules its envelope has.
//!
//! Four sessions live at the same time, with 10 to 1,000,000 rules, and one probe runs outside any session. They take turns in
//! bursts of UDP connects, so that each finds the caches as the others left them. An agent comes back to the places it
//! works with: in half of the bursts there are 50 of them, all over the rules. In the others each address is another one, as when
//! something scans; that no decision finds anything in the caches is the worst there is, and is measured on its own.
//!
//! Everything happens in a network namespace of its own in which every address is local. A burst is short enough, and the
//! pause after it long enough, that the daemon writes down every decision: records that were lost would flatter. The probes
//! have a processor of their own: which of two programs has to wait for the other is not what is measured.

mod list;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use integration::{DEADLINE, Daemon, Process, inner_memory, probe, say};
use list::RuleList;
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use serde_json::Value;

/// The numbers of rules, and how many times the time of the first each may take.
const SIZES: [(usize, f64); 4] = [(10, 1.0), (1_000, 1.2), (100_000, 1.2), (1_000_000, 1.4)];
const ROUNDS: usize = 100;
const BURST: u64 = 1_000;
/// Four times what the daemon takes to write down a burst, on the machine it was first measured on.
const PAUSE: Duration = Duration::from_millis(60);
/// Addresses of a kind, which a probe goes through before it begins again.
const PLACES: usize = 50;
const STRANGERS: usize = 1 << 16;
/// Reading and compiling a million rules.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a burst connects to: as `RuleList::addresses` has it, and how many.
const KINDS: [(&str, usize, &str); 4] = [
    ("refused", PLACES, "refused"),
    ("allowed", PLACES, "allowed"),
    ("refused-strangers", STRANGERS, "refused, scan"),
    ("allowed-strangers", STRANGERS, "allowed, scan"),
];
/// Of which the limits speak.
const LIMITED: usize = 2;

/// A probe, and the time of one connect in each of its bursts, in nanoseconds.
struct Runner {
    rules: Option<usize>,
    probe: Process,
    times: [Vec<f64>; KINDS.len()],
}

fn main() -> ExitCode {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    for arguments in ["link set lo up", "route add local default dev lo", "-6 route add local default dev lo"]
    {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments}: {status}");
    }
    // Before anything is started that is to stay away from there.
    let mut rest = CpuSet::new();
    (1..processors()).for_each(|number| rest.set(number).expect("so many there are"));
    sched_setaffinity(Pid::from_raw(0), &rest).expect("this needs a second processor");
    let daemon = Daemon::start();
    say(&format!("{}; {}", read_first_line("/proc/version"), processor()));
    say("");
    say(
        "rules      file        `check`: time, memory   enforced after   kernel memory: predicted, measured, per rule",
    );
    let mut runners = Vec::new();
    for (count, _) in SIZES {
        runners.push(inside(&daemon, count));
    }
    runners.push(outside(&daemon));
    for round in 0..=ROUNDS {
        let order = (0..runners.len()).map(|place| (place + round) % runners.len());
        for place in order.collect::<Vec<_>>() {
            for kind in 0..KINDS.len() {
                runners[place].burst(kind, round > 0);
            }
        }
    }
    report(&daemon, runners)
}

fn inside(daemon: &Daemon, count: usize) -> Runner {
    let list = RuleList::new(count);
    let file = daemon.layout().write_envelope(list.envelope(&format!("bench-{count}")));
    let addresses = daemon.layout().file(&format!("addresses-{count}"));
    fs::write(&addresses, list.addresses(&KINDS.map(|(kind, count, _)| (kind, count))))
        .expect("the directory is ours");

    let start = Instant::now();
    let predicted = check(daemon, &file);
    let checked = start.elapsed();

    let start = Instant::now();
    let mut run = daemon.layout().command(&["run", "--envelope"]);
    run.arg(&file).arg("--").args(command(&addresses));
    let mut probe = Process::spawn(run);
    assert_eq!(probe.read_line(PATIENCE), "ready");
    let enforced = start.elapsed();
    let probe = on_first_processor(probe);

    let tables = inner_memory(&daemon.layout().pin_dir.join("maps/RULES"));
    let measured = tables.into_iter().max().expect("the session has rules");
    say(&format!(
        "{count:>9}  {:>6.1} MB  {:>7.2} s, {:>7.1} MB   {:>9.2} s   {predicted:>12} B {measured:>12} B {:>7.1} B",
        fs::metadata(&file).expect("it was just written").len() as f64 / 1e6,
        checked.as_secs_f64(),
        peak_of_children() as f64 / 1e6,
        enforced.as_secs_f64(),
        measured as f64 / count as f64,
    ));
    assert!(measured <= predicted, "the rules take more than was predicted");
    Runner { rules: Some(count), probe, times: Default::default() }
}

/// Gives the first processor to the probe; everything else has the others.
fn on_first_processor(probe: Process) -> Process {
    let mut first = CpuSet::new();
    first.set(0).expect("there is a processor");
    sched_setaffinity(Pid::from_raw(probe.pid()), &first).expect("it runs");
    probe
}

/// The same addresses, where nothing is decided.
fn outside(daemon: &Daemon) -> Runner {
    let addresses = daemon.layout().file("addresses-10");
    let command = command(&addresses);
    let (program, arguments) = command.split_first().expect("a command has a program");
    let mut outside = Command::new(program);
    outside.args(arguments);
    let mut probe = Process::spawn(outside);
    assert_eq!(probe.read_line(DEADLINE), "ready");
    Runner { rules: None, probe: on_first_processor(probe), times: Default::default() }
}

fn command(addresses: &Path) -> Vec<String> {
    probe(&["connect-times", addresses.to_str().expect("the path is text")])
}

/// The kernel memory that `enforcer check` predicts, in bytes.
fn check(daemon: &Daemon, file: &Path) -> u64 {
    let mut check = daemon.layout().command(&["check", "--format", "json"]);
    check.arg(file);
    let lines = Process::spawn(check).finish(PATIENCE).success();
    let checked: Value = serde_json::from_str(&lines.join("\n")).expect("JSON");
    checked["envelope"]["stats"]["kernel_bytes"].as_u64().expect("a number of bytes")
}

/// The most memory that any program took that was run so far, in bytes.
fn peak_of_children() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    usage.expect("it takes no argument that could be wrong").max_rss() * 1024
}

impl Runner {
    /// One burst; whether it counts.
    fn burst(&mut self, kind: usize, counts: bool) {
        let (name, ..) = KINDS[kind];
        self.probe.write_line(&format!("{name} {BURST}"));
        let line = self.probe.read_line(DEADLINE);
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [nanoseconds, passed, refused] = numbers[..] else { panic!("not three numbers: {line}") };
        // Outside, nothing is refused.
        let expect =
            if self.rules.is_some() && name.starts_with("refused") { [0, BURST] } else { [BURST, 0] };
        assert_eq!([passed, refused], expect, "{name} with {:?} rules", self.rules);
        if counts {
            self.times[kind].push(nanoseconds as f64 / BURST as f64);
        }
        thread::sleep(PAUSE);
    }
}

fn report(daemon: &Daemon, runners: Vec<Runner>) -> ExitCode {
    say("");
    say(&format!(
        "UDP connect, ns: median of {ROUNDS} bursts of {BURST} (a tenth are faster, a tenth slower); ratio to 10 rules"
    ));
    let columns: String = KINDS.iter().map(|(.., title)| format!("   {title:<31}")).collect();
    say(&format!("    rules{columns}"));
    let mut base = [0.0; KINDS.len()];
    let mut failed = false;
    for mut runner in runners {
        let limit = SIZES.iter().find(|(count, _)| Some(*count) == runner.rules).map(|(_, limit)| *limit);
        let mut line = match runner.rules {
            Some(count) => format!("{count:>9}"),
            None => "  outside".to_owned(),
        };
        for (kind, (times, base)) in runner.times.iter_mut().zip(&mut base).enumerate() {
            times.sort_by(f64::total_cmp);
            let at = |tenths: usize| times[times.len() * tenths / 10];
            if *base == 0.0 {
                *base = at(5);
            }
            let ratio = at(5) / *base;
            failed |= kind < LIMITED && limit.is_some_and(|limit| ratio > limit);
            line += &format!("   {:>6.0} ({:>5.0} - {:>6.0})  {ratio:>5.2}", at(5), at(1), at(9));
        }
        say(&line);
        runner.probe.finish(DEADLINE).success();
    }
    let lost = daemon.counter("fault_record_lost");
    say(&format!("records lost: {lost}"));
    assert_eq!(lost, 0, "decisions whose record was lost cost less");
    if failed {
        let limits: Vec<String> =
            SIZES.iter().map(|(count, limit)| format!("{limit} at {count} rules")).collect();
        say(&format!("error: a ratio is over its limit: {}", limits.join(", ")));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn read_first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// How many processors there are, whichever of them this program may use.
fn processors() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)
        .ok()
        .flatten()
        .and_then(|count| usize::try_from(count).ok())
        .expect("the kernel says how many there are")
}

/// The processor's name and how many there are.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown");
    format!("{} x {name}", processors())
}
