//! One attempt: does what the catalogue says under a name, and reports what became of the calls.

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::context::Context;
use crate::sys::Attempt;

/// What the attacker itself saw. Not evidence: what got out is seen elsewhere.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The call that failed, and the error's number; nothing if none failed.
    pub(crate) call: Option<String>,
    pub(crate) errno: i32,
}

/// Runs the technique and prints a [`Report`].
pub(crate) fn run(name: &str, context: &Context) {
    let technique = catalogue::find(name).unwrap_or_else(|| panic!("no such technique: {name}"));
    report(&(technique.attempt)(context));
}

pub(crate) fn report(outcome: &Attempt) {
    let report = match outcome {
        Ok(()) => Report::default(),
        Err(stop) => Report { call: Some(stop.at.to_owned()), errno: stop.error.raw_os_error().unwrap_or(0) },
    };
    let line = serde_json::to_string(&report).expect("a report is JSON");
    // Whoever started us may have lost interest.
    let _ = writeln!(std::io::stdout(), "{line}");
}
