//! What is counted is there for Prometheus, and for operators only on the control socket.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use integration::{
    DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Process, Server, attempts, probe, unique, wait_until,
};

/// A program of Prometheus's, which the set-up has unpacked.
fn prometheus(program: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders up");
    let path = workspace.join("target/tools/prometheus/usr/bin").join(program);
    assert!(path.is_file(), "`cargo xtask setup` fetches `{}`", path.display());
    path
}

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("two folders up")
        .join("monitoring")
        .join(file)
}

/// A port that nobody listens at.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free")
}

#[track_caller]
fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut promtool = Command::new(prometheus("promtool"));
    let piped = promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("it is executable");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it is our child")
}

/// One request over TCP: the whole answer; nothing if nobody listens.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.set_read_timeout(Some(DEADLINE)).expect("it is a time");
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The value of a line of metrics.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A session that reaches one address and is refused another; how often it tries both.
fn act(daemon: &Daemon, agent: &str, times: usize) {
    let (near, far) = (Server::start("tcp", "127.0.0.1"), Server::start("tcp", "127.0.0.2"));
    let envelope = Envelope::of(agent).allow_server("near", &near);
    let tries = [format!("tcp/{}", near.address()), format!("tcp/{}", far.address())];
    let tries: Vec<&str> = tries.iter().map(String::as_str).cycle().take(2 * times).collect();
    let command = [
        &probe(&["net", &unique("metrics")])[..],
        &tries.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(),
    ]
    .concat();
    let lines = daemon.run(&envelope, &command).finish(DEADLINE).success();
    let reached: Vec<bool> = attempts(&lines).iter().map(|attempt| attempt.succeeded()).collect();
    assert_eq!(reached, [true, false].repeat(times), "control: what was done");
}

#[test]
fn what_is_counted_is_what_was_done() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let address = free();
    daemon.restart_with(&["--metrics-listen", &address.to_string()]);
    act(&daemon, "counted", 3);
    let of = |verdict: &str, reason: &str| {
        format!("enforcer_verdicts_total{{agent=\"counted\",verdict=\"{verdict}\",reason=\"{reason}\"}}")
    };
    let text = wait_until(DEADLINE, "all decisions are counted", || {
        let text = get(address, "/metrics")?;
        (value(&text, &of("deny", "no-rule")) == Some(3.0)).then_some(text)
    });
    assert_eq!(value(&text, &of("allow", "allow-rule")), Some(3.0), "{text}");
    assert_eq!(value(&text, "enforcer_guard{state=\"broken\"}"), Some(0.0));
    let hooks = ["enforcer_hooks_needed", "enforcer_hooks_attached"].map(|name| value(&text, name));
    assert!(hooks[0] > Some(10.0) && hooks[0] == hooks[1], "{hooks:?}");
    assert_eq!(value(&text, "enforcer_ring_size_bytes"), Some(f64::from(4 << 20)));
    assert!(value(&text, "enforcer_ring_used_bytes") < Some(4096.0), "nothing waits");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.to_lowercase().contains("content-type: application/openmetrics-text"), "{head}");
    let checked = promtool(&["check", "metrics"], body.strip_suffix("# EOF\n").expect("it ends so"));
    assert!(!String::from_utf8_lossy(&checked.stderr).contains("error"), "{checked:?}");

    assert!(
        get(address, "/v1/status").is_some_and(|answer| answer.starts_with("HTTP/1.1 404")),
        "nothing else"
    );
    let output = daemon.layout().outcome(&["daemon", "--metrics-listen", "0.0.0.0:0"]);
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stderr.contains("loopback addresses only"), "{output:?}");
}

/// Has the kernel time its programs, and puts that back.
struct Timed(String);

impl Timed {
    const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn begin() -> Self {
        let before = fs::read_to_string(Self::SYSCTL).expect("every kernel with BPF has it");
        fs::write(Self::SYSCTL, "1").expect("we are root");
        Self(before)
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        fs::write(Self::SYSCTL, &self.0).expect("we are root");
    }
}

