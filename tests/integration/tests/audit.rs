//! The audit log of a real daemon: it has every event as it was written, answers questions, proves single entries, goes on under another
//! key, behind what was removed, and over a full disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use integration::{
    DEADLINE, Daemon, Envelope, Finished, LOAD_DEADLINE, Layout, LogCopy, Pair, Process, Server, attempts,
    enforcer_path, probe, unique, wait_until,
};
use serde_json::Value;

/// `enforcer audit`, with JSON.
#[track_caller]
fn audit(layout: &Layout, arguments: &[&str]) -> Finished {
    layout.outcome(&[&["audit"], arguments, &["--format", "json"]].concat())
}

#[track_caller]
fn query(layout: &Layout, arguments: &[&str]) -> Vec<Value> {
    let lines = audit(layout, &[&["query"], arguments].concat()).success();
    lines.iter().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
}

#[track_caller]
fn verify(layout: &Layout) -> Value {
    let finished = audit(layout, &["verify"]);
    let text = finished.stdout.join("\n");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {}", finished.stderr))
}

/// Returns when the log has as many events as the event file, and vouches for all.
#[track_caller]
fn settle(daemon: &Daemon) -> Value {
    wait_until(DEADLINE, "all events are in the log", || {
        let verified = verify(daemon.layout());
        assert_eq!(verified["sound"], true, "{verified}");
        let events = daemon.events().len() as u64;
        (verified["unsigned_entries"] == 0 && verified["events"] == events).then_some(verified)
    })
}

/// A session that reaches one server, and not the other.
fn work(daemon: &Daemon, agent: &str, pair: &Pair) {
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let envelope = Envelope::of(agent).allow_server("only", &pair.allowed);
    let command = probe(&["net", &unique(agent), &allowed, &refused]);
    let lines = daemon.run(&envelope, &command).finish(DEADLINE).success();
    let outcomes: Vec<bool> = attempts(&lines).iter().map(|attempt| attempt.succeeded()).collect();
    assert_eq!(outcomes, [true, false]);
}

fn set(events: &[Value], pointer: &str) -> BTreeSet<String> {
    let texts = events.iter().map(|event| event.pointer(pointer).and_then(Value::as_str).unwrap_or("none"));
    texts.map(str::to_owned).collect()
}

#[test]
fn log_has_every_event_as_it_was_written() {
    let mut daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    work(&daemon, "first", &pair);
    settle(&daemon);
    daemon.stop();
    daemon.restart();
    work(&daemon, "second", &pair);
    daemon.wait_idle();
    let verified = settle(&daemon);
    assert_eq!(verified["events_lost"], 0, "{verified}");
    assert_eq!(daemon.counter("fault_audit_lost") + daemon.counter("fault_audit_write"), 0);
    assert!(daemon.counter("audit_entries") > 10 && daemon.counter("audit_checkpoints") > 0);
    daemon.stop();
    let layout = daemon.layout();
    let written = fs::read_to_string(layout.state_dir().join("events.jsonl")).expect("it is text");
    let logged = audit(layout, &["query"]).success();
    assert_eq!(logged, written.lines().collect::<Vec<_>>(), "byte for byte");
    let state = layout.state_dir();
    for (path, mode) in [("audit", 0o700), ("audit.key", 0o600), ("audit.head", 0o600)] {
        let permissions = fs::metadata(state.join(path)).expect("it is there").permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{path}");
    }
    for path in LogCopy::of(layout).segments() {
        let path = state.join("audit").join(path.file_name().expect("a name"));
        assert_eq!(fs::metadata(path).expect("it is there").permissions().mode() & 0o777, 0o600);
    }
    daemon.restart();
}

