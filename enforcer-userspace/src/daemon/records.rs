//! A record from the kernel becomes a change of the process tree and a line.

use enforcer_common::{identity::SessionRef, record::Placement};

use super::{Daemon, DaemonError, attest::Seen, findings::Deeds};
use crate::{
    clock,
    record::{
        self, Body, Egress, EventKind, EventLine, GuardDecision, LineEgress, LineGuard, LineProcess,
        LineRecord, Record, Sight, Unwritten,
    },
    session::{Attempt, ProcessKey, Refused},
};

impl Daemon {
    /// Takes one record, whatever its bytes are.
    pub(super) fn take_record(&mut self, bytes: &[u8]) {
        let Ok(record) = record::decode(bytes) else { return self.events.count_undecodable() };
        let sight = self.losses.see(record.number, record.time_ns);
        if sight == Sight::NoCpu {
            return self.events.count_undecodable();
        }
        self.events.gather(true);
        if let Sight::After(unwritten) = &sight {
            self.say_unwritten(unwritten);
        }
        let sign = self.escape_sign(&record);
        self.remember_refusal(&record);
        self.count_verdict(&record);
        let seen = Seen::of(&record);
        let deeds = Deeds::of(&record);
        let (slot, time_ns) = (record.session, record.time_ns);
        let mut line = self.line(record);
        let sequence = if sight == Sight::Written { None } else { self.events.write_numbered(&mut line) };
        self.take_deeds(slot, time_ns, deeds, &line, sequence);
        if let Some(mut sign) = sign {
            let sequence = self.events.write_numbered(&mut sign);
            self.take_deeds(slot, time_ns, Deeds::Escape, &sign, sequence);
        }
        self.events.gather(false);
        if let Some(seen) = seen {
            self.take_up(seen);
        }
    }

    /// That a process is not where its tag says: somebody moved it, or it could not be tagged. Said once for each process.
    fn escape_sign(&mut self, record: &Record) -> Option<EventLine> {
        let Body::Egress(egress) = &record.body else { return None };
        let session = self.registry.at_mut(record.session)?;
        let expected = record.time_ns < session.settled_ns;
        if !egress.is_misplaced() || expected || !session.misplaced.insert(record.tgid) {
            return None;
        }
        let mut line = EventLine::new(EventKind::EscapeSign, &clock::wall(record.time_ns)).session(session);
        line.process =
            Some(LineProcess::new(record.tgid, record.comm.clone(), Some(session), &self.host.boot_id));
        Some(line.detail(match egress.placement {
            Placement::Untagged => {
                "a process without the session's tag is in its cgroup: it is refused everything"
            }
            Placement::OtherSession => {
                "the process is in the cgroup of another session: it is refused everything"
            }
            _ => "the process is outside its session's cgroup: its tag still holds it to the envelope",
        }))
    }

    /// For the session to ask why.
    fn remember_refusal(&mut self, record: &Record) {
        let (attempt, reason, envelope, rule) = match &record.body {
            Body::Egress(egress) if egress.refused => {
                let Egress { operation, protocol, to, .. } = *egress;
                (Attempt::Egress { operation, protocol, to }, egress.reason, egress.envelope, egress.rule)
            }
            Body::Guard(guard) if guard.refused => {
                let GuardDecision { hook, name, target_tgid: pid, family, .. } = guard.clone();
                (Attempt::Guard { hook, name, pid, family }, guard.reason, guard.envelope, guard.rule)
            }
            _ => return,
        };
        let Some(session) = self.registry.at_mut(record.session) else { return };
        session.refusals.note(Refused {
            attempt,
            reason,
            envelope,
            rule,
            tgid: record.tgid,
            comm: record.comm.clone(),
            first_ns: record.time_ns,
            last_ns: record.time_ns,
            times: 1,
        });
    }

