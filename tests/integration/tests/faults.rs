//! What goes wrong is said in one line, with the exit code that the README promises, and nothing is done by halves.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use integration::{DEADLINE, Daemon, Envelope, Finished, Layout, Process, live_ids, pinned_ids, wrap};

/// The answer is no.
const NO: i32 = 1;
/// A wrong command line, or a fault.
const FAULT: i32 = 2;
/// This host, or this user, cannot do it.
const CANNOT: i32 = 3;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

const NOBODY: u32 = 65534;

/// Whether the message comes with an advice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Given,
    Optional,
}

use Hint::{Given, Optional};

#[track_caller]
fn expect_error(command: Command, code: i32, says: &str, hint: Hint) {
    let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let Finished { status, stderr, .. } = Process::spawn(command).finish(DEADLINE);
    assert_eq!(status.code(), Some(code), "{what}: {stderr}");
    let starting = |start: &str| stderr.lines().filter(|line| line.trim_start().starts_with(start)).count();
    assert_eq!(starting("error: "), 1, "{what}: one error is reported: {stderr}");
    assert!(stderr.to_lowercase().contains(&says.to_lowercase()), "{what}: about `{says}`: {stderr}");
    assert!(hint == Optional || starting("hint: ") >= 1, "{what}: a hint is given: {stderr}");
    for sign_of_a_crash in ["panicked", "RUST_BACKTRACE"] {
        assert!(!stderr.contains(sign_of_a_crash), "{what}: {stderr}");
    }
}

/// A command for `run` that leaves a trace.
struct Trace {
    file: PathBuf,
}

impl Trace {
    fn new(layout: &Layout) -> Self {
        Self { file: layout.file("trace") }
    }

    fn command(&self) -> [&OsStr; 2] {
        [OsStr::new("touch"), self.file.as_os_str()]
    }

    #[track_caller]
    fn expect_none(&self, what: &str) {
        assert!(!self.file.exists(), "{what}: the command was executed");
    }
}

/// A daemon that could not start has left nothing.
#[track_caller]
fn expect_untouched(layout: &Layout) {
    assert!(!layout.cgroup_dir().exists(), "a cgroup is left");
    assert!(!layout.socket().exists(), "a socket is left");
}

#[test]
fn without_a_daemon() {
    let layout = Layout::new();
    let trace = Trace::new(&layout);
    for arguments in
        [&["ps"][..], &["events"], &["status"], &["revoke", "01890000-0000-7000-8000-000000000000"]]
    {
        expect_error(layout.command(arguments), NO, "daemon", Given);
    }
    expect_error(layout.run_command(Envelope::of("none"), &trace.command()), NO, "daemon", Given);
    trace.expect_none("no daemon");
}

/// Its programs are still there; nobody is there to make a session.
#[test]
fn run_with_a_dead_daemon_executes_nothing() {
    let mut daemon = Daemon::start();
    daemon.kill9();
    let trace = Trace::new(daemon.layout());
    let command = daemon.layout().run_command(Envelope::of("dead"), &trace.command());
    expect_error(command, NO, "daemon", Given);
    trace.expect_none("a dead daemon");
}

#[test]
fn daemon_that_cannot_start() {
    let as_nobody = |mut command: Command| {
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    let layout = Layout::new();
    expect_error(as_nobody(layout.command(&["daemon"])), CANNOT, "root", Given);
    expect_error(as_nobody(layout.command(&["teardown"])), CANNOT, "root", Given);
    expect_untouched(&layout);

    // In a mount namespace of its own the daemon sees a host that lacks something.
    let cgroup_root = layout.cgroup_dir().parent().expect("below the root").display().to_string();
    let lacking: [(&str, String); 3] = [
        ("cgroup", format!("umount -l {cgroup_root}")),
        ("btf", "mount --bind /dev/null /sys/kernel/btf/vmlinux".into()),
        ("bpf", format!("umount -l {}", layout.pin_dir.parent().expect("in a bpffs").display())),
    ];
    for (says, script) in &lacking {
        let script = format!("{script} && exec \"$@\"");
        let prefix = ["unshare", "-m", "sh", "-c", &script, "sh"];
        expect_error(wrap(&prefix, &layout.command(&["daemon"])), CANNOT, says, Given);
        expect_untouched(&layout);
    }

    // Root, as it is in a container.
    let powerless = wrap(&["setpriv", "--bounding-set=-all"], &layout.command(&["daemon"]));
    expect_error(powerless, CANNOT, "", Given);
    expect_untouched(&layout);

    let mut elsewhere = Layout::new();
    elsewhere.pin_dir = elsewhere.file("no-bpffs");
    expect_error(elsewhere.command(&["daemon"]), CANNOT, "bpf", Given);
    expect_untouched(&elsewhere);
}

#[test]
fn second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let before = daemon.status();
    expect_error(daemon.layout().command(&["daemon"]), NO, "running", Given);
    let after = daemon.status();
    assert_eq!(before["daemon"]["pid"], after["daemon"]["pid"]);
    assert_eq!(before["coverage"], after["coverage"]);
}

