//! Records that cannot be kept are counted, to the last one; what they would have said is enforced all the same.

use integration::{DEADLINE, Daemon, Envelope, Event, LOAD_DEADLINE, Server, probe, totals, wait_until};

/// Three records each (fork, deny, exit): more than the kernel's buffer holds.
const CHILDREN: u64 = 30_000;

#[test]
fn full_buffer_changes_no_verdict_and_is_reported() {
    let server = Server::start("udp", "127.0.0.20");
    let mut daemon = Daemon::start();
    let work = probe(&["quick-forks", &CHILDREN.to_string(), &server.address().to_string()]);
    let wait_and_work = ["sh", "-c", "read line; exec \"$@\"", "sh"].map(str::to_owned);
    let mut process = daemon.run(&Envelope::of("flood"), &[&wait_and_work[..], &work].concat());
    daemon.wait_for_events(1, "the first exec is written down", |event| {
        event.is_of("flood") && event.kind() == "exec"
    });

    // Nobody reads the records.
    daemon.kill9();
    process.write_line("go");
    let lines = process.finish(LOAD_DEADLINE).success();
    let count = totals(&lines[0]);
    assert_eq!([count("succeeded"), count("other"), count("refused")], [0, 0, CHILDREN]);
    daemon.restart();

    let reported = |events: &[Event]| -> u64 {
        let lost = events.iter().filter(|event| event.kind() == "records-lost");
        lost.map(|event| event.at("/lost").as_u64().expect("a number")).sum()
    };
    daemon.wait_for_events(1, "the loss is recorded", |event| event.kind() == "records-lost");
    let lost = daemon.counter("fault_record_lost");
    assert!(lost > 0, "the buffer was full");
    assert_eq!(daemon.counter("refused"), CHILDREN);
    assert_eq!(reported(&daemon.events()), lost);

    // Each record is there or counted. Beside three per child: two execs and the end of the first process.
    let from_kernel = ["egress", "fork", "exec", "exit"];
    let is_record = |event: &Event| from_kernel.contains(&event.kind());
    let expect = 3 * CHILDREN + 3 - lost;
    let found = daemon.wait_for_events(expect as usize, "what was not lost is written down", is_record);
    assert_eq!(found.len() as u64, expect);
    // The session is over, though nobody saw its processes end.
    wait_until(DEADLINE, "the session is gone", || daemon.session("flood").is_none().then_some(()));
    daemon.wait_idle();
}
