//! The daemon comes and goes; enforcement stays.

use integration::{
    DEADLINE, Daemon, Envelope, Event, Pair, Process, Server, expect_nothing_slipped_through, fewer, probe,
    totals, unique, wait_until,
};

#[test]
fn nothing_slips_through_while_the_daemon_is_killed_and_restarted() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments();
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("loop").allow_server("only", &pair.allowed);
    let mut process = daemon.run(&envelope, &probe(&["connect-loop", &allowed, &refused]));
    let id = daemon.session_id("loop");

    for restart in 1..=fewer(50, 5) {
        // Traffic at both ends of the downtime, so that none of them is an idle one.
        wait_for_traffic(&mut process);
        daemon.kill9();
        wait_for_traffic(&mut process);
        daemon.restart();
        assert_eq!(daemon.status()["daemon"]["start"], "adopted", "restart {restart}");
    }
    assert_eq!(daemon.session_id("loop"), id, "it is the same session");
    let session = daemon.session("loop").expect("it is running");
    assert_eq!(session["state"], "active");
    let processes = session["processes"].as_array().expect("a list");
    assert!(processes.iter().any(|member| member["pid"] == process.pid()), "{session}");

    expect_nothing_slipped_through(process);
    assert_eq!(pair.refused.arrivals(), 0);
    daemon.wait_idle();
    for fault in ["fault_tag_store", "fault_no_session"] {
        assert_eq!(daemon.counter(fault), 0, "{fault}");
    }
}

#[test]
fn stopped_daemon_leaves_enforcement_in_place() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    assert_eq!(daemon.status()["daemon"]["start"], "fresh");
    let envelope = Envelope::of("stopped").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("stopped"));

    let mut check = |when: &str| {
        assert!(inside.attempt(&allowed), "{when}");
        assert!(!inside.attempt(&refused), "{when}");
    };
    check("before");
    assert!(daemon.stop().success(), "SIGTERM is how one stops it");
    check("stopped");
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "adopted");
    check("restarted");
    assert_eq!(pair.refused.arrivals(), 0);
    daemon.teardown();
    assert!(inside.attempt(&refused), "released");
    inside.end();
}

#[test]
fn what_happens_without_a_daemon_is_recorded() {
    const ATTEMPTS: usize = 25;
    let pair = Pair::v4("tcp");
    let refused_later = Server::start("tcp", "127.0.0.20");
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("downtime").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("downtime"));
    let pid = inside.pid();

    daemon.kill9();
    for _ in 0..ATTEMPTS {
        assert!(!inside.attempt(&format!("tcp/{}", pair.refused.address())));
    }
    daemon.restart();
    assert!(!inside.attempt(&format!("tcp/{}", refused_later.address())));

    let to = |server: &Server| {
        let address = server.address().to_string();
        move |event: &Event| {
            event.is_of("downtime") && event.is_deny() && event.decision().destination == address
        }
    };
    daemon.wait_for_events(1, "the deny after the restart", to(&refused_later));
    let events = daemon.wait_for_events(ATTEMPTS, "the denies of the downtime", to(&pair.refused));
    assert_eq!(events.len(), ATTEMPTS, "each is recorded once");
    for event in events {
        assert_eq!(event.pid(), Some(pid));
        assert_eq!(event.lineage(), [pid]);
        assert_eq!(event.text("/session/owner"), Envelope::OWNER);
    }
    inside.end();
}

/// Processes come and go while nobody looks: the tree is right afterwards, and a session that ended is over.
#[test]
fn sessions_that_change_without_a_daemon_are_listed_as_they_are() {
    let mut daemon = Daemon::start();
    let ends = daemon.run(&Envelope::of("ends"), &["cat"]);
    let mut forks = daemon.run(&Envelope::of("forks"), &["sh", "-c", "read line; cat; exit"]);
    let forks_id = daemon.session_id("forks");
    for agent in ["ends", "forks"] {
        daemon.wait_for_events(1, "it runs", |event| event.is_of(agent) && event.kind() == "exec");
    }

    daemon.kill9();
    ends.finish(DEADLINE).success();
    forks.write_line("go");
    forks.write_line("cat is there");
    assert_eq!(forks.read_line(DEADLINE), "cat is there");
    daemon.restart();

    wait_until(DEADLINE, "the ended session is not listed as active", || {
        let session = daemon.session("ends");
        session.is_none_or(|session| session["state"] != "active").then_some(())
    });
    let session = daemon.session("forks").expect("it is running");
    assert_eq!(session["id"], forks_id.as_str());
    let processes = session["processes"].as_array().expect("a list");
    let cat = processes.iter().find(|process| process["comm"] == "cat").expect("the child is listed");
    assert_eq!(cat["parent_pid"], forks.pid());
    assert_eq!(processes.len(), 2);
    forks.finish(DEADLINE).success();
}

/// Waits until the loop has made more connections to either address than it had.
fn wait_for_traffic(process: &mut Process) {
    let mut ask = || {
        process.write_line("");
        let count = totals(&process.read_line(DEADLINE));
        [count("allowed_ok") + count("allowed_failed"), count("refused_eperm") + count("refused_ok")]
    };
    let before = ask();
    wait_until(DEADLINE, "the loop goes on", || {
        ask().iter().zip(before).all(|(now, before)| *now > before + 10).then_some(())
    });
}
