//! Registering what runs already: a process, a process and its descendants, or a cgroup with all that is in it.
//!
//! The order: the session stands in the kernel's tables before anybody is in it. Then its processes are stopped, by freezing their
//! cgroup; tagged, by an iterator in the kernel that is run until it finds no more; the sockets that they hold are taken for the
//! session's, and those of connections that the envelope does not allow are destroyed; then they go on. From the moment that a
//! process is in the session's cgroup it is refused everything until it has its tag, so that there is none at which it is held
//! to nothing; and from the moment that it has its tag, so has every process that it makes.

mod target;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_common::identity::EnrolKind;
use uuid::Uuid;

use super::{
    Daemon, DaemonError,
    cut::is_outside,
    internal,
    lifecycle::{Asked, no_room},
    trust::Admitted,
};
use crate::{
    clock,
    control::{dto, peer::Peer, server::Refusal},
    exit::one_line,
    procfs::{self, ProcError},
    record::{EventKind, EventLine},
    session::{ProcessKey, ProcessTree, Reach, Session},
    sockets,
    state::SessionFile,
};
use target::Target;

/// How long processes may take to stop. One that waits for a disk does not stop before it has it.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the host's processes are looked through, at most.
const PASSES: usize = 200;

/// How far a registration got: what a failure has to undo.
#[derive(Default)]
struct Report {
    reasons: Vec<String>,
    tagged: BTreeSet<u32>,
    kept: u64,
    cut: u64,
    /// Somebody had frozen it before.
    stood_still: bool,
}

impl Daemon {
    /// Registers what runs already as a session. When this returns `Err`, what it was asked for runs as before, or is refused
    /// everything if that could not be undone; which of them, the error says.
    pub(super) fn register(
        &mut self,
        peer: &Peer,
        request: dto::Register,
    ) -> Result<dto::Registered, Refusal> {
        let dto::Register { envelope: text, signature, target, keep_connections } = request;
        let Admitted { envelope, news } = self.admit(peer, &text, signature.as_deref())?;
        self.require_every_hook()?;
        let slot = self.registry.free_slot().map_err(|error| no_room(&error))?;
        let id = Uuid::now_v7();
        let Target { place, kind, pid, command } = self.find_target(peer, id, target)?;
        let (cgroup, borrowed) = (place.cgroup.path.clone(), place.borrowed);
        let made = self.envelope_in_force(text, envelope).and_then(|envelope| {
            let asked = Asked { id, slot, command, registered_by_uid: peer.uid };
            let session = self.remember(news).and_then(|()| self.new_session(asked, &envelope, place));
            session.inspect_err(|_| self.remove_unused_rules(envelope.number))
        });
        let mut session = match made {
            Ok(session) => session,
            Err(refusal) => {
                if !borrowed {
                    let removed = self.cgroups.remove(&cgroup).map(drop);
                    self.survive(removed.map_err(DaemonError::from));
                }
                return Err(refusal);
            }
        };
        let mut report = Report::default();
        match self.take_over(&mut session, kind, pid, keep_connections, &mut report) {
            Ok(()) => Ok(self.finish(session, report)),
            Err(error) => Err(self.undo(session, report, &error)),
        }
    }

    /// Stops, tags, takes the sockets, cuts, and lets go on.
    fn take_over(
        &mut self,
        session: &mut Session,
        kind: EnrolKind,
        pid: u32,
        keep_connections: bool,
        report: &mut Report,
    ) -> Result<(), DaemonError> {
        session.registering = true;
        self.state.save(&SessionFile::new(session, &self.host.boot_id))?;
        let cgroup = session.grant.cgroup.clone();
        report.stood_still = self.cgroups.is_to_be_frozen(&cgroup)?;
        if let Err(error) = self.cgroups.freeze(&cgroup, true) {
            report.reasons.push(format!("its processes ran meanwhile: {}", one_line(&error)));
        }
        self.put_in_tables(session)?;
        if session.grant.borrowed_cgroup {
            self.note_levels_with(&session.grant.cgroup)?;
            self.wait_until_frozen(&cgroup, report)?;
        } else {
            self.cgroups.enter(&cgroup, pid)?;
        }
        self.tag_all(session, kind, pid, report)?;
        if !session.grant.borrowed_cgroup {
            self.wait_until_frozen(&cgroup, report)?;
        }
        self.look_for_the_missing(session, kind, pid, report)?;
        self.take_sockets(session, keep_connections, report)?;
        session.registering = false;
        self.state.save(&SessionFile::new(session, &self.host.boot_id))?;
        Ok(self.cgroups.freeze(&cgroup, report.stood_still)?)
    }

