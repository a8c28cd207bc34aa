//! What an event tells of what its session did.

use enforcer_common::{guard::GuardHook, image::ImageState, record::Operation, verdict::Reason};

use crate::{
    detect::Endpoint,
    record::{Body, Egress, GuardDecision, LineImage, Record},
};

/// What one event tells of.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Deeds {
    Nothing,
    Egress {
        /// The session was refused what it tried itself.
        refused: bool,
        limit: Option<Operation>,
        reached: Option<Endpoint>,
    },
    Executed,
    Measured,
    Guarded(Option<Sign>),
    Escape,
}

/// What a refusal of the guard's is a sign of.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Sign {
    Escape(GuardHook),
    Tamper(GuardHook),
}

impl Deeds {
    pub(in super::super) fn of(record: &Record) -> Self {
        match &record.body {
            Body::Egress(egress) => Self::of_egress(egress, record.tgid),
            // What waits is taken up when it is measured.
            Body::Exec { image, .. } if matches!(image.state, ImageState::Waits | ImageState::Unmeasured) => {
                Self::Nothing
            }
            Body::Exec { .. } => Self::Executed,
            Body::Guard(guard) if guard.refused => Self::Guarded(sign_of(guard)),
            // Nothing that anybody has to look at.
            _ => Self::Nothing,
        }
    }

    fn of_egress(egress: &Egress, tgid: u32) -> Self {
        let names_far_end = matches!(egress.operation, Operation::Connect | Operation::Send);
        let reached = egress.to.filter(|_| !egress.refused && names_far_end);
        let limit = egress.refused && egress.reason == Reason::Limit;
        Self::Egress {
            refused: egress.refused && is_own(egress.operation, tgid),
            limit: limit.then_some(egress.operation),
            reached: reached.map(|(address, port)| Endpoint { protocol: egress.protocol, address, port }),
        }
    }
}

/// What arrives from others is not the session's doing, nor is what the kernel sends without a process.
const fn is_own(operation: Operation, tgid: u32) -> bool {
    match operation {
        Operation::Socket | Operation::Connect | Operation::Send | Operation::Bind => true,
        Operation::PacketOut => tgid != 0,
        Operation::Accept | Operation::PacketIn => false,
    }
}

/// Of what is about a socket, the destination was refused, and no more.
fn sign_of(guard: &GuardDecision) -> Option<Sign> {
    use GuardHook as Hook;
    match guard.hook {
        Hook::SocketCreate | Hook::SocketSendmsg | Hook::UnixStreamConnect | Hook::UnixMaySend => None,
        hook @ (Hook::FileReceive
        | Hook::FilePermission
        | Hook::PtraceAccessCheck
        | Hook::TaskKill
        | Hook::TunDevCreate) => Some(Sign::Escape(hook)),
        hook => Some(Sign::Tamper(hook)),
    }
}

/// That of what was executed: of a script, its own and not the interpreter's.
pub(super) fn digest_of(image: &LineImage) -> Option<&str> {
    match &image.script {
        Some(script) => script.sha256.as_deref(),
        None => image.sha256.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_send_is_not_the_session_s_doing() {
        let own = |tgid| Operation::ALL.iter().filter(move |operation| is_own(**operation, tgid)).copied();
        let always = [Operation::Socket, Operation::Connect, Operation::Send, Operation::Bind];
        assert_eq!(own(0).collect::<Vec<_>>(), always, "an answer that the kernel sends has no process");
        assert_eq!(own(7).collect::<Vec<_>>(), [&always[..], &[Operation::PacketOut]].concat());
    }
}
