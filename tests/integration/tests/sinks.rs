//! Events reach whoever collects them, in order and none left out, whatever happens to the receiver or to the daemon.

#[path = "sinks/oteltap.rs"]
mod oteltap;
#[path = "sinks/receiver.rs"]
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use integration::{
    DEADLINE, Daemon, Envelope, Event, LOAD_DEADLINE, Layout, expect_in_order, probe, unique, wait_until,
};
use oteltap::Oteltap;
use receiver::{Mood, Receiver, Request};
use serde_json::Value;

/// The numbers of the events in what a collector was sent.
fn numbers(taken: &[Request], event: impl Fn(&Value) -> Option<u64>) -> Vec<u64> {
    let lines = taken.iter().flat_map(|request| request.body.lines());
    let values = lines.map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    values.filter_map(|value| event(&value)).collect()
}

/// Each of the daemon's events is there: the first time in its turn, and again only after a try of which nothing was heard.
#[track_caller]
fn expect_all(daemon: &Daemon, numbers: impl Fn() -> Vec<u64>) {
    let last = daemon.last_event();
    let all: BTreeSet<u64> = (1..=last).collect();
    let there = wait_until(LOAD_DEADLINE, "all events have arrived", || {
        let there = numbers();
        (there.iter().copied().filter(|number| *number <= last).collect::<BTreeSet<_>>() == all)
            .then_some(there)
    });
    expect_in_order(&there);
}

/// The number of an event in a line of a collector's that speaks as Splunk's or as Elastic's does.
fn sequence(line: &Value) -> Option<u64> {
    line.pointer("/event/sequence").or(line.get("sequence"))?.as_u64()
}

/// The ids that events were sent with, each with all events that had it.
fn ids(taken: &[Request]) -> BTreeMap<String, BTreeSet<u64>> {
    let mut ids = BTreeMap::<String, BTreeSet<u64>>::new();
    let mut created = None;
    for line in taken.iter().flat_map(|request| request.body.lines()) {
        let value: Value = serde_json::from_str(line).expect("each line is JSON");
        if let Some(id) = value.pointer("/create/_id") {
            created = Some(id.clone());
            continue;
        }
        let id = value.pointer("/fields/uid").cloned().or_else(|| created.take()).expect("an id");
        let events = ids.entry(id.as_str().expect("it is text").to_owned()).or_default();
        events.insert(sequence(&value).expect("a number"));
    }
    ids
}

#[test]
fn splunk_in_any_mood_gets_all_of_it() {
    let line = gets_all_of_it("services/collector/event", "splunk-hec");
    assert!(line["time"].as_str().is_some_and(|time| time.parse::<f64>().is_ok()), "{line}");
    assert_eq!(line["sourcetype"], "_json");
}

#[test]
fn elastic_in_any_mood_gets_all_of_it() {
    let line = gets_all_of_it("_bulk", "elastic-bulk, index: agents");
    assert_eq!(line["create"]["_index"], "agents");
}

/// A receiver gets all of it, in any mood. The first line of what it was sent last.
#[track_caller]
fn gets_all_of_it(path: &str, speaks: &str) -> Value {
    let (receiver, slow) = (Receiver::new(), Receiver::new());
    let address = receiver.address();
    // Until it is given up: that takes longer than all the rest.
    slow.is(Mood::Stalls);
    let sink = |name: &str, address: SocketAddr| {
        format!("  - {{ name: {name}, http: {{ url: \"http://{address}/{path}\", as: {speaks} }} }}\n")
    };
    let daemon = Daemon::with_sinks(&[sink("quick", address), sink("slow", slow.address())].concat());
    daemon.make_events();
    wait_until(DEADLINE, "the slow one is tried", || (slow.tried() > 0).then_some(()));
    slow.is(Mood::Takes);
    for mood in [Mood::Fails, Mood::IsBusy, Mood::TakesAndDies] {
        receiver.is(mood);
        let before = receiver.tried();
        daemon.make_events();
        wait_until(LOAD_DEADLINE, "it is tried", || (receiver.tried() > before).then_some(()));
        receiver.is(Mood::Takes);
        // So that the wait after a failure is a short one again.
        wait_until(LOAD_DEADLINE, "it has caught up", || (daemon.sink("quick")["behind"] == 0).then_some(()));
    }
    let taken = receiver.taken();
    let status = daemon.layout().outcome(&["status"]).success().join("\n");
    assert!(status.contains("sink      quick: "), "{status}");
    drop(receiver);
    daemon.make_events();
    let receiver = Receiver::at(address);
    let all = || [taken.clone(), receiver.taken()].concat();
    expect_all(&daemon, || numbers(&all(), sequence));
    expect_all(&daemon, || numbers(&slow.taken(), sequence));
    let all = all();
    let (numbers, ids) = (numbers(&all, sequence), ids(&all));
    let events: BTreeSet<u64> = numbers.iter().copied().collect();
    assert!(numbers.len() > events.len(), "control: some came twice");
    assert_eq!(ids.len(), events.len(), "an event has one id, however often it comes: {ids:?}");
    assert!(ids.values().all(|events| events.len() == 1), "and no other event has it: {ids:?}");
    let last = receiver.taken().pop().expect("there is one");
    serde_json::from_str(last.body.lines().next().expect("a line")).expect("it is JSON")
}

