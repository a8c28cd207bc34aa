//! `cargo xtask bench records`: how many of the kernel's records the daemon takes in, on one processor, for a minute.
//!
//! A session is refused as fast as it can be, on the first processor. All of the daemon's threads have the second one: it reads the
//! records, joins them with the session, writes them as lines to the event file, chains them into the audit log, has that on disk, and
//! compresses it. What it cannot take in is lost in the kernel's ring buffer, and counted. Then the lines are written as OCSF by one process on
//! one processor, for as long; and the log is verified and searched.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{DEADLINE, Daemon, Envelope, LOAD_DEADLINE, probe, say, wait_until};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

const TIME: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(10);
/// What the exported lines may take on disk before they are thrown away.
const MOST_BYTES: u64 = 256 << 20;

fn main() -> ExitCode {
    pin(Pid::from_raw(0), 1);
    let version = fs::read_to_string("/proc/version").unwrap_or_default();
    say(version.lines().next().unwrap_or_default());
    let mut daemon = Daemon::start();
    say(&format!("audit log on {}", file_system(&daemon.layout().state_dir())));
    take_in(&daemon);
    settle(&daemon);
    // Nobody else has the processor then.
    daemon.kill_sessions();
    daemon.stop();
    export(&daemon);
    read_back(&daemon);
    ExitCode::SUCCESS
}

fn pin(pid: Pid, processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("there is such a processor");
    sched_setaffinity(pid, &set).expect("this needs two processors");
}

/// What was done so far.
struct Counts {
    at: Instant,
    written: u64,
    logged: u64,
    lost: u64,
    lost_in_log: u64,
    bytes: u64,
    threads: Vec<(String, Duration)>,
}

impl Counts {
    fn of(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        Self {
            at: Instant::now(),
            written: daemon.counter("events_written"),
            logged: daemon.counter("audit_entries"),
            lost: daemon.counter("fault_record_lost"),
            lost_in_log: daemon.counter("fault_audit_lost"),
            bytes: resident(pid),
            threads: threads(pid),
        }
    }
}

fn take_in(daemon: &Daemon) {
    let flood = daemon.run(&Envelope::of("flood"), &probe(&["verdicts", "1", "127.0.0.1:9"]));
    pin(Pid::from_raw(flood.pid()), 0);
    // As it goes on, and not as it begins.
    thread::sleep(Duration::from_secs(3));
    let first = Counts::of(daemon);
    say("");
    say("      s   lines/s   entries/s   lost/s   memory");
    let mut before = Counts::of(daemon);
    while first.at.elapsed() < TIME {
        thread::sleep(LOOK);
        let now = Counts::of(daemon);
        let seconds = (now.at - before.at).as_secs_f64();
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        say(&format!(
            "  {:>5.1} {:>9.0}   {:>9.0} {:>8.0}   {:>4.1} MB",
            (now.at - first.at).as_secs_f64(),
            rate(now.written, before.written),
            rate(now.logged, before.logged),
            rate(now.lost, before.lost),
            now.bytes as f64 / 1e6,
        ));
        before = now;
    }
    let seconds = (before.at - first.at).as_secs_f64();
    let of_kernel = (before.written - first.written) + (before.lost - first.lost);
    say(&format!(
        "in {seconds:.1} s: {:.0} records/s made, {:.0}/s written as lines, {:.0}/s chained into the audit log, {:.0}/s lost \
         in the ring buffer, {} on the way to the log; memory {:+.1} MB",
        of_kernel as f64 / seconds,
        (before.written - first.written) as f64 / seconds,
        (before.logged - first.logged) as f64 / seconds,
        (before.lost - first.lost) as f64 / seconds,
        before.lost_in_log - first.lost_in_log,
        (before.bytes as f64 - first.bytes as f64) / 1e6,
    ));
    for (name, took) in &before.threads {
        let earlier =
            first.threads.iter().find(|(other, _)| other == name).map_or(Duration::ZERO, |(_, took)| *took);
        let share = (took.saturating_sub(earlier)).as_secs_f64() / seconds;
        if share > 0.01 {
            say(&format!("  {name:<16} {:>5.1} % of the processor", 100.0 * share));
        }
    }
    flood.finish(DEADLINE).success();
}

