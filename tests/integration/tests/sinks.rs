//! Events reach whoever collects them, in order and none left out, whatever happens to the receiver or to the daemon.

#[path = "sinks/receiver.rs"]
mod receiver;

use std::collections::BTreeSet;
use std::fs;

use integration::{DEADLINE, Daemon, Envelope, LOAD_DEADLINE, probe, unique, wait_until};
use receiver::{Mood, Receiver, Request};
use serde_json::Value;

/// A daemon with one sink.
fn daemon_with(settings: &str) -> Daemon {
    let mut daemon = Daemon::start();
    daemon.stop();
    restart_with(&mut daemon, settings);
    daemon
}

fn restart_with(daemon: &mut Daemon, settings: &str) {
    let path = daemon.layout().file("sinks.yaml");
    let text = format!("apiVersion: enforcer/v1\nkind: Sinks\nspec:\n  sinks:\n{settings}");
    fs::write(&path, text).expect("the directory is ours");
    daemon.restart_with(&["--sinks", path.to_str().expect("it is text")]);
}

/// Something happens: a session begins, is refused something, and ends.
fn act(daemon: &Daemon) {
    let lines = daemon
        .run(&Envelope::of("acts"), &probe(&["net", &unique("sinks"), "tcp/127.0.0.1:9"]))
        .finish(DEADLINE);
    lines.success();
    daemon.wait_idle();
}

/// The numbers of the events in what a collector was sent.
fn numbers(taken: &[Request], event: impl Fn(&Value) -> Option<u64>) -> Vec<u64> {
    let lines = taken.iter().flat_map(|request| request.body.lines());
    let values = lines.map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    values.filter_map(|value| event(&value)).collect()
}

/// Each of the daemon's events is there: the first time in its turn, and again only after a try of which nothing was heard.
#[track_caller]
fn expect_all(daemon: &Daemon, numbers: impl Fn() -> Vec<u64>) {
    let last = daemon.events().last().expect("there are some").at("/sequence").as_u64().expect("a number");
    let all: BTreeSet<u64> = (1..=last).collect();
    let there = wait_until(LOAD_DEADLINE, "all events have arrived", || {
        let there = numbers();
        (there.iter().copied().filter(|number| *number <= last).collect::<BTreeSet<_>>() == all)
            .then_some(there)
    });
    let mut seen = BTreeSet::new();
    let first_times: Vec<u64> = there.into_iter().filter(|number| seen.insert(*number)).collect();
    assert!(first_times.is_sorted(), "in order: {first_times:?}");
}

#[test]
fn a_receiver_in_any_mood_gets_all_of_it() {
    let receiver = Receiver::new();
    let address = receiver.address();
    let daemon = daemon_with(&format!(
        "  - name: hec\n    http: {{ url: \"http://{address}/services/collector/event\", as: splunk-hec }}\n"
    ));
    let mut taken = Vec::new();
    act(&daemon);
    for mood in [Mood::Fails, Mood::IsBusy, Mood::TakesAndDies, Mood::Stalls, Mood::Takes] {
        receiver.is(mood);
        act(&daemon);
        receiver.wait_for_tries(1);
    }
    taken.extend(receiver.taken());
    let settings = ["sink      hec: "];
    let status = daemon.layout().outcome(&["status"]).success().join("\n");
    assert!(settings.iter().all(|line| status.contains(line)), "{status}");
    drop(receiver);
    act(&daemon);
    let receiver = Receiver::at(address);
    expect_all(&daemon, || {
        let all = [taken.clone(), receiver.taken()].concat();
        numbers(&all, |value| value["event"]["sequence"].as_u64())
    });
    let last = receiver.taken().pop().expect("there is one");
    let value: Value = serde_json::from_str(last.body.lines().next().expect("a line")).expect("it is JSON");
    assert!(value["time"].as_str().is_some_and(|time| time.parse::<f64>().is_ok()), "{value}");
    assert_eq!(value["sourcetype"], "_json");
    let uids: BTreeSet<String> = taken
        .iter()
        .flat_map(|request| request.body.lines())
        .map(|line| serde_json::from_str::<Value>(line).expect("it is JSON")["fields"]["uid"].to_string())
        .collect();
    assert!(uids.len() > 10, "each has its own: {uids:?}");
}

#[test]
fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let receiver = Receiver::new();
    let settings = format!(
        "  - name: bulk\n    http: {{ url: \"http://{}/_bulk\", as: elastic-bulk, index: agents }}\n",
        receiver.address()
    );
    let mut daemon = daemon_with(&settings);
    for _ in 0..3 {
        act(&daemon);
        daemon.kill9();
        restart_with(&mut daemon, &settings);
    }
    receiver.is(Mood::Fails);
    act(&daemon);
    daemon.stop();
    receiver.is(Mood::Takes);
    restart_with(&mut daemon, &settings);
    expect_all(&daemon, || numbers(&receiver.taken(), |value| value["sequence"].as_u64()));
    let first = receiver.taken().swap_remove(0);
    let create: Value = serde_json::from_str(first.body.lines().next().expect("a line")).expect("it is JSON");
    assert_eq!(create["create"]["_index"], "agents");
    assert!(create["create"]["_id"].is_string());
}

#[test]
fn a_filter_lets_through_what_it_says_and_a_webhook_is_signed() {
    let receiver = Receiver::new();
    let mut daemon = Daemon::start();
    daemon.stop();
    let key = daemon.layout().file("hook.key");
    fs::write(&key, "secret\n").expect("the directory is ours");
    restart_with(
        &mut daemon,
        &format!(
            "  - name: hook\n    http: {{ url: \"http://{}/\", as: webhook, hmacKeyFile: \"{}\" }}\n    only: {{ verdicts: [deny], agents: [\"act*\"] }}\n",
            receiver.address(),
            key.display()
        ),
    );
    act(&daemon);
    let other = Envelope::of("other");
    daemon.run(&other, &probe(&["net", &unique("sinks"), "tcp/127.0.0.1:9"])).finish(DEADLINE).success();
    act(&daemon);
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
fn a_sink_can_be_tried() {
    let receiver = Receiver::new();
    let address = receiver.address();
    let daemon = Daemon::start();
    let path = daemon.layout().file("sinks.yaml");
    let text = format!(
        "apiVersion: enforcer/v1\nkind: Sinks\nspec:\n  sinks:\n  - name: otlp\n    http: {{ url: \"http://{address}/v1/logs\", as: otlp }}\n"
    );
    fs::write(&path, text).expect("the directory is ours");
    let path = path.to_str().expect("it is text");
    let tried = daemon.layout().outcome(&["sink", "test", "otlp", "--sinks", path]).success().join("\n");
    assert!(tried.contains("has taken an event"), "{tried}");
    let body: Value = serde_json::from_str(&receiver.taken()[0].body).expect("it is JSON");
    let record = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["eventName"], "sink-test", "{body}");
    drop(receiver);
    let failed = daemon.layout().outcome(&["sink", "test", "otlp", "--sinks", path]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let unknown = daemon.layout().outcome(&["sink", "test", "other", "--sinks", path]);
    assert!(unknown.stderr.contains("there is no sink `other`"), "{unknown:?}");
}
