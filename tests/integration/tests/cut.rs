//! A session that is over has no connections: what is open is cut, on both sides, and nothing comes after it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use integration::{
    Conversation, DEADLINE, Daemon, Envelope, Event, Holder, LOAD_DEADLINE, NetNs, Pair, far_end, slowness,
    unique, wait_until,
};

/// What a call on a socket says that was destroyed: the first says why, those after it that it is not connected.
const CUT: &[i32] = &[libc::ECONNABORTED, libc::EPIPE, libc::EDESTADDRREQ, libc::ENOTCONN];

fn envelope(agent: &str) -> Envelope {
    Envelope::of(agent).allow("v4", "127.0.0.10/32", "any", "any").allow("v6", "::1/128", "any", "any")
}

fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("a port is free")
}

/// A connection of a session, seen from its far end.
struct Far(TcpStream);

impl Far {
    /// Connects the session's socket `name`, and sees that it works both ways.
    #[track_caller]
    fn connect(holder: &mut Holder, name: &str, listener: &TcpListener) -> Self {
        let to = listener.local_addr().expect("it is bound");
        holder.connect(name, if to.is_ipv4() { "tcp4" } else { "tcp6" }, to);
        let (mut stream, _) = listener.accept().expect("it is connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        holder.must(&format!("send {name} there"));
        let mut message = [0; 5];
        stream.read_exact(&mut message).expect("control: it is open");
        stream.write_all(b"back").expect("control: it is open");
        assert_eq!(holder.must(&format!("receive {name}")), "back");
        Self(stream)
    }

    /// Nothing more arrives but the end.
    #[track_caller]
    fn expect_reset(mut self) {
        let mut message = [0; 64];
        match self.0.read(&mut message) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(len) => panic!("{len} bytes have arrived: {:?}", String::from_utf8_lossy(&message[..len])),
        }
    }
}

#[track_caller]
fn expect_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("every socket can be");
    let error = socket.recv(&mut [0; 64]).expect_err("nothing has arrived");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn revocation_cuts_what_is_open() {
    let daemon = Daemon::start();
    let [v4, v6] = ["127.0.0.10:0", "[::1]:0"].map(listen);
    let udp = UdpSocket::bind("127.0.0.10:0").expect("a port is free");
    let mut inside = daemon.hold(&envelope("cut"));
    let mut neighbour = daemon.hold(&envelope("neighbour"));
    let far = [Far::connect(&mut inside, "v4", &v4), Far::connect(&mut inside, "v6", &v6)];
    let mut other = Far::connect(&mut neighbour, "s", &v4);
    inside.connect("udp", "udp4", udp.local_addr().expect("it is bound"));
    inside.must("send udp control");
    udp.recv(&mut [0; 64]).expect("control");
    // Neither connected nor bound, and never used.
    inside.must("open idle udp4");

    let id = daemon.session_id("cut");
    let receipt = daemon.receipt(&["revoke", &id]);
    assert_eq!(receipt["version"], 1);
    assert_eq!([&receipt["id"], &receipt["state"]], [id.as_str(), "revoked"]);
    assert_eq!(receipt["processes"], 1);
    assert_eq!(receipt["processes_are"], "running");
    let sockets = &receipt["sockets"];
    assert!(sockets["destroyed"].as_u64().expect("a number") >= 3, "{receipt}");
    assert_eq!(sockets["left"], 0, "{receipt}");
    assert!(sockets["namespaces"].as_u64().expect("a number") >= 1, "{receipt}");
    assert_eq!(sockets["errors"].as_array().expect("a list").len(), 0, "{receipt}");
    for time in [&sockets["took_us"], &receipt["store_us"]] {
        assert!(time.is_u64(), "{receipt}");
    }

    for name in ["v4", "v6"] {
        inside.must_fail(&format!("receive {name}"), &[libc::ECONNABORTED]);
        inside.must_fail(&format!("send {name} more"), CUT);
    }
    inside.must_fail("send udp more", CUT);
    inside.must_fail(&format!("send-to idle {} more", udp.local_addr().expect("bound")), &[libc::EPERM]);
    far.into_iter().for_each(Far::expect_reset);
    expect_silent(&udp);
    daemon.wait_for_events(1, "it is recorded", |event| {
        event.is_of("cut") && event.kind() == "sockets-destroyed"
    });
    // Once more: it is, and stays so.
    let again = daemon.receipt(&["revoke", &id]);
    assert_eq!(again["state"], "revoked");
    assert_eq!(again["sockets"]["left"], 0, "{again}");

    neighbour.must("send s still");
    other.0.read_exact(&mut [0; 5]).expect("the neighbour's is open");
    inside.end();
    neighbour.end();
}

