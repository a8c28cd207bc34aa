//! What a session's connections carried, and for how long; who listens; and what it exchanged in datagrams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use integration::{DEADLINE, Daemon, Envelope, Event, Server, wait_until};

/// How long a connection is kept open, to see that it is said.
const OPEN: Duration = Duration::from_millis(300);

fn of_kind<'a>(agent: &'a str, kind: &'a str) -> impl Fn(&Event) -> bool + 'a {
    move |event| event.is_of(agent) && event.kind() == kind
}

fn number(event: &Event, field: &str) -> u64 {
    let pointer = format!("/flow/{field}");
    event.at(&pointer).as_u64().unwrap_or_else(|| panic!("{pointer} is no number in {event:?}"))
}

fn far_end(event: &Event) -> String {
    let port = event.at("/flow/destination/port");
    format!("{} {port}", event.text("/flow/destination/address"))
}

fn far(address: SocketAddr) -> String {
    format!("{} {}", address.ip(), address.port())
}

/// What the events say together of datagrams to or from anybody, or with this address.
fn totals(events: &[Event], address: Option<SocketAddr>) -> [u64; 4] {
    let wanted = |event: &&Event| {
        event.kind() == "datagrams" && address.is_none_or(|address| far_end(event) == far(address))
    };
    events.iter().filter(wanted).fold([0; 4], |sum, event| {
        let fields = ["packets_out", "bytes_out", "packets_in", "bytes_in"];
        std::array::from_fn(|at| sum[at] + number(event, fields[at]))
    })
}

#[track_caller]
fn wait_for_totals(
    daemon: &Daemon,
    agent: &str,
    address: Option<SocketAddr>,
    expected: [u64; 4],
) -> Vec<Event> {
    let mut seen = [0; 4];
    wait_until(DEADLINE, "everything is in a total", || {
        let events: Vec<Event> = daemon.events().into_iter().filter(|event| event.is_of(agent)).collect();
        seen = totals(&events, address);
        assert!(
            seen.iter().zip(expected).all(|(seen, most)| *seen <= most),
            "{seen:?} is more than {expected:?}"
        );
        (seen == expected).then_some(events)
    })
}

#[test]
fn connection_that_closes_says_what_it_carried() {
    let daemon = Daemon::start();
    for (agent, ip, kind) in [("four", "127.0.0.10", "tcp4"), ("six", "::1", "tcp6")] {
        let server = Server::start("tcp", ip);
        let mut inside = daemon.hold(&Envelope::of(agent).allow_server("there", &server));
        inside.connect("s", kind, server.address());
        let local: SocketAddr = inside.must("local s").parse().expect("an address");
        inside.must("send s 0123456789");
        assert_eq!(inside.must("receive s"), "0123456789");
        thread::sleep(OPEN);
        // Nothing is said before it is over.
        assert!(!daemon.events().iter().any(of_kind(agent, "connection-closed")));
        inside.must("close s");
        let closed = daemon.wait_for_events(1, "the end is recorded", of_kind(agent, "connection-closed"));
        let [closed] = &closed[..] else { panic!("more than one: {closed:?}") };
        assert_eq!((number(closed, "bytes_out"), number(closed, "bytes_in")), (10, 10));
        assert!(number(closed, "packets_out") >= 3 && number(closed, "packets_in") >= 2, "{closed:?}");
        assert!(number(closed, "duration_ms") >= OPEN.as_millis() as u64, "{closed:?}");
        assert_eq!(far_end(closed), far(server.address()));
        assert_eq!(closed.at("/flow/local_port"), local.port());
        assert_eq!(closed.text("/flow/direction"), "outbound");
        assert_eq!(closed.text("/flow/rule"), "there");
        assert_eq!(closed.pid(), Some(inside.pid()), "who connected");
        let opened = daemon.wait_for_events(1, "the beginning, too", |event| {
            event.is_of(agent) && event.kind() == "egress" && event.text("/operation") == "connect"
        });
        assert_eq!(opened[0].at("/socket"), closed.at("/flow/socket"), "one and the same socket");
        assert!(opened[0].text("/time") == closed.text("/flow/since"), "{closed:?}");
        inside.end();
    }
    // Who is in no session is not recorded: both servers had a connection of theirs closed as well.
    let flows: Vec<Event> =
        daemon.events().into_iter().filter(|event| event.find("/flow").is_some()).collect();
    assert!(flows.iter().all(|event| matches!(event.agent(), Some("four" | "six"))), "{flows:?}");
}

