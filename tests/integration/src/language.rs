//! The language of envelopes, worked out rule by rule, and random envelopes in it: what the kernel does is compared with this.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Connects to every address on its standard input, and says of each whether it was refused. That there is no route is no
/// refusal: the decision comes first.
pub const PROBE: &str = r#"
import errno, socket, sys
for line in sys.stdin:
    host, port = line.split()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        print("refused" if sock.connect_ex((host, int(port))) == errno.EPERM else "passed")
"#;

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub deny: bool,
    /// Of a deny rule: its own mode.
    pub mode: Option<&'static str>,
    pub protocol: &'static str,
    pub to: Vec<(IpAddr, u32)>,
    pub ports: Vec<(u16, u16)>,
}

/// The verdict, the rule that it names, and whether the connection is refused. A deny rule that is enforced beats every
/// other; one that is audited is named before an allow rule, and takes nothing away. Of several, the longest prefix
/// decides, and then the order.
pub fn model<'r>(
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

/// An envelope of these rules.
pub fn text(agent: &str, mode: &str, rules: &[Rule]) -> String {
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
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed that is printed.
    pub fn seeded() -> Self {
        let seed = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
        eprintln!("seed {seed}");
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    /// Few of them, so that prefixes nest and destinations meet them: documentation and loopback addresses.
    pub fn address(&mut self) -> IpAddr {
        let host = [0, 1, 2, 127, 128, 255][self.below(6) as usize];
        match self.below(4) {
            0 => Ipv4Addr::new(198, 51, 100, host).into(),
            1 => Ipv4Addr::new(127, 0, [0, 1][self.below(2) as usize], host).into(),
            2 => Ipv4Addr::new(198, 51, 100, host).to_ipv6_mapped().into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0, self.below(2) as u16, 0, 0, 0, u16::from(host)).into(),
        }
    }

    pub fn port(&mut self) -> u16 {
        [1, 2, 79, 80, 81, 443, 1023, 1024, 32_767, 32_768, 65_534, 65_535][self.below(12) as usize]
    }

    /// The rule of this number.
    pub fn rule(&mut self, number: u64) -> Rule {
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
