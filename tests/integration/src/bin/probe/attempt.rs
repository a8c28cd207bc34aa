//! One network attempt, as a specification that fits an argument, and its report: a line of JSON.
//!
//! A specification is `KIND/ADDRESS`, or `KIND/ADDRESS/ADDRESS...` for kinds that need several; it is the attempt's label as
//! well. What an attempt sends is `MAGIC LABEL`, so that the far side can tell who reached it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde_json::json;

use crate::sys::{self, Name};

/// How long a peer may take to answer. A peer that never answers makes the attempt fail with `EAGAIN`.
const ANSWER_TIME: Duration = Duration::from_secs(10);

const IPPROTO_L2TP: i32 = 115;
/// The type that makes `AF_INET` mean `AF_PACKET`; deprecated in the C library.
const SOCK_PACKET: i32 = 10;
const ETH_P_ALL_BE: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;

/// What `socket/NAME` opens: family, type, protocol.
const SOCKET_KINDS: &[(&str, [i32; 3])] = &[
    ("tcp4", [libc::AF_INET, libc::SOCK_STREAM, 0]),
    ("tcp6", [libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP]),
    ("udp4", [libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP]),
    ("udp6", [libc::AF_INET6, libc::SOCK_DGRAM, 0]),
    ("raw4", [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW]),
    ("raw6", [libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW]),
    ("raw-udp4", [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP]),
    ("raw-icmp4", [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP]),
    ("raw-icmp6", [libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6]),
    ("ping4", [libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP]),
    ("ping6", [libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6]),
    ("mptcp4", [libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP]),
    ("mptcp6", [libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP]),
    ("sctp4", [libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP]),
    ("sctp4-seqpacket", [libc::AF_INET, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP]),
    ("sctp6", [libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_SCTP]),
    ("udplite4", [libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE]),
    ("udplite6", [libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE]),
    ("dccp4", [libc::AF_INET, libc::SOCK_DCCP, libc::IPPROTO_DCCP]),
    ("l2tp4", [libc::AF_INET, libc::SOCK_DGRAM, IPPROTO_L2TP]),
    ("unix", [libc::AF_UNIX, libc::SOCK_STREAM, 0]),
    ("netlink-route", [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE]),
    ("netlink-audit", [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT]),
    ("netlink-generic", [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC]),
    ("netlink-uevent", [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT]),
    ("packet", [libc::AF_PACKET, libc::SOCK_RAW, ETH_P_ALL_BE]),
    ("packet-dgram", [libc::AF_PACKET, libc::SOCK_DGRAM, ETH_P_ALL_BE]),
    ("packet-of-old", [libc::AF_INET, SOCK_PACKET, ETH_P_ALL_BE]),
    ("vsock", [libc::AF_VSOCK, libc::SOCK_STREAM, 0]),
    ("alg", [libc::AF_ALG, libc::SOCK_SEQPACKET, 0]),
    ("xdp", [libc::AF_XDP, libc::SOCK_RAW, 0]),
    ("key", [libc::AF_KEY, libc::SOCK_RAW, 2]),
    ("tipc", [libc::AF_TIPC, libc::SOCK_SEQPACKET, 0]),
    ("rds", [libc::AF_RDS, libc::SOCK_SEQPACKET, 0]),
];

/// Makes the attempt and reports it; `magic` goes before the label in what is sent.
pub(crate) fn run(magic: &str, spec: &str) {
    let Some((kind, rest)) = spec.split_once('/') else {
        panic!("not a specification: {spec}");
    };
    let addresses = || -> Vec<SocketAddr> {
        rest.split('/')
            .map(|text| text.parse().unwrap_or_else(|_| panic!("not an address: {text}")))
            .collect()
    };
    match kind {
        "socket" => report(spec, &open(rest), &[]),
        "udp-sendmmsg" => send_many(magic, kind, &addresses()),
        _ => report(spec, &reach(kind, &addresses(), format!("{magic} {spec}").as_bytes()), &[]),
    }
}

/// Connects to `address` over TCP, sends `MAGIC LABEL` and wants it back.
pub(crate) fn tcp_echo(address: SocketAddr, message: &[u8]) -> io::Result<()> {
    let socket = tcp_socket(address)?;
    sys::connect(&socket, address.into())?;
    expect_echo_tcp(socket, message, message)
}

/// Prints a result. `chain` is the processes that led to this one, if the caller knows them.
pub(crate) fn report(label: &str, result: &io::Result<()>, chain: &[i32]) {
    // An error without a number is a peer's: a connection closed early, an answer that is not the echo.
    let errno = result.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    let line = json!({ "label": label, "ok": result.is_ok(), "errno": errno, "chain": chain });
    print_line(&line.to_string());
}