#[test]
fn connection_that_nobody_answers_is_closed_with_nothing() {
    let daemon = Daemon::start();
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let nobody = listener.local_addr().expect("it is bound");
    drop(listener);
    let mut inside = daemon.hold(&Envelope::of("calls").allow_at("there", nobody));
    inside.must("open s tcp4");
    inside.must_fail(&format!("connect s {nobody}"), &[libc::ECONNREFUSED]);
    let closed = daemon.wait_for_events(1, "it is recorded", of_kind("calls", "connection-closed"));
    assert_eq!(closed[0].text("/flow/was"), "syn-sent");
    assert_eq!((number(&closed[0], "bytes_out"), number(&closed[0], "bytes_in")), (0, 0));
    assert_eq!(far_end(&closed[0]), far(nobody));
    // What is refused was never opened.
    let other: SocketAddr = "127.0.0.11:9".parse().expect("an address");
    inside.must("open t tcp4");
    inside.must_fail(&format!("connect t {other}"), &[libc::EPERM]);
    inside.must("close t");
    inside.end();
    daemon.wait_for_events(1, "it is over", of_kind("calls", "session-ended"));
    assert_eq!(daemon.events().into_iter().filter(of_kind("calls", "connection-closed")).count(), 1);
}

#[test]
fn who_listens_is_recorded_and_what_came_in() {
    let daemon = Daemon::start();
    let free = TcpListener::bind("127.0.0.50:0").expect("a port is free");
    let at = free.local_addr().expect("it is bound");
    drop(free);
    let port = at.port().to_string();
    let mut inside = daemon.hold(&Envelope::of("serves").listen("callers", "127.0.0.0/8", &port, "tcp"));
    inside.must("open l tcp4");
    inside.must(&format!("bind l {at}"));
    inside.must("listen l");
    let listening = daemon.wait_for_events(1, "it is recorded", of_kind("serves", "listening"));
    assert_eq!((far_end(&listening[0]), listening[0].pid()), (far(at), Some(inside.pid())));
    let mut caller = TcpStream::connect(at).expect("a rule lets it in");
    let from = caller.local_addr().expect("it is connected");
    inside.must("accept c l");
    caller.write_all(b"question").expect("it is open");
    assert_eq!(inside.must("receive c"), "question");
    inside.must("send c yes");
    let mut answer = [0; 3];
    caller.read_exact(&mut answer).expect("it is open");
    inside.must("close c");
    drop(caller);
    let closed = daemon.wait_for_events(1, "the end is recorded", of_kind("serves", "connection-closed"));
    assert_eq!((number(&closed[0], "bytes_out"), number(&closed[0], "bytes_in")), (3, 8));
    assert_eq!(closed[0].text("/flow/direction"), "inbound");
    assert_eq!(closed[0].text("/flow/rule"), "callers");
    assert_eq!((far_end(&closed[0]), closed[0].at("/flow/local_port")), (far(from), &at.port().into()));
    assert_eq!(daemon.events().into_iter().filter(of_kind("serves", "listening-ended")).count(), 0);
    inside.must("close l");
    let ended = daemon.wait_for_events(1, "it does not listen", of_kind("serves", "listening-ended"));
    assert_eq!(ended[0].at("/flow/socket"), listening[0].at("/flow/socket"));
    inside.end();
}

#[test]
fn connection_that_is_cut_says_what_it_had_carried() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.10");
    let mut inside = daemon.hold(&Envelope::of("cut").allow_server("there", &server));
    inside.connect("s", "tcp4", server.address());
    inside.must("send s 0123456789");
    assert_eq!(inside.must("receive s"), "0123456789");
    daemon.receipt(&["revoke", &daemon.session_id("cut")]);
    let closed = daemon.wait_for_events(1, "the end is recorded", of_kind("cut", "connection-closed"));
    assert_eq!((number(&closed[0], "bytes_out"), number(&closed[0], "bytes_in")), (10, 10));
    inside.end();
}

