//! What the enforcer says when asked.

use std::time::{Duration, Instant};

use integration::{DEADLINE, Daemon, Envelope, Event, Pair, Process, scaled, unique, wait_until, wrap};

#[test]
fn ps_shows_who_made_whom() {
    let daemon = Daemon::start();
    let mut process = daemon.run(&Envelope::of("tree"), &["sh", "-c", "sh -c 'echo $$; cat; true'; true"]);
    let child: i32 = process.read_line(DEADLINE).parse().expect("a pid");
    let root = process.pid();
    // `comm` is learnt from the record of the exec, which comes a moment later.
    let session = wait_until(DEADLINE, "three processes are listed", || {
        let session = daemon.session("tree")?;
        let processes = session["processes"].as_array()?;
        let cat = processes.iter().find(|process| process["comm"] == "cat")?;
        (processes.len() == 3 && cat["parent_pid"] == child).then(|| session.clone())
    });
    let find = |pid: i32| {
        let processes = session["processes"].as_array().expect("a list");
        processes.iter().find(|process| process["pid"] == pid).expect("it is listed")
    };
    assert!(find(root)["parent_pid"].is_null(), "the first of the session");
    assert_eq!(find(child)["parent_pid"], root);
    for pid in [root, child] {
        assert_eq!(find(pid)["comm"], "sh");
        assert!(find(pid)["path"].as_str().is_some_and(|path| path.ends_with("sh")), "{}", find(pid));
    }
    for (field, value) in [
        ("agent", "tree"),
        ("owner", Envelope::OWNER),
        ("operator", "tests"),
        ("purpose", "integration test"),
        ("model", "none"),
        ("mode", "enforce"),
        ("state", "active"),
    ] {
        assert_eq!(session[field], value, "{field}");
    }
    let status = daemon.status();
    assert_eq!([&status["sessions"], &status["tasks"]], [1, 3]);
    process.finish(DEADLINE).success();
    wait_until(DEADLINE, "the session is gone", || daemon.session("tree").is_none().then_some(()));
}

#[test]
fn followed_events_come_as_they_happen() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let follow = daemon.layout().command(&["events", "--follow", "--format", "json"]);
    let mut follow = Process::spawn(follow);
    assert_eq!(Event::parse(&follow.read_line(DEADLINE)).kind(), "daemon-started");

    let mut inside = daemon.converse(&Envelope::of("follow"), &unique("follow"));
    let spec = format!("tcp/{}", pair.refused.address());
    for _ in 0..3 {
        assert!(!inside.attempt(&spec));
        let deny = loop {
            let event = Event::parse(&follow.read_line(DEADLINE));
            if event.kind() == "egress" {
                break event;
            }
        };
        assert_eq!(deny.pid(), Some(inside.pid()));
        assert_eq!(deny.decision().destination, pair.refused.address().to_string());
    }
    inside.end();
}

#[test]
fn every_query_has_a_text_form() {
    let daemon = Daemon::start();
    let cat = daemon.run(&Envelope::of("shown"), &["cat"]);
    let id = daemon.session_id("shown");
    for (command, shows) in
        [("ps", id.as_str()), ("events", "shown"), ("status", "cgroup/connect4"), ("doctor", "")]
    {
        let text = daemon.layout().outcome(&[command]).success().join("\n");
        assert!(!text.is_empty() && text.contains(shows), "`{command}` shows `{shows}`: {text}");
        assert!(!text.contains('\u{1b}'), "`{command}` is not a terminal's: {text}");
    }
    cat.finish(DEADLINE).success();
}

/// A reader that goes away early is no error of ours.
#[test]
fn broken_pipe_is_quiet() {
    let daemon = Daemon::start();
    let command = daemon.layout().command(&["events", "--follow", "--format", "json"]);
    // Its own time limit: nobody else would end it.
    let limit = scaled(Duration::from_secs(20)).as_secs();
    let script = format!("timeout {limit} \"$@\" | head -n 1; echo end");
    let mut piped = Process::spawn(wrap(&["sh", "-c", &script, "sh"], &command));
    assert_eq!(Event::parse(&piped.read_line(DEADLINE)).kind(), "daemon-started");
    // The next event is the one it cannot write, unless whoever has gone away has only just not.
    for _ in 0..2 {
        daemon.run(&Envelope::of("pipe"), &["true"]).finish(DEADLINE).success();
    }
    let started = Instant::now();
    assert_eq!(piped.read_line(DEADLINE), "end");
    assert!(started.elapsed() < scaled(Duration::from_secs(10)), "it goes on until its time limit");
    assert_eq!(piped.finish(DEADLINE).stderr, "");
}