#[test]
fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let receiver = Receiver::new();
    let settings = format!(
        "  - name: bulk\n    http: {{ url: \"http://{}/_bulk\", as: elastic-bulk, index: agents }}\n",
        receiver.address()
    );
    let mut daemon = Daemon::with_sinks(&settings);
    for _ in 0..3 {
        daemon.make_events();
        daemon.kill9();
        daemon.restart_with_sinks(&settings);
    }
    receiver.is(Mood::Fails);
    daemon.make_events();
    daemon.stop();
    receiver.is(Mood::Takes);
    daemon.restart_with_sinks(&settings);
    expect_all(&daemon, || numbers(&receiver.taken(), |value| value["sequence"].as_u64()));
    let first = receiver.taken().swap_remove(0);
    let create: Value = serde_json::from_str(first.body.lines().next().expect("a line")).expect("it is JSON");
    assert_eq!(create["create"]["_index"], "agents");
    assert!(create["create"]["_id"].is_string());
}

#[test]
fn a_filter_lets_through_what_it_says_and_a_webhook_is_signed() {
    let receiver = Receiver::new();
    let secrets = tempfile::tempdir().expect("there is room");
    let key = secrets.path().join("hook.key");
    fs::write(&key, "secret\n").expect("the directory is ours");
    let daemon = Daemon::with_sinks(&format!(
        "  - name: hook\n    http: {{ url: \"http://{}/\", as: webhook, hmacKeyFile: {key:?} }}\n    only: {{ verdicts: [deny], agents: [\"act*\"] }}\n",
        receiver.address(),
    ));
    daemon.make_events();
    let other = Envelope::of("other");
    daemon.run(&other, &probe(&["net", &unique("sinks"), "tcp/127.0.0.1:9"])).finish(DEADLINE).success();
    daemon.make_events();
    let refused =
        |of: &str| daemon.events().iter().filter(|event| event.is_of(of) && event.kind() == "egress").count();
    let expect = refused("acts");
    assert!(expect >= 2 && refused("other") >= 1, "control: both were refused something");
    let requests = wait_until(DEADLINE, "both refusals have arrived", || {
        let taken = receiver.taken();
        let lines: usize = taken.iter().map(|request| request.body.lines().count()).sum();
        (lines >= expect).then_some(taken)
    });
    for line in requests.iter().flat_map(|request| request.body.lines()) {
        let value: Value = serde_json::from_str(line).expect("it is JSON");
        assert_eq!(
            (&value["session"]["agent"], &value["verdict"]),
            (&"acts".into(), &"deny".into()),
            "{line}"
        );
    }
    let Request { head, body } = &requests[0];
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).expect("the header is there")
    };
    let signed = daemon.layout().file("signed");
    fs::write(&signed, format!("{}.{body}", header("x-enforcer-timestamp"))).expect("the directory is ours");
    let by_openssl = integration::system(&[
        "openssl",
        "dgst",
        "-sha256",
        "-hmac",
        "secret",
        signed.to_str().expect("it is text"),
    ]);
    let digest = by_openssl.trim().rsplit(' ').next().expect("the last word").to_owned();
    assert_eq!(header("x-enforcer-signature"), format!("sha256={digest}"));
}

