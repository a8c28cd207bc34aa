//! Whom hostile clients have to do with, and how what becomes of it is seen.

use std::fs;
use std::time::{Duration, Instant};

use integration::{Conversation, Daemon, Envelope, LOAD_DEADLINE, Pair, Process, say, unique, wait_until};
use serde_json::Value;

/// Users other than root. Both are of the group that may operate the daemon.
pub(crate) const USERS: [&str; 2] = ["65534", "65533"];
/// What the daemon may grow by, whatever comes.
pub(crate) const ALLOWED_KIB: u64 = 64 << 10;
/// How soon an operator is served, whoever else is there: places that are taken for nothing are free again by then.
pub(crate) const SERVED: Duration = Duration::from_secs(20);

pub(crate) fn words(arguments: &[&str]) -> Vec<String> {
    let head = ["python3", "-c", include_str!("client.py")];
    head.iter().chain(arguments).map(ToString::to_string).collect()
}

pub(crate) fn client_outside(arguments: &[&str]) -> Process {
    let words = words(arguments);
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    Process::spawn(command)
}

#[track_caller]
pub(crate) fn answer(process: &mut Process) -> Value {
    let line = process.read_line(LOAD_DEADLINE);
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A daemon that hostile clients have to do with, and a session of somebody else's.
pub(crate) struct Target {
    pub(crate) daemon: Daemon,
    pub(crate) bystander: Option<Conversation>,
    pub(crate) pair: Pair,
    pub(crate) resident_kib: u64,
}

/// The sessions that there are, and how many credentials were issued.
pub(crate) type Granted = (Vec<String>, u64);

impl Target {
    pub(crate) fn start() -> Self {
        let mut daemon = Daemon::start();
        daemon.stop();
        daemon.restart_with(&["--group", "nogroup"]);
        let pair = Pair::v4("tcp");
        let bystander =
            daemon.converse(&Envelope::of("bystander").allow_server("only", &pair.allowed), &unique("by"));
        Self { daemon, bystander: Some(bystander), pair, resident_kib: 0 }
    }

    pub(crate) fn control(&self) -> String {
        self.daemon.layout().socket().display().to_string()
    }

    pub(crate) fn workload(&self) -> String {
        self.daemon.layout().workload_socket().display().to_string()
    }

    pub(crate) fn inside(&self, agent: &str, arguments: &[&str]) -> Process {
        self.daemon.run(&Envelope::of(agent), &words(arguments))
    }

    pub(crate) fn memory(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("it has memory");
        line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// From here on it may grow by so much.
    pub(crate) fn begin(&mut self) -> Granted {
        // The highest that it was at so far is what it is at now (proc(5)).
        fs::write(format!("/proc/{}/clear_refs", self.daemon.pid()), "5").expect("we are root");
        self.resident_kib = self.memory("VmRSS");
        self.granted()
    }

    /// What an operator hears, who is served by and by.
    #[track_caller]
    pub(crate) fn granted(&self) -> Granted {
        let began = Instant::now();
        let ask = |command: &str| {
            wait_until(SERVED, "an operator is served", || {
                let outcome = self.daemon.layout().outcome(&[command, "--format", "json"]);
                outcome.status.success().then(|| outcome.stdout.join("\n"))
            })
        };
        let [list, status] =
            ["ps", "status"].map(|what| serde_json::from_str::<Value>(&ask(what)).expect("JSON"));
        say(&format!("an operator is served after {} ms", began.elapsed().as_millis()));
        let sessions = list["sessions"].as_array().expect("a list").iter();
        let ids = sessions.map(|session| session["id"].as_str().expect("text").to_owned()).collect();
        (ids, status["counters"]["credentials_issued"].as_u64().expect("a number"))
    }

    /// It is up, it has not grown, an operator is served, nothing was granted, and the bystander's session is enforced.
    #[track_caller]
    pub(crate) fn check(&mut self, granted: &Granted, when: &str) {
        assert_eq!(&self.granted(), granted, "{when}: sessions and credentials");
        let [highest, now] = ["VmHWM", "VmRSS"].map(|field| self.memory(field));
        say(&format!(
            "{when}: {} KiB before, {now} KiB now, {highest} KiB at the highest",
            self.resident_kib
        ));
        assert!(highest < self.resident_kib + ALLOWED_KIB, "{when}: {highest} KiB");
        let [allowed, refused] = self.pair.arguments().map(|address| format!("tcp/{address}"));
        let bystander = self.bystander.as_mut().expect("it goes on until the end");
        assert!(bystander.attempt(&allowed), "{when}: what is allowed");
        assert!(!bystander.attempt(&refused), "{when}: what is refused");
    }

    /// A session gets a credential, as one always does.
    #[track_caller]
    pub(crate) fn issue(&self, agent: &str) {
        let command = [env!("CARGO_BIN_EXE_spiffe_client").to_owned()];
        let mut client = self.daemon.run(&Envelope::of(agent), &command);
        let line = client.read_line(LOAD_DEADLINE);
        assert!(line.starts_with("x509 spiffe://") && line.ends_with(agent), "{line}");
    }

    pub(crate) fn end(mut self) {
        self.bystander.take().expect("it was there until now").end();
        assert!(!self.daemon.has_ended());
    }
}
