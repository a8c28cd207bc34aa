//! The kernel against the language: random envelopes, random destinations, and for each the verdict and the rule that the
//! language gives, worked out here rule by rule. Connecting a UDP socket sends nothing, so any address may be asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use integration::{DEADLINE, Daemon, LOAD_DEADLINE, fewer};

const ENVELOPES: usize = 10;
const RULES: u64 = 40;

/// Connects to every address on its standard input, and says of each whether it was refused. That there is no route is no
/// refusal: the decision comes first.
const PROBE: &str = r#"
import errno, socket, sys
for line in sys.stdin:
    host, port = line.split()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        print("refused" if sock.connect_ex((host, int(port))) == errno.EPERM else "passed")
"#;

struct Rule {
    name: String,
    deny: bool,
    /// Of a deny rule: its own mode.
    mode: Option<&'static str>,
    protocol: &'static str,
    to: Vec<(IpAddr, u32)>,
    ports: Vec<(u16, u16)>,
}

#[test]
fn kernel_agrees_with_the_language() {
    let seed = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    eprintln!("seed {seed}");
    let mut random = Random(seed | 1);
    let destinations_each = fewer(500, 50) as usize;
    let daemon = Daemon::start();
    let (mut denied, mut let_through) = (0, 0);
    for number in 0..ENVELOPES {
        let agent = format!("agent-{number}");
        let mode = if number % 5 == 4 { "audit" } else { "enforce" };
        let rules: Vec<Rule> = (0..RULES).map(|rule| random.rule(rule)).collect();
        let destinations: Vec<(IpAddr, u16)> =
            (0..destinations_each).map(|_| (random.address(), random.port())).collect();

        let envelope = daemon.layout().write_envelope(text(&agent, mode, &rules)).display().to_string();
        let input = daemon.layout().file(&format!("destinations-{number}"));
        let lines: String =
            destinations.iter().map(|(address, port)| format!("{address} {port}\n")).collect();
        std::fs::write(&input, lines).expect("the directory is ours");
        let script = format!("exec python3 -c '{PROBE}' < {}", input.display());
        let command = ["run", "--envelope", &envelope, "--", "sh", "-c", &script];
        let process = integration::Process::spawn(daemon.layout().command(&command));
        let answers = process.finish(LOAD_DEADLINE).success();

        let decided = daemon.wait_for_events(destinations_each, "all decisions", |event| {
            event.is_of(&agent) && event.kind() == "egress"
        });
        assert_eq!((answers.len(), decided.len()), (destinations_each, destinations_each));
        for ((destination, answer), event) in destinations.iter().zip(&answers).zip(&decided) {
            let (verdict, rule, refused) = model(mode, &rules, *destination);
            let what = format!("{destination:?} in envelope {number}, seed {seed}");
            assert_eq!(answer, if refused { "refused" } else { "passed" }, "{what}");
            assert_eq!(event.text("/verdict"), verdict, "{what}");
            assert_eq!(event.at("/refused"), refused, "{what}");
            assert_eq!(event.at("/rule").as_str(), rule, "{what}");
            assert_eq!(event.text("/destination/address"), destination.0.to_canonical().to_string());
            denied += usize::from(refused);
            let_through += usize::from(verdict == "deny" && !refused);
        }
    }
    let all = ENVELOPES * destinations_each;
    assert!(denied > all / 20 && denied < all * 19 / 20, "{denied} of {all} say little");
    assert!(let_through > all / 50, "{let_through} of {all} say little");
    integration::wait_until(DEADLINE, "all sessions have ended", || {
        (daemon.status()["sessions"] == 0).then_some(())
    });
}

