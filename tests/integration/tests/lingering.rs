//! What is left of a session that has ended by itself: what it wrote last leaves by the rules that it had, unless it is revoked.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use integration::{DEADLINE, Daemon, Envelope, scaled, wait_until};

/// More than the far end's kernel takes in unasked.
const BYTES: usize = 300_000;
/// How long something that must not happen is waited for: longer than TCP takes to try again.
const NEVER: Duration = Duration::from_secs(5);

/// A session of the agent `ends` that has ended with most of its bytes still to be sent: its id, and the far end.
fn leave(daemon: &Daemon) -> (String, TcpStream) {
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let mut inside = daemon.hold(&Envelope::of("ends").allow("v4", "127.0.0.10/32", "any", "any"));
    let id = daemon.session_id("ends");
    inside.must("open s tcp4");
    // Room for the rest: SO_SNDBUF, as much as anybody may have.
    inside.must("option s 1 7 00400300");
    inside.must(&format!("connect s {}", listener.local_addr().expect("it is bound")));
    let (reader, _) = listener.accept().expect("it is connected");
    inside.must(&format!("fill s {BYTES}"));
    inside.begin("exit");
    inside.finish();
    wait_until(DEADLINE, "the session is over", || daemon.session("ends").is_none().then_some(()));
    daemon.wait_idle();
    reader.set_read_timeout(Some(scaled(NEVER))).expect("it is not zero");
    (id, reader)
}

/// All that arrives, and how it ends.
fn read(mut reader: TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut all = Vec::with_capacity(BYTES);
    let mut block = vec![0; 64 << 10];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return (all, Ok(())),
            Ok(len) => all.extend_from_slice(&block[..len]),
            Err(error) => return (all, Err(error.kind())),
        }
        // The reader takes its time.
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn session_that_ends_by_itself_gets_its_last_bytes_out() {
    let daemon = Daemon::start();
    let (_, reader) = leave(&daemon);
    let (all, end) = read(reader);
    assert_eq!(end, Ok(()), "no reset: the session has ended by itself");
    assert_eq!(all.len(), BYTES);
    assert!(all.chunks(16).all(|part| part == b"0123456789abcdef"));
    assert_eq!(daemon.counter("packets_refused"), 0);
}

/// The other test is the control: what is cut here arrives there.
#[test]
fn session_that_has_ended_can_be_revoked() {
    let daemon = Daemon::start();
    let (id, reader) = leave(&daemon);
    let receipt = daemon.receipt(&["revoke", &id]);
    assert_eq!(
        [&receipt["id"], &receipt["state"], &receipt["processes_are"]],
        [id.as_str(), "revoked", "gone"]
    );
    assert_eq!(receipt["processes"], 0, "{receipt}");
    assert_eq!(receipt["sockets"]["destroyed"], 1, "{receipt}");
    assert_eq!(receipt["sockets"]["left"], 0, "{receipt}");
    // Before anybody makes room: what the far end's kernel had taken in by then is there, and no more.
    let (all, end) = read(reader);
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "the far end is told, after {} bytes", all.len());
    assert!(all.len() < BYTES, "all of it has arrived");
    for kind in ["session-revoked", "sockets-destroyed"] {
        daemon.wait_for_events(1, "it is recorded", |event| event.is_of("ends") && event.kind() == kind);
    }
    // Once more, by the beginning of its id: it is, and stays so. It is not listed, and there is nobody to be kept in quarantine.
    assert_eq!(daemon.receipt(&["revoke", &id[..13]])["sockets"]["destroyed"], 0);
    assert!(!daemon.layout().outcome(&["quarantine", &id]).status.success());
    assert!(daemon.session("ends").is_none());
    assert_eq!(daemon.status()["faults"], serde_json::json!([]));
}
