//! `enforcer apply`: the envelope of a session that runs is replaced, all of it at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use integration::{
    Conversation, DEADLINE, Daemon, Envelope, Event, Finished, LOAD_DEADLINE, Pair, Process, fewer,
    inner_memory, probe, say, scaled, unique, wait_until,
};
use serde_json::json;

fn apply(daemon: &Daemon, envelope: impl std::fmt::Display) -> Finished {
    let file = daemon.layout().write_envelope(envelope).display().to_string();
    daemon.layout().outcome(&["apply", &file])
}

/// A session of `agent` that may reach the pair's allowed server, with the attempts for both servers; and the envelope that
/// has it the other way round.
fn session(daemon: &Daemon, agent: &str, pair: &Pair) -> (Conversation, [String; 2], [Envelope; 2]) {
    let [allowed, refused] = [&pair.allowed, &pair.refused].map(|server| format!("tcp/{}", server.address()));
    let first = Envelope::of(agent).allow_server("first", &pair.allowed);
    let second = Envelope::of(agent).allow_server("second", &pair.refused);
    let mut inside = daemon.converse(&first, &unique("session"));
    assert!(inside.attempt(&allowed) && !inside.attempt(&refused), "held to the first envelope");
    (inside, [allowed, refused], [first, second])
}

#[test]
fn running_sessions_are_held_to_what_is_applied() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let (mut inside, [a, b], [first, second]) = session(&daemon, "worker", &pair);
    let (mut twin, ..) = session(&daemon, "worker", &pair);
    let (mut other, ..) = session(&daemon, "other", &pair);
    let digest = || daemon.session("worker").expect("it runs")["envelope_digest"].clone();
    let before = digest();

    let lines = apply(&daemon, &second).success();
    assert_eq!(lines.len(), 2, "both sessions of the agent: {lines:?}");
    for inside in [&mut inside, &mut twin] {
        assert!(!inside.attempt(&a) && inside.attempt(&b), "from the moment on that `apply` returned");
    }
    assert!(other.attempt(&a) && !other.attempt(&b), "another agent is not concerned");
    assert_ne!(digest(), before);
    daemon.wait_for_events(2, "the replacement is recorded", |event| {
        event.is_of("worker") && event.kind() == "envelope-replaced"
    });

    apply(&daemon, &first).success();
    assert!(inside.attempt(&a) && !inside.attempt(&b), "and back");
    assert_eq!(digest(), before);

    // Each allow names the rule of the envelope that was in force.
    let rules = |event: &Event| {
        let rule = event.at("/rule").as_str().expect("an allow has a rule").to_owned();
        (event.decision().destination, rule)
    };
    let allows = |event: &Event| event.is_of("worker") && event.kind() == "egress" && !event.is_deny();
    let named: BTreeSet<_> = daemon.wait_for_events(5, "all allows", allows).iter().map(rules).collect();
    let expect = [(pair.allowed.address(), "first"), (pair.refused.address(), "second")];
    assert_eq!(named, expect.map(|(address, rule)| (address.to_string(), rule.to_owned())).into());
    for conversation in [inside, twin, other] {
        conversation.end();
    }
}

#[test]
fn mode_changes_with_the_envelope() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let (mut inside, [_, b], [first, _]) = session(&daemon, "worker", &pair);
    apply(&daemon, first.clone().audit()).success();
    assert!(inside.attempt(&b), "let through in audit mode");
    apply(&daemon, &first).success();
    assert!(!inside.attempt(&b), "and refused in enforce mode");
    inside.end();
}

