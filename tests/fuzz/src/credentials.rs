//! As much of the module as records name: the rest makes keys and certificates.

#[path = "../../../enforcer-userspace/src/credentials/spiffe_id.rs"]
#[allow(dead_code, reason = "the targets ask for a part of it")]
mod spiffe_id;

pub(crate) use spiffe_id::{SpiffeId, TrustDomain};
