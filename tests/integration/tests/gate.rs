//! The packet gate: every packet of a session is judged by its own header, whatever was decided when its socket was used.

use std::net::{IpAddr, TcpListener, UdpSocket};

use integration::{DEADLINE, Daemon, Envelope, Event, Holder, NetNs, Sniffer, say, unique, wait_until};

/// An option by which a packet's header says something that addresses and ports do not.
struct HeaderOption {
    what: &'static str,
    ip: &'static str,
    kind: &'static str,
    /// For `setsockopt`; and for a control message, if it can be one.
    level_and_number: &'static str,
    control: &'static str,
    value: &'static str,
    /// What the kernel says if it was built without.
    absent: &'static [i32],
}

#[rustfmt::skip]
const HEADER_OPTIONS: &[HeaderOption] = &[
    // Segment routing over ::1, which no privilege is needed for: the packet goes to the first segment.
    HeaderOption {
        what: "segment routing header", ip: "::1", kind: "udp6", level_and_number: "41 57", control: "",
        value: "00040401010000000000000000000000000000000000000000000000000000000000000000000001",
        absent: &[libc::EINVAL, libc::ENOPROTOOPT],
    },
    // Over a home address, as mobile hosts have it.
    HeaderOption {
        what: "routing header", ip: "::1", kind: "udp6", level_and_number: "41 57", control: "41 57",
        value: "000202010000000000000000000000000000000000000001",
        absent: &[libc::EINVAL, libc::ENOPROTOOPT],
    },
    HeaderOption {
        what: "destination options", ip: "::1", kind: "udp6", level_and_number: "41 59", control: "41 59",
        value: "0000010400000000", absent: &[],
    },
    HeaderOption {
        what: "hop-by-hop options", ip: "::1", kind: "udp6", level_and_number: "41 54", control: "41 54",
        value: "0000010400000000", absent: &[],
    },
    HeaderOption {
        what: "record route", ip: "127.0.0.1", kind: "udp4", level_and_number: "0 4", control: "0 7",
        value: "0707040000000000", absent: &[],
    },
    HeaderOption {
        what: "loose source route", ip: "127.0.0.1", kind: "udp4", level_and_number: "0 4", control: "0 7",
        value: "8307047f00000100", absent: &[],
    },
];

/// A session, and a probe outside, in one network namespace.
fn both_in(namespace: &NetNs, daemon: &Daemon, envelope: &Envelope) -> [Holder; 2] {
    let command = Holder::command();
    let mut outside = std::process::Command::new(&command[0]);
    outside.args(&command[1..]);
    let mut inside = daemon.layout().run_command(envelope, &command);
    [&mut outside, &mut inside].into_iter().for_each(|command| namespace.put(command));
    [outside, inside].map(Holder::of)
}

fn denies_of<'a>(agent: &'a str, operation: &'a str) -> impl Fn(&Event) -> bool + 'a {
    move |event| event.is_of(agent) && event.is_deny() && event.text("/operation") == operation
}

