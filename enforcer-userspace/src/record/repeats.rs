//! Refusals that are told together, after one before them that was told by itself.

use serde::{Deserialize, Serialize};

/// How often it was refused again. The last time is the event's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineRepeats {
    pub(crate) count: u64,
    /// The first time; RFC 3339, UTC, ns.
    pub(crate) since: String,
    /// From then to the event's time.
    pub(crate) duration_ms: u64,
}

impl LineRepeats {
    pub(crate) fn new(
        count: u64,
        first_ns: u64,
        last_ns: u64,
        wall: impl FnOnce(u64) -> jiff::Timestamp,
    ) -> Self {
        let duration_ms = last_ns.saturating_sub(first_ns) / 1_000_000;
        Self { count, since: format!("{:.9}", wall(first_ns)), duration_ms }
    }
}
