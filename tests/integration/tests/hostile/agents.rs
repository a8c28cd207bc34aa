//! Processes that make connections and hand them on.

use std::path::PathBuf;
use std::time::Duration;

use integration::{Envelope, Process, say, scaled, unique};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::target::{Target, answer, client_outside, words};

/// A process that makes connections, and hands them on; see `agent` in `client.py`.
pub(crate) struct Agent(pub(crate) Process);

impl Agent {
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        self.0.write_line(&command.to_string());
        answer(&mut self.0)
    }

    #[track_caller]
    pub(crate) fn must(&mut self, command: &Value) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }

    /// What is said to it.
    #[track_caller]
    pub(crate) fn hears(&mut self, how: &str, text: &str) -> String {
        let seconds = scaled(Duration::from_secs(2)).as_secs();
        self.ask(&json!([how, text, seconds])).as_str().expect("text").to_owned()
    }
}

/// A socket, and a request that some get an answer to; in two parts, and something that can be asked before it.
pub(crate) struct Asked {
    pub(crate) socket: String,
    pub(crate) before: &'static str,
    pub(crate) parts: [String; 2],
    /// Whom it is for.
    pub(crate) is_for_sessions: bool,
}

impl Asked {
    pub(crate) fn control(target: &Target) -> Self {
        let parts = ["GET /v1/st", "atus HTTP/1.1\r\nhost: x\r\n\r\n"].map(str::to_owned);
        let before = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
        Self { socket: target.control(), before, parts, is_for_sessions: false }
    }

    pub(crate) fn workload(target: &Target) -> Self {
        let literal = |name: &str, value: &str| {
            format!("\0{}{name}{}{value}", char::from(name.len() as u8), char::from(value.len() as u8))
        };
        let fields = [
            literal(":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
            literal(":authority", "x"),
            literal("content-type", "application/grpc"),
            literal("te", "trailers"),
            literal("workload.spiffe.io", "true"),
        ];
        let block = format!("\u{83}\u{86}{}", fields.concat());
        let head = format!("\0\0{}\x01\x04\0\0\0\x01", char::from(block.chars().count() as u8));
        let parts = [head, format!("{block}\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0")];
        let before = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        Self { socket: target.workload(), before, parts, is_for_sessions: true }
    }

    pub(crate) fn whole(&self) -> String {
        self.before.to_owned() + &self.parts.concat()
    }

    pub(crate) fn is_given(&self, heard: &str) -> bool {
        if self.is_for_sessions {
            heard.contains("spiffe://")
        } else {
            heard.contains("HTTP/1.1 200") || heard.contains("\"coverage\"")
        }
    }
}

/// Both agents, and where they hand connections to each other.
pub(crate) struct Pairing {
    pub(crate) agents: [Agent; 2],
    pub(crate) place: PathBuf,
}

impl Pairing {
    /// The first is outside, and the second in a session that has all the privileges of root.
    pub(crate) fn start(target: &Target) -> Self {
        let inside = target.daemon.run_bare(Envelope::of("inside"), &words(&["0", "agent"]));
        let agents = [Agent(client_outside(&["0", "agent"])), Agent(inside)];
        target.daemon.session_id("inside");
        Self { agents, place: target.daemon.layout().file("place") }
    }

    /// The connection is the other one's.
    pub(crate) fn hand_over(&mut self, from: usize) {
        let place = unique(self.place.to_str().expect("it is text"));
        self.agents[1 - from].must(&json!(["listen", place]));
        self.agents[from].must(&json!(["give", place]));
        self.agents[1 - from].must(&json!(["take"]));
    }

    /// A process of one side connects, and asks half of something; it ends, the connection goes to the other side, and there a process
    /// that has its number asks the rest. If the daemon stood still meanwhile, all was asked before. What that process hears.
    pub(crate) fn reuse(&mut self, asked: &Asked, from: usize, daemon: Option<Pid>) -> String {
        for _ in 0..10 {
            if let Some(daemon) = daemon {
                kill(daemon, Signal::SIGSTOP).expect("it is ours");
            }
            let number = self.agents[from].ask(&json!(["child", asked.socket]));
            if daemon.is_some() {
                self.agents[from].ask(&json!(["tell", asked.whole(), 0]));
            } else {
                // Answered, or greeted: the connection is accepted. Where the kernel is old, it may not say who wrote this soon, and it
                // is closed.
                if self.agents[from].hears("tell", asked.before).is_empty() {
                    self.agents[from].must(&json!(["end"]));
                    continue;
                }
                self.agents[from].ask(&json!(["tell", asked.parts[0], 0]));
            }
            self.hand_over(from);
            self.agents[from].must(&json!(["end"]));
            let begun = self.agents[1 - from].ask(&json!(["as", number]));
            if let Some(daemon) = daemon {
                kill(daemon, Signal::SIGCONT).expect("it is ours");
            }
            if begun == "ok" {
                let rest = if daemon.is_some() { "" } else { asked.parts[1].as_str() };
                let heard = self.agents[1 - from].hears("tell", rest);
                self.agents[1 - from].must(&json!(["end"]));
                return heard;
            }
            say(&format!("process id {number} could not be had again: {begun}"));
        }
        panic!("no process id could be had again");
    }
}