/// In one write: several processes share the pipe.
pub(crate) fn print_line(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).expect("standard output is open");
}

pub(crate) fn udp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    sys::socket(sys::family_of(address), libc::SOCK_DGRAM, 0)
}

pub(crate) fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    sys::socket(sys::family_of(address), libc::SOCK_STREAM, 0)
}

pub(crate) fn open(name: &str) -> io::Result<()> {
    let (_, [family, kind, protocol]) = SOCKET_KINDS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no such kind of socket: {name}"));
    sys::socket(*family, *kind, *protocol).map(drop)
}

fn reach(kind: &str, addresses: &[SocketAddr], message: &[u8]) -> io::Result<()> {
    let last = *addresses.last().expect("split gives at least one");
    let name = Name::from(last);
    match kind {
        "tcp" => tcp_echo(last, message),
        "tcp-fastopen" => {
            let socket = tcp_socket(last)?;
            sys::sendto(&socket, message, libc::MSG_FASTOPEN, name)?;
            expect_echo_tcp(socket, &[], message)
        }
        "udp-connect" => {
            let socket = udp_socket(last)?;
            sys::connect(&socket, name)?;
            let socket = UdpSocket::from(socket);
            socket.send(message)?;
            expect_echo_udp(&socket, message)
        }
        "udp-sendto" => {
            let socket = udp_socket(last)?;
            sys::sendto(&socket, message, 0, name)?;
            expect_echo_udp(&socket.into(), message)
        }
        "udp-sendmsg" => {
            let socket = udp_socket(last)?;
            sys::sendmsg(&socket, message, name)?;
            expect_echo_udp(&socket.into(), message)
        }
        // No family in the address.
        "udp-unspec" => {
            let socket = udp_socket(last)?;
            sys::sendto(&socket, message, 0, name.without_family())?;
            expect_echo_udp(&socket.into(), message)
        }
        // Connected to the first, sends to the second. No echo is waited for: it does not come from the connected peer.
        "udp-elsewhere" => {
            let socket = udp_socket(last)?;
            sys::connect(&socket, addresses[0].into())?;
            sys::sendto(&socket, message, 0, name)
        }
        // Connected to the first, then to the second.
        "udp-reconnect" => {
            let socket = udp_socket(last)?;
            sys::connect(&socket, addresses[0].into())?;
            sys::connect(&socket, name)?;
            let socket = UdpSocket::from(socket);
            socket.send(message)?;
            expect_echo_udp(&socket, message)
        }
        // An IPv4 address on an IPv6 socket.
        "udp6-sendto4" => {
            let socket = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
            sys::sendto(&socket, message, 0, name)?;
            expect_echo_udp(&socket.into(), message)
        }
        "udp6-connect4" => {
            let socket = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
            sys::connect(&socket, name)?;
            let socket = UdpSocket::from(socket);
            socket.send(message)?;
            expect_echo_udp(&socket, message)
        }
        _ => panic!("no such kind of attempt: {kind}"),
    }
}

/// One call for all destinations; one report for each.
fn send_many(magic: &str, kind: &str, addresses: &[SocketAddr]) {
    let labels: Vec<String> = addresses.iter().map(|address| format!("{kind}/{address}")).collect();
    let messages: Vec<String> = labels.iter().map(|label| format!("{magic} {label}")).collect();
    let datagrams: Vec<(Name, &[u8])> =
        addresses.iter().zip(&messages).map(|(a, message)| (Name::from(*a), message.as_bytes())).collect();
    let results = match udp_socket(addresses[0]) {
        Ok(socket) => sys::sendmmsg(&socket, &datagrams),
        Err(error) => panic!("open a UDP socket: {error}"),
    };
    for (label, result) in labels.iter().zip(&results) {
        report(label, result, &[]);
    }
}

fn expect_echo_tcp(socket: OwnedFd, send: &[u8], message: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.write_all(send)?;
    let mut echo = vec![0; message.len()];
    stream.read_exact(&mut echo)?;
    check_echo(&echo, message)
}

fn expect_echo_udp(socket: &UdpSocket, message: &[u8]) -> io::Result<()> {
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    let mut echo = vec![0; message.len() + 1];
    let (len, _) = socket.recv_from(&mut echo)?;
    check_echo(&echo[..len], message)
}

fn check_echo(echo: &[u8], message: &[u8]) -> io::Result<()> {
    if echo == message { Ok(()) } else { Err(io::Error::other("the answer is not the echo")) }
}
