//! What the guard decided.

use std::mem::offset_of;

use enforcer_common::{
    guard::{GuardHook, NameKind},
    record::{COMM_LEN, GuardRecord, NAME_LEN},
    rules::NO_RULE,
    verdict::{Reason, Verdict},
};

use super::{Body, DecodeError, Number, Record, array, at_least, session, text};

/// What the guard refused; or a Unix socket that a rule allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardDecision {
    pub(crate) tid: u32,
    pub(crate) uid: u32,
    pub(crate) hook: GuardHook,
    pub(crate) target_tgid: Option<u32>,
    pub(crate) family: Option<u32>,
    /// Of a socket its protocol, of a signal its number and so on.
    pub(crate) number: u32,
    /// A path as it was bound, an abstract name after an `@`, or a file's last name.
    pub(crate) name: Option<String>,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) refused: bool,
    pub(crate) rule: Option<u32>,
    pub(crate) envelope: u32,
}

pub(super) fn decode(bytes: &[u8], time_ns: u64, number: Number) -> Result<Record, DecodeError> {
    let bytes = at_least(bytes, size_of::<GuardRecord>())?;
    let (rule, family) = (field!(bytes, GuardRecord, rule: u32), field!(bytes, GuardRecord, family: u32));
    let target = field!(bytes, GuardRecord, target_tgid: u32);
    Ok(Record {
        time_ns,
        number,
        session: session(bytes, offset_of!(GuardRecord, session)),
        tgid: field!(bytes, GuardRecord, tgid: u32),
        comm: text(&field!(bytes, GuardRecord, comm: [u8; COMM_LEN])),
        body: Body::Guard(GuardDecision {
            tid: field!(bytes, GuardRecord, tid: u32),
            uid: field!(bytes, GuardRecord, uid: u32),
            hook: field!(bytes, GuardRecord, hook: u8).try_into()?,
            target_tgid: (target != 0).then_some(target),
            family: (family != 0).then_some(family),
            number: field!(bytes, GuardRecord, number: u32),
            name: guarded_name(bytes)?,
            verdict: field!(bytes, GuardRecord, verdict: u8).try_into()?,
            reason: field!(bytes, GuardRecord, reason: u8).try_into()?,
            refused: field!(bytes, GuardRecord, refused: u8) != 0,
            rule: (rule != NO_RULE).then_some(rule),
            envelope: field!(bytes, GuardRecord, envelope: u32),
        }),
    })
}

/// The name in a record of the guard: what is not text in it is replaced.
fn guarded_name(bytes: &[u8]) -> Result<Option<String>, DecodeError> {
    let name = field!(bytes, GuardRecord, name: [u8; NAME_LEN]);
    let len = usize::from(field!(bytes, GuardRecord, name_len: u8));
    let name = String::from_utf8_lossy(name.get(..len).unwrap_or(&name)).into_owned();
    Ok(match NameKind::try_from(field!(bytes, GuardRecord, name_kind: u8))? {
        NameKind::Nothing => None,
        NameKind::Path | NameKind::File => Some(name),
        NameKind::Abstract => Some(format!("@{name}")),
    })
}
