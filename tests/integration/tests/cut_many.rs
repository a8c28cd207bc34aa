//! How soon a session with ten thousand busy connections is silent, and how soon all of them are cut.

use std::io::{ErrorKind, PipeReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use integration::{
    Daemon, Envelope, LOAD_DEADLINE, Left, Process, Sniffer, probe, say, slowness, wait_until,
};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::Value;

const CONNECTIONS: usize = 10_000;

/// From the start of the `revoke` command, from the store that it comes down to, or from the time of expiry, to the last packet out.
/// In the kernel it is that store, or the comparison of a number with the clock; the rest is the time that a program takes to start and
/// to ask the daemon.
const SILENT_WITHIN: Duration = Duration::from_millis(10);

/// How often it may be measured.
const ATTEMPTS: usize = 6;

/// Where a command that changes nothing takes longer than this, one that does cannot show how soon it is in force: the machine is busy,
/// or the program was built without optimisation (2 ms with it, 5 ms without).
const IDLE_COMMAND: Duration = Duration::from_micros(4500);

/// The far ends of the connections, which read all there is.
struct Sink {
    listener: TcpListener,
    /// Connections that something has arrived on; that were reset; that ended in another way.
    heard: AtomicUsize,
    reset: AtomicUsize,
    ended: AtomicUsize,
    stop: AtomicBool,
}

impl Sink {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN).expect("it listens already");
        let [heard, reset, ended] = [const { AtomicUsize::new(0) }; 3];
        Self { listener, heard, reset, ended, stop: AtomicBool::new(false) }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    /// Until it is told to stop. In rounds: between two of them it leaves the processor to others.
    fn serve(&self) {
        let mut streams: Vec<(TcpStream, bool)> = Vec::new();
        self.listener.set_nonblocking(true).expect("every socket can be");
        let mut block = vec![0; 64 << 10];
        while !self.stop.load(Relaxed) {
            while let Ok((stream, _)) = self.listener.accept() {
                stream.set_nonblocking(true).expect("every socket can be");
                streams.push((stream, false));
            }
            streams.retain_mut(|(stream, heard)| match stream.read(&mut block) {
                Ok(1..) => {
                    self.heard.fetch_add(usize::from(!*heard), Relaxed);
                    *heard = true;
                    true
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.reset.fetch_add(1, Relaxed);
                    false
                }
                Ok(0) | Err(_) => {
                    self.ended.fetch_add(1, Relaxed);
                    false
                }
            });
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Stops a sink when the test is over, however it ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A session with all its connections open, each of which has sent something.
fn flood(daemon: &Daemon, agent: &str, ttl: &str, sink: &Sink) -> Process {
    let envelope = Envelope::of(agent).ttl(ttl).allow("sink", "127.0.0.10/32", "any", "tcp");
    let address = sink.listener.local_addr().expect("it is bound").to_string();
    let mut process = daemon.run(&envelope, &probe(&["flood", &CONNECTIONS.to_string(), &address]));
    assert_eq!(process.read_line(LOAD_DEADLINE), "ready");
    wait_until(LOAD_DEADLINE, "all connections move data", || {
        (sink.heard.load(Relaxed) == CONNECTIONS).then_some(())
    });
    process
}

/// Our ends of the connections. The session's are the session's own affair.
fn raise_limit() {
    let descriptors = CONNECTIONS as u64 + 1000;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).expect("as root");
}

fn since(start: SystemTime, time: SystemTime) -> f64 {
    time.duration_since(start).map_or_else(|early| -early.duration().as_secs_f64(), |time| time.as_secs_f64())
        * 1e3
}

/// Does it until the last packet leaves soon enough after what was to stop it, as often as it may be measured: a machine that shares
/// its processors takes one away for some milliseconds now and then, and that is not in every attempt.
#[track_caller]
fn expect_soon(attempt: impl Fn() -> Duration) {
    let mut late = Vec::new();
    while late.len() < ATTEMPTS {
        let time = attempt();
        if time <= SILENT_WITHIN || slowness() > 1 {
            return;
        }
        late.push(time);
    }
    panic!("the last packet left so long afterwards, time after time: {late:?}");
}

/// How long a command takes that asks the daemon for nothing: the shortest of a few.
fn idle_command(daemon: &Daemon) -> Duration {
    let times = (0..5).map(|_| {
        let mut revoke = daemon.layout().command(&["revoke", "01890000-0000-7000-8000-000000000000"]);
        let start = Instant::now();
        revoke.output().expect("the enforcer is executable");
        start.elapsed()
    });
    times.min().expect("there are some")
}

/// When a command begins to run. Before that, its process waits for a processor like everybody else; from then on it goes before others, as if
/// run by `nice --10`: the session takes all processors here, and how the kernel shares them out is not what is measured.
struct Beginning(PipeReader);

impl Beginning {
    fn of(command: &mut Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("there are descriptors");
        let begin = move || {
            // SAFETY: a system call that takes three numbers; 0 is the caller.
            if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (&writer).write_all(&time.as_nanos().to_ne_bytes())
        };
        // SAFETY: two system calls and a look at the clock: nothing is allocated, no lock is taken.
        unsafe { command.pre_exec(begin) };
        Self(reader)
    }

    fn time(mut self) -> SystemTime {
        let mut nanoseconds = [0; 16];
        self.0.read_exact(&mut nanoseconds).expect("it has begun");
        let nanoseconds = u64::try_from(u128::from_ne_bytes(nanoseconds)).expect("a time of today");
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
    }
}

fn time_of(text: &str) -> SystemTime {
    let time: jiff::Timestamp = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    SystemTime::from(time)
}

/// One after the other: each takes as many descriptors as a process may have.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn revocation_of_ten_thousand_busy_connections() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    raise_limit();
    expect_soon(revoke_ten_thousand);
}

/// From the command to the last packet; from the store, where the machine is too slow for the command to say anything.
fn revoke_ten_thousand() -> Duration {
    let daemon = Daemon::start();
    let sink = Sink::new();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&sink.stop);
        scope.spawn(|| sink.serve());
        let idle = idle_command(&daemon);
        let process = flood(&daemon, "flood", "1h", &sink);
        assert_eq!(daemon.counter("sockets_adopted"), 0, "all are the session's own");
        let id = daemon.session_id("flood");
        let mut revoke = daemon.layout().command(&["revoke", &id, "--format", "json"]);
        let beginning = Beginning::of(&mut revoke);
        let sniffer = Sniffer::of_tcp_data_to(sink.port());

        let asked = SystemTime::now();
        let output = revoke.output().expect("the enforcer is executable");
        let receipt_at = SystemTime::now();

        let Left { packets, last } = sniffer.left();
        let last = last.expect("they were busy");
        let start = beginning.time();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let receipt: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let sockets = &receipt["sockets"];
        let took_us = sockets["took_us"].as_u64().expect("a number");
        let revoked = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "session-revoked");
        // Written down when the store is done.
        let stored = time_of(revoked[0].text("/time"));
        say(&format!(
            "revoke: {CONNECTIONS} connections, {packets} packets meanwhile; from the command to the last packet \
             {:.2} ms (it began {:.2} ms after it was to), from the store {:.3} ms; to the receipt {:.0} ms, of that \
             destroying {} sockets {:.0} ms; the store took {} us; a command that does nothing {:.1} ms",
            since(start, last),
            since(asked, start),
            since(stored, last),
            since(start, receipt_at),
            sockets["destroyed"],
            took_us as f64 / 1e3,
            receipt["store_us"],
            idle.as_secs_f64() * 1e3,
        ));
        assert!(sockets["destroyed"].as_u64().expect("a number") >= CONNECTIONS as u64, "{receipt}");
        assert_eq!(sockets["left"], 0, "{receipt}");
        assert!(last <= receipt_at, "a packet left after the receipt");
        let lines = process.finish(LOAD_DEADLINE).success();
        let ends: Value = serde_json::from_str(&lines[0]).expect("the probe's report");
        assert_eq!(ends["ends"], serde_json::json!({ "ECONNABORTED": CONNECTIONS }), "each was told");
        wait_until(LOAD_DEADLINE, "every far end is told", || {
            (sink.reset.load(Relaxed) == CONNECTIONS).then_some(())
        });
        assert_eq!(sniffer.left(), Left::default(), "nothing has left since");
        assert_eq!(sink.ended.load(Relaxed), 0);
        let mut from = start;
        if idle > IDLE_COMMAND {
            say(&format!("skip: the time from the command: one that does nothing takes {idle:?} here"));
            from = stored;
        }
        last.duration_since(from).unwrap_or_default()
    })
}

