//! One file per concern. The entry of a program maps results to return codes and nothing else.

mod bind;
mod connect;
mod connection;
mod enrol;
mod exec;
mod exit;
mod fork;
mod guard;
mod packet;
mod sendmsg;
mod socket;

mod egress;
