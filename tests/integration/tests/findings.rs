//! What the daemon finds in the events, and what becomes of a session for it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use integration::{
    DEADLINE, Daemon, Envelope, Event, Holder, Layout, Server, Tool, is_to_be_frozen, scaled, wait_until,
};
use serde_json::Value;

/// A daemon with these detections.
fn daemon(spec: &str) -> (Daemon, [String; 2]) {
    let layout = Layout::new();
    let path = layout.file("detections.yaml");
    let text = format!("apiVersion: enforcer/v1\nkind: Detections\nspec: {{{spec}}}\n");
    fs::write(&path, text).expect("the directory is ours");
    let options = ["--detections".to_owned(), path.display().to_string()];
    (Daemon::start_with(layout, &options.each_ref().map(String::as_str)), options)
}

fn restart(daemon: &mut Daemon, options: &[String; 2]) {
    daemon.restart_with(&options.each_ref().map(String::as_str));
}

fn envelope(agent: &str) -> Envelope {
    Envelope::of(agent).allow("here", "127.0.0.10/32", "any", "any")
}

fn udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.10:0").expect("a port is free");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

/// No rule has it.
const REFUSED: &str = "127.0.0.20:9";

fn is_finding(event: &Event, detection: &str, agent: &str) -> bool {
    let found = event.find("/finding/detection").is_some_and(|found| found == detection);
    event.kind() == "finding" && found && event.is_of(agent)
}

/// The findings of this detection about an agent; waits until there are so many.
#[track_caller]
fn findings(daemon: &Daemon, count: usize, detection: &str, agent: &str) -> Vec<Event> {
    let what = format!("{count} {detection} of {agent}");
    daemon.wait_for_events(count, &what, |event| is_finding(event, detection, agent))
}

/// The sequences that a finding names.
#[track_caller]
fn evidence(finding: &Event) -> Vec<u64> {
    let evidence = finding.at("/finding/evidence").as_array().expect("a list");
    evidence.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect()
}

/// The sequences of the events that fit.
fn sequences(daemon: &Daemon, fits: impl Fn(&Event) -> bool) -> Vec<u64> {
    let events = daemon.events();
    let fitting = events.iter().filter(|event| fits(event));
    fitting.map(|event| event.at("/sequence").as_u64().expect("a number")).collect()
}

#[track_caller]
fn count(finding: &Event) -> u64 {
    finding.at("/finding/count").as_u64().expect("a number")
}

fn state(daemon: &Daemon, agent: &str) -> Value {
    daemon.session(agent).expect("it runs")["state"].clone()
}

/// Lets its processes go on, though the session stays what it is.
fn thaw(daemon: &Daemon, agent: &str) {
    fs::write(daemon.session_cgroup(agent).join("cgroup.freeze"), "0").expect("root may");
}

