//! Packets that are refused again and again are told of together: how many, from when to when, and none is missing.

use std::net::{TcpListener, UdpSocket};

use integration::{DEADLINE, Daemon, Envelope, Event, Holder, LOAD_DEADLINE, say, slowness, wait_until};

fn again(event: &Event) -> bool {
    event.kind() == "egress-repeated"
}

fn count(event: &Event) -> u64 {
    event.at("/repeats/count").as_u64().expect("a number")
}

/// Nothing where a guard keeps sessions from taking sockets of others.
fn daemon() -> Option<Daemon> {
    let daemon = Daemon::start();
    if daemon.status()["guard"]["state"] == "active" {
        say("skip: what is refused again on a socket of somebody else's: the guard lets no session take one");
        return None;
    }
    Some(daemon)
}

/// Gives a session sockets that somebody else has made: the gate alone refuses what is sent on them.
fn give(daemon: &Daemon, helper: &mut Holder, inside: &mut Holder, names: &[&str]) {
    let mailbox = daemon.layout().file("mail").display().to_string();
    inside.must(&format!("mailbox {mailbox}"));
    for name in names {
        helper.must(&format!("give {name} {mailbox}"));
        inside.must(&format!("take {name}"));
    }
}

/// Waits until each packet that the kernel has refused is in a line. No packet may be in two.
#[track_caller]
fn all_refused(daemon: &Daemon) -> Vec<Event> {
    let mut seen = (0, 0);
    wait_until(LOAD_DEADLINE, "every refused packet is told of", || {
        let events = daemon.events();
        let first =
            events.iter().filter(|event| event.is_deny() && event.text("/operation").starts_with("packet"));
        let said = first.count() as u64 + events.iter().filter(|event| again(event)).map(count).sum::<u64>();
        seen = (said, daemon.counter("packets_refused"));
        assert!(seen.0 <= seen.1, "{seen:?}");
        (seen.0 == seen.1).then_some(events)
    })
}

#[test]
fn what_is_refused_again_is_counted_with_its_first_and_last_time() {
    let Some(daemon) = daemon() else { return };
    let far = UdpSocket::bind("127.0.0.20:0").expect("a port is free");
    let to = far.local_addr().expect("it is bound");
    let mut inside = daemon.hold(&Envelope::of("again"));
    let mut helper = Holder::outside();
    helper.connect("u", "udp4", to);
    give(&daemon, &mut helper, &mut inside, &["u"]);
    for _ in 0..200 {
        inside.must_fail("send u text", &[libc::EPERM]);
    }
    let first = daemon.wait_for_events(1, "the first", |event| event.is_of("again") && event.is_deny());
    assert_eq!(first.len(), 1);
    let events = all_refused(&daemon);
    let repeats: Vec<&Event> = events.iter().filter(|event| again(event)).collect();
    assert_eq!(repeats.iter().map(|event| count(event)).sum::<u64>(), 199);
    // A period is ten seconds, and the attempts may have been in two.
    let mut before = first[0].text("/time").to_owned();
    for event in &repeats {
        assert!(event.is_of("again") && event.is_refused());
        assert_eq!(event.decision().destination, to.to_string());
        assert_eq!(event.decision().reason, "no-rule");
        assert_eq!(event.text("/operation"), "packet-out");
        assert_eq!(event.at("/socket"), first[0].at("/socket"));
        assert_eq!(*event.at("/foreign"), true);
        assert_eq!(event.pid(), Some(inside.pid()));
        let (since, last) = (event.text("/repeats/since"), event.text("/time"));
        assert!(*before < *since && (since < last || count(event) == 1), "{before}, {since}, {last}");
        before = last.to_owned();
    }
    far.set_nonblocking(true).expect("every socket can be");
    assert!(far.recv(&mut [0; 8]).is_err(), "nothing has arrived");

    // It is a refusal to whoever asks for those.
    let found =
        daemon.layout().outcome(&["audit", "query", "--verdict", "deny", "--format", "json"]).success();
    assert!(found.iter().any(|line| line.contains("\"egress-repeated\"")), "{found:?}");
    helper.end();
    inside.end();
}

/// TCP sends again by itself, after the process is gone as well.
#[test]
fn what_tcp_sends_again_is_counted() {
    let Some(daemon) = daemon() else { return };
    let far = TcpListener::bind("127.0.0.20:0").expect("a port is free");
    let mut inside = daemon.hold(&Envelope::of("again"));
    let mut helper = Holder::outside();
    helper.connect("t", "tcp4", far.local_addr().expect("it is bound"));
    give(&daemon, &mut helper, &mut inside, &["t"]);
    inside.must("send t text");
    wait_until(DEADLINE, "it is sent again", || (daemon.counter("packets_refused") >= 4).then_some(()));
    // Its sockets are destroyed then, also those that it was given: nothing more is sent.
    daemon.receipt(&["revoke", &daemon.session_id("again")]);
    inside.end();
    helper.end();
    daemon.wait_idle();
    let events = all_refused(&daemon);
    let repeats: Vec<&Event> = events.iter().filter(|event| again(event)).collect();
    assert!(repeats.iter().map(|event| count(event)).sum::<u64>() >= 3, "{repeats:?}");
    assert!(repeats.iter().all(|event| event.is_of("again") && event.text("/protocol") == "tcp"));
}

#[test]
fn refusals_at_too_many_places_are_counted_together() {
    const MANY: u64 = 1_100;
    let Some(daemon) = daemon() else { return };
    let there = UdpSocket::bind("127.0.0.20:0").expect("a port is free");
    let there = there.local_addr().expect("it is bound");
    let mut inside = daemon.hold(&Envelope::of("again").allow_at("there", there));
    let mut helper = Holder::outside();
    helper.must("open u udp4");
    give(&daemon, &mut helper, &mut inside, &["u"]);
    // It is used once, and the session's from then on.
    inside.must(&format!("send-to u {there} text"));
    for at in 0..MANY {
        helper.must(&format!("connect u 127.1.{}.{}:9", at / 250, at % 250 + 1));
        for _ in 0..2 {
            helper.must_fail("send u text", &[libc::EPERM]);
        }
    }
    let events = all_refused(&daemon);
    let repeats = || events.iter().filter(|event| again(event));
    assert_eq!(repeats().map(count).sum::<u64>(), MANY);
    let together: Vec<&Event> = repeats().filter(|event| event.at("/destination").is_null()).collect();
    assert!(!together.is_empty() || slowness() > 1, "more than 512 within one period");
    for event in together {
        assert!(event.is_of("again") && event.is_refused());
        assert_eq!(event.text("/reason"), "several");
        assert!(event.text("/detail").contains("too many"));
    }
    assert_eq!(daemon.counter("fault_flow_store"), 0);
    helper.end();
    inside.end();
}
