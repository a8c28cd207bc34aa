//! Every request that is refused is recorded, once, with who asked: also what is no request. What comes too fast is told of together.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use integration::{DEADLINE, Daemon, Envelope, Event, LOAD_DEADLINE, wait_until};

fn is_refused(event: &Event) -> bool {
    event.kind() == "request-refused"
}

/// How many requests an event tells of.
fn count(event: &Event) -> u64 {
    event.find("/repeats/count").map_or(1, |count| count.as_u64().expect("a number"))
}

/// The status of the answer to what may be no request; 0 if there is none. Before Linux 6.16 the kernel does not say who wrote what arrives
/// before the daemon has asked for that: then it is asked again.
#[track_caller]
fn ask(daemon: &Daemon, text: &str) -> u32 {
    (0..8).map(|_| ask_once(daemon, text)).find(|status| *status != 503).unwrap_or(503)
}

#[track_caller]
fn ask_once(daemon: &Daemon, text: &str) -> u32 {
    let mut control = UnixStream::connect(daemon.layout().socket()).expect("the daemon listens");
    control.set_read_timeout(Some(LOAD_DEADLINE)).expect("it is not zero");
    control.write_all(text.as_bytes()).expect("it reads");
    let mut head = [0; 12];
    match control.read_exact(&mut head) {
        Ok(()) => String::from_utf8_lossy(&head[9..]).parse().expect("a status"),
        Err(_) => 0,
    }
}

#[test]
fn whatever_is_refused_is_recorded_once() {
    let daemon = Daemon::start();
    let request = |line: &str, kind: &str, body: &str| {
        let len = body.len();
        format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {len}\r\n\r\n{body}")
    };
    let json = "application/json";
    let mut told = Vec::new();
    // What the daemon's loop never hears of.
    for (text, status, what) in [
        (
            request("GET /v1/nothing", json, ""),
            404,
            "asked to GET /v1/nothing: there is nothing at this path",
        ),
        (request("DELETE /v1/status", json, ""), 405, "asked to DELETE /v1/status: 405 "),
        (request("POST /v1/sessions", "text/plain", "{}"), 415, "asked to POST /v1/sessions: a request says"),
        (
            request("POST /v1/sessions", json, "[]"),
            400,
            "asked to POST /v1/sessions: a request is a JSON object",
        ),
        (request("PUT /v1/envelope", json, "{\"envelope\""), 400, "asked to PUT /v1/envelope: EOF while"),
        (request("DELETE /v1/sessions/x?then=what", json, ""), 400, "asked to DELETE /v1/sessions/x: 400 "),
        ("who are you?\r\n\r\n".to_owned(), 400, "sent what is no request: "),
    ] {
        assert_eq!(ask(&daemon, &text), status, "{text}");
        told.push(what.to_owned());
    }
    // What it refuses for what is asked. The command line would have asked for neither of the first two.
    let broken = "{\"envelope\": \"kind: nothing\", \"command\": []}";
    for (line, what) in
        [("POST /v1/sessions", "asked to enrol: "), ("PUT /v1/envelope", "asked to apply an envelope: ")]
    {
        let broken = if line.starts_with("PUT") { &broken.replace(", \"command\": []", "") } else { broken };
        assert_eq!(ask(&daemon, &request(line, json, broken)), 422, "{line}");
        told.push(what.to_owned());
    }
    let envelope = daemon.layout().write_envelope(Envelope::of("nobody")).display().to_string();
    // More than a kernel gives out.
    let nobody = (1_u32 << 22).to_string();
    for (command, what) in [
        (&["register", "--envelope", &envelope, "--pid", &nobody][..], "asked to register what runs: "),
        (&["revoke", "01890000"][..], "asked to revoke `01890000`: "),
    ] {
        let outcome = daemon.layout().outcome(command);
        assert!(!outcome.status.success(), "{command:?}");
        told.push(what.to_owned());
    }
    // Control: a question that has no answer is none.
    assert!(!daemon.layout().outcome(&["show", "01890000"]).status.success());

    let events = daemon.wait_for_events(told.len(), "each is recorded", is_refused);
    assert_eq!(events.len(), told.len(), "{events:?}");
    // However much somebody says, little of it is told.
    let long = "x".repeat(1 << 19);
    let body = format!("{{\"{long}\": 1}}");
    assert_eq!(ask(&daemon, &request("POST /v1/sessions", json, &body)), 422);
    let method = "M".repeat(1 << 13);
    assert_eq!(ask(&daemon, &request(&format!("{method} /v1/status"), json, "")), 405);
    let events = daemon.wait_for_events(told.len() + 2, "they are recorded", is_refused);
    assert!(events.iter().all(|event| event.text("/detail").len() < 2_000));

    for what in &told {
        let found: Vec<_> = events.iter().filter(|event| event.text("/detail").contains(what)).collect();
        let [event] = &found[..] else { panic!("{what}: {events:?}") };
        assert_eq!(event.at("/asked_by/uid"), 0);
        let is_ours = event.at("/asked_by/pid") == std::process::id();
        assert_eq!(is_ours, !what.contains("register") && !what.contains("revoke"), "{event:?}");
    }
}

/// Asks the daemon again and again, on one connection.
const ASKS: &str = r#"
import socket, sys, time
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
stream = control.makefile("rb")
# Before Linux 6.16 the kernel does not say who wrote what arrives before the daemon has asked for that.
time.sleep(1)
for _ in range(int(sys.argv[2])):
    control.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
    assert int(stream.readline().split()[1]) == 403
    length = 0
    while (line := stream.readline().strip()):
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    stream.read(length)
"#;

#[test]
fn requests_that_are_refused_faster_than_lines_are_written_are_counted() {
    const TIMES: u64 = 500;
    let daemon = Daemon::start();
    let socket = daemon.layout().socket().display().to_string();
    let command = ["python3", "-c", ASKS, &socket, &TIMES.to_string()];
    daemon.run(&Envelope::of("asks"), &command).finish(LOAD_DEADLINE).success();
    let refused = wait_until(DEADLINE, "each is told of", || {
        let events = daemon.events();
        let refused: Vec<Event> = events.into_iter().filter(is_refused).collect();
        let seen: u64 = refused.iter().map(count).sum();
        assert!(seen <= TIMES, "{seen}");
        (seen == TIMES).then_some(refused)
    });
    let together: Vec<&Event> = refused.iter().filter(|event| event.find("/repeats").is_some()).collect();
    assert!(!together.is_empty(), "{} lines", refused.len());
    assert!(together.iter().all(|event| event.text("/repeats/since") <= event.text("/time")), "{together:?}");
    let alone = refused.iter().filter(|event| event.find("/repeats").is_none());
    assert!(alone.clone().count() >= 16 && alone.clone().all(|event| event.is_of("asks")));
}