#[test]
fn a_burst_of_refusals_is_one_finding_and_stops_whoever_is_to_be_stopped() {
    const REFUSALS: u64 = 10;
    let within = scaled(Duration::from_secs(60)).as_secs();
    let (daemon, _) = daemon(&format!("refusalBurst: {{refusals: {REFUSALS}, within: {within}s}}"));
    let (_server, address) = udp();
    let mut suspect = daemon.hold(&envelope("suspect").quarantine_on_finding());
    let mut control = daemon.hold(&envelope("control"));
    for inside in [&mut suspect, &mut control] {
        inside.must("open u udp4");
        inside.must(&format!("connect u {address}"));
        for _ in 1..REFUSALS {
            inside.must_fail(&format!("connect u {REFUSED}"), &[libc::EPERM]);
        }
    }
    let denies = |agent: &'static str| move |event: &Event| event.is_of(agent) && event.is_deny();
    for agent in ["suspect", "control"] {
        daemon.wait_for_events(REFUSALS as usize - 1, "the refusals", denies(agent));
        assert_eq!(state(&daemon, agent), "active", "one less than it takes");
    }
    assert!(!daemon.events().iter().any(|event| event.kind() == "finding"));

    // It may be in quarantine, and stand still, before it can say that it was refused.
    for inside in [&mut suspect, &mut control] {
        inside.begin(&format!("connect u {REFUSED}"));
    }
    for agent in ["suspect", "control"] {
        let found = findings(&daemon, 1, "refusal-burst", agent);
        assert_eq!((found.len(), count(&found[0])), (1, REFUSALS));
        assert_eq!(evidence(&found[0]), sequences(&daemon, denies(agent)), "these and no others");
        assert!(found[0].text("/finding/title").contains("10 refusals"));
        assert_eq!(found[0].at("/process/comm"), "probe");
    }
    wait_until(DEADLINE, "it is in quarantine", || {
        (state(&daemon, "suspect") == "quarantined").then_some(())
    });
    let of = |event: &Event| event.kind() == "session-quarantined";
    let quarantined = daemon.wait_for_events(1, "the quarantine", of);
    let number = sequences(&daemon, |event| is_finding(event, "refusal-burst", "suspect"))[0];
    let why = quarantined[0].text("/detail");
    assert!(why.contains("refusal-burst") && why.contains(&format!("event {number}")), "{why}");
    assert_eq!(quarantined.len(), 1);
    assert!(is_to_be_frozen(&daemon.session_cgroup("suspect")));
    thaw(&daemon, "suspect");
    for inside in [&mut suspect, &mut control] {
        assert_eq!(inside.answer().errno, libc::EPERM);
    }
    suspect.must_fail(&format!("connect u {address}"), &[libc::EPERM]);
    // The control goes on, whatever it is refused.
    control.must(&format!("connect u {address}"));
    assert_eq!(state(&daemon, "control"), "active");
    for _ in 0..20 {
        control.must_fail(&format!("connect u {REFUSED}"), &[libc::EPERM]);
    }
    control.end();
    let found = findings(&daemon, 2, "refusal-burst", "control");
    assert_eq!((found.len(), found[1].text("/finding/state"), count(&found[1])), (2, "over", REFUSALS + 20));
    assert_eq!(found[0].at("/finding/id"), found[1].at("/finding/id"));
    assert_eq!(daemon.status()["findings"]["refusal-burst"], 2, "of two sessions");

    // Lifted, it goes on.
    daemon.layout().outcome(&["quarantine", "--lift", &daemon.session_id("suspect")]).success();
    suspect.must(&format!("connect u {address}"));
    suspect.end();
}

/// What others send to a session is refused as often, and is not its doing.
#[test]
fn nobody_else_brings_a_session_into_quarantine() {
    let (daemon, _) = daemon("refusalBurst: {refusals: 5, within: 60s}");
    let at = udp().1;
    let envelope = envelope("target").listen("front", "127.0.0.1/32", &at.port().to_string(), "udp");
    let mut inside = daemon.hold(&envelope.quarantine_on_finding());
    inside.must("open u udp4");
    inside.must(&format!("bind u {at}"));
    for _ in 0..50 {
        let outsider = UdpSocket::bind("127.0.0.30:0").expect("a port is free");
        outsider.send_to(b"x", at).expect("it leaves");
    }
    let refused = |event: &Event| event.is_of("target") && event.is_deny() && event.is_refused();
    daemon.wait_for_events(10, "packets are refused", refused);
    inside.must("open v udp4");
    assert_eq!(state(&daemon, "target"), "active");
    // Control: what it does itself is.
    for _ in 0..4 {
        inside.must_fail(&format!("connect v {REFUSED}"), &[libc::EPERM]);
    }
    // It stands still, perhaps before it has the answer.
    inside.begin(&format!("connect v {REFUSED}"));
    wait_until(DEADLINE, "it is in quarantine", || (state(&daemon, "target") == "quarantined").then_some(()));
    daemon.kill_sessions();
}

