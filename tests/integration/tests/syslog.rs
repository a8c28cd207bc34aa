//! Events reach rsyslog, a real one, by each way that it listens; and all of them, though it is killed meanwhile, or its host falls
//! silent.

#[path = "syslog/far_host.rs"]
mod far_host;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use far_host::FarHost;
use integration::{
    Certificate, DEADLINE, Daemon, LOAD_DEADLINE, Process, expect_in_order, fetched, free_port, wait_until,
};
use serde_json::Value;

/// An rsyslog, its files, and where it listens.
struct Rsyslog {
    directory: tempfile::TempDir,
    udp: u16,
    tcp: u16,
    tls: u16,
    /// Where it runs, if that is not here.
    far: Option<FarHost>,
    process: Option<Process>,
}

impl Rsyslog {
    fn new() -> Self {
        Self::at(None)
    }

    fn at(far: Option<FarHost>) -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let udp =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
        let mut rsyslog =
            Self { directory, udp: udp.port(), tcp: free_port(), tls: free_port(), far, process: None };
        Certificate::make_in(rsyslog.directory.path());
        rsyslog.start();
        rsyslog
    }

    fn address(&self) -> Ipv4Addr {
        self.far.as_ref().map_or(Ipv4Addr::LOCALHOST, |far| far.address)
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("it is text").to_owned()
    }

    fn start(&mut self) {
        let (Self { udp, tcp, tls, .. }, address) = (&*self, self.address());
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
input(type="imudp" address="{address}" port="{udp}" ruleset="keep" name="by-udp")
input(type="imtcp" address="{address}" port="{tcp}" ruleset="keep" name="by-tcp")
input(type="imtcp" address="{address}" port="{tls}" ruleset="keep" name="by-tls"
    streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imuxsock" socket="{socket}" ruleset="keep" usePIDFromSystem="off" useSpecialParser="off" parseHostname="on")
"#
        );
        fs::write(self.file("conf"), config).expect("the directory is ours");
        let libraries =
            ["libestr0", "libfastjson4"].map(|it| fetched(&format!("{it}/usr/lib/x86_64-linux-gnu")));
        // All modules in one place, as it wants them.
        let modules = self.directory.path().join("modules");
        if !modules.is_dir() {
            fs::create_dir(&modules).expect("the directory is ours");
            for package in ["rsyslog", "rsyslog-openssl"] {
                let from = fetched(&format!("{package}/usr/lib/x86_64-linux-gnu/rsyslog"));
                for entry in fs::read_dir(from).expect("it is a folder").flatten() {
                    fs::copy(entry.path(), modules.join(entry.file_name())).expect("the directory is ours");
                }
            }
        }
        let mut command = Command::new(fetched("rsyslog/usr/sbin/rsyslogd"));
        command.args(["-n", "-f", &self.file("conf"), "-i", &self.file("pid"), "-M"]).arg(&modules);
        let libraries: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
        command.env("LD_LIBRARY_PATH", libraries.join(":")).stderr(Stdio::inherit());
        drop(fs::remove_file(&socket));
        if let Some(far) = &self.far {
            far.namespace.put(&mut command);
        }
        self.process = Some(Process::spawn(command));
        wait_until(DEADLINE, "rsyslog listens", || {
            let bound = Path::new(&socket).exists();
            (bound && TcpStream::connect((address, self.tls)).is_ok()).then_some(())
        });
    }

    /// Kills it as nobody can catch. What it has half written stays so.
    fn kill9(&mut self) {
        self.process = None;
        let mut out = File::options().append(true).create(true).open(self.file("out")).expect("it is ours");
        out.write_all(b"\n").expect("there is room");
    }

    /// The numbers of the events that it has written down, by the name of the input.
    fn numbers(&self, input: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.file("out")).unwrap_or_default();
        let of_input = text.lines().filter_map(|line| line.strip_prefix(input)?.strip_prefix(' '));
        let number = |line: &str| {
            let json = line.get(line.find('{')?..)?;
            // It may be half written.
            let number = serde_json::from_str::<Value>(json).ok()?["sequence"].as_u64();
            assert!(line.starts_with("enforcer authpriv "), "{line}");
            number
        };
        of_input.filter_map(number).collect()
    }
}

#[track_caller]
fn expect_all(daemon: &Daemon, rsyslog: &Rsyslog, input: &str) {
    let last = daemon.last_event();
    wait_until(LOAD_DEADLINE, &format!("all {last} events have come {input}"), || {
        let there: BTreeSet<u64> = rsyslog.numbers(input).into_iter().collect();
        (1..=last).all(|number| there.contains(&number)).then_some(())
    });
    expect_in_order(&rsyslog.numbers(input));
}

#[test]
fn rsyslog_gets_all_of_it_by_each_way() {
    let mut rsyslog = Rsyslog::new();
    let Rsyslog { udp, tcp, tls, .. } = rsyslog;
    let (ca, socket) = (rsyslog.file("ca.pem"), rsyslog.file("socket"));
    let daemon = Daemon::with_sinks(&format!(
        "  - {{ name: unix, syslog: {{ address: \"unix:{socket}\" }} }}\n\
         \x20 - {{ name: udp, syslog: {{ address: \"udp://127.0.0.1:{udp}\" }} }}\n\
         \x20 - {{ name: tcp, syslog: {{ address: \"tcp://127.0.0.1:{tcp}\" }} }}\n\
         \x20 - {{ name: tls, syslog: {{ address: \"tls://127.0.0.1:{tls}\", ca: \"{ca}\" }} }}\n\
         \x20 - {{ name: stranger, syslog: {{ address: \"tls://127.0.0.1:{tls}\" }} }}\n"
    ));
    daemon.make_events();
    for input in ["by-udp", "by-tcp", "by-tls", "imuxsock"] {
        expect_all(&daemon, &rsyslog, input);
    }
    // Nobody whom the host vouches for: it is told nothing.
    wait_until(DEADLINE, "a stranger is noticed", || {
        daemon.sink("stranger")["why"].as_str()?.contains("certificate").then_some(())
    });
    // While it is dead, and just before.
    for _ in 0..2 {
        daemon.make_events();
        rsyslog.kill9();
        daemon.make_events();
        rsyslog.start();
    }
    daemon.make_events();
    for input in ["by-tcp", "by-tls"] {
        expect_all(&daemon, &rsyslog, input);
    }
    assert_eq!(daemon.sink("stranger")["sent"], 0);
}

#[test]
fn a_host_that_falls_silent_is_not_taken_for_one_that_has_it_all() {
    let mut rsyslog = Rsyslog::at(Some(FarHost::new()));
    let (address, port) = (rsyslog.address(), rsyslog.tcp);
    let daemon = Daemon::with_sinks(&format!(
        "  - {{ name: far, syslog: {{ address: \"tcp://{address}:{port}\" }} }}\n"
    ));
    daemon.make_events();
    expect_all(&daemon, &rsyslog, "by-tcp");
    rsyslog.far.as_ref().expect("it is there").fall_silent();
    rsyslog.kill9();
    // Into a connection that is as good as before, for all that anybody says.
    daemon.make_events();
    let why = wait_until(DEADLINE, "the connection breaks", || {
        let sink = daemon.sink("far");
        sink["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("timed out"), "{why}");
    rsyslog.far.as_ref().expect("it is there").come_back();
    rsyslog.start();
    expect_all(&daemon, &rsyslog, "by-tcp");
}
