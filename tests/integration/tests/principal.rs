//! A session as a principal: what is said of it when it begins is in all that is told of it; it may ask who it is and why it was refused
//! something, and nothing else; and it is remembered when it has ended.

use std::process::Command;

use integration::{
    DEADLINE, Daemon, Envelope, Finished, InContainer, Process, Server, enforcer_path, wait_until,
};
use serde_json::{Value, json};

/// Runs a script in a session, in which `$ENFORCER` is the command line.
fn run_script(daemon: &Daemon, envelope: &Envelope, options: &[&str], script: &str) -> Process {
    let mut run = daemon.layout().command(&["run", "--envelope"]);
    run.arg(daemon.layout().write_envelope(envelope)).args(options).args(["--", "sh", "-c", script]);
    run.env("ENFORCER", enforcer_path());
    Process::spawn(run)
}

fn json_of(finished: &Finished) -> Value {
    let text = finished.stdout.join("\n");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}; {}", finished.stderr))
}

fn listed(daemon: &Daemon, id: &Value) -> Option<Value> {
    let list = daemon.receipt(&["ps", "--all"]);
    list["sessions"].as_array()?.iter().find(|session| session["id"] == *id).cloned()
}

#[test]
fn what_is_said_of_a_session_is_fixed_and_in_all_its_records() {
    let daemon = Daemon::start();
    let envelope = Envelope::of("said");
    let options = [
        "--owner",
        Envelope::OWNER,
        "--task",
        "OPS-17",
        "--trigger",
        "cron",
        "--label",
        "team=red",
        "--label",
        "example.org/step=1",
    ];
    let sub = daemon.layout().write_envelope(Envelope::of("below"));
    let script = format!(
        "$ENFORCER whoami --format json; read go; \
         $ENFORCER run --label team=blue --envelope {sub} -- true; echo $?; \
         exec $ENFORCER run --task OPS-18 --label more=yes --envelope {sub} -- sh -c '$ENFORCER whoami --format json; read go'",
        sub = sub.display(),
    );
    let mut process = run_script(&daemon, &envelope, &options, &script);
    let session = wait_until(DEADLINE, "the session is listed", || daemon.session("said"));
    let context =
        json!({"task": "OPS-17", "trigger": "cron", "labels": {"team": "red", "example.org/step": "1"}});
    assert_eq!(session["context"], context);
    let spiffe_id = session["spiffe_id"].as_str().expect("an agent has one");
    assert!(spiffe_id.starts_with("spiffe://") && spiffe_id.ends_with("/agent/said"), "{spiffe_id}");
    let shown = daemon.receipt(&["show", session["id"].as_str().expect("an id")]);
    assert_eq!(
        (&shown["session"]["context"], &shown["session"]["spiffe_id"]),
        (&context, &session["spiffe_id"])
    );
    let started = daemon.wait_for_events(1, "it is recorded", |event| {
        event.kind() == "session-started" && event.is_of("said")
    });
    assert_eq!(started[0].text("/session/task"), "OPS-17");
    assert_eq!(started[0].text("/session/trigger"), "cron");
    assert_eq!(started[0].text("/session/labels/team"), "red");
    process.write_line("go");
    let below = wait_until(DEADLINE, "the sub-session is listed", || daemon.session("below"));
    assert_eq!(below["context"]["labels"], json!({"team": "red", "example.org/step": "1", "more": "yes"}));
    assert_eq!((&below["context"]["task"], &below["context"]["trigger"]), (&json!("OPS-18"), &json!("cron")));
    process.write_line("go");
    let finished = process.finish(DEADLINE);
    assert!(finished.stderr.contains("label `team`"), "it cannot be changed: {}", finished.stderr);
    let answers = finished.stdout.join("\n");
    let (own, answers) = answers.split_once("\n1\n").expect("the changed label was refused with 1");
    let own: Value = serde_json::from_str(own).expect("it is JSON");
    assert_eq!((&own["session"]["id"], &own["session"]["context"]), (&session["id"], &context));
    let of_below: Value = serde_json::from_str(answers).expect("it is JSON");
    assert_eq!(of_below["session"]["id"], below["id"]);
    assert_eq!(of_below["above"][0]["id"], session["id"]);
}

