//! From an event to what is sent.

use super::{
    settings::{Form, Only},
    tail::Written,
    transport::Message,
};
use crate::{
    exit::one_line,
    record::{
        EventKind, EventLine, LineGap, LineSession,
        export::{self, Event, Host},
    },
};

/// Makes messages of events, in one form.
#[derive(Clone, Debug)]
pub(super) struct Renderer {
    form: Form,
    host: Host,
}

impl Renderer {
    pub(super) const fn new(form: Form, host: Host) -> Self {
        Self { form, host }
    }

    pub(super) fn message(&self, written: &Written) -> Message {
        self.render(&written.event, Some(&written.text))
    }

    /// That events are missing.
    pub(super) fn missing(&self, gap: LineGap) -> Message {
        // As the last that is missing.
        let mut lost = Event::bare(EventKind::RecordsLost, gap.until.clone(), gap.last);
        lost.lost = Some((gap.last + 1).saturating_sub(gap.first));
        lost.lost_events = Some(gap);
        lost.detail = Some("gone from the event file before this sink had sent them".to_owned());
        self.render(&lost, None)
    }

    /// One that nothing happened for, to see whether it is taken.
    pub(super) fn test(&self, time: String) -> Message {
        let mut test = Event::bare(EventKind::SinkTest, time, 0);
        test.detail = Some("sent by `enforcer sink test`".to_owned());
        self.render(&test, None)
    }

    fn render(&self, event: &Event, text: Option<&str>) -> Message {
        let native = || match text {
            Some(text) => text.to_owned(),
            None => serde_json::to_string(event).unwrap_or_default(),
        };
        let text = match self.form.export() {
            None => native(),
            Some(form) => {
                match export::export(event, form, &self.host).map(|object| serde_json::to_string(&object)) {
                    Ok(Ok(text)) => text,
                    // It is sent as it is, rather than not at all.
                    Ok(Err(error)) => said_as_it_is(&native(), &one_line(&error)),
                    Err(error) => said_as_it_is(&native(), &one_line(&error)),
                }
            }
        };
        let uid = export::uid(event, &self.host);
        Message {
            uid: uid.map_or_else(
                || format!("{}-{}", self.host.name.escape_debug(), event.sequence),
                |uid| uid.to_string(),
            ),
            time: event.time.clone(),
            is_refusal: is_refusal(event),
            kind: name_of(event),
            text,
        }
    }
}

fn said_as_it_is(native: &str, why: &str) -> String {
    eprintln!("warning: an event is sent as it is: {why}");
    native.to_owned()
}

impl Only {
    /// Whether an event goes there.
    pub(super) fn takes(&self, event: &EventLine<LineSession>) -> bool {
        let verdict = match (&event.egress, &event.guard) {
            (Some(egress), _) => Some(&*egress.verdict),
            (_, Some(guard)) => Some(&*guard.verdict),
            _ => None,
        };
        let agent = event.session.as_ref().map(|session| session.agent.as_str());
        let matches = |pattern: &String, name: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        };
        (self.verdicts.is_empty()
            || verdict.is_some_and(|it| self.verdicts.iter().any(|wanted| wanted == it)))
            && (self.agents.is_empty()
                || agent.is_some_and(|it| self.agents.iter().any(|wanted| matches(wanted, it))))
            && (self.kinds.is_empty() || self.kinds.contains(&name_of(event)))
    }
}

fn is_refusal(event: &Event) -> bool {
    event.egress.as_ref().is_some_and(|egress| egress.refused)
        || event.guard.as_ref().is_some_and(|guard| guard.refused)
}

/// The kind as it is written.
fn name_of(event: &Event) -> String {
    serde_json::to_value(event.kind)
        .ok()
        .and_then(|kind| kind.as_str().map(str::to_owned))
        .unwrap_or_default()
}
