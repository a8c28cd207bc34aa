//! Whom else a registration concerns: orphans of the tree, the daemon, connections that go on when it fails, and root.

use std::fs;
use std::io::Read as _;
use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
use std::thread;
use std::time::{Duration, Instant};

use integration::{Actor, DEADLINE, Daemon, Envelope, Layout, Process, far_end, scaled, wait_until, wrap};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Orphans go to the nearest process that asked for them (`PR_SET_CHILD_SUBREAPER`): `systemd --user`, a container's shim. Not only
/// to process 1.
#[test]
fn orphan_that_another_process_than_the_first_took_in_is_found_or_said() {
    nix::sys::prctl::set_child_subreaper(true).expect("anybody may");
    let daemon = Daemon::start();
    let (listener, address) = far_end();
    let signal = daemon.layout().file("now");
    let mut agent = Actor::outside();
    agent.must(&format!("orphan {address} {}", signal.display()));
    let pid = agent.pid().to_string();
    let answer = daemon.register(&Envelope::of("parent"), &["--pid", &pid, "--children"]);
    fs::write(&signal, "").expect("the directory is ours");
    let reached = agent.answer(DEADLINE);
    drop(listener);
    agent.finish().success();
    assert!(
        answer["complete"] == false || reached == format!("orphan {}", libc::EPERM),
        "said to be complete, and yet: {reached}, {answer}"
    );
}

/// A registration that fails says "everything runs as before": then connections do, too.
#[test]
fn connections_go_on_when_a_registration_is_undone() {
    const PAGE: u64 = 4096;
    let layout = Layout::new();
    let state = layout.state_dir();
    fs::create_dir(&state).expect("the directory is ours");
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=2m,mode=700")).expect("as root");
    let mut daemon = Daemon::start_in(layout);
    let (listener, address) = far_end();
    let mut outside = Actor::outside();
    outside.must(&format!("connect {address}"));
    let (mut stream, _) = listener.accept().expect("it is connected");
    // Room for a session to be written down once, not for it to be replaced.
    let filler = fs::File::create(state.join("filler")).expect("there is room");
    let mut len = 0;
    while nix::fcntl::posix_fallocate(&filler, len, PAGE.cast_signed()).is_ok() {
        len += PAGE.cast_signed();
    }
    filler.set_len(len.cast_unsigned() - PAGE).expect("it is ours");
    let envelope =
        daemon.layout().write_envelope(Envelope::of("undone").allow("all", "127.0.0.0/8", "any", "tcp"));
    let envelope = envelope.to_string_lossy().into_owned();
    let pid = outside.pid().to_string();
    let answer = daemon.layout().outcome(&["register", "--envelope", &envelope, "--pid", &pid]);
    fs::remove_file(state.join("filler")).expect("it is ours");
    assert!(!answer.status.success(), "{:?}: the disk was full", answer.stdout);
    assert!(answer.stderr.contains("runs as before"), "{}", answer.stderr);
    outside.must("send still-here");
    stream.set_read_timeout(Some(scaled(DEADLINE))).expect("it is not zero");
    let mut text = [0; 10];
    let read = stream.read_exact(&mut text);
    outside.finish().success();
    // Teardown removes the directory, which it cannot while something is mounted there.
    daemon.kill9();
    umount2(&state, MntFlags::MNT_DETACH).expect("it is mounted");
    read.expect("its connection goes on");
}

/// The daemon that stops the processes must not be one of them.
#[test]
fn daemon_is_not_registered_with_what_started_it() {
    let layout = Layout::new();
    let start = wrap(&["sh", "-c", "\"$@\" & wait", "sh"], &layout.command(&["daemon"]));
    let starter = Process::spawn(start);
    wait_until(DEADLINE, "the daemon is ready", || {
        layout.outcome(&["status"]).status.success().then_some(())
    });
    let envelope = layout.write_envelope(Envelope::of("ancestor")).to_string_lossy().into_owned();
    let pid = starter.pid().to_string();
    let mut asked =
        Process::spawn(layout.command(&["register", "--envelope", &envelope, "--pid", &pid, "--children"]));
    // Without a panic when there is no end of it: what stands still has to be thawed first.
    let end = Instant::now() + scaled(DEADLINE);
    while !asked.has_ended() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    let answered = asked.has_ended();
    drop(asked);
    // For what is in it to end.
    for cgroup in fs::read_dir(layout.cgroup_dir()).expect("the daemon made it").flatten() {
        // Only directories have the file.
        let _ = fs::write(cgroup.path().join("cgroup.freeze"), "0");
    }
    let daemon = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    for child in daemon.split_whitespace() {
        let child = child.parse().map(Pid::from_raw).expect("a number");
        // It may have ended meanwhile.
        let _ = kill(child, Signal::SIGKILL);
    }
    drop(starter);
    assert!(answered, "the daemon has stopped itself");
}

/// Who may operate the daemon, and is not root, may not end a process of root's otherwise.
#[test]
fn member_of_the_group_does_not_end_what_is_roots() {
    const NOBODY: u32 = 65534;
    let group = nix::unistd::Group::from_gid(NOBODY.into()).expect("readable").expect("there is one");
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.restart_with(&["--group", &group.name]);
    let mut victim = Actor::outside();
    let envelope = daemon.layout().write_envelope(Envelope::of("taken"));
    fs::set_permissions(&envelope, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let (envelope, pid) = (envelope.to_string_lossy().into_owned(), victim.pid().to_string());
    let as_nobody = |arguments: &[&str]| {
        let mut command = daemon.layout().command(arguments);
        command.uid(NOBODY).gid(NOBODY);
        Process::spawn(command).finish(DEADLINE)
    };
    assert!(as_nobody(&["status"]).status.success(), "members may ask");
    let registered = as_nobody(&["register", "--envelope", &envelope, "--pid", &pid]);
    if registered.status.success() {
        let id = daemon.session_id("taken");
        as_nobody(&["revoke", "--kill", &id]).success();
        wait_until(DEADLINE, "its session ends", || daemon.session("taken").is_none().then_some(()));
    }
    assert!(!victim.has_ended(), "a member of the group has ended root's process");
    victim.finish().success();
}
