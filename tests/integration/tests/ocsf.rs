//! Events of a real run in the forms that other tools read: OCSF's own schemas take every one of them in every version, and an analyst's
//! rule, written in Sigma and run over them, answers what an analyst asks.

#[path = "ocsf/faulty.rs"]
mod faulty;
#[path = "ocsf/found.rs"]
mod found;
#[path = "ocsf/kinds.rs"]
mod kinds;
#[path = "ocsf/odd.rs"]
mod odd;
#[path = "ocsf/run.rs"]
mod run;
#[path = "ocsf/schemas.rs"]
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::{DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Layout, Process, say, unique};
use serde_json::{Value, json};

use kinds::{EVERY_KIND, NOT_MADE_HERE};
use run::{ASKED, OTHER, Run};
use schemas::{Schemas, VERSIONS};

#[test]
fn schemas_take_every_event_of_a_run_in_every_version() {
    let Run { daemon, mut lines, reached, refused } = run::run();
    let of_run = lines.len();
    lines.extend(faulty::lines());
    let kinds: BTreeSet<String> = lines.iter().map(|line| kind(line)).collect();
    let not_made: BTreeSet<&str> = NOT_MADE_HERE.iter().map(|(kind, _)| *kind).collect();
    let missing: Vec<_> =
        EVERY_KIND.iter().filter(|kind| !kinds.contains(**kind) && !not_made.contains(*kind)).collect();
    assert!(missing.is_empty(), "the run did not make {missing:?}");
    let literal: Vec<_> = not_made.iter().filter(|kind| !kinds.contains(**kind)).collect();
    say(&format!("from literal lines, since this host did not make them: {literal:?}"));
    lines.extend(NOT_MADE_HERE.iter().map(|(_, line)| (*line).to_owned()));

    let mut native = Vec::new();
    for version in VERSIONS {
        let schemas = Schemas::of(version);
        let events = export(daemon.layout(), version.form, &lines);
        assert_eq!(events.len(), lines.len(), "one object a line");
        for (event, line) in events.iter().zip(&lines) {
            let faults = schemas.faults(event);
            assert!(faults.is_empty(), "{}: {faults:#?}\n{event}\nmade from {line}", version.form);
            assert_eq!(event["metadata"]["version"], version.number);
            expect_answers_to_rules(event);
            expect_profiles(event);
        }
        for event in export(daemon.layout(), version.form, &odd::lines(&lines)) {
            assert_eq!(schemas.faults(&event), Vec::<String>::new(), "{}: {event}", version.form);
        }
        // Control: what is left out of an older version, its schemas do not take.
        let newer = native.iter().filter(|event| !schemas.faults(event).is_empty()).count();
        assert_eq!(newer == 0, native.is_empty(), "{}: {newer} newer events are refused", version.form);
        expect_schemas_refuse_others(&schemas, &events);
        if version.form == "ocsf-1.9" {
            native = events;
        }
    }
    expect_ids_are_of_one_event(&daemon, &lines[..of_run], &native);
    expect_decisions(&native);
    found::expect_findings(&native);
    expect_elastic_form(&export(daemon.layout(), "ecs", &lines), &native);
    for version in ["ocsf-1.9", "ocsf-1.3"] {
        let events = export(daemon.layout(), version, &lines);
        expect_an_analyst_s_answer(daemon.layout(), &events, &[reached.to_string(), refused.to_string()]);
    }
}

fn kind(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    event["kind"].as_str().expect("a kind").to_owned()
}

