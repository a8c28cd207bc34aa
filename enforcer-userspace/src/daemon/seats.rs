//! How many connections to each socket may be open, and whose.

use enforcer_common::identity::{SessionRef, TaskTag};

use super::asker::is_operator;
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
/// Of one other operator, and of all of them together.
const CONTROL_OPERATOR: usize = 32;
const CONTROL_OPERATORS: usize = 128;
/// Of one user who is no operator, and of all of those together.
const CONTROL_USER: usize = 4;
const CONTROL_USERS: usize = 64;
/// Of one session: it may ask about itself, and hand on a part of what it has.
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
enum Whose<'a> {
    Session(String),
    Unknown,
    Nobodys(&'a Peer),
}

/// By its tag, wherever it stands; or else by its cgroup.
fn whose<'a>(peer: Option<&'a Peer>, tags: &Tags, cgroups: &Cgroups) -> Whose<'a> {
    let Some(peer) = peer else { return Whose::Unknown };
    let Ok(tag) = tags.of(peer.pid) else { return Whose::Unknown };
    if let Some(TaskTag { session: SessionRef { slot, generation }, .. }) = tag {
        return Whose::Session(format!("{slot}.{generation}"));
    }
    let Ok(Some(cgroup)) = procfs::cgroup2_of(peer.pid) else { return Whose::Unknown };
    match cgroups.session_of(&cgroup) {
        Some(id) => Whose::Session(id),
        None if cgroups.holds(&cgroup) => Whose::Unknown,
        None => Whose::Nobodys(peer),
    }
}

/// Operators have places that nobody else can take, root has some that no other operator can, and each session has its own.
pub(super) fn control(tags: Tags, cgroups: Cgroups, group: Option<u32>) -> SeatOf {
    Box::new(move |peer| {
        let (operator, parties) = match whose(peer, &tags, &cgroups) {
            Whose::Session(id) => {
                (false, vec![(Party::Session(id), CONTROL_SESSION), (Party::Sessions, CONTROL_SESSIONS)])
            }
            Whose::Unknown => (false, vec![(Party::Unknown, CONTROL_UNKNOWN)]),
            Whose::Nobodys(Peer { uid: 0, .. }) => (true, vec![(Party::User(0), CONTROL_ROOT)]),
            Whose::Nobodys(peer) if is_operator(peer, group) => {
                let own = (Party::User(peer.uid), CONTROL_OPERATOR);
                (true, vec![own, (Party::Operators, CONTROL_OPERATORS)])
            }
            Whose::Nobodys(peer) => {
                (false, vec![(Party::User(peer.uid), CONTROL_USER), (Party::Outside, CONTROL_USERS)])
            }
        };
        Seat { parties, operator }
    })
}

/// Every session has places that no other can take, and none can be taken from outside. Nobody operates anything here.
pub(super) fn workload(tags: Tags, cgroups: Cgroups) -> SeatOf {
    Box::new(move |peer| {
        let parties = match whose(peer, &tags, &cgroups) {
            Whose::Session(id) => vec![(Party::Session(id), WORKLOAD_SESSION)],
            Whose::Unknown => vec![(Party::Unknown, WORKLOAD_USER)],
            Whose::Nobodys(peer) => {
                vec![(Party::User(peer.uid), WORKLOAD_USER), (Party::Outside, WORKLOAD_OUTSIDE)]
            }
        };
        Seat { parties, operator: false }
    })
}
