//! A session that is over is refused everything, whatever its envelope allows.

use std::time::{Duration, Instant};

use integration::{
    Conversation, DEADLINE, Daemon, Envelope, Event, Pair, Server, probe, scaled, totals, unique, wait_until,
};

/// A session that may reach `server`, and has.
fn session(daemon: &Daemon, envelope: Envelope, server: &Server) -> (Conversation, String) {
    let envelope = envelope.allow_server("only", server);
    let mut inside = daemon.converse(&envelope, &unique("session"));
    let spec = format!("tcp/{}", server.address());
    assert!(inside.attempt(&spec), "reachable at first");
    (inside, spec)
}

#[track_caller]
fn expect_reason(daemon: &Daemon, agent: &str, reason: &str) {
    let of_reason = |event: &Event| {
        event.is_of(agent) && event.is_deny() && event.text("/reason") == reason && event.is_refused()
    };
    let events = daemon.wait_for_events(1, &format!("a deny because {reason}"), of_reason);
    assert!(events[0].at("/rule").is_null(), "no rule was asked");
}

#[test]
fn revoked_session_is_refused_its_next_connection() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let (mut inside, spec) = session(&daemon, Envelope::of("revoked"), &pair.allowed);
    let (mut neighbour, _) = session(&daemon, Envelope::of("neighbour"), &pair.allowed);
    let id = daemon.session_id("revoked");

    daemon.layout().outcome(&["revoke", &id]).success();
    let before = pair.allowed.arrivals();
    assert!(!inside.attempt(&spec), "refused at once");
    assert!(!inside.attempt(&format!("udp-sendto/{}", pair.allowed.address())), "in every way");
    assert_eq!(pair.allowed.arrivals(), before);
    expect_reason(&daemon, "revoked", "revoked");
    assert_eq!(daemon.session("revoked").expect("it still has a process")["state"], "revoked");
    daemon.wait_for_events(1, "the revocation is recorded", |event| {
        event.is_of("revoked") && event.kind() == "session-revoked" && event.text("/session/id") == id
    });

    assert!(neighbour.attempt(&spec), "the neighbour is not concerned");
    inside.end();
    neighbour.end();
}

#[test]
fn revocation_holds_after_a_restart() {
    let pair = Pair::v4("tcp");
    let mut daemon = Daemon::start();
    let (mut inside, spec) = session(&daemon, Envelope::of("revoked"), &pair.allowed);
    daemon.layout().outcome(&["revoke", &daemon.session_id("revoked")]).success();
    daemon.kill9();
    assert!(!inside.attempt(&spec));
    daemon.restart();
    assert!(!inside.attempt(&spec));
    assert_eq!(daemon.session("revoked").expect("it still has a process")["state"], "revoked");
    inside.end();
}

#[test]
fn session_expires_also_without_a_daemon() {
    let ttl = format!("{}s", scaled(Duration::from_secs(12)).as_secs());
    for (agent, daemon_lives) in [("expiring", true), ("expiring-alone", false)] {
        let pair = Pair::v4("tcp");
        let mut daemon = Daemon::start();
        let (mut inside, spec) = session(&daemon, Envelope::of(agent).ttl(&ttl), &pair.allowed);
        let session = daemon.session(agent).expect("it is running");
        let expires: jiff::Timestamp =
            session["expires"].as_str().and_then(|time| time.parse().ok()).expect("a time");
        if !daemon_lives {
            daemon.kill9();
        }
        let before = pair.allowed.arrivals();
        // What is said is the wall clock's, which is not the one that counts.
        let expired = expires + scaled(Duration::from_millis(200));
        wait_until(DEADLINE, "its time comes", || (jiff::Timestamp::now() >= expired).then_some(()));
        assert!(!inside.attempt(&spec), "refused at once");
        assert!(!inside.attempt(&spec), "and it stays so");
        assert_eq!(pair.allowed.arrivals(), before);
        if !daemon_lives {
            daemon.restart();
        }
        expect_reason(&daemon, agent, "expired");
        daemon.wait_for_events(1, "it is recorded", |event| {
            event.is_of(agent) && event.kind() == "session-expired"
        });
        let listed = || daemon.session(agent).filter(|session| session["state"] == "expired");
        wait_until(DEADLINE, "it is listed as expired", listed);
        inside.end();
    }
}

#[test]
fn revoking_what_is_not_there_says_so() {
    let daemon = Daemon::start();
    for id in ["01890000-0000-7000-8000-000000000000", "not-an-id"] {
        let outcome = daemon.layout().outcome(&["revoke", id]);
        assert!(!outcome.status.success(), "{id}");
        assert!(outcome.stderr.contains("error: "), "{id}: {}", outcome.stderr);
    }
}

/// A session that makes records faster than they can be written down does not keep the daemon from its other work.
#[test]
fn busy_sessions_can_be_revoked() {
    const ANSWER_TIME: Duration = Duration::from_secs(10);
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments();
    let daemon = Daemon::start();
    let agents = ["busy-1", "busy-2"];
    let mut loops = agents.map(|agent| {
        let envelope = Envelope::of(agent).allow_server("only", &pair.allowed);
        daemon.run(&envelope, &probe(&["connect-loop", &allowed, &refused]))
    });
    let mut reached = || {
        loops.each_mut().map(|process| {
            process.write_line("");
            let count = totals(&process.read_line(DEADLINE));
            (count("allowed_ok"), count("refused_eperm"))
        })
    };
    wait_until(DEADLINE, "both are busy", || reached().iter().all(|(count, _)| *count > 1000).then_some(()));

    for agent in agents {
        let started = Instant::now();
        let id = daemon.session_id(agent);
        daemon.layout().outcome(&["revoke", &id]).success();
        assert!(
            started.elapsed() < scaled(ANSWER_TIME),
            "{agent}: listed and revoked in {:?}",
            started.elapsed()
        );
    }
    // Some further rounds: what was under way is over, and then no connection succeeds.
    let mut go_on = || {
        let before = reached();
        wait_until(DEADLINE, "both go on trying", || {
            let now = reached();
            now.iter().zip(before).all(|(now, before)| now.1 > before.1 + 100).then_some(now.map(|now| now.0))
        })
    };
    let revoked = go_on();
    assert_eq!(go_on(), revoked);
}
