//! What becomes of the processes of a session that is revoked. Most are in its cgroup, and are frozen or killed with it; one that was moved
//! elsewhere is found by its tag.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use enforcer_common::identity::TaskTag;

use super::{DaemonError, cut::Search};
use crate::{
    exit::one_line,
    process::Process,
    procfs::{self, TICKS_PER_SECOND},
};

/// How long the killed may take to end, for which they need a processor as everybody does. One that waits for a disk does not end before it has it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// What is done with the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing; they run, or somebody has frozen their cgroup.
    Nothing,
    /// Nothing more: their cgroup is frozen.
    Frozen,
    Kill,
}

/// What became of them.
#[derive(Debug)]
pub(super) struct Stopped {
    /// In words, of those that are the least stopped.
    pub(super) are: &'static str,
    /// How many run still.
    pub(super) running: usize,
    pub(super) errors: Vec<String>,
}

impl Search {
    /// Kills the session's processes, if that is wanted, and says what they are then.
    pub(super) fn stop(&self, stop: Stop) -> Stopped {
        let mut errors = Vec::new();
        let counted = match stop {
            Stop::Kill => self.kill(&mut errors).map(|running| ("killed", running)),
            Stop::Frozen => self.elsewhere().map(|elsewhere| ("frozen", elsewhere)),
            Stop::Nothing => {
                self.tagger.tags_of(self.slot).map_err(DaemonError::from).map(|tags| ("running", tags.len()))
            }
        };
        // What cannot be told is not told of as stopped.
        let (are, running) = counted.unwrap_or_else(|error| {
            errors.push(one_line(&error));
            ("running", self.pids.len())
        });
        Stopped { are: if running > 0 { "running" } else { are }, running, errors }
    }

    /// The tagged processes that are not in the session's cgroup.
    fn elsewhere(&self) -> Result<usize, DaemonError> {
        let mut elsewhere = 0;
        for (tgid, _) in self.tagger.tags_of(self.slot)? {
            let stands = procfs::cgroup2_of(tgid)?;
            elsewhere +=
                usize::from(stands.is_some_and(|stands| !self.cgroups.is_inside(&stands, &self.cgroup)));
        }
        Ok(elsewhere)
    }

    /// Kills whoever is in the cgroup or has the tag, those that fork meanwhile included. How many are still there after some time.
    fn kill(&self, errors: &mut Vec<String>) -> Result<usize, DaemonError> {
        if self.cgroup.is_dir()
            && let Err(error) = self.cgroups.kill(&self.cgroup)
        {
            errors.push(one_line(&error));
        }
        let deadline = Instant::now() + KILL_TIMEOUT;
        let mut failed = BTreeSet::new();
        loop {
            let mut left: BTreeSet<u32> = self.cgroups.all_processes(&self.cgroup)?.into_iter().collect();
            for (tgid, tag) in self.tagger.tags_of(self.slot)? {
                let Some(process) = self.hold(tgid, tag)? else { continue };
                left.insert(tgid);
                if let Err(error) = process.kill()
                    && failed.insert(tgid)
                {
                    errors.push(one_line(&error));
                }
            }
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left.len());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The process that has this tag, and no other that has its number by now: it started when the tag says, and it has the tag still,
    /// which goes when it ends.
    fn hold(&self, tgid: u32, tag: TaskTag) -> Result<Option<Process>, DaemonError> {
        let Some(process) = Process::hold(tgid)? else { return Ok(None) };
        let same = procfs::start_ticks(tgid)? == Some(tag.start_ns / NS_PER_TICK)
            && self.tagger.tag(tgid)? == Some(tag)
            && process.is_alive();
        Ok(same.then_some(process))
    }
}