/// A session that makes a network namespace of its own takes its rules with it, and its connections there are cut as well.
#[test]
fn revocation_reaches_other_network_namespaces() {
    for leaves in [false, true] {
        let daemon = Daemon::start();
        let mut inside = daemon.hold(&envelope("elsewhere"));
        let mailbox = daemon.layout().file("mailbox").display().to_string();
        inside.must(&format!("mailbox {mailbox}"));
        let pid = match leaves {
            true => inside.must("child").parse().expect("a process id"),
            false => inside.pid(),
        };
        inside.must("namespace");
        let namespace = NetNs::of(pid);
        let [v4, refused] = namespace.inside(|| ["127.0.0.10:0", "127.0.0.20:0"].map(listen));
        let far = Far::connect(&mut inside, "s", &v4);
        inside.must("open other tcp4");
        let to = refused.local_addr().expect("it is bound");
        inside.must_fail(&format!("connect other {to}"), &[libc::EPERM]);
        // Whoever made the socket is gone by then: no process is in the namespace, but one has a socket there.
        if leaves {
            inside.must(&format!("give s {mailbox}"));
            assert_eq!(inside.must("exit"), "ended");
            inside.must("take s");
            inside.must("send s again");
        }
        let receipt = daemon.receipt(&["revoke", &daemon.session_id("elsewhere")]);
        let sockets = &receipt["sockets"];
        assert!(sockets["namespaces"].as_u64().expect("a number") >= 2, "{leaves}: {receipt}");
        assert_eq!(sockets["errors"].as_array().expect("a list").len(), 0, "{receipt}");
        inside.must_fail("receive s", &[libc::ECONNABORTED]);
        if leaves {
            let mut stream = &far.0;
            stream.read_exact(&mut [0; 5]).expect("what was sent before");
        }
        far.expect_reset();
        inside.end();
    }
}

#[test]
fn revocation_reaches_nested_cgroups() {
    let daemon = Daemon::start();
    let listener = listen("127.0.0.10:0");
    let mut inside = daemon.hold(&envelope("nested"));
    let mut deep = daemon.session_cgroup("nested");
    for level in ["one", "two"] {
        deep.push(level);
        fs::create_dir(&deep).expect("as root");
    }
    fs::write(deep.join("cgroup.procs"), inside.pid().to_string()).expect("as root");
    let far = Far::connect(&mut inside, "s", &listener);
    let receipt = daemon.receipt(&["revoke", &daemon.session_id("nested")]);
    assert_eq!(receipt["sockets"]["destroyed"], 1, "{receipt}");
    inside.must_fail("receive s", &[libc::ECONNABORTED]);
    far.expect_reset();
    inside.end();
}

fn is_frozen(cgroup: &std::path::Path) -> bool {
    let text = fs::read_to_string(cgroup.join("cgroup.events")).expect("the cgroup is there");
    text.lines().any(|line| line == "frozen 1")
}

