//! Who may connect to a session, and to which of its ports: nobody, unless a listen rule says so.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use integration::{DEADLINE, Daemon, Envelope, Event, Holder};

/// For as long as a refused connection is tried in a test: TCP tries again after a second.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A port that nobody listens at, on any of the addresses that tests use.
fn free_port() -> u16 {
    let probe = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    probe.local_addr().expect("it is bound").port()
}

/// A connection from an address of the test's choice. `None` if nobody answers.
fn call(from: &str, to: SocketAddr) -> Option<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    };
    use nix::sys::time::{TimeVal, TimeValLike};
    use std::os::fd::AsRawFd;
    let socket =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(PATIENCE.as_millis() as i64))
        .expect("it can");
    let from: IpAddr = from.parse().expect("an address");
    let name = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SockaddrIn::from(v4),
        SocketAddr::V6(_) => panic!("IPv4 only"),
    };
    bind(socket.as_raw_fd(), &name((from, 0).into())).expect("it is an address of this host");
    match connect(socket.as_raw_fd(), &name(to)) {
        Ok(()) => {
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
            Some(stream)
        }
        Err(nix::Error::EINPROGRESS) => None,
        Err(errno) => panic!("connect to {to}: {errno}"),
    }
}

/// A session that waits for connections at this port.
fn serve(daemon: &Daemon, envelope: &Envelope, at: &str) -> Holder {
    let mut inside = daemon.hold(envelope);
    listen_at(&mut inside, at);
    inside
}

fn listen_at(holder: &mut Holder, at: &str) {
    holder.must("open l tcp4");
    holder.must(&format!("bind l {at}"));
    holder.must("listen l");
}

/// Both ends say something, and hear it.
#[track_caller]
fn expect_open(holder: &mut Holder, name: &str, far: &mut TcpStream) {
    far.write_all(b"ask").expect("it is open");
    assert_eq!(holder.must(&format!("receive {name}")), "ask");
    holder.must(&format!("send {name} answer"));
    let mut answer = [0; 6];
    far.read_exact(&mut answer).expect("it is open");
    assert_eq!(&answer, b"answer");
}

fn denies<'a>(agent: &'a str, operation: &'a str) -> impl Fn(&Event) -> bool + 'a {
    move |event| event.is_of(agent) && event.is_deny() && event.text("/operation") == operation
}

#[test]
fn only_those_may_connect_that_a_rule_names() {
    let daemon = Daemon::start();
    let port = free_port();
    let to = SocketAddr::from(([127, 0, 0, 50], port));
    let mut outside = Holder::outside();
    listen_at(&mut outside, &to.to_string());
    for from in ["127.0.0.61", "127.0.0.62"] {
        call(from, to).expect("control");
    }
    outside.end();

    let envelope = Envelope::of("server").listen("front", "127.0.0.61/32", &port.to_string(), "tcp");
    let mut inside = serve(&daemon, &envelope, &to.to_string());
    // No egress rule names it: an answer is as good as what it answers.
    let mut far = call("127.0.0.61", to).expect("a rule names it");
    inside.must("accept s l");
    expect_open(&mut inside, "s", &mut far);
    assert!(call("127.0.0.62", to).is_none(), "no rule names it");
    inside.must("patience l 300");
    inside.must_fail("accept t l", &[libc::EAGAIN]);

    let allowed = |event: &Event| {
        event.is_of("server") && event.kind() == "egress" && event.text("/verdict") == "allow"
    };
    let events = daemon.wait_for_events(1, "who came is recorded", allowed);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].text("/operation"), "accept");
    assert_eq!(events[0].text("/rule"), "front");
    assert_eq!(*events[0].at("/local_port"), port);
    assert_eq!(events[0].decision().destination, far.local_addr().expect("it is bound").to_string());
    let events = daemon.wait_for_events(1, "who was refused is recorded", denies("server", "accept"));
    assert_eq!(events.len(), 1, "once, though TCP has tried more than once");
    assert_eq!(events[0].text("/reason"), "no-rule");
    assert!(events[0].decision().destination.starts_with("127.0.0.62:"));
    assert!(events[0].is_refused());

    // The session cannot turn it round: to be reached is not to reach.
    inside.must("open out tcp4");
    inside.must_fail(&format!("connect out 127.0.0.61:{port}"), &[libc::EPERM]);
    // Taken away, the rule holds no more for what is open.
    daemon.apply(&Envelope::of("server").revision(1));
    inside.must_fail("receive s", &[libc::ECONNABORTED]);
    assert!(call("127.0.0.61", to).is_none(), "no rule any more");
    inside.end();
}

