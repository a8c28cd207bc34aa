//! `cargo xtask demo`: a daemon in a private directory, an agent that tries to get out in several ways, and what enforcer
//! shows of it. Everything is made for the demo, on loopback, and removed at its end. Every line about an outcome comes
//! from the agent or from enforcer; the demo fails if one is not what it ought to be.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::command::{cargo, is_root, output, run as run_command, target_dir, workspace};
use crate::setup::{self, Need};

const DEADLINE: Duration = Duration::from_secs(20);
const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);
const REFUSED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);

pub(crate) fn run() -> Result<()> {
    if !is_root() {
        bail!("the demo needs root: it loads programs into the kernel");
    }
    setup::ensure(Need::Test)?;
    run_command(cargo().args(["build", "--package", "enforcer-userspace"]))?;

    let instance = Instance::new(target_dir().join("debug/enforcer"))?;
    let allowed = serve(SocketAddr::from((ALLOWED, 0)))?;
    let refused = serve(SocketAddr::from((REFUSED, 0)))?;
    let refused_v6 = serve(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))?;

    say("Two servers listen on this host's loopback; nothing is enforced yet, both answer:");
    for server in [allowed, refused, refused_v6] {
        std::net::TcpStream::connect(server).with_context(|| format!("control: {server} must answer"))?;
        println!("  {server} answers");
    }

    let envelope = instance.dir.join("envelope.yaml");
    fs::write(&envelope, envelope_text(allowed))?;
    say("The envelope declares who the agent is and where it may go:");
    print!("{}", indent(&fs::read_to_string(&envelope)?));

    let daemon = instance.start_daemon()?;
    say("The daemon runs. The agent starts as `enforcer run --envelope envelope.yaml -- python3 agent.py`");
    println!("and tries, itself and through its children:");
    let mut agent = Agent::start(&instance, &envelope, allowed, refused, refused_v6.port())?;
    agent.expect(&[
        "connected",
        "refused: EPERM",
        "connected",
        "refused: EPERM",
        "refused: EPERM",
        "refused: EPERM",
        "refused: EPERM",
    ])?;

    say("Who is running, as the kernel knows it (`enforcer ps`):");
    print!("{}", indent(&instance.ask(&["ps"])?));

    say("The daemon is killed with SIGKILL. The kernel goes on:");
    daemon.kill()?;
    agent.again()?;
    agent.expect(&["connected", "refused: EPERM", "refused: EPERM"])?;

    say("A new daemon takes over what is pinned, sessions and records included:");
    let daemon = instance.start_daemon()?;
    let status: Value = serde_json::from_str(&instance.ask(&["status", "--format", "json"])?)?;
    let start = status["daemon"]["start"].as_str().unwrap_or_default();
    println!("  start: {start}; sessions: {}", status["sessions"]);
    ensure!(start == "adopted" && status["sessions"] == 1, "the new daemon did not adopt the session");

    say("Every attempt is attributed (`enforcer events`), those made while no daemon ran as well:");
    let decisions = attribution(&instance.ask(&["events", "--format", "json"])?)?;
    ensure!(decisions.allowed == 3 && decisions.refused == 7, "not every attempt was recorded");
    println!("  {} allowed, {} refused; session {}", decisions.allowed, decisions.refused, decisions.session);

    say("An operator revokes the session; now nothing is allowed:");
    print!("{}", indent(&instance.ask(&["revoke", &decisions.session])?));
    agent.again()?;
    agent.expect(&["refused: EPERM", "refused: EPERM", "refused: EPERM"])?;
    agent.end()?;

    say("`enforcer teardown` is the only way enforcement ends:");
    print!("{}", indent(&instance.ask(&["teardown"])?));
    daemon.wait()?;
    for server in [allowed, refused, refused_v6] {
        std::net::TcpStream::connect(server).with_context(|| format!("control: {server} must answer"))?;
    }
    println!("  all servers answer again");
    drop(instance);
    say("Done; the demo has removed all that it made.");
    Ok(())
}

fn say(text: &str) {
    println!("\n* {text}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn envelope_text(allowed: SocketAddr) -> String {
    format!(
        "apiVersion: enforcer/v1
kind: Envelope
metadata:
  name: demo-agent
  owner: alice@example.com
  operator: platform-team
  purpose: show that an agent stays inside its envelope
  model: example-model-1
spec:
  ttl: 10m
  egress:
    - name: the-one-server
      to: [{}]
      ports: [{}]
      protocol: tcp
",
        allowed.ip(),
        allowed.port()
    )
}

/// Greets whoever connects, for as long as the demo runs.
fn serve(at: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind(at).with_context(|| format!("listen at {at}"))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that left before it was greeted is not our concern.
            drop((&stream).write_all(b"hello\n"));
        }
    });
    Ok(address)
}

/// An instance of enforcer of our own: directories, a BPF file system, a cgroup name.
struct Instance {
    binary: PathBuf,
    dir: PathBuf,
    cgroup: String,
}

