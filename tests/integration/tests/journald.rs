//! Events are entries of the journal: of a real journald, which runs for the test alone and is read by `journalctl`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::{DEADLINE, Daemon, Process, say, system, wait_until};
use serde_json::Value;

const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// A journald whose `/run` is its own.
struct Journal(Process);

impl Journal {
    fn start() -> Self {
        let set_up =
            "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal && exec \"$0\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", set_up, JOURNALD]);
        let journal = Self(Process::spawn(command));
        wait_until(DEADLINE, "journald listens", || journal.socket().exists().then_some(()));
        journal
    }

    /// Its socket, as the host sees it.
    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/systemd/journal/socket", self.0.pid()))
    }

    /// Our entries.
    fn entries(&self) -> Vec<Value> {
        let pid = self.0.pid().to_string();
        let text = system(&[
            "nsenter",
            "--mount",
            "--target",
            &pid,
            "journalctl",
            "--output=json",
            "--no-pager",
            "--all",
            "SYSLOG_IDENTIFIER=enforcer",
        ]);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[test]
fn each_event_is_an_entry() {
    if !Path::new(JOURNALD).exists() {
        return say(&format!("skipped: there is no `{JOURNALD}`"));
    }
    let journal = Journal::start();
    let daemon = Daemon::with_sinks(&format!(
        "  - name: journal\n    form: ocsf-1.3\n    journald: {{ socket: \"{}\" }}\n",
        journal.socket().display()
    ));
    daemon.make_events();
    let last = daemon.last_event();
    let entries = wait_until(DEADLINE, "all events are entries", || {
        let entries = journal.entries();
        let there: BTreeSet<u64> = entries
            .iter()
            .filter_map(|entry| serde_json::from_str::<Value>(entry["MESSAGE"].as_str()?).ok())
            .filter_map(|event| event["metadata"]["sequence"].as_u64())
            .collect();
        (1..=last).all(|number| there.contains(&number)).then_some(entries)
    });
    let refusal = entries.iter().find(|entry| entry["PRIORITY"] == "4").expect("one was refused something");
    assert_eq!(refusal["ENFORCER_KIND"], "egress", "{refusal}");
    let event: Value = serde_json::from_str(refusal["MESSAGE"].as_str().expect("text")).expect("it is JSON");
    assert_eq!(event["metadata"]["uid"], refusal["ENFORCER_UID"]);
}
