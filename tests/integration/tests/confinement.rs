//! What `run` gives up on every host, whatever hooks it has: capabilities, system calls, other processes. Each is tried outside a
//! session first, by root; inside it is refused to root and to a user, and what agents ordinarily do is not.

use std::process::Command;

use integration::{
    Attempt, DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Process, attempts, probe, run_outside, say, wrap,
};

/// The capabilities that a session may have: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
/// sys_chroot, setfcap.
const KEPT: u64 = 0x8004_05fb;
const AS_NOBODY: &[&str] = &["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];
/// From it on Landlock holds back signals (Linux 6.12).
const ABI_WITH_SCOPES: i64 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    Nobody,
}

use User::{Nobody, Root};

fn run_command(daemon: &Daemon, user: User, command: &[String]) -> Command {
    let layout = daemon.layout();
    let mut run = layout.command(&["run", "--envelope"]);
    run.arg(layout.write_envelope(Envelope::of("confined")));
    if user == Nobody {
        run.args(["--user", "nobody"]);
    }
    run.arg("--").args(command);
    run
}

fn inside(daemon: &Daemon, user: User, command: &[String]) -> Vec<String> {
    Process::spawn(run_command(daemon, user, command)).finish(LOAD_DEADLINE).success()
}

fn outside(user: User, command: &[String]) -> Vec<String> {
    let prefix: Vec<String> = AS_NOBODY.iter().map(|word| (*word).to_owned()).collect();
    run_outside(&if user == Nobody { [&prefix, command].concat() } else { command.to_vec() })
}

fn words<S: AsRef<str>>(command: &[S]) -> Vec<String> {
    command.iter().map(|word| word.as_ref().to_owned()).collect()
}

/// What this kernel says of itself; 0 without Landlock.
fn landlock_abi() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no attributes, and gives back a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    abi.max(0)
}

/// One result each, of the same attempts outside and inside.
#[track_caller]
fn compare(outside: Vec<String>, inside: Vec<String>, mut body: impl FnMut(&Attempt, &Attempt)) {
    let (outside, inside) = (attempts(&outside), attempts(&inside));
    assert_eq!(outside.len(), inside.len());
    for (outside, inside) in outside.iter().zip(&inside) {
        assert_eq!(outside.label, inside.label);
        body(outside, inside);
    }
}

#[test]
fn calls_that_undo_enforcement_are_refused() {
    #[rustfmt::skip]
    const CALLS: &[&str] = &[
        "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "kexec_load", "kexec_file_load",
        "init_module", "finit_module", "delete_module", "pidfd_getfd", "process_vm_readv", "process_vm_writev",
        "open_by_handle_at", "userfaultfd", "add_key", "request_key", "keyctl", "mount", "umount2", "pivot_root", "fsopen",
        "fspick", "fsmount", "move_mount", "open_tree", "mount_setattr",
    ];
    const SOCKETS: &[&str] =
        &["packet", "packet-dgram", "packet-of-old", "vsock", "alg", "xdp", "key", "tipc", "rds"];
    let calls = CALLS.iter().map(|name| format!("call/{name}"));
    let sockets = SOCKETS.iter().map(|name| format!("socket/{name}"));
    let others = ["abi/x32-getpid", "terminal/TIOCSTI", "terminal/TIOCLINUX"].map(str::to_owned);
    let specs: Vec<String> = calls.chain(sockets).chain(others).collect();
    let command = probe(&[words(&["system"]), specs].concat());

    let daemon = Daemon::start();
    for user in [Root, Nobody] {
        let mut controls = 0;
        compare(run_outside(&command), inside(&daemon, user, &command), |outside, inside| {
            let label = &outside.label;
            match outside.errno {
                // Without its own refusal the one inside would look the same.
                libc::EPERM => say(&format!("skip: {label}: refused outside sessions as well")),
                _ => controls += 1,
            }
            assert_eq!(inside.errno, libc::EPERM, "{label} as {user:?}; outside: {}", outside.errno);
        });
        assert!(controls >= 30, "only {controls} of the attempts have a control");
    }
}

