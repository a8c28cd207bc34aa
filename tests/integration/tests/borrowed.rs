//! Registering a cgroup that is somebody else's: it is used as it stands, and what is in it is held for as long as it is there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use integration::{
    Actor, DEADLINE, Daemon, Envelope, NEVER, Pair, Process, arrives, attempts, cgroup_root, far_end,
    is_to_be_frozen, probe, remove_cgroup, scaled, unique, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cgroup that is nobody's session's.
struct Borrowed(PathBuf);

impl Borrowed {
    fn new() -> Self {
        let path = cgroup_root().join(unique("enforcer-test-borrowed"));
        fs::create_dir(&path).expect("as root");
        Self(path)
    }

    fn path(&self) -> String {
        self.0.to_str().expect("the path is text").to_owned()
    }

    fn enter(&self, actor: &Actor) {
        fs::write(self.0.join("cgroup.procs"), actor.pid().to_string()).expect("it is there");
    }

    /// Runs a probe that attempts as it is told, in a cgroup below it.
    fn converse(&self, magic: &str) -> Process {
        let inner = self.0.join("inner");
        fs::create_dir_all(&inner).expect("cgroups can be made");
        let command = probe(&["net", magic]);
        let mut shell = Command::new("sh");
        let script = "echo $$ > \"$0\"; exec \"$@\"";
        shell.args(["-c", script]).arg(inner.join("cgroup.procs")).args(command);
        Process::spawn(shell)
    }

    fn is_to_be_frozen(&self) -> bool {
        is_to_be_frozen(&self.0)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // Fails only where there is no such file: then nothing was frozen.
        let _ = fs::write(self.0.join("cgroup.freeze"), "0");
        remove_cgroup(&self.0);
    }
}

fn attempt(process: &mut Process, spec: &str) -> bool {
    process.write_line(spec);
    attempts(&[process.read_line(DEADLINE)])[0].succeeded()
}

#[test]
fn a_cgroup_is_used_as_it_stands() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let borrowed = Borrowed::new();
    let daemon = Daemon::start();
    let mut member = borrowed.converse(&unique("member"));
    assert!(attempt(&mut member, &refused), "control: reachable before");
    let envelope = Envelope::of("container").allow_server("only", &pair.allowed);
    let path = borrowed.path();
    let answer = daemon.register(&envelope, &["--cgroup", &path]);
    assert_eq!(
        (answer["processes"].as_u64(), answer["complete"].as_bool()),
        (Some(1), Some(true)),
        "{answer}"
    );
    assert!(attempt(&mut member, &allowed));
    assert!(!attempt(&mut member, &refused));
    // Who comes later has no tag: refused everything, and an alarm.
    let mut late = borrowed.converse(&unique("late"));
    assert!(!attempt(&mut late, &allowed));
    daemon.wait_for_events(1, "the latecomer is noticed", |event| event.kind() == "escape-sign");
    // A restart changes nothing.
    let mut daemon = daemon;
    daemon.kill9();
    daemon.restart();
    assert!(!attempt(&mut member, &refused));
    assert!(!attempt(&mut late, &allowed));
    // It cannot be registered twice, nor a part of it.
    let file = daemon.layout().write_envelope(&envelope);
    let file = file.to_string_lossy().into_owned();
    for target in [path.clone(), format!("{path}/inner")] {
        let again = daemon.layout().outcome(&["register", "--envelope", &file, "--cgroup", &target]);
        assert_eq!(again.status.code(), Some(1), "{}", again.stderr);
    }
    // The session ends with its last process; the cgroup stays.
    member.finish(DEADLINE).success();
    drop(late);
    wait_until(DEADLINE, "the session has ended", || daemon.session("container").is_none().then_some(()));
    assert!(borrowed.0.join("inner").is_dir());
    let mut after = borrowed.converse(&unique("after"));
    wait_until(DEADLINE, "reachable afterwards", || attempt(&mut after, &refused).then_some(()));
}