#[test]
fn a_file_and_standard_output_get_all_of_it_through_rotations() {
    let layout = Layout::new();
    let [own, own_before, moved] = ["own.jsonl", "own.jsonl.1", "moved.jsonl"].map(|name| layout.file(name));
    // So full that the first event finds no room in it.
    let filler = "{}\n".repeat((10 << 20) / 3);
    fs::write(&own, &filler).expect("the directory is ours");
    let path = layout.write_sinks(&format!(
        "  - {{ name: own, file: {{ path: {own:?} }} }}\n  - {{ name: out, stdout: {{}} }}\n"
    ));
    let daemon = Daemon::start_with(layout, &["--sinks", path.to_str().expect("it is text")]);
    let log = daemon.layout().file("daemon.log");
    let numbers = |path: &Path| -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The last may be a half one still.
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let lines = lines.filter(|line| line.starts_with("{\"version\""));
        lines.map(|line| Event::parse(line).at("/sequence").as_u64().expect("a number")).collect()
    };
    let expect_new = |path: &Path| {
        let mode = fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    };
    daemon.make_events();
    expect_all(&daemon, || numbers(&own));
    expect_new(&own);
    assert!(fs::read_to_string(&own_before).expect("it was rotated") == filler, "nothing else was in it");
    // As logrotate does without `copytruncate`.
    fs::rename(&own, &moved).expect("the directory is ours");
    daemon.make_events();
    let both = || [numbers(&moved), numbers(&own)].concat();
    expect_all(&daemon, both);
    expect_new(&own);
    expect_all(&daemon, || numbers(&log));
    for there in [both(), numbers(&log)] {
        let each_once: Vec<u64> = (1..).take(there.len()).collect();
        assert_eq!(there, each_once, "nothing broke, so that nothing comes twice");
    }
    assert!(!numbers(&own).is_empty(), "the new file is written to");
}

