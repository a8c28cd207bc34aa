//! What a quarantine or a revocation has made stand still.

use integration::{Daemon, Envelope, is_to_be_frozen};

/// What the receipt says of the processes is so.
#[test]
fn revocation_after_quarantine_says_what_the_processes_are() {
    let daemon = Daemon::start();
    let inside = daemon.act(&Envelope::of("cold"));
    let (id, cgroup) = (daemon.session_id("cold"), daemon.session_cgroup("cold"));
    daemon.layout().outcome(&["quarantine", &id]).success();
    assert!(is_to_be_frozen(&cgroup));
    let receipt = daemon.receipt(&["revoke", &id]);
    let said = if is_to_be_frozen(&cgroup) { "frozen" } else { "running" };
    daemon.kill_sessions();
    drop(inside);
    assert_eq!(receipt["processes_are"], said);
}

/// Who froze a session to look at it finds it so after an upgrade of the daemon.
#[test]
fn frozen_by_revocation_is_frozen_when_the_daemon_starts_again() {
    let mut daemon = Daemon::start();
    let inside = daemon.act(&Envelope::of("cold"));
    let (id, cgroup) = (daemon.session_id("cold"), daemon.session_cgroup("cold"));
    daemon.layout().outcome(&["revoke", "--freeze", &id]).success();
    assert!(is_to_be_frozen(&cgroup));
    daemon.kill9();
    daemon.restart();
    let frozen = is_to_be_frozen(&cgroup);
    daemon.kill_sessions();
    drop(inside);
    assert!(frozen, "it goes on");
}
