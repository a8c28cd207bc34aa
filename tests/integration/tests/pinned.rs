//! What is left in the kernel, seen by `bpftool`: everything while the daemon is dead, nothing after a teardown.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use integration::{DEADLINE, Daemon, Envelope, Layout, Pair, live_ids, pinned_ids, unique, wait_until};

const KINDS: [&str; 3] = ["prog", "map", "link"];

/// The ids of the daemon's own objects, by kind in the order of [`KINDS`].
fn own_ids(daemon: &Daemon) -> [BTreeSet<u64>; 3] {
    let status = daemon.status();
    let coverage = status["coverage"].as_array().expect("a list");
    // Those of a guard that is not there have none.
    let programs = coverage.iter().filter(|hook| hook["needed"] == true).map(|hook| {
        assert_eq!(hook["attached"], true, "{hook}");
        hook["program_id"].as_u64().unwrap_or_else(|| panic!("no program id: {hook}"))
    });
    let pins = &daemon.layout().pin_dir;
    [programs.collect(), pinned_ids("map", pins), pinned_ids("link", pins)]
}

fn expect_nothing_left(layout: &Layout, ids: &[BTreeSet<u64>; 3]) {
    for (kind, ids) in KINDS.into_iter().zip(ids) {
        // The kernel frees an object some time after its last holder is gone.
        wait_until(DEADLINE, &format!("no {kind} is left of {ids:?}"), || {
            live_ids(kind).is_disjoint(ids).then_some(())
        });
    }
    for path in [&layout.pin_dir, &layout.run_dir(), &layout.state_dir()] {
        assert_eq!(entries(path), [""; 0], "{}", path.display());
    }
    assert!(!layout.cgroup_dir().exists(), "the cgroup is left");
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn programs_outlive_a_killed_daemon_and_not_a_teardown() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("pinned").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("pinned"));
    let ids = own_ids(&daemon);
    for (kind, ids) in KINDS.into_iter().zip(&ids) {
        assert!(!ids.is_empty(), "there is a pinned {kind}");
    }

    daemon.kill9();
    for (kind, ids) in KINDS.into_iter().zip(&ids) {
        assert!(live_ids(kind).is_superset(ids), "each {kind} of {ids:?} is still loaded");
    }
    assert!(inside.attempt(&allowed));
    assert!(!inside.attempt(&refused));

    daemon.teardown();
    expect_nothing_left(daemon.layout(), &ids);
    assert!(inside.attempt(&refused), "released");
    inside.end();
}

#[test]
fn teardown_ends_a_running_daemon_and_names_the_sessions() {
    let pair = Pair::v4("tcp");
    let refused = format!("tcp/{}", pair.refused.address());
    let mut daemon = Daemon::start();
    let mut inside = daemon.converse(&Envelope::of("released"), &unique("released"));
    let id = daemon.session_id("released");
    let ids = own_ids(&daemon);
    assert!(!inside.attempt(&refused));

    let said = daemon.teardown().join("\n");
    assert!(said.contains(&id), "it names the session it releases: {said}");
    expect_nothing_left(daemon.layout(), &ids);
    assert!(inside.attempt(&refused), "released");
    inside.end();
    assert_eq!(daemon.layout().outcome(&["status"]).status.code(), Some(1), "nothing is running");
}

#[test]
fn teardown_is_followed_by_a_fresh_start() {
    let mut daemon = Daemon::start();
    let first = own_ids(&daemon);
    daemon.teardown();
    // Where nothing is, there is nothing to do.
    daemon.layout().outcome(&["teardown"]).success();
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "fresh");
    let second = own_ids(&daemon);
    assert!(first[0].is_disjoint(&second[0]), "the programs are new ones");
}

/// A restarted daemon takes over what is there; it does not load a second set.
#[test]
fn adoption_loads_nothing_new() {
    let mut daemon = Daemon::start();
    let before = own_ids(&daemon);
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "adopted");
    assert_eq!(own_ids(&daemon), before);
}
