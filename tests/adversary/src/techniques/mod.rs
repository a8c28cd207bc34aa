//! What an attacker does, one small function each. They know nothing of the enforcer, unless it is what they attack.
//!
//! A function returns when it is done, or with the call that was refused. Whether anything got out is not for it to say.

pub(crate) mod abi;
pub(crate) mod control;
pub(crate) mod families;
pub(crate) mod files;
pub(crate) mod foreign;
pub(crate) mod inbound;
pub(crate) mod inet;
pub(crate) mod ip_options;
pub(crate) mod lineage;
pub(crate) mod objects;
pub(crate) mod processes;
pub(crate) mod raw;
pub(crate) mod unix;
pub(crate) mod uring;