#[test]
fn questions_are_answered() {
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let pair = Pair::v4("tcp");
    work(&daemon, "alpha", &pair);
    work(&daemon, "beta", &pair);
    let envelope = Envelope::of("outer").allow_server("only", &pair.allowed);
    let inner = layout.write_envelope(Envelope::of("inner").allow_server("only", &pair.allowed));
    let enforcer = enforcer_path();
    let nested = [enforcer.as_os_str(), "run".as_ref(), "--envelope".as_ref(), inner.as_os_str()];
    let command = [&nested[..], &["--".as_ref(), "true".as_ref()]].concat();
    daemon.run(&envelope, &command).finish(DEADLINE).success();
    daemon.wait_idle();
    settle(&daemon);

    let all = query(layout, &[]);
    let alpha = query(layout, &["--agent", "alpha"]);
    assert_eq!(set(&alpha, "/session/agent"), ["alpha".to_owned()].into());
    assert_eq!(alpha.len(), all.iter().filter(|event| event["session"]["agent"] == "alpha").count());
    assert_eq!(query(layout, &["--agent", "nobody"]), [Value::Null; 0]);
    assert_eq!(query(layout, &["--owner", "nobody"]), [Value::Null; 0]);
    assert_eq!(query(layout, &["--agent", "alpha", "--owner", Envelope::OWNER]).len(), alpha.len());
    let denied = query(layout, &["--agent", "alpha", "--verdict", "deny"]);
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!(denied[0]["destination"]["address"], "127.0.0.20");
    let to = pair.refused.address().to_string();
    let destinations = [&to, "127.0.0.20", "127.0.0.16/28"];
    for destination in destinations {
        let found = query(layout, &["--destination", destination]);
        assert_eq!(
            set(&found, "/session/agent"),
            ["alpha".to_owned(), "beta".to_owned()].into(),
            "{destination}"
        );
        assert_eq!(set(&found, "/destination/address"), ["127.0.0.20".to_owned()].into());
    }
    assert_eq!(query(layout, &["--destination", "127.0.0.21"]), [Value::Null; 0]);
    let kinds = set(&query(layout, &["--kind", "session-started"]), "/session/agent");
    let expected = ["alpha", "beta", "outer", "inner"].map(str::to_owned);
    assert_eq!(kinds, expected.into());

    let outer = query(layout, &["--agent", "outer"])[0]["session"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(set(&query(layout, &["--session", &outer]), "/session/agent"), ["outer".to_owned()].into());
    let both = query(layout, &["--session", &outer, "--descendants"]);
    assert_eq!(set(&both, "/session/agent"), ["outer".to_owned(), "inner".to_owned()].into());

    let middle = all[all.len() / 2]["time"].as_str().expect("a time");
    let (early, late) = (query(layout, &["--until", middle]), query(layout, &["--since", middle]));
    assert!(!early.is_empty() && !late.is_empty());
    assert_eq!(early.len() + late.len(), all.len());
    assert_eq!(query(layout, &["--since", "1h"]).len(), all.len());

    let table = layout.outcome(&["audit", "query", "--agent", "alpha", "--verdict", "deny"]).success();
    assert!(table.len() == 1 && table[0].contains("127.0.0.20") && table[0].contains("no-rule"), "{table:?}");
}

#[test]
fn rows_say_where_to_and_how_much() {
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let (stream, datagrams) = (Server::start("tcp", "127.0.0.10"), Server::start("udp", "127.0.0.11"));
    let envelope = Envelope::of("talks").allow_server("stream", &stream);
    let mut inside = daemon.hold(&envelope.allow_server("datagrams", &datagrams));
    inside.connect("s", "tcp4", stream.address());
    inside.must("send s 0123456789");
    assert_eq!(inside.must("receive s"), "0123456789");
    inside.must("close s");
    inside.must("open d udp4");
    inside.must(&format!("send-to d {} 12345", datagrams.address()));
    assert_eq!(inside.must("receive d"), "12345");
    daemon.wait_for_events(1, "they are counted", |event| event.kind() == "datagrams");
    inside.end();
    daemon.wait_idle();
    settle(&daemon);
    for (kind, protocol, address, bytes) in
        [("connection-closed", "tcp", stream.address(), 10), ("datagrams", "udp", datagrams.address(), 5)]
    {
        let to = address.to_string();
        let rows = layout.outcome(&["audit", "query", "--kind", kind, "--destination", &to]).success();
        let said = format!("{protocol} {to}  {bytes} B out, {bytes} B in");
        assert!(rows.len() == 1 && rows[0].contains(&said), "{said}: {rows:?}");
    }
    for row in layout.outcome(&["audit", "query", "--destination", "127.0.0.0/8"]).success() {
        assert!(row.contains("127.0.0.1"), "each says where to: {row}");
    }
    let rows = layout.outcome(&["audit", "query", "--agent", "talks", "--kind", "exec"]).success();
    assert!(!rows.is_empty() && rows.iter().all(|row| row.contains(" runs /")), "{rows:?}");
}

#[test]
fn single_entries_are_proven_without_the_log() {
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let pair = Pair::v4("tcp");
    work(&daemon, "proven", &pair);
    daemon.wait_idle();
    settle(&daemon);
    let key = layout.file("key.pem");
    fs::write(&key, layout.outcome(&["audit", "key"]).success().join("\n") + "\n").expect("it is ours");
    let table = layout.outcome(&["audit", "query", "--verdict", "deny"]).success();
    let entry = table[0].split_whitespace().next().expect("its number");
    let proof = layout.outcome(&["audit", "prove", entry]).success().join("\n");
    let check = |proof: &str, key: &Path| {
        let file = layout.file(&unique("proof"));
        fs::write(&file, proof).expect("it is ours");
        let arguments = [file.display().to_string(), key.display().to_string()];
        // Nothing but the two files is looked at.
        audit(layout, &["check-proof", &arguments[0], "--key", &arguments[1]])
    };
    let proven: Value = serde_json::from_str(&check(&proof, &key).success().join("")).expect("JSON");
    assert_eq!(proven["sequence"].to_string(), entry);
    let event: Value = serde_json::from_str(proven["payload"].as_str().expect("text")).expect("an event");
    assert_eq!(event["destination"]["address"], "127.0.0.20");
    let by_event = ["audit", "prove", "--event", &event["sequence"].to_string()];
    assert_eq!(layout.outcome(&by_event).success().join("\n"), proof, "the proof of its entry");
    let both = layout.outcome(&[&by_event[..], &[entry]].concat());
    assert_eq!(both.status.code(), Some(2), "one of the two: {}", both.stderr);
    let forged = proof.replace("127.0.0.20", "127.0.0.30");
    assert_ne!(forged, proof);
    assert_eq!(check(&forged, &key).status.code(), Some(1));
    layout.outcome(&["keygen", "--out", &layout.file("other").display().to_string()]).success();
    assert_eq!(check(&proof, &layout.file("other.pub")).status.code(), Some(1), "another key");
    for absent in ["0", "99999"] {
        assert_eq!(layout.outcome(&["audit", "prove", absent]).status.code(), Some(1));
        let event = layout.outcome(&["audit", "prove", "--event", absent]);
        assert_eq!(event.status.code(), Some(1), "{}", event.stderr);
    }
    let last = verify(layout)["last"].to_string();
    assert_eq!(layout.outcome(&["audit", "prove", &last]).status.code(), Some(1), "nothing covers it yet");

    // The signature is one that others can check.
    let anchor = layout.outcome(&["audit", "checkpoint"]).success().join("");
    let anchor: Value = serde_json::from_str(&anchor).expect("JSON");
    let statement = layout.file("statement");
    fs::write(&statement, anchor["statement"].as_str().expect("text")).expect("it is ours");
    let signature = layout.file("signature");
    let script = "base64 -d > \"$1\" && openssl dgst -sha256 -verify \"$2\" -signature \"$1\" \"$3\"";
    let mut openssl = Command::new("sh");
    openssl.args(["-c", script, "sh"]).arg(&signature).arg(&key).arg(&statement);
    let mut openssl = Process::spawn(openssl);
    openssl.write_line(anchor["signature"].as_str().expect("text"));
    openssl.finish(DEADLINE).success();
}

#[test]
fn key_is_changed_and_both_vouch_for_the_log() {
    let mut daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    work(&daemon, "before", &pair);
    settle(&daemon);
    let old = LogCopy::of(daemon.layout());
    let rotated = audit(daemon.layout(), &["rotate-key"]).success().join("");
    let rotated: Value = serde_json::from_str(&rotated).expect("JSON");
    let again = audit(daemon.layout(), &["rotate-key"]).success().join("");
    assert_ne!(again, rotated.to_string());
    work(&daemon, "after", &pair);
    settle(&daemon);
    daemon.stop();
    daemon.restart();
    let layout = daemon.layout();
    let new = LogCopy::of(layout);
    assert_ne!(fs::read(old.key()).expect("text"), fs::read(new.key()).expect("text"));
    new.expect_sound(layout);
    let said = new.verify_with(layout, &["--key", &old.key().display().to_string()]);
    assert_eq!(said["sound"], true, "the old one vouches for the new one: {said}");
    assert!(!layout.state_dir().join("audit.key.next").exists());
    // From inside a session nobody changes it.
    let command = [enforcer_path().display().to_string(), "audit".into(), "rotate-key".into()];
    let refused = daemon.run(&Envelope::of("inside"), &command).finish(DEADLINE);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert_eq!(
        LogCopy::of(layout).verify(layout)["checkpoint"]["key"],
        new.verify(layout)["checkpoint"]["key"]
    );

    // A key that somebody else has put there vouches for nothing.
    daemon.stop();
    let key = daemon.layout().state_dir().join("audit.key");
    fs::remove_file(&key).expect("it is ours");
    daemon.restart();
    daemon.wait_for_events(1, "it is said", |event| event.kind() == "tamper-sign");
    let verified = verify(daemon.layout());
    assert_eq!(verified["sound"], false, "{verified}");
    assert!(verified["finding"]["what"].as_str().is_some_and(|what| what.contains("replaced")), "{verified}");
}

/// A checkpoint that went out with the events is one that the log must still have, wherever they went.
#[test]
fn checkpoints_go_where_events_go() {
    let mut daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    work(&daemon, "anchored", &pair);
    settle(&daemon);
    daemon.stop();
    let layout = daemon.layout();
    let told =
        query(layout, &["--kind", "audit-checkpoint"]).pop().expect("the daemon told one when it stopped");
    let kept = layout.file("checkpoint");
    fs::write(&kept, told["detail"].as_str().expect("it is in the text")).expect("it is ours");
    let kept = kept.to_str().expect("text");
    let verified = audit(layout, &["verify", "--checkpoint", kept]).success().join("\n");
    assert!(verified.contains("\"sound\": true"), "{verified}");
    // Of another log it is none.
    let other = Daemon::start();
    let verified = audit(other.layout(), &["verify", "--checkpoint", kept]);
    assert_eq!(verified.status.code(), Some(1), "{:?}", verified.stdout);
}

#[test]
fn log_goes_on_over_a_full_disk() {
    let layout = Layout::new();
    let dir = layout.state_dir().join("audit");
    fs::create_dir_all(&dir).expect("the directory is ours");
    mount(&["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"], &dir);
    let daemon = Daemon::start_in(layout);
    let script = "i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done";
    let busy = || daemon.run(&Envelope::of("busy"), &["sh", "-c", script]).finish(DEADLINE).success();
    wait_until(DEADLINE, "it cannot be written", || {
        busy();
        (daemon.counter("fault_audit_write") > 0).then_some(())
    });
    let faults = daemon.status()["faults"].to_string();
    assert!(faults.contains("fault_audit_write"), "{faults}");
    mount(&["-o", "remount,size=16m"], &dir);
    daemon.wait_idle();
    let verified = settle(&daemon);
    assert_eq!(verified["events_lost"], 0, "there was room to wait in: {verified}");
    drop(daemon.events());
    let mut daemon = daemon;
    daemon.stop();
    assert_eq!(verify(daemon.layout())["sound"], true);
    let mut umount = Command::new("umount");
    umount.arg("-l").arg(&dir);
    Process::spawn(umount).finish(DEADLINE).success();
    daemon.restart();
}

#[test]
fn a_log_is_read_in_less_memory_than_it_has() {
    const LIMIT_BYTES: u64 = 18 << 20;
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let flood = daemon.run(&Envelope::of("flood"), &probe(&["verdicts", "1", "127.0.0.1:9"]));
    wait_until(LOAD_DEADLINE, "there is enough of it", || {
        (daemon.counter("events_written") >= 55_000).then_some(())
    });
    flood.finish(DEADLINE).success();
    daemon.wait_idle();
    // All that a process has of its own, stacks and mapped memory included.
    let within = |kib: u64, arguments: &[&str]| {
        let enforcer = layout.command(arguments);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -d \"$0\" && exec \"$@\"", &kib.to_string()]);
        command.arg(enforcer.get_program()).args(enforcer.get_args());
        command.envs(enforcer.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    let verify = ["audit", "verify"];
    let verified = Process::spawn(within(LIMIT_BYTES >> 10, &verify)).finish(LOAD_DEADLINE);
    assert_eq!(verified.success()[0], "sound");
    let path = layout.file("queried");
    let mut query = within(LIMIT_BYTES >> 10, &["audit", "query", "--format", "json"]);
    query.stdout(fs::File::create(&path).expect("the directory is ours"));
    assert!(query.status().expect("there is a shell").success());
    let read = fs::metadata(&path).expect("it was made").len();
    assert!(read > LIMIT_BYTES, "the log would not fit: {read}");
    let control = Process::spawn(within(1 << 10, &verify)).finish(DEADLINE);
    assert!(!control.status.success(), "the bound holds: {:?}", control.stdout);
}

fn mount(what: &[&str], at: &Path) {
    let mut command = Command::new("mount");
    command.args(what).arg(at);
    Process::spawn(command).finish(DEADLINE).success();
}

#[test]
fn teardown_leaves_what_an_auditor_needs_if_it_is_told_so() {
    let mut daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    work(&daemon, "kept", &pair);
    settle(&daemon);
    daemon.layout().outcome(&["teardown", "--keep-events"]).success();
    daemon.wait_for_end();
    let verified = verify(daemon.layout());
    assert_eq!(verified["sound"], true, "{verified}");
    assert_eq!(verified["unsigned_entries"], 0, "{verified}");
    let last = query(daemon.layout(), &[]).pop().expect("it is kept");
    assert_eq!((&last["kind"], &last["asked_by"]["uid"]), (&"daemon-stopped".into(), &0.into()), "{last}");
    assert!(last["detail"].as_str().is_some_and(|why| why.contains("enforcement ends")), "{last}");
    assert_eq!(query(daemon.layout(), &["--agent", "kept", "--verdict", "deny"]).len(), 1);
    daemon.restart();
    assert_eq!(verify(daemon.layout())["log"], verified["log"], "it goes on");
    daemon.teardown();
    for left in ["audit", "audit.key", "audit.head"] {
        assert!(!daemon.layout().state_dir().join(left).exists(), "{left}");
    }
}
