//! Sockets that a session did not make: whoever uses them as a session is held to its envelope, and so are they from then on.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use integration::{
    DEADLINE, Daemon, Envelope, Event, Holder, Pair, expect_nothing_slipped_through, probe, wait_until,
};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The far end of a connection that a helper makes.
enum Far {
    Tcp(TcpListener, Option<TcpStream>),
    Udp(UdpSocket),
}

impl Far {
    fn start(kind: &str, ip: &str) -> Self {
        match kind {
            "tcp4" => Self::Tcp(TcpListener::bind((ip, 0)).expect("a port is free"), None),
            _ => Self::Udp(UdpSocket::bind((ip, 0)).expect("a port is free")),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(listener, _) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
        .expect("it is bound")
    }

    /// The next message; panics if there is none in time.
    #[track_caller]
    fn receive(&mut self) -> String {
        let mut message = [0; 64];
        let len = match self {
            Self::Tcp(listener, stream) => {
                let stream = stream.get_or_insert_with(|| listener.accept().expect("it is connected").0);
                stream.set_nonblocking(false).expect("every socket can be");
                stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
                stream.read(&mut message)
            }
            Self::Udp(socket) => {
                socket.set_nonblocking(false).expect("every socket can be");
                socket.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
                socket.recv(&mut message)
            }
        };
        String::from_utf8_lossy(&message[..len.expect("a message arrives")]).into_owned()
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        let mut message = [0; 64];
        let read = match self {
            Self::Tcp(_, stream) => {
                let stream = stream.as_mut().expect("it was accepted");
                stream.set_nonblocking(true).expect("every socket can be");
                stream.read(&mut message)
            }
            Self::Udp(socket) => {
                socket.set_nonblocking(true).expect("every socket can be");
                socket.recv(&mut message)
            }
        };
        let error = read.expect_err("nothing has arrived");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// A directory that everybody may make sockets in.
fn mail(daemon: &Daemon, name: &str) -> PathBuf {
    let directory = daemon.layout().file(name);
    fs::create_dir(&directory).expect("the directory is ours");
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("the directory is ours");
    directory.join("box")
}

fn hold_as(daemon: &Daemon, user: &str, envelope: &Envelope) -> Holder {
    let mut run = daemon.layout().command(&["run", "--user", user, "--envelope"]);
    run.arg(daemon.layout().write_envelope(envelope)).arg("--").args(Holder::command());
    Holder::of(run)
}

fn packets_out(agent: &str) -> impl Fn(&Event) -> bool {
    move |event| event.is_of(agent) && event.kind() == "egress" && event.text("/operation") == "packet-out"
}

#[test]
fn connected_socket_that_is_handed_over_is_held_to_the_envelope() {
    for (user, kind) in [("root", "tcp4"), ("root", "udp4"), ("nobody", "tcp4"), ("nobody", "udp4")] {
        let daemon = Daemon::start();
        let mailbox = mail(&daemon, "mail").display().to_string();
        let [mut allowed, mut refused] = ["127.0.0.10", "127.0.0.20"].map(|ip| Far::start(kind, ip));
        let envelope = Envelope::of("receiver").allow("only", "127.0.0.10/32", "any", "any");
        let mut inside = hold_as(&daemon, user, &envelope);
        inside.must(&format!("mailbox {mailbox}"));
        let mut helper = Holder::outside();
        for (name, far) in [("good", &mut allowed), ("bad", &mut refused)] {
            helper.connect(name, kind, far.address());
            helper.must(&format!("send {name} control"));
            assert_eq!(far.receive(), "control", "{user} {kind} {name}: it gets out where no session is");
            helper.must(&format!("give {name} {mailbox}"));
            inside.must(&format!("take {name}"));
        }

        inside.must("send good within");
        assert_eq!(allowed.receive(), "within", "{user} {kind}");
        match kind {
            "udp4" => drop(inside.must_fail("send bad without", &[libc::EPERM])),
            // TCP takes it, and sends it in vain.
            _ => drop(inside.must("send bad without")),
        }
        let events = daemon.wait_for_events(1, "the packet is recorded", packets_out("receiver"));
        refused.expect_nothing();
        assert_eq!(events.len(), 1, "{user} {kind}");
        let [event] = &events[..] else { unreachable!("there is one") };
        assert_eq!(*event.at("/foreign"), true);
        assert!(event.is_refused());
        assert_eq!(event.decision().destination, refused.address().to_string());
        assert_eq!(event.text("/reason"), "no-rule");
        assert_eq!(event.pid(), Some(inside.pid()), "the process that sent it is named");
        assert_eq!(daemon.counter("sockets_adopted"), 2);

        // What the session has used is the session's: its maker sends no more on it than the session may.
        let before = daemon.counter("packets_refused");
        match kind {
            "udp4" => drop(helper.must_fail("send bad helper", &[libc::EPERM])),
            _ => drop(helper.must("send bad helper")),
        }
        wait_until(DEADLINE, "the helper's packets are refused", || {
            (daemon.counter("packets_refused") > before).then_some(())
        });
        refused.expect_nothing();
        helper.must("send good helper");
        assert_eq!(allowed.receive(), "helper", "{user} {kind}");
        // Another socket of the helper's is nobody's business.
        helper.connect("own", kind, refused.address());
        helper.must("send own free");
        if let Far::Tcp(_, stream) = &mut refused {
            *stream = None;
        }
        assert_eq!(refused.receive(), "free");

        // Also when the session is over: a socket does not go back to being nobody's.
        inside.end();
        daemon.wait_idle();
        helper.end();
    }
}

/// TCP sends again what nobody acknowledges, and that is one attempt; another destination is another.
#[test]
fn refusal_is_recorded_once_for_each_socket_and_destination() {
    let daemon = Daemon::start();
    let mailbox = mail(&daemon, "mail").display().to_string();
    let tcp = TcpListener::bind("127.0.0.20:0").expect("a port is free");
    let udp = ["127.0.0.20:0", "127.0.0.21:0"].map(|at| UdpSocket::bind(at).expect("a port is free"));
    let [first, second] = udp.each_ref().map(|socket| socket.local_addr().expect("it is bound"));
    let mut inside = daemon.hold(&Envelope::of("again"));
    let mut helper = Holder::outside();
    inside.must(&format!("mailbox {mailbox}"));
    helper.connect("t", "tcp4", tcp.local_addr().expect("it is bound"));
    helper.connect("u", "udp4", first);
    for name in ["t", "u"] {
        helper.must(&format!("give {name} {mailbox}"));
        inside.must(&format!("take {name}"));
    }

    inside.must("send t text");
    wait_until(DEADLINE, "it is sent again", || (daemon.counter("packets_refused") >= 4).then_some(()));
    assert_eq!(daemon.wait_for_events(1, "the deny", packets_out("again")).len(), 1);

    for _ in 0..3 {
        inside.must_fail("send u text", &[libc::EPERM]);
    }
    assert_eq!(daemon.wait_for_events(2, "the deny", packets_out("again")).len(), 2);
    helper.must(&format!("connect u {second}"));
    for _ in 0..3 {
        inside.must_fail("send u text", &[libc::EPERM]);
    }
    let events = daemon.wait_for_events(3, "the deny", packets_out("again"));
    let mut to: Vec<String> = events.iter().map(|event| event.decision().destination).collect();
    to[1..].sort();
    assert_eq!(to[1..], [first, second].map(|address| address.to_string()));
    assert_eq!(events.len(), 3);
    helper.end();
    inside.end();
}

/// Packets of others are often sent while a session's process runs, in an interrupt. They are not the session's.
#[test]
fn bystanders_connection_is_never_taken_for_a_sessions() {
    const BLOCK: usize = 64 << 10;
    const AT_LEAST: Duration = Duration::from_secs(5);
    const AT_LEAST_BYTES: u64 = 64 << 20;
    // All on one processor, so that they do interrupt each other.
    let everywhere = sched_getaffinity(Pid::from_raw(0)).expect("it is ours");
    let first = (0..CpuSet::count()).find(|cpu| everywhere.is_set(*cpu) == Ok(true)).expect("there is one");
    let mut one = CpuSet::new();
    one.set(first).expect("it is there");
    sched_setaffinity(Pid::from_raw(0), &one).expect("it is there");

    let daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments();
    let sink = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let to_sink = sink.local_addr().expect("it is bound");
    let envelope = Envelope::of("busy").allow("only", "127.0.0.10/32", "any", "any");
    let connect_loop = daemon.run(&envelope, &probe(&["connect-loop", &allowed, &refused]));
    let mut bulk = daemon.hold(&envelope);
    bulk.connect("s", "tcp4", to_sink);
    let (mut drain, _) = sink.accept().expect("it is connected");

    let bystander = TcpListener::bind("127.0.0.30:0").expect("a port is free");
    let mut writer = TcpStream::connect(bystander.local_addr().expect("it is bound")).expect("it listens");
    let (mut reader, _) = bystander.accept().expect("it is connected");
    reader.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0u64;
            while !stop.load(Relaxed) {
                let block = number.to_be_bytes().repeat(BLOCK / 8);
                writer.write_all(&block).expect("nobody cuts it");
                number += 1;
            }
            writer.shutdown(std::net::Shutdown::Write).expect("it is open");
        });
        scope.spawn(|| {
            // Not more than it has to: until the session closes its end.
            let mut block = vec![0; BLOCK];
            while drain.read(&mut block).is_ok_and(|len| len > 0) {}
        });
        let mut block = vec![0; BLOCK];
        let mut number = 0u64;
        loop {
            match reader.read_exact(&mut block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => panic!("the bystander's connection: {error}"),
            }
            assert!(block.chunks(8).all(|part| part == number.to_be_bytes()), "block {number}");
            number += 1;
            if number % 16 == 1 {
                bulk.must("fill s 200000");
            }
            if started.elapsed() > AT_LEAST && number * BLOCK as u64 > AT_LEAST_BYTES {
                stop.store(true, Relaxed);
            }
        }
        bulk.must("close s");
    });
    bulk.end();
    expect_nothing_slipped_through(connect_loop);
    assert_eq!(daemon.counter("sockets_adopted"), 0);
    let events = daemon.events();
    let gate = |event: &&Event| event.kind() == "egress" && event.text("/operation").starts_with("packet-");
    assert!(!events.iter().any(|event| gate(&event)), "no packet was refused");
    assert_eq!(daemon.counter("packets_refused"), 0);
    daemon.wait_idle();
}

