//! What a process of a session may ask for about itself: credentials. Asked over the workload socket, answered by the loop.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::credentials::{Bundle, JwtSvid, SpiffeId, WitSvid, X509Svid};

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    X509,
    Jwt {
        audience: String,
        /// Of whom; nothing means of whoever asks, and so must it be otherwise.
        id: Option<String>,
    },
    Wit,
    /// Only what credentials are checked with.
    Bundle,
}

impl Wanted {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::X509 => "an X509-SVID",
            Self::Jwt { .. } => "a JWT-SVID",
            Self::Wit => "a WIT-SVID",
            Self::Bundle => "a trust bundle",
        }
    }
}

/// What is given.
pub(crate) enum Svid {
    X509(X509Svid),
    Jwt(JwtSvid),
    Wit(WitSvid),
    None,
}

impl Svid {
    pub(crate) const fn expires_s(&self) -> Option<i64> {
        match self {
            Self::X509(svid) => Some(svid.expires_s),
            Self::Jwt(svid) => Some(svid.expires_s),
            Self::Wit(svid) => Some(svid.expires_s),
            Self::None => None,
        }
    }
}

/// A credential, and for how long it may be relied on.
pub(crate) struct Issued {
    pub(crate) id: SpiffeId,
    pub(crate) svid: Svid,
    pub(crate) lease: Lease,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the keys.
        f.debug_struct("Issued").field("id", &self.id).finish_non_exhaustive()
    }
}

/// For whoever keeps a stream open: what ends it, and when there is something new.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) bundle: watch::Receiver<Arc<Bundle>>,
    /// Nothing, if what was given lasts as long as the session.
    pub(crate) renew_in: Option<Duration>,
    /// When the session expires.
    pub(crate) ends_in: Duration,
}

/// Where a session stands, for its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Held to the envelope with this number.
    Held { envelope: u32 },
    /// No more credentials, in words.
    Ended(&'static str),
}
