//! A session hands on a part of what it may do: never more than it has, and only for as long as it has it.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use integration::{DEADLINE, Daemon, Envelope, Holder, Process, enforcer_path, wait_until};
use serde_json::Value;

/// Where sessions may go, and where only the outermost may.
const BOTH: &str = "127.0.0.10";
const OUTER_ONLY: &str = "127.0.0.20";

fn udp(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((address, 0)).expect("a port is free");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

fn outer() -> Envelope {
    let both = Envelope::of("outer").allow("both", "127.0.0.10/32", "any", "any");
    both.allow("own", "127.0.0.20/32", "any", "any")
}

fn inner() -> Envelope {
    Envelope::of("inner").allow("both", "127.0.0.10/32", "any", "any")
}

/// The command line that begins a sub-session, from inside one.
fn sub_command(daemon: &Daemon, envelope: &Envelope, more: &[&str], command: &[String]) -> Vec<String> {
    let path = daemon.layout().write_envelope(envelope).display().to_string();
    let enforcer = enforcer_path().display().to_string();
    let head = [enforcer.as_str(), "run", "--envelope", &path];
    head.iter().chain(more).chain(&["--"]).map(ToString::to_string).chain(command.iter().cloned()).collect()
}

/// Holds sockets in a session that the first one's process has handed everything on to.
fn hold_inside(daemon: &Daemon, envelopes: &[Envelope]) -> Holder {
    let command = Holder::command().iter().map(ToString::to_string).collect();
    let nested = envelopes[1..]
        .iter()
        .rev()
        .fold(command, |command: Vec<String>, envelope| sub_command(daemon, envelope, &[], &command));
    Holder::over(daemon.run(&envelopes[0], &nested))
}

/// Asks from a session of this envelope for one of that, and does nothing in it.
fn ask(daemon: &Daemon, outer: &Envelope, inner: &Envelope, more: &[&str]) -> integration::Finished {
    let command = sub_command(daemon, inner, more, &["true".to_owned()]);
    daemon.run(outer, &command).finish(DEADLINE)
}

fn session(daemon: &Daemon, agent: &str) -> Value {
    wait_until(DEADLINE, "the session is listed", || daemon.session(agent))
}

#[test]
fn sub_session_is_held_to_its_part() {
    let daemon = Daemon::start();
    let (_both, both) = udp(BOTH);
    let (_own, own) = udp(OUTER_ONLY);
    let mut alone = daemon.hold(&outer());
    alone.connect("u", "udp4", own);
    alone.end();
    let mut inside = hold_inside(&daemon, &[outer(), inner()]);
    inside.connect("u", "udp4", both);
    inside.must("open v udp4");
    inside.must_fail(&format!("connect v {own}"), &[libc::EPERM]);
    let (parent, child) = (session(&daemon, "outer"), session(&daemon, "inner"));
    assert_eq!(child["parent"], parent["id"]);
    let workload = child["spiffe_id"].as_str().expect("it has one");
    assert!(workload.ends_with("/agent/outer/inner"), "no agent of that name elsewhere: {workload}");
    assert_eq!(parent["processes"], serde_json::json!([]), "it has handed itself on");
    // To the second: both are said by a clock that is read anew each time.
    let expires = |session: &Value| session["expires"].as_str().expect("a time")[..19].to_owned();
    assert_eq!(expires(&child), expires(&parent), "it was begun later, for as long");
    let refused = daemon.wait_for_events(1, "the refusal", |event| event.is_of("inner") && event.is_deny());
    assert_eq!(refused[0].text("/session/parent"), parent["id"].as_str().expect("an id"));
    inside.end();
    // The first goes with the last that has a part of it.
    wait_until(DEADLINE, "both end", || {
        (daemon.session("inner").is_none() && daemon.session("outer").is_none()).then_some(())
    });
    daemon.wait_idle();
}

/// What a session may not do, it cannot hand on. It is told what that is.
#[test]
fn what_is_wider_is_refused_or_clipped() {
    let daemon = Daemon::start();
    let (_own, own) = udp(OUTER_ONLY);
    let wide = Envelope::of("wide").allow("both", "127.0.0.10/32", "any", "any");
    let wide = wide.allow("more", "127.0.0.30/32", "443", "tcp");
    assert!(ask(&daemon, &outer(), &inner(), &[]).status.success(), "control: a part");
    let refused = ask(&daemon, &outer(), &wide, &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("`more` allows tcp 443 -> 127.0.0.30/32"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("127.0.0.10"), "{}", refused.stderr);
    let events = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "request-refused");
    assert!(events[0].text("/detail").contains("127.0.0.30/32") && events[0].is_of("outer"), "{events:?}");

    // Who it is for does not change.
    let others = inner().owner("somebody-else@example.com");
    let refused = ask(&daemon, &outer(), &others, &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("owner"), "{}", refused.stderr);

    // Clipped, it is what both allow.
    let all = Envelope::of("all").allow("all", "0.0.0.0/0", "any", "any");
    let command = Holder::command().iter().map(ToString::to_string).collect::<Vec<_>>();
    let command = sub_command(&daemon, &all, &["--clip"], &command);
    let mut clipped = Holder::over(daemon.run(&outer(), &command));
    clipped.connect("u", "udp4", own);
    clipped.must("open v udp4");
    clipped.must_fail("connect v 127.0.0.30:9", &[libc::EPERM]);
    clipped.end();
}

/// One store reaches all below, and the connections that they have.
#[test]
fn revocation_of_a_session_reaches_those_below() {
    let daemon = Daemon::start();
    let listener = TcpListener::bind((BOTH, 0)).expect("a port is free");
    let third = Envelope::of("third").allow("both", "127.0.0.10/32", "any", "any");
    let mut inside = hold_inside(&daemon, &[outer(), inner(), third]);
    inside.connect("t", "tcp4", listener.local_addr().expect("it is bound"));
    let (_stream, _) = listener.accept().expect("it is connected");
    inside.must("send t before");
    // A neighbour is not touched.
    let mut neighbour = daemon.hold(&inner());
    let receipt = daemon.receipt(&["revoke", session(&daemon, "outer")["id"].as_str().expect("an id")]);
    assert_eq!(receipt["descendants"].as_array().map(Vec::len), Some(2), "{receipt}");
    // The receipt is of the session's own sockets; those of sessions below are destroyed beside it.
    let destroyed = |event: &integration::Event| event.is_of("third") && event.kind() == "sockets-destroyed";
    daemon.wait_for_events(1, "its sockets are destroyed", destroyed);
    let told = daemon.wait_for_events(3, "each is told", |event| event.kind() == "session-revoked");
    assert!(told.iter().all(|event| event.at("/asked_by/uid") == 0), "{told:?}");
    inside.must_fail("send t after", &[libc::EPERM, libc::ECONNABORTED, libc::EPIPE]);
    inside.must_fail("open u udp4", &[libc::EPERM]);
    assert_eq!(session(&daemon, "third")["state"], "revoked");
    neighbour.must("open u udp4");
    neighbour.must(&format!("connect u {BOTH}:9"));
    neighbour.end();
    inside.end();
}

/// With the daemon dead, the kernel holds those below to what became of those above.
#[test]
fn quarantine_of_a_session_reaches_those_below_and_is_lifted() {
    let mut daemon = Daemon::start();
    let (_server, both) = udp(BOTH);
    let mut inside = hold_inside(&daemon, &[outer(), inner()]);
    inside.connect("u", "udp4", both);
    let id = session(&daemon, "outer")["id"].as_str().expect("an id").to_owned();
    daemon.receipt(&["quarantine", &id]);
    assert_eq!(session(&daemon, "inner")["state"], "quarantined");
    daemon.kill9();
    daemon.restart();
    assert_eq!(session(&daemon, "inner")["state"], "quarantined");
    daemon.receipt(&["quarantine", "--lift", &id]);
    assert_eq!(session(&daemon, "inner")["state"], "active");
    inside.must("open v udp4");
    inside.must(&format!("connect v {both}"));
    inside.end();
}

/// What a sub-session uses is its parent's as well.
#[test]
fn limits_are_those_of_all_above() {
    let daemon = Daemon::start();
    let (_server, both) = udp(BOTH);
    let limited = outer().limit("connections", 3);
    let part = inner().limit("connections", 2);
    let command = Holder::command().iter().map(ToString::to_string).collect::<Vec<_>>();
    let nested = sub_command(&daemon, &part, &[], &command).join(" ");
    // The first goes on beside it.
    let script = format!("{nested}; {nested}");
    let mut process: Process = daemon.run(&limited, &["sh", "-c", &script]);
    for allowed in [2, 1] {
        let mut sub = Holder::over(process);
        sub.must("open u udp4");
        for _ in 0..allowed {
            sub.must(&format!("connect u {both}"));
        }
        sub.must_fail(&format!("connect u {both}"), &[libc::EPERM]);
        let id = session(&daemon, "inner")["id"].clone();
        process = sub.into_rest();
        // Else it would read what is meant for the next, which may have begun by then.
        let is_over = || daemon.session("inner").is_none_or(|session| session["id"] != id);
        wait_until(DEADLINE, "it has ended", || is_over().then_some(()));
    }
    process.finish(DEADLINE).success();
}

/// Another envelope for a session narrows those below it, at once; they never get more than they had.
#[test]
fn those_below_are_narrowed_with_their_session() {
    let daemon = Daemon::start();
    let (_both, both) = udp(BOTH);
    let (_own, own) = udp(OUTER_ONLY);
    let part = inner().allow("own", "127.0.0.20/32", "any", "any");
    let mut inside = hold_inside(&daemon, &[outer(), part.clone()]);
    inside.connect("u", "udp4", both);
    inside.connect("v", "udp4", own);
    let narrow = Envelope::of("outer").allow("both", "127.0.0.10/32", "any", "any");
    daemon.apply(&narrow);
    inside.must(&format!("connect u {both}"));
    inside.must_fail(&format!("connect v {own}"), &[libc::EPERM]);
    // Nor by an envelope of its own.
    let path = daemon.layout().write_envelope(&part).display().to_string();
    let refused = daemon.layout().outcome(&["apply", &path]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("127.0.0.20/32"), "{}", refused.stderr);
    daemon.apply(&outer());
    inside.must_fail(&format!("connect v {own}"), &[libc::EPERM]);
    daemon.apply(&part);
    inside.must(&format!("connect v {own}"));
    inside.end();
}

#[test]
fn depth_is_that_of_all_above() {
    let daemon = Daemon::start();
    let flat = outer().limit("depth", 1);
    let part =
        |agent: &str| Envelope::of(agent).allow("both", "127.0.0.10/32", "any", "any").limit("depth", 1);
    assert!(ask(&daemon, &flat, &part("one"), &[]).status.success(), "control: one level");
    let two = sub_command(&daemon, &part("two"), &[], &["true".to_owned()]);
    let one = sub_command(&daemon, &part("one"), &[], &two);
    let refused = daemon.run(&flat, &one).finish(DEADLINE);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("1 deep"), "{}", refused.stderr);
}