#[test]
fn what_is_refused_changes_nothing() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let (mut inside, [a, b], [_, second]) = session(&daemon, "worker", &pair);
    let second = second.to_string();
    let owner = Envelope::OWNER;
    for (text, said) in [
        (second.replace("ttl:", "tll:"), "unknown field"),
        (second.replace(owner, "mallory@example.com"), "it has the owner `alice@example.com`"),
        (second.replace("operator: ", "operator: x"), "has the operator"),
        (second.replace("model: ", "model: x"), "has the model"),
        (second.replace("name: worker", "name: nobody"), "no session of agent `nobody` runs"),
        (format!("{second}  limits: {{connections: 5}}\n"), "`limits` is here twice"),
        (
            second.replace("limits: {", "limits: {processes: 5"),
            "nothing here holds sessions to: limits.processes",
        ),
        (format!("{second}  requires: [agents]\n"), "nothing here holds sessions to: agents"),
        (format!("{second}  requires: [names]\n"), "nothing here holds sessions to: names"),
    ] {
        let outcome = apply(&daemon, &text);
        assert_eq!(outcome.status.code(), Some(1), "{text}");
        assert!(outcome.stderr.contains(said), "`{said}` in {}", outcome.stderr);
        assert!(inside.attempt(&a) && !inside.attempt(&b), "after {said}");
    }
    // What was revoked stays so.
    daemon.layout().outcome(&["revoke", &daemon.session_id("worker")]).success();
    apply(&daemon, &second).success();
    assert!(!inside.attempt(&a) && !inside.attempt(&b), "revoked");
    inside.end();
}

#[test]
fn sessions_of_somebody_else_are_left_as_they_are() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let (mut inside, [a, b], [first, second]) = session(&daemon, "worker", &pair);
    let of_another = first.to_string().replace(Envelope::OWNER, "mallory@example.com");
    let mut other = Conversation::over(Process::spawn(
        daemon.layout().run_command(&of_another, &Conversation::command(&unique("other"))),
    ));
    let lines = apply(&daemon, &second).success();
    assert!(
        lines.iter().any(|line| line.contains("is left as it is: it has the owner `mallory@example.com`"))
    );
    assert!(!inside.attempt(&a) && inside.attempt(&b), "the owner's own session");
    assert!(other.attempt(&a) && !other.attempt(&b), "the other one's");
    inside.end();
    other.end();
}

/// A daemon is killed between the kernel's change-over and its being written down: the file names the envelope in force as the
/// other one.
#[test]
fn what_a_killed_daemon_has_not_written_down_is_made_up_for() {
    let pair = Pair::v4("tcp");
    let mut daemon = Daemon::start();
    let (mut inside, [a, b], [_, second]) = session(&daemon, "worker", &pair);
    let id = daemon.session_id("worker");
    daemon.kill9();
    let path = daemon.layout().state_dir().join(format!("sessions/{id}.json"));
    let text = std::fs::read_to_string(&path).expect("the session is written down");
    let mut file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let in_force = file["envelope"].clone();
    file["other"] = in_force.clone();
    file["envelope"] =
        json!({ "number": in_force["number"].as_u64().expect("a number") + 1, "text": second.to_string() });
    std::fs::write(&path, file.to_string()).expect("it is ours");

    daemon.restart();
    assert!(inside.attempt(&a) && !inside.attempt(&b), "held to what the kernel goes by");
    assert_eq!(daemon.session("worker").expect("it runs")["state"], "active");
    daemon.wait_for_events(1, "the replacement is recorded", |event| {
        event.is_of("worker") && event.kind() == "envelope-replaced"
    });
    // Neither of the two: nobody knows what it is held to.
    daemon.kill9();
    file["other"] = serde_json::Value::Null;
    std::fs::write(&path, file.to_string()).expect("it is ours");
    daemon.restart();
    assert!(!inside.attempt(&a) && !inside.attempt(&b), "refused everything");
    inside.end();
}