    fn wait_until_frozen(&self, cgroup: &std::path::Path, report: &mut Report) -> Result<(), DaemonError> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while !self.cgroups.is_frozen(cgroup)? {
            if Instant::now() > deadline {
                report.reasons.push(format!("some of its processes did not stop within {FREEZE_TIMEOUT:?}"));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Runs the iterator until it finds no more, twice. What it has tagged is moved into the session's cgroup, where it stops.
    fn tag_all(
        &mut self,
        session: &mut Session,
        kind: EnrolKind,
        pid: u32,
        report: &mut Report,
    ) -> Result<(), DaemonError> {
        let mut nothing_new = 0;
        for _ in 0..PASSES {
            self.kernel.tag_running(session.grant.slot, kind, pid)?;
            let tags = self.kernel.sessions.tags()?;
            let ours = tags.iter().filter(|(_, tag)| tag.session == session.grant.slot);
            let mut news = false;
            for (tgid, tag) in ours {
                if !report.tagged.insert(*tgid) {
                    continue;
                }
                news = true;
                if *tgid == pid || session.grant.root.tgid == 0 {
                    session.grant.root = ProcessKey { tgid: *tgid, start_ns: tag.start_ns };
                }
                if !session.grant.borrowed_cgroup {
                    match self.cgroups.enter(&session.grant.cgroup, *tgid) {
                        // It has ended meanwhile.
                        Err(error) if error.source.raw_os_error() == Some(libc::ESRCH) => {}
                        other => other?,
                    }
                }
            }
            nothing_new = if news { 0 } else { nothing_new + 1 };
            if nothing_new == 2 {
                break;
            }
        }
        if nothing_new < 2 {
            report.reasons.push(format!("after {PASSES} passes there were still new processes"));
        }
        let named = report.tagged.contains(&pid) || session.grant.borrowed_cgroup;
        if !named || report.tagged.is_empty() {
            return Err(crate::kernel::KernelError::NotTagged { tgid: pid }.into());
        }
        session.processes = ProcessTree::new(session.grant.root);
        Ok(())
    }

    /// Says what may belong to it and could not be found, or does not have a tag.
    fn look_for_the_missing(
        &self,
        session: &Session,
        kind: EnrolKind,
        pid: u32,
        report: &mut Report,
    ) -> Result<(), DaemonError> {
        let inside = self.cgroups.all_processes(&session.grant.cgroup)?;
        let untagged: Vec<u32> = inside
            .into_iter()
            .filter(|tgid| !matches!(self.kernel.sessions.tag(*tgid), Ok(Some(tag)) if tag.session == session.grant.slot))
            .collect();
        if !untagged.is_empty() {
            report.reasons.push(format!(
                "{} processes in its cgroup have no tag, and are refused everything",
                untagged.len()
            ));
        }
        if kind == EnrolKind::Process {
            let children = procfs::children(pid);
            if !children.is_empty() {
                report
                    .reasons
                    .push(format!("its {} children were not asked for (`--children`)", children.len()));
            }
        }
        if kind == EnrolKind::Descendants {
            let orphans = self.orphans(session, pid)?;
            if !orphans.is_empty() {
                let list: Vec<String> = orphans.iter().take(8).map(u32::to_string).collect();
                report.reasons.push(format!(
                    "{} processes that stand where it stood are younger than it, and children of the first process or of its \
                     own ancestors: whether it made them, and they were orphaned, cannot be told: {}",
                    orphans.len(),
                    list.join(" ")
                ));
            }
        }
        let rings = report.tagged.iter().filter(|tgid| procfs::has_io_uring(**tgid)).count();
        if rings > 0 {
            report.reasons.push(format!(
                "{rings} processes have io_uring rings: sockets registered in them are found when they are used"
            ));
        }
        Ok(())
    }

    /// Processes that have been handed to another parent, and are in the cgroup that the registered one was in.
    fn orphans(&self, session: &Session, pid: u32) -> Result<Vec<u32>, ProcError> {
        let Some(started) = procfs::start_ticks(pid)? else { return Ok(Vec::new()) };
        let above = procfs::ancestors(pid)?;
        let mut orphans = Vec::new();
        for (other, parent) in procfs::all_processes()? {
            let younger = procfs::start_ticks(other)?.is_some_and(|ticks| ticks >= started);
            if above.contains(&parent)
                && younger
                && other != std::process::id()
                && !self.is_in_session(other)
                && procfs::cgroup2_of(other)?.is_some_and(|cgroup| cgroup == session.grant.cgroup_before)
            {
                orphans.push(other);
            }
        }
        Ok(orphans)
    }

    /// Takes the sockets that its processes hold for the session's, and destroys those of connections that are outside the envelope.
    fn take_sockets(
        &mut self,
        session: &mut Session,
        keep_connections: bool,
        report: &mut Report,
    ) -> Result<(), DaemonError> {
        let held = self.kernel.held_sockets(session.grant.slot, true)?;
        let lost = held.iter().filter(|socket| socket.native == 0 && socket.adopted == 0).count();
        if lost > 0 {
            report.reasons.push(format!("{lost} sockets could not be taken for the session's"));
        }
        let (namespaces, wanted) =
            self.sockets_held(&session.grant.cgroup, session.grant.cgroup_id, &report.tagged, &held)?;
        let reach = match Reach::of(&session.envelope.envelope) {
            Ok(reach) => reach,
            Err(error) => {
                report.reasons.push(error.to_string());
                return Ok(());
            }
        };
        if !keep_connections {
            let cut = sockets::destroy(&namespaces, &wanted, |flow| is_outside(&reach, flow));
            report.cut = cut.destroyed;
            if cut.left > 0 {
                report
                    .reasons
                    .push(format!("{} sockets could not be destroyed; nothing of theirs leaves", cut.left));
            }
            report.reasons.extend(cut.errors);
        }
        let (left, errors) = sockets::list(&namespaces, &wanted);
        report.kept = left.len() as u64;
        report.reasons.extend(errors);
        Ok(())
    }

    fn finish(&mut self, mut session: Session, report: Report) -> dto::Registered {
        let id = session.grant.id;
        session.settled_ns = clock::boot_ns();
        let root = session.grant.root.tgid;
        let (comm, path) = procfs::describe(root);
        session.processes.describe(root, comm, path);
        let complete = report.reasons.is_empty();
        let mut detail = format!(
            "registered while running: {} processes, {} sockets kept, {} destroyed",
            report.tagged.len(),
            report.kept,
            report.cut
        );
        for reason in &report.reasons {
            detail.push_str("; ");
            detail.push_str(reason);
        }
        let time = clock::wall(session.grant.started_ns);
        let line = EventLine::new(EventKind::SessionStarted, &time).session(&session).detail(detail);
        self.registry.insert(session);
        self.events.write(line);
        let reconciled = self.reconcile_trees();
        self.survive(reconciled);
        dto::Registered {
            version: dto::VERSION,
            id: id.to_string(),
            processes: report.tagged.len(),
            sockets_kept: report.kept,
            sockets_destroyed: report.cut,
            complete,
            incomplete_because: report.reasons,
        }
    }

    /// Puts everything back. What cannot be put back is refused everything, and the answer says so.
    fn undo(&mut self, session: Session, report: Report, error: &DaemonError) -> Refusal {
        let mut left = 0;
        // While they have their tags still, by which their sockets are found.
        let released = self.kernel.release_sockets(session.grant.slot);
        self.survive(released.map_err(DaemonError::from));
        for tgid in &report.tagged {
            if let Err(error) = self.kernel.sessions.remove_tag(*tgid) {
                self.survive(Err(error.into()));
                left += 1;
            }
        }
        if left == 0 {
            let emptied = self.kernel.sessions.forget_processes(session.grant.slot.slot);
            self.survive(emptied.map_err(DaemonError::from));
        }
        let (cgroup, before) = (session.grant.cgroup.clone(), session.grant.cgroup_before.clone());
        let borrowed = session.grant.borrowed_cgroup;
        self.abandon_slot(&session);
        let envelope = Arc::clone(&session.envelope);
        drop(session);
        let undone = if borrowed {
            self.note_levels().and_then(|()| Ok(self.cgroups.freeze(&cgroup, report.stood_still)?))
        } else {
            self.empty(&cgroup, &before)
        };
        self.survive(undone);
        self.remove_unused_rules(envelope.number);
        let refusal = internal(error);
        if left == 0 {
            refusal.hint("everything runs as before")
        } else {
            refusal.hint(format!("{left} processes could not be given back, and are refused everything"))
        }
    }

    fn empty(&self, cgroup: &std::path::Path, before: &str) -> Result<(), DaemonError> {
        self.cgroups.freeze(cgroup, false)?;
        for pid in self.cgroups.all_processes(cgroup)? {
            self.cgroups.release(before, pid)?;
        }
        self.cgroups.remove(cgroup)?;
        Ok(())
    }

    /// Says at which levels other people's cgroups are sessions'.
    pub(super) fn note_levels(&mut self) -> Result<(), DaemonError> {
        Ok(self.kernel.sessions.set_levels(self.levels())?)
    }

    fn note_levels_with(&mut self, cgroup: &std::path::Path) -> Result<(), DaemonError> {
        let levels = self.levels() | 1 << self.cgroups.level_of(cgroup);
        Ok(self.kernel.sessions.set_levels(levels)?)
    }

    fn levels(&self) -> u64 {
        let borrowed = self.registry.iter().filter(|session| session.grant.borrowed_cgroup);
        let borrowed = borrowed.map(|session| self.cgroups.level_of(&session.grant.cgroup));
        let lingering = self.registry.lingering().filter_map(|lingering| lingering.borrowed_level);
        borrowed.chain(lingering).fold(0, |levels, level| levels | 1 << level)
    }
}
