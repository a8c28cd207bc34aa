//! What leaves through a network device, as the kernel hands it out, and when.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, SystemTime};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, TimestampingFlag, recvmsg, setsockopt, sockopt};

use crate::{DEADLINE, wait_until};

/// A packet socket that sees what leaves through any device of its network namespace.
#[derive(Debug)]
pub struct Sniffer(OwnedFd);

/// The packets that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub packets: u64,
    /// When the last of them left.
    pub last: Option<SystemTime>,
}

/// A packet takes several times as much of this as is read of it.
const BUFFER_BYTES: usize = 512 << 20;

// What the kernel's own filters are made of (v6.1/include/uapi/linux/bpf_common.h).
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const SHIFT_RIGHT: u16 = 0x74;
const SHIFT_LEFT: u16 = 0x64;
const TO_X: u16 = 0x07;
const SUBTRACT_X: u16 = 0x1c;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: which way a packet goes.
const PACKET_TYPE: u32 = (-0x1000_i32 + 4).cast_unsigned();
const OUTGOING: u32 = libc::PACKET_OUTGOING as u32;
const WHOLE: u32 = 0xffff;

impl Sniffer {
    /// Sees the IPv4 TCP segments that leave for this port and carry data.
    #[track_caller]
    pub fn of_tcp_data_to(port: u16) -> Self {
        // The packet begins with its IP header, which is one without options.
        Self::open(&mut [
            step(LOAD_BYTE, 0, 0, PACKET_TYPE),
            step(JUMP_EQUAL, 0, 15, OUTGOING),
            step(LOAD_BYTE, 0, 0, 0),
            step(JUMP_EQUAL, 0, 13, 0x45),
            step(LOAD_BYTE, 0, 0, 9),
            step(JUMP_EQUAL, 0, 11, libc::IPPROTO_TCP.cast_unsigned()),
            step(LOAD_HALF, 0, 0, 22),
            step(JUMP_EQUAL, 0, 9, port.into()),
            // The TCP header's length in bytes, and whether the packet is longer than both headers.
            step(LOAD_BYTE, 0, 0, 32),
            step(SHIFT_RIGHT, 0, 0, 4),
            step(SHIFT_LEFT, 0, 0, 2),
            step(TO_X, 0, 0, 0),
            step(LOAD_HALF, 0, 0, 2),
            step(SUBTRACT_X, 0, 0, 0),
            step(JUMP_GREATER, 0, 2, 20),
            // Of a packet that is counted, no byte is needed.
            step(RETURN, 0, 0, 1),
            step(RETURN, 0, 0, 0),
            step(RETURN, 0, 0, 0),
        ])
    }

    /// Sees everything that leaves.
    #[track_caller]
    pub fn of_everything() -> Self {
        Self::open(&mut [
            step(LOAD_BYTE, 0, 0, PACKET_TYPE),
            step(JUMP_EQUAL, 0, 1, OUTGOING),
            step(RETURN, 0, 0, WHOLE),
            step(RETURN, 0, 0, 0),
        ])
    }

    #[track_caller]
    fn open(program: &mut [libc::sock_filter]) -> Self {
        let failed = |what: &str| -> ! { panic!("{what}: {}", io::Error::last_os_error()) };
        // No protocol yet: nothing may arrive that is not filtered.
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            failed("open a packet socket");
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let (filter_ptr, filter_len) = (ptr::from_ref(&filter).cast(), size_of_val(&filter) as u32);
        // SAFETY: `filter` and the program that it points to outlive the call.
        let done =
            unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter_ptr, filter_len) };
        if done != 0 {
            failed("attach the filter");
        }
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).expect("as root");
        ask_for_times(&socket);
        wait_for_times();
        // SAFETY: all zeros is a valid value of this structure: any device.
        let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        name.sll_family = libc::AF_PACKET as u16;
        name.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: `name` outlives the call, and the length is its own.
        let done = unsafe { libc::bind(fd, ptr::from_ref(&name).cast(), size_of_val(&name) as u32) };
        if done != 0 {
            failed("bind the packet socket");
        }
        Self(socket)
    }

    /// What has left since the last time that somebody asked.
    ///
    /// # Panics
    /// If the kernel had no room for a packet: then nothing is known.
    #[track_caller]
    pub fn left(&self) -> Left {
        let mut left = Left::default();
        self.each(|_, time| {
            left.packets += 1;
            left.last = Some(time.expect("a packet has the time at which it left"));
        });
        self.expect_none_missed();
        left
    }

    /// How many packets left that contain these bytes, since the last time that somebody asked.
    #[track_caller]
    pub fn left_with(&self, bytes: &str) -> usize {
        let mut found = 0;
        self.each(|packet, _| {
            found += usize::from(packet.windows(bytes.len()).any(|part| part == bytes.as_bytes()));
        });
        self.expect_none_missed();
        found
    }

    fn each(&self, mut take: impl FnMut(&[u8], Option<SystemTime>)) {
        let mut packet = vec![0; WHOLE as usize];
        while let Some((len, time)) = receive(&self.0, &mut packet) {
            take(&packet[..len], time);
        }
    }

    #[track_caller]
    fn expect_none_missed(&self) {
        /// `PACKET_STATISTICS`: packets and drops since it was asked last.
        #[repr(C)]
        #[derive(Default)]
        struct Statistics {
            packets: u32,
            drops: u32,
        }
        let mut statistics = Statistics::default();
        let mut len = size_of_val(&statistics) as u32;
        let value = ptr::from_mut(&mut statistics).cast();
        // SAFETY: `statistics` and `len` outlive the call, and the length is its own.
        let done = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                value,
                &raw mut len,
            )
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        assert_eq!(statistics.drops, 0, "of {} packets some were not seen", statistics.packets);
    }
}

/// Not by `SO_TIMESTAMPNS`, with which a packet that the kernel has put no time on has that at which it is read.
fn ask_for_times(socket: &impl AsFd) {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    setsockopt(socket, sockopt::Timestamping, &flags).expect("every socket can");
}

/// Until the kernel puts times on packets: it begins some time after it was first asked to, on a busy machine milliseconds
/// (`net_enable_timestamp`, v6.1/net/core/dev.c, leaves it to a worker).
#[track_caller]
fn wait_for_times() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let address = socket.local_addr().expect("it is bound");
    ask_for_times(&socket);
    wait_until(DEADLINE, "packets have times", || {
        socket.send_to(&[0], address).expect("loopback is up");
        // It has arrived: loopback is done with a packet before the call returns, unless the processor is to catch up on others.
        receive(&socket, &mut [0])?.1
    });
}

/// The next packet, if there is one: the length of what of it has room, and when it passed.
fn receive(socket: &impl AsRawFd, packet: &mut [u8]) -> Option<(usize, Option<SystemTime>)> {
    let mut space = nix::cmsg_space!(nix::sys::socket::Timestamps);
    let mut vector = [io::IoSliceMut::new(packet)];
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::MSG_DONTWAIT).ok()?;
    let time = received.cmsgs().expect("there is room for the time").find_map(|message| match message {
        ControlMessageOwned::ScmTimestampsns(times) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from(times.system))
        }
        _ => None,
    });
    Some((received.bytes, time))
}

fn step(code: u16, jump_true: u8, jump_false: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: jump_true, jf: jump_false, k: value }
}
