//! What was carried: connections that are over, sockets that listen, and by period datagrams and what is refused again and again.

use std::{collections::VecDeque, net::IpAddr};

use enforcer_common::{
    flow::{Flow, FlowKey},
    identity::SessionRef,
    net::{Address, Family, Protocol},
    record::{ConnectionChange, Operation, Placement, TcpState},
    rules::NO_RULE,
    verdict::{Reason, Verdict},
};

use super::{Daemon, DaemonError};
use crate::{
    clock,
    record::{
        Connection, Egress, EventKind, EventLine, LineDestination, LineEgress, LineFlow, LineProcess,
        LineRepeats, TCP,
    },
    session::{Opener, Opening, OpeningKey, Session},
};

/// Ticks in which packets are counted together.
const PERIOD_TICKS: u32 = 10;
/// Totals that are written in one tick: a session that makes as many as it can must not keep the loop from what else it has to do.
const AT_ONCE: usize = 512;
/// Those of them that are written together, and then taken away.
const TOGETHER: usize = 64;

/// Where the daemon stands with the totals.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Ticks since the period began.
    age: u32,
    /// Of periods that are over, not written down yet.
    due: VecDeque<FlowKey>,
}

impl Daemon {
    /// Notes that a connection was let through, for the record of its end.
    pub(super) fn note_opening(
        &mut self,
        slot: SessionRef,
        time: (u64, &str),
        egress: &Egress,
        process: Option<&LineProcess>,
    ) {
        if egress.refused || egress.protocol != TCP {
            return;
        }
        let Some(end) = egress.to else { return };
        let key = match (egress.operation, egress.local_port) {
            (Operation::Connect, _) => OpeningKey::Outbound(egress.cookie),
            (Operation::Accept, Some(local_port)) => {
                OpeningKey::Inbound { from: end, local_port, netns: egress.netns }
            }
            _ => return,
        };
        let Some(session) = self.registry.known_at_mut(slot) else { return };
        let opener = process.map(|process| Opener {
            tgid: process.pid,
            key: process.key.as_deref().map(Into::into),
            tid: process.tid,
            uid: process.uid,
            comm: process.comm.as_str().into(),
        });
        let (since_ns, since) = time;
        let (envelope, rule) = (egress.envelope, egress.rule);
        session.openings.note(key, Opening { since_ns, since: since.into(), opener, envelope, rule });
    }

    /// Fills in the line of a connection's end, or of a socket that listens.
    pub(super) fn add_connection(
        &mut self,
        line: &mut EventLine,
        slot: SessionRef,
        time_ns: u64,
        connection: &Connection,
    ) {
        let listened = connection.was == TcpState::Listen;
        let opened = match connection.change {
            ConnectionChange::Closed if !listened => {
                let session = self.registry.known_at_mut(slot);
                session.and_then(|session| {
                    session.openings.take(
                        connection.cookie,
                        connection.end,
                        connection.local_port,
                        connection.netns,
                    )
                })
            }
            ConnectionChange::Closed | ConnectionChange::Listens => None,
        };
        let (direction, opening) = opened.unzip();
        let since_ns = opening.as_ref().map(|opening| opening.since_ns);
        let opener = opening.as_ref().and_then(|opening| opening.opener.as_ref());
        line.process = opener.map(|opener| self.process_that_opened(opener, slot)).or(line.process.take());
        line.flow = Some(LineFlow {
            direction: direction.map(Into::into),
            since: opening.as_ref().map(|opening| opening.since.to_string()),
            duration_ms: since_ns.map(|since_ns| millis(since_ns, time_ns)),
            rule: opening.and_then(|opening: Opening| {
                rule_name(self.registry.at(slot), opening.envelope, opening.rule)
            }),
            ..LineFlow::from(connection)
        });
    }

    /// Begins another period when it is time, and writes down what was counted in those that are over. An entry goes when it is
    /// written: after a crash it may be written again, with the same beginning.
    pub(super) fn tend_totals(&mut self) -> Result<(), DaemonError> {
        if !self.totals.due.is_empty() {
            return self.write_due();
        }
        if self.totals.age == 0 {
            self.kernel.flows.begin_period()?;
        }
        // One tick later, no program counts in the period before any more.
        if self.totals.age == 1 {
            let period = self.kernel.flows.period()?;
            self.totals.due = self.kernel.flows.of_other_periods(period)?.into();
        }
        self.totals.age = (self.totals.age + 1) % PERIOD_TICKS;
        self.write_due()
    }

