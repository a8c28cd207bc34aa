//! Whose image is not known waits until it is, without a connection: also when nobody is there to look, and whoever lets it go on.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use integration::{
    Conversation, DEADLINE, Daemon, Envelope, Process, Server, Tool, attempts, probe, system, unique,
    wait_until,
};

const SHELL: &str = "/bin/sh";

/// What a process does now, as `ps` abbreviates it.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn executes(pid: i32, tool: &Tool) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == tool.path())
}

/// A shell in a session, and then the tool in its place, which nobody has measured.
fn wait_for(shell: &mut Process, tool: &Tool, magic: &str) {
    shell.write_line(&format!("exec {} net {magic}", tool.text()));
    let pid = shell.pid();
    wait_until(DEADLINE, "it waits", || (executes(pid, tool) && state(pid) == Some('T')).then_some(()));
}

#[test]
fn what_waits_when_the_daemon_is_killed_is_refused_until_the_next_has_looked() {
    let mut daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let spec = format!("tcp/{}", server.address());
    let magic = unique("waits");
    let path = |name| daemon.layout().file(name);
    let (listed, unlisted) = (path("listed"), path("unlisted"));
    let envelope = Envelope::of("waits")
        .allow_server("only", &server)
        .exec("listed", "deny-egress")
        .image(SHELL.as_ref())
        .image(&listed);
    let mut shells: Vec<Process> = (0..3).map(|_| daemon.run(&envelope, &[SHELL])).collect();
    for shell in &mut shells {
        shell.write_line("echo ready");
        assert_eq!(shell.read_line(DEADLINE), "ready");
    }
    // Nobody has measured them: they were not there when the sessions began.
    let [listed, unlisted] = [listed, unlisted].map(Tool::at);
    daemon.kill9();
    let [patient, hurried, other] = &mut shells[..] else { panic!("three shells") };
    for (shell, tool) in [(&mut *patient, &listed), (&mut *hurried, &listed), (&mut *other, &unlisted)] {
        wait_for(shell, tool, &magic);
    }
    // Somebody lets one go on.
    kill(Pid::from_raw(hurried.pid()), Signal::SIGCONT).expect("it is there");
    assert!(!Tool::talks(hurried, &spec), "it runs, and is refused");
    assert_eq!(state(patient.pid()), Some('T'), "the other one still waits");

    daemon.restart();
    assert!(Tool::talks(patient, &spec), "it was looked at, and goes on");
    wait_until(DEADLINE, "the hurried one is allowed, too", || Tool::talks(hurried, &spec).then_some(()));
    assert!(!Tool::talks(other, &spec), "it was looked at, and goes on without a connection");
    let refused = daemon.wait_for_events(1, "it is recorded", |event| {
        event.is_deny() && event.text("/reason") == "image-not-measured"
    });
    assert_eq!(refused[0].pid(), Some(hurried.pid()));
}

#[test]
fn a_record_that_is_lost_leaves_nobody_waiting() {
    let mut daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let magic = unique("lost");
    let path = daemon.layout().file("listed");
    let envelope = Envelope::of("lost")
        .allow_server("only", &server)
        .exec("listed", "deny-egress")
        .image(SHELL.as_ref())
        .image(&path);
    let mut shell = daemon.run(&envelope, &[SHELL]);
    shell.write_line("echo ready");
    assert_eq!(shell.read_line(DEADLINE), "ready");
    let listed = Tool::at(path);
    // The daemon takes the record, and is killed before or after it has answered, or never takes it.
    kill(Pid::from_raw(daemon.pid()), Signal::SIGSTOP).expect("it is ours");
    wait_for(&mut shell, &listed, &magic);
    kill(Pid::from_raw(daemon.pid()), Signal::SIGCONT).expect("it is ours");
    assert!(Tool::talks(&mut shell, &format!("tcp/{}", server.address())));
    daemon.stop();
    daemon.restart();
}

#[test]
fn a_child_has_what_stands_against_its_parent() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let address = server.address().to_string();
    let unlisted = Tool::at(daemon.layout().file("unlisted"));
    let magic = unique("forks");
    let command = [unlisted.text(), "shape", "fork", &magic, &address, &address];
    let reached = |envelope: &Envelope| -> Vec<bool> {
        let lines = daemon.run(envelope, &command).finish(DEADLINE).success();
        attempts(&lines).iter().map(integration::Attempt::succeeded).collect()
    };
    let envelope = Envelope::of("forks").allow_server("only", &server);
    assert_eq!(reached(&envelope), [true, true], "control: the child reaches the far side");
    let envelope = envelope.exec("listed", "deny-egress").image(SHELL.as_ref());
    assert_eq!(reached(&envelope), [false, false]);
}

/// Connects, and executes a shell that says something on that connection.
const HANDS_ON: &str = "
import os, socket, sys
host, port, magic = sys.argv[1:4]
connection = socket.create_connection((host, int(port)))
connection.set_inheritable(True)
os.execv('/bin/sh', ['sh', '-c', f'printf \"{magic} hello\" >&{connection.fileno()}; sleep 1'])
";

#[test]
fn an_open_connection_is_no_use_to_what_is_not_listed() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let address = server.address();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    // What is found by that name may be a script.
    let python = system(&["python3", "-c", "import sys; print(sys.executable)"]).trim().to_owned();
    // `sleep` is not listed either way: it says nothing.
    let run = |agent: &str, images: &[&str]| {
        let magic = unique(agent);
        let envelope = Envelope::of(agent).allow_server("only", &server).exec("listed", "deny-egress");
        let envelope = images.iter().fold(envelope, |envelope, image| envelope.image(image.as_ref()));
        let command = [python.as_str(), "-c", HANDS_ON, &host, &port, &magic];
        let ended = daemon.run(&envelope, &command).finish(DEADLINE);
        assert!(!ended.stderr.contains("Traceback"), "{}", ended.stderr);
        server.received(&magic)
    };
    assert_eq!(run("hands-on", &[&python, SHELL]), ["hello"], "control: the shell is listed");
    assert!(run("does-not", &[&python]).is_empty(), "it is not, and the kernel does not send it later");
    let refused = daemon
        .wait_for_events(1, "it is recorded", |event| event.is_of("does-not") && event.refusal().is_some());
    // Where there is a guard, it is refused before there is a packet.
    match refused[0].refusal() {
        Some("packet-out") => {
            let reason = refused[0].text("/reason");
            assert!(reason.starts_with("image-not-"), "{refused:?}");
            // The kernel goes on trying, and nothing of that passes either.
            let again = daemon.wait_for_events(1, "it is sent again", |event| {
                event.is_of("does-not") && event.kind() == "egress-repeated"
            });
            assert!(again.iter().all(|event| event.text("/reason") == reason), "{again:?}");
        }
        operation => assert_eq!(operation, Some("file_permission"), "{refused:?}"),
    }
}

#[test]
fn what_is_registered_is_looked_at_before_it_goes_on() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.1");
    let spec = format!("tcp/{}", server.address());
    let magic = unique("registered");
    let program = probe::<&str>(&[]).remove(0);
    let envelope =
        |agent: &str| Envelope::of(agent).allow_server("only", &server).exec("listed", "deny-egress");
    for (envelope, expect) in [
        (envelope("lists-it").image(program.as_ref()), true),
        (envelope("lists-another").image(SHELL.as_ref()), false),
    ] {
        let mut outside = Conversation::outside(&magic);
        assert!(outside.attempt(&spec), "control: outside");
        daemon.register(&envelope, &["--pid", &outside.pid().to_string()]);
        assert_eq!(outside.attempt(&spec), expect);
        outside.end();
    }
}
