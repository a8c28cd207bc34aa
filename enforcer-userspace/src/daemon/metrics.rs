//! What the daemon counts, for whoever collects that.

use std::time::{Duration, Instant};

use enforcer_common::{ABI_VERSION, counter::Counter};

use super::{Daemon, DaemonError, answers::sink_info};
use crate::{
    clock,
    exit::one_line,
    kernel::Kernel,
    metrics::{self, RunTimes, Snapshot, Verdicts},
    procfs,
    record::{Body, Record},
    scrape::Scrape,
};

/// For how long a text is given out again: whoever asks all the time must not keep the loop busy.
const FRESH: Duration = Duration::from_secs(1);

/// What is counted beside the kernel's counters, and the last text.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    verdicts: Verdicts,
    run_times: RunTimes,
    last: Option<(Instant, String)>,
}

impl Daemon {
    pub(super) fn count_verdict(&mut self, record: &Record) {
        let (verdict, reason) = match &record.body {
            Body::Egress(egress) => (egress.verdict, egress.reason),
            Body::Guard(guard) => (guard.verdict, guard.reason),
            Body::Fork { .. } | Body::Exec { .. } | Body::Exit { .. } | Body::Connection(_) => return,
        };
        let session = self.registry.at(record.session);
        let agent = session.map_or("", |session| session.agent());
        self.metrics.verdicts.count(agent, verdict.name(), reason.name());
    }

    /// The text; one that is older than a moment is made anew.
    pub(super) fn metrics(&mut self) -> Result<String, DaemonError> {
        if let Some((made, text)) = &self.metrics.last
            && made.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let text = metrics::encode(self.snapshot()?).map_err(|_formatting| DaemonError::Metrics)?;
        self.metrics.last = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    /// Nobody is answered if it cannot be told: a collector sees that.
    pub(super) fn answer_scrape(&mut self, scrape: Scrape) {
        match self.metrics() {
            // Whoever asked may have gone.
            Ok(text) => drop(scrape.send(text)),
            Err(error) => eprintln!("warning: metrics: {}", one_line(&error)),
        }
    }

    /// Once a tick: what programs took meanwhile, if the kernel times them. Otherwise whoever collects has it looked at.
    pub(super) fn tend_times(&mut self) -> Result<(), DaemonError> {
        // The first look says from where it is counted.
        if self.metrics.run_times.is_empty() || Kernel::is_timed() {
            self.metrics.run_times.look(&self.kernel.program_times()?);
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Snapshot, DaemonError> {
        let now_ns = clock::boot_ns();
        let counters = self.counters()?;
        let of = |wanted: &str| counters.iter().find(|(name, ..)| *name == wanted).map_or(0, |(_, n, _)| *n);
        let lost = vec![
            ("ring", of(Counter::FaultRecordLost.name())),
            ("decoding", of("fault_record_undecodable")),
            ("killed-daemon", of("fault_record_unfinished")),
            ("event-file", of("fault_event_unwritten")),
            ("audit-log", of("fault_audit_lost")),
        ];
        let programs = self.kernel.program_times()?;
        self.metrics.run_times.look(&programs);
        let mut snapshot = Snapshot {
            release: env!("CARGO_PKG_VERSION"),
            abi: ABI_VERSION,
            kernel: self.host.release.clone(),
            verdicts: self.metrics.verdicts.clone(),
            processes: u64::try_from(self.kernel.sessions.tags()?.len()).unwrap_or(u64::MAX),
            counters,
            lost,
            ring: Some(self.kernel.ring_fill.read()),
            guard: self.kernel.guard.state(),
            programs,
            run_times: self.metrics.run_times.clone(),
            sinks: self.sinks.iter().map(|sink| sink_info(sink, self.events.sequence()).counts).collect(),
            findings: self.findings.counts().collect(),
            ..Snapshot::default()
        };
        for session in self.registry.iter() {
            *snapshot.sessions.entry(self.registry.standing_of(session, now_ns).name()).or_default() += 1;
        }
        let detached = procfs::detached_links()?;
        for hook in self.kernel.coverage().iter().filter(|hook| hook.needed) {
            snapshot.hooks.0 += 1;
            snapshot.hooks.1 += u64::from(hook.is_attached(&detached));
        }
        Ok(snapshot)
    }
}
