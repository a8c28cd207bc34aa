//! What was carried: connections that are over, sockets that listen, and datagrams by period.

use std::collections::VecDeque;

use enforcer_common::{
    flow::{Flow, FlowKey},
    identity::SessionRef,
    net::{Address, Family, Protocol},
    record::{ConnectionChange, Operation, TcpState},
    rules::NO_RULE,
};

use super::{Daemon, DaemonError};
use crate::{
    clock,
    record::{
        Connection, Egress, EventKind, EventLine, LineDestination, LineFlow, LineProcess, protocol_name,
    },
    session::{Opening, OpeningKey, Session},
};

/// Ticks in which datagrams are counted together.
const PERIOD_TICKS: u32 = 10;
/// Totals that are written in one tick: a session that makes as many as it can must not keep the loop from what else it has to do.
const AT_ONCE: usize = 512;
/// IP's number for TCP.
const TCP: u16 = 6;

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
            (Operation::Accept, Some(local_port)) => OpeningKey::Inbound { from: end, local_port },
            _ => return,
        };
        let Some(session) = self.registry.known_at_mut(slot) else { return };
        session.openings.note(key, time, process, (egress.envelope, egress.rule));
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
                    session.openings.take(connection.cookie, connection.end, connection.local_port)
                })
            }
            ConnectionChange::Closed | ConnectionChange::Listens => None,
        };
        let (address, port) = connection.end;
        let (direction, opening) = opened.unzip();
        let since_ns = opening.as_ref().map(|opening| opening.since_ns);
        line.process = opening.as_ref().and_then(|opening| opening.process.as_deref().cloned());
        line.flow = Some(LineFlow {
            protocol: protocol_name(TCP),
            destination: Some(LineDestination { address: address.to_string(), port }),
            local_port: Some(connection.local_port),
            direction: direction.map(Into::into),
            since: opening.as_ref().map(|opening| opening.since.to_string()),
            duration_ms: since_ns.map(|since_ns| millis(since_ns, time_ns)),
            bytes_out: connection.bytes_out,
            bytes_in: connection.bytes_in,
            packets_out: connection.packets_out.into(),
            packets_in: connection.packets_in.into(),
            was: (connection.change == ConnectionChange::Closed).then(|| connection.was.name().into()),
            rule: opening.and_then(|opening: Opening| {
                rule_name(self.registry.at(slot), opening.envelope, opening.rule)
            }),
            socket: connection.cookie,
            netns: connection.netns,
            foreign: connection.foreign,
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
        for _ in 0..AT_ONCE {
            let Some(key) = self.totals.due.pop_front() else { break };
            self.write_total(&key, None)?;
        }
        Ok(())
    }

    /// Writes down what is counted of a session that goes, or has just gone.
    pub(super) fn write_totals_of(&mut self, session: &Session) -> Result<(), DaemonError> {
        for key in self.kernel.flows.last_of(session.grant.slot)? {
            self.write_total(&key, Some(session))?;
        }
        Ok(())
    }

    /// Writes down all that is counted, in the period that goes on as well: enforcement ends.
    pub(super) fn write_all_totals(&mut self) -> Result<(), DaemonError> {
        self.kernel.flows.begin_period()?;
        let period = self.kernel.flows.period()?;
        for key in self.kernel.flows.of_other_periods(period)? {
            self.write_total(&key, None)?;
        }
        Ok(())
    }

    /// `gone` is its session if the registry does not have that any more.
    fn write_total(&mut self, key: &FlowKey, gone: Option<&Session>) -> Result<(), DaemonError> {
        let Some(flow) = self.kernel.flows.flow(key)? else { return Ok(()) };
        let line = self.total_line(key, &flow, gone.or_else(|| self.registry.at(key.session)));
        self.events.write(line);
        Ok(self.kernel.flows.forget(key)?)
    }

    fn total_line(&self, key: &FlowKey, flow: &Flow, session: Option<&Session>) -> EventLine {
        let mut line = EventLine::new(EventKind::Datagrams, &clock::wall(flow.last_ns));
        line.session =
            session.map(|session| session.text_under(flow.envelope).unwrap_or(&session.text).clone());
        if session.is_none() {
            line.detail = Some(super::records::unattributed(key.session));
        }
        let far = far_end(key);
        if far.is_none() {
            line.detail =
                Some("of sockets and addresses that were too many to be counted one by one".to_owned());
        } else if flow.tgid != 0 {
            line.process = Some(self.process_of(flow.tgid, session));
        }
        line.flow = Some(total(key, flow, far, session));
        line
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
        foreign: false,
    }
}

fn far_end(key: &FlowKey) -> Option<LineDestination> {
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
    let address: std::net::IpAddr = address.into();
    Some(LineDestination { address: address.to_string(), port: key.remote_port })
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
