//! Registering what runs already: a tree that forks all the while, a cgroup as it stands, and what must not be registered.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use integration::{
    DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Pair, Process, attempts, cgroup_root, fewer, probe,
    remove_cgroup, totals, unique, wait_until,
};
use serde_json::Value;

/// Takes connections and reads until they end, so that what is over holds no descriptor; counts those that were reset.
struct Keeper {
    address: SocketAddr,
    reset: Arc<AtomicUsize>,
}

impl Keeper {
    fn start(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a local port is free");
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN).expect("it listens already");
        let keeper = Self { address: listener.local_addr().expect("it is bound"), reset: Arc::default() };
        let reset = Arc::clone(&keeper.reset);
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let reset = Arc::clone(&reset);
                thread::spawn(move || {
                    let mut bytes = [0; 64];
                    loop {
                        match stream.read(&mut bytes) {
                            Ok(0) => return,
                            Ok(_) => {}
                            Err(_) => {
                                reset.fetch_add(1, SeqCst);
                                return;
                            }
                        }
                    }
                });
            }
        });
        keeper
    }
}

fn register(daemon: &Daemon, envelope: &Envelope, target: &[&str]) -> Value {
    let path = daemon.layout().write_envelope(envelope);
    let path = path.to_string_lossy().into_owned();
    let arguments = [&["register", "--format", "json", "--envelope", &path], target].concat();
    let text = daemon.layout().outcome(&arguments).success().join("\n");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn tree(workers: usize, pairs: usize, allowed: &Keeper, refused: &Keeper) -> Process {
    let words =
        [workers.to_string(), pairs.to_string(), allowed.address.to_string(), refused.address.to_string()];
    let arguments = [&["tree".to_owned()][..], &words].concat();
    let [program, arguments @ ..] = &probe(&arguments)[..] else { panic!("a command has a program") };
    let mut command = Command::new(program);
    command.args(arguments);
    let mut tree = Process::spawn(command);
    assert_eq!(tree.read_line(LOAD_DEADLINE), "ready");
    tree
}

/// Every process below `root`, itself included, as /proc has it now.
fn descendants(root: i32) -> BTreeSet<i64> {
    let parent = |pid: i64| -> Option<i64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let pids = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let all: Vec<(i64, i64)> = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = BTreeSet::from([i64::from(root)]);
    loop {
        let before = found.len();
        found.extend(
            all.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

fn listed(daemon: &Daemon, agent: &str) -> BTreeSet<i64> {
    let session = daemon.session(agent).expect("it is a session");
    let processes = session["processes"].as_array().expect("a list");
    processes.iter().map(|process| process["pid"].as_i64().expect("a number")).collect()
}

/// Done-when of the issue: 200 processes, 500 sockets, forking all the while.
#[test]
fn nothing_of_a_tree_that_forks_all_the_while_is_missed() {
    let (workers, pairs) = (fewer(200, 20) as usize, fewer(250, 30) as usize);
    let (allowed, refused) = (Keeper::start("127.0.0.10"), Keeper::start("127.0.0.20"));
    let daemon = Daemon::start();
    let mut tree = tree(workers, pairs, &allowed, &refused);
    let root = tree.pid();
    let envelope =
        Envelope::of("tree").allow("only", "127.0.0.10/32", &format!("[{}]", allowed.address.port()), "tcp");
    let answer = register(&daemon, &envelope, &["--pid", &root.to_string(), "--children"]);
    tree.write_line("registered");
    assert!(answer["processes"].as_u64().unwrap() > workers as u64, "{answer}");
    // What else this test's own process has started cannot be told from orphans; there is no other reason.
    let reasons = answer["incomplete_because"].as_array().expect("a list");
    assert!(
        reasons.iter().all(|why| why.as_str().is_some_and(|why| why.contains("cannot be told"))),
        "{answer}"
    );
    assert!(answer["sockets_destroyed"].as_u64().unwrap() >= pairs as u64, "{answer}");
    // Every process that lives now is known to the session, or ends before it is looked for.
    let alive = descendants(root);
    let known = listed(&daemon, "tree");
    let missed: Vec<_> = alive.difference(&known).filter(|pid| descendants(root).contains(pid)).collect();
    let still = listed(&daemon, "tree");
    let missed: Vec<_> = missed.into_iter().filter(|pid| !still.contains(pid)).collect();
    let missed: Vec<_> = missed.into_iter().filter(|pid| descendants(root).contains(pid)).collect();
    assert!(missed.is_empty(), "not in the session: {missed:?}");
    // They go on, and nothing new gets out.
    wait_until(LOAD_DEADLINE, "they go on forking", || (daemon.counter("refused") > 200).then_some(()));
    tree.write_line("end");
    let counts = tree.finish(LOAD_DEADLINE).success();
    let count = totals(&counts[0]);
    assert!(count("before") > 0, "it forked before");
    assert!(count("refused") > 0, "{}", counts[0]);
    assert_eq!((count("reached"), count("failed")), (0, 0), "{}", counts[0]);
    assert_eq!((count("allowed_dead"), count("refused_alive")), (0, 0), "{}", counts[0]);
    assert_eq!(
        (count("allowed_alive"), count("refused_dead")),
        (pairs as u64, pairs as u64),
        "{}",
        counts[0]
    );
    wait_until(DEADLINE, "the far ends of refused connections know", || {
        (refused.reset.load(SeqCst) >= pairs).then_some(())
    });
    assert_eq!(allowed.reset.load(SeqCst), 0);
    let signs = daemon.events().iter().filter(|event| event.kind() == "escape-sign").count();
    assert_eq!(signs, 0, "who is on the way into the session's cgroup has not escaped");
}

/// A cgroup of the test's, outside the daemon's.
struct Borrowed(PathBuf);

impl Borrowed {
    fn new() -> Self {
        let path = cgroup_root().join(unique("borrowed"));
        fs::create_dir_all(path.join("inner")).expect("cgroups can be made");
        Self(path)
    }

    /// Runs a probe that attempts as it is told, in the inner cgroup.
    fn converse(&self, magic: &str) -> Process {
        let command = probe(&["net", magic]);
        let mut shell = Command::new("sh");
        let script = "echo $$ > \"$0\"; exec \"$@\"";
        shell.args(["-c", script]).arg(self.0.join("inner/cgroup.procs")).args(command);
        Process::spawn(shell)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}

fn attempt(process: &mut Process, spec: &str) -> bool {
    process.write_line(spec);
    attempts(&[process.read_line(DEADLINE)])[0].succeeded()
}

#[test]
fn a_cgroup_is_used_as_it_stands() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let borrowed = Borrowed::new();
    let daemon = Daemon::start();
    let mut member = borrowed.converse(&unique("member"));
    assert!(attempt(&mut member, &refused), "control: reachable before");
    let envelope = Envelope::of("container").allow_server("only", &pair.allowed);
    let path = borrowed.0.to_string_lossy().into_owned();
    let answer = register(&daemon, &envelope, &["--cgroup", &path]);
    assert_eq!(
        (answer["processes"].as_u64(), answer["complete"].as_bool()),
        (Some(1), Some(true)),
        "{answer}"
    );
    assert!(attempt(&mut member, &allowed));
    assert!(!attempt(&mut member, &refused));
    // Who comes later has no tag: refused everything, and an alarm.
    let mut late = borrowed.converse(&unique("late"));
    assert!(!attempt(&mut late, &allowed));
    daemon.wait_for_events(1, "the latecomer is noticed", |event| event.kind() == "escape-sign");
    // A restart changes nothing.
    let mut daemon = daemon;
    daemon.kill9();
    daemon.restart();
    assert!(!attempt(&mut member, &refused));
    assert!(!attempt(&mut late, &allowed));
    // It cannot be registered twice, nor a part of it.
    let file = daemon.layout().write_envelope(&envelope);
    let file = file.to_string_lossy().into_owned();
    for target in [path.clone(), format!("{path}/inner")] {
        let again = daemon.layout().outcome(&["register", "--envelope", &file, "--cgroup", &target]);
        assert_eq!(again.status.code(), Some(1), "{}", again.stderr);
    }
    // The session ends with its last process; the cgroup stays.
    member.finish(DEADLINE).success();
    drop(late);
    wait_until(DEADLINE, "the session has ended", || daemon.session("container").is_none().then_some(()));
    assert!(borrowed.0.join("inner").is_dir());
    let mut after = borrowed.converse(&unique("after"));
    wait_until(DEADLINE, "reachable afterwards", || attempt(&mut after, &refused).then_some(()));
}

#[test]
fn teardown_lets_go_of_what_was_registered() {
    let pair = Pair::v4("tcp");
    let [_, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let borrowed = Borrowed::new();
    let mut member = borrowed.converse(&unique("member"));
    assert!(attempt(&mut member, &refused), "control");
    let path = borrowed.0.to_string_lossy().into_owned();
    register(&daemon, &Envelope::of("held"), &["--cgroup", &path]);
    assert!(!attempt(&mut member, &refused));
    let id = daemon.session_id("held");
    daemon.layout().outcome(&["quarantine", &id]).success();
    daemon.teardown();
    assert!(attempt(&mut member, &refused), "it goes on, thawed and free");
}

#[test]
fn what_must_not_be_registered_is_left_as_it_is() {
    let daemon = Daemon::start();
    let file = daemon.layout().write_envelope(Envelope::of("none"));
    let file = file.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    let gone = {
        let mut child = Command::new("true").spawn().expect("`true` is there");
        child.wait().expect("it is our child");
        child.id().to_string()
    };
    let own_cgroup = daemon.layout().cgroup_dir().to_string_lossy().into_owned();
    let daemons = daemon.pid().to_string();
    for target in [
        &["--pid", "1"][..],
        &["--pid", "2"],
        &["--pid", &gone],
        &["--pid", &daemons],
        &["--cgroup", "/"],
        &["--cgroup", "/no/such/cgroup"],
        &["--cgroup", &own_cgroup],
        &["--cgroup", "/etc"],
        &["--unit", "there-is-no-such-unit"],
    ] {
        let arguments = [&["register", "--envelope", &file], target].concat();
        let outcome = daemon.layout().outcome(&arguments);
        assert_eq!(outcome.status.code(), Some(1), "{target:?}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error: "), "{target:?}: {}", outcome.stderr);
    }
    assert_eq!(daemon.query("ps")["sessions"], serde_json::json!([]));
    assert_eq!(
        fs::read_dir(daemon.layout().cgroup_dir())
            .map(|it| it.flatten().filter(|e| e.path().is_dir()).count())
            .ok(),
        Some(0)
    );
    let _unused = (own, Duration::ZERO);
}

/// Killed in the middle of registering: whatever was done by then, the tree is not held to less than what is known of it, and
/// nothing stands still for ever.
#[test]
fn a_daemon_killed_while_it_registers_leaves_nothing_frozen() {
    let (allowed, refused) = (Keeper::start("127.0.0.10"), Keeper::start("127.0.0.20"));
    let mut daemon = Daemon::start();
    for round in 0..fewer(12, 3) {
        let mut tree = tree(20, 20, &allowed, &refused);
        let envelope = Envelope::of("cut-short");
        let file = daemon.layout().write_envelope(&envelope);
        let root = tree.pid().to_string();
        let mut command = daemon.layout().command(&["register", "--envelope"]);
        command.arg(file).args(["--pid", &root, "--children"]);
        let registering = Process::spawn(command);
        // Somewhere in the middle, another place each time.
        thread::sleep(Duration::from_millis(3 * round as u64));
        daemon.kill9();
        let outcome = registering.finish(DEADLINE);
        daemon.restart();
        if !outcome.status.success() && daemon.session("cut-short").is_none() {
            // Nothing was done, or all of it is refused: in either case it goes on.
            tree.write_line("registered");
        } else {
            tree.write_line("registered");
        }
        tree.write_line("end");
        let counts = tree.finish(LOAD_DEADLINE).success();
        assert!(!counts.is_empty(), "it goes on, and ends");
        wait_until(DEADLINE, "the session has ended", || daemon.session("cut-short").is_none().then_some(()));
    }
}
