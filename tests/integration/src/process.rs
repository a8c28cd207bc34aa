//! A program that runs beside the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{scaled, wait_until};

/// A running program with its three streams. Killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// The lines that nobody had read before.
    pub stdout: Vec<String>,
    pub stderr: String,
}

impl Finished {
    /// The lines of standard output, of a program that exited with 0.
    #[track_caller]
    pub fn success(self) -> Vec<String> {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self.stdout
    }
}

impl Process {
    /// Starts a program.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {what}: {error}"));
        let [stdin, stdout, stderr] = [child.stdin.is_some(), child.stdout.is_some(), child.stderr.is_some()];
        assert!(stdin && stdout && stderr, "all three streams are pipes");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("it is a pipe");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver is gone when the test has lost interest; the program must not block on a full pipe.
                let _ = sender.send(line);
            }
        });
        let mut stderr = child.stderr.take().expect("it is a pipe");
        let text = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let stderr_reader = thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut part) {
                written.lock().expect("no panic while it is held").extend_from_slice(&part[..len]);
            }
        });
        let stdin = child.stdin.take();
        Self { what, child, stdin, lines, stderr: text, stderr_reader: Some(stderr_reader) }
    }

    /// The process id. `enforcer run` becomes the command, so it is the command's as well.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether it traces every thread of a process.
    pub fn traces(&self, pid: i32) -> bool {
        let tracer = format!("TracerPid:\t{}\n", self.pid());
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status"));
        threads.flatten().all(|thread| status(thread).is_ok_and(|status| status.contains(&tracer)))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Writes a line to standard input.
    #[track_caller]
    pub fn write_line(&mut self, line: &str) {
        if let Err(error) = self.try_write_line(line) {
            panic!("write `{line}` to {}: {error}", self.what);
        }
    }

    /// Likewise, to one that may be ending.
    pub fn try_write_line(&mut self, line: &str) -> std::io::Result<()> {
        let stdin = self.stdin.as_mut().expect("standard input is not closed yet");
        stdin.write_all(format!("{line}\n").as_bytes())
    }

    /// The next line of standard output.
    #[track_caller]
    pub fn read_line(&mut self, limit: Duration) -> String {
        match self.lines.recv_timeout(scaled(limit)) {
            Ok(line) => line,
            Err(error) => {
                let end = self.child.try_wait();
                panic!(
                    "no line from {}: {error}; {end:?}; standard error: {}",
                    self.what,
                    self.stderr_text()
                );
            }
        }
    }

    /// Closes standard input and waits until the other streams are closed (by the program and all that inherited them)
    /// and the program has ended.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Finished {
        drop(self.stdin.take());
        let mut stdout = Vec::new();
        let what = format!("the end of {}", self.what);
        wait_until(limit, &what, || {
            use std::sync::mpsc::TryRecvError::{Disconnected, Empty};
            loop {
                match self.lines.try_recv() {
                    Ok(line) => stdout.push(line),
                    Err(Empty) => return None,
                    Err(Disconnected) => return Some(()),
                }
            }
        });
        let status = wait_until(limit, &what, || self.child.try_wait().expect("it is our child"));
        let reader = self.stderr_reader.take().expect("nobody else takes it");
        wait_until(limit, &what, || reader.is_finished().then_some(()));
        Finished { status, stdout, stderr: self.stderr_text() }
    }

    /// What it has written to standard error so far.
    fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("no panic while it is held")).into_owned()
    }
}

/// A command line that first does what `prefix` says, such as `unshare -m`, and then becomes `inner`.
pub fn wrap(prefix: &[&str], inner: &Command) -> Command {
    let (program, arguments) = prefix.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(arguments).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and is reaped, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
