//! `sock`.

use aya_ebpf::cty::c_void;

use super::{Place, cgroup::Cgroup};
use crate::config::loaded;

/// A pointer to a `socket` that the verifier knows as such: what a file descriptor leads to.
#[derive(Clone, Copy)]
pub(crate) struct Socket(*const c_void);

impl Socket {
    /// # Safety
    ///
    /// `pointer` must be a `socket *` that the verifier knows as such, not null.
    #[inline(always)]
    pub(crate) const unsafe fn from_argument(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    /// Its `sock`, which the verifier knows as such; or null.
    #[inline(always)]
    pub(crate) fn sk(self) -> *mut c_void {
        load(self.0, loaded!(offsets.socket_sk))
    }

    /// Whether a file leads to it. Otherwise it is the kernel's own.
    #[inline(always)]
    pub(crate) fn has_file(self) -> bool {
        let file: *const c_void = load(self.0, loaded!(offsets.socket_file));
        !file.is_null()
    }
}

/// Family and protocol of a `sock` that the verifier knows as such, not null.
#[inline(always)]
pub(crate) fn family_and_protocol(sk: *const c_void) -> (u32, u32) {
    let family: u16 = load(sk, loaded!(offsets.sock_family));
    let protocol: u16 = load(sk, loaded!(offsets.sock_protocol));
    (family.into(), protocol.into())
}

#[inline(always)]
fn load<T: Copy>(from: *const c_void, offset: u32) -> T {
    let field = from.cast::<u8>().wrapping_add(offset as usize).cast::<T>();
    // SAFETY: the verifier refuses the program unless this load is inside the structure that the pointer has as its type; a
    // pointer that went stale reads as zero, because such loads are fixed up by the kernel.
    unsafe { field.read() }
}

/// A socket of the kernel's.
#[derive(Clone, Copy)]
pub(crate) struct Sock(Place);

impl Sock {
    /// The socket behind a pointer that the verifier knows as one, whatever kind of pointer that is.
    #[inline(always)]
    pub(crate) fn of<T>(pointer: *const T) -> Option<Self> {
        Place::of(pointer).map(Self)
    }

    /// The socket at an address.
    #[inline(always)]
    pub(crate) const fn at(place: Place) -> Self {
        Self(place)
    }

    #[inline(always)]
    pub(crate) const fn place(self) -> Place {
        self.0
    }

    /// The inode of its network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> Option<u32> {
        self.0.follow(loaded!(offsets.sock_net))?.load(loaded!(offsets.net_inum))
    }

    /// The cgroup that it was made in.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> Option<Cgroup> {
        self.0.follow(loaded!(offsets.sock_cgroup)).map(Cgroup::at)
    }

    /// `AF_INET` and so on.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        self.0.load(loaded!(offsets.sock_family))
    }

    /// The IP protocol number, or larger.
    #[inline(always)]
    pub(crate) fn protocol(self) -> Option<u16> {
        self.0.load(loaded!(offsets.sock_protocol))
    }

    /// Whether the kernel made it for itself, as for a file system or a disk in the network: some of these have a file, and are used
    /// in the context of whoever reads from them.
    #[inline(always)]
    fn is_kernels_own(self) -> bool {
        let bits: Option<u8> = self.0.load(loaded!(offsets.sock_kern_byte));
        bits.is_none_or(|bits| u32::from(bits) & loaded!(offsets.sock_kern_mask) != 0)
    }

    /// Whether the process that runs is the one that uses the socket, and not one that the work of another's socket has
    /// interrupted.
    ///
    /// A socket that no file leads to is the kernel's own (neighbour discovery, answers from no socket), or nobody's any more.
    /// Of TCP, what is sent for another reason than a call of the process (acknowledgements, retransmissions) is sent while
    /// nobody owns the lock: otherwise it waits for the owner (v6.1/net/ipv4/tcp_ipv4.c, tcp_v4_rcv; tcp_output.c,
    /// tcp_tsq_handler). Other protocols send in the caller's context only.
    #[inline(always)]
    pub(crate) fn is_used_by_current(self) -> bool {
        const TCP: u16 = 6;
        let Some(socket) = self.0.follow(loaded!(offsets.sock_socket)) else {
            return false;
        };
        if socket.follow(loaded!(offsets.socket_file)).is_none() || self.is_kernels_own() {
            return false;
        }
        self.protocol() != Some(TCP) || self.0.load::<u32>(loaded!(offsets.sock_lock_owned)) != Some(0)
    }
}
