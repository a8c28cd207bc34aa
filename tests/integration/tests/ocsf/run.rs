//! A run in which as many kinds of events happen as this host can make.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use integration::{
    Conversation, DEADLINE, Daemon, Envelope, Event, Holder, InContainer, LOAD_DEADLINE, Pair, Process, Tool,
    enforcer_path, say, sha256, unique, wait_until, wrap, write_elsewhere,
};

/// Nobody has it.
const USER: &str = "54321";
/// The agent of which an analyst asks, and another one that does the same.
pub(crate) const ASKED: &str = "asked-about";
pub(crate) const OTHER: &str = "another";
/// The agent that is refused very often, and how often.
pub(crate) const BURSTING: &str = "bursting";
pub(crate) const BURST: usize = 60;

/// Everything recorded, as lines.
pub(crate) struct Run {
    pub(crate) daemon: Daemon,
    pub(crate) lines: Vec<String>,
    /// Where [`ASKED`] went.
    pub(crate) reached: SocketAddr,
    pub(crate) refused: SocketAddr,
}

pub(crate) fn run() -> Run {
    let mut daemon = Daemon::start();
    let pair = Pair::v4("tcp");
    decisions(&daemon, &pair);
    packets(&daemon);
    again(&daemon);
    audit(&daemon, &pair);
    listening(&daemon);
    images(&daemon, &pair);
    burst(&daemon);
    misplaced(&daemon);
    guarded(&daemon);
    contained(&daemon, &pair);
    standings(&daemon);
    delegation(&daemon);
    credential(&daemon);
    trust(&mut daemon);
    daemon.kill_sessions();
    daemon.wait_idle();
    daemon.stop();
    shorten_the_log(&daemon);
    daemon.restart();
    daemon.wait_for_events(1, "the sign", |event| event.kind() == "tamper-sign");
    let lines = daemon.layout().outcome(&["events", "--format", "json"]).success();
    Run { daemon, lines, reached: pair.allowed.address(), refused: pair.refused.address() }
}

/// Somebody takes away the end of the audit log.
fn shorten_the_log(daemon: &Daemon) {
    let folder = fs::read_dir(daemon.layout().state_dir().join("audit")).expect("there is a log");
    let files = folder.map(|file| file.expect("it can be read").path());
    let last = files.max().expect("it has a segment");
    let file = fs::File::options().write(true).open(&last).expect("it is ours");
    let bytes = file.metadata().expect("it is open").len();
    file.set_len(bytes - 1_000).expect("it is longer");
}

/// Connections and datagrams of both families, allowed and refused; by a child, so that there is a parent.
fn decisions(daemon: &Daemon, pair: &Pair) {
    let all = [Pair::v4("udp"), Pair::v6("tcp"), Pair::v6("udp")];
    for agent in [ASKED, OTHER] {
        let envelope = Envelope::of(agent).allow_server("the-allowed", &pair.allowed);
        let names = ["more-udp", "more-tcp6", "more-udp6"];
        let envelope = all
            .iter()
            .zip(names)
            .fold(envelope, |envelope, (pair, name)| envelope.allow_server(name, &pair.allowed));
        let envelope =
            envelope.deny("not-there", &format!("{}/32", pair.refused.address().ip()), "any", "any");
        let shell = ["sh", "-c", "\"$@\"; true", "sh"].map(str::to_owned);
        let command = [&shell[..], &Conversation::command(&unique("ocsf"))].concat();
        let mut inside = Conversation::over(daemon.run(&envelope, &command));
        let mut attempt = |kind: &str, pair: &Pair| {
            assert!(inside.attempt(&format!("{kind}/{}", pair.allowed.address())));
            assert!(!inside.attempt(&format!("{kind}/{}", pair.refused.address())));
        };
        attempt("tcp", pair);
        attempt("tcp", &all[1]);
        for kind in ["udp-connect", "udp-sendto"] {
            attempt(kind, &all[0]);
            attempt(kind, &all[2]);
        }
        assert!(!inside.attempt("socket/udplite4"), "no rule can speak of it");
        inside.end();
    }
}

/// A connection is cut by another envelope; what is still sent on it is refused at the packet gate.
fn packets(daemon: &Daemon) {
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let envelope = Envelope::of("cut").allow("there", "127.0.0.10/32", "any", "any");
    let mut inside = daemon.hold(&envelope);
    inside.connect("s", "tcp4", listener.local_addr().expect("it is bound"));
    let _far = listener.accept().expect("it is connected");
    daemon.apply(&Envelope::of("cut").revision(1));
    inside.end();
}

