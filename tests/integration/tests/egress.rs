//! Every way to name a destination: inside the envelope it is reached, outside it is refused and recorded.

use std::net::SocketAddr;

use integration::{
    Daemon, Envelope, LOAD_DEADLINE, Pair, Refusal, Server, attempts, probe, run_outside, unique,
};

/// How a destination is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    V4,
    V6,
    /// The IPv4 address, as `::ffff:a.b.c.d`.
    Mapped,
}

use Form::{Mapped, V4, V6};

/// An attempt of the probe, the forms it is made with, the operation that decides, and whether its first address is one
/// that it connects to before, which is allowed.
struct Way {
    kind: &'static str,
    forms: &'static [Form],
    operation: &'static str,
    connects_before: bool,
}

#[rustfmt::skip]
const WAYS: &[Way] = &[
    Way { kind: "tcp",           forms: &[V4, V6, Mapped], operation: "connect", connects_before: false },
    Way { kind: "tcp-fastopen",  forms: &[V4, V6, Mapped], operation: "connect", connects_before: false },
    Way { kind: "udp-connect",   forms: &[V4, V6, Mapped], operation: "connect", connects_before: false },
    Way { kind: "udp-sendto",    forms: &[V4, V6, Mapped], operation: "send",    connects_before: false },
    Way { kind: "udp-sendmsg",   forms: &[V4, V6, Mapped], operation: "send",    connects_before: false },
    Way { kind: "udp-elsewhere", forms: &[V4, V6, Mapped], operation: "send",    connects_before: true },
    Way { kind: "udp-reconnect", forms: &[V4, V6, Mapped], operation: "connect", connects_before: true },
    // An address without a family, and an IPv4 address on an IPv6 socket.
    Way { kind: "udp-unspec",    forms: &[V4],             operation: "send",    connects_before: false },
    Way { kind: "udp6-sendto4",  forms: &[V4],             operation: "send",    connects_before: false },
    Way { kind: "udp6-connect4", forms: &[V4],             operation: "connect", connects_before: false },
];

/// A pair of servers for each protocol and family.
struct Net {
    tcp4: Pair,
    tcp6: Pair,
    udp4: Pair,
    udp6: Pair,
}

impl Net {
    fn new() -> Self {
        Self { tcp4: Pair::v4("tcp"), tcp6: Pair::v6("tcp"), udp4: Pair::v4("udp"), udp6: Pair::v6("udp") }
    }

    fn pairs(&self) -> [&Pair; 4] {
        [&self.tcp4, &self.tcp6, &self.udp4, &self.udp6]
    }

    fn pair(&self, kind: &str, form: Form) -> &Pair {
        match (kind.starts_with("tcp"), form) {
            (true, V4 | Mapped) => &self.tcp4,
            (true, V6) => &self.tcp6,
            (false, V4 | Mapped) => &self.udp4,
            (false, V6) => &self.udp6,
        }
    }

    fn envelope(&self, agent: &str) -> Envelope {
        let rules = ["tcp4", "tcp6", "udp4", "udp6"].into_iter().zip(self.pairs());
        rules.fold(Envelope::of(agent), |envelope, (rule, pair)| envelope.allow_server(rule, &pair.allowed))
    }

    /// The specifications of a way's attempts: one with an allowed destination, one with a refused.
    fn specs(&self, way: &Way, form: Form) -> [String; 2] {
        let pair = self.pair(way.kind, form);
        let before = match way.connects_before {
            true => format!("/{}", write(pair.allowed.address(), form)),
            false => String::new(),
        };
        [&pair.allowed, &pair.refused]
            .map(|server| format!("{}{before}/{}", way.kind, write(server.address(), form)))
    }

    /// All labels with this magic that reached the allowed servers, and those that reached the others.
    fn received(&self, magic: &str) -> [Vec<String>; 2] {
        let collect = |server: fn(&Pair) -> &Server| {
            let mut labels: Vec<String> =
                self.pairs().into_iter().flat_map(|pair| server(pair).received(magic)).collect();
            labels.sort();
            labels
        };
        [collect(|pair| &pair.allowed), collect(|pair| &pair.refused)]
    }
}

