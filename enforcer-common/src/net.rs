//! Addresses, ports and protocols that know their byte order and their canonical form.

use crate::wire_enum;

wire_enum! {
    /// A protocol that an envelope can speak of, by its IP protocol number.
    pub enum Protocol: u8 = "protocol" {
        /// ICMP and ICMPv6. It has no ports.
        Icmp = 1 => "icmp",
        /// TCP.
        Tcp = 6 => "tcp",
        /// UDP.
        Udp = 17 => "udp",
    }
}

impl Protocol {
    /// The protocol with this number in an IP header or in `socket()`.
    #[inline(always)]
    pub fn of_ip(number: u32) -> Option<Self> {
        const ICMPV6: u32 = 58;
        match number {
            ICMPV6 => Some(Self::Icmp),
            number => Self::try_from(u8::try_from(number).ok()?).ok(),
        }
    }

    /// Whether destinations have ports.
    pub const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp)
    }
}

wire_enum! {
    /// Which way a packet goes, or who begins a connection.
    pub enum Direction: u8 = "direction" {
        /// From this host.
        Out = 1 => "out",
        /// To this host.
        In = 2 => "in",
    }
}

wire_enum! {
    /// An address family in a rule key. Not `AF_INET` and `AF_INET6`: this is our own map key.
    pub enum Family: u8 = "address family" {
        /// IPv4, including IPv4-mapped IPv6.
        V4 = 4 => "ipv4",
        /// IPv6.
        V6 = 6 => "ipv6",
    }
}

impl Family {
    /// The number of bits in an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// An IP address in canonical form: an IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    family: Family,
    /// Network byte order; an IPv4 address stands in the first four bytes, the rest is zero.
    octets: [u8; 16],
}

impl Address {
    /// 127.0.0.1.
    pub const LOOPBACK_V4: Self = Self::v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self =
        Self { family: Family::V6, octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

    /// 0.0.0.0, which no packet comes from.
    pub const UNSPECIFIED_V4: Self = Self::v4([0; 4]);
    /// `::`, likewise.
    pub const UNSPECIFIED_V6: Self = Self { family: Family::V6, octets: [0; 16] };

    /// The IPv4 address with these octets.
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { family: Family::V4, octets: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// The address with these octets: IPv4 if it is IPv4-mapped (`::ffff:a.b.c.d`), else IPv6.
    pub const fn v6(octets: [u8; 16]) -> Self {
        match octets {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Self::v4([a, b, c, d]),
            octets => Self { family: Family::V6, octets },
        }
    }

    /// As [`Self::v6`], from the four words that hold the octets as they stand in memory.
    #[inline(always)]
    pub const fn v6_words(words: [u32; 4]) -> Self {
        let [w0, w1, w2, w3] = words;
        let ([a, b, c, d], [e, f, g, h]) = (w0.to_ne_bytes(), w1.to_ne_bytes());
        let ([i, j, k, l], [m, n, o, p]) = (w2.to_ne_bytes(), w3.to_ne_bytes());
        Self::v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// The family.
    pub const fn family(self) -> Family {
        self.family
    }

    /// The octets, network order; IPv4 in the first four.
    pub const fn octets(self) -> [u8; 16] {
        self.octets
    }

    /// `0.0.0.0` or `::`, which the kernel takes for "this host".
    pub const fn is_unspecified(self) -> bool {
        matches!(self.octets, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        match (address.family, address.octets) {
            (Family::V4, [a, b, c, d, ..]) => Self::from([a, b, c, d]),
            (Family::V6, octets) => Self::from(octets),
        }
    }
}

/// Where a packet is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address as the program named it, in canonical form.
    pub address: Address,
    /// The port, host byte order; 0 if the protocol has none.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn mapped_address_is_the_v4_address() {
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(Address::from(mapped), Address::v4([10, 1, 2, 3]));
        assert_eq!(IpAddr::from(Address::from(mapped)), IpAddr::from([10, 1, 2, 3]));
    }

    #[test]
    fn v4_compatible_and_nat64_addresses_stay_v6() {
        for text in ["::10.1.2.3", "64:ff9b::10.1.2.3", "::ffff:0:10.1.2.3"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).family(), Family::V6, "{text}");
        }
    }

    #[test]
    fn unspecified_is_recognised_in_each_form() {
        for text in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            let address: IpAddr = text.parse().unwrap();
            assert!(Address::from(address).is_unspecified(), "{text}");
        }
    }
}
