//! What the tests of images share.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::{Attempt, DEADLINE, Daemon, Envelope, Event, Process, Server, Tool, attempts, unique};

/// A daemon, a server that every envelope here allows, and a program that is listed.
#[derive(Debug)]
pub struct Scene {
    pub daemon: Daemon,
    pub server: Server,
    pub listed: Tool,
    pub magic: String,
}

impl Scene {
    #[expect(clippy::new_without_default, reason = "it starts a daemon: not what a default does")]
    #[track_caller]
    pub fn new() -> Self {
        let daemon = Daemon::start();
        let listed = Tool::at(daemon.layout().file("listed"));
        Self { daemon, server: Server::start("tcp", "127.0.0.1"), listed, magic: unique("attest") }
    }

    /// Nothing is listed yet.
    #[track_caller]
    pub fn envelope(&self, agent: &str, on_mismatch: &'static str) -> Envelope {
        Envelope::of(agent).allow_server("only", &self.server).exec("listed", on_mismatch)
    }

    #[track_caller]
    pub fn spec(&self) -> String {
        format!("tcp/{}", self.server.address())
    }

    #[track_caller]
    pub fn reaches(&self, tool: &Tool, envelope: &Envelope) -> bool {
        tool.reaches(&self.daemon, envelope, &self.magic, &self.spec())
    }

    #[track_caller]
    pub fn tool(&self, name: &str) -> Tool {
        Tool::at(self.daemon.layout().file(name))
    }

    /// Runs a command line whose first act is an attempt; whether that succeeded.
    #[track_caller]
    pub fn outcome(&self, command: Command) -> bool {
        let lines = Process::spawn(command).finish(DEADLINE).success();
        attempts(&lines).first().expect("one attempt").succeeded()
    }

    /// The same with the file as standard input, which is executed by that name.
    #[track_caller]
    pub fn reaches_as_descriptor(&self, file: File, envelope: &Envelope) -> bool {
        let spec = self.spec();
        let command = ["/proc/self/fd/0", "net", &self.magic, &spec];
        let mut run = self.daemon.layout().run_command(envelope, &command);
        let output = run.stdin(file).stderr(Stdio::inherit()).output().expect("the enforcer is executable");
        let text = String::from_utf8(output.stdout).expect("it is text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let attempts: Vec<Attempt> = attempts(&lines);
        attempts.first().expect("one attempt").succeeded()
    }

    /// The verdict of the last image that was measured, or seen, of an agent.
    #[track_caller]
    pub fn last_verdict(&self, agent: &str) -> String {
        let seen = |event: &Event| event.is_of(agent) && event.find("/image/verdict").is_some();
        let events = self.daemon.wait_for_events(1, "an image is recorded", seen);
        events.last().expect("there is one").text("/image/verdict").to_owned()
    }
}
