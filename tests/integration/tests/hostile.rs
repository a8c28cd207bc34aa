//! Clients that mean no good, at both sockets: nobody gets anything for another, and nobody else has to wait for long.

#[path = "hostile/agents.rs"]
mod agents;
#[path = "hostile/target.rs"]
mod target;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use integration::{
    DEADLINE, Envelope, Event, LOAD_DEADLINE, Process, cgroup_root, enforcer_path, fewer, probe,
    remove_cgroup, scaled, unique, wait_until,
};
use nix::unistd::Pid;
use serde_json::{Value, json};

use agents::{Asked, Pairing};
use target::{SERVED, Target, USERS, answer, client_outside};

/// Whose number a process has says nothing: it is held by something that is not given out again.
#[test]
fn number_of_a_process_that_has_ended_is_of_no_use() {
    let mut target = Target::start();
    let mut pairing = Pairing::start(&target);
    // Control: the same process asks the rest.
    for asked in [Asked::control(&target), Asked::workload(&target)] {
        let agent = &mut pairing.agents[usize::from(asked.is_for_sessions)];
        // Where the kernel is old, it may not say who wrote this soon.
        let given = (0..10).any(|_| {
            agent.ask(&json!(["child", asked.socket]));
            agent.hears("tell", asked.before);
            agent.ask(&json!(["tell", asked.parts[0], 0]));
            let heard = agent.hears("tell", &asked.parts[1]);
            agent.must(&json!(["end"]));
            asked.is_given(&heard)
        });
        assert!(given, "{}: control", asked.socket);
    }
    let granted = target.begin();
    for asked in [Asked::control(&target), Asked::workload(&target)] {
        for (from, side) in ["outside", "inside"].iter().enumerate() {
            for daemon in [None, Some(Pid::from_raw(target.daemon.pid()))] {
                let heard = pairing.reuse(&asked, from, daemon);
                let what = format!("{}, made {side}, {daemon:?}", asked.socket);
                assert!(!asked.is_given(&heard), "{what}: {heard:?}");
                assert!(
                    daemon.is_some() || heard.is_empty() || !heard.contains(" 200 "),
                    "{what}: {heard:?}"
                );
            }
        }
    }
    target.check(&granted, "process ids given out again");
    let gone = |event: &Event| {
        event.kind() == "request-refused" && event.text("/detail").contains("made the connection is gone")
    };
    let is_recorded = target.daemon.events().iter().any(gone);
    // Before Linux 6.16 the kernel may not say who wrote, and then there is nothing to record.
    assert!(is_recorded || kernel() < (6, 16), "it is recorded");
    target.end();
}

/// The version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Neither a session's connection nor an operator's is of use to anybody else.
#[test]
fn connection_that_is_handed_over_is_of_no_use() {
    let mut target = Target::start();
    let mut pairing = Pairing::start(&target);
    let granted = target.begin();
    for asked in [Asked::control(&target), Asked::workload(&target)] {
        for (from, side) in ["outside", "inside"].iter().enumerate() {
            for begun in [0, 1] {
                pairing.agents[from].must(&json!(["connect", asked.socket]));
                // What the one began, the other cannot go on with.
                if begun == 1 {
                    let half = format!("{}{}", asked.before, asked.parts[0]);
                    pairing.agents[from].ask(&json!(["write", half, 0]));
                }
                pairing.hand_over(from);
                let rest = if begun == 1 { asked.parts[1].clone() } else { asked.whole() };
                let heard = pairing.agents[1 - from].hears("write", &rest);
                assert!(!asked.is_given(&heard), "{}, made {side}: {heard:?}", asked.socket);
            }
        }
    }
    target.check(&granted, "connections handed over");
    let by_another = |event: &Event| {
        event.kind() == "request-refused" && event.text("/detail").contains("another process writes")
    };
    target.daemon.wait_for_events(4, "they are recorded", by_another);
    target.end();
}

/// Whoever has nothing to ask has no place for long.
#[test]
fn ten_thousand_idle_connections_lock_nobody_out() {
    let mut target = Target::start();
    let (control, workload) = (target.control(), target.workload());
    let count = fewer(10_000, 2_000) / 10;
    let hold = |uid: &str, socket: &str, parts: u32| {
        client_outside(&[uid, "hold", socket, &(parts * count).to_string()])
    };
    target.begin();
    let mut holders = vec![
        target.inside("idle", &["0", "hold", &control, &count.to_string()]),
        target.inside("idle", &["0", "hold", &workload, &count.to_string()]),
        hold("0", &control, 1),
        hold("0", &control, 1),
        hold(USERS[0], &control, 1),
        hold(USERS[1], &control, 1),
        hold("0", &workload, 1),
        hold(USERS[0], &workload, 2),
        hold(USERS[1], &workload, 1),
    ];
    let made: u64 = holders.iter_mut().map(|holder| answer(holder).as_u64().expect("a number")).sum();
    assert_eq!(made, u64::from(10 * count), "each was taken, or turned away");
    let granted = (target.granted().0, 0);
    target.check(&granted, "idle connections");
    target.issue("honest");
    wait_until(SERVED, "no idle connection is kept", || {
        let open: u64 = holders
            .iter_mut()
            .map(|holder| {
                holder.write_line("");
                answer(holder).as_u64().expect("a number")
            })
            .sum();
        (open == 0).then_some(())
    });
    assert!(target.daemon.counter("connections_turned_away") > u64::from(4 * count), "most had no place");
    target.end();
}

