//! What the daemon says of itself and of its sessions.

use std::sync::atomic::Ordering;

use enforcer_common::{ABI_VERSION, session::Usage};

use super::{Daemon, DaemonError, internal, standing::ended};
use crate::{
    clock,
    control::{dto, server::Refusal},
    kernel::{Absence, Guard},
    metrics::SinkCounts,
    procfs,
    session::{Session, Status},
    sinks::Sink,
};

impl Daemon {
    /// The sessions that run, and behind them those that have ended, if they are wanted.
    pub(super) fn list(&self, all: bool) -> dto::Sessions {
        let now_ns = clock::boot_ns();
        let running = self.registry.iter().map(|session| self.describe(session, now_ns));
        let ended = self.past.sessions().filter(|_| all).cloned();
        dto::Sessions { version: dto::VERSION, sessions: running.chain(ended).collect() }
    }

    /// All that is known of a session, also of one that has ended.
    pub(super) fn show(&self, id: &str) -> Result<dto::Session, Refusal> {
        let running = self.registry.starting_with(id);
        let past = self.past.sessions().filter(|past| past.id.starts_with(id));
        if running.is_empty()
            && let [past] = past.collect::<Vec<_>>()[..]
        {
            return Ok(dto::Session {
                version: dto::VERSION,
                session: past.clone(),
                connections: 0,
                descendants: Vec::new(),
            });
        }
        let id = self.find(id)?;
        let session = self.registry.get(id).ok_or_else(ended)?;
        let usage = self.kernel.sessions.usage(session.grant.slot.slot);
        let descendants = self.registry.descendants(id);
        Ok(dto::Session {
            version: dto::VERSION,
            session: self.describe(session, clock::boot_ns()),
            connections: usage.map_err(|error| internal(&error))?.connections,
            descendants: descendants.iter().map(ToString::to_string).collect(),
        })
    }

    pub(super) fn describe(&self, session: &Session, now_ns: u64) -> dto::SessionInfo {
        let usage = self.kernel.sessions.usage(session.grant.slot.slot).unwrap_or_default();
        let mut info =
            describe(session, self.registry.standing_of(session, now_ns), &usage, &self.host.boot_id);
        info.spiffe_id = self.issuer.spiffe_id(session);
        info
    }

    /// All that is counted, by name, and whether more than zero means that something went wrong.
    pub(super) fn counters(&self) -> Result<Vec<(&'static str, u64, bool)>, DaemonError> {
        let counters = self.kernel.sessions.counters()?.into_iter();
        let all = counters
            .map(|(counter, n)| (counter.name(), n, counter.is_fault()))
            .chain(self.events.counters())
            .chain(self.events.log.iter().flat_map(|log| log.counters()))
            .chain(self.attestation.counters())
            .chain(self.findings.counters())
            .chain([
                ("fault_daemon", self.faults, true),
                ("credentials_issued", self.issuer.issued(), false),
                ("connections_turned_away", self.turned_away.load(Ordering::Relaxed), false),
            ]);
        Ok(all.collect())
    }

    pub(super) fn status(&self) -> Result<dto::Status, DaemonError> {
        let counters = self.counters()?;
        let detached = procfs::detached_links()?;
        let coverage = self.kernel.coverage().into_iter().map(|coverage| dto::HookInfo {
            attached: coverage.is_attached(&detached),
            hook: coverage.hook.hook.to_owned(),
            program: coverage.hook.program.to_owned(),
            covers: coverage.hook.covers.to_owned(),
            needed: coverage.needed,
            program_id: coverage.link.as_ref().ok().map(|linked| linked.program_id),
            error: match &coverage.link {
                Ok(linked) if detached.contains(&linked.link_id) => Some("somebody detached it".to_owned()),
                Ok(_) => None,
                Err(error) => Some(error.clone()),
            },
        });
        Ok(dto::Status {
            version: dto::VERSION,
            daemon: dto::DaemonInfo {
                pid: std::process::id(),
                release: env!("CARGO_PKG_VERSION").to_owned(),
                abi: ABI_VERSION,
                start: self.kernel.start.name().to_owned(),
                started: self.started.to_string(),
                kernel: self.host.release.clone(),
                host: Some(self.host.name.clone()),
                trust_domain: Some(self.issuer.trust_domain().to_string()),
            },
            coverage: coverage.collect(),
            guard: guard_info(&self.kernel.guard),
            sessions: self.registry.len(),
            trust_keys: self.trusted(),
            tasks: self.kernel.sessions.tags()?.len(),
            faults: counters
                .iter()
                .filter(|(_, n, fault)| *fault && *n > 0)
                .map(|(name, ..)| (*name).into())
                .collect(),
            counters: counters.into_iter().map(|(name, n, _)| (name.to_owned(), n)).collect(),
            sinks: self.sinks.iter().map(|sink| sink_info(sink, self.events.sequence())).collect(),
            findings: self.findings.counts().map(|(name, n)| (name.to_owned(), n)).collect(),
        })
    }
}

fn describe(session: &Session, status: Status, usage: &Usage, boot_id: &str) -> dto::SessionInfo {
    let grant = &session.grant;
    let metadata = &session.envelope.envelope.metadata;
    dto::SessionInfo {
        id: grant.id.to_string(),
        parent: grant.parent_id().map(|id| id.to_string()),
        agent: metadata.name.clone(),
        spiffe_id: None,
        owner: metadata.owner.clone(),
        operator: metadata.operator.clone(),
        purpose: metadata.purpose.clone(),
        model: metadata.model.clone(),
        mode: session.mode().name().to_owned(),
        state: status.name().to_owned(),
        envelope_digest: session.envelope.digest.clone(),
        command: grant.command.clone(),
        context: grant.context.clone(),
        container: grant.container.clone(),
        started: clock::wall(grant.started_ns).to_string(),
        expires: clock::wall(grant.expires_ns).to_string(),
        cgroup: grant.cgroup.to_string_lossy().into_owned(),
        registered_by_uid: grant.registered_by_uid,
        bytes_out: usage.bytes_out,
        bytes_in: usage.bytes_in,
        ended: None,
        end_reason: None,
        processes: session
            .processes
            .live()
            .map(|process| dto::ProcessInfo {
                pid: process.tgid,
                key: process.key.unique(boot_id),
                parent_pid: process.parent,
                comm: process.comm.map(str::to_owned),
                path: process.path.map(str::to_owned),
            })
            .collect(),
    }
}

pub(super) fn sink_info(sink: &Sink, last: u64) -> dto::SinkInfo {
    let progress = &sink.progress;
    let counts = SinkCounts {
        name: sink.name.clone(),
        sent: progress.sent.load(Ordering::Relaxed),
        behind: last.saturating_sub(progress.reached.load(Ordering::Relaxed)),
        refused: progress.refused.load(Ordering::Relaxed),
        lost: progress.lost.load(Ordering::Relaxed),
        failures: progress.failures.load(Ordering::Relaxed),
    };
    dto::SinkInfo { counts, why: progress.why() }
}

fn guard_info(guard: &Guard) -> dto::GuardInfo {
    dto::GuardInfo { state: guard.state().to_owned(), why: guard.absence().map(Absence::to_string) }
}
