//! The programs, run as the kernel runs them.

use super::*;

/// `struct seccomp_data`, and what a filter says to it: `None` is "go on".
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn of(number: c_long, arguments: &[u64]) -> Self {
        let mut call =
            Self { number: u32::try_from(number).unwrap(), architecture: AUDIT_ARCH, arguments: [0; 6] };
        call.arguments[..arguments.len()].copy_from_slice(arguments);
        call
    }

    fn socket(family: i32, kind: i32, protocol: i32) -> Self {
        Self::of(libc::SYS_socket, &[family, kind, protocol].map(number))
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16.. => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("nothing of ours is at {offset}"),
        }
    }

    /// The error that the call ends with: the first one, of several programs that refuse it.
    fn errno(&self, filter: &Filter) -> Option<i32> {
        let errors: Vec<i32> = filter.0.iter().filter_map(|program| answer(program, self)).collect();
        assert!(errors.len() < 2 || errors[0] == errors[1], "two answers to one call: {errors:?}");
        errors.first().copied()
    }
}

fn answer(program: &BpfProgram, call: &Call) -> Option<i32> {
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let instruction = &program[at];
        at += 1;
        let k = instruction.k;
        let taken = match instruction.code {
            0x20 => {
                accumulator = call.word(k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            0x06 if k == libc::SECCOMP_RET_ALLOW => return None,
            0x06 if k & !libc::SECCOMP_RET_DATA == libc::SECCOMP_RET_ERRNO => {
                return Some((k & libc::SECCOMP_RET_DATA) as i32);
            }
            code => panic!("{code:#x} {k:#x}: an answer that is neither `go on` nor an error"),
        };
        at += usize::from(if taken { instruction.jt } else { instruction.jf });
    }
}

#[track_caller]
fn check(call: Call, expected: Option<i32>) {
    let filter = Filter::compile().unwrap();
    assert_eq!(call.errno(&filter), expected);
}

const REFUSED_AS: Option<i32> = Some(libc::EPERM);
const ABSENT: Option<i32> = Some(libc::EPROTONOSUPPORT);

#[test]
fn families_of_sockets() {
    const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    const PACKET: i32 = SOCK_PACKET as i32;
    for (family, kind, protocol, expected) in [
        (libc::AF_UNIX, libc::SOCK_STREAM, 0, None),
        (libc::AF_INET, libc::SOCK_STREAM | FLAGS, 0, None),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP, None),
        // These the kernel programs refuse, and record.
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW, None),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP, None),
        (libc::AF_INET, PACKET, 3, REFUSED_AS),
        (libc::AF_INET, PACKET | FLAGS, 3, REFUSED_AS),
        (libc::AF_NETLINK, libc::SOCK_RAW | FLAGS, libc::NETLINK_ROUTE, None),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT, ABSENT),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER, ABSENT),
        (libc::AF_PACKET, libc::SOCK_RAW, 3, REFUSED_AS),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0, REFUSED_AS),
        (libc::AF_ALG, libc::SOCK_SEQPACKET, 0, REFUSED_AS),
        (libc::AF_UNSPEC, libc::SOCK_STREAM, 0, REFUSED_AS),
        (1000, libc::SOCK_STREAM, 0, REFUSED_AS),
    ] {
        check(Call::socket(family, kind, protocol), expected);
        let pair = Call { number: libc::SYS_socketpair as u32, ..Call::socket(family, kind, protocol) };
        check(pair, expected);
    }
}

/// What the kernel does not look at does not change the answer.
#[test]
fn upper_halves_of_arguments_do_not_count() {
    const UPPER: u64 = 0xdead_beef << 32;
    check(Call::of(libc::SYS_socket, &[UPPER | number(libc::AF_PACKET), UPPER | 3, UPPER]), REFUSED_AS);
    check(Call::of(libc::SYS_socket, &[UPPER | number(libc::AF_INET), UPPER | 10, UPPER]), REFUSED_AS);
    check(Call::of(libc::SYS_socket, &[UPPER | number(libc::AF_INET), UPPER | 1, UPPER]), None);
    check(Call::of(libc::SYS_ioctl, &[0, UPPER | libc::TIOCSTI, 0]), REFUSED_AS);
    check(Call::of(libc::SYS_ioctl, &[0, libc::TIOCGWINSZ, 0]), None);
}

#[test]
fn named_calls_are_refused_and_others_are_not() {
    for call in REFUSED {
        check(Call::of(*call, &[7; 6]), REFUSED_AS);
    }
    for call in [
        libc::SYS_execve,
        libc::SYS_clone3,
        libc::SYS_connect,
        libc::SYS_ptrace,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_seccomp,
        libc::SYS_landlock_restrict_self,
        libc::SYS_exit_group,
    ] {
        check(Call::of(call, &[7; 6]), None);
    }
}

#[test]
fn other_sets_of_calls_are_refused() {
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    for number in [0, 3, 20, 102, 359] {
        check(Call { architecture: AUDIT_ARCH_I386, ..Call::of(number, &[]) }, REFUSED_AS);
        check(Call::of(number | i64::from(FIRST_X32), &[]), REFUSED_AS);
    }
    check(Call { number: NO_CALL, ..Call::of(0, &[]) }, None);
    check(Call { number: NO_CALL - 1, ..Call::of(0, &[]) }, REFUSED_AS);
}
