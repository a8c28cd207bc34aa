//! Which capabilities a session may have. A list of those that stay: what a later kernel adds is given up as well.

#![expect(unsafe_code, reason = "the C library has no functions for capabilities")]

use std::io;

use super::ConfinementError;

/// What a session that runs as root needs for ordinary work, and what does not reach past the session's own files and
/// processes any further than root's files do. Numbers from v6.1/include/uapi/linux/capability.h. `docs/confinement.md` has the reasons.
const KEPT: &[u32] = &[
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    10, // CAP_NET_BIND_SERVICE
    18, // CAP_SYS_CHROOT
    31, // CAP_SETFCAP
];

/// The third version of the structures below, with 64 capabilities in two halves.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    /// 0: the calling thread.
    tid: i32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes from the bounding set what does not stay. Before a change of user, which takes the capability that this needs.
///
/// Whoever has not got that capability keeps the set. That gives nothing away: with `no_new_privs` an execution adds nothing to
/// the permitted set (v6.1/security/commoncap.c, `cap_bprm_creds_from_file`), which [`limit_own`] has cut.
pub(crate) fn limit_bounding() -> Result<(), ConfinementError> {
    for capability in (0..u64::BITS).filter(|capability| !KEPT.contains(capability)) {
        // SAFETY: takes no pointer, and changes a set of this thread only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        let error = io::Error::last_os_error();
        match (result, error.raw_os_error()) {
            (0, _) => {}
            // The kernel has no capability of this number, nor of a higher one.
            (_, Some(libc::EINVAL)) => break,
            (_, Some(libc::EPERM)) => return Ok(()),
            _ => return Err(ConfinementError::Capabilities(error)),
        }
    }
    Ok(())
}

/// Takes from this thread's own sets what does not stay. The ambient set follows: the kernel holds it within the permitted
/// and the inheritable one.
pub(crate) fn limit_own() -> Result<(), ConfinementError> {
    let mut header = Header { version: VERSION, tid: 0 };
    let mut sets = [Half::default(); 2];
    // SAFETY: the kernel reads the header, and writes two halves for this version of it.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    check(got)?;
    for (half, kept) in sets.iter_mut().zip(kept_halves()) {
        half.effective &= kept;
        half.permitted &= kept;
        half.inheritable &= kept;
    }
    // SAFETY: the kernel reads the header and, for this version of it, two halves.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    check(set)
}

/// [`KEPT`] as a bit each, in the kernel's two halves.
fn kept_halves() -> [u32; 2] {
    let mut halves = [0; 2];
    for capability in KEPT {
        for (half, word) in (0_u32..).zip(&mut halves) {
            *word |=
                capability.checked_sub(half * u32::BITS).and_then(|bit| 1_u32.checked_shl(bit)).unwrap_or(0);
        }
    }
    halves
}

fn check(result: libc::c_long) -> Result<(), ConfinementError> {
    if result == 0 { Ok(()) } else { Err(ConfinementError::Capabilities(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_capabilities_are_the_bits_that_the_kernel_counts() {
        // What `capsh --decode` calls chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
        // sys_chroot, setfcap.
        assert_eq!(kept_halves(), [0x8004_05fb, 0]);
    }
}
