//! The only code that reads kernel structures. Every offset comes from the running kernel's BTF, and the verifier checks
//! every load against the type of the pointer it goes through.

pub(crate) mod binprm;
pub(crate) mod task;