#[test]
fn expiry_of_ten_thousand_busy_connections_without_a_daemon() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    raise_limit();
    expect_soon(expire_ten_thousand);
}

/// From the time of expiry to the last packet.
fn expire_ten_thousand() -> Duration {
    const TTL_SECONDS: u32 = 45;
    let mut daemon = Daemon::start();
    let sink = Sink::new();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&sink.stop);
        scope.spawn(|| sink.serve());
        let process = flood(&daemon, "flood", &format!("{}s", TTL_SECONDS * slowness()), &sink);
        let session = daemon.session("flood").expect("it is running");
        let expires = session["expires"].as_str().expect("a time is text");
        let expires = time_of(expires);
        daemon.kill9();
        let sniffer = Sniffer::of_tcp_data_to(sink.port());
        assert!(SystemTime::now() < expires, "this machine is slower than it says");

        let (mut packets, mut last) = (0, None);
        // For as long again as TCP waits before it sends again what is not acknowledged, and longer.
        while SystemTime::now() < expires + Duration::from_secs(2) {
            let left = sniffer.left();
            packets += left.packets;
            last = left.last.or(last);
            thread::sleep(Duration::from_millis(5));
        }
        let last = last.expect("they were busy");
        say(&format!(
            "expiry: {CONNECTIONS} connections, {packets} packets before; the last packet left {:.2} ms after the time",
            since(expires, last)
        ));
        assert!(last + Duration::from_secs(10) > expires, "they were busy until then");
        drop(process);
        daemon.restart();
        assert!(daemon.counter("packets_refused") > CONNECTIONS as u64 / 10, "they went on trying");
        last.duration_since(expires).unwrap_or_default()
    })
}