/// The verdict, the rule that it names, and whether the connection is refused. A deny rule that is enforced beats every
/// other; one that is audited is named before an allow rule, and takes nothing away. Of several, the longest prefix
/// decides, and then the order.
fn model<'r>(
    mode: &str,
    rules: &'r [Rule],
    (address, port): (IpAddr, u16),
) -> (&'static str, Option<&'r str>, bool) {
    let best = |deny: Option<&str>| {
        let mut best: Option<(u32, &Rule)> = None;
        let kind = |rule: &Rule| rule.deny.then(|| rule.mode.unwrap_or(mode));
        for rule in rules.iter().filter(|rule| kind(rule) == deny && rule.protocol != "tcp") {
            let ports = rule.ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
            let longest = rule.to.iter().filter_map(|prefix| held_by(*prefix, address)).max();
            if let (true, Some(bits)) = (ports, longest)
                && best.is_none_or(|(known, _)| bits > known)
            {
                best = Some((bits, rule));
            }
        }
        best.map(|(_, rule)| rule.name.as_str())
    };
    match (best(Some("enforce")), best(Some("audit")), best(None)) {
        (Some(rule), ..) => ("deny", Some(rule), true),
        (None, Some(rule), allow) => ("deny", Some(rule), allow.is_none() && mode == "enforce"),
        (None, None, Some(rule)) => ("allow", Some(rule), false),
        (None, None, None) => ("deny", None, mode == "enforce"),
    }
}

/// The prefix length, if the prefix holds the address; an IPv4-mapped address is the IPv4 address.
fn held_by((prefix, bits): (IpAddr, u32), address: IpAddr) -> Option<u32> {
    let same = match (prefix, address.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        _ => false,
    };
    same.then_some(bits)
}

fn text(agent: &str, mode: &str, rules: &[Rule]) -> String {
    let list = |deny: bool| {
        let rules = rules.iter().filter(|rule| rule.deny == deny).map(|rule| {
            let to: Vec<String> = rule.to.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
            let ports: Vec<String> = rule.ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
            format!(
                "    - {{name: {}, to: ['{}'], ports: ['{}'], protocol: {}{}}}\n",
                rule.name,
                to.join("', '"),
                ports.join("', '"),
                rule.protocol,
                rule.mode.map(|mode| format!(", mode: {mode}")).unwrap_or_default()
            )
        });
        rules.collect::<String>()
    };
    let (allow, deny) = (list(false), list(true));
    format!(
        "apiVersion: enforcer/v1
kind: Envelope
metadata: {{name: {agent}, owner: alice@example.com, operator: tests, purpose: agreement, model: none}}
spec:
  ttl: 10m
  mode: {mode}
  egress:
{allow}  deny:
{deny}"
    )
}

/// xorshift64*: these are test data, and a seed must give the same ones again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    /// Few of them, so that prefixes nest and destinations meet them: documentation and loopback addresses.
    fn address(&mut self) -> IpAddr {
        let host = [0, 1, 2, 127, 128, 255][self.below(6) as usize];
        match self.below(4) {
            0 => Ipv4Addr::new(198, 51, 100, host).into(),
            1 => Ipv4Addr::new(127, 0, [0, 1][self.below(2) as usize], host).into(),
            2 => Ipv4Addr::new(198, 51, 100, host).to_ipv6_mapped().into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0, self.below(2) as u16, 0, 0, 0, u16::from(host)).into(),
        }
    }

    fn port(&mut self) -> u16 {
        [1, 2, 79, 80, 81, 443, 1023, 1024, 32_767, 32_768, 65_534, 65_535][self.below(12) as usize]
    }

    fn rule(&mut self, number: u64) -> Rule {
        let to = (0..=self.below(2)).map(|_| {
            let address = self.address().to_canonical();
            let (most, within) = if address.is_ipv4() { (32, 17) } else { (128, 81) };
            let bits = most - self.below(within) as u32;
            let network = match address {
                IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & (!0u32).unbounded_shl(32 - bits)).into(),
                IpAddr::V6(v6) => {
                    Ipv6Addr::from_bits(v6.to_bits() & (!0u128).unbounded_shl(128 - bits)).into()
                }
            };
            (network, bits)
        });
        let to = to.collect();
        let ports = (0..=self.below(3)).map(|_| {
            let (a, b) = (self.port(), self.port());
            (a.min(b), a.max(b))
        });
        let ports = ports.collect();
        let deny = self.below(3) == 0;
        Rule {
            name: format!("r{number}"),
            to,
            ports,
            deny,
            mode: [None, Some("audit"), Some("enforce")][self.below(3) as usize].filter(|_| deny),
            protocol: ["udp", "udp", "any", "tcp"][self.below(4) as usize],
        }
    }
}
