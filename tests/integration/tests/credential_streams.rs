//! Streams of credentials end with their session, and with the one above it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use integration::{Daemon, Envelope, Event, LOAD_DEADLINE, Process, enforcer_path, slowness, spiffe_client};

/// How soon a stream ends with its session, in one of so many attempts: before the daemon looks, once a second, at what no record tells it.
const AT_ONCE: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 3;

/// Makes attempts until one takes no longer than it may; a machine that stands still for a moment is not in each of them.
#[track_caller]
fn expect_at_once(attempt: impl Fn(usize) -> Duration) {
    let mut late = Vec::new();
    while late.len() < ATTEMPTS {
        let took = attempt(late.len());
        if took <= AT_ONCE || slowness() > 1 {
            return;
        }
        late.push(took);
    }
    panic!("the streams ended so late, time after time: {late:?}");
}

#[test]
fn streams_end_with_their_session_and_no_more_is_issued() {
    let daemon = Daemon::start();
    let hold = |agent: &str, ttl: &str| {
        let mut process = daemon.run(&Envelope::of(agent).ttl(ttl), &spiffe_client(&["hold"]));
        for _ in 0..3 {
            let line = process.read_line(LOAD_DEADLINE);
            assert!(line.starts_with("open "), "{line}");
        }
        process
    };
    let ended = |process: &mut Process, why: &str| {
        let began = Instant::now();
        for _ in 0..3 {
            let line = process.read_line(LOAD_DEADLINE);
            assert!(
                line.starts_with("ended ") && line.ends_with(&format!("PERMISSION_DENIED: {why}")),
                "{line}"
            );
        }
        let took = began.elapsed();
        let again = process.read_line(LOAD_DEADLINE);
        assert_eq!(again, format!("again PERMISSION_DENIED: {why}"));
        took
    };
    let mut neighbour = hold("neighbour", "10m");

    expect_at_once(|attempt| {
        let agent = format!("revoked-{attempt}");
        let mut revoked = hold(&agent, "10m");
        daemon.receipt(&["revoke", &daemon.session_id(&agent)]);
        ended(&mut revoked, "the session is revoked")
    });
    let refused = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "request-refused");
    assert!(refused[0].text("/detail").contains("the session is revoked"), "{refused:?}");

    // The daemon ends them while the processes stand still; they see it when they go on. By then it may have more.
    let mut frozen = hold("frozen", "10m");
    let id = daemon.session_id("frozen");
    daemon.receipt(&["quarantine", &id]);
    daemon.layout().outcome(&["quarantine", &id, "--lift"]).success();
    for _ in 0..3 {
        let line = frozen.read_line(LOAD_DEADLINE);
        assert!(line.starts_with("ended ") && line.ends_with("the session is in quarantine"), "{line}");
    }
    assert_eq!(frozen.read_line(LOAD_DEADLINE), "again nothing was refused");

    let mut expired = hold("expired", if slowness() > 1 { "120s" } else { "30s" });
    ended(&mut expired, "the session is expired");

    neighbour.write_line("");
    assert!(!neighbour.has_ended(), "the neighbour's go on");
}

/// What a session has from another, it has no longer than that: its streams end with the session above it.
#[test]
fn streams_of_a_sub_session_end_with_the_one_above_it() {
    let daemon = Daemon::start();
    // The one above goes on beside it.
    let hold = |above: &str, below: &str| {
        let envelope = daemon.layout().write_envelope(Envelope::of(below)).display().to_string();
        let enforcer = enforcer_path().display().to_string();
        let head = ["sh", "-c", "\"$@\"; exit", "sh", &enforcer, "run", "--envelope", &envelope, "--"];
        let command = [head.map(str::to_owned).to_vec(), spiffe_client(&["hold"])].concat();
        let mut process = daemon.run(&Envelope::of(above), &command);
        let opened: BTreeSet<String> = (0..3).map(|_| process.read_line(LOAD_DEADLINE)).collect();
        assert!(opened.iter().all(|line| line.starts_with("open ")), "{opened:?}");
        process
    };
    let mut kept = hold("above-kept", "below-kept");
    expect_at_once(|attempt| {
        let [above_name, below] = ["above", "below"].map(|name| format!("{name}-{attempt}"));
        let mut cut = hold(&above_name, &below);
        let above = daemon.session(&above_name).expect("it runs");
        let id = above["id"].as_str().expect("an id");
        assert_eq!(
            above["processes"].as_array().map(Vec::len),
            Some(1),
            "the one above has a process: {above}"
        );
        // Control: the sub-session got what it asked for, as itself.
        let is_issued = |event: &Event| event.kind() == "credential-issued" && event.is_of(&below);
        let issued = daemon.wait_for_events(2, "an X509-SVID and a WIT-SVID", is_issued);
        let itself = format!("/agent/{above_name}/{below}");
        let as_itself = |event: &Event| event.text("/detail").contains(&itself);
        assert!(issued.iter().all(as_itself), "below those above it, whatever it calls itself: {issued:?}");
        assert_eq!(issued[0].text("/session/parent"), id);
        assert!(!cut.has_ended());

        daemon.receipt(&["revoke", id]);
        let began = Instant::now();
        for _ in 0..3 {
            let line = cut.read_line(LOAD_DEADLINE);
            assert!(
                line.starts_with("ended ") && line.ends_with("PERMISSION_DENIED: the session is revoked"),
                "{line}"
            );
        }
        let took = began.elapsed();
        assert_eq!(cut.read_line(LOAD_DEADLINE), "again PERMISSION_DENIED: the session is revoked");
        let again = daemon.events().iter().filter(|event| is_issued(event)).count();
        assert_eq!(again, issued.len(), "nothing more is issued");
        took
    });

    kept.write_line("");
    assert!(!kept.has_ended(), "those of a neighbour go on");
    assert_eq!(daemon.session("below-kept").expect("it runs")["state"], "active");
}