/// Exports lines that were kept.
#[track_caller]
fn export(layout: &Layout, form: &str, lines: &[String]) -> Vec<Value> {
    let kept = layout.file(&unique("kept"));
    std::fs::write(&kept, lines.iter().flat_map(|line| [line, "\n"]).collect::<String>())
        .expect("it is ours");
    let kept = kept.to_str().expect("the path is text");
    let exported = layout.outcome(&["events", "--form", form, "--file", kept]).success();
    exported.iter().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// What rules that others have written read of connections, and of processes.
#[track_caller]
fn expect_answers_to_rules(event: &Value) {
    let is_text = |pointer: &str| {
        event.pointer(pointer).is_some_and(|value| value.as_str().is_some_and(|text| !text.is_empty()))
    };
    let class = event["class_uid"].as_u64().expect("a class");
    let process = [
        "/actor/process/file/name",
        "/actor/process/cmd_line",
        "/actor/process/parent_process/file/name",
        "/actor/process/name",
    ];
    let pointers: &[&str] = if matches!(class, 1007 | 4001) { &process } else { &[] };
    let network: &[&str] = if class == 4001 { &["/connection_info/protocol_name"] } else { &[] };
    for pointer in pointers.iter().chain(network) {
        assert!(is_text(pointer), "no {pointer} in {event}");
    }
    assert!(class != 4001 || is_text("/dst_endpoint/ip") || is_text("/dst_endpoint/name"), "{event}");
}

/// The profiles that are named are those whose attributes are there.
#[track_caller]
fn expect_profiles(event: &Value) {
    let has = |name: &str| event.get(name).is_some();
    let named = |name: &str| {
        let profiles = event["metadata"]["profiles"].as_array().expect("a list");
        profiles.iter().any(|profile| profile == name)
    };
    assert_eq!(named("ai_operation"), has("ai_agent"), "{event}");
    assert_eq!(named("security_control"), has("action_id") && has("disposition_id"), "{event}");
    assert_eq!(named("datetime"), has("time_dt"), "{event}");
    assert_eq!(named("host"), has("device"), "{event}");
    let in_container = ["/actor/process", "/process", "/evidences/0/process"]
        .map(|process| event.pointer(process).is_some_and(|process| process.get("container").is_some()));
    assert_eq!(named("container"), in_container.contains(&true), "{event}");
}

/// That the schemas would notice: an attribute that no class has, at the top and further in, one that has to be there and is not, and one
/// of the wrong kind.
fn expect_schemas_refuse_others(schemas: &Schemas, events: &[Value]) {
    let mut seen = BTreeSet::new();
    for event in events.iter().filter(|event| seen.insert(event["class_uid"].as_u64())) {
        assert!(schemas.faults(event).is_empty(), "control");
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut event = event.clone();
            change(&mut event);
            schemas.faults(&event)
        };
        for (what, faults) in [
            ("added", changed(&|event| event["no_such_attribute"] = json!(1))),
            ("added below", changed(&|event| event["metadata"]["product"]["no_such_attribute"] = json!(1))),
            (
                "missing",
                changed(&|event| drop(event.as_object_mut().expect("an object").remove("severity_id"))),
            ),
            (
                "missing below",
                changed(&|event| drop(event["metadata"].as_object_mut().expect("it is").remove("product"))),
            ),
            ("another kind", changed(&|event| event["time"] = json!("now"))),
            ("another number", changed(&|event| event["activity_id"] = json!(55))),
        ] {
            assert!(!faults.is_empty(), "{what}: not noticed in {event}");
        }
    }
    assert!(seen.len() >= 6, "an event of every class: {seen:?}");
}

fn id(event: &Value) -> &str {
    event["metadata"]["uid"].as_str().expect("an id")
}

/// From the daemon or from a file, now or later: an event has one id, which no other has.
fn expect_ids_are_of_one_event(daemon: &Daemon, lines: &[String], native: &[Value]) {
    let ids: BTreeSet<&str> = native.iter().map(id).collect();
    assert_eq!(ids.len(), native.len(), "no two have the same");
    let live = daemon.layout().outcome(&["events", "--form", "ocsf-1.9"]).success();
    let live: Vec<Value> = live.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(live.len() >= lines.len());
    // The file says nothing of the host, and this is the same one.
    assert_eq!(live[..lines.len()], native[..lines.len()]);
    let elsewhere = daemon.layout().file("one-line");
    std::fs::write(&elsewhere, &lines[0]).expect("it is ours");
    let elsewhere = elsewhere.to_str().expect("text");
    let other = daemon.layout().outcome(&[
        "events",
        "--form",
        "ocsf-1.9",
        "--file",
        elsewhere,
        "--host",
        "elsewhere",
        "--trust-domain",
        "example.org",
    ]);
    let other: Value = serde_json::from_str(&other.success()[0]).expect("JSON");
    assert_ne!(id(&other), id(&native[0]), "another host's");
    assert_eq!(other["device"]["name"], "elsewhere");
}

