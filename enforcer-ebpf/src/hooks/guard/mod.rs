//! The guard: what a session may not do though no packet of its own comes of it. Sockets that no cgroup hook sees, sockets and
//! processes of others, and everything that enforcement is made of: programs, maps, pins, cgroups, the kernel's own switches.
//!
//! By BPF LSM, where it is active. That these programs load and attach says nothing: the daemon has [`process::guard_bpf`] count its own
//! calls, and takes the guard for absent if nothing is counted.
//!
//! A program runs only where those before it allowed: the kernel ends at the first that refuses (v6.1/arch/x86/net/bpf_jit_x86.c,
//! invoke_bpf_mod_ret; arm64 likewise), so none looks at what the one before it said, which is the argument whose place differs
//! between kernels. What a program allows, the modules behind it may still refuse.
//!
//! There is none for `task_alloc`: a child's process id is not known there, so that nothing can be stored for it. A child that cannot
//! be tagged is in its session's cgroup, and for the guard that is the same ([`task::current_session`]). Nor for `uring_sqpoll`: a
//! ring's thread is of the process that made it, and a ring of somebody else's cannot be received.

mod file;
mod mount;
mod process;
mod socket;
mod unix;

use enforcer_common::{
    counter::Counter,
    guard::{self, GuardHook, NameKind},
    record::{GuardRecord, RecordKind},
    rules::NO_RULE,
    verdict::{Reason, Verdict},
};

use super::packet::{pack, unpack};
use crate::{
    counters, emit,
    kernel::{file::dentry_name, task::Task},
    task,
};

/// Return code of `lsm/*`: the operation goes on, as far as we are concerned.
const PASS: i32 = 0;
/// It fails with EPERM. Written out wherever it is returned: the verifier must see that it is one (Linux 6.12).
const REFUSE: i32 = -1;

/// The session of the process that runs, as one number; 0: none.
#[inline(always)]
fn member() -> u64 {
    task::current_session().map_or(0, pack)
}

/// Whether the process that runs is a session's: then it is refused this, and that is told. What it is about is asked for only then.
#[inline(always)]
fn refuses(hook: GuardHook, about: impl FnOnce() -> About) -> bool {
    let session = member();
    if session == 0 {
        return false;
    }
    tell(hook, session, about());
    true
}

/// What a refusal is about.
#[derive(Clone, Copy)]
struct About {
    /// The process that it was to be done to; 0: none.
    target_tgid: u32,
    /// Of a socket; 0: none.
    family: u32,
    /// Of a socket its protocol, of `bpf` its command, of a signal its number.
    number: u32,
    /// The address of the file's `dentry`; 0: none.
    dentry: u64,
}

impl About {
    const NOTHING: Self = Self { target_tgid: 0, family: 0, number: 0, dentry: 0 };

    #[inline(always)]
    const fn number(number: u32) -> Self {
        Self { number, ..Self::NOTHING }
    }

    #[inline(always)]
    const fn socket(family: u32, protocol: u32) -> Self {
        Self { family, number: protocol, ..Self::NOTHING }
    }

    #[inline(always)]
    const fn dentry(dentry: u64) -> Self {
        Self { dentry, ..Self::NOTHING }
    }
}

/// Counts and records a refusal.
#[inline(always)]
fn tell(hook: GuardHook, session: u64, about: About) {
    let About { target_tgid, family, number, dentry } = about;
    let hook_and_target = (hook.raw() as u64) << 32 | target_tgid as u64;
    guard_tell(session, hook_and_target, (family as u64) << 32 | number as u64, dentry);
}

/// A function of its own, which takes numbers only, so that the kernel verifies it once for each program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guard_tell(session: u64, hook_and_target: u64, socket: u64, dentry: u64) -> u64 {
    counters::add(Counter::GuardRefused);
    let family = (socket >> 32) as u32;
    let described = family == 0 || guard::may_have(family, socket as u32);
    let reason = if described { Reason::Guarded } else { Reason::SocketType };
    emit::submit_in_place::<GuardRecord>(|record| {
        begin(record, session);
        record.hook = (hook_and_target >> 32) as u8;
        record.target_tgid = hook_and_target as u32;
        record.family = family;
        record.number = socket as u32;
        record.rule = NO_RULE;
        record.verdict = Verdict::Deny.raw();
        record.reason = reason.raw();
        record.refused = 1;
        if dentry != 0
            && let Some(len) = dentry_name(dentry, &mut record.name)
        {
            record.name_kind = NameKind::File.raw();
            record.name_len = len as u8;
        }
    });
    0
}

/// What every record of the guard says of who acts.
#[inline(always)]
fn begin(record: &mut GuardRecord, session: u64) {
    let current = Task::current();
    record.header = emit::header::<GuardRecord>(RecordKind::Guard);
    record.session = unpack(session);
    record.tgid = current.tgid();
    record.tid = current.tid();
    record.uid = current.uid();
    record.comm = emit::current_comm();
}
