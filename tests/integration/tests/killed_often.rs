//! The daemon is killed at random points of five hundred registrations, delegations and revocations. After each restart all that runs in
//! a session is known, nothing that is over holds anything, and whoever has a part of a session has it still, or nothing.

#[path = "killed_often/found.rs"]
mod found;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Instant, SystemTime};

use integration::{
    Conversation, DEADLINE, Daemon, Envelope, Pair, Process, attempts, cgroup_members, enforcer_path,
    entries_of, fewer, probe, say, unique, wait_until,
};
use serde_json::Value;

use found::{cgroups_in, pids, text};

/// How many operations are under way when the daemon is killed.
const AT_ONCE: usize = 6;
/// More sessions than these are not kept.
const KEPT: usize = 16;
/// The one by which the daemon waits for programs that may still read a table.
const AT_REST_TABLES: usize = 1;
const SEED: &str = "ENFORCER_TEST_SEED";

/// Xorshift: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_nanos() as u64;
        let seed = std::env::var(SEED).map_or_else(|_| clock(), |text| text.parse().expect("a number"));
        say(&format!("{SEED}={seed}"));
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

/// What the test has running.
struct World {
    daemon: Daemon,
    pair: Pair,
    dice: Dice,
    /// Of `run`: each reads lines, and runs each of them beside itself.
    shells: Vec<Process>,
    /// Outside, until they are registered.
    outsiders: Vec<Conversation>,
    /// What does one operation and ends.
    clients: Vec<Process>,
    /// How long the file of events was when the daemon was killed last.
    events_before: u64,
    operations: u32,
}

impl World {
    fn start() -> Self {
        let pair = Pair::v4("tcp");
        let daemon = Daemon::start();
        let (shells, outsiders, clients) = (Vec::new(), Vec::new(), Vec::new());
        Self { daemon, pair, dice: Dice::new(), shells, outsiders, clients, events_before: 0, operations: 0 }
    }

    fn envelope(&self, agent: &str) -> Envelope {
        Envelope::of(agent).allow_server("only", &self.pair.allowed)
    }

    /// Begins one operation, and does not wait for it.
    fn begin(&mut self) {
        self.operations += 1;
        match self.dice.below(10) {
            0..3 => self.begin_run(),
            3..6 if !self.shells.is_empty() => self.begin_nested(),
            6..8 => self.begin_registration(),
            8.. => self.begin_revocation(),
            _ => self.begin_run(),
        }
    }

    fn begin_run(&mut self) {
        let script = "while read -r line; do $line & done; wait";
        let command = self.daemon.layout().run_command(self.envelope("shell"), &["sh", "-c", script]);
        self.shells.push(Process::spawn(command));
    }

    /// One session in another, up to three deep.
    fn begin_nested(&mut self) {
        let depth = 1 + self.dice.below(3);
        self.operations += depth as u32 - 1;
        let layout = self.daemon.layout();
        let work = layout.file(&unique("nested"));
        let attempt = self.attempt_command(&work.with_extension("lines"));
        fs::write(&work, format!("{attempt}\nexec sleep 1000\n")).expect("the directory is ours");
        let enforcer = enforcer_path().display().to_string();
        let mut line = format!("sh {}", work.display());
        for _ in 0..depth {
            let envelope = layout.write_envelope(self.envelope("nested"));
            line = format!("{enforcer} run --envelope {} -- {line}", envelope.display());
        }
        self.tell_a_shell(&line);
    }

    /// A line for some shell that runs.
    fn tell_a_shell(&mut self, line: &str) {
        let which = self.dice.below(self.shells.len());
        if let Some(shell) = self.shells.get_mut(which)
            && !shell.has_ended()
        {
            // It may be dying.
            let _ = shell.try_write_line(line);
        }
    }

    /// As a line of the shell's: tries both servers, and writes down what came of it.
    fn attempt_command(&self, to: &Path) -> String {
        let [allowed, refused] = self.pair.arguments().map(|address| format!("tcp/{address}"));
        let words = probe(&["net", &unique("killed"), &allowed, &refused]).join(" ");
        format!("{words} > {to}.part; mv {to}.part {to}", to = to.display())
    }

