//! `enforcer`: the daemon and the command line.

#![deny(unsafe_code)]

mod audit;
mod cgroup;
mod chain;
mod cli;
mod clock;
mod confinement;
mod control;
mod credentials;
mod daemon;
mod detect;
mod document;
mod env_vars;
mod envelope;
mod exit;
mod host;
mod kernel;
mod key_files;
mod measure;
mod metrics;
mod path_error;
mod precedence;
mod privilege;
mod process;
mod procfs;
mod record;
mod registration;
mod scrape;
mod selection;
mod session;
mod settings;
mod signature;
mod sinks;
mod sockets;
mod state;
mod teardown;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::execute(cli::Cli::parse()) {
        Ok(status) => status.into(),
        Err(failure) => failure.report(),
    }
}
