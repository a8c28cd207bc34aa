//! Values that are fixed when the kernel programs are loaded.

use crate::kernel_pod;

/// Where the running kernel keeps what the programs read, in bytes from the start of the structure. Found in the
/// kernel's own BTF by the loader; constant to the verifier, which checks every access against the same BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.pid`: the thread.
    pub task_pid: u32,
    /// `task_struct.tgid`: the process.
    pub task_tgid: u32,
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`, ns.
    pub task_start_boottime: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `task_struct.exit_code`.
    pub task_exit_code: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `signal_struct.live.counter`: threads that have not begun to exit.
    pub signal_live: u32,
    /// `linux_binprm.filename`.
    pub binprm_filename: u32,
    /// `task_struct.real_parent`.
    pub task_real_parent: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    /// `task_struct.cred`.
    pub task_cred: u32,
    /// `cred.uid`.
    pub cred_uid: u32,
    /// `task_struct.nsproxy`.
    pub task_nsproxy: u32,
    /// `nsproxy.net_ns`.
    pub nsproxy_net_ns: u32,
    /// `css_set.dfl_cgrp`.
    pub css_set_dfl_cgrp: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `cgroup.level`.
    pub cgroup_level: u32,
    /// `cgroup.ancestors`.
    pub cgroup_ancestors: u32,
    /// `kernfs_node.id`.
    pub kernfs_node_id: u32,
    /// `sock.sk_cgrp_data.cgroup`.
    pub sock_cgroup: u32,
    /// `sock.__sk_common.skc_net.net`.
    pub sock_net: u32,
    /// `sock.__sk_common.skc_family`.
    pub sock_family: u32,
    /// `sock.sk_protocol`.
    pub sock_protocol: u32,
    /// `sock.sk_lock.owned`.
    pub sock_lock_owned: u32,
    /// `sock.sk_socket`.
    pub sock_socket: u32,
    /// The byte of `sock.sk_kern_sock`, a bit.
    pub sock_kern_byte: u32,
    /// That bit, as a number.
    pub sock_kern_mask: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `socket.sk`.
    pub socket_sk: u32,
    /// `socket.file`.
    pub socket_file: u32,
    /// `linux_binprm.interp`.
    pub binprm_interp: u32,
    /// `linux_binprm.file`.
    pub binprm_file: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `inode.i_sb`.
    pub inode_sb: u32,
    /// `super_block.s_dev`.
    pub super_block_dev: u32,
    /// `inode.i_ino`.
    pub inode_ino: u32,
    /// `inode.i_size`.
    pub inode_size: u32,
    /// The seconds of an inode's last change, by the name that the kernel has for it.
    pub inode_ctime_s: u32,
    /// Likewise the nanoseconds.
    pub inode_ctime_ns: u32,
    /// Likewise of its content.
    pub inode_mtime_s: u32,
    /// Likewise.
    pub inode_mtime_ns: u32,
    /// `sock.__sk_common.skc_dport`, network order.
    pub sock_dport: u32,
    /// `sock.__sk_common.skc_num`, host order: our own port.
    pub sock_num: u32,
    /// `sock.__sk_common.skc_daddr`.
    pub sock_daddr: u32,
    /// `sock.__sk_common.skc_rcv_saddr`.
    pub sock_rcv_saddr: u32,
    /// `sock.__sk_common.skc_v6_daddr`.
    pub sock_v6_daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`.
    pub sock_v6_rcv_saddr: u32,
    /// `tcp_sock.bytes_sent`.
    pub tcp_bytes_sent: u32,
    /// `tcp_sock.bytes_retrans`: how much of it was sent again.
    pub tcp_bytes_retrans: u32,
    /// `tcp_sock.bytes_received`.
    pub tcp_bytes_received: u32,
    /// `tcp_sock.segs_out`.
    pub tcp_segs_out: u32,
    /// `tcp_sock.segs_in`.
    pub tcp_segs_in: u32,
    /// `sock.__sk_common.skc_flags`.
    pub sock_flags: u32,
    /// `inet_sock.inet_sport`, network order: our own port, also when the socket has given it back.
    pub inet_sport: u32,
    /// Always zero.
    pub pad: u32,
}

/// Likewise, what only the guard reads. Apart, because a kernel that lacks one of these can still do everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuardOffsets {
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `file.f_mode`.
    pub file_mode: u32,
    /// `file.f_path.dentry`.
    pub file_dentry: u32,
    /// `inode.i_mode`.
    pub inode_mode: u32,
    /// `inode.i_rdev`.
    pub inode_rdev: u32,
    /// `inode.i_sb`.
    pub inode_sb: u32,
    /// `super_block.s_magic`.
    pub super_block_magic: u32,
    /// `dentry.d_name.name`.
    pub dentry_name: u32,
    /// `proc_inode.pid`.
    pub proc_inode_pid: u32,
    /// `proc_inode.vfs_inode`.
    pub proc_inode_vfs_inode: u32,
    /// `cred.user_ns`.
    pub cred_user_ns: u32,
    /// `user_namespace.level`.
    pub user_namespace_level: u32,
    /// `unix_sock.addr`.
    pub unix_sock_addr: u32,
    /// `unix_address.len`.
    pub unix_address_len: u32,
    /// `unix_address.name`.
    pub unix_address_name: u32,
    /// Always zero.
    pub pad: u32,
}

impl GuardOffsets {
    /// Nothing is known: the verifier refuses a program that reads at such an offset.
    pub const UNKNOWN: Self = Self {
        file_inode: u32::MAX,
        file_mode: u32::MAX,
        file_dentry: u32::MAX,
        inode_mode: u32::MAX,
        inode_rdev: u32::MAX,
        inode_sb: u32::MAX,
        super_block_magic: u32::MAX,
        dentry_name: u32::MAX,
        proc_inode_pid: u32::MAX,
        proc_inode_vfs_inode: u32::MAX,
        cred_user_ns: u32::MAX,
        user_namespace_level: u32::MAX,
        unix_sock_addr: u32::MAX,
        unix_address_len: u32::MAX,
        unix_address_name: u32::MAX,
        pad: 0,
    };
}

/// The one global that the loader sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    pub offsets: Offsets,
    pub guard: GuardOffsets,
    /// The id of the cgroup whose children are the sessions' cgroups.
    pub cgroup_parent_id: u64,
    /// Its depth below the root of the hierarchy.
    pub cgroup_parent_level: u32,
    /// Always zero.
    pub pad: u32,
}

/// What a pinned set of maps says about itself; the one value of `META`. The first field is the ABI version and always
/// will be, so that any later build can read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// [`crate::ABI_VERSION`] of the programs.
    pub abi: u16,
    /// Always zero.
    pub pad: [u8; 6],
    /// Spells `enforcer`: tells our map from another program's with the same name.
    pub magic: [u8; 8],
    /// SHA-256 of the object file and the [`Config`] it was loaded with.
    pub digest: [u8; 32],
}

impl Meta {
    /// The value of `magic`.
    pub const MAGIC: [u8; 8] = *b"enforcer";
}

/// Sessions at one time on one host.
pub const MAX_SESSIONS: u32 = 16_384;

kernel_pod!(Offsets: 224, GuardOffsets: 64, Config: 304, Meta: 48);
