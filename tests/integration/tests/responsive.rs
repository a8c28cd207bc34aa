//! What takes the daemon time does not keep it from answering.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

use integration::{
    DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Process, cgroup_members, fewer, say, scaled, wait_until,
};
use serde_json::Value;

/// A tree of processes that do nothing.
struct Tree(Process);

impl Tree {
    fn of(children: u32) -> Self {
        let mut shell = Command::new("sh");
        let script =
            "i=0; while [ $i -lt $0 ]; do sleep 300 >/dev/null 2>&1 & i=$((i + 1)); done; echo ready; cat";
        shell.args(["-c", script, &children.to_string()]);
        let mut tree = Process::spawn(shell);
        assert_eq!(tree.read_line(LOAD_DEADLINE), "ready");
        Self(tree)
    }

    fn pid(&self) -> String {
        self.0.pid().to_string()
    }

    /// Of a tree that is in a session.
    fn end(self, daemon: &Daemon) {
        daemon.kill_sessions();
        drop(self);
    }
}

/// Begins to register the tree; returns when that is under way.
fn begin(daemon: &Daemon, agent: &str, tree: &Tree) -> Process {
    let registering = ask(daemon, agent, tree);
    let began = Instant::now();
    // It does not take long.
    while !is_registering(daemon, agent) {
        assert!(began.elapsed() < scaled(DEADLINE), "it is not being registered");
    }
    registering
}

fn ask(daemon: &Daemon, agent: &str, tree: &Tree) -> Process {
    let envelope = daemon.layout().write_envelope(Envelope::of(agent));
    let mut command = daemon.layout().command(&["register", "--format", "json", "--envelope"]);
    command.arg(envelope).args(["--pid", &tree.pid(), "--children"]);
    Process::spawn(command)
}

fn is_registering(daemon: &Daemon, agent: &str) -> bool {
    let list = request(daemon, "GET /v1/sessions");
    let sessions = list["sessions"].as_array().expect("a list");
    sessions.iter().any(|session| session["agent"] == agent && session["state"] == "registering")
}

#[track_caller]
fn answer(process: Process) -> Value {
    let text = process.finish(LOAD_DEADLINE).success().join("\n");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The answer to a request, asked for without a new process: moving many between cgroups holds up every fork on the host.
#[track_caller]
fn request(daemon: &Daemon, request: &str) -> Value {
    // Before Linux 6.16 the kernel does not say who wrote what arrives before the daemon has asked for that.
    let answer =
        (0..8).map(|_| request_once(daemon, request)).find(|answer| !answer.starts_with("HTTP/1.1 503"));
    let answer = answer.expect("the daemon knows who asks");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{request}: {answer}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn request_once(daemon: &Daemon, request: &str) -> String {
    let mut control = UnixStream::connect(daemon.layout().socket()).expect("the daemon listens");
    control.set_read_timeout(Some(LOAD_DEADLINE)).expect("it is not zero");
    let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    control.write_all(text.as_bytes()).expect("it reads");
    let mut answer = String::new();
    control.read_to_string(&mut answer).expect("it answers");
    answer
}

/// Each answer comes within a fraction of what the registration takes, however fast this machine is.
#[test]
fn status_is_told_while_a_large_tree_is_registered() {
    let children = fewer(2000, 200);
    let daemon = Daemon::start();
    let tree = Tree::of(children);
    let neighbour = daemon.run(&Envelope::of("neighbour"), &["cat"]);
    let id = daemon.session_id("neighbour");

    let began = Instant::now();
    let registering = begin(&daemon, "large", &tree);
    let mut times = Vec::new();
    while is_registering(&daemon, "large") {
        let asked = Instant::now();
        request(&daemon, "GET /v1/status");
        times.push(asked.elapsed());
        if times.len() == 1 {
            // A session that runs is revoked at once.
            let asked = Instant::now();
            assert_eq!(request(&daemon, &format!("DELETE /v1/sessions/{id}"))["state"], "revoked");
            times.push(asked.elapsed());
        }
    }
    let took = began.elapsed();
    let registered = answer(registering);
    assert!(registered["processes"].as_u64().expect("a number") > u64::from(children), "{registered}");
    times.sort_unstable();
    assert!(times.len() >= 10, "asked {} times in {took:?}", times.len());
    // Not the slowest, which a busy machine decides.
    let middle = times[times.len() / 2];
    say(&format!("{} answers in {took:?} of registering, half of them within {middle:?}", times.len()));
    assert!(middle < took / 10, "{middle:?} for an answer, {took:?} to register");
    assert_eq!(daemon.session("large").expect("it runs")["state"], "active");
    drop(neighbour);
    tree.end(&daemon);
}

/// Who asks for the same meanwhile is answered afterwards, and refused: nothing is in two sessions. Who asks for a session of their
/// own has it then.
#[test]
fn registrations_follow_each_other() {
    let daemon = Daemon::start();
    let tree = Tree::of(fewer(2000, 200));
    let first = begin(&daemon, "first", &tree);
    let second = ask(&daemon, "second", &tree);
    let mut own = daemon.run(&Envelope::of("own"), &["cat"]);
    let registered = answer(first);
    let refused = second.finish(LOAD_DEADLINE);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("belongs to a session"), "{}", refused.stderr);
    own.write_line("here");
    assert_eq!(own.read_line(LOAD_DEADLINE), "here");

    let agents: BTreeSet<String> = daemon.query("ps")["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|session| session["agent"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(agents, ["first", "own"].map(str::to_owned).into());
    let session = daemon.session("first").expect("it runs");
    let listed = session["processes"].as_array().expect("a list").len() as u64;
    assert_eq!(registered["processes"], listed, "{registered}");
    own.finish(DEADLINE).success();
    tree.end(&daemon);
}

/// A daemon that is told to stop does not leave half a registration: the next one finds a session.
#[test]
fn daemon_that_is_told_to_stop_ends_what_it_registers_first() {
    let mut daemon = Daemon::start();
    let tree = Tree::of(fewer(2000, 200));
    let registering = begin(&daemon, "whole", &tree);
    assert!(daemon.stop().success());
    let registered = answer(registering);
    daemon.restart();
    let session = daemon.session("whole").expect("it is a session");
    assert_eq!(session["state"], "active", "{registered}");
    tree.end(&daemon);
}

/// What was being registered when the daemon was killed goes on, and is refused everything.
#[test]
fn killed_while_it_registers_the_daemon_leaves_nothing_that_it_does_not_know() {
    let mut daemon = Daemon::start();
    let tree = Tree::of(fewer(2000, 200));
    let registering = begin(&daemon, "half", &tree);
    let began = Instant::now();
    while cgroup_members(&daemon.layout().cgroup_dir()).len() < 20 {
        assert!(began.elapsed() < scaled(DEADLINE), "nobody is moved");
    }
    daemon.kill9();
    drop(registering);
    daemon.restart();
    let session = daemon.session("half").expect("it is a session");
    assert_eq!(session["state"], "revoked");
    let cgroup = std::path::PathBuf::from(session["cgroup"].as_str().expect("text"));
    let frozen = std::fs::read_to_string(cgroup.join("cgroup.freeze")).expect("it is there");
    assert_eq!(frozen.trim(), "0", "it goes on");
    // Not all of them have got as far as its cgroup.
    let receipt = daemon.receipt(&["revoke", "--kill", session["id"].as_str().expect("text")]);
    assert_eq!(receipt["processes_are"], "killed", "{receipt}");
    drop(tree);
    wait_until(DEADLINE, "the session has ended", || daemon.session("half").is_none().then_some(()));
}