#[test]
fn revocation_stops_the_processes_if_it_is_told_to() {
    let daemon = Daemon::start();
    let inside = daemon.hold(&envelope("killed"));
    let receipt = daemon.receipt(&["revoke", "--kill", &daemon.session_id("killed")]);
    assert_eq!([&receipt["state"], &receipt["processes_are"]], ["revoked", "killed"]);
    let end = inside.finish().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&end), Some(libc::SIGKILL));
    wait_until(DEADLINE, "it has ended", || daemon.session("killed").is_none().then_some(()));

    let listener = listen("127.0.0.10:0");
    let mut inside = daemon.hold(&envelope("frozen"));
    let far = Far::connect(&mut inside, "s", &listener);
    let cgroup = daemon.session_cgroup("frozen");
    let receipt = daemon.receipt(&["revoke", "--freeze", &daemon.session_id("frozen")]);
    assert_eq!([&receipt["state"], &receipt["processes_are"]], ["revoked", "frozen"]);
    wait_until(DEADLINE, "it is frozen", || is_frozen(&cgroup).then_some(()));
    far.expect_reset();
    // What is frozen can be killed all the same.
    daemon.receipt(&["revoke", "--kill", &daemon.session_id("frozen")]);
    inside.finish();
    wait_until(DEADLINE, "it has ended", || daemon.session("frozen").is_none().then_some(()));
}

#[test]
fn expiry_cuts_what_is_open() {
    let daemon = Daemon::start();
    let listener = listen("127.0.0.10:0");
    let mut inside = daemon.hold(&envelope("expiring").ttl(&format!("{}s", 20 * slowness())));
    let far = Far::connect(&mut inside, "s", &listener);
    daemon.wait_for_events(1, "its sockets are destroyed", |event| {
        event.is_of("expiring") && event.kind() == "sockets-destroyed"
    });
    inside.must_fail("receive s", &[libc::ECONNABORTED]);
    far.expect_reset();
    inside.end();
}

