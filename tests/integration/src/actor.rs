//! The probe that does with one socket what it is told.

use std::time::Duration;

use crate::attempt::spawn_outside;
use crate::{DEADLINE, Daemon, Envelope, Finished, Process, probe};

/// A probe that does with one socket, and to the host around it, what the test asks: see the top of `probe/act.rs`.
#[derive(Debug)]
pub struct Actor(Process);

impl Daemon {
    /// Runs the probe in a session of its own, to act as the test asks.
    #[track_caller]
    pub fn act(&self, envelope: &Envelope) -> Actor {
        Actor(self.run(envelope, &Actor::command()))
    }
}

impl Actor {
    fn command() -> Vec<String> {
        probe(&["act"])
    }

    /// Outside any session.
    #[track_caller]
    pub fn outside() -> Self {
        Self(spawn_outside(&Self::command()))
    }

    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// One command; `ok`, or the number of the error.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.begin(command);
        self.answer(DEADLINE)
    }

    /// One command that has to succeed.
    #[track_caller]
    pub fn must(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }

    /// One command that a session has to be refused.
    #[track_caller]
    pub fn must_be_refused(&mut self, command: &str, when: &str) {
        assert_eq!(self.ask(command), libc::EPERM.to_string(), "{command}: {when}");
    }

    /// One command, whose answer may wait for something that the test has to do first: see [`Actor::answer`].
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        self.0.write_line(command);
    }

    /// The next line that it says.
    #[track_caller]
    pub fn answer(&mut self, limit: Duration) -> String {
        self.0.read_line(limit)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }

    /// Waits until it has ended; its standard input is closed.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.0.finish(DEADLINE)
    }
}