/// Records that are read after a replacement name the envelope that decided, also if the daemon that replaced it is gone.
#[test]
fn decisions_name_the_envelope_that_took_them() {
    let pair = Pair::v4("tcp");
    let mut daemon = Daemon::start();
    let (mut inside, [a, b], [_, second]) = session(&daemon, "worker", &pair);
    let digest = |daemon: &Daemon| daemon.session("worker").expect("it runs")["envelope_digest"].clone();
    let first_digest = digest(&daemon);
    let other_purpose = second.to_string().replace("integration test", "something else");
    apply(&daemon, &other_purpose).success();
    let second_digest = digest(&daemon);
    daemon.kill9();
    assert!(!inside.attempt(&a) && inside.attempt(&b));
    daemon.restart();
    let is_egress = |event: &Event| event.is_of("worker") && event.kind() == "egress";
    let events = daemon.wait_for_events(4, "all decisions", is_egress);
    let said: Vec<_> = events
        .iter()
        .map(|event| ["/session/purpose", "/session/envelope_digest", "/rule"].map(|at| event.at(at).clone()))
        .collect();
    let first_says = |rule| [json!("integration test"), first_digest.clone(), rule];
    let second_says = |rule| [json!("something else"), second_digest.clone(), rule];
    let null = serde_json::Value::Null;
    assert_eq!(
        said,
        [
            first_says(json!("first")),
            first_says(null.clone()),
            second_says(null),
            second_says(json!("second"))
        ]
    );
    inside.end();
}

#[test]
fn a_daemon_that_starts_again_goes_by_what_the_kernel_does() {
    let pair = Pair::v4("tcp");
    let mut daemon = Daemon::start();
    let (mut inside, [a, b], envelopes) = session(&daemon, "worker", &pair);
    let files = envelopes.map(|envelope| daemon.layout().write_envelope(envelope));
    let rounds = fewer(20, 6);
    for round in 0..rounds {
        // Killed at some moment of an `apply`: before it, within it, or after it.
        let file = files[(round % 2) as usize ^ 1].display().to_string();
        let applying = Process::spawn(daemon.layout().command(&["apply", &file]));
        let pause = Instant::now() + scaled(Duration::from_millis(30)) * round / rounds;
        while Instant::now() < pause {
            std::hint::spin_loop();
        }
        daemon.kill9();
        drop(applying.finish(DEADLINE));
        let without = [inside.attempt(&a), inside.attempt(&b)];
        assert!(without == [true, false] || without == [false, true], "one of the two: {without:?}");
        daemon.restart();
        assert_eq!([inside.attempt(&a), inside.attempt(&b)], without, "round {round}: as it was");
        let session = daemon.session("worker").expect("it still runs");
        assert_eq!(session["state"], "active", "round {round}");
    }
    apply(&daemon, std::fs::read_to_string(&files[0]).expect("it is ours")).success();
    assert!(inside.attempt(&a) && !inside.attempt(&b), "and it can be replaced again");
    assert_eq!(daemon.counter("fault_no_rules"), 0);
    let tables = daemon.layout().pin_dir.join("maps/RULES");
    wait_until(DEADLINE, "no rules of replaced envelopes are left", || {
        // One in use, and the empty one that is written to wait.
        (inner_memory(&tables).len() <= 2).then_some(())
    });
    inside.end();
}

/// Where the sessions of the load test connect to, and what the two envelopes say of it.
const PLACES: [(&str, [(&str, &str); 2]); 4] = [
    ("127.0.0.11:1111", [("allow", "one-allowed"), ("allow", "two-allowed")]),
    ("127.0.0.12:1112", [("deny", "one-denied"), ("deny", "two-denied")]),
    ("127.1.0.13:443", [("allow", "one-first"), ("deny", "two-first")]),
    ("127.2.0.14:443", [("deny", "one-second"), ("allow", "two-second")]),
];

/// Single addresses and ports; nested networks and ranges. So that not one look-up is the same.
fn envelopes(agent: &str) -> [Envelope; 2] {
    [
        Envelope::of(agent)
            .allow("one-allowed", "127.0.0.11", "1111", "udp")
            .allow("one-first", "127.1.0.13", "443", "udp")
            .deny("one-denied", "127.0.0.12", "any", "any")
            .deny("one-second", "127.2.0.14", "any", "any"),
        Envelope::of(agent)
            .allow("two-allowed", "127.0.0.0/16", "[1-1111, 1113-2000, 3000]", "any")
            .allow("two-unused", "2001:db8::/32", "[53, 80-90]", "any")
            .allow("two-second", "127.2.0.0/24", "[80, 443, 8000-9000]", "udp")
            .deny("two-denied", "127.0.0.12/30", "1112", "any")
            .deny("two-first", "127.1.0.0/20", "any", "udp"),
    ]
}

