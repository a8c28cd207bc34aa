//! The probe that holds sockets, and what it answers.

use std::process::Command;

use serde_json::Value;

use crate::attempt::spawn_outside;
use crate::{DEADLINE, Finished, Process, probe};

/// A probe that holds sockets and uses them as the test asks: see the top of `probe/hold.rs`.
#[derive(Debug)]
pub struct Holder(Process);

/// What came of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0 if it succeeded.
    pub errno: i32,
    pub text: String,
}

impl Holder {
    /// The probe's command line.
    pub fn command() -> Vec<String> {
        probe(&["hold"])
    }

    /// Over a probe started with [`Holder::command`]. Returns when the probe runs, and so is in its session, if it is to be in one.
    #[track_caller]
    pub fn over(process: Process) -> Self {
        let mut holder = Self(process);
        holder.must("open first tcp4");
        holder.must("close first");
        holder
    }

    /// Outside any session.
    #[track_caller]
    pub fn outside() -> Self {
        Self::over(spawn_outside(&Self::command()))
    }

    /// Outside any session, started by this command line, which ends in [`Holder::command`].
    #[track_caller]
    pub fn of(command: Command) -> Self {
        Self::over(Process::spawn(command))
    }

    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// One command.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> Answer {
        self.begin(command);
        self.answer()
    }

    /// One command, whose answer may wait for something that the test has to do first: see [`Holder::answer`].
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        self.0.write_line(command);
    }

    /// The answer to the oldest command that was begun.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let line = self.0.read_line(DEADLINE);
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let errno = value["errno"].as_i64().and_then(|errno| i32::try_from(errno).ok()).expect("a number");
        Answer { errno, text: value["text"].as_str().expect("text").to_owned() }
    }

    /// One command that has to succeed; its answer.
    #[track_caller]
    pub fn must(&mut self, command: &str) -> String {
        let Answer { errno, text } = self.ask(command);
        assert_eq!(errno, 0, "{command}: {text}");
        text
    }

    /// One command that has to fail so.
    #[track_caller]
    pub fn must_fail(&mut self, command: &str, with: &[i32]) -> i32 {
        let Answer { errno, text } = self.ask(command);
        assert!(with.contains(&errno), "{command}: expected one of {with:?}, got {errno} {text}");
        errno
    }

    /// Opens a socket and connects it.
    #[track_caller]
    pub fn connect(&mut self, name: &str, kind: &str, address: impl std::fmt::Display) {
        self.must(&format!("open {name} {kind}"));
        self.must(&format!("connect {name} {address}"));
    }

    /// Ends the probe.
    #[track_caller]
    pub fn end(self) {
        self.finish().success();
    }

    /// Ends the probe that is asked; what is left of the command line that it is part of.
    #[track_caller]
    pub fn into_rest(mut self) -> Process {
        self.begin("exit");
        self.0
    }

    /// Waits until it has ended; its standard input is closed.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.0.finish(DEADLINE)
    }
}
