//! A daemon of its own, in which things go wrong: a file that it cannot take away, and records for which the kernel has no room.

use std::fs;

use integration::{Daemon, Envelope, LOAD_DEADLINE, probe, records_made, wait_until};

/// What it says of that, as lines.
pub(crate) fn lines() -> Vec<String> {
    let mut daemon = Daemon::start();
    let process = daemon.run(&Envelope::of("unremovable"), &["cat"]);
    let id = daemon.session_id("unremovable");
    let file = daemon.layout().state_dir().join(format!("sessions/{id}.json"));
    fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("it is ours");
    fs::write(file.join("in-the-way"), "").expect("it is ours");
    drop(process);
    let faults = wait_for_lines(&daemon, "daemon-fault");
    fs::remove_dir_all(&file).expect("it is ours");

    let flood = daemon.run(&Envelope::of("flood"), &probe(&["verdicts", "1", "127.0.0.20:9"]));
    daemon.session_id("flood");
    // Nobody reads them.
    daemon.kill9();
    wait_until(LOAD_DEADLINE, "more is made than there is room for", || {
        (records_made(&daemon).iter().sum::<u64>() > 50_000).then_some(())
    });
    drop(flood);
    daemon.restart();
    [faults, wait_for_lines(&daemon, "records-lost")].concat()
}

/// Lines of a kind, when there are some. Of the file, since there are too many others to ask for them all.
fn wait_for_lines(daemon: &Daemon, kind: &str) -> Vec<String> {
    let file = daemon.layout().state_dir().join("events.jsonl");
    let kind = format!(r#""kind":"{kind}""#);
    wait_until(LOAD_DEADLINE, &format!("{kind} is written down"), || {
        // While it is rotated, there is none; and the last line may be on its way.
        let written = fs::read_to_string(&file).unwrap_or_default();
        let whole = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter(|line| line.contains(&kind)).map(str::to_owned);
        let lines: Vec<String> = lines.collect();
        (!lines.is_empty()).then_some(lines)
    })
}