/// Nobody destroys the sockets then, and so nobody is told; but nothing leaves.
#[test]
fn expiry_holds_for_what_is_open_without_a_daemon() {
    let mut daemon = Daemon::start();
    let listener = listen("127.0.0.10:0");
    let udp = UdpSocket::bind("127.0.0.10:0").expect("a port is free");
    let mut inside = daemon.hold(&envelope("alone").ttl(&format!("{}s", 20 * slowness())));
    let mut far = Far::connect(&mut inside, "t", &listener);
    inside.connect("u", "udp4", udp.local_addr().expect("it is bound"));
    daemon.kill9();
    wait_until(DEADLINE * slowness(), "the session expires", || {
        let answer = inside.ask("send u text");
        assert!([0, libc::EPERM].contains(&answer.errno), "{}", answer.text);
        (answer.errno == libc::EPERM).then_some(())
    });
    udp.set_nonblocking(true).expect("every socket can be");
    while udp.recv(&mut [0; 64]).is_ok() {}
    inside.must("send t in-vain");
    inside.must_fail("send u in-vain", &[libc::EPERM]);
    // The far end's own packets do not get in either.
    far.0.write_all(b"hello").expect("it does not know yet");
    inside.must("patience t 500");
    inside.must_fail("receive t", &[libc::EAGAIN]);
    far.0.set_nonblocking(true).expect("every socket can be");
    assert_eq!(far.0.read(&mut [0; 64]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    expect_silent(&udp);

    daemon.restart();
    assert!(daemon.counter("packets_refused") >= 3, "of both sockets, and in both directions");
    // The next daemon makes up for it.
    let destroyed = |event: &Event| event.is_of("alone") && event.kind() == "sockets-destroyed";
    daemon.wait_for_events(1, "its sockets are destroyed", destroyed);
    inside.must_fail("receive t", &[libc::ECONNABORTED]);
    far.0.set_nonblocking(false).expect("every socket can be");
    far.expect_reset();
    inside.end();
}

#[test]
fn quarantine_holds_until_it_is_lifted() {
    let mut daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    let spec = format!("tcp/{}", pair.allowed.address());
    let listener = listen("127.0.0.10:0");
    let mut inside = daemon.hold(&envelope("held"));
    let far = Far::connect(&mut inside, "s", &listener);
    inside.must("open idle tcp4");
    let mut talker: Conversation = daemon.converse(&envelope("free"), &unique("free"));
    let cgroup = daemon.session_cgroup("held");
    let id = daemon.session_id("held");

    let receipt = daemon.receipt(&["quarantine", &id]);
    assert_eq!([&receipt["state"], &receipt["processes_are"]], ["quarantined", "frozen"]);
    assert_eq!(receipt["sockets"]["left"], 0);
    far.expect_reset();
    let expect_held = |daemon: &Daemon, when: &str| {
        wait_until(DEADLINE, when, || is_frozen(&cgroup).then_some(()));
        let session = daemon.session("held").expect("it is running");
        assert_eq!(session["state"], "quarantined", "{when}");
    };
    expect_held(&daemon, "quarantined");
    daemon.kill9();
    daemon.restart();
    expect_held(&daemon, "after a restart");
    daemon.apply(&envelope("held").revision(1).allow("more", "127.0.0.11/32", "any", "any"));
    expect_held(&daemon, "after an envelope was applied");
    // Whoever thaws the cgroup gains nothing by it.
    fs::write(cgroup.join("cgroup.freeze"), "0").expect("as root");
    let to = listener.local_addr().expect("it is bound");
    inside.must_fail("open other tcp4", &[libc::EPERM]);
    inside.must_fail(&format!("connect idle {to}"), &[libc::EPERM]);
    inside.must_fail("send s more", CUT);
    let of_reason = |event: &Event| event.is_of("held") && event.is_deny();
    let events = daemon.wait_for_events(1, "the deny", of_reason);
    assert!(events.iter().all(|event| event.text("/reason") == "quarantined"));
    assert!(talker.attempt(&spec), "another session is not concerned");

    daemon.layout().outcome(&["quarantine", "--lift", &id]).success();
    assert_eq!(daemon.session("held").expect("it is running")["state"], "active");
    assert!(!is_frozen(&cgroup));
    Far::connect(&mut inside, "new", &listener);
    // There is a way back from quarantine, and none from revocation.
    daemon.receipt(&["revoke", &id]);
    for arguments in [&["quarantine", "--lift", &id][..], &["quarantine", &id]] {
        assert!(!daemon.layout().outcome(arguments).status.success(), "{arguments:?}");
    }
    assert_eq!(daemon.session("held").expect("it is running")["state"], "revoked");
    inside.end();
    talker.end();
}

/// However many descriptors there are on the host, a session's sockets are found, and destroyed: the kernel gives up a walk through
/// a million of them that has found nothing, and wants to be asked again.
#[test]
fn sockets_are_destroyed_whatever_others_hold() {
    const DESCRIPTORS: u32 = 1_200_000;
    let daemon = Daemon::start();
    let (listener, address) = far_end();
    let mut hoarder = daemon.act(&Envelope::of("hoarder"));
    hoarder.begin(&format!("hoard {DESCRIPTORS}"));
    let mut inside = daemon.act(&Envelope::of("cut").allow("all", "127.0.0.0/8", "any", "tcp"));
    inside.must(&format!("connect {address}"));
    let (stream, _) = listener.accept().expect("it is connected");
    assert_eq!(hoarder.answer(LOAD_DEADLINE), "ok");
    let receipt = daemon.receipt(&["revoke", &daemon.session_id("cut")]);
    stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let read = (&stream).read(&mut [0]);
    daemon.kill_sessions();
    drop((hoarder, inside));
    assert_eq!(receipt["sockets"]["errors"], serde_json::json!([]), "{receipt}");
    assert_eq!(receipt["sockets"]["destroyed"], 1, "{receipt}");
    let error = read.expect_err("the far end is told");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