#[test]
fn what_is_new_for_an_agent_is_found_after_a_restart_as_well() {
    let (mut daemon, options) = daemon("learning: {sessions: 1, time: 0s}");
    let tool = |name: &str| Tool::at(daemon.layout().file(name));
    let (known, new) = (tool("known"), tool("new"));
    let [one, two] = [(); 2].map(|()| Server::start("udp", "127.0.0.10"));
    let (first, second) = (one.address(), two.address());
    let run = |daemon: &Daemon, tool: &Tool, to: SocketAddr| {
        assert!(tool.reaches(daemon, &envelope("learner"), "magic", &format!("udp-connect/{to}")));
        daemon.wait_idle();
    };
    run(&daemon, &known, first);
    daemon.stop();
    restart(&mut daemon, &options);
    let started = daemon.wait_for_events(2, "it is started", |event| event.kind() == "daemon-started");
    assert!(started[1].text("/detail").ends_with("baselines of 1 agents"), "{}", started[1].text("/detail"));
    run(&daemon, &known, first);
    assert!(!daemon.events().iter().any(|event| event.kind() == "finding"), "it is known");

    run(&daemon, &new, second);
    let [executable] = &findings(&daemon, 1, "new-executable", "learner")[..] else { panic!("one") };
    assert_eq!(executable.at("/finding/subject"), new.text());
    let is_exec =
        |event: &Event| event.kind() == "exec" && event.find("/process/path") == Some(&new.text().into());
    assert_eq!(evidence(executable), sequences(&daemon, is_exec));
    let [destination] = &findings(&daemon, 1, "new-destination", "learner")[..] else { panic!("one") };
    assert_eq!(destination.text("/finding/subject"), format!("udp {second}"));
    run(&daemon, &new, second);
    // What is killed has written down what it learned some moments ago.
    let file = daemon.layout().state_dir().join("baselines/learner.baseline");
    let holds =
        || fs::read_to_string(&file).is_ok_and(|text| text.contains(&second.to_string())).then_some(());
    wait_until(DEADLINE, "it is written down", holds);
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    daemon.kill9();
    restart(&mut daemon, &options);
    run(&daemon, &new, second);
    for detection in ["new-executable", "new-destination"] {
        assert_eq!(findings(&daemon, 1, detection, "learner").len(), 1, "it is told of once");
    }
}

/// A baseline that somebody changed or removed is learned anew, and that is a finding.
#[test]
fn a_baseline_that_was_tampered_with_is_said() {
    let (mut daemon, options) = daemon("learning: {sessions: 1, time: 0s}");
    let run = |daemon: &Daemon, agent: &str| {
        daemon.run(&envelope(agent), &["true"]).finish(DEADLINE).success();
        daemon.wait_idle();
    };
    run(&daemon, "changed");
    run(&daemon, "removed");
    run(&daemon, "kept");
    let ended = |event: &Event| event.kind() == "session-ended";
    daemon.wait_for_events(3, "they have ended", ended);
    daemon.stop();
    let file = |agent: &str| -> PathBuf {
        daemon.layout().state_dir().join("baselines").join(format!("{agent}.baseline"))
    };
    let text = fs::read_to_string(file("changed")).expect("it was written down");
    fs::write(file("changed"), text.replace("\"sessions\":1", "\"sessions\":9")).expect("it is ours");
    fs::remove_file(file("removed")).expect("it is ours");
    restart(&mut daemon, &options);
    let signs = daemon.wait_for_events(2, "the signs", |event| event.kind() == "tamper-sign");
    let said: BTreeSet<&str> = signs.iter().map(|sign| sign.text("/detail")).collect();
    assert!(said.iter().any(|said| said.contains("`changed` was changed")), "{said:?}");
    assert!(said.iter().any(|said| said.contains("`removed` is gone")), "{said:?}");
    assert_eq!(signs.len(), 2);
    let is_tamper = |event: &Event| event.find("/finding/detection").is_some_and(|it| it == "tamper-sign");
    let found = daemon.wait_for_events(1, "the finding", is_tamper);
    assert_eq!(evidence(&found[0]), sequences(&daemon, |event| event.kind() == "tamper-sign")[..1]);
    // Learned anew, nothing is new; what was kept, is.
    for agent in ["changed", "removed", "kept"] {
        daemon.run(&envelope(agent), &["false"]).finish(DEADLINE);
    }
    findings(&daemon, 1, "new-executable", "kept");
    daemon.wait_idle();
    daemon.wait_for_events(6, "they have ended", ended);
    let new = daemon.events();
    let new =
        new.iter().filter(|event| event.find("/finding/detection").is_some_and(|it| it == "new-executable"));
    assert_eq!(new.map(Event::agent).collect::<BTreeSet<_>>(), BTreeSet::from([Some("kept")]));
}

