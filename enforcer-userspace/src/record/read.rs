//! A line as it is read back. What was decided stands beside the rest of it and not below a name, and the guard's decisions have fields in
//! common with others: so all are read, and then it is looked which of the two they are. (Two flattened fields would not do: serde gives what
//! the first has taken, and found to be something else, to nobody.)

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    EventKind, EventLine, LineAsker, LineDestination, LineEgress, LineFinding, LineFlow, LineGap, LineGuard,
    LineImage, LineLoss, LineProcess, LineRecord, LineRepeats, guarded::LineObject,
};

/// All fields that a line can have.
#[derive(Debug, Deserialize)]
pub(super) struct ReadLine<S> {
    version: u32,
    kind: EventKind,
    time: String,
    sequence: u64,
    session: Option<S>,
    process: Option<LineProcess>,
    repeats: Option<LineRepeats>,
    flow: Option<LineFlow>,
    image: Option<LineImage>,
    child_pid: Option<u32>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    lost: Option<u64>,
    lost_records: Option<LineLoss>,
    lost_events: Option<LineGap>,
    record: Option<LineRecord>,
    finding: Option<LineFinding>,
    asked_by: Option<LineAsker>,
    detail: Option<String>,
    operation: Option<Cow<'static, str>>,
    protocol: Option<Cow<'static, str>>,
    destination: Option<LineDestination>,
    local_port: Option<u16>,
    verdict: Option<Cow<'static, str>>,
    refused: Option<bool>,
    reason: Option<Cow<'static, str>>,
    rule: Option<String>,
    socket: Option<u64>,
    netns: Option<u32>,
    #[serde(default)]
    foreign: bool,
    placement: Option<Cow<'static, str>>,
    object: Option<LineObject>,
}

impl<S> From<ReadLine<S>> for EventLine<S> {
    fn from(read: ReadLine<S>) -> Self {
        let ReadLine { rule, destination, local_port, netns, foreign, placement, .. } = read;
        let (mut egress, mut guard) = (None, None);
        if let (Some(operation), Some(verdict), Some(refused), Some(reason)) =
            (read.operation, read.verdict, read.refused, read.reason)
        {
            match (read.protocol, read.socket, read.object) {
                (_, _, Some(object)) => {
                    guard = Some(LineGuard { operation, verdict, refused, reason, rule, object });
                }
                (Some(protocol), Some(socket), None) => {
                    egress = Some(LineEgress {
                        operation,
                        protocol,
                        destination,
                        local_port,
                        verdict,
                        refused,
                        reason,
                        rule,
                        socket,
                        netns,
                        foreign,
                        placement,
                    });
                }
                // Neither: a line that somebody else has written.
                _ => {}
            }
        }
        Self {
            version: read.version,
            kind: read.kind,
            time: read.time,
            at: jiff::Timestamp::UNIX_EPOCH,
            sequence: read.sequence,
            session: read.session,
            process: read.process,
            egress,
            guard,
            repeats: read.repeats,
            flow: read.flow,
            image: read.image,
            child_pid: read.child_pid,
            exit_code: read.exit_code,
            exit_signal: read.exit_signal,
            lost: read.lost,
            lost_records: read.lost_records,
            lost_events: read.lost_events,
            record: read.record,
            finding: read.finding,
            asked_by: read.asked_by,
            detail: read.detail,
        }
    }
}
