//! The workload socket in the hands of whoever means no good: it is open to everybody, and gives nothing to anybody but sessions.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use integration::{DEADLINE, Daemon, Envelope, LOAD_DEADLINE, scaled};

/// Sessions run as any user, so the socket lets everybody in.
#[test]
fn another_user_outside_gets_nothing() {
    let daemon = Daemon::start();
    let as_nobody = format!("import os, socket; os.setuid(65534)\n{}", raw_client(2));
    let nobody = daemon.layout().workload_client(&["python3", "-c", &as_nobody].map(str::to_owned));
    assert_eq!(nobody.finish(DEADLINE).success(), ["nothing given"]);
    daemon.wait_for_events(1, "it is recorded", |event| {
        event.kind() == "request-refused"
            && event.text("/detail").contains("(uid 65534) asked for an X509-SVID")
    });
}

/// A connection that a session made is of use to nobody else: the daemon asks who writes.
#[test]
fn connection_of_a_session_is_of_use_to_nobody_else() {
    let daemon = Daemon::start();
    let place = daemon.layout().file("hand-over");
    let listener = std::os::unix::net::UnixListener::bind(&place).expect("the directory is ours");
    // Connects, and hands the connection to whoever listens there.
    let script = r#"
import array, os, socket, sys
workload = socket.socket(socket.AF_UNIX); workload.connect(os.environ["SPIFFE_ENDPOINT_SOCKET"][7:])
other = socket.socket(socket.AF_UNIX); other.connect(sys.argv[1])
other.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [workload.fileno()]))])
print("handed", flush=True)
sys.stdin.read()
"#;
    let place = place.display().to_string();
    let mut donor = daemon.run(&Envelope::of("donor"), &["python3", "-c", script, &place]);
    let (from, _) = listener.accept().expect("the donor connects");
    assert_eq!(donor.read_line(DEADLINE), "handed");
    let mut handed = receive(&from);
    let answer = fetch_raw(&mut handed);
    assert!(!answer.windows(9).any(|part| part == b"spiffe://"), "nothing is given");
    let refused = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "request-refused");
    assert!(refused[0].text("/detail").contains("another process writes"), "{refused:?}");
    // Control: the same bytes from a process of a session are answered.
    let given =
        daemon.run(&Envelope::of("own"), &["python3", "-c", &raw_client(20)]).finish(DEADLINE).success();
    assert_eq!(given, ["given"]);
}

/// A descriptor that somebody sends.
fn receive(from: &UnixStream) -> UnixStream {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::{AsRawFd as _, FromRawFd as _};
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut byte = [0];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
    let message = message.expect("the donor sends");
    let descriptor = message.cmsgs().expect("it is whole").find_map(|part| match part {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    // SAFETY: it was just received, and nobody else owns it.
    unsafe { UnixStream::from_raw_fd(descriptor.expect("a descriptor comes along")) }
}

/// `FetchX509SVID` as bytes on the wire.
fn raw_request() -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).expect("it is short");
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let headers = [
        vec![0x83, 0x86],
        literal(":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        literal(":authority", "/a/path"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
        literal("workload.spiffe.io", "true"),
    ];
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("it is short");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &headers.concat()),
        frame(0, 1, 1, &[0; 5]),
    ]
    .concat()
}

/// A program that sends that request, and says whether it was given something, each time within so many seconds.
fn raw_client(seconds: u64) -> String {
    let request: String = raw_request().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        r#"
import os, socket
def attempt():
    workload = socket.socket(socket.AF_UNIX); workload.connect(os.environ["SPIFFE_ENDPOINT_SOCKET"][7:])
    workload.settimeout({seconds})
    got = b""
    try:
        workload.sendall(bytes.fromhex("{request}"))
        while b"spiffe://" not in got:
            more = workload.recv(10000)
            if not more:
                break
            got += more
    except (TimeoutError, ConnectionResetError, BrokenPipeError):
        pass
    return got
# Where the kernel is old, it may not say who wrote this soon, and the connection is closed without a word.
got = next((got for got in (attempt() for _ in range(10)) if got), b"")
print("given" if b"spiffe://" in got else "nothing given")
"#,
        seconds = scaled(Duration::from_secs(seconds)).as_secs(),
    )
}