#[test]
fn a_sink_can_be_tried() {
    let receiver = Receiver::new();
    let address = receiver.address();
    let daemon = Daemon::start();
    let path = daemon.layout().write_sinks(&format!(
        "  - name: otlp\n    http: {{ url: \"http://{address}/v1/logs\", as: otlp }}\n"
    ));
    let path = path.to_str().expect("it is text");
    let tried = daemon.layout().outcome(&["sink", "test", "otlp", "--sinks", path]).success().join("\n");
    assert!(tried.contains("has taken an event"), "{tried}");
    let request: Value = serde_json::from_str(&receiver.taken()[0].body).expect("it is JSON");
    let record = &request["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["eventName"], "sink-test", "{request}");
    let mut uids = BTreeSet::new();
    for (form, number) in [("ocsf-1.3", "1.3.0"), ("ocsf-1.9", "1.9.0")] {
        daemon.layout().write_sinks(&format!(
            "  - {{ name: otlp, form: {form}, http: {{ url: \"http://{address}/v1/logs\", as: otlp }} }}\n"
        ));
        daemon.layout().outcome(&["sink", "test", "otlp", "--sinks", path]).success();
        let request = receiver.taken().pop().expect("it was taken");
        let request: Value = serde_json::from_str(&request.body).expect("it is JSON");
        let event = body(&request["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]);
        assert_eq!(event["metadata"]["version"], number, "{event}");
        assert_eq!((&event["class_uid"], &event["type_uid"]), (&6002.into(), &600_299.into()), "{event}");
        assert_eq!(event["metadata"]["event_code"], "sink-test", "{event}");
        uids.insert(event["metadata"]["uid"].to_string());
    }
    assert_eq!(uids.len(), 2, "each is another event: {uids:?}");
    drop(receiver);
    let failed = daemon.layout().outcome(&["sink", "test", "otlp", "--sinks", path]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let unknown = daemon.layout().outcome(&["sink", "test", "other", "--sinks", path]);
    assert!(unknown.stderr.contains("there is no sink `other`"), "{unknown:?}");
}

/// How nice each of a process's threads is, by its name.
fn niceness(pid: i32) -> BTreeMap<String, i64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let read = |stat: String| {
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
        // The first of these is the third of proc(5).
        Some((name.to_owned(), fields.split(' ').nth(16)?.parse().ok()?))
    };
    stats.filter_map(read).collect()
}

#[test]
fn what_a_receiver_drops_is_said_and_sinks_go_with_others_and_leave_nothing() {
    let receiver = Receiver::new();
    let address = receiver.address();
    let mut daemon = Daemon::with_sinks(&format!(
        "  - {{ name: otlp, http: {{ url: \"http://{address}/v1/logs\", as: otlp }} }}\n"
    ));
    receiver.is(Mood::DropsTwo);
    daemon.make_events();
    let log = daemon.layout().file("daemon.log");
    let said = wait_until(DEADLINE, "it is said what was dropped", || {
        let said = fs::read_to_string(&log).expect("it has a log");
        said.contains("has dropped 2 events").then_some(said)
    });
    assert!(said.contains("too old") && !said.contains('\u{1b}'), "what it says is made harmless: {said}");
    assert_eq!(daemon.sink("otlp")["refused"], 0, "it has answered for them");
    let niceness = niceness(daemon.pid());
    assert_eq!(niceness.get("sink-otlp"), Some(&0), "{niceness:?}");
    assert_eq!(niceness.get("audit-pack"), Some(&10), "{niceness:?}");
    assert_eq!(niceness.get("enforcer"), Some(&-10), "control: the daemon goes before others: {niceness:?}");
    // While it has something to note.
    let run = daemon.run(&Envelope::of("acts"), &probe(&["net", &unique("sinks"), "tcp/127.0.0.1:9"]));
    daemon.teardown();
    drop(run);
    wait_until(DEADLINE, "the state directory is gone", || {
        (!daemon.layout().state_dir().exists()).then_some(())
    });
}

/// The event that a record of OpenTelemetry's has in it.
fn body(record: &Value) -> Value {
    let text = record["body"]["stringValue"].as_str().expect("the body is text");
    serde_json::from_str(text).expect("it is JSON")
}

#[test]
fn a_receiver_of_opentelemetry_reads_all_of_it() {
    let mut oteltap = Oteltap::new();
    let daemon = Daemon::with_sinks(&format!(
        "  - {{ name: otlp, http: {{ url: \"http://127.0.0.1:{}/v1/logs\", as: otlp-protobuf }} }}\n",
        oteltap.port
    ));
    let numbers = |oteltap: &Oteltap| {
        oteltap.records().iter().filter_map(|record| body(record)["sequence"].as_u64()).collect()
    };
    daemon.make_events();
    // It says that it has taken what it has not printed yet, and is killed when it has.
    expect_all(&daemon, || numbers(&oteltap));
    oteltap.kill9();
    daemon.make_events();
    wait_until(DEADLINE, "it is said that it is gone", || {
        daemon.sink("otlp")["why"].as_str().is_some_and(|why| why.contains("refused")).then_some(())
    });
    oteltap.start();
    daemon.make_events();
    expect_all(&daemon, || numbers(&oteltap));
    let records = oteltap.records();
    let uid = |record: &Value| -> String {
        let attribute = &record["attributes"][0];
        assert_eq!(attribute["key"], "log.record.uid", "{record}");
        attribute["value"]["stringValue"].as_str().expect("text").to_owned()
    };
    let uids: BTreeMap<String, u64> = records
        .iter()
        .map(|record| (uid(record), body(record)["sequence"].as_u64().expect("a number")))
        .collect();
    let events: BTreeSet<u64> = uids.values().copied().collect();
    assert_eq!(uids.len(), events.len(), "an event has one uid, however often it comes: {uids:?}");
    for record in &records {
        let event = body(record);
        let time: jiff::Timestamp = event["time"].as_str().expect("text").parse().expect("a time");
        assert_eq!(record["timeUnixNano"], time.as_nanosecond().to_string(), "{record}");
        assert_eq!(record["observedTimeUnixNano"], record["timeUnixNano"]);
        assert_eq!(record["eventName"], event["kind"]);
        let severity = if event["refused"] == true { (13, "WARN") } else { (9, "INFO") };
        assert_eq!(
            (&record["severityNumber"], &record["severityText"]),
            (&severity.0.into(), &severity.1.into())
        );
    }
    let refused = |record: &&Value| record["severityText"] == "WARN" && record["eventName"] == "egress";
    assert!(records.iter().filter(refused).count() >= 3, "each session was refused something");
}