/// Each session has places of its own, to hand on a part of itself.
#[test]
fn session_that_wants_all_connections_keeps_no_other_from_delegating() {
    let target = Target::start();
    let mut hog = target.inside("hog", &["0", "press", &target.control(), "32"]);
    hog.write_line("");
    assert_eq!(answer(&mut hog), "pressing");
    let layout = target.daemon.layout();
    let part = layout.write_envelope(Envelope::of("part")).display().to_string();
    let enforcer = enforcer_path().display().to_string();
    for _ in 0..10 {
        let nested = target
            .daemon
            .run(&Envelope::of("whole"), &[&enforcer, "run", "--envelope", &part, "--", "echo", "in"]);
        assert_eq!(nested.finish(DEADLINE).success(), ["in"]);
    }
    assert!(target.daemon.counter("connections_turned_away") > 32, "control: it wants more than it gets");
    drop(hog);
    target.end();
}

/// Nor the operator from operating, wherever it stands: in somebody else's cgroup, it is told by its tag.
#[test]
fn session_in_somebody_elses_cgroup_has_no_places_of_its_users() {
    let Borrowed(cgroup) = &Borrowed::new();
    let mut target = Target::start();
    let (control, workload) = (target.control(), target.workload());
    let mut hogs = [&control, &workload].map(|socket| client_outside(&["0", "press", socket, "300"]));
    for hog in &hogs {
        fs::write(cgroup.join("cgroup.procs"), hog.pid().to_string()).expect("we are root");
    }
    let path = cgroup.to_str().expect("it is text");
    target.daemon.register(&Envelope::of("borrowed"), &["--cgroup", path]);
    target.begin();
    for hog in &mut hogs {
        hog.write_line("");
        assert_eq!(answer(hog), "pressing");
    }
    for _ in 0..10 {
        target.daemon.layout().outcome(&["status"]).success();
    }
    let turned_away = target.daemon.counter("connections_turned_away");
    assert!(turned_away > 300, "control: they want more than they get, {turned_away}");
    let granted = target.granted();
    target.check(&granted, "connections from somebody else's cgroup");
    drop(hogs);
    wait_until(DEADLINE, "it has ended", || target.daemon.session("borrowed").is_none().then_some(()));
    target.end();
}

/// A cgroup that is nobody's session's.
struct Borrowed(PathBuf);

