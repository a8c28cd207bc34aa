//! SPIFFE IDs: `spiffe://<trust domain>/agent/<name>`. An agent's is the same in all of its sessions and on all of its runs.

use std::{fmt, str::FromStr};

/// The longest trust domain, and the longest SPIFFE ID (SPIFFE-ID, 2.1 and 2.3).
const MAX_DOMAIN_BYTES: usize = 255;
const MAX_ID_BYTES: usize = 2048;
const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID, or not a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpiffeIdError {
    #[error("a trust domain is 1 to {MAX_DOMAIN_BYTES} of the characters `a-z`, `0-9`, `.`, `-` and `_`")]
    TrustDomain,
    #[error("a SPIFFE ID starts with `{SCHEME}`")]
    Scheme,
    #[error("the path of a SPIFFE ID is parts of letters, digits, `.`, `-` and `_`, each after a `/`")]
    Path,
    #[error("a SPIFFE ID has at most {MAX_ID_BYTES} bytes")]
    TooLong,
}

/// Within which names mean something: one host's agents, where nobody says otherwise, since each host has keys of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustDomain(String);

impl TrustDomain {
    /// The one that a host has by its name. Characters that no trust domain has become `-`.
    pub(crate) fn of_host(name: &str) -> Self {
        let allowed = |c: char| if is_domain_char(c) { c } else { '-' };
        let name: String = name.to_ascii_lowercase().chars().map(allowed).take(MAX_DOMAIN_BYTES).collect();
        Self(if name.is_empty() { "localhost".to_owned() } else { name })
    }

    /// The SPIFFE ID of the trust domain itself, which has no path.
    pub(crate) fn id(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let fits = (1..=MAX_DOMAIN_BYTES).contains(&text.len()) && text.chars().all(is_domain_char);
        if fits { Ok(Self(text.to_owned())) } else { Err(SpiffeIdError::TrustDomain) }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const fn is_domain_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')
}

/// A workload's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpiffeId {
    trust_domain: TrustDomain,
    /// With the `/` that it starts with.
    path: String,
}

impl SpiffeId {
    /// An agent's; of one in a sub-session, behind those above it, from the top down: what such a one is called, those above it say, and
    /// no name of theirs is that of somebody else. A name must be a part of a path, which names in envelopes are.
    pub(crate) fn of_agent(
        trust_domain: &TrustDomain,
        above: &[String],
        agent: &str,
    ) -> Result<Self, SpiffeIdError> {
        let above: String = above.iter().flat_map(|agent| [agent, "/"]).collect();
        format!("{}/agent/{above}{agent}", trust_domain.id()).parse()
    }

    pub(crate) const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(SpiffeIdError::Path)?;
        let is_path_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_path_char);
        if !path.split('/').all(is_part) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { trust_domain: domain.parse()?, path: format!("/{path}") })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.trust_domain.id(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_the_standard_says() {
        for (text, expected) in [
            ("spiffe://example.org/agent/a", Ok(())),
            ("spiffe://example.org/agent/A_b-c.9", Ok(())),
            ("spiffe://example.org", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/a/", Err(SpiffeIdError::Path)),
            ("spiffe://example.org//a", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/a/../b", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/a b", Err(SpiffeIdError::Path)),
            ("spiffe://example.org/a%20b", Err(SpiffeIdError::Path)),
            ("spiffe://Example.org/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe:///a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://user@example.org/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://example.org:80/a", Err(SpiffeIdError::TrustDomain)),
            ("https://example.org/a", Err(SpiffeIdError::Scheme)),
        ] {
            let read = text.parse::<SpiffeId>();
            assert_eq!(read.as_ref().map(|_| ()).map_err(|error| *error), expected, "{text}");
            if let Ok(id) = read {
                assert_eq!(id.to_string(), text);
            }
        }
        let long = format!("spiffe://example.org/{}", "a".repeat(MAX_ID_BYTES));
        assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeIdError::TooLong));
    }

    #[test]
    fn every_host_has_a_trust_domain() {
        for (name, expected) in [
            ("build-7.example.org", "build-7.example.org"),
            ("Anna's Laptop", "anna-s-laptop"),
            ("", "localhost"),
            ("ü", "-"),
        ] {
            let domain = TrustDomain::of_host(name);
            assert_eq!(domain.0, expected);
            assert_eq!(expected.parse(), Ok(domain));
        }
        assert_eq!(TrustDomain::of_host(&"x".repeat(300)).0.len(), MAX_DOMAIN_BYTES);
    }
}
