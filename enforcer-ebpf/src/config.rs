//! Values fixed at load. The loader overwrites [`CONFIG`] before the map behind it is frozen, so the verifier takes each
//! field for a constant and can check a load at such an offset against the kernel's own types.

use enforcer_common::config::{Config, GuardOffsets, Offsets};

/// Set by the loader; an object loaded without it has offsets that the verifier refuses.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = Config {
    offsets: Offsets {
        task_pid: u32::MAX,
        task_tgid: u32::MAX,
        task_group_leader: u32::MAX,
        task_start_boottime: u32::MAX,
        task_signal: u32::MAX,
        task_exit_code: u32::MAX,
        task_comm: u32::MAX,
        signal_live: u32::MAX,
        binprm_filename: u32::MAX,
        task_real_parent: u32::MAX,
        task_cgroups: u32::MAX,
        task_cred: u32::MAX,
        cred_uid: u32::MAX,
        task_nsproxy: u32::MAX,
        nsproxy_net_ns: u32::MAX,
        css_set_dfl_cgrp: u32::MAX,
        cgroup_kn: u32::MAX,
        cgroup_level: u32::MAX,
        cgroup_ancestors: u32::MAX,
        kernfs_node_id: u32::MAX,
        sock_cgroup: u32::MAX,
        sock_net: u32::MAX,
        sock_family: u32::MAX,
        sock_protocol: u32::MAX,
        sock_lock_owned: u32::MAX,
        sock_socket: u32::MAX,
        sock_kern_byte: u32::MAX,
        sock_kern_mask: 0,
        net_inum: u32::MAX,
        socket_sk: u32::MAX,
        socket_file: u32::MAX,
        binprm_interp: u32::MAX,
        binprm_file: u32::MAX,
        file_inode: u32::MAX,
        inode_sb: u32::MAX,
        super_block_dev: u32::MAX,
        inode_ino: u32::MAX,
        inode_size: u32::MAX,
        inode_ctime_s: u32::MAX,
        inode_ctime_ns: u32::MAX,
        inode_mtime_s: u32::MAX,
        inode_mtime_ns: u32::MAX,
        sock_dport: u32::MAX,
        sock_num: u32::MAX,
        sock_daddr: u32::MAX,
        sock_rcv_saddr: u32::MAX,
        sock_v6_daddr: u32::MAX,
        sock_v6_rcv_saddr: u32::MAX,
        tcp_bytes_sent: u32::MAX,
        tcp_bytes_retrans: u32::MAX,
        tcp_bytes_received: u32::MAX,
        tcp_segs_out: u32::MAX,
        tcp_segs_in: u32::MAX,
        sock_flags: u32::MAX,
        inet_sport: u32::MAX,
        pad: 0,
    },
    guard: GuardOffsets::UNKNOWN,
    cgroup_parent_id: 0,
    cgroup_parent_level: 0,
    pad: 0,
};

/// Reads one field as it is after loading, not as it was compiled.
macro_rules! loaded {
    ($($field:ident).+) => {
        // SAFETY: a field of an initialised static; volatile, because the loader changes the bytes behind the compiler.
        unsafe { core::ptr::read_volatile(&raw const $crate::config::CONFIG.$($field).+) }
    };
}
pub(crate) use loaded;

/// The cgroup whose children are the sessions' cgroups.
#[inline(always)]
pub(crate) fn cgroup_parent() -> (u64, u32) {
    (loaded!(cgroup_parent_id), loaded!(cgroup_parent_level))
}