#[test]
fn what_may_not_be_said_is_refused() {
    let daemon = Daemon::start();
    let long = "x".repeat(300);
    for (options, why) in [
        (&["--owner", "mallory@example.com"][..], "mallory@example.com"),
        (&["--task", "two\nlines"], "task"),
        (&["--task", &long], "task"),
        (&["--label", "a b=c"], "label"),
        (&["--label", "a=\u{1b}[2J"], "label"),
    ] {
        let refused = run_script(&daemon, &Envelope::of("said"), options, "echo ran").finish(DEADLINE);
        assert_eq!(refused.status.code(), Some(1), "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(why) && refused.stdout.is_empty(), "{options:?}: {refused:?}");
    }
    let not_a_label =
        run_script(&daemon, &Envelope::of("said"), &["--label", "a"], "echo ran").finish(DEADLINE);
    assert_eq!(not_a_label.status.code(), Some(2), "{}", not_a_label.stderr);
    assert_eq!(daemon.query("ps")["sessions"], json!([]));
}

#[test]
fn a_session_is_told_why_it_was_refused() {
    let daemon = Daemon::start();
    let (allowed, denied) = (Server::start("tcp", "127.0.0.10"), Server::start("tcp", "127.0.0.20"));
    let envelope = Envelope::of("curious")
        .allow_server("fine", &allowed)
        .allow("net", "127.0.0.0/8", "any", "any")
        .deny("not-there", "127.0.0.20/32", "any", "any");
    let connect = |to: std::net::SocketAddr| {
        format!("python3 -c \"import socket; socket.create_connection(('{}', {}))\"", to.ip(), to.port())
    };
    let script = format!(
        "{}; $ENFORCER why --format json > /dev/null || exit 9; {}; {}; {}; exec $ENFORCER why --format json",
        connect(allowed.address()),
        connect(denied.address()),
        connect(denied.address()),
        connect("192.0.2.1:443".parse().expect("an address")),
    );
    let finished = run_script(&daemon, &envelope, &[], &script).finish(DEADLINE);
    let answer = json_of(&finished);
    let refusals = answer["refusals"].as_array().expect("a list");
    assert_eq!(refusals.len(), 2, "what was allowed is none, and the same is one: {answer}");
    let [latest, before] = [&refusals[0], &refusals[1]];
    assert_eq!((&latest["reason"], &latest["destination"]), (&json!("no-rule"), &json!("192.0.2.1:443")));
    assert_eq!((&before["reason"], &before["rule"]), (&json!("deny-rule"), &json!("not-there")));
    assert_eq!((&before["times"], &before["comm"]), (&json!(2), &json!("python3")));
    let says = |refusal: &Value, field: &str, part: &str| {
        let text = refusal[field].as_str().expect("it is text");
        assert!(text.contains(part), "{text}");
    };
    says(latest, "explanation", "connect tcp to 192.0.2.1:443 was refused");
    says(latest, "advice", Envelope::OWNER);
    says(before, "explanation", "`not-there`");
}

/// It may ask about itself, and is told nothing of others.
#[test]
fn a_session_asks_about_itself_alone() {
    let daemon = Daemon::start();
    let mut other = run_script(&daemon, &Envelope::of("other"), &[], "read go");
    let id = daemon.session_id("other");
    let script = format!(
        "for what in ps 'ps --all' 'why {id}' 'show {id}' events status; do $ENFORCER $what; echo $what: $?; done; \
         $ENFORCER whoami > /dev/null; echo $?"
    );
    let finished = run_script(&daemon, &Envelope::of("asking"), &[], &script).finish(DEADLINE);
    let expected: Vec<String> =
        ["ps", "ps --all", &format!("why {id}"), &format!("show {id}"), "events", "status"]
            .iter()
            .map(|what| format!("{what}: 1"))
            .chain(["0".to_owned()])
            .collect();
    assert_eq!(finished.stdout, expected, "{}", finished.stderr);
    // From outside: an operator is told of any, and is in none.
    assert_eq!(daemon.receipt(&["why", &id])["session"], json!(id));
    for nobody in [&["whoami"][..], &["why"]] {
        let outcome = daemon.layout().outcome(nobody);
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("in no session"), "{}", outcome.stderr);
    }
    other.write_line("go");
    other.finish(DEADLINE).success();
}

