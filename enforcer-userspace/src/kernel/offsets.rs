//! Where the running kernel keeps the fields that the programs read, from its own BTF.

use std::path::Path;

use btf_rs::{Btf, Member, Type};
use enforcer_common::config::{GuardOffsets, Offsets};

/// The running kernel's type information.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OffsetError {
    #[error("read the kernel's type information at `{KERNEL_BTF}`")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the kernel's type information has no `{structure}.{field}`")]
    Missing { structure: &'static str, field: &'static str },
}

/// Finds every offset, or says which one the kernel does not have.
pub(crate) fn kernel_offsets() -> Result<Offsets, OffsetError> {
    let btf = Btf::from_file(Path::new(KERNEL_BTF)).map_err(|error| OffsetError::Read(error.into()))?;
    let find = |structure, field| offset(&btf, structure, field);
    let kern_bit = bits(&btf, "sock", "sk_kern_sock")?;
    Ok(Offsets {
        task_pid: find("task_struct", "pid")?,
        task_tgid: find("task_struct", "tgid")?,
        task_group_leader: find("task_struct", "group_leader")?,
        task_start_boottime: find("task_struct", "start_boottime")?,
        task_signal: find("task_struct", "signal")?,
        task_exit_code: find("task_struct", "exit_code")?,
        task_comm: find("task_struct", "comm")?,
        signal_live: find("signal_struct", "live.counter")?,
        binprm_filename: find("linux_binprm", "filename")?,
        task_real_parent: find("task_struct", "real_parent")?,
        task_cgroups: find("task_struct", "cgroups")?,
        task_cred: find("task_struct", "cred")?,
        cred_uid: find("cred", "uid.val")?,
        task_nsproxy: find("task_struct", "nsproxy")?,
        nsproxy_net_ns: find("nsproxy", "net_ns")?,
        css_set_dfl_cgrp: find("css_set", "dfl_cgrp")?,
        cgroup_kn: find("cgroup", "kn")?,
        cgroup_level: find("cgroup", "level")?,
        cgroup_ancestors: find("cgroup", "ancestors")?,
        kernfs_node_id: find("kernfs_node", "id")?,
        sock_cgroup: find("sock", "sk_cgrp_data.cgroup")?,
        sock_net: find("sock", "__sk_common.skc_net.net")?,
        sock_family: find("sock", "__sk_common.skc_family")?,
        sock_protocol: find("sock", "sk_protocol")?,
        sock_lock_owned: find("sock", "sk_lock.owned")?,
        sock_socket: find("sock", "sk_socket")?,
        sock_kern_byte: kern_bit / 8,
        // Numbered from the lowest, as every machine that this is built for has it.
        sock_kern_mask: 1 << (kern_bit % 8),
        net_inum: find("net", "ns.inum")?,
        socket_sk: find("socket", "sk")?,
        socket_file: find("socket", "file")?,
        binprm_interp: find("linux_binprm", "interp")?,
        binprm_file: find("linux_binprm", "file")?,
        file_inode: find("file", "f_inode")?,
        inode_sb: find("inode", "i_sb")?,
        super_block_dev: find("super_block", "s_dev")?,
        inode_ino: find("inode", "i_ino")?,
        inode_size: find("inode", "i_size")?,
        inode_ctime_s: first(&btf, "inode", CHANGED_S)?,
        inode_ctime_ns: first(&btf, "inode", CHANGED_NS)?,
        inode_mtime_s: first(&btf, "inode", MODIFIED_S)?,
        inode_mtime_ns: first(&btf, "inode", MODIFIED_NS)?,
        sock_dport: find("sock", "__sk_common.skc_dport")?,
        sock_num: find("sock", "__sk_common.skc_num")?,
        sock_daddr: find("sock", "__sk_common.skc_daddr")?,
        sock_rcv_saddr: find("sock", "__sk_common.skc_rcv_saddr")?,
        sock_v6_daddr: find("sock", "__sk_common.skc_v6_daddr")?,
        sock_v6_rcv_saddr: find("sock", "__sk_common.skc_v6_rcv_saddr")?,
        tcp_bytes_sent: find("tcp_sock", "bytes_sent")?,
        tcp_bytes_retrans: find("tcp_sock", "bytes_retrans")?,
        tcp_bytes_received: find("tcp_sock", "bytes_received")?,
        tcp_segs_out: find("tcp_sock", "segs_out")?,
        tcp_segs_in: find("tcp_sock", "segs_in")?,
        sock_flags: find("sock", "__sk_common.skc_flags")?,
        inet_sport: find("inet_sock", "inet_sport")?,
        pad: 0,
    })
}

