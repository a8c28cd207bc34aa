//! The project's chores, as `cargo xtask <task>`. This file is the list; every task is a file.

#![forbid(unsafe_code)]

mod adversary;
mod bench;
mod build;
mod command;
mod demo;
mod fuzz;
mod lint;
mod setup;
mod test;
mod veristat;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need; says what and why first
    Setup,
    /// Build the `enforcer` binary and the integration tests
    Build {
        /// Optimize, as for a release
        #[arg(long)]
        release: bool,
    },
    /// Check format, lints, and who may depend on whom
    Lint,
    /// Run everything that continuous integration runs; integration tests need root
    Test,
    /// Measure what enforcement costs; needs root and an otherwise idle machine
    Bench { bench: bench::Bench },
    /// Read random envelopes and see what breaks; needs a C++ compiler
    Fuzz {
        /// All, if none is named
        target: Option<fuzz::Target>,
        /// How long each is run
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Run integration tests on Debian's kernels, in virtual machines; needs root
    Vm(vm::Options),
    /// Show or check what verifying the kernel programs takes; needs root
    Veristat(veristat::Options),
    /// Try every way out of a session that we know, and compare with what the threat model declares; needs root
    Adversary {
        /// Keep the results, and make the table in the threat model anew: what is kept is compared with later runs
        #[arg(long, conflicts_with = "only")]
        keep: bool,
        /// Try nothing, but make the table in the threat model anew, from the results that are kept
        #[arg(long, conflicts_with_all = ["only", "keep"])]
        document: bool,
        /// All, if none is named
        only: Vec<String>,
    },
    /// Show an agent being held inside its envelope; needs root
    Demo,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Build { release } => build::run(release),
        Task::Lint => lint::run(),
        Task::Test => test::run(),
        Task::Bench { bench } => bench::run(bench),
        Task::Fuzz { target, seconds } => fuzz::run(target, seconds),
        Task::Adversary { document: true, .. } => adversary::document(),
        Task::Adversary { keep, only, document: false } => adversary::run(keep, &only),
        Task::Veristat(options) => veristat::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Demo => demo::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
