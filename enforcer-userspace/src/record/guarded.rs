//! What the guard decided, as a line says it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::GuardDecision;
use crate::session::Session;

/// What the guard decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineGuard {
    /// The kernel's name of the hook.
    pub(crate) operation: Cow<'static, str>,
    pub(crate) verdict: Cow<'static, str>,
    /// Whether the operation was refused; a deny in audit mode is not.
    pub(crate) refused: bool,
    pub(crate) reason: Cow<'static, str>,
    /// Of the envelope's rules for Unix sockets.
    pub(crate) rule: Option<String>,
    /// What it was to be done to.
    pub(crate) object: LineObject,
}

/// What the guard was asked about, as far as the hook knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineObject {
    /// The process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// The family of the socket, as `AF_PACKET` is 17.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<u32>,
    /// Of a socket its protocol, of a signal its number, of `bpf` its command.
    pub(crate) number: u32,
    /// A Unix socket by the path that it was bound to, or its abstract name after an `@`; the last part of a file's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

impl LineGuard {
    pub(crate) fn new(guard: &GuardDecision, session: Option<&Session>) -> Self {
        let rule = guard.rule.zip(session);
        Self {
            operation: guard.hook.name().into(),
            verdict: guard.verdict.name().into(),
            refused: guard.refused,
            reason: guard.reason.name().into(),
            rule: rule
                .and_then(|(rule, session)| session.unix_rule_name(guard.envelope, rule))
                .map(str::to_owned),
            object: LineObject {
                pid: guard.target_tgid,
                family: guard.family,
                number: guard.number,
                name: guard.name.clone(),
            },
        }
    }
}