/// The destination is allowed, and the packet says it goes there; but by its header it may go somewhere else.
#[test]
fn packets_with_header_options_do_not_leave() {
    let daemon = Daemon::start();
    let namespace = NetNs::new();
    let envelope = Envelope::of("headers").allow("here", "::1/128", "any", "any").allow(
        "here4",
        "127.0.0.0/8",
        "any",
        "any",
    );
    let [mut outside, mut inside] = both_in(&namespace, &daemon, &envelope);
    let sniffer = namespace.inside(Sniffer::of_everything);
    let mailbox = daemon.layout().file("mailbox").display().to_string();
    inside.must(&format!("mailbox {mailbox}"));
    let mut refused = Vec::new();
    for HeaderOption { what, ip, kind, level_and_number, control, value, absent } in HEADER_OPTIONS {
        let ip: IpAddr = ip.parse().expect("an address");
        let server = namespace.inside(|| UdpSocket::bind((ip, 0))).expect("a port is free");
        let to = server.local_addr().expect("it is bound");
        let magic = unique("header");
        outside.must(&format!("open s {kind}"));
        outside.must(&format!("send-to s {to} {magic}"));
        assert_eq!(sniffer.left_with(&magic), 1, "{what}: control");
        let option = outside.ask(&format!("option s {level_and_number} {value}"));
        if absent.contains(&option.errno) {
            say(&format!("skip: {what}: this kernel has none (error {})", option.errno));
            continue;
        }
        assert_eq!(option.errno, 0, "{what}: {}", option.text);
        // Some take privileges that a session does not have; somebody else can give it a socket that has the option.
        outside.must(&format!("give s {mailbox}"));
        inside.must("take s");
        let magic = unique("option");
        inside.must_fail(&format!("send-to s {to} {magic}"), &[libc::EPERM]);
        assert_eq!(sniffer.left_with(&magic), 0, "{what}: nothing has left");
        refused.push(what);
        // On a socket of its own, in a control message: refused for the privilege, or by the gate.
        let magic = unique("message");
        inside.must(&format!("open own {kind}"));
        inside.must(&format!("send-to own {to} {magic}-plain"));
        assert_eq!(sniffer.left_with(&magic), 1, "{what}: control inside");
        if !control.is_empty() {
            let send = format!("send-with own {to} {control} {value} {magic}");
            outside.must(&format!("open own {kind}"));
            outside.must(&send);
            assert_eq!(sniffer.left_with(&magic), 1, "{what}: control of {send}");
            inside.must_fail(&send, &[libc::EPERM]);
            assert_eq!(sniffer.left_with(&magic), 0, "{what}: nothing has left");
        }
    }
    assert!(refused.len() >= 4, "options of IPv4 and IPv6 are on every kernel: {refused:?}");
    let foreign =
        |event: &Event| denies_of("headers", "packet-out")(event) && event.find("/foreign").is_some();
    let events = daemon.wait_for_events(refused.len(), "the denies", foreign);
    assert_eq!(events.len(), refused.len());
    for event in events {
        assert_eq!(event.text("/reason"), "header");
        assert_eq!(event.pid(), Some(inside.pid()));
        assert!(event.is_refused() && event.at("/destination").is_null(), "where it goes is not known");
    }
    outside.end();
    inside.end();
}

/// TCP does not learn of it, and tries again until it gives up: one record.
#[test]
fn connection_with_a_source_route_is_not_made() {
    let daemon = Daemon::start();
    let server = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let to = server.local_addr().expect("it is bound");
    let envelope = Envelope::of("route").allow("here", "127.0.0.0/8", "any", "any");
    let mut inside = daemon.hold(&envelope);
    let mut outside = Holder::outside();
    for holder in [&mut outside, &mut inside] {
        holder.must("open s tcp4");
        holder.must("option s 0 4 0707040000000000");
    }
    outside.must(&format!("connect s {to}"));
    server.accept().expect("control");
    inside.must("patience s 1500");
    inside.must_fail(&format!("connect s {to}"), &[libc::ETIMEDOUT]);
    server.set_nonblocking(true).expect("every socket can be");
    assert!(server.accept().is_err(), "nobody has come");
    let events = daemon.wait_for_events(1, "the deny", denies_of("route", "packet-out"));
    wait_until(DEADLINE, "it was tried again", || (daemon.counter("packets_refused") >= 2).then_some(()));
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].text("/reason"), "header");
    // The same without options.
    inside.connect("plain", "tcp4", to);
    outside.end();
    inside.end();
}

