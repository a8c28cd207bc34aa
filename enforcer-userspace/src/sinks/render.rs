//! From an event to what is sent.

use super::{
    settings::{Form, Only},
    tail::Written,
    transport::Message,
};
use crate::record::{EventLine, LineSession};

/// Makes messages of events, in one form.
#[derive(Clone, Debug)]
pub(crate) struct Renderer {
    form: Form,
    host: String,
}

impl Renderer {
    pub(super) fn new(form: Form, host: &str) -> Self {
        Self { form, host: host.to_owned() }
    }

    pub(super) fn message(&self, written: &Written) -> Message {
        let Written { event, text } = written;
        Message {
            uid: format!("{}-{}", self.host, event.sequence),
            time: event.time.clone(),
            is_refusal: is_refusal(event),
            kind: name_of(event),
            text: match self.form {
                Form::Native => text.clone(),
            },
        }
    }

    /// That so many are missing before an event.
    pub(super) fn missing(&self, events: u64, next: &Written) -> Message {
        let event = &next.event;
        let text = serde_json::json!({
            "version": event.version, "kind": "records-lost", "time": event.time, "sequence": event.sequence - 1,
            "lost": events, "detail": "gone from the event file before this sink had sent them",
        });
        Message {
            uid: format!("{}-{}-lost", self.host, event.sequence),
            time: event.time.clone(),
            is_refusal: true,
            kind: "records-lost".to_owned(),
            text: text.to_string(),
        }
    }
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

fn is_refusal(event: &EventLine<LineSession>) -> bool {
    event.egress.as_ref().is_some_and(|egress| egress.refused)
        || event.guard.as_ref().is_some_and(|guard| guard.refused)
}

/// The kind as it is written.
fn name_of(event: &EventLine<LineSession>) -> String {
    serde_json::to_value(event.kind)
        .ok()
        .and_then(|kind| kind.as_str().map(str::to_owned))
        .unwrap_or_default()
}