#[test]
fn each_limit_is_told_of_once() {
    let (daemon, _) = daemon("");
    let (_server, address) = udp();
    let limited = envelope("limited").limit("connections", 2).limit("connectionRate", "100/s");
    let mut inside = daemon.hold(&limited.quarantine_on_finding());
    inside.must("open u udp4");
    for _ in 0..2 {
        inside.must(&format!("connect u {address}"));
    }
    for _ in 0..5 {
        inside.must_fail(&format!("connect u {address}"), &[libc::EPERM]);
    }
    let refused = |event: &Event| event.is_of("limited") && event.is_deny();
    let denies = daemon.wait_for_events(5, "the refusals", refused);
    let found = findings(&daemon, 1, "limit-reached", "limited");
    assert_eq!((found.len(), found[0].text("/finding/subject")), (1, "connections"));
    assert_eq!(evidence(&found[0]), [denies[0].at("/sequence").as_u64().expect("a number")]);
    assert_eq!(state(&daemon, "limited"), "active", "a limit is no reason for a quarantine");
    inside.end();
    let mut inside: Holder = daemon.hold(&envelope("rated").limit("connectionRate", "1/h"));
    inside.must("open u udp4");
    inside.must(&format!("connect u {address}"));
    inside.must_fail(&format!("connect u {address}"), &[libc::EPERM]);
    let found = findings(&daemon, 1, "limit-reached", "rated");
    assert_eq!(found[0].text("/finding/subject"), "connectionRate");
    inside.end();
}

#[test]
fn a_sign_of_an_escape_is_a_finding() {
    let (daemon, _) = daemon("");
    let mut inside = daemon.hold(&envelope("escaping").quarantine_on_finding());
    let home = daemon.session_cgroup("escaping").join("cgroup.procs");
    let root = daemon.layout().cgroup_dir().parent().expect("below the root").to_owned();
    fs::write(root.join("cgroup.procs"), inside.pid().to_string()).expect("it can be moved");
    inside.must("open s udp4");
    inside.must_fail(&format!("connect s {REFUSED}"), &[libc::EPERM]);
    let found = findings(&daemon, 1, "escape-sign", "escaping");
    assert_eq!(found.len(), 1);
    assert_eq!(evidence(&found[0]), sequences(&daemon, |event| event.kind() == "escape-sign"));
    assert_eq!(found[0].pid(), Some(inside.pid()));
    wait_until(DEADLINE, "it is in quarantine", || {
        (state(&daemon, "escaping") == "quarantined").then_some(())
    });
    fs::write(home, inside.pid().to_string()).expect("it can be moved");
    daemon.kill_sessions();
}

/// A daemon that finds nothing begins no session of which it would have to put one in quarantine; and says what is wrong with its settings.
#[test]
fn what_cannot_be_found_is_not_promised() {
    let off = ["refusalBurst", "newExecutable", "newDestination", "escapeSign", "tamperSign"]
        .map(|detection| format!("{detection}: {{enabled: false}}"));
    let (mut daemon, [option, path]) = daemon(&off.join(", "));
    let run = |envelope: &Envelope| daemon.run(envelope, &["true"]).finish(DEADLINE);
    assert!(run(&envelope("plain")).status.success());
    let refused = run(&envelope("strict").quarantine_on_finding());
    assert!(!refused.status.success() && refused.stderr.contains("onFinding"), "{}", refused.stderr);
    daemon.stop();
    fs::write(&path, "apiVersion: enforcer/v1\nkind: Detections\nspec:\n  refusalBursts: {}\n")
        .expect("it is ours");
    let failed = daemon.layout().outcome(&["daemon", &option, &path]);
    assert!(!failed.status.success(), "{}", failed.stderr);
    for part in ["take the detections from", "refusalBursts", "line 4"] {
        assert!(failed.stderr.contains(part), "{}", failed.stderr);
    }
    daemon.restart();
}

/// A session below another may have any name: what it does is compared with what the agent at the top has done, and it is no milder.
#[test]
fn what_is_handed_on_is_held_to_the_same() {
    let (mut daemon, _) = daemon("");
    let enforcer = integration::enforcer_path().display().to_string();
    let below = |outer: &Envelope, inner: Envelope| {
        let path = daemon.layout().write_envelope(inner).display().to_string();
        daemon.run(outer, &[enforcer.as_str(), "run", "--envelope", &path, "--", "true"]).finish(DEADLINE)
    };
    assert!(below(&envelope("outer"), envelope("another")).status.success());
    let strict = envelope("outer").quarantine_on_finding();
    let refused = below(&strict, envelope("milder"));
    assert!(!refused.status.success() && refused.stderr.contains("onFinding"), "{}", refused.stderr);
    assert!(below(&strict, envelope("as-strict").quarantine_on_finding()).status.success());
    daemon.wait_idle();
    daemon.stop();
    let files = fs::read_dir(daemon.layout().state_dir().join("baselines")).expect("it is there");
    let names: BTreeSet<_> = files.map(|file| file.expect("it is readable").file_name()).collect();
    assert_eq!(names, ["list", "outer.baseline"].map(Into::into).into());
    daemon.restart();
}