fn write(address: SocketAddr, form: Form) -> String {
    match (form, address) {
        (Mapped, SocketAddr::V4(v4)) => format!("[::ffff:{}]:{}", v4.ip(), v4.port()),
        _ => address.to_string(),
    }
}

#[test]
fn destinations_outside_the_envelope_are_refused_however_they_are_named() {
    let net = Net::new();
    let (mut allowed, mut refused, mut denies) = (vec![], vec![], vec![]);
    for way in WAYS {
        for form in way.forms {
            let [inside, outside] = net.specs(way, *form);
            allowed.push(inside);
            refused.push(outside);
            denies.push(Refusal {
                operation: way.operation.into(),
                protocol: way.kind[..3].into(),
                // An IPv4-mapped destination is recorded as what it is.
                destination: net.pair(way.kind, *form).refused.address().to_string(),
                reason: "no-rule".into(),
                rule: None,
            });
        }
    }
    allowed.sort();
    refused.sort();
    let specs = [allowed.clone(), refused.clone()].concat();
    let run_free = |phase: &str| {
        let magic = unique(phase);
        let tried = attempts(&run_outside(&probe(&[&["net".into(), magic.clone()], &specs[..]].concat())));
        tried.iter().for_each(|attempt| assert!(attempt.succeeded(), "{phase}: {}", attempt.label));
        assert_eq!(net.received(&magic), [allowed.clone(), refused.clone()], "{phase}");
    };
    run_free("control");

    let mut daemon = Daemon::start();
    let magic = unique("enrolled");
    let command = probe(&[&["net".into(), magic.clone()], &specs[..]].concat());
    let process = daemon.run(&net.envelope("ways"), &command);
    let pid = process.pid();
    for attempt in attempts(&process.finish(LOAD_DEADLINE).success()) {
        assert_eq!(attempt.succeeded(), allowed.contains(&attempt.label), "{}", attempt.label);
    }
    assert_eq!(net.received(&magic), [allowed.clone(), vec![]]);
    for event in daemon.expect_denies("ways", denies) {
        assert!(event.is_refused());
        assert_eq!(event.pid(), Some(pid));
        assert_eq!(event.text("/process/comm"), "probe");
        assert_eq!(event.lineage(), [pid]);
        assert_eq!(event.text("/session/owner"), Envelope::OWNER);
    }
    // Nothing outside the session is concerned, neither while there is a daemon nor afterwards.
    run_free("beside");
    daemon.teardown();
    run_free("released");
}

#[test]
fn each_datagram_of_one_call_is_judged() {
    let pair = Pair::v4("udp");
    let [inside, outside] = pair.arguments();
    let spec = format!("udp-sendmmsg/{inside}/{outside}/{inside}/{outside}/{outside}/{inside}");
    let [to_allowed, to_refused] = [&inside, &outside].map(|address| format!("udp-sendmmsg/{address}"));

    let magic = unique("control");
    attempts(&run_outside(&probe(&["net", &magic, &spec]))).iter().for_each(|a| assert!(a.succeeded()));
    assert_eq!(pair.refused.received(&magic), vec![to_refused.clone(); 3]);

    let daemon = Daemon::start();
    let magic = unique("enrolled");
    let envelope = Envelope::of("mmsg").allow_server("only", &pair.allowed);
    let lines = daemon.run(&envelope, &probe(&["net", &magic, &spec])).finish(LOAD_DEADLINE).success();
    let tried: Vec<bool> = attempts(&lines).iter().map(|attempt| attempt.succeeded()).collect();
    assert_eq!(tried, [true, false, true, false, false, true]);
    assert_eq!(pair.allowed.received(&magic), vec![to_allowed; 3]);
    assert_eq!(pair.refused.received(&magic), [""; 0]);
    // A call that has sent something stops at a refusal without telling; the probe then tries that datagram again, first
    // in a call of its own. So the two that follow a sent one are refused twice.
    daemon.expect_denies("mmsg", vec![refusal("send", "udp", &outside, "no-rule", None); 5]);
}

