//! What a session may not do to others and to enforcement, though it runs as root with all privileges: not by `enforcer run`, which
//! takes most of this from its command on any host. Where the kernel runs no LSM programs there is no guard, and these tests say so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use integration::{DEADLINE, Daemon, Envelope, Event, Pair, Process, run_outside, say, unique, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const EPERM: i32 = 1;
const EACCES: i32 = 13;

/// A daemon with a guard, or the reason why the test ends here.
fn guarded(test: &str) -> Option<Daemon> {
    let daemon = Daemon::start();
    let guard = daemon.status()["guard"].clone();
    if guard["state"] == "active" {
        return Some(daemon);
    }
    say(&format!("skip `{test}`: no guard: {}", guard["why"]));
    None
}

/// What the tries need, made anew for each run of them: some take it away.
struct Ground {
    arguments: [String; 4],
    place: std::path::PathBuf,
    victim: Process,
}

impl Ground {
    fn new(daemon: &Daemon) -> Self {
        let layout = daemon.layout();
        // Reads until its standard input is closed.
        let victim = Process::spawn(std::process::Command::new("cat"));
        let place = layout.file(&unique("place"));
        for name in ["from", "to", "mounted"] {
            fs::create_dir_all(place.join(name)).expect("the directory is ours");
        }
        fs::write(place.join("no-module"), "no module").expect("the directory is ours");
        mount(Some("none"), &place.join("mounted"), Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("mount, as root");
        let pins = layout.pin_dir.with_file_name(unique("other").replace('.', "-"));
        fs::create_dir_all(pins.join("directory")).expect("a directory on the bpffs");
        std::os::unix::fs::symlink("nowhere", pins.join("pin")).expect("a link on the bpffs");
        let cgroup = layout.cgroup_dir().with_file_name(unique("enforcer-other"));
        fs::create_dir_all(cgroup.join("empty")).expect("a cgroup");
        let text = |path: &Path| path.display().to_string();
        let arguments = [victim.pid().to_string(), text(&place), text(&pins), text(&cgroup)];
        Self { arguments, place, victim }
    }

    fn command(&self) -> Vec<String> {
        let script = include_str!("guard/tries.py").to_owned();
        let command = ["python3".to_owned(), "-c".to_owned(), script];
        command.into_iter().chain(self.arguments.clone()).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let [_, _, pins, cgroup] = &self.arguments;
        // Whatever the tries have left.
        let _ = umount2(&self.place.join("mounted"), MntFlags::MNT_DETACH);
        let _ = umount2(&self.place.join("to"), MntFlags::MNT_DETACH);
        let _ = fs::remove_file(format!("{pins}/pin"));
        let _ = fs::remove_dir(format!("{pins}/directory"));
        let _ = fs::remove_dir(pins);
        let _ = fs::remove_dir(format!("{cgroup}/empty"));
        let _ = fs::remove_dir(cgroup);
    }
}

/// Label to error number.
fn results(lines: &[String]) -> BTreeMap<String, i32> {
    let parse = |line: &String| {
        let (label, error) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a result: {line}"));
        (label.to_owned(), error.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
    };
    lines.iter().map(parse).collect()
}

fn is_guard(agent: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.kind() == "guard" && event.is_of(agent)
}

#[test]
fn session_of_root_is_kept_from_others_and_from_enforcement() {
    let Some(daemon) = guarded("session_of_root_is_kept_from_others_and_from_enforcement") else { return };
    let outside = {
        let ground = Ground::new(&daemon);
        results(&run_outside(&ground.command()))
    };
    let ground = Ground::new(&daemon);
    let before = daemon.counter("guard_refused");
    let inside =
        daemon.run_bare(Envelope::of("meddler"), &ground.command()).finish(integration::LOAD_DEADLINE);
    let inside = results(&inside.success());
    assert_eq!(inside.keys().collect::<Vec<_>>(), outside.keys().collect::<Vec<_>>());
    let mut faults = Vec::new();
    let mut expected = BTreeMap::new();
    for (label, error) in &inside {
        let control = outside[label];
        if let Some(attempt) = label.strip_prefix("refused ") {
            // What does not work here outside either, is said: a kernel without the module, a device that is not there.
            match control {
                EPERM | EACCES | libc::ENOENT | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => {
                    say(&format!("not tried: {attempt}: outside it ends with {control}"));
                    continue;
                }
                _ => {}
            }
            let hook = attempt.split(' ').next().expect("a label begins with its hook");
            *expected.entry(hook.to_owned()).or_insert(0) += 1;
            // procfs says EACCES where it may not show something.
            if !matches!(*error, EPERM | EACCES) {
                faults.push(format!("{attempt}: {error} inside, {control} outside"));
            }
        } else if *error != 0 || control != 0 {
            faults.push(format!("{label}: {error} inside, {control} outside"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let total: usize = expected.values().sum();
    assert!(total >= 15, "so few could be tried: {expected:?}");
    let mut events = Vec::new();
    for (hook, count) in &expected {
        let recorded = daemon.wait_for_events(*count, hook, |event| {
            is_guard("meddler")(event) && event.text("/operation") == hook
        });
        assert!(recorded.iter().all(|event| event.is_refused()), "{recorded:?}");
        events.extend(recorded);
    }
    let kill = events.iter().find(|event| event.text("/operation") == "task_kill").expect("there are two");
    assert_eq!(kill.at("/object/pid").as_i64(), Some(ground.victim.pid().into()));
    assert!(daemon.counter("guard_refused") >= before + total as u64);
    // The pins, the programs and the daemon are as they were.
    let status = daemon.status();
    assert_eq!(status["guard"]["state"], "active");
    for hook in status["coverage"].as_array().expect("a list") {
        assert_eq!(hook["attached"], true, "{hook}");
    }
}

/// The same ways against the daemon's own pins, cgroups and process.
#[test]
fn enforcement_is_not_undone_from_inside() {
    let Some(daemon) = guarded("enforcement_is_not_undone_from_inside") else { return };
    let pair = Pair::v4("tcp");
    let refused = format!("tcp/{}", pair.refused.address());
    let layout = daemon.layout();
    let bpffs = layout.pin_dir.parent().expect("pins are in a directory").display().to_string();
    let pins = layout.pin_dir.display().to_string();
    let pid = daemon.status()["daemon"]["pid"].to_string();
    let cgroup = layout.cgroup_dir().display().to_string();
    let script = format!(
        "kill -9 {pid}; umount -l {bpffs}; rm -rf {pins}; mv {pins}/links {pins}/x; \
         bpftool link detach pinned {pins}/links/packet_egress; \
         bpftool map update pinned {pins}/maps/CONTROL key 0 0 0 0 value 0 0 0 0 0 0 0 0; \
         mount -t tmpfs none {pins}; echo $$ > {cgroup}/cgroup.procs; echo $$ > {cgroup}/../cgroup.procs; \
         gdb --version >/dev/null 2>&1; true"
    );
    let finished =
        daemon.run_bare(Envelope::of("undoer"), &["sh", "-c", &script]).finish(integration::LOAD_DEADLINE);
    finished.success();
    assert_eq!(daemon.status()["daemon"]["pid"].to_string(), pid, "the daemon lives");
    for hook in daemon.status()["coverage"].as_array().expect("a list") {
        assert_eq!(hook["attached"], true, "{hook}");
    }
    let envelope = Envelope::of("later").allow_server("only", &pair.allowed);
    let mut later = daemon.converse(&envelope, &unique("later"));
    assert!(!later.attempt(&refused), "it is enforced");
    later.end();
    let hooks = ["task_kill", "sb_umount", "inode_unlink", "inode_rename", "bpf", "sb_mount", "file_open"];
    for hook in hooks {
        daemon
            .wait_for_events(1, hook, |event| is_guard("undoer")(event) && event.text("/operation") == hook);
    }
}

/// A descriptor of somebody else's is received if it is of no use for getting out.
#[test]
fn sockets_of_others_are_not_received() {
    let Some(daemon) = guarded("sockets_of_others_are_not_received") else { return };
    let path = daemon.layout().file("pass").display().to_string();
    // Passes one descriptor of each kind to whoever connects.
    let passer = r#"
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.connect(("127.0.0.1", 9))
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
ring = libc.syscall(425, 1, ctypes.create_string_buffer(120))
cgroup = os.open(sys.argv[2] + "/cgroup.procs", os.O_WRONLY)
unix = socket.socketpair()[0]
pipe = os.pipe()[0]
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
print("listening", ring >= 0, flush=True)
while True:
    peer = listener.accept()[0]
    for fd in [udp.fileno(), packet.fileno(), ring, cgroup, unix.fileno(), pipe]:
        try: socket.send_fds(peer, [b"x"], [fd])
        # Since Linux 6.7, if not before, nobody can pass on a ring.
        except OSError: peer.send(b"x")
    peer.close()
"#;
    let taker = r#"
import socket, sys
peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1])
got = []
while True:
    data, fds, flags, _ = socket.recv_fds(peer, 1, 1)
    if not data: break
    got.append(str(len(fds)))
print("".join(got))
"#;
    let cgroup = daemon.layout().cgroup_dir().display().to_string();
    let mut command = std::process::Command::new("python3");
    command.args(["-c", passer, &path, &cgroup]);
    let mut passer = Process::spawn(command);
    assert_eq!(passer.read_line(DEADLINE), "listening True");
    let take = ["python3", "-c", taker, &path].map(str::to_owned);
    let outside = run_outside(&take).concat();
    assert!(["111111", "110111"].contains(&outside.as_str()), "control: all are passed on: {outside}");
    let inside =
        daemon.run_bare(Envelope::of("taker"), &take).finish(integration::LOAD_DEADLINE).success().concat();
    assert_eq!(inside, "000011", "a Unix socket and a pipe are received, and nothing else");
    let refused = outside.matches('1').count() - 2;
    let events = daemon.wait_for_events(refused, "each is recorded", is_guard("taker"));
    assert!(events.iter().all(|event| event.text("/operation") == "file_receive"), "{events:?}");
}

/// A socket that was connected before its holder was enrolled, with a peer that takes nothing: what is written to it is sent much
/// later, when the peer reads, by an interrupt. The guard sees the write, and the packet gate then knows whose socket it is.
#[test]
fn write_to_a_socket_from_before_is_not_sent_later() {
    let Some(daemon) = guarded("write_to_a_socket_from_before_is_not_sent_later") else { return };
    let script = r#"
import fcntl, json, socket, struct, sys, time
control, envelope = sys.argv[1:3]
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); listener.bind(("127.0.0.1", 0)); listener.listen()
import os
r, w = os.pipe(); r2, w2 = os.pipe()
reader = os.fork()
if reader == 0:
    os.close(w); os.close(r2)
    peer = listener.accept()[0]
    os.write(w2, b"a")
    os.read(r, 1)
    # Now the window opens.
    peer.settimeout(8); seen = b""
    try:
        while True:
            part = peer.recv(65536)
            if not part: break
            seen = (seen + part)[-100:]
            if b"MARK" in seen: break
    except OSError: pass
    print("arrived" if b"MARK" in seen else "nothing", flush=True)
    os._exit(0)
sender = socket.create_connection(listener.getsockname())
sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
os.read(r2, 1)
sender.setblocking(False)
sent = 0
while sent < 200000: sent += sender.send(b"x" * 20000)
# All that has left is acknowledged, and there is more: the window is closed.
def queued(request): return struct.unpack("i", fcntl.ioctl(sender, request, bytes(4)))[0]
SIOCOUTQ, SIOCOUTQNSD = 0x5411, 0x894B
end = time.monotonic() + 30
while not queued(SIOCOUTQ) == queued(SIOCOUTQNSD) > 0:
    assert time.monotonic() < end, "the window stays open"
    time.sleep(0.01)
if control:
    body = json.dumps({"envelope": open(envelope).read(), "command": []})
    for _ in range(8):
        peer = socket.socket(socket.AF_UNIX); peer.connect(control)
        peer.sendall(f"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        answer = peer.recv(100)
        # Before Linux 6.16 the kernel does not say who wrote what arrives before the daemon has asked for that.
        if b" 503 " not in answer: break
    assert b" 201 " in answer
try: sender.send(b"MARK")
except PermissionError: pass
os.write(w, b"g")
os.waitpid(reader, 0)
"#;
    let run = |control: &str| {
        let envelope = daemon.layout().write_envelope(Envelope::of("early")).display().to_string();
        run_outside(&["python3", "-c", script, control, &envelope].map(str::to_owned))
    };
    assert_eq!(run(""), ["arrived"], "control: without a session it is sent when the peer reads");
    let before = daemon.counter("sockets_adopted");
    assert_eq!(run(&daemon.layout().socket().display().to_string()), ["nothing"]);
    assert_eq!(daemon.counter("sockets_adopted"), before + 1);
}

/// The guard is taken over with the rest by the next daemon, and a pin of it that goes missing is no small matter.
#[test]
fn guard_is_adopted_and_missed() {
    let Some(mut daemon) = guarded("guard_is_adopted_and_missed") else { return };
    let programs = |daemon: &Daemon| {
        let status = daemon.status();
        let hooks = status["coverage"].as_array().expect("a list").clone();
        hooks.into_iter().map(|hook| hook["program_id"].as_u64()).collect::<Vec<_>>()
    };
    let first = programs(&daemon);
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "adopted");
    assert_eq!(programs(&daemon), first, "nothing was loaded anew");

    let pin = daemon.layout().pin_dir.join("guard/guard_bpf");
    fs::remove_file(&pin).expect("it is pinned");
    let status = daemon.layout().outcome(&["status"]);
    assert_eq!(status.status.code(), Some(1), "{}", status.stderr);
    let run = daemon.run(&Envelope::of("unguarded"), &["true"]).finish(DEADLINE);
    assert!(!run.status.success() && run.stderr.contains("guard_bpf"), "{}", run.stderr);

    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.status()["guard"]["state"], "active");
    daemon.run(&Envelope::of("guarded"), &["true"]).finish(DEADLINE).success();
    wait_until(DEADLINE, "it is pinned again", || pin.exists().then_some(()));
}

/// Where there is no guard, the daemon says so everywhere, and begins sessions all the same.
#[test]
fn absence_is_said() {
    let daemon = Daemon::start();
    let status = daemon.status();
    let started = daemon.wait_for_events(1, "the start", |event| event.kind() == "daemon-started");
    let said = started[0].text("/detail").to_owned();
    let guard_hooks = status["coverage"]
        .as_array()
        .expect("a list")
        .clone()
        .into_iter()
        .filter(|hook| hook["hook"].as_str().is_some_and(|hook| hook.starts_with("lsm/")));
    let guard_hooks: Vec<_> = guard_hooks.collect();
    assert!(guard_hooks.len() > 20);
    let is_active = status["guard"]["state"] == "active";
    assert_eq!(said.contains("guard active"), is_active, "{said}");
    for hook in guard_hooks {
        assert_eq!([&hook["attached"], &hook["needed"]], [is_active, is_active], "{hook}");
    }
    if !is_active {
        let why = status["guard"]["why"].as_str().expect("there is a reason");
        assert!(said.contains(why), "{said}: {why}");
        daemon.run(&Envelope::of("unguarded"), &["true"]).finish(DEADLINE).success();
    }
}