impl Borrowed {
    fn new() -> Self {
        let path = cgroup_root().join(unique("enforcer-hostile"));
        fs::create_dir(&path).expect("we are root");
        Self(path)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}

/// What is no request, and what is only a part of one.
#[test]
fn half_requests_and_rubbish_cost_little_and_get_nothing() {
    let mut target = Target::start();
    let (control, workload) = (target.control(), target.workload());
    let rounds = fewer(5, 1).to_string();
    target.begin();
    let mut senders: Vec<Process> = [&control, &workload]
        .into_iter()
        .flat_map(|socket| {
            [
                target.inside("half", &["0", "halves", socket, &rounds]),
                client_outside(&["0", "halves", socket, &rounds]),
                client_outside(&[USERS[0], "halves", socket, &rounds]),
            ]
        })
        .collect();
    wait_until(DEADLINE, "both are there", || (target.granted().0.len() == 3).then_some(()));
    let granted = (target.granted().0, 0);
    for sender in &mut senders {
        assert_ne!(answer(sender), 0);
    }
    target.check(&granted, "halves and rubbish");
    target.issue("honest");
    target.end();
}

/// Of a request that is too large, next to nothing is kept, whoever sends it.
#[test]
fn requests_of_100_megabytes_cost_little_and_get_nothing() {
    let mut target = Target::start();
    let (control, workload) = (target.control(), target.workload());
    let seconds = scaled(Duration::from_secs(5)).as_secs().to_string();
    target.begin();
    let mut inside = target.inside("large", &["0", "large", &control, &seconds]);
    let mut message = target.inside("message", &["0", "messages", &workload, &seconds]);
    wait_until(DEADLINE, "both are there", || (target.granted().0.len() == 3).then_some(()));
    let granted = (target.granted().0, 0);
    let mut senders = [
        client_outside(&["0", "large", &control, &seconds]),
        client_outside(&[USERS[0], "large", &control, &seconds]),
        client_outside(&["0", "large", &workload, &seconds]),
    ];
    for sender in senders.iter_mut().chain([&mut inside]) {
        let answers = answer(sender);
        for (what, answer) in answers.as_object().expect("an object") {
            let status = answer[1].as_str().expect("text");
            // Without a body it would be answered, too.
            let may_be = what.starts_with("GET /v1/status") || !status.starts_with("HTTP/1.1 2");
            assert!(may_be, "{what}: {answer}");
        }
    }
    let said = answer(&mut message);
    assert!(!said.as_str().expect("text").contains("spiffe://"), "{said}");
    target.check(&granted, "100 MB");
    target.end();
}

/// What nobody reads is not written for them all at once.
#[test]
fn clients_that_do_not_read_cost_little() {
    let mut target = Target::start();
    let (control, workload) = (target.control(), target.workload());
    // Something to read.
    let [_, refused] = target.pair.arguments();
    let often = fewer(2_000, 200).to_string();
    let talker = target.daemon.run(&Envelope::of("talker"), &probe(&["race", "2", &often, &refused]));
    talker.finish(LOAD_DEADLINE).success();
    wait_until(DEADLINE, "it has ended", || target.daemon.session("talker").is_none().then_some(()));
    target.begin();
    let mut senders = [
        target.inside("deaf", &["0", "deaf", &workload, "8"]),
        target.inside("deaf", &["0", "deaf", &control, "8"]),
        client_outside(&["0", "deaf", &control, "100"]),
        client_outside(&[USERS[0], "deaf", &control, "100"]),
        client_outside(&[USERS[1], "deaf", &workload, "100"]),
    ];
    for sender in &mut senders {
        assert_ne!(answer(sender), 0);
    }
    let granted = target.granted();
    assert_eq!(granted.0.len(), 3);
    target.check(&granted, "clients that do not read");
    target.end();
}

/// What is asked in another way than it can be: an answer says so, or the connection ends.
#[test]
fn what_is_asked_wrongly_is_refused() {
    let mut target = Target::start();
    let granted = target.begin();
    let workload = Asked::workload(&target);
    let plain = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n");
    let with = |kind: &str, body: &str| {
        let length = body.len();
        format!("POST /v1/sessions HTTP/1.1\r\nhost: x\r\n{kind}content-length: {length}\r\n\r\n{body}")
    };
    let json = "content-type: application/json\r\n";
    let requests = [
        plain("PATCH /v1/status"),
        plain("POST /v1/status"),
        plain("GET /v1/enforcement"),
        plain("GET /v1/registrations"),
        plain("PUT /v1/sessions"),
        plain("DELETE /v1/sessions/%00"),
        plain("DELETE /v1/sessions/"),
        plain("GET /v1/../v1/status"),
        plain("GET //v1/status"),
        plain("GET /V1/STATUS"),
        plain("OPTIONS *"),
        plain("CONNECT x:1"),
        plain("TRACE /v1/status"),
        plain(&format!("GET /{}", "a".repeat(30_000))),
        "GET /v1/status HTTP/3.0\r\n\r\n".to_owned(),
        "GET /v1/status\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        with("", "{}"),
        with("content-type: text/plain\r\n", "{}"),
        with("content-type: application/grpc\r\n", "\0\0\0\0\0"),
        with(json, ""),
        with(json, "[]"),
        with(json, "{"),
        with(json, "{}"),
        with(json, r#"{"envelope": "", "command": []}"#),
        with(json, r#"{"envelope": "", "command": [], "owner": "root"}"#),
        with(json, r#"{"envelope": {"a": 1}, "command": []}"#),
        with(json, &"[".repeat(50_000)),
        with(json, &format!("{{\"envelope\": {}", "[".repeat(50_000))),
        with("content-type: application/json\r\ntransfer-encoding: chunked\r\n", "{}"),
        workload.whole(),
    ];
    // Control: what is asked rightly is answered; where the kernel is old, it may not say who wrote this soon.
    let right = vec![plain("GET /v1/status"); 10];
    for uid in ["0", USERS[0]] {
        let right = ask(uid, &target.control(), &right);
        assert!(right.iter().any(|answer| answer == "HTTP/1.1 200 OK"), "{right:?}");
        for (request, answer) in requests.iter().zip(ask(uid, &target.control(), &requests)) {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{uid} {request:.80}: {answer:?}");
        }
        for (request, answer) in requests.iter().zip(ask(uid, &target.workload(), &requests)) {
            assert!(!answer.starts_with("HTTP/") && !answer.contains("spiffe://"), "{request:.80}: {answer}");
        }
    }
    target.check(&granted, "wrong requests");
    target.end();
}

/// What a user is told on each of these requests, on a connection of its own.
#[track_caller]
fn ask(uid: &str, socket: &str, requests: &[String]) -> Vec<String> {
    let mut client = client_outside(&[uid, "asks", socket]);
    client.write_line(&Value::from(requests.to_vec()).to_string());
    serde_json::from_value(answer(&mut client)).expect("a list of lines")
}
