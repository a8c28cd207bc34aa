//! Events reach rsyslog, a real one, by each way that it listens; and all of them, though it is killed meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration::{DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Process, probe, system, unique, wait_until};
use serde_json::Value;

/// Where the set-up has unpacked what rsyslog consists of.
fn unpacked(package: &str, path: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders up");
    let path = workspace.join("target/tools").join(package).join(path);
    assert!(path.exists(), "`cargo xtask setup` fetches `{}`", path.display());
    path
}

/// An rsyslog, its files, and where it listens.
struct Rsyslog {
    directory: tempfile::TempDir,
    udp: u16,
    tcp: u16,
    tls: u16,
    process: Option<Process>,
}

impl Rsyslog {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let free_tcp = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            listener.local_addr().expect("it is bound").port()
        };
        let udp =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
        let mut rsyslog =
            Self { directory, udp: udp.port(), tcp: free_tcp(), tls: free_tcp(), process: None };
        rsyslog.make_certificates();
        rsyslog.start();
        rsyslog
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("it is text").to_owned()
    }

    fn make_certificates(&self) {
        let file = |name| self.file(name);
        fs::write(file("san"), "subjectAltName=IP:127.0.0.1\n").expect("the directory is ours");
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let authority = ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout"];
        system(&[&authority[..], &[&file("ca.key"), "-out", &file("ca.pem")], &key].concat());
        let request = ["openssl", "req", "-subj", "/CN=rsyslog", "-keyout"];
        system(&[&request[..], &[&file("key.pem"), "-out", &file("csr.pem")], &key].concat());
        let (ca, ca_key, csr, san, out) =
            (file("ca.pem"), file("ca.key"), file("csr.pem"), file("san"), file("cert.pem"));
        system(&[
            "openssl",
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &san,
            "-out",
            &out,
        ]);
    }

    fn start(&mut self) {
        let Self { udp, tcp, tls, .. } = *self;
        let [ca, cert, key, out, socket, work] =
            ["ca.pem", "cert.pem", "key.pem", "out", "socket", "."].map(|name| self.file(name));
        let config = format!(
            r#"global(workDirectory="{work}" maxMessageSize="128k" defaultNetstreamDriverCAFile="{ca}"
    defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp")
module(load="imuxsock" sysSock.use="off")
template(name="raw" type="string" string="%inputname% %app-name% %syslogfacility-text% %msgid% %msg%\n")
ruleset(name="keep") {{ action(type="omfile" file="{out}" template="raw" asyncWriting="off") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="keep" name="by-udp")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="keep" name="by-tcp")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="keep" name="by-tls"
    streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imuxsock" socket="{socket}" ruleset="keep" usePIDFromSystem="off" useSpecialParser="off" parseHostname="on")
"#
        );
        fs::write(self.file("conf"), config).expect("the directory is ours");
        let libraries = ["libestr0", "libfastjson4"].map(|it| unpacked(it, "usr/lib/x86_64-linux-gnu"));
        // All modules in one place, as it wants them.
        let modules = self.directory.path().join("modules");
        if !modules.is_dir() {
            fs::create_dir(&modules).expect("the directory is ours");
            for package in ["rsyslog", "rsyslog-openssl"] {
                let from = unpacked(package, "usr/lib/x86_64-linux-gnu/rsyslog");
                for entry in fs::read_dir(from).expect("it is a folder").flatten() {
                    fs::copy(entry.path(), modules.join(entry.file_name())).expect("the directory is ours");
                }
            }
        }
        let mut command = Command::new(unpacked("rsyslog", "usr/sbin/rsyslogd"));
        command.args(["-n", "-f", &self.file("conf"), "-i", &self.file("pid"), "-M"]).arg(&modules);
        let libraries: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
        command.env("LD_LIBRARY_PATH", libraries.join(":")).stderr(Stdio::inherit());
        drop(fs::remove_file(&socket));
        self.process = Some(Process::spawn(command));
        wait_until(DEADLINE, "rsyslog listens", || {
            let bound = Path::new(&socket).exists();
            (bound && std::net::TcpStream::connect(("127.0.0.1", self.tls)).is_ok()).then_some(())
        });
    }

    /// Kills it as nobody can catch.
    fn kill9(&mut self) {
        self.process = None;
    }

    /// The numbers of the events that it has written down, by the name of the input.
    fn numbers(&self, input: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.file("out")).unwrap_or_default();
        let of_input = text.lines().filter_map(|line| line.strip_prefix(input)?.strip_prefix(' '));
        let number = |line: &str| {
            assert!(line.starts_with("enforcer authpriv "), "{line}");
            let json = line.get(line.find('{')?..)?;
            // The last line may be half written.
            serde_json::from_str::<Value>(json).ok()?["sequence"].as_u64()
        };
        of_input.filter_map(number).collect()
    }
}

