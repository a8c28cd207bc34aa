//! Address prefixes in canonical form.

use super::diagnostic::{Problem, quoted};
use super::parse::number;
use enforcer_common::net::{Address, Family};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// All addresses that share the first `bits` bits of `address`. The other bits are zero, and an IPv4-mapped prefix is the
/// IPv4 prefix, so two prefixes are the same set of addresses exactly if they are equal.
///
/// The order puts a prefix directly before everything it contains, which is what `compile` walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Prefix {
    address: Address,
    bits: u8,
}

impl Prefix {
    /// The prefix of this length that holds `address`; `None` if the family has fewer bits.
    pub(crate) fn holding(address: Address, bits: u8) -> Option<Self> {
        if bits > address.family().bits() {
            return None;
        }
        let masked = masked(address.octets(), bits);
        let address = match address.family() {
            Family::V4 => Address::v4([masked[0], masked[1], masked[2], masked[3]]),
            // Cannot turn into IPv4: a mapped address has bit 95 set, and one that keeps that bit was mapped before.
            Family::V6 => Address::v6(masked),
        };
        Some(Self { address, bits })
    }

    /// This address alone.
    pub(super) fn single(address: Address) -> Self {
        Self { address, bits: address.family().bits() }
    }

    /// The first address.
    pub(crate) fn address(self) -> Address {
        self.address
    }

    /// The prefix length in the address's own family.
    pub(crate) fn bits(self) -> u8 {
        self.bits
    }

    /// Whether every address of `other` is one of ours.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.bits <= other.bits && self.holds(other.address)
    }

    /// Whether `address` is one of ours.
    pub(crate) fn holds(self, address: Address) -> bool {
        self.address.family() == address.family()
            && masked(address.octets(), self.bits) == self.address.octets()
    }

    /// Reads a CIDR or a single address as it stands in an envelope.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let (address_text, bits_text) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(written) = address_text.parse::<IpAddr>() else {
            return Err(not_an_address(text, address_text));
        };
        let written_bits: u8 = if written.is_ipv4() { 32 } else { 128 };
        let bits = match bits_text {
            None => written_bits,
            Some(bits) => number(bits)
                .and_then(|bits| u8::try_from(bits).ok())
                .filter(|bits| *bits <= written_bits)
                .ok_or_else(|| {
                    Problem::new(format!("`{}` has no valid prefix length", quoted(text)))
                        .hint(format!("write a number from 0 to {written_bits} after the `/`"))
                })?,
        };
        let prefix = match written {
            IpAddr::V6(v6) => Self::from_v6(v6, bits, text)?,
            IpAddr::V4(_) => Self::canonical(written.into(), bits, text)?,
        };
        if prefix.address.is_unspecified() && prefix.bits == prefix.address.family().bits() {
            return Err(Problem::new(format!(
                "`{}` is the unspecified address, which the kernel takes to mean loopback",
                quoted(text)
            ))
            .hint(
                "write `127.0.0.1` and `::1` if loopback is meant, `0.0.0.0/0` or `::/0` if every address is",
            ));
        }
        Ok(prefix)
    }

    fn from_v6(written: Ipv6Addr, bits: u8, text: &str) -> Result<Self, Problem> {
        let Some(v4) = written.to_ipv4_mapped() else {
            return Self::canonical(IpAddr::V6(written).into(), bits, text);
        };
        let Some(v4_bits) = bits.checked_sub(96) else {
            // Zeroing the host bits would leave the IPv4-mapped range, which is hardly what was meant.
            let problem = Problem::new(format!(
                "`{}` is IPv4-mapped, so its prefix length must be at least 96",
                quoted(text)
            ));
            return Err(match Self::holding(Address::v4(v4.octets()), bits) {
                Some(prefix) => problem.hint(format!("did you mean the IPv4 prefix `{prefix}`?")),
                None => problem,
            });
        };
        Self::canonical(Address::v4(v4.octets()), v4_bits, text)
    }

    /// Refuses host bits: `10.0.0.1/8` may be a slip in the address as well as in the length.
    fn canonical(address: Address, bits: u8, text: &str) -> Result<Self, Problem> {
        match Self::holding(address, bits) {
            Some(prefix) if prefix.address == address => Ok(prefix),
            Some(prefix) => {
                let single = IpAddr::from(address);
                Err(Problem::new(format!("`{}` has bits set after its prefix", quoted(text)))
                    .hint(format!("write `{prefix}` for the network, `{single}` for the one address")))
            }
            None => Err(Problem::new(format!("`{}` has no valid prefix length", quoted(text)))),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", IpAddr::from(self.address), self.bits)
    }
}

fn not_an_address(text: &str, address: &str) -> Problem {
    let problem = Problem::new(format!("`{}` is not an IP address or CIDR", quoted(text)));
    let port =
        address.rsplit_once(':').filter(|(before, port)| !before.contains(':') && number(port).is_some());
    if text.contains("://") {
        problem.hint("write the host alone, without scheme, port and path")
    } else if port.is_some() {
        problem.hint("leave the port out: it stands in `ports`")
    } else if address.contains('%') {
        problem.hint("leave out the zone: rules speak of addresses, not of interfaces")
    } else if text.contains('/') && address.chars().any(|c| c.is_ascii_alphabetic()) && !address.contains(':')
    {
        problem.hint("a host name stands alone, without a prefix length")
    } else {
        problem.hint("write it like `203.0.113.0/24`, `203.0.113.7`, `2001:db8::/32` or `2001:db8::7`")
    }
}

/// The octets with only the first `bits` bits kept.
pub(super) fn masked(octets: [u8; 16], bits: u8) -> [u8; 16] {
    let kept = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    (u128::from_be_bytes(octets) & kept).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_canonical() {
        for (text, expect) in [
            ("10.0.0.7", "10.0.0.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::/127", "::/127"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ] {
            assert_eq!(Prefix::parse(text).unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn containment_keeps_families_apart() {
        let prefix = |text| Prefix::parse(text).unwrap();
        assert!(prefix("10.0.0.0/8").contains(prefix("10.1.0.0/16")));
        assert!(prefix("10.0.0.0/8").contains(prefix("::ffff:10.1.0.0/112")));
        assert!(!prefix("10.1.0.0/16").contains(prefix("10.0.0.0/8")));
        assert!(!prefix("10.0.0.0/16").contains(prefix("10.0.0.0/8")));
        assert!(!prefix("::/0").contains(prefix("10.0.0.0/8")));
        assert!(!prefix("0.0.0.0/0").contains(prefix("2001:db8::/32")));
    }
}
