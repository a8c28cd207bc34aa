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

    let work = probe(&["verdicts", "1", "127.0.0.20:9"]);
    let wait_and_work = ["sh", "-c", "read line; exec \"$@\"", "sh"].map(str::to_owned);
    let mut flood = daemon.run(&Envelope::of("flood"), &[&wait_and_work[..], &work].concat());
    daemon.wait_for_events(1, "it waits", |event| event.is_of("flood") && event.kind() == "exec");
    // Nobody reads them.
    daemon.kill9();
    let made = || records_made(&daemon).iter().sum::<u64>();
    let before = made();
    flood.write_line("go");
    wait_until(LOAD_DEADLINE, "more is made than there is room for", || {
        (made() > before + 50_000).then_some(())
    });
    drop(flood);
    daemon.restart();
    [faults, wait_for_lines(&daemon, "records-lost")].concat()
}

/// Lines of a kind, when there are some. Of the files, since there are too many others to ask for them all.
fn wait_for_lines(daemon: &Daemon, kind: &str) -> Vec<String> {
    let files = [".4", ".3", ".2", ".1", ""];
    let files = files.map(|end| daemon.layout().state_dir().join(format!("events.jsonl{end}")));
    let kind = format!(r#""kind":"{kind}""#);
    wait_until(LOAD_DEADLINE, &format!("{kind} is written down"), || {
        // While they are rotated, one may not be there; and the last line may be on its way.
        let written: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        let whole = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter(|line| line.contains(&kind)).map(str::to_owned);
        let lines: Vec<String> = lines.collect();
        (!lines.is_empty()).then_some(lines)
    })
}
