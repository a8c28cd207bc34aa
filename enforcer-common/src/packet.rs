//! The headers of a packet, as far as a decision needs them. Strict: a packet that has anything in its header that could send it
//! elsewhere, or hide what it is, has no reading. What is fetched from where is the caller's; here are only bytes.

use crate::net::{Address, Direction, Protocol};
use crate::verdict::Reason;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of the header of a UDP datagram, and of an ICMP echo.
pub const DATAGRAM_HEADER: usize = 8;
/// Bytes of a transport header that are read of TCP; of the others, [`PORTS_LEN`].
pub const TCP_LEN: usize = 14;
/// The bytes with which the headers of TCP and UDP begin.
pub const PORTS_LEN: usize = 4;

/// A packet of a session's socket, as its headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub direction: Direction,
    pub protocol: Protocol,
    /// It begins a connection: a TCP SYN.
    pub opens: bool,
    /// It ends a connection and carries nothing: a TCP RST.
    pub resets: bool,
    /// The far end.
    pub remote: Address,
    pub remote_port: u16,
    pub local_port: u16,
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    pub source: Address,
    pub destination: Address,
    pub protocol: Protocol,
    /// Bytes behind the header.
    pub payload_len: u32,
}

/// The version of the IP header that begins with this byte.
#[inline(always)]
pub const fn version(first: u8) -> u8 {
    first >> 4
}

/// Reads an IPv4 header. Options (source routes) and fragments have no reading: the kernel makes fragments only behind the hook,
/// and puts those that arrive together before it, so here only a program's own raw header can be one.
#[inline(always)]
pub fn ipv4(header: &[u8; IPV4_LEN]) -> Result<Ip, Reason> {
    const WITHOUT_OPTIONS: u8 = 0x45;
    const MORE_OR_OFFSET: u8 = 0x3f;
    let [first, _, len_high, len_low, _, _, flags, offset, _, protocol, _, _, a, b, c, d, e, f, g, h] =
        *header;
    if first != WITHOUT_OPTIONS || flags & MORE_OR_OFFSET != 0 || offset != 0 {
        return Err(Reason::Header);
    }
    let len = u16::from_be_bytes([len_high, len_low]) as u32;
    Ok(Ip {
        source: Address::v4([a, b, c, d]),
        destination: Address::v4([e, f, g, h]),
        protocol: transport(protocol, ICMP)?,
        payload_len: len.saturating_sub(IPV4_LEN as u32),
    })
}

/// Reads an IPv6 header. Extension headers (routing, options, fragments) have no reading.
#[inline(always)]
pub fn ipv6(header: &[u8; IPV6_LEN]) -> Result<Ip, Reason> {
    let (head, rest) = header.split_at(8);
    let (source, destination) = rest.split_at(16);
    let protocol = match head[6] {
        // Hop-by-hop options, routing, fragment, destination options, mobility, HIP, SHIM6 (IANA).
        0 | 43 | 44 | 60 | 135 | 139 | 140 => return Err(Reason::Header),
        next => transport(next, ICMPV6)?,
    };
    Ok(Ip {
        source: Address::v6(octets(source)),
        destination: Address::v6(octets(destination)),
        protocol,
        payload_len: u16::from_be_bytes([head[4], head[5]]) as u32,
    })
}

impl Packet {
    /// A packet of UDP or ICMP. ICMP has no ports; `ports` are then not looked at.
    #[inline(always)]
    pub fn datagram(direction: Direction, ip: &Ip, ports: &[u8; PORTS_LEN]) -> Self {
        let [a, b, c, d] = if ip.protocol.has_ports() { *ports } else { [0; PORTS_LEN] };
        let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let (remote, remote_port, local_port) = match direction {
            Direction::Out => (ip.destination, destination, source),
            Direction::In => (ip.source, source, destination),
        };
        let protocol = ip.protocol;
        Self { direction, protocol, opens: false, resets: false, remote, remote_port, local_port }
    }

