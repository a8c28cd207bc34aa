//! A daemon under test, and the places it may use.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Conversation, DEADLINE, Envelope, Event, Finished, Holder, Process, Refusal, cgroup, enforcer_path,
    scaled, unique, wait_until,
};

/// Places for one daemon that no other uses: directories, a BPF file system, a name for a cgroup. All gone on drop.
#[derive(Debug)]
pub struct Layout {
    enforcer: PathBuf,
    directory: TempDir,
    /// What `ENFORCER_PIN_DIR` is set to.
    pub pin_dir: PathBuf,
    cgroup: String,
}

impl Layout {
    #[expect(clippy::new_without_default, reason = "it mounts a file system: not what a default does")]
    pub fn new() -> Self {
        let enforcer = enforcer_path();
        let directory = TempDir::with_prefix("enforcer-test-").expect("a directory for the test");
        // Other users must get as far as the daemon's own permissions.
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), open).expect("the directory is ours");
        let bpffs = directory.path().join("bpf");
        fs::create_dir(&bpffs).expect("the directory is ours");
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).expect("mount a bpffs");
        Self { enforcer, directory, pin_dir: bpffs.join("enforcer"), cgroup: unique("enforcer-test") }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// The cgroup that the daemon makes.
    pub fn cgroup_dir(&self) -> PathBuf {
        cgroup::root().join(&self.cgroup)
    }

    /// A path in the test's directory, for a file of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command line of the enforcer, with these places.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.enforcer);
        command
            .args(arguments)
            .env_remove("ENFORCER_SESSION")
            .env("NO_COLOR", "1")
            .env("ENFORCER_STATE_DIR", self.state_dir())
            .env("ENFORCER_RUN_DIR", self.run_dir())
            .env("ENFORCER_PIN_DIR", &self.pin_dir)
            .env("ENFORCER_CGROUP", &self.cgroup);
        command
    }

    /// Writes an envelope to a file.
    pub fn write_envelope(&self, text: impl Display) -> PathBuf {
        let path = self.file(&unique("envelope"));
        fs::write(&path, text.to_string()).expect("the directory is ours");
        path
    }

    /// The command line of `enforcer run`.
    pub fn run_command<S: AsRef<OsStr>>(&self, envelope: impl Display, command: &[S]) -> Command {
        let mut run = self.command(&["run", "--envelope"]);
        run.arg(self.write_envelope(envelope)).arg("--").args(command);
        run
    }

    /// Runs the enforcer to its end, whatever it says.
    #[track_caller]
    pub fn outcome<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        Process::spawn(self.command(arguments)).finish(DEADLINE)
    }

    fn log(&self) -> PathBuf {
        self.file("daemon.log")
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // With the mount go the pins, and with them whatever a failed teardown has left.
        // More than once, where a test has mounted something over it.
        while umount2(&self.directory.path().join("bpf"), MntFlags::MNT_DETACH).is_ok() {}
        cgroup::kill_members(&self.cgroup_dir());
        cgroup::remove(&self.cgroup_dir());
    }
}

/// A daemon with its [`Layout`]. On drop the processes of its sessions are killed, the daemon is killed, and
/// everything is torn down; a teardown that fails, fails the test.
#[derive(Debug)]
pub struct Daemon {
    layout: Layout,
    child: Option<Child>,
    /// Whether there may be something to tear down.
    established: bool,
}

