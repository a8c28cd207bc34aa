//! The layout of everything that crosses the kernel boundary, as text under review. A change here is a change of the
//! ABI: bump `ABI_VERSION` with it.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};

use enforcer_common::{
    ABI_VERSION, config::*, flow::*, guard::*, identity::*, image::*, record::*, rules::*, session::*,
};

macro_rules! describe {
    ($out:ident, $($ty:ty { $($field:ident),+ $(,)? })+) => {
        $(
            write!($out, "{} {}:", stringify!($ty), size_of::<$ty>()).unwrap();
            $( write!($out, " {}@{}", stringify!($field), offset_of!($ty, $field)).unwrap(); )+
            $out.push('\n');
        )+
    };
}

#[test]
fn layout_is_as_reviewed() {
    let mut text = format!("abi {ABI_VERSION}\n");
    describe!(text,
        SessionRef { slot, generation }
        TaskTag { start_ns, session, parent_tgid, pad, image }
        EnrolRequest { session, tgid, kind }
        SocketTag { adopted, told, barred }
        Told { control, remote_high, remote_low, remote_port, local_port, direction, reason, protocol, family }
        HeldSocket { cookie, tgid, fd, netns, family, protocol, native, adopted, pad }
        SessionRow { id, expires_ns, cgroup_id, cgroup_level, depth, ancestors }
        Usage { connections, rate_due_ns, bytes_out, bytes_in }
        Block { words }
        RecordHeader { time_ns, sequence, lost, abi, kind, len_bytes, cpu, pad }
        EgressRecord {
            header, cookie, session, tgid, tid, uid, rule, envelope, netns, protocol, port_be,
            local_port_be, placement, foreign, address, family, socket_type, operation, verdict, reason, refused, pad, comm
        }
        ForkRecord { header, session, child_start_ns, parent_tgid, child_tgid, comm, untagged, pad }
        ExecRecord { header, session, tgid, uid, comm, path_len, path_cut, image_state, script, pad, start_ns, ticket, envelope, pad2, image, path }
        ExitRecord { header, session, tgid, wait_status, comm }
        GuardRecord {
            header, session, tgid, tid, uid, rule, envelope, target_tgid, family, number, hook, verdict, reason, refused,
            name_kind, name_len, pad, name, comm, pad2
        }
        ConnectionRecord {
            header, session, cookie, bytes_out, bytes_in, tgid, tid, uid, netns, packets_out, packets_in, address, port_be,
            local_port_be, family, change, was, foreign, comm
        }
        FlowKey { period, session, cookie, remote_high, remote_low, remote_port, family, protocol, reason, operation, pad }
        Flow { first_ns, last_ns, packets_out, bytes_out, packets_in, bytes_in, rule, envelope, tgid, local_port, flags }
        UnixKey { envelope, kind, len, name }
        Canary { tgid, pad, hits }
        Offsets {
            task_pid, task_tgid, task_group_leader, task_start_boottime, task_signal, task_exit_code, task_comm,
            signal_live, binprm_filename, task_real_parent, task_cgroups, task_cred, cred_uid, task_nsproxy,
            nsproxy_net_ns, css_set_dfl_cgrp, cgroup_kn, cgroup_level, cgroup_ancestors, kernfs_node_id, sock_cgroup,
            sock_net, sock_family, sock_protocol, sock_lock_owned, sock_socket, sock_kern_byte, sock_kern_mask, net_inum, socket_sk, socket_file,
            binprm_interp, binprm_file, file_inode, inode_sb, super_block_dev, inode_ino, inode_size, inode_ctime_s,
            inode_ctime_ns, inode_mtime_s, inode_mtime_ns, sock_dport, sock_num, sock_daddr, sock_rcv_saddr, sock_v6_daddr,
            sock_v6_rcv_saddr, tcp_bytes_sent, tcp_bytes_retrans, tcp_bytes_received, tcp_segs_out, tcp_segs_in, sock_flags, inet_sport, pad
        }
        ImageId { inode, size_bytes, ctime_s, mtime_s, ctime_ns, mtime_ns, device, pad }
        ImageKey { list, image }
        Ticket { image, session, start_ns, answer, tgid, stopped, script }
        GuardOffsets {
            file_inode, file_mode, file_dentry, inode_mode, inode_rdev, inode_sb, super_block_magic, dentry_name,
            proc_inode_pid, proc_inode_vfs_inode, cred_user_ns, user_namespace_level, unix_sock_addr, unix_address_len,
            unix_address_name, pad
        }
        Config { offsets, guard, cgroup_parent_id, cgroup_parent_level, pad }
        Meta { abi, pad, magic, digest }
    );
    assert_eq!(text, include_str!("layout.txt"), "the ABI changed; now:\n{text}");
}
