//! How much a session may have of everything: to the last connection and byte, whatever races for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use integration::{
    DEADLINE, Daemon, Envelope, Event, Holder, LOAD_DEADLINE, probe, run_outside, totals, wait_until,
};

fn envelope(agent: &str) -> Envelope {
    Envelope::of(agent).allow("here", "127.0.0.10/32", "any", "any")
}

fn udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.10:0").expect("a port is free");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

fn tcp(holder: &mut Holder, name: &str) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.10:0").expect("a port is free");
    holder.connect(name, "tcp4", listener.local_addr().expect("it is bound"));
    let (stream, _) = listener.accept().expect("it is connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    stream
}

fn denies(agent: &str) -> impl Fn(&Event) -> bool {
    move |event| event.is_of(agent) && event.is_deny()
}

#[test]
fn connections_are_counted_exactly() {
    const THREADS: u64 = 64;
    const EACH: u64 = 32;
    const LIMIT: u64 = 1000;
    let (_server, address) = udp();
    let command = probe(&["race", &THREADS.to_string(), &EACH.to_string(), &address.to_string()]);
    let outside = run_outside(&command);
    assert_eq!(totals(&outside[0])("passed"), THREADS * EACH, "control");

    let daemon = Daemon::start();
    let limited = envelope("race").limit("connections", LIMIT);
    let lines = daemon.run(&limited, &command).finish(LOAD_DEADLINE).success();
    let count = totals(&lines[0]);
    assert_eq!([count("passed"), count("refused"), count("other")], [LIMIT, THREADS * EACH - LIMIT, 0]);
    let refused = (THREADS * EACH - LIMIT) as usize;
    let events = daemon.wait_for_events(refused, "the denies", denies("race"));
    assert_eq!(events.len(), refused);
    assert!(events.iter().all(|event| event.text("/reason") == "limit" && event.is_refused()));
}

#[test]
fn limit_counts_every_way_to_begin_and_no_other() {
    let daemon = Daemon::start();
    let (_server, address) = udp();
    let mut inside = daemon.hold(&envelope("ways").limit("connections", 4));
    let mut stream = tcp(&mut inside, "t");
    inside.connect("u", "udp4", address);
    inside.must("open v udp4");
    inside.must(&format!("send-to v {address} three"));
    // What is refused for another reason takes nothing.
    inside.must("open x udp4");
    inside.must_fail("connect x 127.0.0.20:9", &[libc::EPERM]);
    // What goes on over what is open takes nothing.
    for _ in 0..5 {
        inside.must("send t more");
        inside.must("send u more");
    }
    inside.must(&format!("connect x {address}"));
    inside.must_fail(&format!("connect x {address}"), &[libc::EPERM]);
    inside.must("open y tcp4");
    inside.must_fail("connect y 127.0.0.10:9", &[libc::EPERM]);
    inside.must("send t still");
    stream.read_exact(&mut [0; 25]).expect("what is open stays open");
    inside.end();
}

/// A burst may be had at once; then only what time gives.
#[test]
fn rate_is_kept_to() {
    const BURST: u64 = 20;
    /// Of `20/m`: one every three seconds.
    const INTERVAL: Duration = Duration::from_secs(3);
    let daemon = Daemon::start();
    let (_server, address) = udp();
    let mut inside = daemon.hold(&envelope("rate").limit("connectionRate", format!("{BURST}/m")));
    inside.must("open u udp4");
    // Measured around all attempts: whatever delays one of them only makes the time longer, and so the bound larger.
    let started = Instant::now();
    let [mut passed, mut refused] = [0u64; 2];
    let mut last_refused = false;
    while passed < BURST + 3 {
        match inside.ask(&format!("connect u {address}")).errno {
            0 => passed += 1,
            libc::EPERM => refused += 1,
            errno => panic!("connect: {errno}"),
        }
        let allowed = BURST + started.elapsed().as_nanos().div_ceil(INTERVAL.as_nanos()) as u64;
        assert!(passed <= allowed, "{passed} passed in {:?}", started.elapsed());
        assert!(started.elapsed() < DEADLINE, "time gives more: {passed} passed, {refused} refused");
        last_refused = passed >= BURST && (last_refused || refused > 0);
        if last_refused {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // The burst was used up, and then it had to wait at least for the rest.
    assert!(refused > 0 || started.elapsed() > INTERVAL * 3, "there is a limit");
    let reasons = daemon.wait_for_events(refused as usize, "the denies", denies("rate"));
    assert!(reasons.iter().all(|event| event.text("/reason") == "limit"));
    inside.end();
}

#[test]
fn bytes_out_stop_at_the_limit() {
    const LIMIT: u64 = 100_000;
    let daemon = Daemon::start();
    let (server, address) = udp();
    server.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let mut inside = daemon.hold(&envelope("out").limit("bytesOut", format!("{LIMIT}B")));
    inside.connect("u", "udp4", address);
    // IP and UDP headers count as well.
    let payload = "x".repeat(972);
    let full = LIMIT / 1000;
    for sent in 0..full {
        inside.must(&format!("send u {payload}"));
        assert_eq!(server.recv(&mut [0; 2000]).expect("it arrives"), 972, "{sent}");
    }
    inside.must_fail("send u x", &[libc::EPERM]);
    inside.must_fail(&format!("send u {payload}"), &[libc::EPERM]);
    server.set_nonblocking(true).expect("every socket can be");
    assert!(server.recv(&mut [0; 2000]).is_err(), "nothing more has arrived");
    let events = daemon.wait_for_events(1, "the deny", denies("out"));
    assert_eq!(events.len(), 1, "once for the socket");
    assert_eq!([events[0].text("/reason"), events[0].text("/operation")], ["limit", "packet-out"]);

    // More of it, and it goes on from where it was.
    daemon.apply(&envelope("out").revision(1).limit("bytesOut", format!("{}B", LIMIT + 1000)));
    inside.must(&format!("send u {payload}"));
    inside.must_fail("send u x", &[libc::EPERM]);
    inside.end();
}

#[test]
fn bytes_in_stop_at_the_limit() {
    const LIMIT: usize = 300_000;
    let daemon = Daemon::start();
    let mut inside = daemon.hold(&envelope("in").limit("bytesIn", format!("{LIMIT}B")));
    let mut far = tcp(&mut inside, "t");
    // The far end sends as fast as it can, more than may arrive.
    let writer = std::thread::spawn(move || {
        let block = vec![b'x'; 64 << 10];
        far.set_write_timeout(Some(Duration::from_millis(500))).expect("it is not zero");
        let mut sent = 0;
        while sent < 100 * LIMIT {
            match far.write(&block) {
                Ok(len) => sent += len,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "it is slow, not cut");
                    break;
                }
            }
        }
        (far, sent)
    });
    inside.must("patience t 1500");
    let mut taken = 0;
    loop {
        let answer = inside.ask("take-in t 1000");
        match answer.errno {
            0 => taken += answer.text.parse::<usize>().expect("a number"),
            libc::EAGAIN => break,
            errno => panic!("take-in: {errno} {}", answer.text),
        }
    }
    // What came of the last thousand is not counted here.
    let (_far, sent) = writer.join().expect("it does not panic");
    assert!(sent > LIMIT, "control: more was sent");
    assert!(taken <= LIMIT, "{taken} bytes arrived");
    assert!(taken > 0, "control: some arrived");
    let events = daemon.wait_for_events(1, "the deny", denies("in"));
    assert_eq!([events[0].text("/reason"), events[0].text("/operation")], ["limit", "packet-in"]);
    inside.end();
}