/// What others have pinned is neither used nor removed.
#[test]
fn foreign_pins_are_refused_and_kept() {
    for (says, place) in [("foreign", "foreign"), ("", "maps/META")] {
        let layout = Layout::new();
        let pin = layout.pin_dir.join(place);
        fs::create_dir_all(pin.parent().expect("in the pin directory")).expect("the bpffs is ours");
        make_map(&pin);
        let before = pinned_ids("map", &layout.pin_dir);
        expect_error(layout.command(&["daemon"]), CANNOT, says, Given);
        expect_untouched(&layout);
        let teardown = layout.outcome(&["teardown"]);
        assert_eq!(pinned_ids("map", &layout.pin_dir), before, "{place}: {}", teardown.stderr);
        assert!(live_ids("map").is_superset(&before));
    }
}

fn make_map(pin: &std::path::Path) {
    let made = Command::new("bpftool")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["map", "create"])
        .arg(pin)
        .args(["type", "hash", "key", "4", "value", "8", "entries", "4", "name", "foreign"])
        .status()
        .expect("these tests need bpftool");
    assert!(made.success(), "bpftool map create {}: {made}", pin.display());
}

#[test]
fn commands_of_other_users_are_refused() {
    let daemon = Daemon::start();
    let trace = Trace::new(daemon.layout());
    let run = daemon.layout().run_command(Envelope::of("other"), &trace.command());
    let ps = daemon.layout().command(&["ps"]);
    let revoke = daemon.layout().command(&["revoke", "01890000-0000-7000-8000-000000000000"]);
    for (mut command, says) in [(ps, "only root"), (revoke, "only root"), (run, "nothing is granted")] {
        command.uid(NOBODY).gid(NOBODY);
        expect_error(command, NO, says, Given);
    }
    trace.expect_none("another user");
    assert_eq!(daemon.status()["sessions"], 0);
}

#[test]
fn command_that_cannot_be_executed() {
    let daemon = Daemon::start();
    let text = daemon.layout().file("text");
    fs::write(&text, "no program").expect("the directory is ours");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let text = text.to_str().expect("the path is text");
    for (program, code) in [
        ("enforcer-no-such-program", NOT_FOUND),
        ("/no/such/program", NOT_FOUND),
        (text, NOT_EXECUTABLE),
        ("/tmp", NOT_EXECUTABLE),
    ] {
        expect_error(
            daemon.layout().run_command(Envelope::of("absent"), &[program]),
            code,
            program,
            Optional,
        );
    }
    // The sessions that never came to life are over.
    daemon.wait_idle();
}

#[test]
fn envelope_that_cannot_be_read() {
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let trace = Trace::new(layout);
    let good = Envelope::of("good").allow("rule", "127.0.0.10/32", "[80]", "tcp").to_string();
    // Two mistakes: both are named.
    let bad = good.replace("127.0.0.10/32", "127.0.0.10/64").replace("mode: enforce", "mode: lenient");
    let cases: [(&str, Option<String>, &[&str]); 5] = [
        ("missing", None, &["no-such-file"]),
        ("empty", Some(String::new()), &["empty"]),
        ("not YAML", Some("{".into()), &["1:"]),
        ("two mistakes", Some(bad), &["127.0.0.10/64", "lenient"]),
        ("unknown field", Some(good.replace("ttl:", "tll:")), &["tll", "ttl"]),
    ];
    for (what, text, says) in &cases {
        let path = match text {
            Some(text) => layout.write_envelope(text),
            None => layout.file("no-such-file"),
        };
        for says in *says {
            let mut run = layout.command(&["run", "--envelope"]);
            run.arg(&path).arg("--").args(trace.command());
            let mut check = layout.command(&["check"]);
            check.arg(&path);
            for command in [run, check] {
                expect_error(command, NO, says, Optional);
            }
            trace.expect_none(what);
        }
    }
    let mut check = layout.command(&["check"]);
    check.arg(layout.write_envelope(&good));
    Process::spawn(check).finish(DEADLINE).success();
    assert_eq!(daemon.status()["sessions"], 0);
}

#[test]
fn wrong_command_lines() {
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let trace = Trace::new(layout);
    for arguments in
        [&["no-such-command"][..], &["run"], &["run", "--", "true"], &["revoke"], &["ps", "--format", "xml"]]
    {
        expect_error(layout.command(arguments), FAULT, "", Optional);
    }
    let envelope = layout.write_envelope(Envelope::of("user"));
    let mut unknown_user = layout.command(&["run", "--user", "no-such-user", "--envelope"]);
    unknown_user.arg(envelope).arg("--").args(trace.command());
    expect_error(unknown_user, FAULT, "no-such-user", Optional);
    trace.expect_none("an unknown user");
}