#[test]
fn teardown_lets_go_of_what_was_registered() {
    let pair = Pair::v4("tcp");
    let [_, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let borrowed = Borrowed::new();
    let mut member = borrowed.converse(&unique("member"));
    assert!(attempt(&mut member, &refused), "control");
    let path = borrowed.path();
    daemon.register(&Envelope::of("held"), &["--cgroup", &path]);
    assert!(!attempt(&mut member, &refused));
    let id = daemon.session_id("held");
    daemon.layout().outcome(&["quarantine", &id]).success();
    daemon.teardown();
    assert!(attempt(&mut member, &refused), "it goes on, thawed and free");
}

/// `register --keep-connections` promises that nothing leaves on what is kept. Nor does it when the last process ends with something
/// still to be sent.
#[test]
fn what_processes_of_a_borrowed_cgroup_leave_behind_does_not_leave() {
    let daemon = Daemon::start();
    let (listener, address) = far_end();
    let cgroup = Borrowed::new();
    let mut inside = Actor::outside();
    cgroup.enter(&inside);
    inside.must(&format!("connect {address}"));
    let (stream, _) = listener.accept().expect("it is connected");
    let path = cgroup.path();
    daemon.register(&Envelope::of("kept"), &["--cgroup", &path, "--keep-connections"]);
    inside.must("send secret");
    wait_until(DEADLINE, "its packets are refused", || (daemon.counter("packets_refused") > 0).then_some(()));
    inside.finish().success();
    wait_until(DEADLINE, "its session ends", || daemon.session("kept").is_none().then_some(()));
    let arrived = arrives(&stream);
    assert!(arrived.is_empty(), "left after the session: {:?}", String::from_utf8_lossy(&arrived));
}

/// A process without a tag is refused everything in a session's cgroup, in one that was somebody else's as well: also when those that
/// have tags have ended, or filling the table of tags and ending would be the way out.
#[test]
fn untagged_process_in_a_borrowed_cgroup_outlives_no_session() {
    let daemon = Daemon::start();
    let (listener, address) = far_end();
    let cgroup = Borrowed::new();
    let tagged = Actor::outside();
    cgroup.enter(&tagged);
    daemon.register(&Envelope::of("left"), &["--cgroup", &cgroup.path()]);
    let mut untagged = Actor::outside();
    cgroup.enter(&untagged);
    untagged.must_be_refused(&format!("connect {address}"), "while the session runs");
    tagged.finish().success();
    let end = Instant::now() + scaled(NEVER);
    while Instant::now() < end {
        untagged.must_be_refused(&format!("connect {address}"), "when the tagged one has ended");
        // At no time may it succeed: what the session leaves behind goes bit by bit.
        thread::sleep(Duration::from_millis(100));
    }
    drop(listener);
}

/// Somebody else's container that stood still goes on only when they say so.
#[test]
fn registration_does_not_thaw_what_somebody_else_froze() {
    let daemon = Daemon::start();
    let cgroup = Borrowed::new();
    let inside = Actor::outside();
    cgroup.enter(&inside);
    fs::write(cgroup.0.join("cgroup.freeze"), "1").expect("it is there");
    daemon.register(&Envelope::of("paused"), &["--cgroup", &cgroup.path()]);
    assert!(cgroup.is_to_be_frozen(), "it goes on");
}

/// Killed between any two steps of a registration, the daemon leaves nothing standing still for ever.
#[test]
fn daemon_that_is_killed_when_it_has_frozen_a_borrowed_cgroup_thaws_it_later() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: `strace`, which holds the daemon up between two steps, is not installed");
        return;
    }
    let mut daemon = Daemon::start();
    let cgroup = Borrowed::new();
    let inside = Actor::outside();
    cgroup.enter(&inside);
    let freeze = cgroup.0.join("cgroup.freeze");
    let mut trace = Command::new("strace");
    trace.args(["-f", "-qq", "-p", &daemon.pid().to_string(), "-e", "trace=write", "-P"]).arg(&freeze);
    trace.args(["-e", "inject=write:delay_exit=60000000"]);
    let trace = Process::spawn(trace);
    wait_until(DEADLINE, "the daemon is traced", || trace.traces(daemon.pid()).then_some(()));
    let envelope = daemon.layout().write_envelope(Envelope::of("stuck")).to_string_lossy().into_owned();
    let path = cgroup.path();
    let asked =
        Process::spawn(daemon.layout().command(&["register", "--envelope", &envelope, "--cgroup", &path]));
    wait_until(DEADLINE, "it freezes", || cgroup.is_to_be_frozen().then_some(()));
    // Its parent hears of its end when the tracer, which sleeps meanwhile, is gone.
    kill(Pid::from_raw(daemon.pid()), Signal::SIGKILL).expect("it runs");
    drop(trace);
    daemon.kill9();
    drop(asked);
    daemon.restart();
    assert!(!cgroup.is_to_be_frozen(), "it stands still, and nothing says why");
    inside.finish().success();
}
