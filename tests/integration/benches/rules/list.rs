//! Rules at random, the same in every run: as a list of networks comes out that people and providers keep. Many single
//! addresses, networks of many lengths, some inside others, a quarter IPv6.

use std::{
    collections::HashSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Prefix lengths of IPv4, and how many in a thousand.
const V4_LENGTHS: [(u8, u32); 10] =
    [(32, 550), (24, 250), (28, 50), (23, 35), (22, 30), (27, 25), (26, 20), (25, 20), (20, 15), (16, 5)];
/// And of IPv6.
const V6_LENGTHS: [(u8, u32); 6] = [(128, 350), (64, 350), (48, 200), (56, 50), (96, 30), (32, 20)];
/// What the rules allow besides port 443.
const PORTS: [&str; 4] = ["443", "443", "[80,443]", "any"];

/// Rules for distinct networks; each has port 443 of UDP in it.
pub(crate) struct RuleList {
    networks: Vec<Network>,
    random: Random,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Network {
    v6: bool,
    /// IPv4: in the high 32 bits.
    first: u128,
    bits: u8,
}

impl RuleList {
    pub(crate) fn new(count: usize) -> Self {
        let mut random = Random(count as u64);
        let mut networks: Vec<Network> = Vec::with_capacity(count);
        let mut known = HashSet::with_capacity(count);
        while networks.len() < count {
            let v6 = random.below(4) == 0;
            let bits = if v6 { pick(&V6_LENGTHS, &mut random) } else { pick(&V4_LENGTHS, &mut random) };
            // A fifth lie in a network that is there already.
            let around = random.below(5) == 0;
            let around = around.then(|| networks.get(random.below(networks.len().max(1)))).flatten();
            let address = match around {
                Some(around) if around.v6 == v6 && around.bits < bits => around.any_address(&mut random),
                _ => random.address(v6),
            };
            let network = Network { v6, first: address & mask(bits), bits };
            if known.insert(network) {
                networks.push(network);
            }
        }
        Self { networks, random }
    }

    /// As an envelope. Short: it may have 64 MiB.
    pub(crate) fn envelope(&self, agent: &str) -> String {
        let mut text = format!(
            "apiVersion: enforcer/v1\nkind: Envelope\nmetadata: {{name: {agent}, owner: o, operator: o, purpose: p, model: m}}\n\
             spec:\n ttl: 1h\n egress:\n"
        );
        for (number, network) in self.networks.iter().enumerate() {
            let ports = PORTS[number % PORTS.len()];
            let Network { v6, first, bits } = *network;
            let (address, whole) = (address(v6, first), if v6 { 128 } else { 32 });
            let length = if bits == whole { String::new() } else { format!("/{bits}") };
            let quote = if v6 { "'" } else { "" };
            writeln!(
                text,
                " - {{name: {number:x},to: [{quote}{address}{length}{quote}],ports: {ports},protocol: udp}}"
            )
            .expect("a string takes everything");
        }
        text
    }

    /// So many addresses of each kind, one in a line after its kind: some rule holds them, or none if the kind begins with
    /// `refused`.
    pub(crate) fn addresses(mut self, kinds: &[(&str, usize)]) -> String {
        let known: HashSet<Network> = self.networks.iter().copied().collect();
        let lengths: HashSet<(bool, u8)> = known.iter().map(|network| (network.v6, network.bits)).collect();
        let is_held = |v6: bool, address: u128| {
            let mut lengths = lengths.iter().filter(|(family, _)| *family == v6);
            lengths
                .any(|(_, bits)| known.contains(&Network { v6, first: address & mask(*bits), bits: *bits }))
        };
        let mut text = String::new();
        let mut add = |kind: &str, v6: bool, first: u128| {
            writeln!(text, "{kind} {}", std::net::SocketAddr::new(address(v6, first), 443))
                .expect("a string takes everything");
        };
        for (kind, count) in kinds {
            for _ in 0..*count {
                let network = self.networks[self.random.below(self.networks.len())];
                if !kind.starts_with("refused") {
                    add(kind, network.v6, network.any_address(&mut self.random));
                    continue;
                }
                // Next to a network as often as anywhere, of the same families as what is allowed.
                let refused = loop {
                    let inside = network.any_address(&mut self.random);
                    let beside = inside ^ 1 << (128 - u32::from(network.bits)).min(127);
                    let anywhere = self.random.address(network.v6);
                    let address = if self.random.below(2) == 0 { beside } else { anywhere };
                    if is_ordinary(network.v6, address) && !is_held(network.v6, address) {
                        break address;
                    }
                };
                add(kind, network.v6, refused);
            }
        }
        text
    }
}

impl Network {
    fn any_address(self, random: &mut Random) -> u128 {
        let whole = if self.v6 { u128::MAX } else { mask(32) };
        self.first | (random.bits() & whole & !mask(self.bits))
    }
}

/// The first `bits` of 128 bits.
fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

fn address(v6: bool, address: u128) -> IpAddr {
    if v6 { Ipv6Addr::from(address).into() } else { Ipv4Addr::from((address >> 96) as u32).into() }
}

/// Whether it is one that a rule list would have, and no special case of the kernel's.
fn is_ordinary(v6: bool, first: u128) -> bool {
    match address(v6, first) {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 1..=126 | 128..=223),
        IpAddr::V6(v6) => v6.segments()[0] & 0xfff0 == 0x2000,
    }
}

fn pick(lengths: &[(u8, u32)], random: &mut Random) -> u8 {
    let mut at = random.below(1000) as u32;
    for (bits, weight) in lengths {
        match at.checked_sub(*weight) {
            None => return *bits,
            Some(rest) => at = rest,
        }
    }
    unreachable!("the weights add up to 1000")
}

/// SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// An ordinary one.
    fn address(&mut self, v6: bool) -> u128 {
        loop {
            let bits = self.bits();
            // As people number hosts: few bits after the network.
            let address = if v6 { 0x2 << 124 | (bits >> 8 & !(mask(48) >> 64)) } else { bits & mask(32) };
            if is_ordinary(v6, address) {
                return address;
            }
        }
    }
}
