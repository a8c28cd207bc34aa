//! What tests of sinks have in common.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{DEADLINE, Daemon, Envelope, Layout, probe, unique};

/// What the set-up has put below `target/tools`.
#[track_caller]
pub fn fetched(path: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders up");
    let path = workspace.join("target/tools").join(path);
    assert!(path.exists(), "`cargo xtask setup` fetches `{}`", path.display());
    path
}

/// A port of 127.0.0.1 that nobody listens at.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// The numbers by which each was seen first are in order. Gives all that were seen.
#[track_caller]
pub fn expect_in_order(numbers: &[u64]) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    let first_times: Vec<u64> = numbers.iter().copied().filter(|number| seen.insert(*number)).collect();
    assert!(first_times.is_sorted(), "in order: {first_times:?}");
    seen
}

impl Layout {
    /// Writes down which sinks there are: items of the list, two spaces in.
    #[track_caller]
    pub fn write_sinks(&self, sinks: &str) -> PathBuf {
        let path = self.file("sinks.yaml");
        let text = format!("apiVersion: enforcer/v1\nkind: Sinks\nspec:\n  sinks:\n{sinks}");
        fs::write(&path, text).expect("the directory is ours");
        path
    }
}

impl Daemon {
    /// A daemon with sinks: items of the list, two spaces in.
    #[track_caller]
    pub fn with_sinks(sinks: &str) -> Self {
        let layout = Layout::new();
        let path = layout.write_sinks(sinks);
        Self::start_with(layout, &["--sinks", path.to_str().expect("it is text")])
    }

    #[track_caller]
    pub fn restart_with_sinks(&mut self, sinks: &str) {
        let path = self.layout().write_sinks(sinks);
        self.restart_with(&["--sinks", path.to_str().expect("it is text")]);
    }

    /// Something happens: a session begins, is refused something, and ends.
    #[track_caller]
    pub fn make_events(&self) {
        let refused = probe(&["net", &unique("acts"), "tcp/127.0.0.1:9"]);
        self.run(&Envelope::of("acts"), &refused).finish(DEADLINE).success();
        self.wait_idle();
    }

    /// The number of the last event.
    #[track_caller]
    pub fn last_event(&self) -> u64 {
        self.events().last().expect("there are some").at("/sequence").as_u64().expect("a number")
    }

    /// What `status` says of a sink.
    #[track_caller]
    pub fn sink(&self, name: &str) -> Value {
        let status = self.status();
        let sinks = status["sinks"].as_array().expect("there are sinks");
        sinks.iter().find(|sink| sink["name"] == name).expect("it is listed").clone()
    }
}
