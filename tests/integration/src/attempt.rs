//! The probe and what it reports.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{DEADLINE, LOAD_DEADLINE, Process};

/// What came of one attempt of the probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub label: String,
    /// 0 if it succeeded.
    pub errno: i32,
    /// The processes that led to the one that tried, where the probe knows.
    pub chain: Vec<i32>,
}

impl Attempt {
    #[track_caller]
    fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let numbers = |value: &Value| value.as_array().map(|list| list.iter().map(number).collect());
        Self {
            label: value["label"].as_str().expect("a label").to_owned(),
            errno: number(&value["errno"]),
            chain: numbers(&value["chain"]).unwrap_or_default(),
        }
    }

    /// Whether it succeeded; panics unless it did or was refused with `EPERM`: any other error is a fault of the test.
    #[track_caller]
    pub fn succeeded(&self) -> bool {
        match self.errno {
            0 => true,
            libc::EPERM => false,
            errno => panic!("{}: {}", self.label, std::io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Reads the probe's reports.
#[track_caller]
pub fn attempts(lines: &[String]) -> Vec<Attempt> {
    lines.iter().map(|line| Attempt::parse(line)).collect()
}

/// Reads one of the probe's counts.
#[track_caller]
pub fn totals(line: &str) -> impl Fn(&str) -> u64 + use<> {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    move |name| value[name].as_u64().unwrap_or_else(|| panic!("no count `{name}` in {value}"))
}

/// Ends a probe's connect loop, and checks its totals: what is allowed never failed, what is refused never succeeded, and it
/// was refused as such.
#[track_caller]
pub fn expect_nothing_slipped_through(connect_loop: Process) {
    let lines = connect_loop.finish(LOAD_DEADLINE).success();
    let count = totals(lines.last().expect("the totals"));
    assert_eq!(
        [count("allowed_failed"), count("refused_ok"), count("refused_failed"), count("unexpected")],
        [0; 4],
        "{lines:?}"
    );
}

/// A command line of the probe.
pub fn probe<S: AsRef<str>>(arguments: &[S]) -> Vec<String> {
    let mut command = vec![probe_path()];
    command.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
    command
}

/// A probe that makes one attempt after another, as the test asks for them.
#[derive(Debug)]
pub struct Conversation(Process);

impl Conversation {
    /// The probe's command line.
    pub fn command(magic: &str) -> Vec<String> {
        probe(&["net", magic])
    }

    /// Over a probe started with [`Conversation::command`]. Returns when the probe runs, and so is in its session, if it is
    /// to be in one. Any session may open a TCP socket, and no record is made of it.
    #[track_caller]
    pub fn over(process: Process) -> Self {
        let mut conversation = Self(process);
        assert!(conversation.attempt("socket/tcp4"), "the probe runs");
        conversation
    }

    /// Outside any session.
    #[track_caller]
    pub fn outside(magic: &str) -> Self {
        Self::over(spawn_outside(&Self::command(magic)))
    }

    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// One attempt; whether it succeeded.
    #[track_caller]
    pub fn attempt(&mut self, spec: &str) -> bool {
        self.0.write_line(spec);
        Attempt::parse(&self.0.read_line(DEADLINE)).succeeded()
    }

    /// Ends the probe.
    #[track_caller]
    pub fn end(self) {
        self.0.finish(DEADLINE).success();
    }
}

/// Runs a command line outside any session, to its end; its lines.
#[track_caller]
pub fn run_outside(command: &[String]) -> Vec<String> {
    spawn_outside(command).finish(DEADLINE).success()
}

#[track_caller]
pub(crate) fn spawn_outside(command: &[String]) -> Process {
    let (program, arguments) = command.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(arguments);
    Process::spawn(command)
}

#[track_caller]
fn number(value: &Value) -> i32 {
    value.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Beside the directory of the test, where cargo puts it.
fn probe_path() -> String {
    let path = std::env::var_os("ENFORCER_PROBE").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("the test's file is there");
        let directory = test.parent().and_then(std::path::Path::parent).expect("target/debug/deps/test");
        directory.join("probe")
    });
    assert!(path.is_file(), "no probe at {}: build it, or set ENFORCER_PROBE", path.display());
    path.into_os_string().into_string().expect("the path is text")
}
