//! A session file that is torn, of a session in somebody else's cgroup: the daemon that finds it knows neither the session nor the cgroup,
//! and holds both to nothing less, and stops and kills nobody.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use integration::{
    DEADLINE, Daemon, Envelope, Holder, Process, cgroup_root, remove_cgroup, unique, wait_until,
};

/// A cgroup that is nobody's session's.
struct Borrowed(PathBuf);

impl Borrowed {
    fn new() -> Self {
        let path = cgroup_root().join(unique("enforcer-test-torn"));
        fs::create_dir(&path).expect("as root");
        Self(path)
    }

    fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it can be moved");
    }

    fn is_to_be_frozen(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.freeze")).expect("it is there").trim() == "1"
    }

    fn arguments(&self, daemon: &Daemon, agent: &str) -> Vec<String> {
        let envelope = Envelope::of(agent).allow("far", "127.0.0.10/32", "any", "any");
        let envelope = daemon.layout().write_envelope(envelope).to_string_lossy().into_owned();
        let path = self.0.to_string_lossy().into_owned();
        ["register", "--envelope", &envelope, "--cgroup", &path].map(str::to_owned).into()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // Fails only where there is no such file: then nothing was frozen.
        let _ = fs::write(self.0.join("cgroup.freeze"), "0");
        remove_cgroup(&self.0);
    }
}

/// Of the only session file there is, leaves the first half. Its session's id.
fn tear(daemon: &Daemon) -> String {
    let sessions = fs::read_dir(daemon.layout().state_dir().join("sessions")).expect("it is there");
    let files: Vec<PathBuf> = sessions.map(|entry| entry.expect("it can be read").path()).collect();
    let [file] = &files[..] else { panic!("one session has a file: {files:?}") };
    let text = fs::read_to_string(file).expect("it is text");
    fs::write(file, &text[..text.len() / 2]).expect("it is ours");
    file.file_stem().and_then(|stem| stem.to_str()).expect("text").to_owned()
}

/// The one session there is, which nobody knows any more; and that all who have a tag are of it.
#[track_caller]
fn expect_unknown(daemon: &Daemon, id: &str, pids: &[i32]) {
    let list = daemon.query("ps");
    let [session] = &list["sessions"].as_array().expect("a list")[..] else { panic!("{list}") };
    assert_eq!([&session["id"], &session["agent"], &session["state"]], [id, "unknown", "revoked"]);
    let listed = session["processes"].as_array().expect("a list").iter();
    let listed: Vec<i32> = listed.map(|process| process["pid"].as_i64().expect("a number") as i32).collect();
    assert_eq!(listed, pids);
    assert_eq!(daemon.status()["tasks"], pids.len());
}

#[test]
fn torn_file_leaves_nobody_in_a_borrowed_cgroup_free_or_stopped() {
    let refused = &[libc::EPERM];
    let mut daemon = Daemon::start();
    let borrowed = Borrowed::new();
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let to = listener.local_addr().expect("it is bound");
    let (mut inside, mut late) = (Holder::outside(), Holder::outside());
    borrowed.take(inside.pid());
    daemon.layout().outcome(&borrowed.arguments(&daemon, "container")).success();
    inside.connect("s", "tcp4", to);
    let (mut far, _) = listener.accept().expect("it is connected");
    far.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    // Has no tag, and is refused everything.
    borrowed.take(late.pid());
    late.must_fail("open s tcp4", refused);

    daemon.kill9();
    let id = tear(&daemon);
    daemon.restart();
    // Once more: it is written down again.
    for _ in 0..2 {
        assert!(!borrowed.is_to_be_frozen());
        expect_unknown(&daemon, &id, &[inside.pid()]);
        for process in [&mut inside, &mut late] {
            process.must_fail("open more tcp4", refused);
        }
        daemon.kill9();
        daemon.restart();
    }
    let error = far.read(&mut [0; 8]).expect_err("nothing was sent");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "what was open is cut");
    inside.must_fail("receive s", &[libc::ECONNABORTED, libc::ENOTCONN]);
    daemon.wait_for_events(1, "it is recorded", |event| {
        event.kind() == "session-revoked" && event.text("/session/id") == id
    });
    // The session ends with the last who is in its cgroup, which stays, and is nobody's then.
    inside.end();
    late.end();
    wait_until(DEADLINE, "the session is over", || daemon.session("unknown").is_none().then_some(()));
    let mut after = Holder::outside();
    borrowed.take(after.pid());
    wait_until(DEADLINE, "the cgroup is free", || (after.ask("open s tcp4").errno == 0).then_some(()));
    after.connect("t", "tcp4", to);
    after.end();
}

/// Its own can still be ended, by its id.
#[test]
fn session_that_nobody_knows_any_more_can_be_killed() {
    let mut daemon = Daemon::start();
    let inside = daemon.hold(&Envelope::of("torn"));
    daemon.kill9();
    let id = tear(&daemon);
    daemon.restart();
    expect_unknown(&daemon, &id, &[inside.pid()]);
    let receipt = daemon.receipt(&["revoke", "--kill", &id]);
    assert_eq!(receipt["processes_are"], "killed", "{receipt}");
    inside.finish();
    wait_until(DEADLINE, "the session is over", || daemon.session("unknown").is_none().then_some(()));
    daemon.wait_idle();
}

/// Killed when it has just stopped the cgroup, with the file torn or not: nobody stands still for ever, and nobody is killed.
#[test]
fn torn_file_of_what_was_being_registered_leaves_nobody_stopped() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: `strace`, which holds the daemon up between two steps, is not installed");
        return;
    }
    for torn in [false, true] {
        let mut daemon = Daemon::start();
        let borrowed = Borrowed::new();
        let mut inside = Holder::outside();
        borrowed.take(inside.pid());
        let mut trace = Command::new("strace");
        trace.args(["-f", "-qq", "-p", &daemon.pid().to_string(), "-e", "trace=write", "-P"]);
        trace.arg(borrowed.0.join("cgroup.freeze")).args(["-e", "inject=write:delay_exit=10000000"]);
        let trace = Process::spawn(trace);
        wait_until(DEADLINE, "the daemon is traced", || trace.traces(daemon.pid()).then_some(()));
        let asked = Process::spawn(daemon.layout().command(&borrowed.arguments(&daemon, "half")));
        wait_until(DEADLINE, "it freezes", || borrowed.is_to_be_frozen().then_some(()));
        daemon.kill9();
        drop((trace, asked));
        let id = torn.then(|| tear(&daemon));
        daemon.restart();
        assert!(!borrowed.is_to_be_frozen(), "torn: {torn}");
        match id {
            // Nobody knows how far it got.
            Some(id) => {
                expect_unknown(&daemon, &id, &[]);
                inside.must_fail("open s tcp4", &[libc::EPERM]);
            }
            // Nobody was in it yet: it runs as before.
            None => {
                assert_eq!(daemon.query("ps")["sessions"], serde_json::json!([]));
                inside.must("open s tcp4");
            }
        }
        inside.end();
        wait_until(DEADLINE, "there is no session", || {
            daemon.query("ps")["sessions"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
    }
}