/// Nor where both are of one agent, and the envelope is for both.
#[test]
fn session_of_the_same_agent_gets_no_more_than_the_one_above() {
    let daemon = Daemon::start();
    let same = |envelope: Envelope| envelope.allow("both", "127.0.0.10/32", "any", "any");
    let mut inside = hold_inside(&daemon, &[same(Envelope::of("same")), same(Envelope::of("same"))]);
    inside.must("open u udp4");
    inside.must_fail(&format!("connect u {OUTER_ONLY}:9"), &[libc::EPERM]);
    daemon.apply(&same(Envelope::of("same")).allow("own", "127.0.0.20/32", "any", "any"));
    inside.must_fail(&format!("connect u {OUTER_ONLY}:9"), &[libc::EPERM]);
    inside.must(&format!("connect u {BOTH}:9"));
    inside.end();
}

/// As deep as it goes, with less at each level: in the kernel, each is allowed what all above it are, and nothing else.
#[test]
fn each_level_is_allowed_what_all_above_it_are() {
    const DEEPEST: usize = 8;
    let daemon = Daemon::start();
    let place = |level: usize| format!("127.0.1.{level}:9");
    // The one at level n may go to the places from n on.
    let at = |level: usize| {
        (level..=DEEPEST).fold(Envelope::of(&format!("level-{level}")), |envelope, to| {
            envelope.allow(&format!("to-{to}"), &format!("127.0.1.{to}/32"), "any", "any")
        })
    };
    for depth in [1, DEEPEST / 2, DEEPEST] {
        let envelopes: Vec<Envelope> = (0..=depth).map(at).collect();
        let mut inside = hold_inside(&daemon, &envelopes);
        inside.must("open u udp4");
        for level in 0..=DEEPEST {
            let connect = format!("connect u {}", place(level));
            if level < depth {
                inside.must_fail(&connect, &[libc::EPERM]);
            } else {
                inside.must(&connect);
            }
        }
        inside.end();
        daemon.wait_idle();
    }
    let too_deep: Vec<Envelope> = (0..=DEEPEST).map(at).chain([at(DEEPEST)]).collect();
    let command = vec!["true".to_owned()];
    let nested = too_deep[1..]
        .iter()
        .rev()
        .fold(command, |command, envelope| sub_command(&daemon, envelope, &[], &command));
    let refused = daemon.run(&too_deep[0], &nested).finish(DEADLINE);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("at most 8 deep"), "{}", refused.stderr);
}

