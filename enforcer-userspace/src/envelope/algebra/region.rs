//! Sets of destinations: ranges of addresses times ranges of ports, and how they are written.

use std::fmt;

use enforcer_common::net::{Address, Destination, Family, Protocol};
use enforcer_common::rules::selector;

use super::super::{PortRange, Prefix};

/// The IPv4-mapped addresses, which are IPv4 and no addresses of IPv6.
const MAPPED: (u128, u128) = (0xffff << 32, (0xffff << 32) | 0xffff_ffff);

/// Addresses of one family as numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(super) family: Family,
    pub(super) first: u128,
    pub(super) last: u128,
}

impl Range {
    pub(super) fn of(prefix: Prefix) -> Self {
        let (family, first) = number(prefix.address());
        let hosts = u128::MAX.checked_shr(128 - u32::from(family.bits() - prefix.bits())).unwrap_or(0);
        Self { family, first, last: first | hosts }
    }

    /// The first address; `None` if all are IPv4-mapped.
    pub(super) fn first_address(&self) -> Option<Address> {
        let mapped = self.family == Family::V6 && self.first == MAPPED.0;
        let first = if mapped { MAPPED.1 + 1 } else { self.first };
        (first <= self.last).then(|| address(self.family, first))
    }

    /// The last one.
    #[cfg(test)]
    pub(super) fn last_address(&self) -> Option<Address> {
        let mapped = self.family == Family::V6 && self.last == MAPPED.1;
        let last = if mapped { MAPPED.0 - 1 } else { self.last };
        (self.first <= last).then(|| address(self.family, last))
    }

    /// The first address that is not `0.0.0.0` or `::`, which stand for another one.
    fn first_specified(&self) -> Option<Address> {
        Self { first: self.first.max(1), ..*self }.first_address().filter(|_| self.last > 0)
    }

    #[cfg(test)]
    fn holds(&self, address: Address) -> bool {
        let (family, number) = number(address);
        family == self.family && (self.first..=self.last).contains(&number)
    }

    /// The fewest prefixes that make up the range.
    fn prefixes(self) -> impl Iterator<Item = Prefix> {
        let width = u32::from(self.family.bits());
        let mut at = Some(self.first).filter(|first| *first <= self.last);
        let next = move || {
            let first = at?;
            let aligned = first.trailing_zeros().min(width);
            let fits = (self.last - first).checked_add(1).map_or(width, u128::ilog2);
            let host_bits = aligned.min(fits);
            let last = first | 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
            at = last.checked_add(1).filter(|next| *next <= self.last);
            Some((first, last, u8::try_from(width - host_bits).ok()?))
        };
        std::iter::from_fn(next)
            .filter(move |(first, last, _)| {
                self.family == Family::V4 || *first < MAPPED.0 || *last > MAPPED.1
            })
            .filter_map(move |(first, _, bits)| Prefix::holding(address(self.family, first), bits))
    }
}

fn number(address: Address) -> (Family, u128) {
    let number = u128::from_be_bytes(address.octets());
    (address.family(), number >> (128 - u32::from(address.family().bits())))
}

fn address(family: Family, number: u128) -> Address {
    let octets = number.to_be_bytes();
    match family {
        Family::V4 => Address::v4([octets[12], octets[13], octets[14], octets[15]]),
        Family::V6 => Address::v6(octets),
    }
}

/// Some protocols with some ports; none if it is ICMP alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Service {
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) ports: Vec<PortRange>,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocols: Vec<_> = self.protocols.iter().map(|protocol| protocol.name()).collect();
        f.write_str(&protocols.join("+"))?;
        let ports: Vec<_> = self.ports.iter().map(ToString::to_string).collect();
        if ports.is_empty() { Ok(()) } else { write!(f, " {}", ports.join(",")) }
    }
}

/// Ranges of selectors (`enforcer_common::rules::selector`), in order, without overlap, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Selectors(pub(super) Vec<(u32, u32)>);

impl Selectors {
    /// Adds a range behind all others.
    pub(super) fn push(&mut self, first: u32, last: u32) {
        match self.0.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.0.push((first, last)),
        }
    }

    #[cfg(test)]
    pub(super) fn holds(&self, selector: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= selector);
        after.checked_sub(1).is_some_and(|index| self.0[index].1 >= selector)
    }

    /// The ports of a protocol; 0 for one without ports.
    fn ports(&self, protocol: Protocol) -> impl Iterator<Item = (u16, u16)> {
        let (least, most) = (selector(protocol, 0), selector(protocol, u16::MAX));
        let ours = self.0.iter().filter(move |(first, last)| *first <= most && *last >= least);
        ours.map(move |(first, last)| {
            // The low half of a selector is the port.
            ((*first.max(&least) & 0xffff) as u16, (*last.min(&most) & 0xffff) as u16)
        })
    }

    /// In as few parts as the protocols' ports differ. Port 0 is left out where there are others beside it: it is let
    /// through where every port is, and nothing listens there.
    pub(super) fn services(&self) -> Vec<Service> {
        let ports = |protocol| -> Vec<PortRange> {
            let mut ports: Vec<_> =
                self.ports(protocol).map(|(first, last)| PortRange { first: first.max(1), last }).collect();
            if ports.first().is_some_and(|ports| ports.last == 0) {
                ports.remove(0);
                if ports.is_empty() {
                    ports.push(PortRange { first: 0, last: 0 });
                }
            }
            ports
        };
        let (tcp, udp) = (ports(Protocol::Tcp), ports(Protocol::Udp));
        let icmp = self.ports(Protocol::Icmp).next().is_some();
        let mut services = Vec::new();
        if tcp == udp {
            let any = tcp == [PortRange::ANY];
            let mut protocols = if icmp && any { vec![Protocol::Icmp] } else { Vec::new() };
            protocols.extend([Protocol::Tcp, Protocol::Udp]);
            services.push(Service { protocols, ports: tcp });
            if icmp && !any {
                services.push(Service { protocols: vec![Protocol::Icmp], ports: Vec::new() });
            }
            services.retain(|service| !service.ports.is_empty() || service.protocols.len() == 1);
            return services;
        }
        for (protocol, ports) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
            if !ports.is_empty() {
                services.push(Service { protocols: vec![protocol], ports });
            }
        }
        if icmp {
            services.push(Service { protocols: vec![Protocol::Icmp], ports: Vec::new() });
        }
        services
    }
}

