//! Names for addresses that everyone means the same by.

use std::net::IpAddr;

use super::Prefix;

/// A named set: what one writes, and the addresses it stands for, each with its prefix length.
pub(super) type Set = &'static [(IpAddr, u8)];

const fn v4(octets: [u8; 4], bits: u8) -> (IpAddr, u8) {
    let [a, b, c, d] = octets;
    (IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d)), bits)
}

const fn v6(s: [u16; 8], bits: u8) -> (IpAddr, u8) {
    let [a, b, c, d, e, f, g, h] = s;
    (IpAddr::V6(std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h)), bits)
}

pub(super) const LOOPBACK: Set = &[v4([127, 0, 0, 0], 8), v6([0, 0, 0, 0, 0, 0, 0, 1], 128)];

/// RFC 1918 and RFC 4193.
const PRIVATE: Set = &[
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
];

/// RFC 3927 and RFC 4291, section 2.5.6.
const LINK_LOCAL: Set = &[v4([169, 254, 0, 0], 16), v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)];

/// RFC 5771 and RFC 4291, section 2.7.
const MULTICAST: Set = &[v4([224, 0, 0, 0], 4), v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)];

/// Where clouds hand out credentials and configuration.
const METADATA_SERVICE: Set = &[
    // AWS, Azure, Google, Oracle, OpenStack and others.
    v4([169, 254, 169, 254], 32),
    // AWS: credentials of tasks and of pods.
    v4([169, 254, 170, 2], 32),
    v4([169, 254, 170, 23], 32),
    // AWS, over IPv6.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    // Azure: the host's agent channel.
    v4([168, 63, 129, 16], 32),
    // Google, over IPv6.
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // OpenStack, over IPv6.
    v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    // Oracle, over IPv6.
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    // Scaleway.
    v4([169, 254, 42, 42], 32),
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    // Alibaba.
    v4([100, 100, 100, 200], 32),
    // Tencent.
    v4([169, 254, 0, 23], 32),
];

/// Every set, by name.
pub(super) const ALL: &[(&str, Set)] = &[
    ("private", PRIVATE),
    ("link-local", LINK_LOCAL),
    ("metadata-service", METADATA_SERVICE),
    ("loopback", LOOPBACK),
    ("multicast", MULTICAST),
];

/// The set of Unix sockets that takes messages and gives nothing: the system's log.
pub(super) const BASICS: &str = "basics";

/// What [`BASICS`] stands for. Not among them: what acts for whoever asks, as a name service or a bus does.
pub(super) const BASIC_SOCKETS: &[&str] = &[
    "/dev/log",
    "/run/systemd/journal/dev-log",
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
];

/// The addresses of a set.
pub(super) fn addresses(set: Set) -> Vec<Prefix> {
    set.iter().filter_map(|(address, bits)| Prefix::holding((*address).into(), *bits)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_without_host_bits() {
        for (name, set) in ALL {
            let addresses = addresses(set);
            assert_eq!(addresses.len(), set.len(), "{name}");
            for (prefix, (address, bits)) in addresses.iter().zip(*set) {
                assert_eq!(prefix.to_string(), format!("{address}/{bits}"), "{name}");
            }
        }
    }
}