    fn write_due(&mut self) -> Result<(), DaemonError> {
        let keys: Vec<FlowKey> = self.totals.due.iter().take(AT_ONCE).copied().collect();
        let written = self.write_totals(&keys, &[])?;
        self.totals.due.drain(..written);
        Ok(())
    }

    /// Writes down what is counted of sessions that have just gone.
    pub(super) fn write_totals_of(&mut self, gone: &[Session]) -> Result<(), DaemonError> {
        let mut slots = Vec::new();
        for session in gone {
            if self.kernel.flows.end(session.grant.slot)? {
                slots.push(session.grant.slot);
            }
        }
        if slots.is_empty() {
            return Ok(());
        }
        let keys = self.kernel.flows.of_sessions(&slots)?;
        self.write_totals(&keys, gone).map(drop)
    }

    /// Writes down all that is counted, in the period that goes on as well. What is counted meanwhile stays, or goes with the programs.
    pub(super) fn write_all_totals(&mut self) -> Result<(), DaemonError> {
        let keys = self.kernel.flows.all()?;
        self.write_totals(&keys, &[]).map(drop)
    }

    /// How many of these are done with. Those that the event file does not take stay where they are, and so do those behind them.
    fn write_totals(&mut self, keys: &[FlowKey], gone: &[Session]) -> Result<usize, DaemonError> {
        for (at, keys) in keys.chunks(TOGETHER).enumerate() {
            let unwritten = self.events.unwritten();
            self.events.gather(true);
            let said: Result<Vec<_>, _> = keys.iter().map(|key| self.say_total(key, gone)).collect();
            self.events.gather(false);
            self.events.flush();
            // Long lines are written before there are so many.
            if self.events.unwritten() != unwritten {
                return Ok(at * TOGETHER);
            }
            for (key, said) in keys.iter().zip(said?) {
                // In a period that goes on, more may have come meanwhile.
                if let (Some(said), Some(now)) = (said, self.kernel.flows.flow(key)?)
                    && let Some(more) = now.since(&said)
                {
                    self.write_total(key, &more, gone);
                }
                self.kernel.flows.forget(key)?;
            }
        }
        Ok(keys.len())
    }

    /// What it said.
    fn say_total(&mut self, key: &FlowKey, gone: &[Session]) -> Result<Option<Flow>, DaemonError> {
        let flow = self.kernel.flows.flow(key)?;
        if let Some(flow) = &flow {
            self.write_total(key, flow, gone);
        }
        Ok(flow)
    }

    fn write_total(&mut self, key: &FlowKey, flow: &Flow, gone: &[Session]) {
        let gone = gone.iter().find(|session| session.grant.slot == key.session);
        let line = self.total_line(key, flow, gone.or_else(|| self.registry.at(key.session)));
        self.events.write(line);
    }

    fn total_line(&self, key: &FlowKey, flow: &Flow, session: Option<&Session>) -> EventLine {
        let kind = if key.is_refused() { EventKind::EgressRepeated } else { EventKind::Datagrams };
        let mut line = EventLine::new(kind, &clock::wall(flow.last_ns));
        line.session =
            session.map(|session| session.text_under(flow.envelope).unwrap_or(&session.text).clone());
        if session.is_none() {
            line.detail = Some(super::records::unattributed(key.session));
        }
        let far = far_end(key);
        if far.is_none() {
            line.detail =
                Some("of sockets and addresses that were too many to be counted one by one".to_owned());
        } else if flow.tgid != 0 && flow.flags & Flow::SEVERAL == 0 {
            line.process = Some(self.process_of(flow.tgid, session));
        }
        if key.is_refused() {
            line.egress = Some(refusal(key, flow, session));
            let count = flow.packets_out.saturating_add(flow.packets_in);
            line.repeats = Some(LineRepeats::new(count, flow.first_ns, flow.last_ns, clock::wall));
        } else {
            line.flow = Some(total(key, flow, far, session));
        }
        line
    }