/// Every destination with one of these addresses, and one of these protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// In order; no two touch.
    pub(super) ranges: Vec<Range>,
    pub(super) selectors: Selectors,
}

impl Region {
    /// `None` if no address is left that is not `0.0.0.0` or `::`: what holds there follows from what holds elsewhere.
    pub(super) fn new(mut ranges: Vec<Range>, selectors: Selectors) -> Option<Self> {
        ranges.sort_unstable();
        let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last)
                    if last.family == range.family && last.last.checked_add(1) == Some(range.first) =>
                {
                    last.last = range.last;
                }
                _ => joined.push(range),
            }
        }
        joined.retain(|range| range.first_specified().is_some());
        (!joined.is_empty()).then_some(Self { ranges: joined, selectors })
    }

    /// The protocols and ports.
    pub(crate) fn services(&self) -> Vec<Service> {
        self.selectors.services()
    }

    /// The addresses, as few prefixes as there can be.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.ranges.iter().flat_map(|range| range.prefixes())
    }

    /// One of the destinations, by TCP if possible, and not to port 0 if possible.
    pub(crate) fn example(&self) -> Option<Destination> {
        let address = self.ranges.first()?.first_specified()?;
        let choices = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].into_iter().flat_map(|protocol| {
            self.selectors.ports(protocol).map(move |(first, last)| Destination {
                protocol,
                address,
                port: if protocol.has_ports() { first.max(1).min(last) } else { 0 },
            })
        });
        choices.min_by_key(|choice| choice.protocol.has_ports() && choice.port == 0)
    }

    #[cfg(test)]
    pub(super) fn holds(&self, destination: &Destination) -> bool {
        let after =
            self.ranges.partition_point(|range| (range.family, range.first) <= number(destination.address));
        after.checked_sub(1).is_some_and(|index| self.ranges[index].holds(destination.address))
            && self.selectors.holds(selector(destination.protocol, destination.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> Range {
        let at = |text: &str| number(text.parse::<std::net::IpAddr>().unwrap().into());
        let ((family, first), (_, last)) = (at(first), at(last));
        Range { family, first, last }
    }

    fn prefixes(first: &str, last: &str) -> Vec<String> {
        range(first, last).prefixes().map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn ranges_are_made_of_the_fewest_prefixes() {
        assert_eq!(prefixes("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(prefixes("10.0.0.1", "10.0.0.4"), ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]);
        assert_eq!(prefixes("255.255.255.255", "255.255.255.255"), ["255.255.255.255/32"]);
        assert_eq!(prefixes("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["::/0"]);
        assert_eq!(prefixes("8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["8000::/1"]);
    }

    #[test]
    fn mapped_addresses_are_none_of_ipv6() {
        let around = Range { family: Family::V6, first: MAPPED.0 - 1, last: MAPPED.1 + 1 };
        let written: Vec<_> = around.prefixes().map(|prefix| prefix.to_string()).collect();
        assert_eq!(written, ["::fffe:ffff:ffff/128", "::1:0:0:0/128"]);
        let mapped = Range { family: Family::V6, first: MAPPED.0, last: MAPPED.1 };
        assert_eq!((mapped.first_address(), mapped.last_address()), (None, None));
        let whole = Range::of(Prefix::parse("::/80").unwrap());
        assert_eq!(whole.last_address().unwrap().family(), Family::V6);
    }

    #[test]
    fn services_join_protocols_with_the_same_ports() {
        let written = |ranges: &[(Protocol, u16, u16)]| {
            let mut selectors = Selectors::default();
            for (protocol, first, last) in ranges {
                selectors.push(selector(*protocol, *first), selector(*protocol, *last));
            }
            let services: Vec<_> = selectors.services().iter().map(ToString::to_string).collect();
            services.join("; ")
        };
        let [icmp, tcp, udp] = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp];
        assert_eq!(written(&[(icmp, 0, 0), (tcp, 0, 65535), (udp, 0, 65535)]), "icmp+tcp+udp any");
        assert_eq!(written(&[(icmp, 0, 0), (tcp, 5, 7)]), "tcp 5-7; icmp");
        assert_eq!(written(&[(tcp, 5, 7), (tcp, 9, 9), (udp, 5, 7), (udp, 9, 9)]), "tcp+udp 5-7,9");
        assert_eq!(written(&[(tcp, 0, 0)]), "tcp 0");
        assert_eq!(written(&[(tcp, 0, 0), (tcp, 8, 9)]), "tcp 8-9");
        assert_eq!(written(&[(icmp, 0, 0)]), "icmp");
    }
}
