//! The control socket: HTTP and JSON over a Unix socket. `dto` is its wire format, `peer` says who is asking.

mod body;
pub(crate) mod client;
mod connections;
pub(crate) mod credential;
pub(crate) mod dto;
pub(crate) mod gate;
pub(crate) mod peer;
pub(crate) mod server;
