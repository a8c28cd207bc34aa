//! The registration policy: which users may begin sessions of their own, without being operators, and under which envelopes. Core: what the
//! document says, with users, groups and files named as it names them.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::Deserialize;

use crate::document::{self, DocumentError};

const MAX_GRANTS: usize = 256;

/// What a document of the kind `RegistrationPolicy` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    grants: Vec<Written>,
}

/// What some users may do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) users: Vec<Principal>,
    #[serde(default)]
    pub(crate) groups: Vec<Principal>,
    /// Whoever asks must run one of them. Empty: any.
    #[serde(default)]
    pub(crate) executables: Vec<Executable>,
    /// Files. A session's envelope must be for the agent, owner, operator and model of one of them, and allow nothing more.
    pub(crate) envelopes: Vec<PathBuf>,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Principal {
    Number(u32),
    Name(String),
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Executable {
    pub(crate) path: PathBuf,
    /// Of what is in it, hexadecimal. Without it, the file at the path, whatever is in it.
    #[serde(default)]
    pub(crate) sha256: Option<String>,
}

/// What is wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it has more than {MAX_GRANTS} grants")]
    TooMany,
    #[error("two grants have the name `{name}`, or it is empty")]
    Name { name: String },
    #[error("grant `{grant}`: {what}")]
    Grant { grant: String, what: String },
}

impl PolicyError {
    pub(crate) fn of_grant(grant: &str, what: impl Into<String>) -> Self {
        Self::Grant { grant: grant.to_owned(), what: what.into() }
    }
}

/// Reads a policy.
pub(crate) fn parse(document: &[u8]) -> Result<Vec<Written>, PolicyError> {
    let Spec { grants } = document::parse("RegistrationPolicy", document)?;
    if grants.len() > MAX_GRANTS {
        return Err(PolicyError::TooMany);
    }
    for (at, grant) in grants.iter().enumerate() {
        check(grant)?;
        if grants[..at].iter().any(|other| other.name == grant.name) {
            return Err(PolicyError::Name { name: grant.name.clone() });
        }
    }
    Ok(grants)
}

fn check(grant: &Written) -> Result<(), PolicyError> {
    let wrong = |what: &str| Err(PolicyError::of_grant(&grant.name, what));
    if grant.name.trim().is_empty() || grant.name.chars().any(char::is_control) {
        return Err(PolicyError::Name { name: grant.name.clone() });
    }
    if grant.users.is_empty() && grant.groups.is_empty() {
        return wrong("it names nobody: `users` or `groups`");
    }
    if grant.envelopes.is_empty() {
        return wrong("it has no envelope");
    }
    if grant.envelopes.iter().any(|path| !path.is_absolute()) {
        return wrong("an envelope's path does not begin with `/`");
    }
    for Executable { path, sha256 } in &grant.executables {
        if !path.is_absolute() {
            return wrong("an executable's path does not begin with `/`");
        }
        let is_digest =
            |text: &String| text.len() == 64 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        if sha256.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return wrong("an executable's `sha256` is not 64 of 0-9 and a-f");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(grants: &str) -> Result<Vec<Written>, PolicyError> {
        let text = format!("apiVersion: enforcer/v1\nkind: RegistrationPolicy\nspec:\n  grants:\n{grants}");
        parse(text.as_bytes())
    }

    #[test]
    fn a_policy_says_who_may_begin_what() {
        let read = policy(
            "  - name: review\n    users: [alice, 1001]\n    groups: [developers]\n    executables:\n    - path: /usr/bin/x\n    \
             envelopes: [/etc/enforcer/review.yaml]\n",
        )
        .unwrap();
        assert_eq!(read[0].users, [Principal::Name("alice".to_owned()), Principal::Number(1001)]);
        assert_eq!(read[0].executables[0].sha256, None);
    }

    #[test]
    fn what_grants_less_than_it_seems_to_say_is_refused() {
        for (grants, why) in [
            ("  - {name: a, envelopes: [/x]}\n", "names nobody"),
            ("  - {name: a, users: [b], envelopes: []}\n", "no envelope"),
            ("  - {name: a, users: [b], envelopes: [x.yaml]}\n", "begin with"),
            ("  - {name: a, users: [b], envelopes: [/x], executable: /bin/sh}\n", "executable"),
            ("  - {name: a, users: [-1], envelopes: [/x]}\n", "cannot be read"),
            ("  - {name: ' ', users: [b], envelopes: [/x]}\n", "empty"),
            ("  - {name: a, users: [b], envelopes: [/x], executables: [{path: /b, sha256: AB}]}\n", "64 of"),
            (
                "  - {name: a, users: [b], envelopes: [/x]}\n  - {name: a, users: [b], envelopes: [/x]}\n",
                "two",
            ),
        ] {
            let error = policy(grants).unwrap_err().to_string();
            assert!(error.contains(why), "{grants}: {error}");
        }
    }
}
