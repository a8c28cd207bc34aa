//! Credentials of sessions: SVIDs, as SPIFFE defines them, and the authorities that sign them.
//!
//! An SVID says of a process which agent it is, and for whom and under which envelope it acts. It lives for minutes, and never
//! longer than the session. Core: keys are made and used here, and whoever calls keeps them; time comes in as an argument,
//! in seconds of Unix time.

#![forbid(unsafe_code)]

mod authority;
mod bundle;
mod claims;
mod rotation;
mod spiffe_id;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use authority::{Authority, AuthorityError, IssueError, JwtSvid, Stored, WitSvid, X509Svid};
pub(crate) use bundle::{Bundle, TokenKeys};
pub(crate) use claims::{Claims, Principal, Root};
pub(crate) use rotation::Authorities;
pub(crate) use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub(crate) use token::{Expected, TokenKind, Verified};

/// How long a credential is valid: what is stolen is of use for no longer. A session that ends earlier bounds it further.
pub(crate) const LIFETIME_S: i64 = 600;
/// By how much the clocks of who signs and who verifies may differ.
pub(crate) const SKEW_S: i64 = 60;
/// The longest audience, and the longest token, that is looked at.
pub(crate) const MAX_AUDIENCE_BYTES: usize = 1024;
pub(crate) const MAX_TOKEN_BYTES: usize = 16 << 10;
