//! A process of a session may not operate the daemon, though it runs as root and the socket lets root in.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use integration::{Daemon, Envelope, Pair, enforcer_path, unique};

#[test]
fn session_gets_nothing_from_the_control_socket() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let daemon = Daemon::start();
    let enforcer = enforcer_path().display().to_string();
    let wide = daemon.layout().write_envelope(Envelope::of("wide").allow("all", "0.0.0.0/0", "any", "any"));
    let wide = wide.display().to_string();

    // Another session, for the first to meddle with.
    let envelope = Envelope::of("victim").allow_server("only", &pair.allowed);
    let mut victim = daemon.converse(&envelope, &unique("victim"));
    assert!(victim.attempt(&allowed), "control: it works");
    let id = daemon.session_id("victim");

    let requests: [&[&str]; 7] = [
        &["status"],
        &["ps"],
        &["events"],
        &["revoke", &id],
        &["teardown"],
        &["run", "--envelope", &wide, "--", "true"],
        // A session does not widen itself by asking from a child that has left the process group.
        &["run", "--envelope", &wide, "--", "setsid", "true"],
    ];
    for request in requests {
        let mut command = vec![enforcer.as_str()];
        command.extend(request);
        // Control: outside it is answered (but for the requests that would end the test).
        if matches!(request[0], "status" | "ps" | "events") {
            daemon.layout().outcome(request).success();
        }
        let inside = daemon.run(&Envelope::of("inside"), &command).finish(integration::DEADLINE);
        assert_eq!(inside.status.code(), Some(1), "{request:?}: {:?} {}", inside.stdout, inside.stderr);
        // It may hand on a part of what it has, and nothing else.
        let why = if request[0] == "run" { "more than the session may do" } else { "process of a session" };
        assert!(inside.stderr.contains(why), "{request:?}: {}", inside.stderr);
        assert!(inside.stdout.is_empty(), "{request:?}: {:?}", inside.stdout);
    }
    let refused_requests =
        daemon.wait_for_events(requests.len(), "each is recorded", |event| event.kind() == "request-refused");
    assert_eq!(refused_requests.len(), requests.len());
    assert!(victim.attempt(&allowed), "the other session was not touched");
    assert!(!victim.attempt(&refused), "enforcement was not touched");
    victim.end();
}

#[test]
fn enrolled_process_cannot_enrol_again_on_the_connection_it_has() {
    let pair = Pair::v4("tcp");
    let [_, refused] = pair.arguments();
    let daemon = Daemon::start();
    // Speaks to the control socket by itself: enrols, and asks for more on the same connection.
    let script = r#"
import json, socket, sys
path, narrow, wide, refused = sys.argv[1:5]
control = socket.socket(socket.AF_UNIX)
control.connect(path)
stream = control.makefile("rb")
def ask(method, path, body=""):
    control.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().strip()):
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    return status, stream.read(length).decode()
def enrol(envelope):
    return ask("POST", "/v1/sessions", json.dumps({"envelope": open(envelope).read(), "command": []}))
def connects():
    host, port = refused.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 5).close()
        return True
    except PermissionError:
        return False
print(connects(), enrol(narrow)[0], connects(), enrol(wide)[0], ask("GET", "/v1/sessions")[0], ask("DELETE", "/v1/enforcement")[0], connects())
"#;
    let narrow = daemon.layout().write_envelope(Envelope::of("narrow"));
    let wide = daemon.layout().write_envelope(Envelope::of("wide").allow("all", "0.0.0.0/0", "any", "any"));
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(daemon.layout().socket()).arg(narrow).arg(wide).arg(refused);
    let lines = integration::Process::spawn(command).finish(integration::DEADLINE).success();
    assert_eq!(lines, ["True 201 False 403 403 403 False"]);
}

/// It may hold as many connections to the daemon as it likes: an operator still gets through.
#[test]
fn session_cannot_lock_the_operator_out() {
    let daemon = Daemon::start();
    let script = r#"
import socket, sys
held = []
for _ in range(600):
    try:
        control = socket.socket(socket.AF_UNIX)
        control.settimeout(5)
        control.connect(sys.argv[1])
        control.sendall(b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 60000000\r\n\r\n{")
        held.append(control)
    except OSError:
        pass
print("holding", flush=True)
sys.stdin.read()
"#;
    let socket = daemon.layout().socket().display().to_string();
    let mut hog = daemon.run(&Envelope::of("hog"), &["python3", "-c", script, &socket]);
    assert_eq!(hog.read_line(integration::LOAD_DEADLINE), "holding");
    daemon.layout().outcome(&["status"]).success();
    let id = daemon.session_id("hog");
    daemon.layout().outcome(&["revoke", &id]).success();
    hog.finish(integration::DEADLINE).success();
}

/// Whoever has a connection from somebody else is answered as nobody: the daemon asks who wrote.
#[test]
fn connection_is_of_use_to_no_other_process() {
    const REQUEST: &str = "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n";
    let daemon = Daemon::start();
    let status_line = |stream: UnixStream| {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("the daemon answers");
        line
    };
    let connect = || UnixStream::connect(daemon.layout().socket()).expect("the daemon listens");
    // Control: by who connected. Where the kernel is old, it may not say who wrote this soon.
    let answered = || {
        let mut own = connect();
        own.write_all(REQUEST.as_bytes()).expect("the connection is open");
        status_line(own)
    };
    let answer = (0..10).map(|_| answered()).find(|line| !line.contains("503"));
    assert_eq!(answer.as_deref(), Some("HTTP/1.1 200 OK\r\n"));
    let handed = connect();
    let mut writer = std::process::Command::new("printf");
    writer.arg(REQUEST).stdout(OwnedFd::from(handed.try_clone().expect("a descriptor is free")));
    assert!(writer.status().expect("`printf` is there").success());
    assert_eq!(status_line(handed), "HTTP/1.1 403 Forbidden\r\n");
    let refused = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "request-refused");
    assert!(refused[0].text("/detail").contains("another process writes"), "{refused:?}");
}
