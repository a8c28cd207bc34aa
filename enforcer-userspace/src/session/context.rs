//! What whoever begins a session says of it: the task, what set it off, labels. It is fixed for the session's life, is in every record of
//! it, and grants nothing: it is somebody's word.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest text, in bytes.
const MAX_TEXT: usize = 256;
/// The longest name of a label, in bytes: as long as Kubernetes allows.
const MAX_NAME: usize = 63;
const MAX_LABELS: usize = 32;

/// What was said of a session when it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Context {
    /// What it is to do, such as the number of a ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    /// What set it off, such as a schedule or a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trigger: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// What a context may not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("the {what} is longer than {MAX_TEXT} bytes")]
    TooLong { what: String },
    #[error("the {what} is empty, or has characters that cannot be printed")]
    Unprintable { what: String },
    #[error("`{}` is not a name for a label: it takes 1 to {MAX_NAME} of a-z, A-Z, 0-9, `.`, `_`, `-`, `/`", name.escape_debug())]
    Name { name: String },
    #[error("more than {MAX_LABELS} labels")]
    TooMany,
    #[error("the label `{name}` is `{new}`, and that of the session above is `{old}`")]
    Changed { name: String, old: String, new: String },
}

impl Context {
    /// Whether it may be written down as it stands: it comes from anybody.
    pub(crate) fn check(&self) -> Result<(), ContextError> {
        if self.labels.len() > MAX_LABELS {
            return Err(ContextError::TooMany);
        }
        let texts = [("task", &self.task), ("trigger", &self.trigger)];
        for (what, text) in texts.into_iter().filter_map(|(what, text)| Some((what, text.as_ref()?))) {
            check_text(what.to_owned(), text)?;
        }
        for (name, value) in &self.labels {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
            if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
                return Err(ContextError::Name { name: name.chars().take(MAX_NAME).collect() });
            }
            check_text(format!("label `{name}`"), value)?;
        }
        Ok(())
    }

    /// What a sub-session's is: what was said of it, and the labels of the session above, which it cannot change; and what set that off,
    /// unless it says what set it off itself.
    pub(crate) fn below(mut self, above: &Self) -> Result<Self, ContextError> {
        for (name, old) in &above.labels {
            match self.labels.get(name) {
                Some(new) if new != old => {
                    return Err(ContextError::Changed {
                        name: name.clone(),
                        old: old.clone(),
                        new: new.clone(),
                    });
                }
                Some(_) => {}
                None => drop(self.labels.insert(name.clone(), old.clone())),
            }
        }
        if self.labels.len() > MAX_LABELS {
            return Err(ContextError::TooMany);
        }
        self.trigger = self.trigger.or_else(|| above.trigger.clone());
        Ok(self)
    }
}

fn check_text(what: String, text: &str) -> Result<(), ContextError> {
    if text.len() > MAX_TEXT {
        return Err(ContextError::TooLong { what });
    }
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(ContextError::Unprintable { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(labels: &[(&str, &str)]) -> Context {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Context { labels, ..Context::default() }
    }

    #[test]
    fn what_cannot_be_written_down_is_refused() {
        let task = |task: &str| Context { task: Some(task.to_owned()), ..Context::default() };
        assert_eq!(task("OPS-17: restart the index").check(), Ok(()));
        assert!(matches!(task("").check(), Err(ContextError::Unprintable { .. })));
        assert!(matches!(task("a\u{1b}[2Jb").check(), Err(ContextError::Unprintable { .. })));
        assert!(matches!(task("two\nlines").check(), Err(ContextError::Unprintable { .. })));
        assert!(matches!(task(&"x".repeat(257)).check(), Err(ContextError::TooLong { .. })));
        assert_eq!(labelled(&[("team", "a b"), ("example.org/cost-centre", "7")]).check(), Ok(()));
        for name in ["", "a b", "ä", &"n".repeat(64)] {
            assert!(matches!(labelled(&[(name, "x")]).check(), Err(ContextError::Name { .. })), "{name}");
        }
        let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "x")).collect();
        assert_eq!(labelled(&many).check(), Err(ContextError::TooMany));
    }

    #[test]
    fn a_sub_session_keeps_the_labels_of_the_one_above() {
        let above = Context { trigger: Some("cron".to_owned()), ..labelled(&[("team", "red")]) };
        let below = labelled(&[("step", "2")]).below(&above);
        let below = below.expect("nothing is changed");
        assert_eq!(below.labels, labelled(&[("team", "red"), ("step", "2")]).labels);
        assert_eq!((below.trigger.as_deref(), below.task), (Some("cron"), None));
        let changed = labelled(&[("team", "blue")]).below(&above);
        assert!(matches!(changed, Err(ContextError::Changed { .. })));
    }
}
