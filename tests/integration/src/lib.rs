//! The harness of the end-to-end tests.
//!
//! The tests drive the built `enforcer` on the running kernel, as root. Each test has a daemon of its own ([`Daemon`]: own
//! directories, own BPF file system, own cgroup), servers that count what reaches them ([`Server`]), and a program that
//! tries to reach them in every way it can (`probe`). So tests run side by side, and beside a daemon in real use.
//!
//! | variable | meaning |
//! |---|---|
//! | `ENFORCER_BIN` | the `enforcer` to test; required |
//! | `ENFORCER_PROBE` | the `probe` to use, if it is not where cargo puts it beside the test |
//! | `ENFORCER_TEST_SLOWNESS` | how many times slower than an ordinary machine this one is: see [`scaled`] and [`fewer`] |
//!
//! A deny test has four parts: reachable outside a session; refused inside; nothing at the server and a record of it;
//! reachable again afterwards. Without the first and the last, a broken network passes.

mod actor;
mod attempt;
mod audit_log;
mod bpf;
mod certificate;
mod cgroup;
mod collect;
mod container;
mod daemon;
mod enrol;
mod envelope;
mod event;
mod holder;
pub mod language;
mod netns;
mod process;
mod scene;
mod server;
mod sniffer;
mod tool;
mod workload;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use actor::Actor;
pub use attempt::{
    Attempt, Conversation, attempts, expect_nothing_slipped_through, probe, run_outside, totals,
};
pub use audit_log::{LogCopy, RawEntry, RawSegment};
pub use bpf::{FullMap, PinnedMap, entries_of, inner_memory, live_ids, pinned_ids, records_made};
pub use certificate::Certificate;
pub use cgroup::{is_to_be_frozen, members as cgroup_members, remove as remove_cgroup, root as cgroup_root};
pub use collect::{expect_in_order, fetched, free_port};
pub use container::InContainer;
pub use daemon::{Daemon, Layout};
pub use envelope::Envelope;
pub use event::{Event, Refusal};
pub use holder::{Answer, Holder};
pub use netns::NetNs;
pub use process::{Finished, Process, wrap};
pub use scene::Scene;
pub use server::{Pair, Server, arrives, far_end};
pub use sniffer::{Left, Sniffer};
pub use tool::{Tool, notes_all_writes, sha256, system, write_elsewhere};
pub use workload::{spiffe_client, spiffe_python};

/// How long anything may take that takes no time on an idle machine. Whoever waits for it lets it be [`scaled`].
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long something that must not happen is waited for, [`scaled`]: longer than TCP takes to try again.
pub const NEVER: Duration = Duration::from_secs(5);

/// How long a load test may run.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(600);

/// Asks until there is an answer. Panics with `what` when there is none in time.
#[track_caller]
pub fn wait_until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let limit = scaled(limit);
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(scaled(Duration::from_millis(50)));
    }
}

/// A time limit, on this machine. An emulated one is slower, and no more wrong for it.
pub fn scaled(limit: Duration) -> Duration {
    limit * slowness()
}

/// How often to do what is done often for load; at least so often that the test still says something. On an ordinary machine
/// it is `often`.
pub fn fewer(often: u32, at_least: u32) -> u32 {
    (often / slowness()).max(at_least)
}

/// How many times slower this machine is, as the environment says; 1 if it says nothing. Where it is more, bounds on how long
/// something may take are not checked.
pub fn slowness() -> u32 {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        std::env::var("ENFORCER_TEST_SLOWNESS").map_or(1, |text| {
            let slowness = text.parse().ok().filter(|slowness| *slowness > 0);
            slowness.unwrap_or_else(|| panic!("ENFORCER_TEST_SLOWNESS={text}: not a number above 0"))
        })
    });
    *SLOWNESS
}

/// Prints a line that is seen though the test passes: `eprintln` is captured.
pub fn say(line: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{line}").expect("standard error is open");
}

/// A word that no other run and no other part of this run uses. What a probe sends begins with one, so that a server
/// knows whose it is.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The path of the `enforcer` under test.
///
/// # Panics
/// When these tests cannot run here. They never pass by not running.
pub fn enforcer_path() -> PathBuf {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the integration tests need root: they load programs into the running kernel"
    );
    let path = std::env::var_os("ENFORCER_BIN")
        .expect("the integration tests need ENFORCER_BIN, the path of the `enforcer` to test");
    std::fs::canonicalize(&path).unwrap_or_else(|error| panic!("ENFORCER_BIN={}: {error}", path.display()))
}