impl Daemon {
    /// A fresh daemon, ready.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_in(Layout::new())
    }

    /// A daemon, ready, in these places.
    #[track_caller]
    pub fn start_in(layout: Layout) -> Self {
        Self::start_with(layout, &[])
    }

    /// Likewise, with these options.
    #[track_caller]
    pub fn start_with(layout: Layout, options: &[&str]) -> Self {
        let mut daemon = Self { layout, child: None, established: false };
        daemon.restart_with(options);
        daemon
    }

    /// Starts it again, after it was killed, stopped or torn down.
    #[track_caller]
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// Starts it again, with these options.
    #[track_caller]
    pub fn restart_with(&mut self, options: &[&str]) {
        assert!(self.child.is_none(), "it is running");
        self.established = true;
        let log = OpenOptions::new().create(true).append(true).open(self.layout.log());
        let log = log.expect("the directory is ours");
        let mut command = self.layout.command(&["daemon"]);
        command.args(options);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor is free")).stderr(log);
        self.child = Some(command.spawn().expect("the enforcer is executable"));
        let child = self.child.as_mut().expect("it was just stored");
        let layout = &self.layout;
        wait_until(DEADLINE, "the daemon is ready", || {
            if let Some(status) = child.try_wait().expect("it is our child") {
                panic!("the daemon has ended: {status}");
            }
            layout.outcome(&["status"]).status.success().then_some(())
        });
    }

    /// Kills it as nobody can catch.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let child = self.child.as_ref().expect("it is running");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("it is our child");
        self.wait_for_end()
    }

    /// Waits until the daemon has ended by itself.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        wait_until(DEADLINE, "the daemon ends", || child.try_wait().expect("it is our child"))
    }

    /// Undoes everything, and returns what teardown said. A daemon that runs, ends.
    #[track_caller]
    pub fn teardown(&mut self) -> Vec<String> {
        let lines = self.layout.outcome(&["teardown", "--format", "json"]).success();
        self.established = false;
        if self.child.is_some() {
            self.wait_for_end();
        }
        lines
    }

    /// The daemon's process id.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("it is running").id().cast_signed()
    }

    /// Whether the daemon has ended, for whatever reason.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("it is our child").is_some())
    }

    /// Ends the processes of all sessions.
    pub fn kill_sessions(&self) {
        cgroup::kill_members(&self.layout.cgroup_dir());
    }

    /// For a test that has wrecked what there is to tear down: with its places goes all that is left.
    pub fn abandon(mut self) {
        self.established = false;
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs a program in a session of its own.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, envelope: &Envelope, command: &[S]) -> Process {
        Process::spawn(self.layout.run_command(envelope, command))
    }

    /// Runs the probe in a session of its own, to make attempts as the test goes on.
    #[track_caller]
    pub fn converse(&self, envelope: &Envelope, magic: &str) -> Conversation {
        Conversation::over(self.run(envelope, &Conversation::command(magic)))
    }

    /// Runs the probe in a session of its own, to hold sockets and use them as the test asks.
    #[track_caller]
    pub fn hold(&self, envelope: &Envelope) -> Holder {
        Holder::over(self.run(envelope, &Holder::command()))
    }

    /// Holds the running sessions of the envelope's agent to it.
    #[track_caller]
    pub fn apply(&self, envelope: &Envelope) {
        let path = self.layout.write_envelope(envelope);
        let path = path.to_str().expect("the path is text");
        self.layout.outcome(&["apply", path]).success();
    }

    /// Registers what runs already, named as the command line names it; the answer.
    #[track_caller]
    pub fn register(&self, envelope: &Envelope, target: &[&str]) -> Value {
        let path = self.layout.write_envelope(envelope);
        let path = path.to_str().expect("the path is text");
        self.receipt(&[&["register", "--envelope", path], target].concat())
    }

    /// Revokes a session, or puts it in quarantine; the receipt.
    #[track_caller]
    pub fn receipt(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--format", "json"]].concat();
        let text = self.layout.outcome(&arguments).success().join("\n");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// One JSON document from a command.
    #[track_caller]
    pub fn query(&self, command: &str) -> Value {
        let text = self.layout.outcome(&[command, "--format", "json"]).success().join("\n");
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(value["version"], 1, "the version of `{command}`: {text}");
        value
    }

    pub fn status(&self) -> Value {
        self.query("status")
    }

    /// One of the kernel's counters.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let counters = &self.status()["counters"];
        counters[name].as_u64().unwrap_or_else(|| panic!("no counter `{name}` in {counters}"))
    }

    /// The session of an agent, as `ps` lists it.
    pub fn session(&self, agent: &str) -> Option<Value> {
        let list = self.query("ps");
        let sessions = list["sessions"].as_array().expect("`sessions` is a list");
        sessions.iter().find(|session| session["agent"] == agent).cloned()
    }

    /// The id of the session of an agent; waits for it.
    #[track_caller]
    pub fn session_id(&self, agent: &str) -> String {
        let session = wait_until(DEADLINE, "the session is listed", || self.session(agent));
        session["id"].as_str().expect("an id is text").to_owned()
    }

    /// The cgroup of the session of an agent; waits for it.
    #[track_caller]
    pub fn session_cgroup(&self, agent: &str) -> PathBuf {
        let session = wait_until(DEADLINE, "the session is listed", || self.session(agent));
        session["cgroup"].as_str().expect("a path is text").into()
    }

    /// Everything recorded so far.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        let lines = self.layout.outcome(&["events", "--format", "json"]).success();
        lines.iter().map(|line| Event::parse(line)).collect()
    }

    /// The events that fit; waits until there are at least `count` of them.
    #[track_caller]
    pub fn wait_for_events(&self, count: usize, what: &str, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        wait_until(DEADLINE, what, || {
            let events: Vec<Event> = self.events().into_iter().filter(&fits).collect();
            (events.len() >= count).then_some(events)
        })
    }

    /// Waits until as many denies are recorded for the agent as are expected, and compares them all.
    #[track_caller]
    pub fn expect_denies(&self, agent: &str, mut expected: Vec<Refusal>) -> Vec<Event> {
        let what = format!("{} denies of `{agent}` are recorded", expected.len());
        let events =
            self.wait_for_events(expected.len(), &what, |event| event.is_of(agent) && event.is_deny());
        let mut found: Vec<Refusal> = events.iter().map(Event::decision).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "the denies recorded for `{agent}`");
        events
    }

    /// Waits until no process of a session is left.
    pub fn wait_idle(&self) {
        cgroup::wait_empty(&self.layout.cgroup_dir());
        wait_until(DEADLINE, "no process has a tag", || (self.status()["tasks"] == 0).then_some(()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        cgroup::kill_members(&self.layout.cgroup_dir());
        if let Some(child) = &mut self.child {
            // Both fail only if it has ended and is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
        let left = if self.established { try_teardown(&self.layout).err() } else { None };
        if thread::panicking() {
            let log = fs::read_to_string(self.layout.log()).unwrap_or_default();
            eprintln!("--- daemon ---\n{log}--- end of daemon ---");
            if let Some(message) = left {
                eprintln!("teardown failed as well: {message}");
            }
        } else if let Some(message) = left {
            panic!("teardown failed: {message}");
        }
    }
}

/// Without a panic on the way: it runs while one is under way.
fn try_teardown(layout: &Layout) -> Result<(), String> {
    let log = layout.file("teardown.log");
    let output = File::create(&log).map_err(|error| error.to_string())?;
    let mut command = layout.command(&["teardown"]);
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    // What could not be removed is on standard output.
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let end = Instant::now() + scaled(DEADLINE);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not within {DEADLINE:?}"));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(format!("{status}: {}", fs::read_to_string(&log).unwrap_or_default()))
}
