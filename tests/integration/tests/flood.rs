//! A session that is refused as fast as it can be keeps nobody from what they may do, and no record from being written or counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::time::Instant;

use integration::{
    DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Pair, Process, fewer, probe, records_made, say, unique,
    wait_until,
};
use serde_json::Value;

/// What the audit log has of the kernel's records.
#[derive(Default)]
struct Kept {
    /// By CPU: how many, and the sum of their numbers.
    records: BTreeMap<usize, u64>,
    /// By CPU: how many were said to be lost.
    lost: BTreeMap<usize, u64>,
    /// Of the session that acts as usual: allowed and refused.
    quiet: [u64; 2],
}

impl Kept {
    /// Read a line at a time: there are hundreds of megabytes.
    fn read(daemon: &Daemon) -> Self {
        let path = daemon.layout().file("queried");
        let mut query = daemon.layout().command(&["audit", "query", "--format", "json"]);
        let output = File::create(&path).expect("the directory is ours");
        let status = query.stdout(output).status().expect("the enforcer is executable");
        assert!(status.success(), "{status}");
        let mut kept = Self::default();
        for line in BufReader::new(File::open(&path).expect("it was made")).lines() {
            let line = line.expect("it is text");
            let number = |after: &str| {
                let rest = line.split_once(after)?.1;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
            };
            if let Some(cpu) = number("\"record\":{\"cpu\":") {
                *kept.records.entry(cpu as usize).or_default() += 1;
                if line.contains("\"agent\":\"quiet\"") && line.contains("\"kind\":\"egress\"") {
                    kept.quiet[usize::from(line.contains("\"verdict\":\"deny\""))] += 1;
                }
            } else if let Some(cpu) = number("\"lost_records\":{\"cpu\":") {
                *kept.lost.entry(cpu as usize).or_default() += number("\"lost\":").expect("a number");
            }
        }
        kept
    }
}

#[test]
fn a_million_refusals_thin_out_nothing_unseen() {
    let wanted = u64::from(fewer(1_000_000, 20_000));
    let daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut quiet =
        daemon.converse(&Envelope::of("quiet").allow_server("only", &pair.allowed), &unique("quiet"));
    assert!(quiet.attempt(&allowed) && !quiet.attempt(&refused), "control: before");

    let start = Instant::now();
    let flood = daemon.run(&Envelope::of("flood"), &probe(&["verdicts", "1", "127.0.0.1:9"]));
    let mut acts = 1;
    wait_until(LOAD_DEADLINE, "it was refused often enough", || {
        acts += 1;
        assert!(quiet.attempt(&allowed) && !quiet.attempt(&refused), "enforcement is what it was");
        (daemon.counter("refused") >= wanted).then_some(())
    });
    let lines = flood.finish(DEADLINE).success();
    let took = start.elapsed();
    let counts: Value = serde_json::from_str(&lines[0]).expect("the probe's report");
    let [passed, eperm] = [0, 1].map(|at| counts["127.0.0.1:9"][at].as_u64().expect("a number"));
    assert_eq!(passed, 0);
    assert!(eperm >= wanted - acts, "{eperm}");
    acts += 1;
    assert!(quiet.attempt(&allowed) && !quiet.attempt(&refused), "control: after");
    quiet.end();
    daemon.wait_idle();

    let made = records_made(&daemon);
    let all: u64 = made.iter().sum();
    let (kept, lost_in_log) =
        wait_until(LOAD_DEADLINE, "all that the kernel made is written down or said to be lost", || {
            let written = daemon.counter("events_written");
            wait_until(LOAD_DEADLINE, "the audit log has caught up", || {
                let verify = daemon.layout().command(&["audit", "verify", "--format", "json"]);
                let verified = Process::spawn(verify).finish(LOAD_DEADLINE);
                let verified: Value = serde_json::from_str(&verified.stdout.join("")).expect("it is JSON");
                assert_eq!(verified["sound"], true, "{verified}");
                let [events, lost] =
                    ["events", "events_lost"].map(|it| verified[it].as_u64().expect("a number"));
                (events + lost >= written).then_some(())
            });
            let kept = Kept::read(&daemon);
            let sum: u64 = kept.records.values().chain(kept.lost.values()).sum();
            let lost_in_log = daemon.counter("fault_audit_lost");
            (sum + lost_in_log >= all).then_some((kept, lost_in_log))
        });
    let lost: u64 = kept.lost.values().sum();
    let lost_in_kernel = daemon.counter("fault_record_lost");
    assert!(lost <= lost_in_kernel, "what the kernel lost is said once: {lost} of {lost_in_kernel}");
    // Where the log could not take everything, what is missing in it may be lines that say so.
    if lost_in_log == 0 {
        assert_eq!(lost, lost_in_kernel, "what the kernel lost is said");
        for (cpu, made) in made.iter().enumerate().filter(|(_, made)| **made > 0) {
            let of = |counts: &BTreeMap<usize, u64>| counts.get(&cpu).copied().unwrap_or(0);
            assert_eq!(
                of(&kept.records) + of(&kept.lost),
                *made,
                "CPU {cpu}: written and lost is what was made"
            );
        }
    }
    let [there, missing] = [kept.quiet.iter().sum::<u64>(), 2 * acts - kept.quiet.iter().sum::<u64>()];
    assert!(
        missing <= lost + lost_in_log,
        "{missing} of the other session's are missing, {lost} were said to be lost"
    );
    say(&format!(
        "flood: {eperm} refusals in {took:.1?}, {:.0} a second; {all} records made, {lost} lost in the kernel and \
         {lost_in_log} on the way to the audit log, all said; of another session's {} records {there} are there",
        eperm as f64 / took.as_secs_f64(),
        2 * acts,
    ));
}