#[test]
fn no_verdict_that_neither_envelope_gives() {
    const ALTERNATIONS: usize = 1_000;
    let daemon = Daemon::start();
    let envelopes = envelopes("busy");
    let files =
        envelopes.each_ref().map(|envelope| daemon.layout().write_envelope(envelope).display().to_string());
    let places = PLACES.map(|(address, _)| address);
    let mut arguments = vec!["verdicts", "4"];
    arguments.extend(places);
    // The loops have what processors the replacements leave.
    let command = [vec!["nice".to_owned()], probe(&arguments)].concat();
    let busy = daemon.run(&envelopes[0], &command);
    daemon.session_id("busy");

    // Meanwhile sessions of other agents begin and end, each with an envelope of its own: numbers are given out again.
    let done = AtomicBool::new(false);
    let mut took: Vec<Duration> = Vec::new();
    let begun = thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut begun = 0u32;
            while !done.load(Ordering::Relaxed) {
                let envelope = Envelope::of("passing").allow(
                    "only",
                    "127.0.0.1",
                    &(begun % 60_000 + 1).to_string(),
                    "udp",
                );
                // What is left of a session that has ended goes when it would have expired.
                let envelope = envelope.ttl("10s");
                daemon.run(&envelope, &["true"]).finish(DEADLINE).success();
                begun += 1;
            }
            begun
        });
        for round in 1..=ALTERNATIONS {
            let start = Instant::now();
            daemon.layout().outcome(&["apply", &files[round % 2]]).success();
            took.push(start.elapsed());
        }
        done.store(true, Ordering::Relaxed);
        churn.join().expect("sessions begin and end")
    });

    let lines = busy.finish(LOAD_DEADLINE).success();
    let counts: BTreeMap<String, [u64; 2]> =
        serde_json::from_str(lines.last().expect("the counts")).expect("JSON");
    for (address, says) in PLACES {
        let [passed, refused] = counts[address];
        let expect = |verdict| says.iter().any(|(said, _)| *said == verdict);
        assert_eq!(passed > 0, expect("allow"), "{address}: {passed} passed");
        assert_eq!(refused > 0, expect("deny"), "{address}: {refused} refused");
        // Both envelopes were in force, and often.
        assert!(passed + refused > 10_000, "{address}: {passed} passed, {refused} refused");
    }
    assert_eq!(daemon.counter("fault_no_rules"), 0);

    let events: Vec<Event> =
        daemon.events().into_iter().filter(|event| event.is_of("busy") && event.kind() == "egress").collect();
    assert!(events.len() > 10_000, "{} events are left to look at", events.len());
    for event in &events {
        let found = PLACES.iter().any(|(address, says)| {
            let said = (event.text("/verdict"), event.at("/rule").as_str().unwrap_or("no rule"));
            event.decision().destination == *address && says.contains(&said)
        });
        assert!(found, "neither envelope gives {:?}", event.decision());
    }
    took.sort_unstable();
    let all: u64 = counts.values().flatten().sum();
    say(&format!(
        "{ALTERNATIONS} replacements, each in {:?} (median; {:?} at most), during {all} connects and {begun} other sessions; {} events looked at",
        took[ALTERNATIONS / 2],
        took[ALTERNATIONS - 1],
        events.len()
    ));
    let tables = daemon.layout().pin_dir.join("maps/RULES");
    // But for those that nobody has, which are always there, and those of the busy session: what it sent last may be on its way.
    wait_until(LOAD_DEADLINE, "no other rules are left", || (inner_memory(&tables).len() <= 2).then_some(()));
}