/// The rules under which a socket was connected are not those that its packets go by.
#[test]
fn narrowed_envelope_holds_for_connected_sockets() {
    let daemon = Daemon::start();
    let tcp = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let udp = UdpSocket::bind("127.0.0.10:0").expect("a port is free");
    let [to_tcp, to_udp] = [&tcp.local_addr(), &udp.local_addr()].map(|to| *to.as_ref().expect("bound"));
    let wide = Envelope::of("narrowed").allow("here", "127.0.0.10/32", "any", "any");
    let mut inside = daemon.hold(&wide);
    inside.connect("t", "tcp4", to_tcp);
    inside.connect("u", "udp4", to_udp);
    let (mut far, _) = tcp.accept().expect("it is connected");
    let mut message = [0; 16];
    for (socket, text) in [("t", "one"), ("u", "two")] {
        inside.must(&format!("send {socket} {text}"));
    }
    use std::io::Read;
    assert_eq!(far.read(&mut message).expect("control"), 3);
    assert_eq!(udp.recv(&mut message).expect("control"), 3);

    // Another envelope that allows as much changes nothing.
    daemon.apply(&wide.clone().revision(1).allow("more", "127.0.0.11/32", "any", "any"));
    inside.must("send t again");
    assert_eq!(far.read(&mut message).expect("it is as open as before"), 5);

    daemon.apply(&Envelope::of("narrowed").revision(2).allow("other", "127.0.0.11/32", "any", "any"));
    // Refused by the gate, or its socket is destroyed already.
    inside.must_fail("send u three", &[libc::EPERM, libc::ECONNABORTED, libc::EDESTADDRREQ]);
    let destroyed = |event: &Event| event.is_of("narrowed") && event.kind() == "sockets-destroyed";
    let events = daemon.wait_for_events(1, "the sockets are destroyed", destroyed);
    assert!(events[0].text("/detail").starts_with("2 destroyed, 0 left"), "{}", events[0].text("/detail"));
    inside.must_fail("send t four", &[libc::ECONNABORTED, libc::EPIPE]);
    inside.must_fail("send u five", &[libc::EPERM, libc::ECONNABORTED, libc::EDESTADDRREQ]);
    udp.set_nonblocking(true).expect("every socket can be");
    assert!(udp.recv(&mut message).is_err(), "nothing has arrived");
    far.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let end = far.read(&mut message).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "the far end learns of it");
    inside.end();
}

/// A neighbour's sockets stay open while another session's are destroyed, and so do those that listen.
#[test]
fn narrowing_leaves_what_is_allowed() {
    let daemon = Daemon::start();
    let [kept, cut] = ["127.0.0.10:0", "127.0.0.11:0"].map(|at| TcpListener::bind(at).expect("a port"));
    let [to_kept, to_cut] = [&kept, &cut].map(|server| server.local_addr().expect("it is bound"));
    let wide = Envelope::of("partly").allow("here", "127.0.0.0/8", "any", "any");
    let mut inside = daemon.hold(&wide);
    let mut neighbour = daemon.hold(&Envelope::of("neighbour").allow("here", "127.0.0.0/8", "any", "any"));
    inside.connect("kept", "tcp4", to_kept);
    inside.connect("cut", "tcp4", to_cut);
    neighbour.connect("s", "tcp4", to_cut);
    daemon.apply(&Envelope::of("partly").revision(1).allow("only", "127.0.0.10/32", "any", "any"));
    let destroyed = |event: &Event| event.kind() == "sockets-destroyed";
    daemon.wait_for_events(1, "the sockets are destroyed", destroyed);
    inside.must_fail("send cut text", &[libc::ECONNABORTED, libc::EPIPE]);
    inside.must("send kept text");
    neighbour.must("send s text");
    inside.end();
    neighbour.end();
}

/// In audit mode the gate lets through what it would refuse, and says so once for each socket and destination.
#[test]
fn audit_mode_lets_packets_through_and_records_them() {
    let daemon = Daemon::start();
    let server = UdpSocket::bind("127.0.0.20:0").expect("a port is free");
    let to = server.local_addr().expect("it is bound");
    let mailbox = daemon.layout().file("mailbox").display().to_string();
    let mut inside = daemon.hold(&Envelope::of("audited").audit());
    let mut helper = Holder::outside();
    inside.must(&format!("mailbox {mailbox}"));
    // Connected by somebody else, so that the gate alone sees it.
    helper.connect("s", "udp4", to);
    helper.must(&format!("give s {mailbox}"));
    inside.must("take s");
    for round in 0..5 {
        inside.must(&format!("send s round-{round}"));
        let mut message = [0; 16];
        assert_eq!(server.recv(&mut message).expect("it arrives"), 7);
    }
    let audited = wait_until(DEADLINE, "the record", || {
        let events: Vec<Event> =
            daemon.events().into_iter().filter(denies_of("audited", "packet-out")).collect();
        (!events.is_empty()).then_some(events)
    });
    assert_eq!(audited.len(), 1);
    assert!(!audited[0].is_refused());
    assert_eq!(audited[0].decision().destination, to.to_string());
    assert_eq!(audited[0].text("/reason"), "no-rule");
    assert_eq!(daemon.counter("packets_refused"), 0);
    helper.end();
    inside.end();
}
