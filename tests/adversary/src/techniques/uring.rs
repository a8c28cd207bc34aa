//! Sockets by io_uring: the kernel's own threads do the work, and no system call says what it is.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::context::{Context, target4};
use crate::sys::{self, At as _, Attempt, Stop, name};

const SEND_MESSAGE: u8 = 9;
const CONNECT: u8 = 16;
const SEND: u8 = 26;
const SOCKET: u8 = 45;
const ALWAYS_ASYNC: u8 = 1 << 4;
const SETUP_SQPOLL: u32 = 1 << 1;
const ENTER_GETEVENTS: usize = 1;
const ENTER_WAKEUP: usize = 2;
/// The kernel's thread has gone to sleep and has to be woken.
const NEED_WAKEUP: u32 = 1;
const OFFSET_ENTRIES: i64 = 0x1000_0000;

/// Everything by the ring, the socket included.
pub(crate) fn tcp(context: &Context) -> Attempt {
    connect_and_send(&mut Ring::new(0)?, context, 0)
}

/// In the kernel's worker threads.
pub(crate) fn tcp_async(context: &Context) -> Attempt {
    connect_and_send(&mut Ring::new(0)?, context, ALWAYS_ASYNC)
}

/// By a thread of the kernel's that looks for work by itself.
pub(crate) fn tcp_polled(context: &Context) -> Attempt {
    connect_and_send(&mut Ring::new(SETUP_SQPOLL)?, context, 0)
}

pub(crate) fn udp(context: &Context) -> Attempt {
    let mut ring = Ring::new(0)?;
    let socket = ring.socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let address = name(target4());
    let mut vector =
        libc::iovec { iov_base: context.magic().as_ptr().cast_mut().cast(), iov_len: context.magic.len() };
    // SAFETY: all zeros is a header that points to nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len() as u32;
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    let fd = socket.as_raw_fd();
    let entry =
        Entry { opcode: SEND_MESSAGE, fd, address: &raw const message as u64, len: 1, ..Entry::default() };
    ring.run("sendmsg by io_uring", entry).map(drop)
}

/// A packet socket: the filter on `socket` does not see it made.
pub(crate) fn packet(context: &Context) -> Attempt {
    let socket = Ring::new(0)?.socket(libc::AF_PACKET, libc::SOCK_DGRAM)?;
    super::families::send_frame(socket, context)
}

/// What an outsider with a ring lets out of its hands: its thread in the kernel polls for work, whoever writes that down. The
/// facts are where its name for the target, its socket, and a place for the data are.
pub(crate) fn submit_as_owner(ring: OwnedFd, context: &Context) -> Attempt {
    let [_, _, socket, data, ref sizes @ ..] = context.facts[..] else { panic!("the outsider has a ring") };
    let mut ring = Ring::of(ring, &sizes.iter().map(|size| *size as u32).collect::<Vec<_>>())?;
    let len = context.magic.len() as u32;
    let entry = Entry { opcode: SEND, fd: socket as i32, address: data, len, ..Entry::default() };
    ring.run("send by another's io_uring", entry).map(drop)
}

fn connect_and_send(ring: &mut Ring, context: &Context, flags: u8) -> Attempt {
    let address: SocketAddr = target4();
    let socket = ring.socket(libc::AF_INET, libc::SOCK_STREAM)?;
    let (fd, to) = (socket.as_raw_fd(), name(address));
    let (at, len) = (to.as_ptr() as u64, to.len() as u64);
    let connect = Entry { opcode: CONNECT, flags, fd, offset: len, address: at, ..Entry::default() };
    ring.run("connect by io_uring", connect)?;
    let (at, len) = (context.magic().as_ptr() as u64, context.magic.len() as u32);
    let send = Entry { opcode: SEND, flags, fd, address: at, len, ..Entry::default() };
    ring.run("send by io_uring", send).map(drop)
}

/// The kernel's `io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    operation_flags: u32,
    rest: [u64; 4],
}
const _: () = assert!(size_of::<Entry>() == 64);

/// One entry in flight at a time.
pub(crate) struct Ring {
    fd: OwnedFd,
    polled: bool,
    rings: usize,
    entries: usize,
    /// Offsets into `rings`, as `io_uring_setup` gave them.
    sq_tail: u32,
    sq_flags: u32,
    sq_array: u32,
    cq_head: u32,
    cq_tail: u32,
    cq_entries: u32,
}

impl Ring {
    fn new(flags: u32) -> Attempt<Self> {
        let (fd, sizes) = setup(flags)?;
        Self::of(fd, &sizes)
    }