/// `0.0.0.0` on TCP and `::` mean loopback; a rule for that is a rule for them. On UDP the kernel may take `0.0.0.0` for another
/// address of this host, so there it is refused.
#[test]
fn unspecified_address_is_loopback_where_that_is_certain() {
    for protocol in ["tcp", "udp"] {
        // The servers listen on the loopback addresses proper; the probe never names them.
        let servers = ["127.0.0.1", "127.0.0.1", "::1", "::1"].map(|ip| Server::start(protocol, ip));
        let [v4_in, v4_out, v6_in, v6_out] = servers.each_ref().map(|server| server.address().port());
        let kinds: &[&str] = if protocol == "tcp" { &["tcp"] } else { &["udp-connect", "udp-sendto"] };
        let specs = |hosts: &[(&str, u16)]| {
            let hosts = hosts.iter().map(|(host, port)| format!("{host}:{port}"));
            hosts.flat_map(|host| kinds.iter().map(move |kind| format!("{kind}/{host}"))).collect::<Vec<_>>()
        };
        let v4 = |port| [("0.0.0.0", port), ("[::ffff:0.0.0.0]", port)];
        let certain = if protocol == "tcp" { specs(&v4(v4_in)) } else { Vec::new() };
        let uncertain = if protocol == "tcp" { Vec::new() } else { specs(&v4(v4_in)) };
        let allowed = [certain, specs(&[("[::]", v6_in)])].concat();
        let refused = [uncertain, specs(&v4(v4_out)), specs(&[("[::]", v6_out)])].concat();
        let command =
            |phase: &str| probe(&[&["net".into(), unique(phase)], &allowed[..], &refused[..]].concat());
        for attempt in attempts(&run_outside(&command("control"))) {
            assert!(attempt.succeeded(), "{}", attempt.label);
        }

        let daemon = Daemon::start();
        // `::` may turn out to be either loopback address, so both must be allowed.
        let envelope = Envelope::of("alias")
            .allow("v4", "127.0.0.1/32", &format!("[{v4_in}, {v6_in}]"), protocol)
            .allow("v6", "::1/128", &format!("[{v6_in}, {v6_out}]"), protocol);
        let lines = daemon.run(&envelope, &command("enrolled")).finish(LOAD_DEADLINE).success();
        for attempt in attempts(&lines) {
            assert_eq!(attempt.succeeded(), allowed.contains(&attempt.label), "{}", attempt.label);
        }
        let denies = daemon.wait_for_events(refused.len(), "the denies", |e| e.is_of("alias") && e.is_deny());
        assert_eq!(denies.len(), refused.len());
    }
}

/// The kernel sends `0.0.0.0` to whatever the socket's source is. So a rule for 127.0.0.1 must not become one for every address
/// of this host.
#[test]
fn unspecified_address_does_not_reach_the_sources_address() {
    const PROBE: &str = r#"
import ctypes, errno, socket, struct, sys
tcp, udp, loopback = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def attempt(name, body):
    try:
        body()
        print(name, "ok")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
def stream(family=socket.AF_INET, source=None, to="0.0.0.0", port=tcp, device=None):
    def body():
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            if source:
                sock.bind((source, 0))
            sock.connect((to, port))
    return body
def datagram(source=None, connect=False, control=(), port=udp):
    def body():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            if source:
                sock.bind((source, 0))
            if connect:
                sock.connect(("0.0.0.0", port))
                sock.send(b"x")
            else:
                sock.sendmsg([b"x"], control, 0, ("0.0.0.0", port))
    return body
pktinfo = [(socket.IPPROTO_IP, 8, struct.pack("=i4s4s", 0, socket.inet_aton("127.0.0.2"), bytes(4)))]
attempt("loopback", stream(port=loopback))
attempt("bound", stream(source="127.0.0.2"))
attempt("bound-mapped", stream(socket.AF_INET6, "::ffff:127.0.0.2", "::ffff:0.0.0.0"))
attempt("udp-bound", datagram("127.0.0.2"))
attempt("udp-bound-connected", datagram("127.0.0.2", connect=True))
attempt("udp-pktinfo", datagram(control=pktinfo))
attempt("device", stream(port=loopback, device=b"lo"))
"#;
    // Nobody listens on 127.0.0.1 at these ports, so whoever is reached was reached through the source.
    let (tcp, udp) = (Server::start("tcp", "127.0.0.2"), Server::start("udp", "127.0.0.2"));
    let loopback = Server::start("tcp", "127.0.0.1");
    let ports = [&tcp, &udp, &loopback].map(|server| server.address().port().to_string());
    let command: Vec<String> = [&["python3".into(), "-c".into(), PROBE.into()], &ports[..]].concat();
    let shapes =
        ["loopback", "bound", "bound-mapped", "udp-bound", "udp-bound-connected", "udp-pktinfo", "device"];
    let all_ok: Vec<String> = shapes.iter().map(|shape| format!("{shape} ok")).collect();
    assert_eq!(run_outside(&command), all_ok, "control");
    let arrivals = tcp.arrivals();

    let daemon = Daemon::start();
    let envelope = Envelope::of("source").allow("local", "127.0.0.1/32", "any", "any");
    let lines = daemon.run(&envelope, &command).finish(LOAD_DEADLINE).success();
    let expected: Vec<String> = shapes
        .iter()
        .map(|shape| format!("{shape} {}", if *shape == "loopback" { "ok" } else { "EPERM" }))
        .collect();
    assert_eq!(lines, expected);
    assert_eq!(tcp.arrivals(), arrivals);
    daemon.wait_for_events(shapes.len() - 1, "the denies", |event| event.is_of("source") && event.is_deny());
}

