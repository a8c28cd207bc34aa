//! `enforcer run` becomes the command: nobody who starts it notices, except for what it is told to change.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use integration::{Conversation, DEADLINE, Daemon, Envelope, Event, Finished, Pair, Process, unique, wrap};

fn run(daemon: &Daemon, command: &[&str]) -> Finished {
    daemon.run(&Envelope::of("pass"), command).finish(DEADLINE)
}

#[test]
fn end_of_the_command_is_the_end_of_run() {
    let daemon = Daemon::start();
    for code in [0, 1, 7, 255] {
        let status = run(&daemon, &["sh", "-c", &format!("exit {code}")]).status;
        assert_eq!(status.code(), Some(code));
    }
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let status = run(&daemon, &["sh", "-c", &format!("kill -{signal} $$")]).status;
        assert_eq!(status.signal(), Some(signal));
    }
}

#[test]
fn streams_arguments_and_directory_are_the_commands() {
    let daemon = Daemon::start();
    let mut cat = daemon.run(&Envelope::of("cat"), &["cat"]);
    for line in ["one", "two  words", "¶"] {
        cat.write_line(line);
        assert_eq!(cat.read_line(DEADLINE), line);
    }
    cat.finish(DEADLINE).success();

    // What `run` itself has to say is about the kernel, and comes before; see `confinement.rs`.
    let own = run(&daemon, &["true"]).stderr;
    assert!(own.lines().all(|line| line.starts_with("warning: ")), "{own}");
    let outcome = run(&daemon, &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(outcome.stdout, ["out"]);
    assert_eq!(outcome.stderr, format!("{own}err\n"));

    let arguments = ["printf", "<%s>\\n", "", "a b", "--user", "--", "$HOME", "*"];
    assert_eq!(run(&daemon, &arguments).success(), ["<>", "<a b>", "<--user>", "<-->", "<$HOME>", "<*>"]);

    let mut command =
        daemon.layout().run_command(Envelope::of("pwd"), &["sh", "-c", "pwd; echo $OF_THE_TEST"]);
    command.current_dir("/usr").env("OF_THE_TEST", "value");
    assert_eq!(Process::spawn(command).finish(DEADLINE).success(), ["/usr", "value"]);
}

#[test]
fn command_is_told_its_session() {
    let daemon = Daemon::start();
    let lines = run(&daemon, &["sh", "-c", "echo $ENFORCER_SESSION"]).success();
    let started = |event: &Event| event.is_of("pass") && event.kind() == "session-started";
    let events = daemon.wait_for_events(1, "the start is recorded", started);
    assert_eq!(lines, [events[0].text("/session/id")]);
}

#[test]
fn user_is_changed_for_good() {
    let pair = Pair::v4("tcp");
    let daemon = Daemon::start();
    let layout = daemon.layout();
    let as_nobody = |envelope: &Envelope, command: &[String]| {
        let mut run = layout.command(&["run", "--user", "nobody", "--envelope"]);
        run.arg(layout.write_envelope(envelope)).arg("--").args(command);
        Process::spawn(run)
    };
    let script =
        "id -u; id -g; id -G; sed -n 's/^\\(NoNewPrivs\\|CapEff\\|CapPrm\\):\\t//p' /proc/self/status";
    let command = ["sh", "-c", script].map(str::to_owned);
    let lines = as_nobody(&Envelope::of("nobody"), &command).finish(DEADLINE).success();
    let none = "0000000000000000";
    assert_eq!(lines, ["65534", "65534", "65534", none, none, "1"]);
    // The control: what it would be without.
    let lines = run(&daemon, &["sh", "-c", script]).success();
    assert_eq!(lines[..2], ["0", "0"]);

    let envelope = Envelope::of("confined").allow_server("only", &pair.allowed);
    let mut inside = Conversation::over(as_nobody(&envelope, &Conversation::command(&unique("nobody"))));
    assert!(inside.attempt(&format!("tcp/{}", pair.allowed.address())));
    assert!(!inside.attempt(&format!("tcp/{}", pair.refused.address())));
    let deny = daemon.wait_for_events(1, "the deny", |event| event.is_of("confined") && event.is_deny());
    assert_eq!(deny[0].at("/process/uid"), 65534);
    inside.end();
}

/// An open connection that a session brought along would be none of its envelope's.
#[test]
fn inherited_descriptors_are_closed() {
    let daemon = Daemon::start();
    let open_nine = ["sh", "-c", "exec 9</dev/null; exec \"$@\"", "sh"];
    let mut list = Command::new("sh");
    list.args(["-c", "for n in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo $n; done; true"]);
    let numbers = |command: Command| Process::spawn(command).finish(DEADLINE).success();
    assert!(numbers(wrap(&open_nine, &list)).contains(&"9".to_owned()), "control: it is inherited");

    let arguments: Vec<_> = [list.get_program()].into_iter().chain(list.get_args()).collect();
    let run = daemon.layout().run_command(Envelope::of("descriptors"), &arguments);
    assert_eq!(numbers(wrap(&open_nine, &run)), ["0", "1", "2"]);
}

/// A connection to the daemon, made by somebody who may operate it, is not handed on.
#[test]
fn connection_to_the_daemon_is_not_a_stream_of_the_command() {
    let daemon = Daemon::start();
    let trace = daemon.layout().file("trace");
    for (stream, what) in [(0, "standard input"), (1, "standard output")] {
        let control = std::os::unix::net::UnixStream::connect(daemon.layout().socket()).expect("root may");
        let mut command =
            daemon.layout().run_command(Envelope::of("stream"), &["touch", &trace.display().to_string()]);
        let control = std::process::Stdio::from(std::os::fd::OwnedFd::from(control));
        let command = if stream == 0 { command.stdin(control) } else { command.stdout(control) };
        let refusal = command.stderr(std::process::Stdio::piped()).output().expect("it can be executed");
        let says = String::from_utf8_lossy(&refusal.stderr);
        assert_eq!(refusal.status.code(), Some(2), "{says}");
        assert!(says.contains(what), "{says}");
        assert!(!trace.exists(), "the command is not executed");
    }
}
