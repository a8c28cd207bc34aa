//! How many connections to each socket may be open, and whose.

use super::stands_inside;
use crate::{
    cgroup::Cgroups,
    control::gate::{Party, Seat, SeatOf},
    procfs,
};

/// To the control socket, of processes outside sessions.
const CONTROL_OUTSIDE: usize = 256;
/// Of processes inside sessions, all together: enough to be told no.
const CONTROL_INSIDE: usize = 8;
/// To the workload socket, of one session.
const WORKLOAD_SESSION: usize = 8;
/// Of one user outside our cgroups: enough to be told no, and for sessions in cgroups that are somebody else's.
const WORKLOAD_USER: usize = 16;
/// Of all users together.
const WORKLOAD_OUTSIDE: usize = 256;

/// Operators have places that no session can take.
pub(super) fn control(cgroups: Cgroups) -> SeatOf {
    Box::new(move |peer| {
        let inside = peer.is_none_or(|peer| stands_inside(&cgroups, peer.pid));
        let party = if inside { (Party::Inside, CONTROL_INSIDE) } else { (Party::Outside, CONTROL_OUTSIDE) };
        Seat { parties: vec![party], inside }
    })
}

/// Every session has places that no other can take, and none can be taken from outside.
pub(super) fn workload(cgroups: Cgroups) -> SeatOf {
    let session_of = move |pid| cgroups.session_of(&procfs::cgroup2_of(pid).ok()??);
    Box::new(move |peer| match peer.map(|peer| (session_of(peer.pid), peer.uid)) {
        Some((Some(session), _)) => {
            Seat { parties: vec![(Party::Session(session), WORKLOAD_SESSION)], inside: true }
        }
        Some((None, uid)) => {
            let parties = vec![(Party::User(uid), WORKLOAD_USER), (Party::Outside, WORKLOAD_OUTSIDE)];
            Seat { parties, inside: false }
        }
        None => Seat { parties: vec![(Party::Inside, WORKLOAD_USER)], inside: true },
    })
}