#[test]
fn other_kinds_of_socket_are_refused_at_socket() {
    const KINDS: &[&str] = &[
        "raw4",
        "raw6",
        "raw-udp4",
        "raw-icmp4",
        "raw-icmp6",
        "ping4",
        "ping6",
        "mptcp4",
        "mptcp6",
        "sctp4",
        "sctp4-seqpacket",
        "sctp6",
        "udplite4",
        "udplite6",
        "dccp4",
        "l2tp4",
        "tcp4",
        "tcp6",
        "udp4",
        "udp6",
    ];
    /// What a kernel may be built without, or have as a module that is not there.
    const MODULES: &[&str] = &["dccp", "l2tp", "mptcp", "sctp"];
    const ALLOWED: &[&str] = &["socket/tcp4", "socket/tcp6", "socket/udp4", "socket/udp6"];
    let specs: Vec<String> = KINDS.iter().map(|kind| format!("socket/{kind}")).collect();
    // A session has no capability for raw sockets, but for those of a network namespace of its own. Ping sockets are for the groups
    // that a network namespace says.
    let allow_ping = "echo 0 0 > /proc/sys/net/ipv4/ping_group_range; exec \"$@\"";
    let mut command: Vec<String> =
        ["unshare", "-rn", "sh", "-c", allow_ping, "sh"].map(str::to_owned).to_vec();
    command.extend(probe(&[&["net".into(), unique("kinds")], &specs[..]].concat()));
    let outside = attempts(&run_outside(&command));

    let daemon = Daemon::start();
    let inside = attempts(&daemon.run(&Envelope::of("kinds"), &command).finish(LOAD_DEADLINE).success());
    let mut refused = 0;
    for (outside, inside) in outside.iter().zip(&inside) {
        assert_eq!(outside.label, inside.label);
        let expected = match outside.errno {
            0 if ALLOWED.contains(&outside.label.as_str()) => 0,
            0 => libc::EPERM,
            errno => {
                let kind = outside.label.trim_start_matches("socket/");
                assert!(MODULES.iter().any(|module| kind.starts_with(module)), "{kind}: error {errno}");
                integration::say(&format!("skip: {kind} sockets: this kernel has none (error {errno})"));
                errno
            }
        };
        assert_eq!(inside.errno, expected, "{}", outside.label);
        refused += usize::from(expected == libc::EPERM);
    }
    assert!(refused >= 7, "raw and ping sockets are on every kernel");
    let events = daemon.wait_for_events(refused, "the denies", |e| e.is_of("kinds") && e.is_deny());
    assert_eq!(events.len(), refused);
    for event in events {
        let decision = event.decision();
        assert_eq!(
            [&decision.operation, &decision.reason, &decision.destination],
            ["socket", "socket-type", ""]
        );
        assert!(event.is_refused());
    }
}

fn refusal(operation: &str, protocol: &str, to: &str, reason: &str, rule: Option<&str>) -> Refusal {
    let [operation, protocol, destination, reason] = [operation, protocol, to, reason].map(str::to_owned);
    Refusal { operation, protocol, destination, reason, rule: rule.map(str::to_owned) }
}