/// The names that kernels have for the times of an inode: Linux 6.6 renamed the one, 6.7 the other, 6.11 took both apart. Of the
/// nanoseconds, which are a `long` in the earlier ones, the lower half is read.
const CHANGED_S: &[&str] = &["i_ctime_sec", "__i_ctime.tv_sec", "i_ctime.tv_sec"];
const CHANGED_NS: &[&str] = &["i_ctime_nsec", "__i_ctime.tv_nsec", "i_ctime.tv_nsec"];
const MODIFIED_S: &[&str] = &["i_mtime_sec", "__i_mtime.tv_sec", "i_mtime.tv_sec"];
const MODIFIED_NS: &[&str] = &["i_mtime_nsec", "__i_mtime.tv_nsec", "i_mtime.tv_nsec"];

/// The offset of the first of these fields that there is.
fn first(btf: &Btf, structure: &'static str, paths: &[&'static str]) -> Result<u32, OffsetError> {
    let found = paths.iter().find_map(|path| offset(btf, structure, path).ok());
    found.ok_or(OffsetError::Missing { structure, field: paths.first().copied().unwrap_or_default() })
}

/// Likewise what the guard reads.
pub(crate) fn guard_offsets() -> Result<GuardOffsets, OffsetError> {
    let btf = Btf::from_file(Path::new(KERNEL_BTF)).map_err(|error| OffsetError::Read(error.into()))?;
    let find = |structure, field| offset(&btf, structure, field);
    Ok(GuardOffsets {
        file_inode: find("file", "f_inode")?,
        file_mode: find("file", "f_mode")?,
        file_dentry: find("file", "f_path.dentry")?,
        inode_mode: find("inode", "i_mode")?,
        inode_rdev: find("inode", "i_rdev")?,
        inode_sb: find("inode", "i_sb")?,
        super_block_magic: find("super_block", "s_magic")?,
        dentry_name: find("dentry", "d_name.name")?,
        proc_inode_pid: find("proc_inode", "pid")?,
        proc_inode_vfs_inode: find("proc_inode", "vfs_inode")?,
        cred_user_ns: find("cred", "user_ns")?,
        user_namespace_level: find("user_namespace", "level")?,
        unix_sock_addr: find("unix_sock", "addr")?,
        unix_address_len: find("unix_address", "len")?,
        unix_address_name: find("unix_address", "name")?,
        pad: 0,
    })
}

/// The offset in bytes of a field, or of a field of a field: `path` has a dot for each step.
fn offset(btf: &Btf, structure: &'static str, path: &'static str) -> Result<u32, OffsetError> {
    match bits(btf, structure, path)? {
        bits if bits % 8 == 0 => Ok(bits / 8),
        _ => Err(OffsetError::Missing { structure, field: path }),
    }
}

/// Likewise in bits.
fn bits(btf: &Btf, structure: &'static str, path: &'static str) -> Result<u32, OffsetError> {
    let types = btf.resolve_types_by_name(structure).map_err(|error| OffsetError::Read(error.into()))?;
    types
        .into_iter()
        .find_map(|ty| match ty {
            Type::Struct(found) => bits_of(btf, &found.members, path),
            _ => None,
        })
        .ok_or(OffsetError::Missing { structure, field: path })
}

/// Looks into anonymous members as well (`task_struct` has one where its layout is randomised).
fn bits_of(btf: &Btf, members: &[Member], path: &str) -> Option<u32> {
    let (wanted, rest) = path.split_once('.').map_or((path, None), |(wanted, rest)| (wanted, Some(rest)));
    members.iter().find_map(|member| {
        // An anonymous member has no name to resolve.
        let name = btf.resolve_name(member).unwrap_or_default();
        let inner = match (name.as_str(), rest) {
            (name, None) if name == wanted => return Some(member.bit_offset()),
            (name, Some(rest)) if name == wanted => rest,
            ("", _) => path,
            _ => return None,
        };
        // Behind type definitions and qualifiers, but not behind a pointer.
        let mut types = btf.type_iter(member).take_while(|ty| !matches!(ty, Type::Ptr(_)));
        let members = types.find_map(|ty| match ty {
            Type::Struct(found) | Type::Union(found) => Some(found.members),
            _ => None,
        })?;
        Some(member.bit_offset() + bits_of(btf, &members, inner)?)
    })
}