/// On a socket that somebody else has connected, the same is refused again and again. A guard lets nobody take one.
fn again(daemon: &Daemon) {
    if daemon.status()["guard"]["state"] == "active" {
        return;
    }
    let far = UdpSocket::bind("127.0.0.20:0").expect("a port is free");
    let mailbox = daemon.layout().file("mail").display().to_string();
    let mut inside = daemon.hold(&Envelope::of("again"));
    let mut helper = Holder::outside();
    helper.connect("u", "udp4", far.local_addr().expect("it is bound"));
    inside.must(&format!("mailbox {mailbox}"));
    helper.must(&format!("give u {mailbox}"));
    inside.must("take u");
    for _ in 0..3 {
        inside.must_fail("send u text", &[libc::EPERM]);
    }
    helper.end();
    inside.end();
}

fn audit(daemon: &Daemon, pair: &Pair) {
    let mut inside = daemon.converse(&Envelope::of("audited").audit(), &unique("audit"));
    assert!(inside.attempt(&format!("tcp/{}", pair.refused.address())));
    inside.end();
}

/// A port that a rule names is taken and reached, from where it may be and from where not; another one is not taken.
fn listening(daemon: &Daemon) {
    let free =
        || TcpListener::bind("127.0.0.50:0").and_then(|free| free.local_addr()).expect("a port is free");
    let (to, other) = (free(), free());
    let envelope = Envelope::of("server").listen("front", "127.0.0.1/32", &to.port().to_string(), "tcp");
    let mut inside = daemon.hold(&envelope);
    inside.must("open l tcp4");
    inside.must(&format!("bind l {to}"));
    inside.must("listen l");
    let _far = TcpStream::connect(to).expect("a rule names where it comes from");
    inside.must("open m tcp4");
    inside.must_fail(&format!("bind m {other}"), &[libc::EPERM]);
    inside.end();
}

/// What is listed runs, what is not is killed; a file is what it is said to be.
fn images(daemon: &Daemon, pair: &Pair) {
    let tool = |name: &str| Tool::at(daemon.layout().file(name));
    let (listed, unlisted) = (tool("listed"), tool("unlisted"));
    let prompt = daemon.layout().file("prompt");
    write_elsewhere(&prompt, "be kind\n");
    let envelope = Envelope::of("listed").allow_server("only", &pair.allowed).exec("listed", "deny-egress");
    let envelope = envelope.image(listed.path()).file_of(&prompt, &sha256(&prompt));
    let spec = format!("tcp/{}", pair.allowed.address());
    let magic = unique("images");
    assert!(listed.reaches(daemon, &envelope, &magic, &spec));
    assert!(!unlisted.reaches(daemon, &envelope, &magic, &spec));
}

/// Refused so often that it is a finding.
fn burst(daemon: &Daemon) {
    let mut inside = daemon.hold(&Envelope::of(BURSTING));
    inside.must("open s udp4");
    for _ in 0..BURST {
        inside.must_fail("connect s 127.0.0.20:9", &[libc::EPERM]);
    }
    inside.end();
    daemon
        .wait_for_events(2, "the burst is over", |event| event.kind() == "finding" && event.is_of(BURSTING));
}

/// A process outside its session's cgroup.
fn misplaced(daemon: &Daemon) {
    let mut inside = daemon.hold(&Envelope::of("misplaced"));
    let root = daemon.layout().cgroup_dir().parent().expect("below the root").to_owned();
    fs::write(root.join("cgroup.procs"), inside.pid().to_string()).expect("it can be moved");
    inside.must("open s udp4");
    inside.must_fail("connect s 127.0.0.20:9", &[libc::EPERM]);
    daemon.wait_for_events(1, "the sign", |event| event.kind() == "escape-sign");
    inside.end();
}

/// What a guard refuses, where there is one: to signal somebody else, and a socket that no rule can speak of.
fn guarded(daemon: &Daemon) {
    let script = "import os, socket\n\
        for attempt in (lambda: os.kill(1, 18), lambda: socket.socket(17, 3, 0)):\n    \
            try: attempt()\n    \
            except PermissionError: print('refused')\n";
    let process = daemon.run_bare(Envelope::of("meddling"), &["python3", "-c", script]);
    let refused = process.finish(DEADLINE).success();
    let guard = &daemon.status()["guard"];
    if guard["state"] == "active" {
        assert_eq!(refused, ["refused", "refused"]);
        daemon.wait_for_events(2, "both are recorded", |event| event.kind() == "guard");
    } else {
        say(&format!("skip: what a guard refuses: {}", guard["why"]));
    }
}