#[test]
fn how_a_session_ended_is_remembered() {
    let mut daemon = Daemon::start();
    run_script(&daemon, &Envelope::of("by-itself"), &["--task", "OPS-1"], "true").finish(DEADLINE).success();
    let ended_of = |daemon: &Daemon, agent: &str| {
        wait_until(DEADLINE, "it is remembered", || {
            let list = daemon.receipt(&["ps", "--all"]);
            let sessions = list["sessions"].as_array().expect("a list").clone();
            sessions.into_iter().find(|session| session["agent"] == agent && session["state"] == "ended")
        })
    };
    let by_itself = ended_of(&daemon, "by-itself");
    assert_eq!((&by_itself["end_reason"], &by_itself["context"]["task"]), (&json!("exit"), &json!("OPS-1")));
    assert_eq!(daemon.query("ps")["sessions"], json!([]), "only those that run");

    let mut revoked = run_script(&daemon, &Envelope::of("revoked"), &[], "read go");
    let id = daemon.session_id("revoked");
    daemon.receipt(&["revoke", &id]);
    revoked.write_line("go");
    revoked.finish(DEADLINE);
    assert_eq!(ended_of(&daemon, "revoked")["end_reason"], "revoked");

    let mut expired = run_script(&daemon, &Envelope::of("expired").ttl("1s"), &[], "read go");
    daemon.wait_for_events(1, "it expires", |event| event.kind() == "session-expired");
    expired.write_line("go");
    expired.finish(DEADLINE);
    assert_eq!(ended_of(&daemon, "expired")["end_reason"], "expired");

    // One that ends while no daemon runs, and those that had ended before.
    let mut unseen = run_script(&daemon, &Envelope::of("unseen"), &[], "read go");
    daemon.wait_for_events(1, "it runs", |event| event.is_of("unseen") && event.kind() == "exec");
    daemon.kill9();
    unseen.write_line("go");
    unseen.finish(DEADLINE);
    daemon.restart();
    assert_eq!(ended_of(&daemon, "unseen")["end_reason"], "exit");
    assert_eq!(listed(&daemon, &by_itself["id"]), Some(by_itself.clone()), "the same as before");
    let shown = daemon.receipt(&["show", by_itself["id"].as_str().expect("an id")]);
    assert_eq!(shown["session"], by_itself);
    let reasons = daemon.wait_for_events(4, "the ends are recorded", |event| event.kind() == "session-ended");
    let reasons: Vec<&str> = reasons.iter().map(|event| event.text("/detail")).collect();
    assert_eq!(reasons, ["exit", "revoked", "expired", "exit"]);
}

#[test]
fn a_session_names_the_container_that_it_began_in() {
    let mut daemon = Daemon::start();
    let container = InContainer::new();
    let named = json!({"id": container.id(), "runtime": "docker"});
    let of = |daemon: &Daemon, agent: &str| {
        let session = wait_until(DEADLINE, "the session is listed", || daemon.session(agent));
        session["container"].clone()
    };
    // A session, and a part of it.
    let below = daemon.layout().write_envelope(Envelope::of("below")).display().to_string();
    let enforcer = enforcer_path().display().to_string();
    let command = [&enforcer, "run", "--envelope", &below, "--", "cat"];
    let inside = container.run(&daemon.layout().run_command(Envelope::of("inside"), &command));
    assert_eq!(of(&daemon, "below"), named);
    assert_eq!(of(&daemon, "inside"), named);
    // What runs already: one process, and then all that are there.
    let running = container.run(&Command::new("cat"));
    daemon.register(&Envelope::of("registered"), &["--pid", &running.pid().to_string()]);
    assert_eq!(of(&daemon, "registered"), named);
    let member = container.run(&Command::new("cat"));
    daemon.register(&Envelope::of("whole"), &["--cgroup", &container.path().display().to_string()]);
    assert_eq!(of(&daemon, "whole"), named);
    // Control.
    let _outside = daemon.run(&Envelope::of("outside"), &["cat"]);
    assert_eq!(of(&daemon, "outside"), Value::Null);

    let begun = daemon.wait_for_events(5, "all are recorded", |event| event.kind() == "session-started");
    for event in &begun {
        let expected = (!event.is_of("outside")).then_some(&named);
        assert_eq!(event.find("/session/container"), expected, "{event:?}");
    }
    daemon.kill9();
    daemon.restart();
    for agent in ["inside", "below", "registered", "whole"] {
        assert_eq!(of(&daemon, agent), named, "{agent}, after a restart");
    }
    let shown = daemon.layout().outcome(&["show", &daemon.session_id("whole")]).success().join("\n");
    assert!(shown.contains(&format!("in container {} of docker", container.id())), "{shown}");
    drop((inside, running, member));
    daemon.kill_sessions();
    daemon.wait_idle();
}