/// As a kernel answers that has not got them: programs that write audit messages go on then.
#[test]
fn netlink_is_for_routes_and_addresses() {
    let names = ["netlink-audit", "netlink-generic", "netlink-uevent", "netlink-route"];
    let specs = names.map(|name| format!("socket/{name}"));
    let command = probe(&[words(&["system"]), specs.to_vec()].concat());
    let daemon = Daemon::start();
    for user in [Root, Nobody] {
        compare(run_outside(&command), inside(&daemon, user, &command), |outside, inside| {
            if outside.errno == libc::EPROTONOSUPPORT {
                return say(&format!("skip: {}: this kernel has none", outside.label));
            }
            assert_eq!(outside.errno, 0, "{}", outside.label);
            let expected = if outside.label.ends_with("route") { 0 } else { libc::EPROTONOSUPPORT };
            assert_eq!(inside.errno, expected, "{} as {user:?}", outside.label);
        });
    }
}

/// The filter goes by numbers, and these are other ones.
#[test]
fn calls_of_32_bit_programs_are_refused() {
    let command = probe(&["system", "abi/i386-getpid", "abi/i386-packet"]);
    let daemon = Daemon::start();
    for user in [Root, Nobody] {
        compare(run_outside(&command), inside(&daemon, user, &command), |outside, inside| {
            if outside.errno == libc::ENOSYS {
                return say(&format!("skip: {}: this kernel has no 32-bit calls", outside.label));
            }
            assert_eq!(outside.errno, 0, "{}", outside.label);
            assert_eq!(inside.errno, libc::EPERM, "{} as {user:?}", outside.label);
        });
    }
}

#[test]
fn ordinary_sockets_debuggers_and_terminals_work() {
    #[rustfmt::skip]
    const SPECS: &[&str] = &[
        "system", "socket/tcp4", "socket/tcp6", "socket/udp4", "socket/udp6", "socket/unix", "socketpair/unix", "own/traceme",
        "own/seize", "own/memory", "own/signal", "terminal/TIOCGWINSZ",
    ];
    let command = probe(SPECS);
    let daemon = Daemon::start();
    for user in [Root, Nobody] {
        compare(outside(user, &command), inside(&daemon, user, &command), |outside, inside| {
            assert_eq!([outside.errno, inside.errno], [0, 0], "{} as {user:?}", outside.label);
        });
    }
}

#[test]
fn processes_outside_are_out_of_reach() {
    let abi = landlock_abi();
    let daemon = Daemon::start();
    for user in [Root, Nobody] {
        let (program, arguments) = (probe(&["target"]), &["target"]);
        let mut target = Command::new(&program[0]);
        target.args(arguments);
        let mut target = Process::spawn(if user == Nobody { wrap(AS_NOBODY, &target) } else { target });
        assert_eq!(target.read_line(DEADLINE), "ready");
        let specs =
            ["trace", "memory", "environment", "signal"].map(|kind| format!("{kind}/{}", target.pid()));
        let command = probe(&[words(&["system"]), specs.to_vec()].concat());
        compare(outside(user, &command), inside(&daemon, user, &command), |outside, inside| {
            let label = &outside.label;
            assert_eq!(outside.errno, 0, "{label} as {user:?}, outside");
            let holds = match label.starts_with("signal") {
                true => abi >= ABI_WITH_SCOPES,
                // Without Landlock, root is held off by the capabilities that it has fewer of.
                false => abi >= 2 || user == Root,
            };
            if holds {
                assert!(
                    matches!(inside.errno, libc::EPERM | libc::EACCES),
                    "{label} as {user:?}: {inside:?}"
                );
            } else {
                say(&format!("skip: {label}: Landlock of this kernel (ABI {abi}) does not hold it back"));
                assert_eq!(inside.errno, 0, "{label} as {user:?}");
            }
        });
        target.finish(DEADLINE).success();
    }
}

/// Only the way out is closed: who looks after an agent can debug it, and end it.
#[test]
fn processes_inside_are_within_reach() {
    let daemon = Daemon::start();
    let mut target = Process::spawn(run_command(&daemon, Nobody, &probe(&["target"])));
    assert_eq!(target.read_line(DEADLINE), "ready");
    let specs = ["trace", "memory", "environment", "signal"].map(|kind| format!("{kind}/{}", target.pid()));
    for attempt in attempts(&run_outside(&probe(&[words(&["system"]), specs.to_vec()].concat()))) {
        assert!(attempt.succeeded(), "{}", attempt.label);
    }
    target.finish(DEADLINE).success();
}

