//! The adversary: every way that we know in which a process of a session might get data out, or undo enforcement, each tried
//! on the running kernel. See `catalogue` for the list.
//!
//! One program is all of it, so that a virtual machine needs no more: the harness, the attempts that it makes, and the
//! outsiders that they use. The harness needs root and `ENFORCER_BIN`, the path of the `enforcer` to test. It works in a
//! network namespace of its own.

mod attempt;
mod bpf_objects;
mod catalogue;
mod context;
mod document;
mod far_side;
mod left;
mod outsiders;
mod scene;
mod suite;
mod sys;
mod techniques;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "adversary", about = "Tries to get out of a session, in every way we know")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the techniques, each outside any session and in one; fails if anything is not as the threat model declares
    Suite {
        /// Where the results are written, one line of JSON for each technique; they are printed as well
        #[arg(long, value_name = "FILE")]
        results: Option<PathBuf>,
        /// These techniques alone
        #[arg(long, num_args = 1.., value_name = "NAME")]
        only: Vec<String>,
    },
    /// List the techniques
    List,
    /// Write the table of results into a document, between its marks
    Document {
        /// The directory of the result files
        results: PathBuf,
        document: PathBuf,
    },
    /// One attempt: what the suite starts
    #[command(hide = true)]
    Attempt { name: String, context: String },
    /// Somebody outside, for an attempt: what the suite starts
    #[command(hide = true)]
    Outsider { role: String, context: String },
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Suite { results, only } => match suite::run(&only, results.as_deref()) {
            Ok(problems) => {
                for problem in &problems {
                    eprintln!("adversary: {problem}");
                }
                eprintln!("adversary: {} problems", problems.len());
                if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(stop) => {
                eprintln!("error: {}: {}", stop.at, stop.error);
                ExitCode::from(2)
            }
        },
        Task::List => {
            for technique in catalogue::TECHNIQUES {
                println!("{:26} {}", technique.name, technique.about);
            }
            ExitCode::SUCCESS
        }
        Task::Document { results, document } => {
            let written = std::fs::read_to_string(&document)
                .and_then(|text| document::with_table(&text, &results))
                .and_then(|text| std::fs::write(&document, text));
            match written {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: {}: {error}", document.display());
                    ExitCode::from(2)
                }
            }
        }
        Task::Attempt { name, context } => {
            attempt::run(&name, &parse(&context));
            ExitCode::SUCCESS
        }
        Task::Outsider { role, context } => {
            outsiders::run(&role, &parse(&context));
            ExitCode::SUCCESS
        }
    }
}

fn parse(context: &str) -> context::Context {
    serde_json::from_str(context).expect("a context in JSON")
}
