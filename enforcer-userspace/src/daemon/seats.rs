//! How many connections to each socket may be open, and whose.

use enforcer_common::identity::{SessionRef, TaskTag};

use crate::{
    cgroup::Cgroups,
    control::{
        gate::{Party, Seat, SeatOf},
        peer::Peer,
    },
    kernel::Tags,
    procfs,
};

/// To the control socket, of root outside sessions.
const CONTROL_ROOT: usize = 128;
/// Of one other user outside sessions.
const CONTROL_USER: usize = 32;
/// Of all other users together.
const CONTROL_OUTSIDE: usize = 128;
/// Of one session: it may hand on a part of what it has.
const CONTROL_SESSION: usize = 4;
/// Of all sessions together.
const CONTROL_SESSIONS: usize = 256;
/// Of processes of which it is not known whose they are: enough to be told no.
const CONTROL_UNKNOWN: usize = 8;
/// To the workload socket, of one session.
const WORKLOAD_SESSION: usize = 8;
/// Of one user outside sessions: enough to be told no.
const WORKLOAD_USER: usize = 16;
/// Of all users together.
const WORKLOAD_OUTSIDE: usize = 256;

/// Whose a process is, as far as can be told without the daemon's loop.
enum Whose {
    Session(String),
    Unknown,
    Nobodys { uid: u32 },
}

/// By its tag, wherever it stands; or else by its cgroup.
fn whose(peer: Option<&Peer>, tags: &Tags, cgroups: &Cgroups) -> Whose {
    let Some(Peer { pid, uid, .. }) = peer else { return Whose::Unknown };
    let Ok(tag) = tags.of(*pid) else { return Whose::Unknown };
    if let Some(TaskTag { session: SessionRef { slot, generation }, .. }) = tag {
        return Whose::Session(format!("{slot}.{generation}"));
    }
    let Ok(Some(cgroup)) = procfs::cgroup2_of(*pid) else { return Whose::Unknown };
    match cgroups.session_of(&cgroup) {
        Some(id) => Whose::Session(id),
        None if cgroups.holds(&cgroup) => Whose::Unknown,
        None => Whose::Nobodys { uid: *uid },
    }
}

/// Operators have places that no session can take, root has some that no other user can, and each session has its own.
pub(super) fn control(tags: Tags, cgroups: Cgroups) -> SeatOf {
    Box::new(move |peer| match whose(peer, &tags, &cgroups) {
        Whose::Session(id) => {
            let parties = [(Party::Session(id), CONTROL_SESSION), (Party::Sessions, CONTROL_SESSIONS)];
            Seat { parties: parties.into(), inside: true }
        }
        Whose::Unknown => Seat { parties: vec![(Party::Unknown, CONTROL_UNKNOWN)], inside: true },
        Whose::Nobodys { uid: 0 } => Seat { parties: vec![(Party::User(0), CONTROL_ROOT)], inside: false },
        Whose::Nobodys { uid } => {
            let parties = [(Party::User(uid), CONTROL_USER), (Party::Outside, CONTROL_OUTSIDE)];
            Seat { parties: parties.into(), inside: false }
        }
    })
}

/// Every session has places that no other can take, and none can be taken from outside.
pub(super) fn workload(tags: Tags, cgroups: Cgroups) -> SeatOf {
    Box::new(move |peer| match whose(peer, &tags, &cgroups) {
        Whose::Session(id) => Seat { parties: vec![(Party::Session(id), WORKLOAD_SESSION)], inside: true },
        Whose::Unknown => Seat { parties: vec![(Party::Unknown, WORKLOAD_USER)], inside: true },
        Whose::Nobodys { uid } => {
            let parties = [(Party::User(uid), WORKLOAD_USER), (Party::Outside, WORKLOAD_OUTSIDE)];
            Seat { parties: parties.into(), inside: false }
        }
    })
}
