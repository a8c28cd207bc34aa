//! What the receipt of a revocation says of the processes is what became of them, wherever they are.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use integration::{
    DEADLINE, Daemon, Envelope, Holder, Process, cgroup_root, remove_cgroup, unique, wait_until,
};
use serde_json::Value;

/// A cgroup outside the daemon's.
struct Elsewhere(std::path::PathBuf);

impl Elsewhere {
    fn new() -> Self {
        let path = cgroup_root().join(unique("enforcer-test-elsewhere"));
        fs::create_dir(&path).expect("as root");
        Self(path)
    }

    fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it can be moved");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}

/// The receipt, and whether all was done.
fn revoke(daemon: &Daemon, how: &str, id: &str) -> (Value, bool) {
    let outcome = daemon.layout().outcome(&["revoke", how, id, "--format", "json"]);
    let text = outcome.stdout.join("\n");
    let receipt =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {}", outcome.stderr));
    (receipt, outcome.status.success())
}

fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

fn processes(daemon: &Daemon, agent: &str) -> Vec<i32> {
    let session = daemon.session(agent).expect("it runs");
    let pids = session["processes"].as_array().expect("a list").iter();
    pids.map(|process| process["pid"].as_i64().expect("a number") as i32).collect()
}

/// It has the session's tag, and is killed for it; its neighbour there is nobody's, and goes on.
#[test]
fn process_that_was_moved_elsewhere_is_killed_as_well() {
    let daemon = Daemon::start();
    let elsewhere = Elsewhere::new();
    let neighbour = Holder::outside();
    elsewhere.take(neighbour.pid());
    // Both fork all the while, at home and elsewhere.
    let script = "while :; do sleep 0.01; done & echo $!; while :; do sleep 0.01; done";
    let mut inside = daemon.run(&Envelope::of("spread"), &["sh", "-c", script]);
    let child: i32 = inside.read_line(DEADLINE).parse().expect("a process id");
    elsewhere.take(child);
    let (receipt, done) = revoke(&daemon, "--kill", &daemon.session_id("spread"));
    assert_eq!(
        (&receipt["processes_are"], &receipt["processes_running"]),
        (&"killed".into(), &0.into()),
        "{receipt}"
    );
    assert!(done, "{receipt}");
    // It has no tag any more, which goes with its last thread. Moments later it is a zombie.
    wait_until(DEADLINE, "it is dead, as was said", || (!is_alive(child)).then_some(()));
    wait_until(DEADLINE, "the other, too", || (!is_alive(inside.pid())).then_some(()));
    assert!(is_alive(neighbour.pid()), "what is no session's is left alone");
    wait_until(DEADLINE, "the session has ended", || daemon.session("spread").is_none().then_some(()));
    daemon.wait_idle();
    neighbour.end();
}

/// What is not in the session's cgroup does not stand still with it; the receipt does not say so.
#[test]
fn process_that_was_moved_elsewhere_is_not_said_to_be_frozen() {
    let daemon = Daemon::start();
    let elsewhere = Elsewhere::new();
    let mut inside = daemon.hold(&Envelope::of("spread"));
    let child: i32 = inside.must("child").parse().expect("a process id");
    let id = daemon.session_id("spread");
    wait_until(DEADLINE, "both are listed", || (processes(&daemon, "spread").len() == 2).then_some(()));
    elsewhere.take(child);
    let (receipt, done) = revoke(&daemon, "--freeze", &id);
    assert_eq!(
        (&receipt["processes_are"], &receipt["processes_running"]),
        (&"running".into(), &1.into()),
        "{receipt}"
    );
    assert!(!done, "not all was done that was asked for");
    inside.must_fail("open s tcp4", &[libc::EPERM]);
    // Back at home it stops like the others.
    let home = daemon.session("spread").expect("it runs")["cgroup"].as_str().expect("text").to_owned();
    fs::write(Path::new(&home).join("cgroup.procs"), child.to_string()).expect("it can be moved");
    let (receipt, done) = revoke(&daemon, "--freeze", &id);
    assert_eq!(
        (&receipt["processes_are"], &receipt["processes_running"]),
        (&"frozen".into(), &0.into()),
        "{receipt}"
    );
    assert!(done);
    let (receipt, done) = revoke(&daemon, "--kill", &id);
    assert_eq!((&receipt["processes_are"], done), (&"killed".into(), true), "{receipt}");
    inside.finish();
}

/// A tag that an earlier process left behind, whose number somebody else has now.
#[test]
fn process_that_has_the_number_of_one_of_the_sessions_is_not_killed() {
    let daemon = Daemon::start();
    let stranger = Holder::outside();
    // It is told by its start, which /proc has in hundredths of a second.
    thread::sleep(Duration::from_millis(50));
    let inside = daemon.hold(&Envelope::of("reused"));
    let tasks = daemon.layout().pin_dir.join("maps/TASKS");
    let tag = bpftool(&tasks, "lookup", inside.pid(), &[]);
    let tag: Value = serde_json::from_str(&tag.join("")).expect("JSON");
    let tag: Vec<String> = tag["value"]
        .as_array()
        .expect("the bytes")
        .iter()
        .map(|byte| byte.as_str().expect("0x..").to_owned())
        .collect();
    bpftool(&tasks, "update", stranger.pid(), &[&["value".to_owned()], &tag[..]].concat());

    let (receipt, done) = revoke(&daemon, "--kill", &daemon.session_id("reused"));
    assert_eq!((&receipt["processes_are"], done), (&"killed".into(), true), "{receipt}");
    wait_until(DEADLINE, "control: the session's own is", || (!is_alive(inside.pid())).then_some(()));
    assert!(is_alive(stranger.pid()), "somebody who only has its number was killed");
    bpftool(&tasks, "delete", stranger.pid(), &[]);
    drop(inside);
    stranger.end();
}

fn bpftool(map: &Path, action: &str, pid: i32, more: &[String]) -> Vec<String> {
    let mut command = Command::new("bpftool");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command.args(["--json", "map", action, "pinned"]).arg(map).arg("key");
    command.args(pid.to_ne_bytes().map(|byte| byte.to_string())).args(more);
    Process::spawn(command).finish(DEADLINE).success()
}
