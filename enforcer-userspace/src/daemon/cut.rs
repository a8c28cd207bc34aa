//! Cutting the connections of a session. That nothing of theirs leaves, the kernel sees to; here the sockets are destroyed, so that
//! programs and far ends learn of it. It takes time, with many sockets, and so is done beside the loop, which hears of the outcome.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use enforcer_common::{identity::HeldSocket, net::Destination};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Daemon, DaemonError};
use crate::{
    clock,
    control::{
        dto,
        server::{Answer, Refusal},
    },
    procfs,
    record::{EventKind, EventLine},
    session::{EnvelopeInForce, Link, Reach},
    sockets::{self, Cut, Flow, Namespaces, Wanted},
};

/// Which of a session's sockets are destroyed.
pub(super) enum Which {
    All,
    /// Those of connections that this envelope does not allow.
    Outside(Arc<EnvelopeInForce>),
}

/// What the loop hears when it is done.
#[derive(Debug)]
pub(super) struct Done {
    id: Uuid,
    cut: Cut,
    reply: Option<Reply>,
}

/// Who waits for it, and what else there is to say.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) to: oneshot::Sender<Result<Answer, Refusal>>,
    pub(super) revoked: dto::Revoked,
}

impl Daemon {
    /// Begins to destroy sockets of a session.
    pub(super) fn begin_cut(&mut self, id: Uuid, which: Which, reply: Option<Reply>) {
        let (namespaces, wanted) = match self.sockets_of(id) {
            Ok(found) => found,
            Err(error) => {
                let cut = Cut { errors: vec![crate::exit::one_line(&error)], ..Cut::default() };
                self.end_cut(Done { id, cut, reply });
                return;
            }
        };
        let done = self.cuts.clone();
        let work = move || {
            let cut = match which {
                Which::All => sockets::destroy(&namespaces, &wanted, |_| true),
                Which::Outside(envelope) => match Reach::of(&envelope.envelope) {
                    Ok(reach) => sockets::destroy(&namespaces, &wanted, |flow| is_outside(&reach, flow)),
                    Err(error) => Cut { errors: vec![error.to_string()], ..Cut::default() },
                },
            };
            // A loop that is gone does not hear of it: the daemon is stopping.
            drop(done.send(Done { id, cut, reply }));
        };
        tokio::task::spawn_blocking(work);
    }

    /// Records what was cut, and tells whoever waits for it.
    pub(super) fn end_cut(&mut self, Done { id, cut, reply }: Done) {
        self.faults += cut.errors.len() as u64;
        if cut.destroyed > 0 || cut.left > 0 || !cut.errors.is_empty() {
            let mut line = EventLine::new(EventKind::SocketsDestroyed, &clock::wall(clock::boot_ns()));
            line.session = self.registry.get(id).map(|session| session.text.clone());
            let mut detail = format!(
                "{} destroyed, {} left, in {} network namespaces, {:.1} ms",
                cut.destroyed,
                cut.left,
                cut.namespaces,
                cut.took.as_secs_f64() * 1e3
            );
            for error in &cut.errors {
                detail.push_str("; ");
                detail.push_str(error);
            }
            self.events.write(line.detail(detail));
        }
        if let Some(Reply { to, mut revoked }) = reply {
            revoked.sockets = Some(cut.into());
            super::reply_to(to, Ok(Answer::Revoked(revoked)));
        }
    }

    /// The network namespaces that a session uses, and which sockets in them are its own.
    fn sockets_of(&mut self, id: Uuid) -> Result<(Namespaces, Wanted), DaemonError> {
        let Some(session) = self.registry.get(id) else {
            return Ok(Default::default());
        };
        let (slot, cgroup_id) = (session.grant.slot, session.grant.cgroup_id);
        let cgroup = session.grant.cgroup.clone();
        let pids = session.processes.live().map(|process| process.tgid).collect();
        // Also those that it has received and not used yet.
        let held = self.kernel.held_sockets(slot, true)?;
        self.sockets_held(&cgroup, cgroup_id, &pids, &held)
    }

    /// Likewise, of a session with this cgroup and these processes: the sockets made in its cgroup, those below that, and those that
    /// it was seen to use.
    pub(super) fn sockets_held(
        &self,
        cgroup: &Path,
        cgroup_id: u64,
        pids: &BTreeSet<u32>,
        held: &[HeldSocket],
    ) -> Result<(Namespaces, Wanted), DaemonError> {
        let mut namespaces = Namespaces::default();
        let mut wanted = Wanted::default();
        let mut pids = pids.clone();
        wanted.cgroups.insert(cgroup_id);
        if cgroup.is_dir() {
            pids.extend(self.cgroups.all_processes(cgroup)?);
            wanted.cgroups.extend(self.cgroups.ids(cgroup)?);
        }
        // Also the daemon's own: what a process leaves behind when it ends is most often there.
        pids.insert(std::process::id());
        for (inode, namespace) in procfs::network_namespaces(pids.into_iter()) {
            namespaces.insert(inode, namespace);
        }
        for held in held.iter().filter(|held| held.native != 0 || held.adopted != 0) {
            wanted.cookies.insert(held.cookie);
            // A namespace that no process is in any more, but a socket.
            if !namespaces.contains(held.netns)
                && let Some(namespace) = sockets::namespace_of(held.tgid, held.fd)
            {
                namespaces.insert(held.netns, namespace);
            }
        }
        Ok((namespaces, wanted))
    }
}

/// Whether a socket has a far end that an envelope does not allow.
pub(super) fn is_outside(reach: &Reach, flow: &Flow) -> bool {
    if flow.listens || flow.remote.port() == 0 {
        return false;
    }
    let remote =
        Destination { protocol: flow.protocol, address: flow.remote.ip().into(), port: flow.remote.port() };
    reach.refuses(&Link { remote, local_port: flow.local.port() })
}

impl From<Cut> for dto::SocketsCut {
    fn from(cut: Cut) -> Self {
        Self {
            destroyed: cut.destroyed,
            left: cut.left,
            namespaces: cut.namespaces,
            took_us: u64::try_from(cut.took.as_micros()).unwrap_or(u64::MAX),
            errors: cut.errors,
        }
    }
}
