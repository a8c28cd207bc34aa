//! What takes time when something is registered: waiting until its processes stand still, tagging them, looking for what may be
//! missing, taking their sockets and cutting. And putting it back. Beside the loop: what it needs of the daemon's, it has copies of.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use enforcer_common::identity::{EnrolKind, SessionRef};

use super::super::{
    Daemon, DaemonError,
    asker::stands_inside,
    attest::{Answer, Measurer, Question},
    cut::{Search, is_outside},
    internal,
};
use crate::{
    cgroup::Cgroups,
    control::server::Refusal,
    envelope::OnMismatch,
    exit::one_line,
    kernel::{KernelError, Tagger},
    path_error::PathError,
    procfs::{self, ProcError},
    session::{EnvelopeInForce, ProcessKey, Reach, Session},
    sockets,
};

/// How long processes may take to stop. One that waits for a disk does not stop before it has it.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the host's processes are looked through, at most.
const PASSES: usize = 200;

/// What is to be taken over, and all that it takes.
pub(super) struct Work {
    tagger: Tagger,
    cgroups: Cgroups,
    slot: SessionRef,
    pub(super) cgroup: PathBuf,
    cgroup_id: u64,
    borrowed: bool,
    cgroup_before: String,
    envelope: Arc<EnvelopeInForce>,
    measurer: Measurer,
    kind: EnrolKind,
    /// The process that was named; 0: none was.
    pid: u32,
    keep_connections: bool,
    /// Somebody had frozen it before.
    pub(super) stood_still: bool,
    /// Why it could not be frozen.
    pub(super) stop_failed: Option<String>,
}

/// What was taken over.
pub(super) struct Taken {
    pub(super) root: ProcessKey,
    pub(super) tagged: BTreeSet<u32>,
    pub(super) kept: u64,
    pub(super) cut: u64,
    /// What was found of what they execute, where the envelope lists what may be.
    pub(super) images: Vec<Answer>,
    /// Why that may not be all.
    pub(super) reasons: Vec<String>,
}

/// What could not be put back.
#[derive(Default)]
pub(super) struct Left {
    /// Processes that have a tag still.
    pub(super) tagged: usize,
    /// Processes that are in the session's cgroup still.
    inside: usize,
    pub(super) errors: Vec<DaemonError>,
}

impl Left {
    fn note<T: Default>(&mut self, result: Result<T, impl Into<DaemonError>>) -> T {
        result.unwrap_or_else(|error| {
            self.errors.push(error.into());
            T::default()
        })
    }

    pub(super) fn hint(&self) -> String {
        match (self.tagged.max(self.inside), &self.errors[..]) {
            (0, []) => "everything runs as before".to_owned(),
            (0, [error, ..]) => format!("not everything could be put back: {}", one_line(error)),
            (left, _) => format!("{left} processes could not be given back, and are refused everything"),
        }
    }
}

impl Work {
    pub(super) fn new(
        daemon: &Daemon,
        session: &Session,
        kind: EnrolKind,
        pid: u32,
        keep_connections: bool,
    ) -> Self {
        let grant = &session.grant;
        Self {
            tagger: daemon.kernel.tagger.clone(),
            cgroups: daemon.cgroups.clone(),
            slot: grant.slot,
            cgroup: grant.cgroup.clone(),
            cgroup_id: grant.cgroup_id,
            borrowed: grant.borrowed_cgroup,
            cgroup_before: grant.cgroup_before.clone(),
            envelope: Arc::clone(&session.envelope),
            measurer: daemon.attestation.measurer.clone(),
            kind,
            pid,
            keep_connections,
            stood_still: false,
            stop_failed: None,
        }
    }

    /// Stops, tags, takes the sockets, and cuts. A panic is a failure like any other: what stands still must not stay so.
    pub(super) fn take_over(&self) -> Result<Taken, Refusal> {
        let taken = catch_unwind(AssertUnwindSafe(|| self.try_take_over()));
        let panicked = |_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it panicked"));
        taken.map_or_else(panicked, |taken| taken.map_err(|error| internal(&error)))
    }

    fn try_take_over(&self) -> Result<Taken, DaemonError> {
        let mut taken = Taken {
            root: ProcessKey::NONE,
            tagged: BTreeSet::new(),
            kept: 0,
            cut: 0,
            images: Vec::new(),
            reasons: Vec::new(),
        };
        let ran = self.stop_failed.iter().map(|error| format!("its processes ran meanwhile: {error}"));
        taken.reasons.extend(ran);
        if self.borrowed {
            self.wait_until_frozen(&mut taken)?;
        } else {
            self.cgroups.enter(&self.cgroup, self.pid)?;
        }
        self.tag_all(&mut taken)?;
        if !self.borrowed {
            self.wait_until_frozen(&mut taken)?;
        }
        self.look_for_the_missing(&mut taken)?;
        self.measure(&mut taken)?;
        self.take_sockets(&mut taken)?;
        Ok(taken)
    }

