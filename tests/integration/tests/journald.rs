//! Events are entries of the journal: of a real journald, which runs for the test alone and is read by `journalctl`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::{DEADLINE, Daemon, Process, say, system, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// A journald whose `/run` is its own, and outlives it.
struct Journal {
    space: Process,
    journald: Option<Process>,
}

impl Journal {
    fn start() -> Self {
        let set_up = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal && echo ready && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", set_up]);
        let mut space = Process::spawn(command);
        assert_eq!(space.read_line(DEADLINE), "ready");
        let mut journal = Self { space, journald: None };
        journal.restart();
        wait_until(DEADLINE, "journald listens", || journal.socket().exists().then_some(()));
        journal
    }

    fn restart(&mut self) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.space.pid().to_string(), JOURNALD]);
        self.journald = Some(Process::spawn(command));
    }

    fn kill9(&mut self) {
        let journald = self.journald.take().expect("it runs");
        kill(Pid::from_raw(journald.pid()), Signal::SIGKILL).expect("it is our child");
        journald.finish(DEADLINE);
    }

    /// Its socket, as the host sees it.
    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/systemd/journal/socket", self.space.pid()))
    }

    /// Our entries.
    fn entries(&self) -> Vec<Value> {
        let pid = self.space.pid().to_string();
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
    let mut journal = Journal::start();
    let daemon = Daemon::with_sinks(&format!(
        "  - name: journal\n    form: ocsf-1.3\n    journald: {{ socket: \"{}\" }}\n",
        journal.socket().display()
    ));
    daemon.make_events();
    let entries = wait_for_all(&journal, &daemon);
    let refusal = entries.iter().find(|entry| entry["PRIORITY"] == "4").expect("one was refused something");
    assert_eq!(refusal["ENFORCER_KIND"], "egress", "{refusal}");
    let event: Value = serde_json::from_str(refusal["MESSAGE"].as_str().expect("text")).expect("it is JSON");
    assert_eq!(event["metadata"]["uid"], refusal["ENFORCER_UID"]);

    // What happens while there is no journald comes when there is one again.
    journal.kill9();
    daemon.make_events();
    let tries = || daemon.status()["sinks"][0]["failures"].as_u64().expect("a number");
    wait_until(DEADLINE, "it was tried", || (tries() > 0).then_some(()));
    journal.restart();
    let entries = wait_for_all(&journal, &daemon);
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for entry in &entries {
        if seen.insert(entry["ENFORCER_UID"].as_str().expect("text").to_owned()) {
            order.push(sequence(entry).expect("it is an event"));
        }
    }
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), seen.len());
}

fn sequence(entry: &Value) -> Option<u64> {
    let event: Value = serde_json::from_str(entry["MESSAGE"].as_str()?).ok()?;
    event["metadata"]["sequence"].as_u64()
}

/// The entries, when every event is one.
fn wait_for_all(journal: &Journal, daemon: &Daemon) -> Vec<Value> {
    let last = daemon.last_event();
    wait_until(DEADLINE, "all events are entries", || {
        let entries = journal.entries();
        let there: BTreeSet<u64> = entries.iter().filter_map(sequence).collect();
        (1..=last).all(|number| there.contains(&number)).then_some(entries)
    })
}