/// The event file, again and again, through the program that exports.
fn export(daemon: &Daemon) {
    let mut lines = Vec::new();
    for number in (1..5).rev().map(|n| format!(".{n}")).chain([String::new()]) {
        let path = daemon.layout().state_dir().join(format!("events.jsonl{number}"));
        if let Ok(mut file) = File::open(path) {
            file.read_to_end(&mut lines).expect("it can be read");
        }
    }
    let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    let path = daemon.layout().file("exported");
    let out = OpenOptions::new().create(true).append(true).open(&path).expect("the directory is ours");
    let mut command = daemon.layout().command(&["events", "--form", "ocsf-1.9", "--file", "-"]);
    let mut exporter = command.stdin(Stdio::piped()).stdout(out).spawn().expect("the enforcer is executable");
    let pid = exporter.id().cast_signed();
    pin(Pid::from_raw(0), 0);
    pin(Pid::from_raw(pid), 1);
    let mut into = exporter.stdin.take().expect("it was asked for");
    let start = Instant::now();
    let (mut rounds, mut early) = (0, None);
    while start.elapsed() < TIME {
        into.write_all(&lines).expect("it reads");
        rounds += 1;
        early = early.or(Some(resident(pid)));
        // What is appended then begins at the front.
        if fs::metadata(&path).expect("it is there").len() > MOST_BYTES {
            OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0)).expect("it is ours");
        }
    }
    let late = resident(pid);
    drop(into);
    let status = exporter.wait().expect("it is our child");
    assert!(status.success(), "{status}");
    let seconds = start.elapsed().as_secs_f64();
    say("");
    say(&format!(
        "OCSF 1.9: {:.0} lines/s for {seconds:.0} s; memory {:.1} MB, {:+.1} MB",
        (rounds * count) as f64 / seconds,
        late as f64 / 1e6,
        late as f64 / 1e6 - early.unwrap_or(0) as f64 / 1e6,
    ));
}

fn settle(daemon: &Daemon) {
    wait_until(LOAD_DEADLINE, "the log is written", || {
        let before = daemon.counter("audit_entries");
        thread::sleep(Duration::from_secs(2));
        (daemon.counter("audit_entries") == before).then_some(())
    });
    say(&format!("the audit log has {} entries", daemon.counter("audit_entries")));
}

fn read_back(daemon: &Daemon) {
    let dir = daemon.layout().state_dir().join("audit");
    let bytes: u64 = fs::read_dir(&dir)
        .expect("the log is a folder")
        .map(|file| file.and_then(|file| file.metadata()).expect("it is there").len())
        .sum();
    say("");
    say(&format!("the log: {:.2} GB on disk", bytes as f64 / 1e9));
    for arguments in
        [&["audit", "verify"][..], &["audit", "query", "--destination", "192.0.2.1", "--format", "json"]]
    {
        let mut command: Command = daemon.layout().command(arguments);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the enforcer is executable");
        let start = Instant::now();
        let most = watch(&mut child);
        say(&format!(
            "`{}`: {:.1} s, at most {:.1} MB",
            arguments.join(" "),
            start.elapsed().as_secs_f64(),
            most as f64 / 1e6
        ));
    }
}

/// The most memory that it takes.
fn watch(child: &mut Child) -> u64 {
    let pid = child.id().cast_signed();
    let mut most = 0;
    while child.try_wait().expect("it is our child").is_none() {
        most = most.max(resident(pid));
        thread::sleep(Duration::from_millis(20));
    }
    most
}

/// Memory that a process has, in bytes.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The time that each thread has run, by its name.
fn threads(pid: i32) -> Vec<(String, Duration)> {
    let tick = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("the kernel says it") as f64;
    let mut all: Vec<(String, Duration)> = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let Ok(stat) = fs::read_to_string(task.expect("it can be read").path().join("stat")) else {
            continue;
        };
        let (head, rest) = stat.rsplit_once(')').expect("a name in parentheses");
        let name = head.split_once('(').expect("likewise").1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
        let took = Duration::from_secs_f64(ticks / tick);
        match all.iter_mut().find(|(other, _)| *other == name) {
            Some((_, sum)) => *sum += took,
            None => all.push((name, took)),
        }
    }
    all
}

fn file_system(path: &std::path::Path) -> String {
    let output =
        Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output().expect("coreutils are there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