    fn wait_until_frozen(&self, taken: &mut Taken) -> Result<(), DaemonError> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while !self.cgroups.is_frozen(&self.cgroup)? {
            if Instant::now() > deadline {
                taken.reasons.push(format!("some of its processes did not stop within {FREEZE_TIMEOUT:?}"));
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Runs the iterator until it finds no more, twice. What it has tagged is moved into the session's cgroup, where it stops.
    fn tag_all(&self, taken: &mut Taken) -> Result<(), DaemonError> {
        let mut nothing_new = 0;
        for _ in 0..PASSES {
            self.tagger.tag_running(self.slot, self.kind, self.pid)?;
            let mut news = false;
            for (tgid, tag) in self.tagger.tags_of(self.slot)? {
                if !taken.tagged.insert(tgid) {
                    continue;
                }
                news = true;
                if tgid == self.pid || taken.root == ProcessKey::NONE {
                    taken.root = ProcessKey { tgid, start_ns: tag.start_ns };
                }
                if !self.borrowed {
                    ended_is_fine(self.cgroups.enter(&self.cgroup, tgid))?;
                }
            }
            nothing_new = if news { 0 } else { nothing_new + 1 };
            if nothing_new == 2 {
                break;
            }
        }
        if nothing_new < 2 {
            taken.reasons.push(format!("after {PASSES} passes there were still new processes"));
        }
        let named = taken.tagged.contains(&self.pid) || self.borrowed;
        if !named || taken.tagged.is_empty() {
            return Err(KernelError::NotTagged { tgid: self.pid }.into());
        }
        Ok(())
    }

    /// Says what may belong to it and could not be found, or does not have a tag.
    fn look_for_the_missing(&self, taken: &mut Taken) -> Result<(), DaemonError> {
        let inside = self.cgroups.all_processes(&self.cgroup)?;
        let is_ours = |tgid: u32| matches!(self.tagger.tag(tgid), Ok(Some(tag)) if tag.session == self.slot);
        let untagged = inside.into_iter().filter(|tgid| !is_ours(*tgid)).count();
        if untagged > 0 {
            taken
                .reasons
                .push(format!("{untagged} processes in its cgroup have no tag, and are refused everything"));
        }
        if self.kind == EnrolKind::Process {
            let children = procfs::children(self.pid);
            if !children.is_empty() {
                taken
                    .reasons
                    .push(format!("its {} children were not asked for (`--children`)", children.len()));
            }
        }
        if self.kind == EnrolKind::Descendants {
            let orphans = self.orphans()?;
            if !orphans.is_empty() {
                let list: Vec<String> = orphans.iter().take(8).map(u32::to_string).collect();
                taken.reasons.push(format!(
                    "{} processes that stand where it stood are younger than it, and children of the first process or of its \
                     own ancestors: whether it made them, and they were orphaned, cannot be told: {}",
                    orphans.len(),
                    list.join(" ")
                ));
            }
        }
        let rings = taken.tagged.iter().filter(|tgid| procfs::has_io_uring(**tgid)).count();
        if rings > 0 {
            taken.reasons.push(format!(
                "{rings} processes have io_uring rings: sockets registered in them are found when they are used"
            ));
        }
        Ok(())
    }

    /// Looks at what they execute, while they stand still. Where that is only recorded, it has time until they go on.
    fn measure(&self, taken: &mut Taken) -> Result<(), DaemonError> {
        let exec = &self.envelope.envelope.exec;
        if !exec.restricts_images() || exec.on_mismatch == OnMismatch::Audit {
            return Ok(());
        }
        for (tgid, tag) in self.tagger.tags_of(self.slot)? {
            let process = ProcessKey { tgid, start_ns: tag.start_ns };
            let question = Question::of_running(tag.image, self.slot, process, &self.envelope);
            taken.images.push(self.measurer.answer(question));
        }
        let unlisted = taken.images.iter().filter(|answer| answer.is_refused()).count();
        if unlisted > 0 {
            taken.reasons.push(format!("{unlisted} processes execute what is not listed, or cannot be told"));
        }
        Ok(())
    }

    /// Processes that have been handed to another parent, and are in the cgroup that the registered one was in.
    fn orphans(&self) -> Result<Vec<u32>, ProcError> {
        let Some(started) = procfs::start_ticks(self.pid)? else { return Ok(Vec::new()) };
        let above = procfs::ancestors(self.pid)?;
        let is_in_session =
            |pid| !matches!(self.tagger.tag(pid), Ok(None)) || stands_inside(&self.cgroups, pid);
        let mut orphans = Vec::new();
        for (other, parent) in procfs::all_processes()? {
            let younger = procfs::start_ticks(other)?.is_some_and(|ticks| ticks >= started);
            if above.contains(&parent)
                && younger
                && other != std::process::id()
                && !is_in_session(other)
                && procfs::cgroup2_of(other)?.is_some_and(|cgroup| cgroup == self.cgroup_before)
            {
                orphans.push(other);
            }
        }
        Ok(orphans)
    }

    /// Takes the sockets that its processes hold for the session's, and destroys those of connections that are outside the envelope.
    fn take_sockets(&self, taken: &mut Taken) -> Result<(), DaemonError> {
        let held = self.tagger.held_sockets(self.slot)?;
        let lost = held.iter().filter(|socket| socket.native == 0 && socket.adopted == 0).count();
        if lost > 0 {
            taken.reasons.push(format!("{lost} sockets could not be taken for the session's"));
        }
        let search = Search {
            tagger: self.tagger.clone(),
            cgroups: self.cgroups.clone(),
            slot: self.slot,
            cgroup: self.cgroup.clone(),
            cgroup_id: self.cgroup_id,
            pids: taken.tagged.clone(),
        };
        let (namespaces, wanted) = search.find(&held)?;
        let reach = match Reach::of(&self.envelope.envelope) {
            Ok(reach) => reach,
            Err(error) => {
                taken.reasons.push(error.to_string());
                return Ok(());
            }
        };
        if !self.keep_connections {
            let cut = sockets::destroy(&namespaces, &wanted, |flow| is_outside(&reach, flow));
            taken.cut = cut.destroyed;
            if cut.left > 0 {
                taken
                    .reasons
                    .push(format!("{} sockets could not be destroyed; nothing of theirs leaves", cut.left));
            }
            taken.reasons.extend(cut.errors);
        }
        let (left, errors) = sockets::list(&namespaces, &wanted);
        taken.kept = left.len() as u64;
        taken.reasons.extend(errors);
        Ok(())
    }

    /// Puts everything back. Every step is tried, whatever became of the others.
    pub(super) fn give_back(&self) -> Left {
        let mut left = Left::default();
        // While they have their tags still, by which their sockets are found.
        left.note(self.tagger.release_sockets(self.slot));
        left.tagged = self.untag(&mut left);
        if self.borrowed {
            left.note(self.cgroups.freeze(&self.cgroup, self.stood_still));
        } else {
            left.inside = self.empty(&mut left);
        }
        left
    }

    /// Takes away the tags, those of processes that were made meanwhile as well. How many there are still.
    fn untag(&self, left: &mut Left) -> usize {
        for _ in 0..PASSES {
            let tags = left.note(self.tagger.tags_of(self.slot));
            if tags.is_empty() {
                return 0;
            }
            let failures = tags.iter().filter_map(|(tgid, _)| self.tagger.remove_tag(*tgid).err());
            let failures: Vec<DaemonError> = failures.map(DaemonError::from).collect();
            if !failures.is_empty() {
                left.errors.extend(failures);
                break;
            }
        }
        left.note(self.tagger.tags_of(self.slot)).len()
    }

    /// Moves them back to where the named one was, where they go on. Those that could not be stopped fork meanwhile: until none is left.
    /// How many are.
    fn empty(&self, left: &mut Left) -> usize {
        for _ in 0..PASSES {
            match self.move_back() {
                Ok(true) => return 0,
                Ok(false) => {}
                Err(error) => {
                    left.errors.push(error.into());
                    break;
                }
            }
        }
        // Whoever is still in it is refused everything; that it does not stand still for ever.
        left.note(self.cgroups.freeze(&self.cgroup, false));
        left.note(self.cgroups.all_processes(&self.cgroup)).len()
    }

    fn move_back(&self) -> Result<bool, PathError> {
        for pid in self.cgroups.all_processes(&self.cgroup)? {
            self.cgroups.release(&self.cgroup_before, pid)?;
        }
        self.cgroups.remove(&self.cgroup)
    }
}

fn ended_is_fine(moved: Result<(), PathError>) -> Result<(), PathError> {
    match moved {
        Err(error) if error.source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}