#[test]
fn what_was_used_is_remembered_by_the_kernel() {
    let mut daemon = Daemon::start();
    let (_server, address) = udp();
    let mut inside = daemon.hold(&envelope("kept").limit("connections", 3));
    inside.must("open u udp4");
    let connect = format!("connect u {address}");
    inside.must(&connect);
    daemon.kill9();
    inside.must(&connect);
    daemon.restart();
    inside.must(&connect);
    inside.must_fail(&connect, &[libc::EPERM]);
    let beyond = |event: &Event| denies("kept")(event) && event.text("/reason") == "limit";
    // What a killed daemon has read and not written down is a loss, which it declares.
    daemon.wait_for_events(1, "the deny is recorded", beyond);
    daemon.kill9();
    daemon.restart();
    inside.must_fail(&connect, &[libc::EPERM]);
    daemon.wait_for_events(2, "both denies are recorded", beyond);

    // A limit is the envelope's, what was used is the session's: those beyond the limit count as well.
    daemon.apply(&envelope("kept").revision(1).limit("connections", 1000));
    inside.must(&connect);
    // And one that is lower than what was used leaves nothing.
    daemon.apply(&envelope("kept").revision(2).limit("connections", 2));
    inside.must_fail(&connect, &[libc::EPERM]);
    daemon.apply(&envelope("kept").revision(3));
    inside.must(&connect);
    inside.end();
}

/// Another session of the same agent, even under the same text, has limits of its own.
#[test]
fn limits_are_those_of_one_session() {
    let daemon = Daemon::start();
    let (_server, address) = udp();
    let limited = envelope("each").limit("connections", 1);
    let mut holders = [daemon.hold(&limited), daemon.hold(&limited)];
    for holder in &mut holders {
        holder.must("open u udp4");
        holder.must(&format!("connect u {address}"));
        holder.must_fail(&format!("connect u {address}"), &[libc::EPERM]);
    }
    holders.into_iter().for_each(Holder::end);
    // A session that gets the same place later begins with nothing used.
    daemon.wait_idle();
    let mut next = daemon.hold(&limited);
    next.must("open u udp4");
    next.must(&format!("connect u {address}"));
    next.end();
}

#[test]
fn audit_mode_records_what_is_beyond_a_limit() {
    let daemon = Daemon::start();
    let (server, address) = udp();
    server.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let mut inside =
        daemon.hold(&envelope("audit").audit().limit("connections", 1).limit("bytesOut", "100B"));
    inside.must("open u udp4");
    inside.must(&format!("connect u {address}"));
    inside.must(&format!("connect u {address}"));
    let payload = "x".repeat(200);
    for _ in 0..3 {
        inside.must(&format!("send u {payload}"));
        assert_eq!(server.recv(&mut [0; 2000]).expect("it arrives"), 200);
    }
    let events = wait_until(DEADLINE, "both are recorded", || {
        let events: Vec<Event> = daemon.events().into_iter().filter(denies("audit")).collect();
        (events.len() >= 2).then_some(events)
    });
    assert!(events.iter().all(|event| event.text("/reason") == "limit" && !event.is_refused()));
    let mut operations: Vec<&str> = events.iter().map(|event| event.text("/operation")).collect();
    operations.sort_unstable();
    assert_eq!(operations, ["connect", "packet-out"], "each once");
    inside.end();
}
