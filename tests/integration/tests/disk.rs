//! A full disk takes nothing from enforcement and nothing from control, and what it costs is said.

use std::fs;
use std::process::Command;

use integration::{DEADLINE, Daemon, Envelope, Layout, Pair, Process, unique, wait_until};

#[test]
fn full_disk_neither_ends_the_daemon_nor_opens_anything() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let layout = Layout::new();
    let state = layout.state_dir();
    fs::create_dir(&state).expect("the directory is ours");
    mount(&["-t", "tmpfs", "-o", "size=128k", "tmpfs"], &state);
    let daemon = Daemon::start_in(layout);
    let envelope = |name| Envelope::of(name).allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope("early"), &unique("early"));
    assert!(inside.attempt(&allowed), "control: it works");

    let full = format!("{:.9}", jiff::Timestamp::now());
    let filler = state.join("filler");
    Process::spawn(fill(&filler)).finish(DEADLINE);
    wait_until(DEADLINE, "lines are missing", || {
        assert!(inside.attempt(&allowed) && !inside.attempt(&refused), "enforcement goes on");
        (daemon.counter("fault_event_unwritten") > 0).then_some(())
    });
    let trace = daemon.layout().file("trace");
    let late = daemon.run(&envelope("late"), &["touch", &trace.display().to_string()]).finish(DEADLINE);
    assert_eq!(
        late.status.code(),
        Some(2),
        "a session that cannot be written down is not begun: {}",
        late.stderr
    );
    assert!(!trace.exists());
    assert_eq!(daemon.session("late"), None);
    // It is in force in the kernel, though it cannot be written down: that is what the exit code says.
    let revoked = daemon.layout().outcome(&["revoke", &daemon.session_id("early")]);
    assert_eq!(revoked.status.code(), Some(2), "{}", revoked.stderr);
    assert!(!inside.attempt(&allowed), "revoked all the same");

    fs::remove_file(&filler).expect("it is ours");
    assert!(!inside.attempt(&allowed));
    let said = daemon.wait_for_events(1, "the loss is said", |event| event.kind() == "records-lost");
    assert!(said[0].at("/lost").as_u64().is_some_and(|lost| lost > 0));
    let times =
        said[0].text("/detail").rsplit_once(", from ").and_then(|(_, times)| times.split_once(" to "));
    let (first, last) = times.expect("from when to when");
    assert!(full.as_str() <= first && first <= last && last <= said[0].text("/time"), "{said:?}");
    assert_eq!(daemon.session("early").expect("it has a process")["state"], "revoked");
    inside.end();
    daemon.wait_idle();
    let mut umount = Command::new("umount");
    umount.arg("-l").arg(&state);
    Process::spawn(umount).finish(DEADLINE).success();
}

fn mount(what: &[&str], at: &std::path::Path) {
    let mut command = Command::new("mount");
    command.args(what).arg(at);
    Process::spawn(command).finish(DEADLINE).success();
}

/// Writes until there is no room. It ends with a failure, which is its purpose.
fn fill(file: &std::path::Path) -> Command {
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=1k"]).arg(format!("of={}", file.display()));
    command
}
