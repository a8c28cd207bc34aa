//! What an administrator takes away while sessions run.

use std::fs;

use integration::{DEADLINE, Daemon, Envelope, Pair, Process, unique, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A cgroup can be removed when nobody is in it. The tag holds the process to its envelope all the same, and the session can be
/// revoked, and ends.
#[test]
fn session_whose_cgroup_is_removed_is_held_by_its_tag() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("homeless").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("homeless"));
    let cgroup = daemon.session_cgroup("homeless");
    let root = daemon.layout().cgroup_dir().parent().expect("below the root").to_owned();
    fs::write(root.join("cgroup.procs"), inside.pid().to_string()).expect("as root");
    fs::remove_dir(&cgroup).expect("nobody is in it");
    assert!(inside.attempt(&allowed));
    assert!(!inside.attempt(&refused));
    daemon.kill9();
    assert!(!inside.attempt(&refused));
    daemon.restart();
    assert!(inside.attempt(&allowed));
    assert!(!inside.attempt(&refused));

    let receipt = daemon.receipt(&["revoke", &daemon.session_id("homeless")]);
    assert_eq!(receipt["state"], "revoked");
    assert!(!inside.attempt(&allowed));
    inside.end();
    wait_until(DEADLINE, "it is over", || daemon.session("homeless").is_none().then_some(()));
    assert_eq!(pair.refused.arrivals(), 0);
    let mut next = daemon.converse(&envelope, &unique("next"));
    assert!(next.attempt(&allowed));
    assert!(!next.attempt(&refused));
    next.end();
}

/// The programs know the parent by its number, which another one does not get: no session begins until a daemon has made another.
#[test]
fn no_session_begins_without_the_parent_cgroup() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let parent = daemon.layout().cgroup_dir();
    let trace = daemon.layout().file("trace");
    let touch = ["touch", trace.to_str().expect("the path is text")];
    let envelope = Envelope::of("orphan").allow_server("only", &pair.allowed);
    fs::remove_dir(&parent).expect("there is no session");
    for remade in [false, true] {
        if remade {
            fs::create_dir(&parent).expect("as root");
        }
        let end = daemon.run(&envelope, &touch).finish(DEADLINE);
        if end.status.success() {
            // Begun after all: then it has to be held.
            let mut inside = daemon.converse(&envelope, &unique("orphan"));
            assert!(inside.attempt(&allowed) && !inside.attempt(&refused), "remade: {remade}");
            inside.end();
            fs::remove_file(&trace).expect("it was made");
        } else {
            assert!(end.stderr.contains("error: "), "{}", end.stderr);
            assert!(!trace.exists(), "the command was executed");
        }
    }
    daemon.stop();
    daemon.restart();
    let mut inside = daemon.converse(&envelope, &unique("orphan"));
    assert!(inside.attempt(&allowed));
    assert!(!inside.attempt(&refused));
    inside.end();
}

/// The pins are gone then; the daemon holds the programs in place. A daemon that starts on an empty file system knows nothing of the
/// sessions before it: what is in their cgroups is refused everything.
#[test]
fn sessions_are_held_while_the_bpf_file_system_is_remounted() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("remounted").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("remounted"));
    let bpffs = daemon.layout().pin_dir.parent().expect("in a bpffs").to_owned();
    umount2(&bpffs, MntFlags::MNT_DETACH).expect("it is ours");
    for _ in 0..3 {
        assert!(inside.attempt(&allowed));
        assert!(!inside.attempt(&refused), "held without pins");
    }
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).expect("it is ours");
    assert!(!inside.attempt(&refused), "held with an empty file system");
    assert_eq!(daemon.session("remounted").expect("it is running")["state"], "active");

    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "fresh");
    assert!(!inside.attempt(&refused));
    assert!(!inside.attempt(&allowed), "of its session nothing is left, and so nothing is allowed");
    let mut next = daemon.converse(&envelope, &unique("next"));
    assert!(next.attempt(&allowed));
    assert!(!next.attempt(&refused));
    next.end();
    inside.end();
    let end: Process = daemon.run(&envelope, &["true"]);
    end.finish(DEADLINE).success();
}
