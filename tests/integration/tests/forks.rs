//! Many short-lived processes: none of them is without its tag for a moment.

use integration::{Daemon, Envelope, LOAD_DEADLINE, Server, fewer, probe, run_outside, totals};

#[test]
fn no_child_is_quicker_than_its_tag() {
    let children = u64::from(fewer(20_000, 1_000));
    // Nothing is sent: the connect() of a UDP socket is a decision and nothing else.
    let server = Server::start("udp", "127.0.0.20");
    let command = probe(&["quick-forks", &children.to_string(), &server.address().to_string()]);
    let few = probe(&["quick-forks", "100", &server.address().to_string()]);
    let control = |phase: &str| {
        let count = totals(&run_outside(&few)[0]);
        assert_eq!([count("succeeded"), count("refused"), count("other")], [100, 0, 0], "{phase}");
    };
    control("control");

    let mut daemon = Daemon::start();
    let lines = daemon.run(&Envelope::of("forks"), &command).finish(LOAD_DEADLINE).success();
    let count = totals(&lines[0]);
    assert_eq!([count("succeeded"), count("other"), count("refused")], [0, 0, children]);

    daemon.wait_idle();
    let counter = |name| daemon.counter(name);
    // One more than the children: their parent.
    assert_eq!(counter("tags_made"), children + 1);
    assert_eq!(counter("tags_removed"), children + 1);
    assert_eq!(counter("refused"), children);
    for fault in ["fault_tag_store", "fault_tag_stale", "fault_no_session", "fault_kernel_read"] {
        assert_eq!(counter(fault), 0, "{fault}");
    }
    control("beside");
    daemon.teardown();
    control("released");
}

/// The same from several sessions at once, each with its own rules: no child is counted to another's session.
#[test]
fn sessions_that_fork_at_once_do_not_mix() {
    let each = u64::from(fewer(2_000, 200));
    let servers: [Server; 3] = std::array::from_fn(|_| Server::start("udp", "127.0.0.20"));
    let daemon = Daemon::start();
    // Session n may reach server n, and tries to reach the next.
    let sessions: Vec<_> = (0..servers.len())
        .flat_map(|n| [(n, n, "succeeded"), (n, (n + 1) % servers.len(), "refused")])
        .map(|(own, target, outcome)| {
            let envelope = Envelope::of(&format!("agent-{own}-{outcome}")).allow_server("own", &servers[own]);
            let address = servers[target].address().to_string();
            (outcome, daemon.run(&envelope, &probe(&["quick-forks", &each.to_string(), &address])))
        })
        .collect();
    for (outcome, process) in sessions {
        let count = totals(&process.finish(LOAD_DEADLINE).success()[0]);
        assert_eq!(count(outcome), each, "{outcome}");
    }
    daemon.wait_idle();
    assert_eq!(daemon.counter("fault_tag_store"), 0);
    assert_eq!(daemon.counter("tags_made"), daemon.counter("tags_removed"));
}
