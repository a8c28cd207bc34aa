//! What leaves for a session without any of its processes sending it on a socket of the session's own.

use std::fs;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use integration::{Actor, DEADLINE, Daemon, Envelope, NEVER, NetNs, Sniffer, arrives, far_end, scaled};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// What is not sent at once is sent from a timer, when no process is seen to use the socket: the peer has no part in it.
#[test]
#[ignore = "open: what a timer sends on a socket that was received, without the guard"]
fn what_is_held_back_on_a_received_socket_does_not_leave() {
    let mut found = Vec::new();
    for (command, ends) in [("send", false), ("more", false), ("more", true)] {
        let daemon = Daemon::start();
        let (listener, address) = far_end();
        let mailbox = daemon.layout().file("mailbox");
        let giver = UnixListener::bind(&mailbox).expect("the directory is ours");
        fs::set_permissions(&mailbox, fs::Permissions::from_mode(0o777)).expect("it is ours");
        let mut inside = daemon.act(&Envelope::of("receiver"));
        let given = TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("it is connected");
        inside.begin(&format!("take {}", mailbox.display()));
        let (taker, _) = giver.accept().expect("it connects");
        let fds = [given.as_raw_fd()];
        let message = ControlMessage::ScmRights(&fds);
        let text = [std::io::IoSlice::new(b"x")];
        sendmsg::<()>(taker.as_raw_fd(), &text, &[message], MsgFlags::empty(), None)
            .expect("it is connected");
        assert_eq!(inside.answer(DEADLINE), "ok");
        if ends {
            // The last who has it open: its end sends what is still to be sent, from a process that has no tag any more.
            drop(given);
            inside.begin("last secret");
            inside.finish().success();
        } else {
            inside.must(&format!("{command} secret"));
        }
        let arrived = arrives(&stream);
        found.extend((!arrived.is_empty()).then_some((command, ends)));
    }
    assert!(found.is_empty(), "left, by command and whether the process has ended: {found:?}");
}

/// Joining a multicast group makes the kernel tell the network which sources are wanted: in a packet that is no socket's of the
/// session.
#[test]
fn multicast_report_carries_nothing_of_a_session() {
    let daemon = Daemon::start();
    let run = || {
        for arguments in ["link add out type veth peer name far", "link set far up", "link set out up"] {
            let done = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
            assert!(done.success(), "ip {arguments}");
        }
        let sniffer = Sniffer::of_everything();
        // Different texts: what the kernel reports when a group is left has them as well.
        let seen = |mut actor: Actor, text: &str, answer: &str, within: Duration| {
            assert_eq!(actor.ask(&format!("join out {text}")), answer);
            let seen = sees(&sniffer, text, within);
            actor.finish().success();
            seen
        };
        assert!(seen(Actor::outside(), "weather-report!", "ok", DEADLINE), "without a session it gets out");
        let refused = libc::EPERM.to_string();
        seen(daemon.act(&Envelope::of("air-gapped")), "customer-ledger", &refused, NEVER)
    };
    let got_out = NetNs::new().inside(run);
    assert!(!got_out, "the text left in a report");
}

/// Whether a text leaves, for which the kernel takes its time.
fn sees(sniffer: &Sniffer, text: &str, within: Duration) -> bool {
    let end = Instant::now() + scaled(within);
    while Instant::now() < end {
        if sniffer.left_with(text) > 0 {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// A process without a tag in a session's cgroup is refused everything: on a socket that it has connected before, too.
#[test]
fn untagged_process_sends_nothing_on_a_socket_that_it_brings() {
    let daemon = Daemon::start();
    let (listener, address) = far_end();
    let inside = daemon.act(&Envelope::of("home"));
    let cgroup = daemon.session_cgroup("home");
    let mut untagged = Actor::outside();
    untagged.must(&format!("connect {address}"));
    let (stream, _) = listener.accept().expect("it is connected");
    fs::write(cgroup.join("cgroup.procs"), untagged.pid().to_string()).expect("it is there");
    untagged.must_be_refused(&format!("connect {address}"), "in the session's cgroup, without its tag");
    untagged.must("send secret");
    let arrived = arrives(&stream);
    untagged.finish().success();
    inside.finish().success();
    assert!(arrived.is_empty(), "{:?}", String::from_utf8_lossy(&arrived));
}
