//! Records that cannot be kept are counted, to the last one; what they would have said is enforced all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use integration::{
    DEADLINE, Daemon, Envelope, Event, LOAD_DEADLINE, Server, fewer, probe, records_made, say, scaled,
    totals, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Three records each (fork, deny, exit): more than the kernel's buffer holds.
const CHILDREN: u64 = 30_000;

#[test]
fn full_buffer_changes_no_verdict_and_is_reported() {
    let server = Server::start("udp", "127.0.0.20");
    let mut daemon = Daemon::start();
    let work = probe(&["quick-forks", &CHILDREN.to_string(), &server.address().to_string()]);
    let wait_and_work = ["sh", "-c", "read line; exec \"$@\"", "sh"].map(str::to_owned);
    let mut process = daemon.run(&Envelope::of("flood"), &[&wait_and_work[..], &work].concat());
    daemon.wait_for_events(1, "the first exec is written down", |event| {
        event.is_of("flood") && event.kind() == "exec"
    });

    // Nobody reads the records.
    daemon.kill9();
    process.write_line("go");
    let lines = process.finish(LOAD_DEADLINE).success();
    let count = totals(&lines[0]);
    assert_eq!([count("succeeded"), count("other"), count("refused")], [0, 0, CHILDREN]);
    daemon.restart();

    let reported = |events: &[Event]| -> u64 {
        let lost = events.iter().filter(|event| event.kind() == "records-lost");
        lost.map(|event| event.at("/lost").as_u64().expect("a number")).sum()
    };
    let lost = daemon.counter("fault_record_lost");
    assert!(lost > 0, "the buffer was full");
    assert_eq!(daemon.counter("refused"), CHILDREN);
    wait_until(DEADLINE, "the loss is recorded", || (reported(&daemon.events()) >= lost).then_some(()));
    assert_eq!(reported(&daemon.events()), lost, "once");

    // Each record is there or counted. Beside three per child: two execs and the end of the first process.
    let from_kernel = ["egress", "fork", "exec", "exit"];
    let is_record = |event: &Event| from_kernel.contains(&event.kind());
    let expect = 3 * CHILDREN + 3 - lost;
    let found = daemon.wait_for_events(expect as usize, "what was not lost is written down", is_record);
    assert_eq!(found.len() as u64, expect);
    each_number_is_there_or_lost(&daemon.events());
    // The session is over, though nobody saw its processes end.
    wait_until(DEADLINE, "the session is gone", || daemon.session("flood").is_none().then_some(()));
    daemon.wait_idle();
}

/// The kernel numbers what each CPU makes: what is missing among these is what was said to be lost, and between the times that were said.
#[track_caller]
fn each_number_is_there_or_lost(events: &[Event]) {
    let number = |event: &Event, pointer: &str| event.find(pointer).and_then(serde_json::Value::as_u64);
    let mut cpus: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for event in events {
        if let Some(cpu) = number(event, "/record/cpu") {
            let sequence = number(event, "/record/sequence").expect("a number");
            assert!(cpus.entry(cpu).or_default().insert(sequence), "{sequence} of CPU {cpu} is there twice");
        }
    }
    for (cpu, there) in cpus {
        let losses: Vec<&Event> =
            events.iter().filter(|event| number(event, "/lost_records/cpu") == Some(cpu)).collect();
        for unwritten in losses.iter().filter(|event| event.find("/lost_records/numbers").is_some()) {
            let [first, last] = ["/lost_records/numbers/0", "/lost_records/numbers/1"]
                .map(|at| number(unwritten, at).expect("a number"));
            assert_eq!(there.range(first..=last).next(), None, "written down after all: {unwritten:?}");
        }
        let lost: u64 = losses.iter().filter_map(|event| number(event, "/lost")).sum();
        let made = there.len() as u64 + lost;
        let last = *there.last().expect("there is one");
        assert!(last < made, "CPU {cpu}: number {last}, of {made} that are there or lost");
        let mut before = 0;
        for loss in losses.iter().filter(|event| event.find("/lost_records/numbers").is_none()) {
            assert_eq!(number(loss, "/lost_records/before"), Some(before), "{loss:?}");
            before += number(loss, "/lost").expect("a number");
            assert!(loss.text("/lost_records/after") < loss.text("/lost_records/until"), "{loss:?}");
        }
    }
}

/// What a killed daemon has taken from the kernel and not written down is missing, and the next one says so: to the last record.
#[test]
fn what_a_killed_daemon_had_taken_is_said() {
    let backlog: u64 = fewer(2_000, 300).into();
    let server = Server::start("udp", "127.0.0.20");
    let mut daemon = Daemon::start();
    let work = probe(&["quick-forks", &backlog.to_string(), &server.address().to_string()]);
    let wait_and_work = ["sh", "-c", "read line; exec \"$@\"", "sh"].map(str::to_owned);
    let work = [&wait_and_work[..], &work].concat();
    let missing =
        |events: &[Event]| -> u64 { events.iter().filter_map(|event| event.find("/lost")?.as_u64()).sum() };
    let mut rounds = 0;
    // Until it was killed at work, mostly at once; the files hold what is made in eight rounds.
    while rounds < 3 || rounds < 8 && missing(&daemon.events()) == 0 {
        rounds += 1;
        let agent = format!("forking-{rounds}");
        let mut process = daemon.run(&Envelope::of(&agent), &work);
        daemon.wait_for_events(1, "it waits", |event| event.is_of(&agent) && event.kind() == "exec");
        let pid = Pid::from_raw(daemon.pid());
        let made = || records_made(&daemon).iter().sum::<u64>();
        let before = made();
        // It takes what has come meanwhile, and is killed while it does.
        kill(pid, Signal::SIGSTOP).expect("it runs");
        process.write_line("go");
        wait_until(LOAD_DEADLINE, "records wait", || (made() > before + backlog).then_some(()));
        let size = || fs::metadata(daemon.layout().state_dir().join("events.jsonl")).map_or(0, |it| it.len());
        let idle = size();
        kill(pid, Signal::SIGCONT).expect("it is there");
        wait_until(DEADLINE, "it is at work", || (size() != idle).then_some(()));
        let end = Instant::now() + scaled(Duration::from_millis(2)) * (rounds - 1) as u32;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        daemon.kill9();
        daemon.restart();
        process.finish(LOAD_DEADLINE).success();
        wait_until(DEADLINE, "the session is gone", || daemon.session(&agent).is_none().then_some(()));
    }
    let made: u64 = records_made(&daemon).iter().sum();
    let told = |daemon: &Daemon| {
        let events = daemon.events();
        let there = events.iter().filter(|event| event.find("/record").is_some()).count() as u64;
        let lost = missing(&events);
        (events, there, lost)
    };
    let (events, _, lost) = wait_until(DEADLINE, "each record is there or said to be missing", || {
        let told = told(&daemon);
        (told.1 + told.2 >= made).then_some(told)
    });
    each_number_is_there_or_lost(&events);
    assert!(lost > 0, "no kill came while it was at work");
    say(&format!("{made} records, {lost} of them said to be missing after {rounds} kills"));
    // And by nobody else again.
    daemon.stop();
    daemon.restart();
    daemon.run(&Envelope::of("last"), &["true"]).finish(DEADLINE).success();
    daemon.wait_for_events(1, "it ends", |event| event.kind() == "session-ended" && event.is_of("last"));
    assert_eq!(told(&daemon).2, lost);
}