fn act(daemon: &Daemon) {
    let run = daemon.run(&Envelope::of("acts"), &probe(&["net", &unique("syslog"), "tcp/127.0.0.1:9"]));
    run.finish(DEADLINE).success();
    daemon.wait_idle();
}

#[track_caller]
fn expect_all(daemon: &Daemon, rsyslog: &Rsyslog, input: &str) {
    let last = daemon.events().last().expect("there are some").at("/sequence").as_u64().expect("a number");
    wait_until(LOAD_DEADLINE, &format!("all {last} events have come {input}"), || {
        let there: BTreeSet<u64> = rsyslog.numbers(input).into_iter().collect();
        (1..=last).all(|number| there.contains(&number)).then_some(())
    });
    let mut seen = BTreeSet::new();
    let first_times: Vec<u64> =
        rsyslog.numbers(input).into_iter().filter(|number| seen.insert(*number)).collect();
    assert!(first_times.is_sorted(), "in order {input}: {first_times:?}");
}

#[test]
fn rsyslog_gets_all_of_it_by_each_way() {
    let mut rsyslog = Rsyslog::new();
    let mut daemon = Daemon::start();
    daemon.stop();
    let path = daemon.layout().file("sinks.yaml");
    let Rsyslog { udp, tcp, tls, .. } = rsyslog;
    let (ca, socket) = (rsyslog.file("ca.pem"), rsyslog.file("socket"));
    let text = format!(
        "apiVersion: enforcer/v1\nkind: Sinks\nspec:\n  sinks:\n\
         \x20 - {{ name: unix, syslog: {{ address: \"unix:{socket}\" }} }}\n\
         \x20 - {{ name: udp, syslog: {{ address: \"udp://127.0.0.1:{udp}\" }} }}\n\
         \x20 - {{ name: tcp, syslog: {{ address: \"tcp://127.0.0.1:{tcp}\" }} }}\n\
         \x20 - {{ name: tls, syslog: {{ address: \"tls://127.0.0.1:{tls}\", ca: \"{ca}\" }} }}\n\
         \x20 - {{ name: stranger, syslog: {{ address: \"tls://127.0.0.1:{tls}\" }} }}\n"
    );
    fs::write(&path, text).expect("the directory is ours");
    daemon.restart_with(&["--sinks", path.to_str().expect("it is text")]);
    act(&daemon);
    for input in ["by-udp", "by-tcp", "by-tls", "imuxsock"] {
        expect_all(&daemon, &rsyslog, input);
    }
    // While it is dead, and just before.
    for _ in 0..2 {
        act(&daemon);
        rsyslog.kill9();
        act(&daemon);
        rsyslog.start();
    }
    act(&daemon);
    for input in ["by-tcp", "by-tls"] {
        expect_all(&daemon, &rsyslog, input);
    }
    // Nobody whom the host vouches for: it is told nothing.
    let status = daemon.layout().outcome(&["status"]).success();
    let stranger = status.iter().find(|line| line.contains("stranger")).expect("it is listed");
    assert!(stranger.contains(" 0 sent") && stranger.contains("certificate"), "{stranger}");
}