/// Whatever comes within a second, after that request.
fn fetch_raw(stream: &mut UnixStream) -> Vec<u8> {
    stream.write_all(&raw_request()).expect("it is open");
    stream.set_read_timeout(Some(scaled(Duration::from_secs(1)))).expect("it is a socket");
    let mut answer = Vec::new();
    // Ends with the time.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Each session has places of its own.
#[test]
fn one_session_cannot_lock_another_out() {
    let daemon = Daemon::start();
    let script = r#"
import os, socket, sys, time
def connect():
    held = []
    for _ in range(300):
        one = socket.socket(socket.AF_UNIX); one.settimeout(10)
        try:
            one.connect(os.environ["SPIFFE_ENDPOINT_SOCKET"][7:])
            held.append(one)
        except OSError:
            pass
    return held
def is_open(one):
    one.settimeout(0.001)
    try:
        # Whoever has a place is greeted, or waited for; whoever has none reads the end.
        return one.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
# Sooner than anybody loses a place by being silent; on a machine that stands still, again.
for _ in range(5):
    held = []
    end = time.monotonic() + 4
    held = connect()
    while True:
        held = [one for one in held if is_open(one)]
        if len(held) <= int(sys.argv[1]) or time.monotonic() > end:
            break
    if time.monotonic() <= end:
        break
print("open", len(held), flush=True)
sys.stdin.read()
"#;
    let mut hog = daemon.run(&Envelope::of("hog"), &["python3", "-c", script, "8"]);
    assert_eq!(hog.read_line(LOAD_DEADLINE), "open 8");
    let mut outsider = daemon.layout().workload_client(&["python3", "-c", script, "16"].map(str::to_owned));
    assert_eq!(outsider.read_line(LOAD_DEADLINE), "open 16", "of one user");
    let other = daemon.run(&Envelope::of("other"), &["python3", "-c", &raw_client(20)]);
    assert_eq!(other.finish(DEADLINE).success(), ["given"]);
    assert!(daemon.counter("connections_turned_away") > 500, "who has no place is counted");
    // What they held is given back.
    hog.finish(DEADLINE).success();
    outsider.finish(DEADLINE).success();
}

/// What no client sends, more of it than there is room for, and half of what a client sends.
#[test]
fn what_is_no_request_costs_little_and_gets_nothing() {
    let daemon = Daemon::start();
    let script = r#"
import os, socket, sys
def send(*parts):
    workload = socket.socket(socket.AF_UNIX); workload.settimeout(10)
    workload.connect(os.environ["SPIFFE_ENDPOINT_SOCKET"][7:])
    try:
        for part in parts:
            workload.sendall(part)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass
    return workload
preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
request = bytes.fromhex(sys.argv[1])
headers = request[len(preface):-14]
rubbish = os.urandom(1 << 20)
for _ in range(20):
    send(*[rubbish] * 5)
    send(preface, *[rubbish] * 5)
    send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", *[rubbish] * 5)
    # A message of a hundred megabytes, of which the half comes.
    send(preface, headers, bytes([0, 0, 5, 0, 0, 0, 0, 0, 1]), bytes([0, 6, 0, 0, 0]), *[bytes([0, 64, 0, 0, 0, 0, 0, 0, 1]) + bytes(1 << 14)] * 3200)
    # Headers that never end, and streams that are given up as soon as they are opened.
    send(preface, headers[:3] + bytes([1, 0, 0, 0, 0, 1]) + headers[9:], *[bytes([0, 64, 0, 9, 0, 0, 0, 0, 1]) + bytes([0x82]) * (1 << 14)] * 100)
    send(preface, *[headers[:5] + n.to_bytes(4, "big") + headers[9:] + bytes([0, 0, 4, 3, 0]) + n.to_bytes(4, "big") + bytes([0, 0, 0, 8]) for n in range(1, 4000, 2)])
held = [send(request[:end]) for end in range(0, len(request), 7)]
print("sent", flush=True)
sys.stdin.read()
"#;
    let request: String = raw_request().iter().map(|byte| format!("{byte:02x}")).collect();
    let kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let before = kib();
    let mut hostile = daemon.run(&Envelope::of("hostile"), &["python3", "-c", script, &request]);
    assert_eq!(hostile.read_line(LOAD_DEADLINE), "sent");
    let other = daemon.run(&Envelope::of("other"), &["python3", "-c", &raw_client(20)]);
    assert_eq!(other.finish(DEADLINE).success(), ["given"]);
    let grown = kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
    hostile.finish(DEADLINE).success();
}
