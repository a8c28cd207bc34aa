//! Cgroup to session: of a task, and of a socket, which remembers the one that it was made in.

use enforcer_common::identity::SessionRef;

use crate::{
    config,
    maps::{CGROUPS, LEVELS},
};

/// The levels at which other people's cgroups can be sessions': as many as are looked at.
const MAX_LEVELS: u32 = 16;

/// The session of a cgroup, given the ids of its ancestors by level; `None` if it has none.
///
/// In one of our own cgroups that has no session any more: [`SessionRef::UNKNOWN`], which is refused everything.
#[inline(always)]
pub(crate) fn session_of(ancestor: impl Fn(u32) -> u64) -> Option<SessionRef> {
    let (parent_id, level) = config::cgroup_parent();
    if ancestor(level) == parent_id {
        return Some(find(ancestor(level + 1)).unwrap_or(SessionRef::UNKNOWN));
    }
    let Some(mut levels) = LEVELS.get(0).copied() else {
        return Some(SessionRef::UNKNOWN);
    };
    // From the root down: usually no level at all.
    for _ in 0..MAX_LEVELS {
        if levels == 0 {
            break;
        }
        let level = lowest_bit(levels);
        levels &= levels - 1;
        if let Some(session) = find(ancestor(level)) {
            return Some(session);
        }
    }
    None
}

#[inline(always)]
fn find(cgroup: u64) -> Option<SessionRef> {
    let session = CGROUPS.get_ptr(cgroup)?;
    // SAFETY: a map value; the daemon may remove it at the same time, and then this reads the entry of another session. The
    // answer is a refusal for either.
    Some(unsafe { *session })
}

/// The number of the lowest bit that is set, without the table that the compiler would make of `trailing_zeros`.
#[inline(always)]
const fn lowest_bit(bits: u64) -> u32 {
    let lowest = bits & bits.wrapping_neg();
    let mut number = 0;
    number += (lowest & 0xffff_ffff_0000_0000 != 0) as u32 * 32;
    number += (lowest & 0xffff_0000_ffff_0000 != 0) as u32 * 16;
    number += (lowest & 0xff00_ff00_ff00_ff00 != 0) as u32 * 8;
    number += (lowest & 0xf0f0_f0f0_f0f0_f0f0 != 0) as u32 * 4;
    number += (lowest & 0xcccc_cccc_cccc_cccc != 0) as u32 * 2;
    number += (lowest & 0xaaaa_aaaa_aaaa_aaaa != 0) as u32;
    number
}