#[test]
fn what_programs_take_is_a_histogram() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let address = free();
    daemon.restart_with(&["--metrics-listen", &address.to_string()]);
    let of = |suffix: &str, labels: &str| {
        format!("enforcer_program_run_seconds_{suffix}{{{labels}program=\"egress_connect4\"}}")
    };
    let timed = Timed::begin();
    act(&daemon, "timed", 20);
    let text = wait_until(DEADLINE, "its runs are counted", || {
        let text = get(address, "/metrics")?;
        (value(&text, &of("count", "")) >= Some(40.0)).then_some(text)
    });
    drop(timed);
    let [sum, count, all] =
        [("sum", ""), ("count", ""), ("bucket", "le=\"+Inf\",")].map(|(suffix, labels)| {
            value(&text, &of(suffix, labels)).unwrap_or_else(|| panic!("no {suffix} in {text}"))
        });
    let (_, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let checked = promtool(&["check", "metrics"], body.strip_suffix("# EOF\n").expect("it ends so"));
    assert!(!String::from_utf8_lossy(&checked.stderr).contains("error"), "{checked:?}");
    assert!(all == count && (10e-9..1e-3).contains(&(sum / count)), "{sum} {count} {all}");
}

#[test]
fn nobody_keeps_the_others_from_asking() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let address = free();
    daemon.restart_with(&["--metrics-listen", &address.to_string()]);
    assert!(get(address, "/metrics").is_some(), "control");
    let mut hogs: Vec<TcpStream> =
        (0..12).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    for hog in &mut hogs {
        hog.write_all(b"GET /metr").expect("it is connected");
    }
    daemon.layout().outcome(&["status"]).success();
    wait_until(LOAD_DEADLINE, "they lose their places", || {
        hogs.retain_mut(|hog| {
            hog.set_nonblocking(true).expect("every socket can be");
            matches!(hog.read(&mut [0; 512]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        });
        hogs.is_empty().then_some(())
    });
    assert!(get(address, "/metrics").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
}

#[test]
fn prometheus_collects() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let (address, own) = (free(), free());
    daemon.restart_with(&["--metrics-listen", &address.to_string()]);
    let layout = daemon.layout();
    let config = layout.file("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s }}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n  - job_name: enforcer\n    static_configs: [{{ targets: ['{address}'] }}]\n",
        monitoring("enforcer.rules.yml").display()
    );
    fs::write(&config, text).expect("the directory is ours");
    let mut command = Command::new(prometheus("prometheus"));
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", layout.file("tsdb").display()));
    command.arg(format!("--web.listen-address={own}")).stderr(Stdio::null());
    let _prometheus = Process::spawn(command);
    act(&daemon, "collected", 2);
    let query =
        "/api/v1/query?query=enforcer_verdicts_total%7Bagent%3D%22collected%22%2Cverdict%3D%22deny%22%7D";
    wait_until(LOAD_DEADLINE, "the refusals are in its store", || {
        get(own, query).is_some_and(|answer| answer.contains(",\"2\"]")).then_some(())
    });
}

#[test]
fn alerts_come_when_they_should() {
    let rules = monitoring("enforcer.rules.yml").display().to_string();
    let checked = promtool(&["check", "rules", &rules], "");
    assert!(checked.status.success(), "{checked:?}");
    let tested =
        promtool(&["test", "rules", &monitoring("enforcer.rules.test.yml").display().to_string()], "");
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );
    // Every name that the dashboard asks for is one that there is.
    let dashboard = fs::read_to_string(monitoring("grafana-dashboard.json")).expect("it is there");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let mut daemon = Daemon::start();
    daemon.stop();
    let address = free();
    daemon.restart_with(&["--metrics-listen", &address.to_string()]);
    let there = get(address, "/metrics").expect("it answers");
    let panels = dashboard["panels"].as_array().expect("a list");
    for panel in panels {
        for target in panel["targets"].as_array().expect("a list") {
            let asked = target["expr"].as_str().expect("it is text");
            for name in asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let suffixes = ["_total", "_sum", "_count", "_bucket"];
                let family = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
                let known = !name.starts_with("enforcer_") || there.contains(&format!("# TYPE {family} "));
                assert!(known, "`{name}` in the panel {}", panel["title"]);
            }
        }
    }
    assert!(panels.len() > 4);
}
