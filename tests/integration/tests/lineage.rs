//! However a process comes to be, it is of its session and no other.

use integration::{
    Attempt, Daemon, Envelope, Event, LOAD_DEADLINE, Pair, attempts, probe, run_outside, unique,
};

const SHAPES: &[&str] = &[
    "plain",
    "fork",
    "deep-fork",
    "vfork",
    "clone3",
    "clone-parent",
    "posix-spawn",
    "thread",
    "fork-of-thread",
    "double-fork-setsid",
    "exec-of-thread",
    "leader-exits",
    "pid-namespace",
];

#[test]
fn every_shape_of_process_keeps_its_session() {
    let pair = Pair::v4("tcp");
    let control = |phase: &str| {
        for shape in SHAPES {
            let (magic, command) = shape_command(phase, shape, &pair);
            let [allowed, refused] = both(shape, attempts(&run_outside(&command)));
            assert!(allowed.succeeded() && refused.succeeded(), "{phase}: {shape}");
            assert_eq!(pair.refused.received(&magic), [refused.label], "{phase}");
        }
    };
    control("control");

    let mut daemon = Daemon::start();
    for shape in SHAPES {
        check_shape(&daemon, shape, &pair);
    }
    daemon.wait_idle();
    assert_eq!(daemon.counter("fault_tag_store"), 0);
    assert_eq!(daemon.counter("fault_no_session"), 0);
    assert_eq!(daemon.counter("tags_made"), daemon.counter("tags_removed"));
    control("beside");
    daemon.teardown();
    control("released");
}

fn check_shape(daemon: &Daemon, shape: &str, pair: &Pair) {
    let envelope = Envelope::of(shape).allow_server("only", &pair.allowed);
    let (magic, command) = shape_command("enrolled", shape, pair);
    let process = daemon.run(&envelope, &command);
    let root = process.pid();
    let [allowed, refused] = both(shape, attempts(&process.finish(LOAD_DEADLINE).success()));
    assert!(allowed.succeeded(), "{shape}: the allowed address is reached");
    assert!(!refused.succeeded(), "{shape}: the refused address is not");
    assert_eq!(pair.allowed.received(&magic), [allowed.label.as_str()]);
    assert_eq!(pair.refused.received(&magic), [""; 0], "{shape}");

    assert_eq!(refused.chain[0], root, "{shape}: `run` becomes the program");
    let events = daemon.wait_for_events(1, &format!("{shape}: the deny is recorded"), |event| {
        event.is_of(shape) && event.is_deny()
    });
    let [event] = &events[..] else { panic!("{shape}: more than one deny: {events:?}") };
    assert_eq!(event.lineage(), refused.chain, "{shape}");
    assert_eq!(event.pid(), refused.chain.last().copied(), "{shape}");
    assert_eq!(event.text("/reason"), "no-rule", "{shape}");
    assert_eq!(event.decision().destination, pair.refused.address().to_string(), "{shape}");
    // The same session is named by all of its events.
    let ids: Vec<String> = daemon
        .events()
        .iter()
        .filter(|event| event.is_of(shape))
        .map(|event| event.text("/session/id").to_owned())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{shape}: {ids:?}");
}

/// Another tgid with the same session is recorded as it comes and goes.
#[test]
fn forks_execs_and_exits_are_recorded() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let (_, command) = shape_command("enrolled", "posix-spawn", &pair);
    let envelope = Envelope::of("spawn").allow_server("only", &pair.allowed);
    let lines = daemon.run(&envelope, &command).finish(LOAD_DEADLINE).success();
    let [allowed, _] = both("posix-spawn", attempts(&lines));
    let [root, child] = allowed.chain[..] else { panic!("one child: {:?}", allowed.chain) };
    let of = |kind: &'static str, pid: i32| {
        move |event: &Event| event.is_of("spawn") && event.kind() == kind && event.pid() == Some(pid)
    };
    for (kind, pid) in [("exec", root), ("exec", child), ("exit", child), ("exit", root)] {
        daemon.wait_for_events(1, &format!("{kind} of {pid}"), of(kind, pid));
    }
    daemon.wait_for_events(1, "the fork", |event| event.is_of("spawn") && event.kind() == "fork");
    for kind in ["session-started", "session-ended"] {
        daemon.wait_for_events(1, kind, |event| event.is_of("spawn") && event.kind() == kind);
    }
}

/// A process that no session made is untouched, and unrecorded, while sessions are active.
#[test]
fn process_outside_any_session_is_untouched() {
    let (tcp, udp) = (Pair::v4("tcp"), Pair::v6("udp"));
    let daemon = Daemon::start();
    // A session that may reach nothing at all, for as long as this test runs.
    let inside = daemon.run(&Envelope::of("nothing"), &["cat"]);
    daemon.session_id("nothing");
    let specs = [
        format!("tcp/{}", tcp.refused.address()),
        format!("udp-sendto/{}", udp.refused.address()),
        format!("udp-connect/{}", udp.refused.address()),
        "socket/raw4".to_owned(),
        "socket/mptcp4".to_owned(),
    ];
    let command = probe(&[&["net".into(), unique("outside")], &specs[..]].concat());
    for attempt in attempts(&run_outside(&command)) {
        assert!(attempt.succeeded(), "{}", attempt.label);
    }
    inside.finish(LOAD_DEADLINE).success();
    daemon.wait_for_events(1, "the session is over", |event| event.kind() == "session-ended");
    let egress = daemon.events().iter().filter(|event| event.kind() == "egress").count();
    assert_eq!(egress, 0, "nobody in a session has done anything");
    assert_eq!(["allowed", "refused", "audited"].map(|name| daemon.counter(name)), [0, 0, 0]);
}

/// The probe's magic and its command line.
fn shape_command(phase: &str, shape: &str, pair: &Pair) -> (String, Vec<String>) {
    let magic = unique(phase);
    let [allowed, refused] = pair.arguments();
    let command = probe(&["shape", shape, &magic, &allowed, &refused]);
    (magic, command)
}

fn both(shape: &str, attempts: Vec<Attempt>) -> [Attempt; 2] {
    let attempts: [Attempt; 2] = attempts.try_into().unwrap_or_else(|all| panic!("{shape}: {all:?}"));
    assert_eq!(
        attempts.each_ref().map(|attempt| attempt.label.as_str()),
        [format!("{shape}/allowed"), format!("{shape}/refused")]
    );
    attempts
}