    fn begin_registration(&mut self) {
        let outsider = Conversation::outside(&unique("outsider"));
        let layout = self.daemon.layout();
        let envelope = layout.write_envelope(self.envelope("registered"));
        let mut command = layout.command(&["register", "--envelope"]);
        command.arg(envelope).args(["--pid", &outsider.pid().to_string()]);
        self.clients.push(Process::spawn(command));
        self.outsiders.push(outsider);
    }

    fn begin_revocation(&mut self) {
        let cgroups = cgroups_in(&self.daemon.layout().cgroup_dir());
        let which = self.dice.below(cgroups.len());
        let Some(id) = cgroups.get(which).and_then(|path| path.file_name()) else { return };
        let id = id.to_str().expect("an id is text").to_owned();
        let kill = if self.dice.below(2) == 0 { &["--kill"][..] } else { &[] };
        let arguments = [&["revoke", id.as_str()][..], kill].concat();
        self.clients.push(Process::spawn(self.daemon.layout().command(&arguments)));
    }

    /// Returns when no operation is under way: each has failed, or has become what it was to be; and whoever was killed is gone.
    fn wait_for_clients(&mut self) {
        let enforcer = enforcer_path();
        // A process that ends has no program any more.
        let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let is_busy =
            |pid: &i32| program(*pid).is_none_or(|program| program == enforcer) || is_being_killed(*pid);
        let root = self.daemon.layout().cgroup_dir();
        let Self { shells, clients, outsiders, .. } = self;
        wait_until(DEADLINE, "no operation is under way", || {
            clients.retain_mut(|client| !client.has_ended());
            shells.retain_mut(|shell| !shell.has_ended());
            outsiders.retain(|outsider| program(outsider.pid()).is_some());
            let own = shells.iter().map(Process::pid).chain(outsiders.iter().map(Conversation::pid));
            let all: Vec<i32> = own.chain(cgroup_members(&root)).collect();
            (clients.is_empty() && !all.iter().any(is_busy)).then_some(())
        });
    }

    fn kill_and_restart(&mut self) {
        self.daemon.kill9();
        self.events_before = fs::metadata(self.events_file()).map_or(0, |file| file.len());
        self.wait_for_clients();
        self.daemon.restart();
    }

    fn events_file(&self) -> PathBuf {
        self.daemon.layout().state_dir().join("events.jsonl")
    }

    /// Whoever is in a session gets what its standing says, and no more; nobody stands still.
    #[track_caller]
    fn attempt(&mut self, when: &str) {
        let sessions: Vec<Value> = self.daemon.query("ps")["sessions"].as_array().expect("a list").clone();
        let state_of = |pid: i32| {
            let session = sessions.iter().find(|session| pids(session).any(|it| it == i64::from(pid)));
            session.map(|session| text(session, "state").to_owned())
        };
        let [allowed, refused] = self.pair.arguments().map(|address| format!("tcp/{address}"));
        for outsider in &mut self.outsiders {
            let state = state_of(outsider.pid());
            let may = state.as_deref().is_none_or(|state| state == "active");
            assert_eq!(outsider.attempt(&allowed), may, "{when}: registered, {state:?}");
            assert!(state.is_none() || !outsider.attempt(&refused), "{when}: registered, {state:?}");
        }
        let mut waiting = Vec::new();
        for at in 0..self.shells.len() {
            let file = self.daemon.layout().file(&unique("attempt"));
            let script = file.with_extension("sh");
            fs::write(&script, self.attempt_command(&file)).expect("the directory is ours");
            let Some(state) = state_of(self.shells[at].pid()) else {
                panic!("{when}: it runs, and is in no session")
            };
            self.shells[at].write_line(&format!("sh {}", script.display()));
            waiting.push((file, state));
        }
        for (file, state) in waiting {
            let lines = wait_until(DEADLINE, "a session goes on", || fs::read_to_string(&file).ok());
            let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
            let made: Vec<bool> = attempts(&lines).iter().map(integration::Attempt::succeeded).collect();
            assert_eq!(made, [state == "active", false], "{when}: {state}");
        }
    }