/// Each way in which a decision comes out, and both families.
fn expect_decisions(native: &[Value]) {
    let mut seen: BTreeMap<(String, u64, u64), usize> = BTreeMap::new();
    for event in native.iter().filter(|event| event["class_uid"] == 4001) {
        let number = |name: &str| event[name].as_u64().expect("a number");
        let name = event["connection_info"]["protocol_name"].as_str().expect("a name").to_owned();
        let family = event["connection_info"]["protocol_ver_id"].as_u64().unwrap_or(0);
        *seen.entry((format!("{name}{family}"), number("activity_id"), number("action_id"))).or_default() +=
            1;
    }
    for (protocol, activity, action) in [
        ("tcp4", 1, 1),
        ("tcp4", 5, 2),
        ("tcp6", 1, 1),
        ("tcp6", 5, 2),
        ("udp4", 1, 1),
        ("udp4", 6, 1),
        ("udp4", 5, 2),
        ("udp6", 1, 1),
        ("udp6", 6, 1),
        ("udp6", 5, 2),
        ("tcp4", 1, 3),
        ("136", 5, 2),
    ] {
        let is_there = seen
            .keys()
            .any(|(name, of, outcome)| name.starts_with(protocol) && (*of, *outcome) == (activity, action));
        assert!(is_there, "no {protocol} with activity {activity} and action {action} in {seen:?}");
    }
    let inbound = native.iter().find(|event| event["connection_info"]["direction_id"] == 1);
    let inbound = inbound.expect("somebody has connected to a session");
    assert_eq!(inbound["src_endpoint"]["ip"], "127.0.0.1");
    assert!(inbound["dst_endpoint"]["port"].as_u64().is_some_and(|port| port > 0), "{inbound}");
}

fn expect_elastic_form(events: &[Value], native: &[Value]) {
    assert_eq!(events.len(), native.len());
    for (event, native) in events.iter().zip(native) {
        assert_eq!(event["event"]["id"].as_str(), Some(id(native)));
        assert_eq!(event["@timestamp"], native["time_dt"]);
        assert_eq!(event["event"]["code"], native["metadata"]["event_code"]);
        assert_eq!(event["gen_ai"]["agent"]["name"], native["actor"]["app_name"]);
    }
    let refused = events.iter().find(|event| event["event"]["type"] == json!(["connection", "denied"]));
    let refused = refused.expect("a connection was refused");
    assert_eq!(
        [&refused["event"]["category"], &refused["event"]["outcome"]],
        [&json!(["network"]), &json!("failure")]
    );
    assert!(refused["destination"]["ip"].is_string() && refused["rule"]["name"].is_string(), "{refused}");
}

