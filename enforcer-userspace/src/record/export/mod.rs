//! From an event as it is read back to the forms that other tools read: OCSF, in the versions that they take, and ECS. Core: no I/O and
//! no clock, so that an event has the same form whenever and wherever it is exported.
//!
//! OCSF is made in its newest version ([`ocsf`]) and then taken down to the older ones by one table of rules ([`downgrade`]).

mod downgrade;
mod ecs;
mod facts;
mod kinds;
mod object;
mod ocsf;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use ring::digest;
use uuid::{Builder, Uuid};

pub(crate) use downgrade::Version;
use object::Object;

use super::{EventLine, LineSession, line};
use crate::credentials::TrustDomain;

/// An event as it is read back.
pub(crate) type Event = EventLine<LineSession>;

/// What an event is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Ocsf(Version),
    Ecs,
}

/// What an event does not say, because it is the same for all that come from one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// What it calls itself.
    pub(crate) name: String,
    /// The enforcer's.
    pub(crate) release: String,
    pub(crate) trust_domain: TrustDomain,
}

/// Why an event has no other form.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("version {0} of the lines is not known here, which is {known}", known = line::VERSION)]
    Version(u32),
    #[error("understand the time `{}`", time.escape_debug())]
    Time {
        time: String,
        #[source]
        source: jiff::Error,
    },
}

/// The id that each form of an event has.
pub(crate) fn uid(event: &Event, host: &Host) -> Option<Uuid> {
    Some(unique_id(event, event.time.parse().ok()?, host))
}

/// The event in another form.
pub(crate) fn export<'a>(event: &'a Event, form: Form, host: &'a Host) -> Result<Object<'a>, ExportError> {
    if event.version != line::VERSION {
        return Err(ExportError::Version(event.version));
    }
    let time: Timestamp =
        event.time.parse().map_err(|source| ExportError::Time { time: event.time.clone(), source })?;
    let id = unique_id(event, time, host);
    Ok(match form {
        Form::Ocsf(version) => downgrade::to(version, ocsf::form(event, time, id, host)),
        Form::Ecs => ecs::form(event, id, host),
    })
}

/// The same whenever this event is exported, and another one for every other event, so that whoever gets one twice can tell. Its
/// beginning is the time, as in every UUIDv7; the rest is made of what tells events apart: the host, the sequence, the time to the ns.
fn unique_id(event: &Event, time: Timestamp, host: &Host) -> Uuid {
    id_of(host, &event.time, time, event.sequence)
}

/// Likewise, by what tells events apart.
fn id_of(host: &Host, said: &str, time: Timestamp, sequence: u64) -> Uuid {
    let mut context = digest::Context::new(&digest::SHA256);
    for text in [host.name.as_str(), said] {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    context.update(&sequence.to_be_bytes());
    let digest = context.finish();
    let mut rest = [0; 10];
    rest.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}