    /// Ends some of what there is too much of, whether the daemon sees it or not.
    fn thin_out(&mut self) {
        while self.outsiders.len() > 5 {
            let which = self.dice.below(self.outsiders.len());
            drop(self.outsiders.swap_remove(which));
        }
        let cgroups = cgroups_in(&self.daemon.layout().cgroup_dir());
        for _ in KEPT..cgroups.len() {
            let which = self.dice.below(cgroups.len());
            // It may be gone.
            let _ = fs::write(cgroups[which].join("cgroup.kill"), "1");
        }
    }
}

impl World {
    /// And that there was some of everything.
    #[track_caller]
    fn say_what_happened(&self, kills: u32) {
        let events = self.daemon.layout().outcome(&["events", "--format", "json"]).success().join("\n");
        let count = |kind: &str, agent: &str| {
            let [kind, agent] = [format!("\"kind\":\"{kind}\""), format!("\"agent\":\"{agent}\"")];
            events.lines().filter(|line| line.contains(&kind) && line.contains(&agent)).count()
        };
        let counts = [
            ("run", count("session-started", "shell")),
            ("delegated", count("session-started", "nested")),
            ("registered", count("session-started", "registered")),
            (
                "revoked",
                ["shell", "nested", "registered"].map(|it| count("session-revoked", it)).iter().sum(),
            ),
        ];
        say(&format!("{} operations, {kills} kills: {counts:?}", self.operations));
        // Where they were cut short, as far as it left a trace.
        for trace in [
            "did not come about",
            "was being registered",
            "its file is gone",
            "is not known here",
            "has its rights from",
        ] {
            say(&format!("{}: {trace}", events.lines().filter(|line| line.contains(trace)).count()));
        }
        for (what, count) in counts {
            assert!(count as u32 >= self.operations / 50, "{what}: {count}");
        }
    }
}

/// Whether it has been sent what it cannot survive, and has not seen it yet.
fn is_being_killed(pid: i32) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending =
        status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    pending.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).any(|set| set & SIGKILL != 0)
}

#[test]
fn daemon_that_is_killed_at_any_time_leaves_all_sessions_in_order() {
    let wanted = fewer(500, 40);
    let mut world = World::start();
    // Control, and how long they take.
    let began = Instant::now();
    (0..AT_ONCE).for_each(|_| world.begin());
    world.wait_for_clients();
    let took = began.elapsed();
    world.check("before the first kill");
    world.attempt("before the first kill");
    let mut kills = 0;
    while world.operations < wanted {
        kills += 1;
        let delay = took.mul_f64(world.dice.below(1000) as f64 / 1000.0);
        let began = Instant::now();
        for _ in 0..AT_ONCE {
            world.begin();
        }
        thread::sleep(delay.saturating_sub(began.elapsed()));
        world.kill_and_restart();
        let when = format!("kill {kills}, after {} operations", world.operations);
        world.check(&when);
        world.verify_chains(&when);
        world.attempt(&when);
        world.thin_out();
    }
    world.say_what_happened(kills);
    assert_eq!(world.pair.refused.arrivals(), 0);
    world.shells.clear();
    world.outsiders.clear();
    world.daemon.kill_sessions();
    world.kill_and_restart();
    wait_until(DEADLINE, "no session is left", || world.look().sessions.is_empty().then_some(()));
    // What they sent last is on its way for a while, unless a daemon starts that does not know of it.
    world.kill_and_restart();
    wait_until(DEADLINE, "nothing is left", || {
        let found = world.look();
        let tables = entries_of(&world.daemon.layout().pin_dir.join("maps/RULES"));
        let is_left = [
            found.sessions.len(),
            found.files.len(),
            found.tagged.len(),
            found.made.len(),
            found.listed.len(),
            found.taken.len(),
        ];
        (is_left == [0; 6] && tables <= AT_REST_TABLES).then_some(())
    });
    world.check("at the end");
}
