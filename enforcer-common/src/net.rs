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
///
/// As numbers, and not as octets: of sixteen octets, a kernel program would keep each in eight bytes of its 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    family: Family,
    /// The first half of an IPv6 address; 0 for IPv4.
    high: u64,
    /// The second half; an IPv4 address is a number of 32 bits.
    low: u64,
}

impl Address {
    /// 127.0.0.1.
    pub const LOOPBACK_V4: Self = Self::v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self { family: Family::V6, high: 0, low: 1 };

    /// 0.0.0.0, which no packet comes from.
    pub const UNSPECIFIED_V4: Self = Self::v4([0; 4]);
    /// `::`, likewise.
    pub const UNSPECIFIED_V6: Self = Self { family: Family::V6, high: 0, low: 0 };

    /// The IPv4 address with these octets.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self { family: Family::V4, high: 0, low: u32::from_be_bytes(octets) as u64 }
    }

    /// The address with these octets: IPv4 if it is IPv4-mapped (`::ffff:a.b.c.d`), else IPv6.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self::canonical(
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        )
    }

    /// As [`Self::v6`], from the four words that hold the octets as they stand in memory.
    #[inline(always)]
    pub const fn v6_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        Self::canonical(
            (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64,
            (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64,
        )
    }

    #[inline(always)]
    const fn canonical(high: u64, low: u64) -> Self {
        const MAPPED: u64 = 0xffff;
        if high == 0 && low >> 32 == MAPPED {
            Self { family: Family::V4, high: 0, low: low as u32 as u64 }
        } else {
            Self { family: Family::V6, high, low }
        }
    }

    /// The family.
    pub const fn family(self) -> Family {
        self.family
    }

    /// As a number: the first half of an IPv6 address, 0 for IPv4.
    pub const fn high(self) -> u64 {
        self.high
    }

    /// The second half; all of an IPv4 address.
    pub const fn low(self) -> u64 {
        self.low
    }

    /// The octets, network order; IPv4 in the first four.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let (first, second) = match self.family {
            Family::V4 => (self.low << 32, 0),
            Family::V6 => (self.high, self.low),
        };
        let [a, b, c, d, e, f, g, h] = first.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = second.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// `0.0.0.0` or `::`, which the kernel takes for "this host".
    pub const fn is_unspecified(self) -> bool {
        self.high | self.low == 0
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
        match (address.family, address.octets()) {
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