impl Instance {
    fn new(binary: PathBuf) -> Result<Self> {
        let name = format!("enforcer-demo-{}", std::process::id());
        let dir = Path::new("/run").join(&name);
        fs::create_dir(&dir).with_context(|| format!("create `{}`", dir.display()))?;
        let instance = Self { binary, dir, cgroup: name };
        let pins = instance.dir.join("bpf");
        fs::create_dir(&pins)?;
        output(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&pins))?;
        Ok(instance)
    }

    fn enforcer(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("ENFORCER_STATE_DIR", self.dir.join("state"))
            .env("ENFORCER_RUN_DIR", self.dir.join("run"))
            .env("ENFORCER_PIN_DIR", self.dir.join("bpf/enforcer"))
            .env("ENFORCER_CGROUP", &self.cgroup);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.enforcer(arguments))
    }

    fn start_daemon(&self) -> Result<Daemon> {
        let mut daemon = Daemon(self.enforcer(&["daemon"]).stdin(Stdio::null()).spawn()?);
        let start = Instant::now();
        while self.ask(&["status"]).is_err() {
            if let Some(status) = daemon.0.try_wait()? {
                bail!("the daemon ended with {status}");
            }
            ensure!(start.elapsed() < DEADLINE, "the daemon is not ready after {DEADLINE:?}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Also after a failure: what is still there goes, and what cannot go is said.
        let pins = self.dir.join("bpf");
        if pins.join("enforcer").exists()
            && let Err(error) = self.ask(&["teardown"])
        {
            eprintln!("warning: {error:#}");
        }
        if let Err(error) = output(Command::new("umount").arg(&pins)) {
            eprintln!("warning: {error:#}");
        } else if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("warning: remove `{}`: {error}", self.dir.display());
        }
    }
}

struct Daemon(Child);

impl Daemon {
    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    fn wait(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a failure only: `kill` and `wait` have reaped it already, and then this does nothing.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Agent {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    fn start(
        instance: &Instance,
        envelope: &Path,
        allowed: SocketAddr,
        refused: SocketAddr,
        refused_v6: u16,
    ) -> Result<Self> {
        let mut child = instance
            .enforcer(&["run", "--envelope"])
            .arg(envelope)
            .args(["--", "python3"])
            .arg(workspace().join("xtask/demo/agent.py"))
            .args([allowed.to_string(), refused.to_string(), refused_v6.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("the agent's standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("the agent's standard output")?);
        Ok(Self { child, stdin, stdout })
    }

    fn again(&mut self) -> Result<()> {
        Ok(self.stdin.write_all(b"\n")?)
    }

    /// Prints what the agent reports, and checks it line by line.
    fn expect(&mut self, outcomes: &[&str]) -> Result<()> {
        for outcome in outcomes {
            let line = self.line()?;
            print!("{line}");
            ensure!(line.contains(outcome), "expected `{outcome}`");
        }
        ensure!(self.line()? == "done\n", "the agent tried more than it should");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stdout.read_line(&mut line)? > 0, "the agent ended early");
        Ok(line)
    }

    fn end(self) -> Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

struct Decisions {
    session: String,
    allowed: usize,
    refused: usize,
}

/// Prints the decisions as a table.
fn attribution(events: &str) -> Result<Decisions> {
    let mut decisions = Decisions { session: String::new(), allowed: 0, refused: 0 };
    for line in events.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["kind"] != "egress" {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        if decisions.session.is_empty() {
            decisions.session = text(&event["session"]["id"]);
            println!(
                "  session {}\n  agent {}, owner {}, operator {}, model {}\n",
                decisions.session,
                text(&event["session"]["agent"]),
                text(&event["session"]["owner"]),
                text(&event["session"]["operator"]),
                text(&event["session"]["model"]),
            );
            println!("  {:<7} {:<3} {:<22} {:<15} LINEAGE", "VERDICT", "", "DESTINATION", "RULE");
        }
        let refused = event["refused"] == true;
        *(if refused { &mut decisions.refused } else { &mut decisions.allowed }) += 1;
        let address = text(&event["destination"]["address"]);
        let address = if address.contains(':') { format!("[{address}]") } else { address };
        let lineage: Vec<String> = event["process"]["lineage"]
            .as_array()
            .map(|chain| {
                chain
                    .iter()
                    .map(|process| format!("{}[{}]", text(&process["comm"]), process["pid"]))
                    .collect()
            })
            .unwrap_or_default();
        println!(
            "  {:<7} {:<3} {:<22} {:<15} {}",
            if refused { "refuse" } else { "allow" },
            text(&event["protocol"]),
            format!("{address}:{}", event["destination"]["port"]),
            event["rule"].as_str().unwrap_or(event["reason"].as_str().unwrap_or("-")),
            lineage.join(" > "),
        );
    }
    Ok(decisions)
}