    /// With where it comes from, if it lives still.
    fn process_that_opened(&self, opener: &Opener, slot: SessionRef) -> LineProcess {
        let session = self.registry.at(slot);
        let mut process = LineProcess::new(opener.tgid, opener.comm.to_string(), session, &self.host.boot_id);
        if process.key.as_deref() != opener.key.as_deref() {
            process.key = opener.key.as_deref().map(str::to_owned);
            process.path = None;
            process.lineage = Vec::new();
            process.lineage_cut = true;
        }
        process.tid = opener.tid;
        process.uid = opener.uid;
        process
    }

    fn process_of(&self, tgid: u32, session: Option<&Session>) -> LineProcess {
        let comm = session.and_then(|session| {
            let (lineage, _) = session.processes.lineage(tgid);
            lineage.last().and_then(|process| process.comm.map(str::to_owned))
        });
        LineProcess::new(tgid, comm.unwrap_or_default(), session, &self.host.boot_id)
    }
}

fn total(key: &FlowKey, flow: &Flow, far: Option<LineDestination>, session: Option<&Session>) -> LineFlow {
    let protocol = Protocol::try_from(key.protocol).ok();
    let is_one = far.is_some();
    LineFlow {
        protocol: protocol.map_or_else(|| "datagrams".into(), |protocol| protocol.name().into()),
        destination: far,
        local_port: (is_one && flow.local_port != 0).then_some(flow.local_port),
        direction: None,
        since: Some(written(flow.first_ns)),
        duration_ms: Some(millis(flow.first_ns, flow.last_ns)),
        bytes_out: flow.bytes_out,
        bytes_in: flow.bytes_in,
        packets_out: flow.packets_out,
        packets_in: flow.packets_in,
        was: None,
        rule: (flow.rule != NO_RULE && is_one)
            .then(|| rule_name(session, flow.envelope, Some(flow.rule)))
            .flatten(),
        socket: key.cookie,
        netns: None,
        foreign: is_one && flow.flags & Flow::FOREIGN != 0,
    }
}

/// What was decided each time. Those that are counted together have the reason `several`, and no operation of their own.
fn refusal(key: &FlowKey, flow: &Flow, session: Option<&Session>) -> LineEgress {
    let far = far_address(key);
    let decided = Egress {
        tid: 0,
        uid: None,
        cookie: key.cookie,
        netns: None,
        placement: Placement::Unknown,
        foreign: far.is_some() && flow.flags & Flow::FOREIGN != 0,
        local_port: (far.is_some() && flow.local_port != 0).then_some(flow.local_port),
        operation: Operation::try_from(key.operation).unwrap_or(Operation::PacketOut),
        protocol: key.protocol.into(),
        socket_type: 0,
        // A header that cannot be read names nobody.
        to: far.filter(|(address, port)| !(address.is_unspecified() && *port == 0)),
        verdict: Verdict::Deny,
        reason: Reason::try_from(key.reason).unwrap_or(Reason::Fault),
        refused: true,
        rule: (far.is_some() && flow.rule != NO_RULE).then_some(flow.rule),
        envelope: flow.envelope,
    };
    let mut said = LineEgress::new(&decided, session);
    if far.is_none() {
        (said.operation, said.protocol, said.reason) = ("packet".into(), "several".into(), "several".into());
    }
    said
}

fn far_end(key: &FlowKey) -> Option<LineDestination> {
    let (address, port) = far_address(key)?;
    Some(LineDestination { address: address.to_string(), port })
}

/// None of what is counted together.
fn far_address(key: &FlowKey) -> Option<(IpAddr, u16)> {
    let family = Family::try_from(key.family).ok()?;
    let address = match family {
        Family::V4 => Address::v4((key.remote_low as u32).to_be_bytes()),
        Family::V6 => {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&key.remote_high.to_be_bytes());
            octets[8..].copy_from_slice(&key.remote_low.to_be_bytes());
            Address::v6(octets)
        }
    };
    Some((address.into(), key.remote_port))
}

fn rule_name(session: Option<&Session>, envelope: u32, rule: Option<u32>) -> Option<String> {
    session?.rule_name(envelope, rule?).map(str::to_owned)
}

fn written(boot_ns: u64) -> String {
    format!("{:.9}", clock::wall(boot_ns))
}

const fn millis(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1_000_000
}
