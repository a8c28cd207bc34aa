//! Cutting the connections of a session. That nothing of theirs leaves, the kernel sees to; here the sockets are destroyed, so that
//! programs and far ends learn of it. Finding them takes time, with many files open, and so does destroying many: it is done beside
//! the loop, which hears of the outcome.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use enforcer_common::{
    identity::{HeldSocket, SessionRef},
    net::Destination,
};
use uuid::Uuid;

use super::{Beside, Daemon, DaemonError, To, stop::Stop};
use crate::{
    cgroup::Cgroups,
    clock,
    control::{dto, server::Answer},
    kernel::Tagger,
    procfs,
    record::{EventKind, EventLine, SessionText},
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
    session: Option<SessionText>,
    cut: Cut,
    reply: Option<Reply>,
}

/// Who waits for it, and what else there is to say.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) to: To,
    /// What is done with its processes first; nothing if there are none.
    pub(super) stop: Option<Stop>,
    pub(super) revoked: dto::Revoked,
}

impl Daemon {
    /// Begins to destroy sockets of a session.
    pub(super) fn begin_cut(&mut self, id: Uuid, which: Which, reply: Option<Reply>) {
        let search = self.search(id);
        // By then it may have ended.
        let session = self.registry.known(id).map(|session| session.text.clone());
        self.beside(move || {
            let mut reply = reply;
            let cut = search.map_or_else(Cut::default, |search| search.cut(&which, reply.as_mut()));
            Beside::Cut(Done { session, cut, reply })
        });
    }

    /// Likewise all of them, and stops its processes as somebody wants it, who does not wait for it.
    pub(super) fn begin_stop(&mut self, id: Uuid, stop: Stop) {
        let search = self.search(id);
        let session = self.registry.known(id).map(|session| session.text.clone());
        self.beside(move || {
            let mut errors = Vec::new();
            let mut cut = search.map_or_else(Cut::default, |search| {
                errors = search.stop(stop).errors;
                search.cut(&Which::All, None)
            });
            cut.errors.append(&mut errors);
            Beside::Cut(Done { session, cut, reply: None })
        });
    }

    /// Where a session's sockets are.
    fn search(&self, id: Uuid) -> Option<Search> {
        let session = self.registry.known(id)?;
        Some(Search {
            tagger: self.kernel.tagger.clone(),
            cgroups: self.cgroups.clone(),
            slot: session.grant.slot,
            cgroup: session.grant.cgroup.clone(),
            cgroup_id: session.grant.cgroup_id,
            pids: session.processes.live().map(|process| process.tgid).collect(),
        })
    }

    /// Records what was cut, and tells whoever waits for it.
    pub(super) fn end_cut(&mut self, Done { session, cut, reply }: Done) {
        self.faults += cut.errors.len() as u64;
        // What somebody has asked for is written down as it is told, also where there was nothing to cut.
        if reply.is_some() || cut.destroyed > 0 || cut.left > 0 || !cut.errors.is_empty() {
            let mut line = EventLine::new(EventKind::SocketsDestroyed, &clock::wall(clock::boot_ns()));
            line.session = session;
            let mut detail = format!(
                "{} destroyed, {} left, in {} network namespaces, {:.1} ms",
                cut.destroyed,
                cut.left,
                cut.namespaces,
                cut.took.as_secs_f64() * 1e3
            );
            if let Some(Reply { revoked, .. }) = &reply {
                detail.push_str(&format!(
                    "; receipt: {}, stored within {} us; of {} processes, which are {}, {} run; {} sessions below",
                    revoked.state,
                    revoked.store_us,
                    revoked.processes,
                    revoked.processes_are,
                    revoked.processes_running,
                    revoked.descendants.len(),
                ));
            }
            for error in reply.iter().flat_map(|reply| &reply.revoked.errors).chain(&cut.errors) {
                detail.push_str("; ");
                detail.push_str(error);
            }
            self.events.write(line.detail(detail));
        }
        if let Some(Reply { to, mut revoked, .. }) = reply {
            self.faults += revoked.errors.len() as u64;
            revoked.sockets = Some(cut.into());
            super::reply_to(to, Ok(Answer::Revoked(revoked)));
        }
    }
}

/// Where the sockets of a session are looked for. It takes time where there are many processes and files, and is done beside the loop.
pub(super) struct Search {
    pub(super) tagger: Tagger,
    pub(super) cgroups: Cgroups,
    pub(super) slot: SessionRef,
    pub(super) cgroup: PathBuf,
    pub(super) cgroup_id: u64,
    /// The processes that are known to be the session's.
    pub(super) pids: BTreeSet<u32>,
}

impl Search {
    /// Finds the sockets, stops the processes as somebody wants it, and destroys the sockets.
    fn cut(&self, which: &Which, reply: Option<&mut Reply>) -> Cut {
        // Also those that it has received and not used yet. The namespaces are held open before whoever is in them ends.
        let held = self.tagger.held_sockets(self.slot).map_err(DaemonError::from);
        let found = held.and_then(|held| self.find(&held));
        if let Some(Reply { stop: Some(stop), revoked, .. }) = reply {
            let stopped = self.stop(*stop);
            revoked.processes_are = stopped.are.to_owned();
            revoked.processes_running = stopped.running;
            revoked.errors = stopped.errors;
        }
        let failed = |error: String| Cut { errors: vec![error], ..Cut::default() };
        let (namespaces, wanted) = match found {
            Ok(found) => found,
            Err(error) => return failed(crate::exit::one_line(&error)),
        };
        match which {
            Which::All => sockets::destroy(&namespaces, &wanted, |_| true),
            Which::Outside(envelope) => match Reach::of(&envelope.envelope) {
                Ok(reach) => sockets::destroy(&namespaces, &wanted, |flow| is_outside(&reach, flow)),
                Err(error) => failed(error.to_string()),
            },
        }
    }

    /// The network namespaces that the session uses, and which sockets in them are its own: those made in its cgroup, those below
    /// that, and those that it was seen to use.
    pub(super) fn find(&self, held: &[HeldSocket]) -> Result<(Namespaces, Wanted), DaemonError> {
        let mut namespaces = Namespaces::default();
        let mut wanted = Wanted::default();
        let mut pids = self.pids.clone();
        wanted.cgroups.insert(self.cgroup_id);
        if self.cgroup.is_dir() {
            pids.extend(self.cgroups.all_processes(&self.cgroup)?);
            wanted.cgroups.extend(self.cgroups.ids(&self.cgroup)?);
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
