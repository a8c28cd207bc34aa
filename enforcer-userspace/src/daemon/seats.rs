//! How many connections to each socket may be open, and whose.

use super::{asker::is_operator, stands_inside};
use crate::{
    cgroup::Cgroups,
    control::gate::{Party, Seat, SeatOf},
    procfs,
};

/// To the control socket, of operators.
const CONTROL_OPERATORS: usize = 256;
/// Of processes inside one session, and inside all sessions together.
const CONTROL_SESSION: usize = 4;
const CONTROL_INSIDE: usize = 64;
/// Of one user who is no operator, and of all of them together.
const CONTROL_USER: usize = 4;
const CONTROL_USERS: usize = 64;
/// To the workload socket, of one session.
const WORKLOAD_SESSION: usize = 8;
/// Of one user outside our cgroups: enough to be told no, and for sessions in cgroups that are somebody else's.
const WORKLOAD_USER: usize = 16;
/// Of all users together.
const WORKLOAD_OUTSIDE: usize = 256;

/// Operators have places that no session can take.
pub(super) fn control(cgroups: Cgroups, group: Option<u32>) -> SeatOf {
    Box::new(move |peer| {
        let inside = (Party::Inside, CONTROL_INSIDE);
        let Some(peer) = peer else { return Seat { parties: vec![inside], operator: false } };
        if stands_inside(&cgroups, peer.pid) {
            let session =
                procfs::cgroup2_of(peer.pid).ok().flatten().and_then(|path| cgroups.session_of(&path));
            let session = session.map(|session| (Party::Session(session), CONTROL_SESSION));
            return Seat { parties: session.into_iter().chain([inside]).collect(), operator: false };
        }
        if is_operator(peer, group) {
            return Seat { parties: vec![(Party::Operators, CONTROL_OPERATORS)], operator: true };
        }
        let parties = vec![(Party::User(peer.uid), CONTROL_USER), (Party::Outside, CONTROL_USERS)];
        Seat { parties, operator: false }
    })
}

/// Every session has places that no other can take, and none can be taken from outside.
pub(super) fn workload(cgroups: Cgroups) -> SeatOf {
    let session_of = move |pid| cgroups.session_of(&procfs::cgroup2_of(pid).ok()??);
    Box::new(move |peer| match peer.map(|peer| (session_of(peer.pid), peer.uid)) {
        Some((Some(session), _)) => {
            Seat { parties: vec![(Party::Session(session), WORKLOAD_SESSION)], operator: false }
        }
        Some((None, uid)) => {
            let parties = vec![(Party::User(uid), WORKLOAD_USER), (Party::Outside, WORKLOAD_OUTSIDE)];
            Seat { parties, operator: false }
        }
        None => Seat { parties: vec![(Party::Inside, WORKLOAD_USER)], operator: false },
    })
}
