//! One file per concern. The entry of a program maps results to return codes and nothing else.

mod connect;
mod enrol;
mod exec;
mod exit;
mod fork;
mod sendmsg;
mod socket;

mod egress;
