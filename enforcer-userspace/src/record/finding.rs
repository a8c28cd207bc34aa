//! A finding as a line has it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::detect::{Evidence, Finding};

/// Something that somebody should look at, made of events before this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineFinding {
    /// The same when it is over as when it was new.
    pub(crate) id: String,
    pub(crate) detection: Cow<'static, str>,
    /// `new`, or `over`: how much of it there was in all.
    pub(crate) state: Cow<'static, str>,
    /// In words.
    pub(crate) title: String,
    /// What is new, or which limit was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// Of how many events.
    pub(crate) count: u64,
    /// RFC 3339, UTC, ns.
    pub(crate) first: String,
    pub(crate) last: String,
    /// The newest of these, oldest first.
    pub(crate) evidence: Vec<LineEvidence>,
}

/// An event that a finding is made of: by both, its ids in other forms can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineEvidence {
    pub(crate) sequence: u64,
    pub(crate) time: String,
}

impl From<&Finding> for LineFinding {
    fn from(finding: &Finding) -> Self {
        Self {
            id: finding.id.clone(),
            detection: finding.detection.name().into(),
            state: finding.phase.name().into(),
            title: finding.title.clone(),
            subject: finding.subject.clone(),
            count: finding.count,
            first: format!("{:.9}", finding.first),
            last: format!("{:.9}", finding.last),
            evidence: finding.evidence.iter().map(LineEvidence::from).collect(),
        }
    }
}

impl From<&Evidence> for LineEvidence {
    fn from(Evidence { sequence, time }: &Evidence) -> Self {
        Self { sequence: *sequence, time: format!("{time:.9}") }
    }
}