#[test]
fn port_that_no_rule_names_cannot_be_taken() {
    let daemon = Daemon::start();
    let [port, other] = [free_port(), free_port()];
    let mut outside = Holder::outside();
    let mut inside =
        daemon.hold(&Envelope::of("binder").listen("one", "127.0.0.61/32", &port.to_string(), "tcp"));
    let attempts = [
        ("tcp4", format!("127.0.0.50:{other}"), false),
        ("tcp6", format!("[::]:{other}"), false),
        ("udp4", format!("127.0.0.50:{port}"), false),
        ("udp6", format!("[::ffff:127.0.0.50]:{other}"), false),
        ("tcp4", format!("127.0.0.50:{port}"), true),
        ("tcp6", format!("[::ffff:127.0.0.51]:{port}"), true),
        ("tcp4", "127.0.0.50:0".to_owned(), true),
        ("udp4", "0.0.0.0:0".to_owned(), true),
    ];
    for (kind, at, allowed) in &attempts {
        for (holder, allowed) in [(&mut outside, true), (&mut inside, *allowed)] {
            holder.must(&format!("open s {kind}"));
            let bind = format!("bind s {at}");
            match allowed {
                true => drop(holder.must(&bind)),
                false => drop(holder.must_fail(&bind, &[libc::EPERM])),
            }
            holder.must("close s");
        }
    }
    let events = daemon.wait_for_events(4, "the denies", denies("binder", "bind"));
    assert_eq!(events.len(), 4);
    for (event, (kind, at, _)) in events.iter().zip(&attempts) {
        let at: SocketAddr = at.parse().expect("an address");
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        assert_eq!(event.decision().destination, at.to_string(), "{kind}");
        assert_eq!(event.text("/protocol"), &kind[..3]);
        assert_eq!(event.text("/reason"), "no-rule");
        assert_eq!(event.pid(), Some(inside.pid()));
    }
    outside.end();
    inside.end();
}

/// `listen` without `bind` takes a port of the kernel's choice: nobody gets in there either. That is what a reverse shell is: the
/// session only answers.
#[test]
fn nobody_is_answered_without_a_rule() {
    let daemon = Daemon::start();
    let mut inside = daemon.hold(&Envelope::of("shell").allow("out", "127.0.0.10/32", "any", "any"));
    inside.must("open l tcp4");
    inside.must("listen l");
    let port = inside.must("local l").rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(call("127.0.0.62", to).is_none());
    // Not even somebody whom the session may connect to may begin.
    assert!(call("127.0.0.10", to).is_none());
    inside.must("patience l 300");
    inside.must_fail("accept s l", &[libc::EAGAIN]);
    let events = daemon.wait_for_events(2, "the denies", denies("shell", "accept"));
    assert_eq!(events.len(), 2);

    // UDP has no beginning: a datagram arrives only from where one may be sent to.
    inside.must("open u udp4");
    inside.must("bind u 127.0.0.50:0");
    let to = inside.must("local u");
    let [friend, stranger] = ["127.0.0.10:0", "127.0.0.62:0"].map(|at| UdpSocket::bind(at).expect("a port"));
    stranger.send_to(b"knock", &to).expect("nobody tells the sender");
    friend.send_to(b"hello", &to).expect("it is sent");
    assert_eq!(inside.must("receive u"), "hello");
    inside.must("patience u 300");
    inside.must_fail("receive u", &[libc::EAGAIN]);
    daemon.wait_for_events(1, "the deny", denies("shell", "packet-in"));
    inside.end();
}

#[test]
fn datagrams_arrive_from_where_a_rule_says() {
    let daemon = Daemon::start();
    let port = free_port();
    let to = format!("127.0.0.50:{port}");
    let envelope = Envelope::of("datagrams").listen("in", "127.0.0.61/32", &port.to_string(), "udp");
    let [friend, stranger] = ["127.0.0.61:0", "127.0.0.62:0"].map(|at| UdpSocket::bind(at).expect("a port"));
    friend.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let mut inside = daemon.hold(&envelope);
    inside.must("open u udp4");
    inside.must(&format!("bind u {to}"));
    stranger.send_to(b"knock", &to).expect("nobody tells the sender");
    friend.send_to(b"hello", &to).expect("it is sent");
    assert_eq!(inside.must("receive u"), "hello");
    // An answer has to name whom it answers, which no egress rule allows; the listen rule does.
    let back = friend.local_addr().expect("it is bound");
    inside.must(&format!("send-to u {back} answer"));
    let mut answer = [0; 16];
    assert_eq!(friend.recv(&mut answer).expect("it arrives"), 6);
    inside.must_fail(&format!("send-to u {} answer", stranger.local_addr().expect("bound")), &[libc::EPERM]);
    // From another port it is none.
    inside.must("open other udp4");
    inside.must_fail(&format!("send-to other {back} begin"), &[libc::EPERM]);
    inside.end();
}

