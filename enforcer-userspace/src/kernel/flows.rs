//! The tables of datagrams: `enforcer_common::flow` says what they are for.

use aya::maps::{Array, HashMap, MapData, MapError};
use enforcer_common::{
    flow::{Flow, FlowKey},
    identity::SessionRef,
};

use super::{
    maps::{MapsError, access, ignore_absent, open},
    pins::Pins,
};

/// What is counted of datagrams.
pub(crate) struct FlowMaps {
    period: Array<MapData, u64>,
    flows: HashMap<MapData, FlowKey, Flow>,
    made: Array<MapData, u64>,
}

impl FlowMaps {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapsError> {
        Ok(Self {
            period: open(pins, "FLOW_PERIOD")?,
            flows: open(pins, "FLOWS")?,
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

    /// What is counted of a session that is over, for the last time: its slot is another's after that. Most have nothing.
    pub(crate) fn last_of(&mut self, session: SessionRef) -> Result<Vec<FlowKey>, MapsError> {
        if self.made.get(&session.slot, 0).map_err(access("read", "FLOWS_MADE"))? == 0 {
            return Ok(Vec::new());
        }
        self.made.set(session.slot, 0, 0).map_err(access("write", "FLOWS_MADE"))?;
        self.keys(|key| key.session == session)
    }

    fn keys(&self, is_wanted: impl Fn(&FlowKey) -> bool) -> Result<Vec<FlowKey>, MapsError> {
        let wanted = |key: &Result<FlowKey, MapError>| key.as_ref().map_or(true, &is_wanted);
        self.flows.keys().filter(wanted).collect::<Result<_, _>>().map_err(access("read", "FLOWS"))
    }

    /// How much.
    pub(crate) fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, MapsError> {
        match self.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(access("read", "FLOWS")(error)),
        }
    }

    /// Takes away what was written down.
    pub(crate) fn forget(&mut self, key: &FlowKey) -> Result<(), MapsError> {
        ignore_absent(self.flows.remove(key)).map_err(access("write", "FLOWS"))
    }
}