    /// A packet of TCP.
    #[inline(always)]
    pub fn segment(direction: Direction, ip: &Ip, header: &[u8; TCP_LEN]) -> Self {
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        let [a, b, c, d, _, _, _, _, _, _, _, _, length, flags] = *header;
        // In words of four bytes, in the upper half.
        let header_len = (length >> 4) as u32 * 4;
        Self {
            opens: flags & (SYN | ACK | RST) == SYN,
            resets: flags & (SYN | RST) == RST && ip.payload_len <= header_len,
            ..Self::datagram(direction, ip, &[a, b, c, d])
        }
    }
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

#[inline(always)]
fn transport(number: u8, icmp: u8) -> Result<Protocol, Reason> {
    match number {
        6 => Ok(Protocol::Tcp),
        17 => Ok(Protocol::Udp),
        number if number == icmp => Ok(Protocol::Icmp),
        _ => Err(Reason::Unclassifiable),
    }
}

#[inline(always)]
fn octets(bytes: &[u8]) -> [u8; 16] {
    core::array::from_fn(|at| bytes[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: [u8; IPV4_LEN] = [0x45, 0, 0, 60, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7];

    fn v6(next: u8) -> [u8; IPV6_LEN] {
        let mut header = [0; IPV6_LEN];
        header[0] = 0x60;
        header[5] = 20;
        header[6] = next;
        header[8..24].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        header[24..].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]);
        header
    }

    #[test]
    fn plain_headers_are_read() {
        let ip = ipv4(&V4).unwrap();
        assert_eq!((ip.source, ip.destination), (Address::v4([10, 0, 0, 1]), Address::v4([192, 0, 2, 7])));
        assert_eq!((ip.protocol, ip.payload_len), (Protocol::Tcp, 40));
        let ip = ipv6(&v6(17)).unwrap();
        // A mapped address is the IPv4 address, on the wire as well.
        assert_eq!(ip.destination, Address::v4([192, 0, 2, 7]));
        assert_eq!((ip.protocol, ip.payload_len), (Protocol::Udp, 20));
        assert_eq!(ipv6(&v6(58)).unwrap().protocol, Protocol::Icmp);
    }

    #[test]
    fn headers_that_lead_elsewhere_are_not_read() {
        for (at, byte, reason) in [
            (0, 0x46, Reason::Header),
            (0, 0x44, Reason::Header),
            (0, 0x65, Reason::Header),
            (6, 0x20, Reason::Header),
            (6, 0x01, Reason::Header),
            (7, 0x01, Reason::Header),
            (9, 136, Reason::Unclassifiable),
            (9, 132, Reason::Unclassifiable),
            (9, 4, Reason::Unclassifiable),
            // ICMPv6 in IPv4.
            (9, 58, Reason::Unclassifiable),
        ] {
            let mut header = V4;
            header[at] = byte;
            assert_eq!(ipv4(&header), Err(reason), "{at} {byte}");
        }
        for next in [0, 43, 44, 60, 135, 139, 140] {
            assert_eq!(ipv6(&v6(next)), Err(Reason::Header), "{next}");
        }
        for next in [1, 4, 41, 47, 50, 51, 59, 132, 136, 255] {
            assert_eq!(ipv6(&v6(next)), Err(Reason::Unclassifiable), "{next}");
        }
    }

    #[test]
    fn segments_are_told_apart() {
        let ip = ipv4(&V4).unwrap();
        let segment = |words: u8, flags| {
            let mut header = [0; TCP_LEN];
            header[..4].copy_from_slice(&[0x1f, 0x90, 0, 80]);
            header[12] = words << 4;
            header[13] = flags;
            let packet = Packet::segment(Direction::Out, &ip, &header);
            assert_eq!((packet.remote_port, packet.local_port), (80, 8080));
            (packet.opens, packet.resets)
        };
        // 40 bytes are behind the IP header.
        assert_eq!(segment(10, 0x02), (true, false));
        assert_eq!(segment(5, 0x02), (true, false));
        assert_eq!(segment(10, 0xc2), (true, false));
        assert_eq!(segment(10, 0x12), (false, false));
        assert_eq!(segment(10, 0x10), (false, false));
        assert_eq!(segment(10, 0x04), (false, true));
        assert_eq!(segment(10, 0x14), (false, true));
        assert_eq!(segment(5, 0x14), (false, false));
        assert_eq!(segment(10, 0x06), (false, false));
    }

    proptest! {
        /// Whatever the bytes are, what is read is what stands there.
        #[test]
        fn addresses_and_ports_are_those_of_the_header(
            bytes in any::<[u8; IPV4_LEN]>(), ports in any::<[u8; PORTS_LEN]>(), out: bool,
        ) {
            let mut header = bytes;
            header[0] = 0x45;
            header[6..8].fill(0);
            if let Ok(ip) = ipv4(&header) {
                let direction = if out { Direction::Out } else { Direction::In };
                let packet = Packet::datagram(direction, &ip, &ports);
                let (far, port) = if out { (&bytes[16..20], &ports[2..]) } else { (&bytes[12..16], &ports[..2]) };
                prop_assert_eq!(&packet.remote.octets()[..4], far);
                let port = if ip.protocol.has_ports() { u16::from_be_bytes([port[0], port[1]]) } else { 0 };
                prop_assert_eq!(packet.remote_port, port);
            }
        }
    }
}
