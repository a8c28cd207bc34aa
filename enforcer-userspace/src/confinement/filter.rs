//! The seccomp filter: system calls that a session cannot make. `docs/confinement.md` says of each why.
//!
//! It lets through everything that it does not name, and never refuses a TCP, UDP or other IP socket: that is for the kernel
//! programs, which record it. All arguments that it looks at are 32 bits wide in the kernel, so it compares no more: otherwise bits
//! that the kernel ignores would change the answer.

#![expect(unsafe_code, reason = "asking for seccomp has no safe wrapper")]

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::ConfinementError;

/// The architecture as the kernel names it to a filter (v6.1/include/uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp filter is written for x86-64 and arm64");

/// From here on the numbers are those of x32, a second set of calls under the same architecture. No other architecture has
/// calls up there.
const FIRST_X32: u32 = 0x4000_0000;
/// What a debugger sets to have a call skipped.
const NO_CALL: u32 = u32::MAX;

/// Refused whatever their arguments.
const REFUSED: &[c_long] = &[
    // Opens sockets, and more, by itself: this filter does not see what is asked of a ring.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Programs, maps, links: the enforcer's own among them. Performance events are how programs get into the kernel otherwise.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // Another kernel, or other code in this one.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    // Sockets and memory of other processes.
    libc::SYS_pidfd_getfd,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // Opens files past the directories that hold them.
    libc::SYS_open_by_handle_at,
    // Holds the kernel up in the middle of a copy, which is what exploits use it for.
    libc::SYS_userfaultfd,
    // Keys of whoever called `run`; and `request_key` has the kernel start a program outside the session, which looks up names.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Mounts. Landlock refuses most of them; this makes it the same on every kernel.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
];

/// The families of sockets that there may be.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The type that makes `AF_INET` mean `AF_PACKET` (v6.1/net/socket.c, `__sock_create`). Deprecated in the C library, not in the kernel.
const SOCK_PACKET: u64 = 10;
/// What of a socket's type is the type; the rest are flags (v6.1/include/linux/net.h).
const SOCK_TYPE_MASK: u64 = 0xf;

/// Two programs, since one can answer with one error only.
#[derive(Debug)]
pub(super) struct Filter([BpfProgram; 2]);

impl Filter {
    pub(super) fn compile() -> Result<Self, ConfinementError> {
        let refused = refused().and_then(|rules| program(rules, libc::EPERM));
        // What a kernel says that has not got the protocol. Of the audit protocol programs believe it and go on; told that they
        // may not, `useradd` and `su` end.
        let absent = absent().and_then(|rules| program(rules, libc::EPROTONOSUPPORT));
        let programs = refused.and_then(|refused| Ok([refused, absent?]));
        programs.map(Self).map_err(ConfinementError::Compile)
    }

    pub(super) fn install(&self) -> Result<(), ConfinementError> {
        self.0
            .iter()
            .try_for_each(|program| seccompiler::apply_filter(program))
            .map_err(ConfinementError::Install)
    }
}

/// Whether the kernel has filters that answer with an error.
pub(crate) fn available() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one number, and changes nothing.
    let found =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    found == 0
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn refused() -> Result<Rules, BackendError> {
    // No rule: any argument.
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let foreign = FAMILIES.iter().map(|family| argument(0, SeccompCmpOp::Ne, number(*family)));
    let foreign = SeccompRule::new(foreign.collect::<Result<_, _>>()?)?;
    let packet = SeccompRule::new(vec![
        argument(0, SeccompCmpOp::Eq, number(libc::AF_INET))?,
        argument(1, SeccompCmpOp::MaskedEq(SOCK_TYPE_MASK), SOCK_PACKET)?,
    ])?;
    rules.insert(libc::SYS_socket, vec![foreign.clone(), packet.clone()]);
    rules.insert(libc::SYS_socketpair, vec![foreign, packet]);
    // Typing on the terminal of whoever called `run`, for its shell to execute once the session is over.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        argument(1, SeccompCmpOp::Eq, request).and_then(|condition| SeccompRule::new(vec![condition]))
    });
    rules.insert(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// Protocols of netlink other than the one that look-ups of names and interfaces need.
fn absent() -> Result<Rules, BackendError> {
    let rule = SeccompRule::new(vec![
        argument(0, SeccompCmpOp::Eq, number(libc::AF_NETLINK))?,
        argument(2, SeccompCmpOp::Ne, number(libc::NETLINK_ROUTE))?,
    ])?;
    Ok(BTreeMap::from([(libc::SYS_socket, vec![rule.clone()]), (libc::SYS_socketpair, vec![rule])]))
}

fn argument(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
}

/// A constant of the C library's, none of which is negative, as the kernel sees it.
fn number(constant: i32) -> u64 {
    u64::from(constant.cast_unsigned())
}

/// Calls of another architecture or of x32 have other numbers, and are refused before a number is looked at: `seccompiler` would
/// kill the process for the first, and let the second through.
fn program(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    // `struct seccomp_data`
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let instruction = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE, 0, 0),
        instruction(IF_EQUAL, AUDIT_ARCH, 1, 0),
        instruction(RETURN, u32::from(refuse.clone()), 0, 0),
        instruction(LOAD, NUMBER, 0, 0),
        instruction(IF_AT_LEAST, FIRST_X32, 0, 2),
        instruction(IF_EQUAL, NO_CALL, 1, 0),
        instruction(RETURN, u32::from(refuse), 0, 0),
    ];
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let answer = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, architecture)?;
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

#[cfg(test)]
mod tests;