#[test]
fn datagrams_are_recorded_once_and_counted() {
    let daemon = Daemon::start();
    let (one, other) = (Server::start("udp", "127.0.0.10"), Server::start("udp", "127.0.0.11"));
    let sink = std::net::UdpSocket::bind("[::1]:0").expect("a port is free");
    let six = sink.local_addr().expect("it is bound");
    let envelope = Envelope::of("says").allow_server("one", &one).allow_server("other", &other);
    let mut inside = daemon.hold(&envelope.allow_at("six", six));
    inside.must("open s udp4");
    for (times, server) in [(20, &one), (3, &other)] {
        for _ in 0..times {
            inside.must(&format!("send-to s {} 12345", server.address()));
            assert_eq!(inside.must("receive s"), "12345");
        }
    }
    // One that is connected has a record of that, and none of what it sends.
    inside.must("open c udp6");
    inside.must(&format!("connect c {six}"));
    for _ in 0..4 {
        inside.must("send c 1234567");
    }
    wait_for_totals(&daemon, "says", Some(one.address()), [20, 100, 20, 100]);
    wait_for_totals(&daemon, "says", Some(other.address()), [3, 15, 3, 15]);
    let events = wait_for_totals(&daemon, "says", Some(six), [4, 28, 0, 0]);
    for (address, rule) in [(one.address(), "one"), (other.address(), "other"), (six, "six")] {
        let to_it = |event: &&Event| event.kind() == "datagrams" && far_end(event) == far(address);
        let all: Vec<&Event> = events.iter().filter(to_it).collect();
        assert!(all.iter().all(|event| event.text("/flow/rule") == rule), "{all:?}");
        assert!(all.iter().all(|event| event.pid() == Some(inside.pid())), "{all:?}");
        assert!(all.iter().all(|event| event.text("/flow/since") <= event.text("/time")), "{all:?}");
    }
    // The first of each period has a record of its own; there are fewer periods than datagrams.
    let sent = |address: SocketAddr| {
        let to_it = |event: &&Event| {
            event.kind() == "egress"
                && event.text("/operation") == "send"
                && event.at("/destination/port") == address.port()
        };
        events.iter().filter(to_it).count()
    };
    assert!((1..10).contains(&sent(one.address())), "{} records", sent(one.address()));
    assert!((1..=3).contains(&sent(other.address())), "{} records", sent(other.address()));
    assert_eq!(sent(six), 0);
    assert_eq!(daemon.counter("fault_flow_store"), 0);
    inside.end();
}

#[test]
fn what_was_counted_is_said_of_the_session_though_it_is_over() {
    let mut daemon = Daemon::start();
    let server = Server::start("udp", "127.0.0.10");
    let mut inside = daemon.hold(&Envelope::of("brief").allow_server("there", &server));
    inside.must("open s udp4");
    inside.must(&format!("send-to s {} 12345", server.address()));
    assert_eq!(inside.must("receive s"), "12345");
    inside.end();
    daemon.wait_for_events(1, "it is over", of_kind("brief", "session-ended"));
    wait_for_totals(&daemon, "brief", None, [1, 5, 1, 5]);
    // One that is revoked has nothing that could still be on its way, and is said all of at once; and so is all when the daemon stops.
    for agent in ["revoked", "stopped"] {
        let mut inside = daemon.hold(&Envelope::of(agent).allow_server("there", &server));
        inside.must("open s udp4");
        inside.must(&format!("send-to s {} 12345", server.address()));
        assert_eq!(inside.must("receive s"), "12345");
        if agent == "revoked" {
            daemon.receipt(&["revoke", &daemon.session_id(agent)]);
        } else {
            daemon.stop();
            daemon.restart();
        }
        inside.end();
        daemon.wait_for_events(1, "it is over", of_kind(agent, "session-ended"));
        wait_for_totals(&daemon, agent, None, [1, 5, 1, 5]);
    }
}

#[test]
fn totals_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    let server = Server::start("udp", "127.0.0.10");
    let mut inside = daemon.hold(&Envelope::of("goes-on").allow_server("there", &server));
    inside.must("open s udp4");
    let mut say = |times: u64| {
        for _ in 0..times {
            inside.must(&format!("send-to s {} 12345", server.address()));
            assert_eq!(inside.must("receive s"), "12345");
        }
    };
    say(5);
    daemon.kill9();
    say(7);
    daemon.restart();
    say(3);
    // Killed while it writes, it may write one again: it was not writing here, unless the machine is very slow.
    wait_for_totals(&daemon, "goes-on", None, [15, 75, 15, 75]);
    inside.end();
}

#[test]
fn datagrams_to_too_many_are_counted_together() {
    const MANY: u64 = 2_500;
    let daemon = Daemon::start();
    let mut inside = daemon.hold(&Envelope::of("scans").allow("net", "127.1.0.0/16", "any", "udp"));
    inside.must("open s udp4");
    inside.must(&format!("scan s {MANY} 12345"));
    let events = wait_for_totals(&daemon, "scans", None, [MANY, 5 * MANY, 0, 0]);
    let together: Vec<&Event> = events
        .iter()
        .filter(|event| event.kind() == "datagrams" && event.at("/flow/destination").is_null())
        .collect();
    let one_by_one = events.iter().filter(|event| event.kind() == "datagrams").count() - together.len();
    assert!(!together.is_empty(), "{one_by_one} were counted one by one");
    assert!(together.iter().all(|event| event.text("/detail").contains("too many")));
    // Each of them has a record of its own, as nothing else names it.
    let sent = events.iter().filter(|event| event.kind() == "egress").count() as u64;
    assert_eq!(sent, MANY);
    assert_eq!(daemon.counter("fault_flow_store"), 0);
    inside.end();
}
