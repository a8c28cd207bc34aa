//! The far side: everything listens, and one sniffer on all devices of the harness's own network sees what leaves. What counts
//! is a packet with an attempt's magic in it, to any address that no envelope allows. Who receives something by other ways
//! than IP passes it on by UDP, so that this is the one place that says that something got out.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::context::{self, ALLOWED4, ALLOWED6, PORT};
use crate::sys::{self, At as _, Attempt};

/// A destination that no route but an attacker's leads to.
pub(crate) const ROUTE_MARK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

const MAGIC: &[u8] = b"adv";
const MAGIC_DIGITS: usize = 16;

/// What was seen of whose magic.
#[derive(Debug)]
pub(crate) struct FarSide {
    seen: Arc<Mutex<Seen>>,
    sniffer: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct Seen {
    /// In packets to where nobody allows them to go.
    out: HashSet<String>,
    /// In packets to what the envelopes allow, over IPv4 and over IPv6.
    allowed: [HashSet<String>; 2],
}

/// Text that no other attempt of any run has, and that no other's begins with.
pub(crate) fn new_magic() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("adv{:08x}{:08x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Sends on what came by another way than IP.
pub(crate) fn pass_on(data: &[u8]) -> Attempt {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).at("bind")?;
    pass_on_by(&socket, data)
}

pub(crate) fn pass_on_by(socket: &UdpSocket, data: &[u8]) -> Attempt {
    socket.send_to(data, context::target4()).at("pass on").map(drop)
}

impl FarSide {
    /// Begins to listen, in the network namespace of this thread.
    pub(crate) fn start() -> Attempt<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let sniffer =
            sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from((libc::ETH_P_ALL as u16).to_be()))?;
        sys::set_option(&sniffer, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(256_i32 << 20).to_ne_bytes())?;
        let (sniffer, sees) = (Arc::new(sniffer), Arc::clone(&seen));
        let sniffs = Arc::clone(&sniffer);
        thread::spawn(move || sniff(&sniffs, &sees));
        for port in [PORT, 53] {
            // They take IPv4 connections as well.
            let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).at("bind")?;
            thread::spawn(move || swallow_streams(&tcp));
            let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).at("bind")?;
            thread::spawn(move || while udp.recv(&mut [0; 2048]).is_ok() {});
        }
        let far_side = Self { seen, sniffer };
        far_side.settle();
        Ok(far_side)
    }

    pub(crate) fn has_seen(&self, magic: &str) -> bool {
        self.seen.lock().expect("no panic while it is held").out.contains(magic)
    }

    /// Whether it reached what is allowed, at both addresses.
    pub(crate) fn has_seen_allowed(&self, magic: &str) -> bool {
        let seen = self.seen.lock().expect("no panic while it is held");
        seen.allowed.iter().all(|seen| seen.contains(magic))
    }

    /// How many packets came too quickly to be looked at, if there were any.
    pub(crate) fn lost(&self) -> Option<u32> {
        // How many came, and how many of them were dropped.
        let mut counts = [0_u32; 2];
        let mut len = size_of_val(&counts) as u32;
        let (fd, at) = (self.sniffer.as_raw_fd(), counts.as_mut_ptr().cast());
        // SAFETY: the counts are as long as is said.
        let asked = unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, at, &mut len) };
        sys::check("getsockopt", asked as isize).expect("the sniffer counts");
        (counts[1] > 0).then_some(counts[1])
    }

    /// Returns when all that was sent until now has been looked at.
    pub(crate) fn settle(&self) {
        let marker = new_magic();
        integration::wait_until(integration::DEADLINE, "the sniffer sees what it is sent", || {
            pass_on(marker.as_bytes()).expect("the far side listens");
            self.has_seen(&marker).then_some(())
        });
    }

    /// Whether the magic is seen within this time.
    pub(crate) fn wait_for(&self, magic: &str, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.has_seen(magic) {
            if Instant::now() > end {
                self.settle();
                return self.has_seen(magic);
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

fn sniff(sniffer: &OwnedFd, seen: &Mutex<Seen>) {
    let mut packet = vec![0; 1 << 17];
    loop {
        // SAFETY: as much is written as the buffer is long.
        let len = unsafe { libc::recv(sniffer.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
        let Ok(len) = usize::try_from(len) else { continue };
        let packet = &packet[..len];
        let mut seen = seen.lock().expect("no panic while it is held");
        match allowed_by(packet) {
            Some(family) => seen.allowed[family].extend(magics(packet)),
            None => seen.out.extend(magics(packet)),
        }
    }
}

/// Whether the packet's header, whatever the socket said, names an address that the envelopes allow: which of them.
fn allowed_by(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => (packet.get(16..20)? == ALLOWED4.octets()).then_some(0),
        6 => (packet.get(24..40)? == ALLOWED6.octets()).then_some(1),
        _ => None,
    }
}

fn magics(packet: &[u8]) -> impl Iterator<Item = String> {
    let len = MAGIC.len() + MAGIC_DIGITS;
    let places = packet
        .windows(len)
        .filter(|place| place.starts_with(MAGIC) && place[MAGIC.len()..].iter().all(u8::is_ascii_hexdigit));
    places.map(|place| String::from_utf8_lossy(place).into_owned())
}

fn swallow_streams(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut part = [0; 4096];
            while matches!(stream.read(&mut part), Ok(1..)) {}
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_decides_and_not_the_rest() {
        let magic = new_magic();
        let allowed = [&[0x45; 16][..], &ALLOWED4.octets(), magic.as_bytes()].concat();
        assert_eq!(allowed_by(&allowed), Some(0));
        let other = [&[0x45; 16][..], &ALLOWED4.octets().map(|byte| byte ^ 1), magic.as_bytes()].concat();
        assert_eq!(allowed_by(&other), None);
        assert_eq!(magics(&other).collect::<Vec<_>>(), [magic]);
        assert_eq!(allowed_by(b""), None);
    }
}
