//! What is full is denied, and what is gone is given back.

use std::fs;
use std::path::Path;
use std::thread;

use integration::{
    DEADLINE, Daemon, Envelope, Event, FullMap, LOAD_DEADLINE, Pair, Process, Server, entries_of, probe, say,
    slowness, totals, unique, wait_until,
};

/// No process has such an id: there are at most 2^22.
const NO_PROCESS: u32 = 1 << 24;

/// The bytes of a tag in the kernel's table.
const TAG_BYTES: usize = 24;

/// With no room for another tag, a child has none: it is in the session's cgroup without one, and is refused everything.
#[test]
fn full_table_of_processes_fails_closed() {
    const CHILDREN: u64 = 50;
    let server = Server::start("udp", "127.0.0.10");
    let daemon = Daemon::start();
    let envelope = Envelope::of("full").allow_server("only", &server);
    let forks = probe(&["quick-forks", &CHILDREN.to_string(), &server.address().to_string()]);
    let wait_and_work = ["sh", "-c", "read line; exec \"$@\"", "sh"].map(str::to_owned);
    let start = || daemon.run(&envelope, &[&wait_and_work[..], &forks].concat());
    let finish = |mut process: Process| {
        process.write_line("go");
        let lines = process.finish(LOAD_DEADLINE).success();
        let count = totals(&lines[0]);
        [count("succeeded"), count("refused"), count("other")]
    };
    assert_eq!(finish(start()), [CHILDREN, 0, 0], "control");

    let inside = start();
    daemon.wait_for_events(3, "it runs", |event| event.is_of("full") && event.kind() == "exec");
    let tags = daemon.layout().pin_dir.join("maps/TASKS");
    let full = FullMap::fill(&tags, NO_PROCESS, TAG_BYTES);
    assert!(full.added() > 1000, "there was room for {}", full.added());
    assert_eq!(finish(inside), [0, CHILDREN, 0]);
    let untagged =
        |event: &Event| event.is_of("full") && event.is_deny() && event.text("/reason") == "untagged";
    let events = daemon.wait_for_events(CHILDREN as usize, "the denies", untagged);
    assert_eq!(events.len() as u64, CHILDREN);
    assert!(daemon.counter("fault_tag_store") >= CHILDREN, "it is counted as a fault");
    assert!(
        daemon.status()["faults"].as_array().expect("a list").iter().any(|fault| fault == "fault_tag_store")
    );

    // Who cannot be tagged begins no session. The one that has ended has left room.
    let more = FullMap::fill(&tags, NO_PROCESS << 1, TAG_BYTES);
    let trace = daemon.layout().file("trace");
    let touch = ["touch", trace.to_str().expect("the path is text")];
    let outcome = daemon.run(&envelope, &touch).finish(DEADLINE);
    assert!(!outcome.status.success(), "there is no room for it");
    assert!(!trace.exists(), "the command was executed");

    drop((full, more));
    wait_until(DEADLINE, "there is room again", || {
        daemon.run(&envelope, &touch).finish(DEADLINE).status.success().then_some(())
    });
    assert_eq!(finish(start()), [CHILDREN, 0, 0], "released");
    daemon.wait_idle();
}

/// What a daemon, and the kernel for it, have to do with sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Cgroups, files of sessions, cgroups and envelopes in the kernel.
    cgroups: usize,
    files: usize,
    listed: usize,
    tables: usize,
    tags: u64,
}

impl Holdings {
    fn of(daemon: &Daemon) -> Self {
        let layout = daemon.layout();
        let maps = layout.pin_dir.join("maps");
        let status = daemon.status();
        let process = format!("/proc/{}", status["daemon"]["pid"]);
        let count = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
        let directories = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter(|entry| entry.path().is_dir()).count()
        };
        Self {
            descriptors: count(format!("{process}/fd").as_ref()),
            threads: count(format!("{process}/task").as_ref()),
            cgroups: directories(&layout.cgroup_dir()),
            files: count(&layout.state_dir().join("sessions")),
            listed: entries_of(&maps.join("CGROUPS")),
            tables: entries_of(&maps.join("RULES")),
            tags: status["tasks"].as_u64().expect("a number"),
        }
    }
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", daemon.status()["daemon"]["pid"])).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("there is such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sessions of as many agents come and go; each opens a connection, and one in ten is revoked.
#[test]
fn a_thousand_sessions_leave_nothing() {
    /// More would show in the daemon's memory if a session left as little as its id and its envelope.
    const ALLOWED_KIB: u64 = 2048;
    const AT_ONCE: u32 = 4;
    /// The one by which the daemon waits for programs that may still read a table that it takes away.
    const AT_REST_TABLES: usize = 1;
    let sessions = (1000 / slowness()).max(100);
    let pair = Pair::v4("tcp");
    let spec = format!("tcp/{}", pair.allowed.address());
    let daemon = Daemon::start();
    let run = |number: u32| {
        // What a session sent last may leave for a while after its end, at most until it would have expired.
        let envelope = Envelope::of(&format!("agent-{number}"))
            .ttl(&format!("{}s", 10 * slowness()))
            .allow_server("only", &pair.allowed);
        let command = probe(&["net", &unique("many"), &spec]);
        if !number.is_multiple_of(10) {
            daemon.run(&envelope, &command).finish(LOAD_DEADLINE).success();
            return;
        }
        let held = daemon.run(&envelope, &["cat"]);
        let id = daemon.session_id(&format!("agent-{number}"));
        daemon.receipt(&["revoke", "--kill", &id]);
        held.finish(LOAD_DEADLINE);
    };
    let run_all = |numbers: std::ops::Range<u32>| {
        thread::scope(|scope| {
            for first in 0..AT_ONCE {
                let numbers = numbers.clone();
                scope.spawn(move || {
                    numbers.filter(|number| number % AT_ONCE == first).for_each(run);
                });
            }
        });
    };
    // The daemon closes its ends of connections a moment after they are done with.
    let at_rest = |descriptors: usize| {
        daemon.wait_idle();
        wait_until(DEADLINE * slowness(), "nothing is left in the kernel", || {
            let holdings = Holdings::of(&daemon);
            let left = [holdings.cgroups, holdings.files, holdings.listed, holdings.tables];
            (left == [0, 0, 0, AT_REST_TABLES] && holdings.descriptors <= descriptors).then_some(holdings)
        })
    };
    // As many as it takes until the daemon has what it needs.
    run_all(0..100);
    // What it writes down meanwhile is open for moments.
    let fewest = (0..10).map(|_| at_rest(usize::MAX).descriptors).min().expect("there are some");
    let before = (at_rest(fewest), resident_kib(&daemon));
    run_all(100..100 + sessions);
    let after = (at_rest(before.0.descriptors), resident_kib(&daemon));
    say(&format!(
        "after {sessions} sessions: {:?}, {} KiB before and {} KiB after",
        after.0, before.1, after.1
    ));
    assert_eq!(
        Holdings { threads: 0, descriptors: 0, ..after.0 },
        Holdings { threads: 0, descriptors: 0, ..before.0 },
        "threads come and go by themselves; there are no more descriptors"
    );
    assert!(after.1 < before.1 + ALLOWED_KIB, "{} KiB before, {} KiB after", before.1, after.1);
    let ended = daemon.events().iter().filter(|event| event.kind() == "session-ended").count();
    assert_eq!(ended as u32, 100 + sessions);
    assert_eq!(daemon.status()["faults"].as_array().expect("a list").len(), 0);
    assert_eq!(pair.allowed.received("many").len(), 0, "each had a word of its own");
}