const NET_RAW: u64 = 1 << 13;
const NET_BIND_SERVICE: u64 = 1 << 10;

/// The command that prints a process's five sets of capabilities.
fn status() -> Vec<String> {
    words(&["sed", "-n", "s/^Cap\\(Inh\\|Prm\\|Eff\\|Bnd\\|Amb\\):\\t//p", "/proc/self/status"])
}

#[track_caller]
fn sets(lines: Vec<String>) -> [u64; 5] {
    let sets = lines.iter().map(|line| u64::from_str_radix(line, 16).expect("a set in hexadecimal"));
    sets.collect::<Vec<_>>().try_into().unwrap_or_else(|sets| panic!("not five sets: {sets:?}"))
}

#[test]
fn capabilities_are_given_up_in_every_set() {
    let with_net_raw = ["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
    let control = sets(run_outside(&[words(&with_net_raw), status()].concat()));
    assert!(control.iter().all(|set| set & NET_RAW != 0), "control: {control:x?}");

    let daemon = Daemon::start();
    for user in [Root, Nobody] {
        let run = wrap(&with_net_raw, &run_command(&daemon, user, &status()));
        let sets = sets(Process::spawn(run).finish(DEADLINE).success());
        assert!(sets.iter().all(|set| set & !KEPT == 0), "{user:?}: {sets:x?}");
        let [_, permitted, effective, ..] = sets;
        let expected = if user == Root { control[1] & KEPT } else { 0 };
        assert_eq!([permitted, effective], [expected; 2], "{user:?}");
    }
}

/// It cannot cut the bounding set, which then gives nothing: no execution adds to the others.
#[test]
fn caller_who_is_not_root_gives_up_the_capabilities_it_has() {
    let with_both = ["--inh-caps=+net_raw,+net_bind_service", "--ambient-caps=+net_raw,+net_bind_service"];
    let as_member = [AS_NOBODY, &with_both].concat();
    let control = sets(run_outside(&[words(&as_member), status()].concat()));
    let [inheritable, permitted, effective, bounding, ambient] = control;
    assert_eq!([inheritable, permitted, effective, ambient], [NET_RAW | NET_BIND_SERVICE; 4], "control");

    let mut daemon = Daemon::start();
    daemon.kill9();
    daemon.restart_with(&["--group", "nogroup"]);
    let run = run_command(&daemon, Root, &status());
    let sets = sets(Process::spawn(wrap(&as_member, &run)).finish(DEADLINE).success());
    let kept = NET_BIND_SERVICE;
    assert_eq!(sets, [kept, kept, kept, bounding, kept], "{sets:x?}");
}

#[test]
fn root_of_a_session_does_its_ordinary_work() {
    const WORK: &str = r#"
cd "$(mktemp -d)" && chmod 755 . && mkdir a b && echo text > a/file || exit
try() { name=$1; shift; if "$@" > /dev/null 2>> errors; then echo "$name"; else cat errors >&2; fi; }
try rename mv a/file b/file
try link ln b/file a/link
try own chown nobody a/link
try others setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c 'echo more > a/link'
try override sh -c 'chmod 0 a/link && echo more >> a/link'
try root chroot / true
try namespace unshare --user --map-root-user --net python3 -c 'import socket; socket.if_nameindex()'
try names python3 -c 'import socket; socket.getaddrinfo("localhost", 80)'
try threads python3 -c 'import threading; t = threading.Thread(target=print); t.start(); t.join()'
try lowport python3 -c '
import socket
for port in range(1023, 600, -1):
    try:
        socket.socket().bind(("127.0.0.1", port))
        break
    except OSError as error:
        if error.errno == 1 or error.errno == 13:
            raise
else:
    raise SystemExit("no port is free")'
setpriv --reuid=nobody --regid=nogroup --clear-groups sleep 60 &
try signal kill $!
wait $! 2> /dev/null
cd / && rm -r "$OLDPWD"
"#;
    #[rustfmt::skip]
    const DONE: &[&str] = &[
        "rename", "link", "own", "others", "override", "root", "namespace", "names", "threads", "lowport", "signal",
    ];
    let command = words(&["sh", "-c", WORK]);
    assert_eq!(run_outside(&command), DONE, "control");
    let daemon = Daemon::start();
    let done = Process::spawn(run_command(&daemon, Root, &command)).finish(LOAD_DEADLINE);
    assert_eq!(done.stdout, DONE, "{}", done.stderr);
}

#[test]
fn root_of_a_session_is_not_root_of_the_host() {
    const WORK: &str = r#"
cd "$(mktemp -d)" || exit
try() { name=$1; shift; if "$@" > /dev/null 2> errors; then echo "$name"; elif ! grep -qi "permi" errors; then cat errors; fi; }
try device mknod null c 1 3
try namespace unshare --net true
try priority python3 -c 'import os; os.nice(-1)'
try name python3 -c 'import socket; socket.sethostname(socket.gethostname())'
try raw python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)'
cd / && rm -r "$OLDPWD"
"#;
    let command = words(&["sh", "-c", WORK]);
    assert_eq!(run_outside(&command), ["device", "namespace", "priority", "name", "raw"], "control");
    let daemon = Daemon::start();
    assert_eq!(inside(&daemon, Root, &command), [""; 0]);
}