/// A UDP socket that is bound to its port stays bound when it is destroyed: that is no fault.
#[test]
fn bound_datagram_socket_can_be_destroyed() {
    let daemon = Daemon::start();
    let port = free_port();
    let to = format!("127.0.0.50:{port}");
    let envelope = Envelope::of("bound").listen("in", "127.0.0.61/32", &port.to_string(), "udp");
    let friend = UdpSocket::bind("127.0.0.61:0").expect("a port is free");
    let mut inside = daemon.hold(&envelope);
    inside.must("open u udp4");
    inside.must(&format!("bind u {to}"));
    friend.send_to(b"hello", &to).expect("it is sent");
    assert_eq!(inside.must("receive u"), "hello");
    let receipt = daemon.receipt(&["revoke", &daemon.session_id("bound")]);
    assert_eq!(receipt["sockets"]["left"], 0, "{receipt}");
    // Whether the socket is gone or not, the sender may be told or not.
    let _ = friend.send_to(b"late", &to);
    inside.must("patience u 300");
    let answer = inside.ask("receive u");
    assert_ne!(answer.errno, 0, "nothing arrives any more: {}", answer.text);
    inside.end();
}

#[test]
fn loopback_rule_holds_both_ways() {
    let daemon = Daemon::start();
    let port = free_port();
    let to = SocketAddr::from(([127, 0, 0, 50], port));
    let mut inside = serve(&daemon, &Envelope::of("local").loopback(), &to.to_string());
    let mut far = call("127.0.0.62", to).expect("it is loopback");
    inside.must("accept s l");
    expect_open(&mut inside, "s", &mut far);
    // With itself, too.
    inside.must("open out tcp4");
    inside.must(&format!("connect out {to}"));
    inside.must("accept in l");
    inside.must("send out self");
    assert_eq!(inside.must("receive in"), "self");
    let server = TcpListener::bind("127.0.0.70:0").expect("a port is free");
    inside.connect("there", "tcp4", server.local_addr().expect("it is bound"));
    server.accept().expect("it is loopback");
    inside.end();
}

#[test]
fn deny_rule_beats_a_listen_rule() {
    let daemon = Daemon::start();
    let port = free_port();
    let to = SocketAddr::from(([127, 0, 0, 50], port));
    let envelope = Envelope::of("guarded").listen("front", "127.0.0.0/8", &port.to_string(), "tcp").deny(
        "not-him",
        "127.0.0.62/32",
        "any",
        "any",
    );
    let mut inside = serve(&daemon, &envelope, &to.to_string());
    assert!(call("127.0.0.62", to).is_none());
    let mut far = call("127.0.0.61", to).expect("a rule names it");
    inside.must("accept s l");
    expect_open(&mut inside, "s", &mut far);
    let events = daemon.wait_for_events(1, "the deny", denies("guarded", "accept"));
    assert_eq!([events[0].text("/reason"), events[0].text("/rule")], ["deny-rule", "not-him"]);
    inside.end();
}

#[test]
fn audit_mode_lets_callers_in_and_records_them() {
    let daemon = Daemon::start();
    let port = free_port();
    let to = SocketAddr::from(([127, 0, 0, 50], port));
    let mut inside = serve(&daemon, &Envelope::of("open").audit(), &to.to_string());
    let mut far = call("127.0.0.62", to).expect("audit mode lets it in");
    inside.must("accept s l");
    expect_open(&mut inside, "s", &mut far);
    for operation in ["bind", "accept"] {
        let events = daemon.wait_for_events(1, operation, denies("open", operation));
        assert!(!events[0].is_refused());
    }
    inside.end();
}

/// A ping socket has no ports: a rule says where it may go.
#[test]
fn ping_goes_where_a_rule_says() {
    let daemon = Daemon::start();
    let namespace = integration::NetNs::new();
    // Ping sockets are for the groups that a network namespace says.
    namespace.inside(|| {
        std::fs::write("/proc/thread-self/root/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
            .expect("as root");
    });
    let start = |command: &mut std::process::Command| namespace.put(command);
    let command = Holder::command();
    let mut outside = std::process::Command::new(&command[0]);
    outside.args(&command[1..]);
    start(&mut outside);
    let mut outside = Holder::of(outside);
    let envelope = Envelope::of("ping").allow_ping("there", "127.0.0.10/32");
    let mut run = daemon.layout().run_command(&envelope, &command);
    start(&mut run);
    let mut inside = Holder::of(run);
    let mut without = daemon.layout().run_command(Envelope::of("none"), &command);
    start(&mut without);
    let mut without = Holder::of(without);
    for holder in [&mut outside, &mut inside] {
        holder.must("open p ping4");
        holder.must("ping p 127.0.0.10");
    }
    outside.must("ping p 127.0.0.20");
    inside.must_fail("ping p 127.0.0.20", &[libc::EPERM]);
    without.must_fail("open p ping4", &[libc::EPERM]);
    let events = daemon.wait_for_events(1, "the deny", |event| event.is_of("ping") && event.is_deny());
    assert_eq!(events[0].text("/protocol"), "icmp");
    assert!(events[0].decision().destination.starts_with("127.0.0.20:"));
    for holder in [outside, inside, without] {
        holder.end();
    }
}
