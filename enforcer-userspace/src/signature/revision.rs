//! Which revision of an agent's envelope may be accepted after which: never an earlier one, and of one revision never a
//! second text. Without it, whoever keeps an old envelope could bring back what it allowed, with a good signature.

/// The latest revision of an agent's envelope that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) revision: u64,
    /// SHA-256 of the envelope's text, hexadecimal.
    pub(crate) envelope_digest: String,
}

/// Why an envelope may not be accepted.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RevisionError {
    #[error("it is revision {offered} of the envelope, and revision {accepted} was accepted before")]
    RolledBack { offered: u64, accepted: u64 },
    #[error("another text was accepted as revision {revision} before")]
    Reused { revision: u64 },
}

/// Whether `offered` may be accepted after `accepted`; if so, whether it is new, and has to be remembered.
pub(crate) fn may_follow(accepted: Option<&Accepted>, offered: &Accepted) -> Result<bool, RevisionError> {
    let Some(accepted) = accepted else {
        return Ok(true);
    };
    match offered.revision.cmp(&accepted.revision) {
        std::cmp::Ordering::Greater => Ok(true),
        std::cmp::Ordering::Equal if offered.envelope_digest == accepted.envelope_digest => Ok(false),
        std::cmp::Ordering::Equal => Err(RevisionError::Reused { revision: offered.revision }),
        std::cmp::Ordering::Less => {
            Err(RevisionError::RolledBack { offered: offered.revision, accepted: accepted.revision })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_only_rise_and_have_one_text_each() {
        let accepted = |revision, text: &str| Accepted { revision, envelope_digest: text.to_owned() };
        let before = accepted(5, "a");
        for (accepted_before, offered, expected) in [
            (None, accepted(0, "a"), Ok(true)),
            (None, accepted(9, "a"), Ok(true)),
            (Some(&before), accepted(6, "a"), Ok(true)),
            (Some(&before), accepted(6, "b"), Ok(true)),
            (Some(&before), accepted(5, "a"), Ok(false)),
            (Some(&before), accepted(5, "b"), Err(RevisionError::Reused { revision: 5 })),
            (Some(&before), accepted(4, "a"), Err(RevisionError::RolledBack { offered: 4, accepted: 5 })),
            (Some(&before), accepted(0, "b"), Err(RevisionError::RolledBack { offered: 0, accepted: 5 })),
        ] {
            assert_eq!(may_follow(accepted_before, &offered), expected, "{offered:?}");
        }
    }
}