    /// Of a descriptor and what [`setup`] said of it.
    fn of(fd: OwnedFd, sizes: &[u32]) -> Attempt<Self> {
        let [flags, sq_tail, sq_flags, sq_array, cq_head, cq_tail, cq_entries] = sizes[..] else {
            panic!("seven numbers describe a ring")
        };
        let rings = map(&fd, 0)?;
        let entries = map(&fd, OFFSET_ENTRIES)?;
        let polled = flags & SETUP_SQPOLL != 0;
        Ok(Self { fd, polled, rings, entries, sq_tail, sq_flags, sq_array, cq_head, cq_tail, cq_entries })
    }

    fn socket(&mut self, family: i32, kind: i32) -> Attempt<OwnedFd> {
        let entry = Entry { opcode: SOCKET, fd: family, offset: kind as u64, ..Entry::default() };
        let fd = self.run("socket by io_uring", entry)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Hands one entry to the kernel and waits for what came of it.
    fn run(&mut self, at: &'static str, entry: Entry) -> Attempt<i32> {
        // SAFETY: the first entry of the array that the kernel maps; it reads it only when the tail says so.
        unsafe { (self.entries as *mut Entry).write(entry) };
        self.word(self.sq_array).store(0, Ordering::Relaxed);
        // The array has one place, so every number is that one.
        self.word(self.sq_tail).fetch_add(1, Ordering::Release);
        let (head, tail) = (self.word(self.cq_head), self.word(self.cq_tail));
        let seen = head.load(Ordering::Relaxed);
        let end = Instant::now() + Duration::from_secs(20);
        if !self.polled {
            self.enter(1, 1, ENTER_GETEVENTS)?;
        } else if self.word(self.sq_flags).load(Ordering::Acquire) & NEED_WAKEUP != 0 {
            self.enter(0, 0, ENTER_WAKEUP)?;
        }
        while tail.load(Ordering::Acquire) == seen {
            if Instant::now() > end {
                return Err(std::io::Error::from_raw_os_error(libc::ETIMEDOUT)).at(at);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Two places for results, of 16 bytes each; the result comes behind the eight bytes that were ours to choose.
        let result = self.word(self.cq_entries + 16 * (seen & 1) + 8).load(Ordering::Relaxed) as i32;
        head.store(seen.wrapping_add(1), Ordering::Release);
        if result < 0 {
            return Err(Stop { at, error: std::io::Error::from_raw_os_error(-result) });
        }
        Ok(result)
    }

    fn enter(&self, submit: usize, wait: usize, flags: usize) -> Attempt {
        let arguments = [self.fd.as_raw_fd() as usize, submit, wait, flags, 0, 0];
        // SAFETY: no pointer is passed; what the entries point to outlives the call.
        unsafe { sys::syscall("io_uring_enter", libc::SYS_io_uring_enter, &arguments) }.map(drop)
    }

    fn word(&self, offset: u32) -> &'static AtomicU32 {
        // SAFETY: the kernel keeps aligned words at these offsets, and the mapping stays until the process ends.
        unsafe { AtomicU32::from_ptr((self.rings + offset as usize) as *mut u32) }
    }
}

/// A ring with one place, and what describes it to [`Ring::of`].
pub(crate) fn setup(flags: u32) -> Attempt<(OwnedFd, Vec<u32>)> {
    // The kernel's `io_uring_params`: 30 words.
    let mut words = [0_u32; 30];
    words[2] = flags;
    // How long the kernel's thread looks for work, in milliseconds.
    words[4] = 2_000;
    let arguments = [1, words.as_mut_ptr() as usize];
    // SAFETY: the parameters are as long as the kernel takes them to be, and outlive the call.
    let fd = unsafe { sys::syscall("io_uring_setup", libc::SYS_io_uring_setup, &arguments) }?;
    // Ten words from the eleventh on say where the submission ring has what, the next ten that of the completion ring.
    let [sq, cq] = [10, 20];
    let sizes =
        vec![flags, words[sq + 1], words[sq + 4], words[sq + 6], words[cq], words[cq + 1], words[cq + 5]];
    Ok((sys::owned("io_uring_setup", fd as isize)?, sizes))
}

/// A ring of which a thread of the kernel's takes care.
pub(crate) fn setup_polled() -> Attempt<(OwnedFd, Vec<u32>)> {
    setup(SETUP_SQPOLL)
}

fn map(ring: &OwnedFd, offset: i64) -> Attempt<usize> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let len = std::num::NonZero::new(4096).expect("it is not zero");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: new memory, at no particular place.
    let memory = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, ring, offset) };
    Ok(memory.at("mmap the ring")?.as_ptr() as usize)
}