    fn line(&mut self, record: Record) -> EventLine {
        let Record { time_ns, number, session: slot, tgid, comm, body } = record;
        let time = clock::wall(time_ns);
        // A fork and an exec are in the tree before their line is made, an exit after: its lineage is still there.
        if let Some(session) = self.registry.at_mut(slot) {
            match &body {
                Body::Fork { child_tgid, child_start_ns, untagged: false } => {
                    let child = ProcessKey { tgid: *child_tgid, start_ns: *child_start_ns };
                    session.processes.fork(tgid, child);
                }
                Body::Exec { path, .. } => session.processes.exec(tgid, comm.clone(), path.clone()),
                Body::Fork { untagged: true, .. }
                | Body::Egress(_)
                | Body::Exit { .. }
                | Body::Guard(_)
                | Body::Connection(_) => {}
            }
        }
        let session = self.registry.at(slot);
        let kind = body.kind();
        let mut line = EventLine::new(kind, &time);
        line.record = Some(LineRecord { cpu: number.cpu, sequence: number.sequence, lost: number.lost });
        // By the time a decision is read, the session may be held to another envelope than the one that decided.
        let decided_by = match &body {
            Body::Egress(egress) => Some(egress.envelope),
            Body::Guard(guard) => Some(guard.envelope),
            Body::Fork { .. } | Body::Exec { .. } | Body::Exit { .. } | Body::Connection(_) => None,
        };
        line.session = session.map(|session| {
            let decided = decided_by.and_then(|envelope| session.text_under(envelope));
            decided.unwrap_or(&session.text).clone()
        });
        if session.is_none() {
            line.detail = Some(unattributed(slot));
        }
        // A packet that no process was seen to send has none.
        let mut process = (tgid != 0).then(|| LineProcess::new(tgid, comm, session, &self.host.boot_id));
        match body {
            Body::Egress(egress) => {
                if let Some(process) = &mut process {
                    process.tid = Some(egress.tid);
                    process.uid = egress.uid;
                }
                line.egress = Some(LineEgress::new(&egress, session));
                self.note_opening(slot, (time_ns, &line.time), &egress, process.as_ref());
            }
            Body::Guard(guard) => {
                if let Some(process) = &mut process {
                    process.tid = Some(guard.tid);
                    process.uid = Some(guard.uid);
                }
                line.guard = Some(LineGuard::new(&guard, session));
            }
            Body::Connection(connection) => {
                if let Some(process) = &mut process {
                    process.tid = connection.tid;
                    process.uid = connection.uid;
                }
                self.add_connection(&mut line, slot, time_ns, &connection);
            }
            Body::Fork { child_tgid, untagged, .. } => {
                line.child_pid = Some(child_tgid);
                if untagged {
                    line.detail = Some("the child could not be tagged: it is refused everything".to_owned());
                }
            }
            Body::Exec { uid, path, path_cut, image } => {
                line.image = self.seen_image(&image, session);
                if let Some(process) = &mut process {
                    process.uid = Some(uid);
                    process.path = path;
                }
                if path_cut {
                    line.detail = Some("the path is longer than a record holds".to_owned());
                }
            }
            Body::Exit { wait_status } => {
                let (code, signal) = (wait_status >> 8 & 0xff, wait_status & 0x7f);
                line.exit_code = (signal == 0).then_some(code.cast_signed());
                line.exit_signal = (signal != 0).then_some(signal.cast_signed());
            }
        }
        line.process = process.or(line.process);
        if kind == EventKind::Exit
            && let Some(session) = self.registry.at_mut(slot)
        {
            session.processes.exit(tgid);
            session.misplaced.remove(&tgid);
        }
        line
    }

    /// What was lost after the last record of each CPU.
    pub(super) fn settle_losses(&mut self, is_all_read: bool) -> Result<(), DaemonError> {
        let lost = self.kernel.sessions.lost()?;
        let made = self.kernel.sessions.made()?;
        for unwritten in self.losses.settle(&made, &lost, is_all_read, clock::boot_ns()) {
            self.say_unwritten(&unwritten);
        }
        Ok(())
    }

    fn say_unwritten(&mut self, unwritten: &Unwritten) {
        let line = EventLine::new(EventKind::RecordsLost, &clock::wall(clock::boot_ns()))
            .detail("a daemon had taken them, and had not written them down when it ended");
        self.events.count_unfinished(unwritten.records);
        self.events.write(line.unwritten(unwritten, clock::wall));
    }

    /// Which records these are: a fresh set of maps numbers anew.
    pub(super) fn numbering(&self) -> String {
        format!("{}/{}", self.host.boot_id, self.kernel.sessions.numbering)
    }

    pub(super) fn report_lost(&mut self) -> Result<(), DaemonError> {
        let found = self.losses.take();
        if found.is_empty() {
            return Ok(());
        }
        let now = clock::wall(clock::boot_ns());
        for loss in &found {
            let line = EventLine::new(EventKind::RecordsLost, &now)
                .detail("the kernel's ring buffer was full; verdicts were not affected");
            self.events.write(line.loss(loss, clock::wall));
        }
        // What the process trees missed, the kernel's tags say.
        let reconciled = self.reconcile_trees();
        self.survive(reconciled);
        Ok(self.state.save_told(&self.numbering(), &self.losses.told())?)
    }
}

pub(super) fn unattributed(slot: SessionRef) -> String {
    if slot == SessionRef::UNKNOWN {
        "in one of enforcer's cgroups, in no session".to_owned()
    } else {
        format!("session slot {} generation {}, which the daemon does not know", slot.slot, slot.generation)
    }
}
