//! What the guard keeps sessions from, whatever their envelopes say: sockets that no other hook sees, other people's processes, and
//! everything that enforcement is made of. Pure, as [`crate::decision`] is: the kernel programs gather, this says.

use crate::record::NAME_LEN;
use crate::{kernel_pod, wire_enum};

wire_enum! {
    /// Where in the kernel something was refused: the kernel's own name of the hook.
    pub enum GuardHook: u8 = "guard hook" {
        /// `socket()` of a family that rules cannot speak of.
        SocketCreate = 1 => "socket_create",
        /// A descriptor that somebody else passes on, or that is taken from them.
        FileReceive = 2 => "file_receive",
        /// A send on a socket of somebody else's.
        SocketSendmsg = 3 => "socket_sendmsg",
        /// Likewise by `write`, `sendfile`, `splice`.
        FilePermission = 4 => "file_permission",
        /// Looking into a process, or taking hold of it.
        PtraceAccessCheck = 5 => "ptrace_access_check",
        /// A signal.
        TaskKill = 6 => "task_kill",
        /// Any command of `bpf()`.
        Bpf = 7 => "bpf",
        /// `perf_event_open()`.
        PerfEventOpen = 8 => "perf_event_open",
        /// Removing a file of a file system that is protected.
        InodeUnlink = 9 => "inode_unlink",
        /// Likewise a directory.
        InodeRmdir = 10 => "inode_rmdir",
        /// Likewise giving one another name.
        InodeRename = 11 => "inode_rename",
        /// `mount()`.
        SbMount = 12 => "sb_mount",
        /// `umount()`.
        SbUmount = 13 => "sb_umount",
        /// `move_mount()`.
        MoveMount = 14 => "move_mount",
        /// `pivot_root()`.
        SbPivotroot = 15 => "sb_pivotroot",
        /// `fsconfig()`: a file system in the making, which may already speak to its server.
        FsContextParseParam = 16 => "fs_context_parse_param",
        /// The kernel would load a module for what was asked of it.
        KernelModuleRequest = 17 => "kernel_module_request",
        /// A module or another kernel, from a file.
        KernelReadFile = 18 => "kernel_read_file",
        /// Likewise from memory.
        KernelLoadData = 19 => "kernel_load_data",
        /// Opening a file that the kernel is ruled by.
        FileOpen = 20 => "file_open",
        /// A TUN device: packets with any sender.
        TunDevCreate = 21 => "tun_dev_create",
        /// What a locked-down kernel keeps from root: memory, ports, registers, probes.
        LockedDown = 22 => "locked_down",
        /// `connect()` to a Unix socket.
        UnixStreamConnect = 23 => "unix_stream_connect",
        /// A datagram to one.
        UnixMaySend = 24 => "unix_may_send",
    }
}

wire_enum! {
    /// What a name in a record or in `UNIX_RULES` is the name of.
    pub enum NameKind: u8 = "kind of name" {
        /// There is none.
        Nothing = 0 => "nothing",
        /// A Unix socket, by the path that it was bound to.
        Path = 1 => "path",
        /// A Unix socket, by its abstract name.
        Abstract = 2 => "abstract",
        /// A file, by the last part of its path.
        File = 3 => "file",
    }
}

/// A Unix socket that a rule names. The length tells a name from one with zeros behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UnixKey {
    pub envelope: u32,
    /// [`NameKind`] as a number.
    pub kind: u16,
    /// The bytes of `name` that are filled.
    pub len: u16,
    /// As it was bound: a path without its closing zero, an abstract name without its leading one. Longer than any name, so that a
    /// length below 128 is one that fits.
    pub name: [u8; Self::NAME_LEN],
}

impl UnixKey {
    /// The room for a name.
    pub const NAME_LEN: usize = 128;
    /// No name that a rule can have is longer.
    pub const LONGEST: usize = NAME_LEN - 1;

    /// The key of a rule's text: a path, or an abstract name after an `@`. `None` if no socket can have this name.
    pub fn new(envelope: u32, text: &str) -> Option<Self> {
        let (kind, name) = match text.strip_prefix('@') {
            Some(name) => (NameKind::Abstract, name),
            None => (NameKind::Path, text),
        };
        if name.is_empty() || name.len() > Self::LONGEST {
            return None;
        }
        let mut key =
            Self { envelope, kind: kind.raw().into(), len: name.len() as u16, name: [0; Self::NAME_LEN] };
        key.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(key)
    }
}

/// How the daemon learns that the guard's programs run: they load and attach without an error where they never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Canary {
    /// Whose calls of `bpf()` are counted; 0: nobody's.
    pub tgid: u32,
    /// Always zero.
    pub pad: u32,
    /// How many there were.
    pub hits: u64,
}

impl Canary {
    /// Nothing is counted.
    pub const NONE: Self = Self { tgid: 0, pad: 0, hits: 0 };
}

kernel_pod!(UnixKey: 136, Canary: 16);

/// `AF_UNIX`.
pub const AF_UNIX: u32 = 1;
/// `AF_INET`.
pub const AF_INET: u32 = 2;
/// `AF_INET6`.
pub const AF_INET6: u32 = 10;
/// `AF_NETLINK`.
pub const AF_NETLINK: u32 = 16;

