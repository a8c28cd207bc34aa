//! Whether what the daemon relies on is still there: its hooks, of which somebody may detach one; and the audit log, for which a checkpoint
//! that is kept elsewhere vouches.

use std::collections::BTreeSet;

use super::{Daemon, DaemonError};
use crate::{
    clock,
    kernel::{Coverage, Kernel},
    procfs,
    record::{EventKind, EventLine},
};

/// Ticks between two looks at the hooks.
const LOOK_TICKS: u32 = 5;
/// Ticks between two checkpoints that are events.
const CHECKPOINT_TICKS: u32 = 60;
/// What a checkpoint that is an event adds to the log: that event, and the checkpoint that is behind it.
const OWN_ENTRIES: u64 = 2;

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Said {
    ticks: u32,
    detached: BTreeSet<&'static str>,
    /// The entry of the last checkpoint.
    checkpoint: u64,
}

/// The hooks that are needed and that somebody has detached.
pub(super) fn detached_hooks(kernel: &Kernel) -> Result<BTreeSet<&'static str>, DaemonError> {
    let detached = procfs::detached_links()?;
    let coverage = kernel.coverage();
    let is_detached = |hook: &&Coverage| {
        hook.needed && hook.link.as_ref().is_ok_and(|linked| detached.contains(&linked.link_id))
    };
    Ok(coverage.iter().filter(is_detached).map(|hook| hook.hook.hook).collect())
}

impl Daemon {
    /// What is enforced by how many hooks, in words.
    pub(super) fn coverage_said(&self) -> String {
        let guard = match self.kernel.guard.absence() {
            None => "guard active".to_owned(),
            Some(absence) => format!("no guard: {absence}"),
        };
        let Ok(detached) = procfs::detached_links() else { return format!("hooks unknown, {guard}") };
        let coverage = self.kernel.coverage();
        let needed = coverage.iter().filter(|hook| hook.needed);
        let (there, missing): (Vec<_>, Vec<_>) = needed.partition(|hook| hook.is_attached(&detached));
        let of = there.len() + missing.len();
        let missing: Vec<_> = missing.iter().map(|hook| hook.hook.hook).collect();
        let missing =
            if missing.is_empty() { String::new() } else { format!(" ({} missing)", missing.join(", ")) };
        format!("{} of {of} hooks attached{missing}, {guard}", there.len())
    }

    /// Once a tick.
    pub(super) fn tend_coverage(&mut self) -> Result<(), DaemonError> {
        self.said.ticks = self.said.ticks.wrapping_add(1);
        if self.said.ticks.is_multiple_of(CHECKPOINT_TICKS) {
            self.tell_checkpoint();
        }
        if !self.said.ticks.is_multiple_of(LOOK_TICKS) {
            return Ok(());
        }
        let detached = detached_hooks(&self.kernel)?;
        for hook in detached.difference(&self.said.detached.clone()) {
            self.note(
                EventKind::TamperSign,
                format!("somebody detached {hook}: what it covers is not enforced until the daemon is started again"),
            );
        }
        self.said.detached = detached;
        Ok(())
    }

    /// Writes down where the audit log is, for whoever gets events elsewhere: where something has been added since.
    pub(super) fn tell_checkpoint(&mut self) {
        let Some(anchor) = self.events.log.as_ref().and_then(crate::state::Log::anchor) else { return };
        if anchor.sequence <= self.said.checkpoint.saturating_add(OWN_ENTRIES) {
            return;
        }
        self.said.checkpoint = anchor.sequence;
        let text = serde_json::to_string(&anchor).expect("it holds only text and numbers");
        let line = EventLine::new(EventKind::AuditCheckpoint, &clock::wall(clock::boot_ns()));
        self.events.write(line.detail(text));
    }
}
