//! The tables of what is counted of packets: `enforcer_common::flow` says what they are for.

use aya::maps::{Array, HashMap, MapData, MapError};
use enforcer_common::{
    flow::{Flow, FlowKey},
    identity::SessionRef,
};

use super::{
    maps::{MapsError, access, ignore_absent, open},
    pins::Pins,
};

/// What is counted of packets.
pub(crate) struct FlowMaps {
    period: Array<MapData, u64>,
    flows: HashMap<MapData, FlowKey, Flow>,
    rests: HashMap<MapData, FlowKey, Flow>,
    made: Array<MapData, u64>,
}

impl FlowMaps {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapsError> {
        Ok(Self {
            period: open(pins, "FLOW_PERIOD")?,
            flows: open(pins, "FLOWS")?,
            rests: open(pins, "FLOW_RESTS")?,
            made: open(pins, "FLOWS_MADE")?,
        })
    }

    /// The period in which datagrams are counted now.
    pub(crate) fn period(&self) -> Result<u64, MapsError> {
        self.period.get(&0, 0).map_err(access("read", "FLOW_PERIOD"))
    }

    /// Counts in another period from now on. A program that has read the old one still counts in that, for as long as it runs.
    pub(crate) fn begin_period(&mut self) -> Result<(), MapsError> {
        let next = self.period()?.wrapping_add(1);
        self.period.set(0, next, 0).map_err(access("write", "FLOW_PERIOD"))
    }

    /// What is counted, of all periods but this one.
    pub(crate) fn of_other_periods(&self, period: u64) -> Result<Vec<FlowKey>, MapsError> {
        self.keys(|key| key.period != period)
    }

    /// Whether anything was counted of a session that is over. Its slot is another's after that.
    pub(crate) fn end(&mut self, session: SessionRef) -> Result<bool, MapsError> {
        let made = self.made.get(&session.slot, 0).map_err(access("read", "FLOWS_MADE"))?;
        if made > 0 {
            self.made.set(session.slot, 0, 0).map_err(access("write", "FLOWS_MADE"))?;
        }
        Ok(made > 0)
    }

    /// What is counted of these sessions, in whatever period.
    pub(crate) fn of_sessions(&self, sessions: &[SessionRef]) -> Result<Vec<FlowKey>, MapsError> {
        self.keys(|key| sessions.contains(&key.session))
    }

    /// What is counted.
    pub(crate) fn all(&self) -> Result<Vec<FlowKey>, MapsError> {
        self.keys(|_| true)
    }

    fn keys(&self, is_wanted: impl Fn(&FlowKey) -> bool) -> Result<Vec<FlowKey>, MapsError> {
        let wanted = |key: &Result<FlowKey, MapError>| key.as_ref().map_or(true, &is_wanted);
        let keys = self.flows.keys().chain(self.rests.keys());
        keys.filter(wanted).collect::<Result<_, _>>().map_err(access("read", "FLOWS"))
    }

    /// How much.
    pub(crate) fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, MapsError> {
        let table = if is_rest(key) { &self.rests } else { &self.flows };
        match table.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(access("read", "FLOWS")(error)),
        }
    }

    /// Takes away what was written down.
    pub(crate) fn forget(&mut self, key: &FlowKey) -> Result<(), MapsError> {
        let table = if is_rest(key) { &mut self.rests } else { &mut self.flows };
        ignore_absent(table.remove(key)).map_err(access("write", "FLOWS"))
    }
}

/// Whether it is of what is counted together.
const fn is_rest(key: &FlowKey) -> bool {
    key.family == 0
}