/// Whether a session may have sockets of this kind: those whose traffic other hooks see, and the netlink that name look-ups need.
#[inline(always)]
pub const fn may_have(family: u32, protocol: u32) -> bool {
    const NETLINK_ROUTE: u32 = 0;
    match family {
        AF_UNIX | AF_INET | AF_INET6 => true,
        AF_NETLINK => protocol == NETLINK_ROUTE,
        _ => false,
    }
}

/// Whether a socket's packets meet the packet gate.
#[inline(always)]
pub const fn is_network(family: u32) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

/// `PROC_SUPER_MAGIC`; what is written below it by a process that belongs to one is that process's business.
pub const PROC: u64 = 0x9fa0;
/// `ANON_INODE_FS_MAGIC`: what `bpf()`, `io_uring_setup()` and others give out.
pub const ANONYMOUS: u64 = 0x0904_1934;

/// Whether the kernel, its programs or the cgroups are ruled by the files of a file system.
#[inline(always)]
pub const fn is_protected(magic: u64) -> bool {
    const BPF: u64 = 0xcafe_4a11;
    const CGROUP: u64 = 0x0027_e0eb;
    const CGROUP2: u64 = 0x6367_7270;
    const CONFIGFS: u64 = 0x6265_6570;
    const DEBUGFS: u64 = 0x6462_6720;
    const EFIVARFS: u64 = 0xde5e_81e4;
    const SECURITYFS: u64 = 0x7363_6673;
    const SYSFS: u64 = 0x6265_6572;
    const TRACEFS: u64 = 0x7472_6163;
    matches!(magic, BPF | CGROUP | CGROUP2 | CONFIGFS | DEBUGFS | EFIVARFS | SECURITYFS | SYSFS | TRACEFS)
}

/// Whether a character device, by the kernel's number for it, is another way to the network or into the kernel: memory, ports,
/// TUN, vhost, PPP (Documentation/admin-guide/devices.txt).
#[inline(always)]
pub const fn is_guarded_device(number: u32) -> bool {
    const MINOR_BITS: u32 = 20;
    let (major, minor) = (number >> MINOR_BITS, number & ((1 << MINOR_BITS) - 1));
    matches!((major, minor), (1, 1 | 2 | 4) | (10, 200 | 238 | 241) | (108, 0))
}

/// What of an anonymous file's name is looked at.
pub const ANONYMOUS_NAME_LEN: usize = 8;

/// Whether an anonymous file, by the beginning of its name, is one through which somebody acts as somebody else or on enforcement: a
/// ring of io_uring's, a program, map or link, a performance event.
#[inline(always)]
pub const fn is_guarded_anonymous(name: [u8; ANONYMOUS_NAME_LEN]) -> bool {
    let [a, b, c, d, e, f, g, h] = name;
    matches!(
        (a, b, c, d, e, f, g, h),
        (b'[', b'i', b'o', b'_', b'u', b'r', b'i', b'n')
            | (b'[', b'p', b'e', b'r', b'f', b'_', b'e', b'v')
            | (b'b', b'p', b'f', ..)
            | (b'b', b't', b'f', ..)
    )
}

/// Whether a session may have the kernel read a file or data of this kind, `READING_*` and `LOADING_*` (v6.1/include/linux/kernel_read_file.h):
/// firmware, which a device asks for that somebody opens, but no module, no other kernel, no policy.
#[inline(always)]
pub const fn may_load(kind: u32) -> bool {
    const FIRMWARE: u32 = 1;
    kind == FIRMWARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let key = |text| UnixKey::new(1, text);
        let path = key("/dev/log").unwrap();
        assert_eq!((path.kind, path.len, &path.name[..9]), (1, 8, &b"/dev/log\0"[..]));
        assert_ne!(key("@/dev/log"), Some(path), "an abstract socket is another one");
        assert_ne!(UnixKey::new(2, "/dev/log"), Some(path), "as is another envelope's");
        assert_eq!((key("@"), key("")), (None, None));
        let long = [b'a'; UnixKey::LONGEST + 1];
        let long = core::str::from_utf8(&long).unwrap();
        assert_eq!((key(&long[1..]).is_some(), key(long)), (true, None));
    }

    #[test]
    fn guarded_things_are_told_from_others() {
        for (family, protocol, expect) in [
            (AF_UNIX, 0, true),
            (AF_INET, 6, true),
            (AF_INET6, 17, true),
            (AF_NETLINK, 0, true),
            (AF_NETLINK, 6, false),
            (17, 0, false),
            (40, 0, false),
            (38, 0, false),
            (0, 0, false),
        ] {
            assert_eq!(may_have(family, protocol), expect, "{family} {protocol}");
        }
        for (name, expect) in [
            (b"[io_urin", true),
            (b"bpf-map\0", true),
            (b"bpf_link", true),
            (b"btf\0\0\0\0\0", true),
            (b"[perf_ev", true),
            (b"[eventfd", false),
            (b"[pidfd]\0", false),
            (b"inotify\0", false),
        ] {
            assert_eq!(is_guarded_anonymous(*name), expect);
        }
        let device = |major: u32, minor: u32| major << 20 | minor;
        for (number, expect) in
            [(device(10, 200), true), (device(1, 1), true), (device(1, 3), false), (device(5, 0), false)]
        {
            assert_eq!(is_guarded_device(number), expect, "{number:x}");
        }
        assert!(may_load(1) && !may_load(2) && !may_load(0));
        assert!(is_protected(0xcafe_4a11) && !is_protected(PROC) && !is_protected(0xef53));
    }
}