#[test]
fn set_user_id_program_gains_nothing() {
    let daemon = Daemon::start();
    let copy = daemon.layout().file("id").display().to_string();
    let script = r#"cp "$(command -v id)" "$1" && chmod 4755 "$1""#;
    run_outside(&words(&["sh", "-c", script, "sh", &copy]));
    let command = words(&[&*copy, "-u"]);
    if outside(Nobody, &command) != ["0"] {
        return say("skip: set-user-id programs: the directory for temporary files is mounted nosuid");
    }
    assert_eq!(inside(&daemon, Nobody, &command), ["65534"]);
}

/// What this kernel cannot hold a session to is said by `run`, and by `doctor`.
#[test]
fn what_the_kernel_lacks_is_said() {
    let abi = landlock_abi();
    let daemon = Daemon::start();
    let run = Process::spawn(run_command(&daemon, Root, &words(&["true"]))).finish(DEADLINE);
    assert!(run.status.success(), "{}", run.stderr);
    if abi >= ABI_WITH_SCOPES {
        assert_eq!(run.stderr, "");
    } else {
        assert!(run.stderr.starts_with("warning: ") && run.stderr.contains("Landlock"), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "once: {}", run.stderr);
    }
    let report = daemon.query("doctor");
    let check = |name: &str| {
        let checks = report["checks"].as_array().expect("`checks` is a list");
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check `{name}`"))
    };
    assert_eq!(check("seccomp")["state"], "ok");
    let landlock = check("Landlock");
    assert_eq!(landlock["state"], if abi >= 2 { "ok" } else { "missing" });
    if abi > 0 {
        let detail = landlock["detail"].as_str().expect("text");
        assert!(detail.contains(&format!("ABI {abi}")), "{detail}");
    }
    assert_eq!(landlock.get("hint").is_some(), abi < ABI_WITH_SCOPES);
}

/// A step that fails after enrolment: the kernel takes no domain within the sixteenth.
#[test]
fn command_that_cannot_be_confined_is_not_executed() {
    if landlock_abi() < 2 {
        return say("skip: a domain too many: this kernel has no Landlock");
    }
    const NEST: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
attributes = struct.pack("Q", 1 << 13)  # moving files between directories
assert libc.prctl(38, 1, 0, 0, 0) == 0
for _ in range(int(sys.argv[1])):
    domain = libc.syscall(444, attributes, ctypes.c_size_t(8), 0)
    assert domain >= 0 and libc.syscall(446, domain, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[2], sys.argv[2:])
"#;
    let daemon = Daemon::start();
    for (domains, executed) in [("15", true), ("16", false)] {
        let trace = daemon.layout().file(domains);
        let run = run_command(&daemon, Root, &words(&["touch", &*trace.display().to_string()]));
        let end = Process::spawn(wrap(&["python3", "-c", NEST, domains], &run)).finish(DEADLINE);
        assert_eq!(end.status.code(), Some(if executed { 0 } else { 2 }), "{domains}: {}", end.stderr);
        assert_eq!(trace.exists(), executed, "{domains}");
    }
    let ended = daemon.wait_for_events(2, "both sessions end", |event| event.kind() == "session-ended");
    assert_eq!(ended.len(), 2);
}