/// Teardown lets all go back to where the first of them was before any session had it.
#[test]
fn teardown_lets_those_below_go_where_the_first_was() {
    let mut daemon = Daemon::start();
    let mut inside = hold_inside(&daemon, &[outer(), inner()]);
    let cgroup = |process: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup")).expect("it lives");
        text.lines().find_map(|line| line.strip_prefix("0::")).expect("there is the v2 hierarchy").to_owned()
    };
    let pid = inside.pid().to_string();
    assert_ne!(cgroup(&pid), cgroup("self"), "control");
    daemon.teardown();
    assert_eq!(cgroup(&pid), cgroup("self"));
    inside.must("open u udp4");
    inside.must(&format!("connect u {OUTER_ONLY}:9"));
    inside.end();
}

/// What each session was given is stated, signed, and can be checked by whoever has the host's key, without the host.
#[test]
fn chain_of_statements_can_be_checked_elsewhere() {
    let keys = tempfile::tempdir().expect("a directory");
    let layout = integration::Layout::new();
    let operator = keys.path().join("operator");
    layout.outcome(&["keygen", "--out", operator.to_str().expect("text")]).success();
    let mut daemon = Daemon::start_in(layout);
    daemon.kill9();
    let public = format!("{}.pub", operator.display());
    daemon.restart_with(&["--trust-key", &public]);
    // The outermost envelope is signed; those below need no signature: they are no more than what is.
    let signed = daemon.layout().write_envelope(outer().revision(1));
    let sign = ["sign", "--key", operator.to_str().expect("text"), signed.to_str().expect("text")];
    daemon.layout().outcome(&sign).success();
    let third = Envelope::of("third").allow("both", "127.0.0.10/32", "any", "any");
    let command: Vec<String> = Holder::command().iter().map(ToString::to_string).collect();
    let command = sub_command(&daemon, &inner(), &[], &sub_command(&daemon, &third, &[], &command));
    let mut run = daemon.layout().command(&["run", "--envelope"]);
    run.arg(&signed).arg("--").args(&command);
    let mut inside = Holder::over(Process::spawn(run));
    inside.must("open u udp4");
    let ids: Vec<String> = ["outer", "inner", "third"].map(|agent| daemon.session_id(agent)).into();

    let chain = daemon.receipt(&["chain", &ids[2]]);
    let stated = |hop: &Value| -> Value {
        serde_json::from_str(hop["statement"].as_str().expect("text")).expect("a statement is JSON")
    };
    let hops = |chain: &Value| chain["hops"].as_array().expect("a list").clone();
    let sessions: Vec<Value> = hops(&chain).iter().map(|hop| stated(hop)["session"].clone()).collect();
    assert_eq!(sessions, ids.iter().map(|id| Value::from(id.as_str())).collect::<Vec<_>>());
    let host = keys.path().join("host.pub");
    let host_key = daemon.layout().outcome(&["chain", &ids[2], "--print-host-key"]).success();
    fs::write(&host, host_key.join("\n") + "\n").expect("it is ours");

    // Elsewhere: no daemon is asked.
    let elsewhere = integration::Layout::new();
    let check = |chain: &Value, more: &[&str]| {
        let file = keys.path().join("chain.json");
        fs::write(&file, chain.to_string()).expect("it is ours");
        let arguments = ["chain", "--file", file.to_str().expect("text"), "--host-key"];
        elsewhere.outcome(&[&arguments[..], &[host.to_str().expect("text")], more].concat())
    };
    let said = check(&chain, &["--trust-key", &public]).success().join("\n");
    assert!(said.contains("verified") && said.contains("2 of 2 envelopes"), "{said}");
    assert!(said.contains("signed by the operator's key"), "{said}");
    // And by a program that is not ours: the signature is of exactly the statement.
    let (statement, signature) = (keys.path().join("statement"), keys.path().join("signature"));
    fs::write(&statement, hops(&chain)[1]["statement"].as_str().expect("text")).expect("it is ours");
    let text = hops(&chain)[1]["signature"].as_str().expect("text").to_owned();
    let mut decode = std::process::Command::new("base64");
    decode.arg("-d").arg({
        let encoded = keys.path().join("signature.b64");
        fs::write(&encoded, text).expect("it is ours");
        encoded
    });
    fs::write(&signature, decode.output().expect("base64 runs").stdout).expect("it is ours");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-verify"]).arg(&host).arg("-signature").arg(&signature).arg(&statement);
    Process::spawn(openssl).finish(DEADLINE).success();

    // Changed, cut short, or of another host.
    let mut changed = chain.clone();
    let text = changed["hops"][1]["statement"].as_str().expect("text").replace("alice", "mallory");
    changed["hops"][1]["statement"] = text.into();
    let mut cut = chain.clone();
    cut["hops"].as_array_mut().expect("a list").remove(1);
    for (bad, why) in [(changed, "signature"), (cut, "parent")] {
        let outcome = check(&bad, &[]);
        assert_eq!(outcome.status.code(), Some(1), "{why}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    }
    let stranger = ["--trust-key", host.to_str().expect("text")];
    assert_eq!(check(&chain, &stranger).status.code(), Some(1), "the host is not the operator");

    // What it is held to from now on is stated anew, for those below as well; a daemon that starts again says the same.
    let narrower = daemon
        .layout()
        .write_envelope(Envelope::of("outer").allow("both", "127.0.0.10/32", "443", "any").revision(2));
    let narrower = narrower.to_str().expect("text");
    daemon.layout().outcome(&["sign", "--key", operator.to_str().expect("text"), narrower]).success();
    daemon.layout().outcome(&["apply", narrower]).success();
    let narrowed = daemon.receipt(&["chain", &ids[2]]);
    assert_ne!(hops(&narrowed)[2]["statement"], hops(&chain)[2]["statement"]);
    let said = check(&narrowed, &["--trust-key", &public]).success().join("\n");
    assert!(said.contains("2 of 2 envelopes"), "{said}");
    daemon.kill9();
    daemon.restart_with(&["--trust-key", &public]);
    assert_eq!(daemon.receipt(&["chain", &ids[2]]), narrowed);
    // And so it is when they have ended.
    inside.end();
    wait_until(DEADLINE, "they have ended", || daemon.session("outer").is_none().then_some(()));
    let ended = daemon.receipt(&["chain", &ids[2]]);
    assert_eq!(hops(&ended).len(), 3);
    check(&ended, &[]).success();
}