/// A listening socket answers in an interrupt, whoever holds it at the moment: most often while the process that connects runs.
#[test]
fn listener_that_a_session_connects_to_stays_its_makers() {
    const CONNECTIONS: usize = 20_000;
    let daemon = Daemon::start();
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let to = listener.local_addr().expect("it is bound").to_string();
    // A rule for the listener's port alone: if the listener were the session's, its answers would go nowhere.
    let envelope = Envelope::of("caller").allow_at("only", listener.local_addr().expect("it is bound"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            // Accepting takes the listener's lock, again and again.
            scope.spawn(|| {
                listener.set_nonblocking(true).expect("every socket can be");
                while !stop.load(Relaxed) {
                    drop(listener.accept());
                }
            });
        }
        let mut callers: Vec<_> =
            (0..2).map(|_| daemon.run(&envelope, &probe(&["dial", &CONNECTIONS.to_string(), &to]))).collect();
        let totals: Vec<String> =
            callers.iter_mut().map(|caller| caller.read_line(integration::LOAD_DEADLINE)).collect();
        stop.store(true, Relaxed);
        assert_eq!(daemon.counter("sockets_adopted"), 0);
        for line in totals {
            assert_eq!(line, format!("{CONNECTIONS} 0"), "all connections were made");
        }
        callers.into_iter().for_each(|caller| drop(caller.finish(DEADLINE).success()));
    });
    assert_eq!(daemon.counter("packets_refused"), 0);
}
