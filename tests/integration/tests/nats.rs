//! Events reach a stream of a real NATS server: all of them, each once and in order, though the server and the daemon are killed
//! meanwhile; and none counts as sent that the server has not answered for.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use integration::{
    Certificate, DEADLINE, Daemon, LOAD_DEADLINE, Process, fetched, free_port, system, wait_until,
};
use serde_json::Value;

const PASSWORD: &str = "the-password-of-enforcer";

/// A server, which keeps what it has when it is killed.
struct Server {
    directory: tempfile::TempDir,
    certificate: Certificate,
    port: u16,
    process: Option<Process>,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let certificate = Certificate::make_in(directory.path());
        fs::write(directory.path().join("password"), format!("{PASSWORD}\n")).expect("the directory is ours");
        let mut server = Self { directory, certificate, port: free_port(), process: None };
        server.start();
        server
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.port)
    }

    fn start(&mut self) {
        let Certificate { certificate, key, .. } = &self.certificate;
        let config = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?} }}\n\
             tls {{ cert_file: {certificate:?}, key_file: {key:?}, timeout: 30 }}\n\
             authorization {{ user: enforcer, password: {PASSWORD:?}, timeout: 30 }}\n",
            self.port,
            self.file("store"),
        );
        fs::write(self.file("conf"), config).expect("the directory is ours");
        let mut command = Command::new(fetched("nats/bin/nats-server"));
        command.arg("--config").arg(self.file("conf"));
        self.process = Some(Process::spawn(command));
        wait_until(DEADLINE, "the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(())
        });
    }

    /// Kills it as nobody can catch.
    fn kill9(&mut self) {
        self.process = None;
    }

    /// Has another client do something.
    #[track_caller]
    fn other_client(&self, action: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nats/stream.py");
        let [python, ca, password] =
            [fetched("nats/bin/python"), self.certificate.ca.clone(), self.file("password")]
                .map(|path| path.to_str().expect("it is text").to_owned());
        system(&[&python, script, &self.url(), &ca, "enforcer", &password, action])
    }

    /// What is in the stream.
    #[track_caller]
    fn messages(&self) -> Vec<Value> {
        let text = self.other_client("read");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    /// The item of the settings.
    fn sink(&self, name: &str, password: &str) -> String {
        let (url, ca) = (self.url(), self.certificate.ca.display());
        let password = self.file(password);
        format!(
            "  - {{ name: {name}, nats: {{ url: \"{url}\", ca: \"{ca}\", user: enforcer, passwordFile: {password:?} }} }}\n"
        )
    }
}

/// All that has happened counts as sent, and is in the stream: each once, in order.
#[track_caller]
fn expect_all(daemon: &Daemon, server: &Server) {
    // The daemon may make an event of its own at any moment.
    let (last, messages) = wait_until(LOAD_DEADLINE, "all events are sent", || {
        let last = daemon.last_event();
        let messages = (daemon.sink("stream")["behind"] == 0).then(|| server.messages())?;
        (daemon.last_event() == last).then_some((last, messages))
    });
    let event = |message: &Value| -> Value {
        serde_json::from_str(message["text"].as_str().expect("text")).expect("it is JSON")
    };
    let numbers: Vec<u64> =
        messages.iter().map(|message| event(message)["sequence"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<u64>>());
    let uids: BTreeSet<&str> = messages.iter().filter_map(|message| message["uid"].as_str()).collect();
    assert_eq!(uids.len(), numbers.len(), "each has its own");
    assert!(messages.iter().all(|message| message["subject"] == "enforcer.events"));
}

#[test]
fn a_stream_gets_each_event_once_whoever_is_killed() {
    let mut server = Server::new();
    let sink = server.sink("stream", "password");
    let mut daemon = Daemon::with_sinks(&sink);
    daemon.make_events();
    wait_until(DEADLINE, "it is said that no stream takes them", || {
        daemon.sink("stream")["why"].as_str()?.contains("no stream takes `enforcer.events`").then_some(())
    });
    let stream = daemon.sink("stream");
    assert_eq!(stream["sent"], 0);
    let behind = stream["behind"].as_u64().expect("a number");
    assert!((1..=daemon.last_event()).contains(&behind), "{stream}");
    server.other_client("make");
    expect_all(&daemon, &server);
    // While it is dead, and just before.
    for _ in 0..2 {
        daemon.make_events();
        server.kill9();
        daemon.make_events();
        server.start();
    }
    expect_all(&daemon, &server);
    daemon.make_events();
    daemon.kill9();
    daemon.restart_with_sinks(&sink);
    daemon.make_events();
    expect_all(&daemon, &server);
    let said = fs::read_to_string(daemon.layout().file("daemon.log")).expect("it has a log");
    assert!(said.contains("no stream takes") && !said.contains(PASSWORD), "{said}");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_sent() {
    let mut server = Server::new();
    let daemon = Daemon::start();
    fs::write(server.file("wrong"), "another-password\n").expect("the directory is ours");
    let stranger = format!("  - {{ name: stranger, nats: {{ url: \"{}\" }} }}\n", server.url());
    let path = daemon.layout().write_sinks(
        &[
            server.sink("right", "password"),
            server.sink("wrong", "wrong"),
            server.sink("none", "none"),
            stranger,
        ]
        .concat(),
    );
    let path = path.to_str().expect("it is text");
    let test = |name: &str| daemon.layout().outcome(&["sink", "test", name, "--sinks", path]);
    let expect_failure = |name: &str, why: &str| {
        let failed = test(name);
        let said = format!("{} {}", failed.stdout.join("\n"), failed.stderr);
        assert!(failed.status.code() == Some(1) && said.contains(why), "{name}: {said}");
        assert!(!said.contains("password-of") && !said.contains("another-password"), "{name}: {said}");
    };
    expect_failure("right", "no stream takes `enforcer.events`");
    server.other_client("make");
    assert!(test("right").success().join("\n").contains("has taken an event"));
    expect_failure("wrong", "authorization violation");
    expect_failure("none", "none`");
    expect_failure("stranger", "certificate");
    server.kill9();
    expect_failure("right", "refused");
    server.start();
    let messages = server.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
}