/// "All destinations of agent X in the last day, with owner and rule": a rule in Sigma, taken to OCSF and to SQL by programs that are not
/// ours, over the events as a database has them.
fn expect_an_analyst_s_answer(layout: &Layout, events: &[Value], expected: &[String]) {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/sigma/bin/python");
    assert!(python.is_file(), "no {}: `cargo xtask setup` makes it", python.display());
    let kept = layout.file(&unique("events"));
    let mut text: String = events.iter().map(|event| format!("{event}\n")).collect();
    // The day before yesterday the agent went somewhere else.
    let mut old = events
        .iter()
        .find(|event| event["class_uid"] == 4001 && event["actor"]["app_name"] == ASKED)
        .expect("it went somewhere")
        .clone();
    old["time"] = json!(old["time"].as_i64().expect("a time") - 2 * 24 * 3_600_000);
    old["dst_endpoint"] = json!({"ip": "192.0.2.1", "port": 1});
    text.push_str(&format!("{old}\n"));
    std::fs::write(&kept, text).expect("it is ours");
    let ask = |agent: &str| -> BTreeSet<Vec<String>> {
        let mut command = Command::new(&python);
        command.args(["-c", include_str!("ocsf/analyst.py")]).arg(&kept).arg(agent);
        let lines = Process::spawn(command).finish(LOAD_DEADLINE).success();
        lines.iter().map(|line| serde_json::from_str(line).expect("a row")).collect()
    };
    let owner = Envelope::OWNER;
    let answer = ask(ASKED);
    let row = |to: &str, rule: &str| {
        let (ip, port) = to.rsplit_once(':').expect("an address");
        [ip, port, owner, rule].map(str::to_owned).to_vec()
    };
    let [reached, refused] = expected else { panic!("two places: {expected:?}") };
    assert!(answer.contains(&row(reached, "the-allowed")), "{answer:?}");
    assert!(answer.contains(&row(refused, "not-there")), "{answer:?}");
    assert!(!answer.iter().any(|row| row[0] == "192.0.2.1"), "that was before: {answer:?}");
    // What it really did: as many destinations as the events have, and no other agent's.
    let of = |agent: &str| -> BTreeSet<(String, u64)> {
        let all =
            events.iter().filter(|event| event["class_uid"] == 4001 && event["actor"]["app_name"] == agent);
        all.map(|event| {
            let to = &event["dst_endpoint"];
            (to["ip"].as_str().unwrap_or_default().to_owned(), to["port"].as_u64().unwrap_or(0))
        })
        .filter(|(ip, _)| !ip.is_empty())
        .collect()
    };
    let found = |rows: &BTreeSet<Vec<String>>| -> BTreeSet<(String, u64)> {
        rows.iter().map(|row| (row[0].clone(), row[1].parse().expect("a port"))).collect()
    };
    assert_eq!(found(&answer), of(ASKED));
    // Control: the other agent's answer is its own, and nobody's is nobody's.
    assert_eq!(found(&ask(OTHER)), of(OTHER));
    assert_eq!(ask("nobody"), BTreeSet::new());
}

/// A line that is no event is said, with its number; what came before it is exported.
#[test]
fn a_bad_line_is_an_error_with_its_number() {
    let layout = Layout::new();
    let good = NOT_MADE_HERE[0].1;
    for (bad, why) in [
        ("", "it is not an event"),
        ("no json", "it is not an event"),
        (r#"{"version":1}"#, "missing field"),
        (&good.replace(r#""version":1"#, r#""version":7"#), "version 7"),
        (&good.replace("2026-11-26T", "yesterday at "), "understand the time"),
    ] {
        let text = format!("{good}\n{good}\n{bad}\n{good}\n");
        let kept = layout.file("kept");
        std::fs::write(&kept, &text).expect("it is ours");
        let path = kept.to_str().expect("text");
        for from in [path, "-"] {
            let mut command = layout.command(&["events", "--form", "ocsf-1.5", "--file", from]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("the enforcer is executable");
            let mut stdin = child.stdin.take().expect("it is a pipe");
            // It may have ended before it has read all.
            let _ = stdin.write_all(text.as_bytes());
            drop(stdin);
            let output = child.wait_with_output().expect("it is our child");
            let [said, printed] =
                [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes));
            assert_eq!(output.status.code(), Some(1), "{bad}: {said}");
            assert!(said.contains("line 3 of") && said.contains(why), "{bad}: {said}");
            assert_eq!(printed.lines().count(), 2, "{bad}");
        }
    }
}

#[test]
fn followed_events_come_in_the_form_that_is_asked_for() {
    let daemon = Daemon::start();
    let mut follow = Process::spawn(daemon.layout().command(&["events", "--follow", "--form", "ocsf-1.8"]));
    let mut next = || -> Value { serde_json::from_str(&follow.read_line(DEADLINE)).expect("JSON") };
    assert_eq!(next()["metadata"]["event_code"], "daemon-started");
    let process = daemon.run(&Envelope::of("followed"), &["true"]);
    let started = loop {
        let event = next();
        if event["metadata"]["event_code"] == "session-started" {
            break event;
        }
    };
    assert_eq!(started["unmapped"]["ai_agent"]["name"], "followed");
    assert_eq!([&started["class_uid"], &started["type_uid"]], [3003, 300_301]);
    process.finish(DEADLINE).success();
}
