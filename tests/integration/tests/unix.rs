//! Unix sockets by the envelope's rules, which the guard holds sessions to; where there is no guard, such an envelope is refused.

use integration::{DEADLINE, Daemon, Envelope, Event, LOAD_DEADLINE, Process, run_outside, say};

/// Listens at a path and at an abstract name, by stream and by datagram, and takes whatever comes.
const SERVER: &str = r#"
import os, socket, sys, threading
def take(server, kind):
    while True:
        server.accept() if kind == socket.SOCK_STREAM else server.recv(10)
def serve(name, kind):
    server = socket.socket(socket.AF_UNIX, kind); server.bind(name)
    if kind == socket.SOCK_STREAM:
        server.listen()
    threading.Thread(target=take, args=(server, kind)).start()
os.chdir(sys.argv[1])
for which in ["named", "other"]:
    for kind, suffix in [(socket.SOCK_STREAM, "stream"), (socket.SOCK_DGRAM, "datagram")]:
        for name in [f"{sys.argv[1]}/{which}-{suffix}", f"\0{sys.argv[1]}/{which}-{suffix}", f"\0{sys.argv[1]}/{which}-{suffix}\0"]:
            serve(name, kind)
serve("relative", socket.SOCK_STREAM)
print("listening", flush=True)
sys.stdin.read()
os._exit(0)
"#;

/// Tries them all, and its own.
const CLIENT: &str = r#"
import os, socket, sys
place = sys.argv[1]
def attempt(label, work):
    try:
        work(); error = 0
    except OSError as failed:
        error = failed.errno
    print(label, error, flush=True)
def connect(name):
    return lambda: socket.socket(socket.AF_UNIX).connect(name)
def send(name):
    return lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", name)
for which in ["named", "other"]:
    attempt(f"{which} stream", connect(f"{place}/{which}-stream"))
    attempt(f"{which} abstract-stream", connect(f"\0{place}/{which}-stream"))
    attempt(f"{which} datagram", send(f"{place}/{which}-datagram"))
    attempt(f"{which} abstract-datagram", send(f"\0{place}/{which}-datagram"))
# A name is not another one with a zero behind it.
attempt("other zero-behind", connect(f"\0{place}/named-stream\0"))
attempt("other relative", connect(f"{place}/relative"))
def own():
    server = socket.socket(socket.AF_UNIX); server.bind(f"\0own-{os.getpid()}"); server.listen()
    connect(f"\0own-{os.getpid()}")()
attempt("own stream", own)
def pair():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.send(b"x"); b.recv(1)
attempt("own pair", pair)
"#;

fn restricted(agent: &str, place: &str, audit: bool) -> String {
    let envelope = if audit { Envelope::of(agent).audit() } else { Envelope::of(agent) };
    let sockets =
        ["stream", "datagram"].map(|kind| format!("{place}/named-{kind}, \"@{place}/named-{kind}\""));
    format!("{envelope}  unix:\n    - {{name: the-named, to: [{}]}}\n", sockets.join(", "))
}

fn is_guard<'a>(agent: &'a str) -> impl Fn(&Event) -> bool + 'a {
    move |event| event.kind() == "guard" && event.is_of(agent)
}

fn failures(lines: &[String]) -> Vec<&str> {
    lines.iter().filter(|line| !line.ends_with(" 0")).map(String::as_str).collect()
}

#[test]
fn session_reaches_the_unix_sockets_that_rules_name() {
    let daemon = Daemon::start();
    let place = daemon.layout().file("sockets");
    std::fs::create_dir(&place).expect("the directory is ours");
    let place = place.display().to_string();
    // By the kernel's programs alone: `run` keeps its command from abstract names by other means.
    let run = |envelope: String, command: &[String]| daemon.run_bare(envelope, command).finish(LOAD_DEADLINE);
    let client = ["python3", "-c", CLIENT, &place].map(str::to_owned);
    if daemon.status()["guard"]["state"] != "active" {
        say(&format!("no guard, so only refusal is tested: {}", daemon.status()["guard"]["why"]));
        let refused = run(restricted("restricted", &place, false), &["true".to_owned()]);
        assert!(!refused.status.success() && refused.stderr.contains("unix"), "{}", refused.stderr);
        return;
    }
    let mut server = std::process::Command::new("python3");
    server.args(["-c", SERVER, &place]);
    let mut server = Process::spawn(server);
    assert_eq!(server.read_line(DEADLINE), "listening");

    let outside = run_outside(&client);
    assert_eq!((outside.len(), failures(&outside)), (12, vec![]), "control: outside all are reached");
    let free = run(Envelope::of("free").to_string(), &client).success();
    assert_eq!(failures(&free), [""; 0], "an envelope that says nothing of them restricts nothing");

    let inside = run(restricted("restricted", &place, false), &client).success();
    let others = ["stream", "abstract-stream", "datagram", "abstract-datagram", "zero-behind", "relative"];
    let expected = others.map(|kind| format!("other {kind} 1"));
    assert_eq!(failures(&inside), expected, "{inside:?}");
    // Six refusals, and two connections that the rule allowed.
    let events = daemon.wait_for_events(8, "they are recorded", is_guard("restricted"));
    let (refused, allowed): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.is_refused());
    assert_eq!((refused.len(), allowed.len()), (6, 2), "{events:?}");
    assert!(refused.iter().all(|event| event.text("/reason") == "no-rule"), "{refused:?}");
    assert!(allowed.iter().all(|event| event.text("/rule") == "the-named"), "{allowed:?}");
    let names: Vec<_> = allowed.iter().map(|event| event.text("/object/name").to_owned()).collect();
    assert_eq!(names, [format!("{place}/named-stream"), format!("@{place}/named-stream")]);

    // In audit mode it is recorded, and let through.
    let audited = run(restricted("audited", &place, true), &client).success();
    assert_eq!(failures(&audited), [""; 0]);
    let events = daemon.wait_for_events(8, "they are recorded", is_guard("audited"));
    assert_eq!(events.iter().filter(|event| event.text("/verdict") == "deny").count(), 6);
    assert!(events.iter().all(|event| !event.is_refused()));

    // The rules go with the last session that was held to them: when what it sent last is not on its way any more (two minutes).
    daemon.wait_idle();
    let named = daemon.layout().pin_dir.join("maps/UNIX_RULES");
    integration::wait_until(LOAD_DEADLINE, "the rules are gone", || {
        (integration::entries_of(&named) == 0).then_some(())
    });
}