/// In a container.
fn contained(daemon: &Daemon, pair: &Pair) {
    let container = InContainer::new();
    let envelope = Envelope::of("contained").allow_server("only", &pair.allowed);
    let run = daemon.layout().run_command(envelope, &Conversation::command(&unique("contained")));
    let mut inside = Conversation::over(container.run(&run));
    assert!(inside.attempt(&format!("tcp/{}", pair.allowed.address())));
    assert!(!inside.attempt(&format!("tcp/{}", pair.refused.address())));
    inside.end();
    for kind in ["exec", "egress", "connection-closed", "exit"] {
        daemon.wait_for_events(1, kind, |event| {
            event.kind() == kind
                && event.find("/session/container/id").is_some_and(|id| *id == container.id())
        });
    }
}

/// Revoked with a connection open; in quarantine and released; expired.
fn standings(daemon: &Daemon) {
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    let envelope = |agent: &str| Envelope::of(agent).allow("there", "127.0.0.10/32", "any", "any");
    let mut inside: Holder = daemon.hold(&envelope("revoked"));
    inside.connect("s", "tcp4", listener.local_addr().expect("it is bound"));
    let _far = listener.accept().expect("it is connected");
    daemon.receipt(&["revoke", &daemon.session_id("revoked")]);
    inside.end();
    let inside = daemon.hold(&envelope("suspected"));
    let id = daemon.session_id("suspected");
    daemon.receipt(&["quarantine", &id]);
    daemon.layout().outcome(&["quarantine", "--lift", &id]).success();
    inside.end();
    let expiring = daemon.run(&envelope("expiring").ttl("1s"), &["cat"]);
    daemon.wait_for_events(1, "it expires", |event| event.kind() == "session-expired");
    drop(expiring);
}

/// A part of a session, and what would be more than a part.
fn delegation(daemon: &Daemon) {
    let outer = Envelope::of("outer").allow("both", "127.0.0.10/32", "any", "any");
    let enforcer = enforcer_path().display().to_string();
    let below = |inner: Envelope| {
        let path = daemon.layout().write_envelope(inner).display().to_string();
        daemon.run(&outer, &[enforcer.as_str(), "run", "--envelope", &path, "--", "true"]).finish(DEADLINE)
    };
    assert!(below(Envelope::of("inner").allow("both", "127.0.0.10/32", "any", "any")).status.success());
    assert!(!below(Envelope::of("wider").allow("all", "0.0.0.0/0", "any", "any")).status.success());
}

fn credential(daemon: &Daemon) {
    let client = env!("CARGO_BIN_EXE_spiffe_client").to_owned();
    let mut process = daemon.run(&Envelope::of("credentialed"), &[client]);
    wait_until(LOAD_DEADLINE, "it has its credentials", || {
        process.read_line(LOAD_DEADLINE).starts_with("open").then_some(())
    });
    drop(process);
}

/// A user who is no operator begins what is granted; a signed envelope is accepted, an unsigned one is not.
fn trust(daemon: &mut Daemon) {
    let layout = daemon.layout();
    let granted = layout.write_envelope(Envelope::of("granted"));
    fs::set_permissions(&granted, Permissions::from_mode(0o644)).expect("it is ours");
    let policy = layout.file("policy.yaml");
    let grants = format!("{{name: by-user, users: [{USER}], envelopes: [{}]}}", granted.display());
    let text = format!("apiVersion: enforcer/v1\nkind: RegistrationPolicy\nspec:\n  grants:\n  - {grants}\n");
    fs::write(&policy, text).expect("it is ours");
    let policy = policy.display().to_string();
    daemon.kill_sessions();
    daemon.kill9();
    daemon.restart_with(&["--registration-policy", &policy]);
    let mut run: Command = daemon.layout().command(&["run", "--envelope"]);
    run.arg(&granted).args(["--", "true"]);
    let as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"];
    Process::spawn(wrap(&as_user, &run)).finish(DEADLINE).success();

    let key = daemon.layout().file("key").display().to_string();
    daemon.layout().outcome(&["keygen", "--out", &key]).success();
    daemon.stop();
    daemon.restart_with(&["--trust-key", &format!("{key}.pub")]);
    let signed = daemon.layout().write_envelope(Envelope::of("signed").revision(1)).display().to_string();
    let run = |file: &str| daemon.layout().outcome(&["run", "--envelope", file, "--", "true"]);
    assert!(!run(&signed).status.success(), "it is not signed yet");
    daemon.layout().outcome(&["sign", "--key", &key, &signed]).success();
    assert!(run(&signed).status.success());
    daemon.wait_for_events(1, "it is accepted", |event: &Event| event.kind() == "envelope-accepted");
}
