//! Files that an envelope names with their content are what it says when a session begins, or none does; or it is recorded.

use std::fs;
use std::path::Path;

use integration::{
    DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Process, Server, Tool, attempts, notes_all_writes, probe, say,
    sha256, slowness, system, unique, wait_until, write_elsewhere,
};

#[test]
fn no_session_begins_with_another_file() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let prompt = daemon.layout().file("prompt");
    write_elsewhere(&prompt, "be kind\n");
    let envelope = |agent: &str| {
        let envelope = Envelope::of(agent).allow_server("only", &server).exec("any", "deny-egress");
        envelope.file_of(&prompt, &sha256(&prompt))
    };
    let as_written = envelope("as-written");
    let magic = unique("files");
    let spec = format!("tcp/{}", server.address());
    let command = probe(&["net", &magic, &spec]);
    let lines = daemon.run(&as_written, &command).finish(DEADLINE).success();
    assert!(attempts(&lines)[0].succeeded(), "control: it is what it says");

    let mut running = daemon.converse(&as_written, &magic);
    write_elsewhere(&prompt, "be quick\n");
    let refused = daemon.run(&as_written, &command).finish(DEADLINE);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stdout.is_empty(), "it has run: {:?}", refused.stdout);
    assert!(refused.stderr.contains("is not what the envelope says"), "{}", refused.stderr);
    // However the field is written.
    let escaped = as_written.to_string().replace("  exec:", "  \"\\x65xec\":");
    let refused = Process::spawn(daemon.layout().run_command(&escaped, &command)).finish(DEADLINE);
    assert!(refused.stderr.contains("is not what the envelope says"), "{}", refused.stderr);
    let recorded = daemon.wait_for_events(1, "it is recorded", |event| {
        event.kind() == "file-measured" && event.text("/image/verdict") == "other"
    });
    assert_eq!(recorded[0].text("/image/sha256"), sha256(&prompt));
    // Who runs keeps what it has, and is held to no envelope that names another file.
    let path = daemon.layout().write_envelope(as_written.revision(1).loopback());
    let applied = daemon.layout().outcome(&["apply", path.to_str().expect("it is text")]);
    assert_eq!(applied.status.code(), Some(1), "{}", applied.stderr);
    assert!(running.attempt(&spec));
    daemon.apply(&envelope("as-written").revision(2));
    running.end();
    fs::remove_file(&prompt).expect("it is there");
    let refused = daemon.run(&envelope_without(&server, &prompt), &command).finish(DEADLINE);
    assert!(refused.stderr.contains("cannot be measured"), "{}", refused.stderr);
}

fn envelope_without(server: &Server, file: &Path) -> Envelope {
    let zeros = "0".repeat(64);
    Envelope::of("missing").allow_server("only", server).exec("any", "kill").file_of(file, &zeros)
}

/// In another process: as in [`write_elsewhere`].
fn make_of_holes(path: &Path, size: u64) {
    system(&["truncate", "--size", &size.to_string(), path.to_str().expect("it is text")]);
}

#[test]
fn a_large_file_is_read_once_and_nobody_waits_for_it() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let spec = format!("tcp/{}", server.address());
    let magic = unique("model");
    let model = daemon.layout().file("model.gguf");
    // Of holes: it takes no room, and is read like any other.
    let size = 2_u64 << 30;
    let size = if slowness() > 1 { size >> 2 } else { size };
    make_of_holes(&model, size);
    Tool::existing(model.clone()).settle();
    let zeros = "0".repeat(64);
    let before = daemon.counter("files_hashed");
    let mut sessions: Vec<_> = ["first", "second"]
        .into_iter()
        .map(|agent| {
            let envelope = Envelope::of(agent).allow_server("only", &server).exec("any", "audit");
            let mut session = daemon.converse(&envelope.file_of(&model, &zeros), &magic);
            assert!(session.attempt(&spec), "{agent}: it runs");
            session
        })
        .collect();
    let measured = wait_until(LOAD_DEADLINE, "the file is measured, for both", || {
        let events = daemon.events().into_iter();
        let measured: Vec<_> = events.filter(|event| event.kind() == "file-measured").collect();
        (measured.len() == 2).then_some(measured)
    });
    let digest = |event: &integration::Event| event.text("/image/sha256").to_owned();
    assert_eq!(digest(&measured[0]), digest(&measured[1]));
    assert!(measured.iter().all(|event| event.text("/image/verdict") == "other"), "{measured:?}");
    // Where not every write gives a file another time, nobody can know what is the same.
    let times = if notes_all_writes(&model) { 1 } else { 2 };
    say(&format!("{size} bytes, read {times} times for two sessions"));
    assert_eq!(daemon.counter("files_hashed"), before + times, "it is read once, where it can be");
    assert_eq!(daemon.counter("files_hashed_bytes"), size * times);
    // It had its answer from the far side before that was known.
    let number = |kind: &str| {
        let events = daemon.events();
        let found = events.iter().find(|event| event.is_of("first") && event.kind() == kind);
        found.expect("it is recorded").at("/sequence").as_u64().expect("a number")
    };
    assert!(number("egress") < number("file-measured"));
    for session in &mut sessions {
        assert!(session.attempt(&spec), "what is only recorded refuses nothing");
    }
    sessions.into_iter().for_each(integration::Conversation::end);
}

#[test]
fn a_daemon_that_stops_does_not_finish_reading() {
    let mut daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let model = daemon.layout().file("model.gguf");
    // Days of reading.
    make_of_holes(&model, 1 << 42);
    let envelope = Envelope::of("stops").allow_server("only", &server).exec("any", "audit");
    let envelope = envelope.file_of(&model, &"0".repeat(64));
    let mut sessions = ["one", "another"].map(|_| daemon.converse(&envelope, &unique("stops")));
    wait_until(DEADLINE, "it reads", || (daemon.counter("files_hashed_bytes") > 0).then_some(()));
    let spec = format!("tcp/{}", server.address());
    assert!(sessions.iter_mut().all(|session| session.attempt(&spec)), "neither waits for it");
    assert!(daemon.stop().success());
    daemon.restart();
    sessions.into_iter().for_each(integration::Conversation::end);
}
