//! A session is carried twice, by a tag and by a cgroup. Where they do not agree, the stricter reading holds.

use std::fs;
use std::path::{Path, PathBuf};

use integration::{Conversation, DEADLINE, Daemon, Envelope, Event, Pair, unique, wait_until};

/// The cgroup (version 2) of a process.
fn cgroup_of(daemon: &Daemon, pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process is there");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2 is mounted");
    cgroup_root(daemon).join(path)
}

fn cgroup_root(daemon: &Daemon) -> PathBuf {
    daemon.layout().cgroup_dir().parent().expect("below the root").to_owned()
}

fn move_to(cgroup: &Path, pid: i32) {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string()).expect("the process can be moved");
}

#[test]
fn each_session_has_a_cgroup_which_goes_with_it() {
    let daemon = Daemon::start();
    let sessions = ["one", "two"].map(|agent| daemon.run(&Envelope::of(agent), &["cat"]));
    let [one, two] = sessions.each_ref().map(|process| {
        wait_until(DEADLINE, "it is enrolled", || {
            let cgroup = cgroup_of(&daemon, process.pid());
            cgroup.starts_with(daemon.layout().cgroup_dir()).then_some(cgroup)
        })
    });
    assert_ne!(one, two);
    drop(sessions);
    daemon.wait_idle();
    wait_until(DEADLINE, "the cgroups are removed", || (!one.exists() && !two.exists()).then_some(()));
}

/// A member that no session made gets none of the session's rights.
#[test]
fn stranger_in_a_sessions_cgroup_is_refused_everything() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let allowed = format!("tcp/{}", pair.allowed.address());
    let mut stranger = Conversation::outside(&unique("stranger"));
    let home = cgroup_of(&daemon, stranger.pid());
    assert!(stranger.attempt(&allowed), "control");

    let envelope = Envelope::of("host").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("host"));
    assert!(inside.attempt(&allowed));
    move_to(&cgroup_of(&daemon, inside.pid()), stranger.pid());
    assert!(!stranger.attempt(&allowed));
    let pid = stranger.pid();
    let untagged = |event: &Event| event.is_deny() && event.pid() == Some(pid) && event.is_of("host");
    let events = daemon.wait_for_events(1, "the deny names the stranger", untagged);
    assert_eq!([events[0].text("/reason"), events[0].text("/placement")], ["untagged", "untagged"]);
    assert!(!stranger.attempt(&allowed), "again");
    expect_one_sign(&daemon, "host", pid);
    move_to(&home, pid);
    assert!(stranger.attempt(&allowed), "released");
    assert!(inside.attempt(&allowed), "the session is not concerned");
    stranger.end();
    inside.end();
}

#[test]
fn process_that_leaves_its_cgroup_keeps_its_session() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let daemon = Daemon::start();
    let envelope = Envelope::of("runaway").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("runaway"));
    assert!(inside.attempt(&allowed));
    let home = cgroup_of(&daemon, inside.pid());
    move_to(&cgroup_root(&daemon), inside.pid());
    for _ in 0..3 {
        assert!(inside.attempt(&allowed), "it has its rules");
        assert!(!inside.attempt(&refused));
    }
    assert_eq!(pair.refused.arrivals(), 0);
    let of_egress = |event: &Event| event.is_of("runaway") && event.kind() == "egress";
    let placed = |event: &Event| of_egress(event) && event.find("/placement").is_some();
    let events = daemon.wait_for_events(6, "the record says where it is", placed);
    assert!(events.iter().all(|event| event.text("/placement") == "outside"));
    expect_one_sign(&daemon, "runaway", inside.pid());
    assert!(daemon.counter("displaced") >= 6);
    // Back at home, all is as it was.
    move_to(&home, inside.pid());
    assert!(inside.attempt(&allowed));
    assert_eq!(daemon.wait_for_events(6, "there are no more", placed).len(), 6);
    inside.end();
}

/// What two sessions may together, neither may.
#[test]
fn process_in_another_sessions_cgroup_is_refused_everything() {
    let [one, two] = [Pair::v4("tcp"), Pair::v4("tcp")];
    let specs = [&one, &two].map(|pair| format!("tcp/{}", pair.allowed.address()));
    let daemon = Daemon::start();
    let [mut mover, mut host] = [("mover", &one), ("host", &two)].map(|(agent, pair)| {
        daemon.converse(&Envelope::of(agent).allow_server("only", &pair.allowed), &unique(agent))
    });
    assert!(mover.attempt(&specs[0]) && host.attempt(&specs[1]));
    let home = cgroup_of(&daemon, mover.pid());
    move_to(&cgroup_of(&daemon, host.pid()), mover.pid());
    for spec in &specs {
        assert!(!mover.attempt(spec));
    }
    let denies = |event: &Event| event.is_of("mover") && event.is_deny();
    for event in daemon.wait_for_events(2, "the denies", denies) {
        assert_eq!([event.text("/reason"), event.text("/placement")], ["other-session", "other-session"]);
        assert_eq!(event.pid(), Some(mover.pid()));
    }
    expect_one_sign(&daemon, "mover", mover.pid());
    assert!(host.attempt(&specs[1]), "the other session is not concerned");
    move_to(&home, mover.pid());
    assert!(mover.attempt(&specs[0]), "back at home, all is as it was");
    mover.end();
    host.end();
}

/// That a process is not where it should be is said once, however often it is seen.
#[track_caller]
fn expect_one_sign(daemon: &Daemon, agent: &str, pid: i32) {
    let sign = |event: &Event| event.kind() == "escape-sign" && event.is_of(agent);
    let signs = daemon.wait_for_events(1, "an alarm", sign);
    assert_eq!(signs.len(), 1);
    assert_eq!(signs[0].pid(), Some(pid));
    assert!(!signs[0].text("/detail").is_empty());
}
