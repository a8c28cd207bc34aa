//! What a daemon makes of pins and state that are not as it would have left them: never more access.

use std::fs;
use std::process::Command;

use integration::{
    DEADLINE, Daemon, Envelope, Event, Layout, Pair, Process, expect_nothing_slipped_through, fewer, probe,
    unique, wait_until,
};

/// Another parent cgroup is another configuration of the programs: they are replaced while a session makes connections.
/// The same happens when a new release brings other programs.
#[test]
fn nothing_slips_through_while_programs_are_replaced() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments();
    let mut daemon = Daemon::start();
    let other = format!("{}-other", daemon.layout().cgroup_dir().file_name().unwrap().display());
    let own = daemon.layout().cgroup_dir().file_name().unwrap().display().to_string();
    let envelope = Envelope::of("loop").allow_server("only", &pair.allowed);
    let process = daemon.run(&envelope, &probe(&["connect-loop", &allowed, &refused]));
    let id = daemon.session_id("loop");

    for replacement in 0..fewer(10, 2) {
        let before = program_ids(&daemon);
        daemon.kill9();
        daemon.restart_with(&["--cgroup-parent", if replacement % 2 == 0 { &other } else { &own }]);
        assert_eq!(daemon.status()["daemon"]["start"], "upgraded");
        let after = program_ids(&daemon);
        assert!(before.iter().all(|id| !after.contains(id)), "{before:?} and {after:?}");
        assert_eq!(daemon.session_id("loop"), id);
    }
    expect_nothing_slipped_through(process);
    assert_eq!(pair.refused.arrivals(), 0);
    daemon.wait_idle();
    assert_eq!(daemon.counter("tags_made"), daemon.counter("tags_removed"), "both sets count a process once");
    fs::remove_dir(daemon.layout().cgroup_dir().with_file_name(&other)).expect("it is empty");
}

#[test]
fn session_whose_file_is_gone_is_revoked() {
    let pair = Pair::v4("tcp");
    let [allowed, _] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = |name| Envelope::of(name).allow_server("only", &pair.allowed);
    let mut forgotten = daemon.converse(&envelope("forgotten"), &unique("forgotten"));
    let mut known = daemon.converse(&envelope("known"), &unique("known"));
    assert!(forgotten.attempt(&allowed) && known.attempt(&allowed), "reachable at first");

    let id = daemon.session_id("forgotten");
    daemon.kill9();
    fs::remove_file(daemon.layout().state_dir().join(format!("sessions/{id}.json")))
        .expect("it is kept there");
    daemon.restart();
    assert!(!forgotten.attempt(&allowed), "whose session it is, nobody can say any more");
    assert!(known.attempt(&allowed));
    daemon.wait_for_events(1, "the revocation is recorded", |event| event.kind() == "session-revoked");
    assert_eq!(daemon.session("forgotten"), None);
    forgotten.end();
    known.end();
    daemon.wait_idle();
}

#[test]
fn session_file_that_cannot_be_read_gives_nothing() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("torn").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("torn"));
    assert!(inside.attempt(&allowed), "reachable at first");
    let file = daemon.layout().state_dir().join(format!("sessions/{}.json", daemon.session_id("torn")));
    daemon.kill9();
    let text = fs::read_to_string(&file).expect("it is kept there");
    fs::write(&file, &text[..text.len() / 2]).expect("it is ours");
    daemon.restart();
    assert!(!inside.attempt(&allowed));
    assert!(!inside.attempt(&refused));
    inside.end();
    daemon.wait_idle();
}

/// What was in force and not written down, as it is where a daemon is killed in between.
#[test]
fn file_that_disagrees_with_the_kernel_gives_less_and_it_is_said() {
    let pair = Pair::v4("tcp");
    let allowed = format!("tcp/{}", pair.allowed.address());
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("torn").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("torn"));
    assert!(inside.attempt(&allowed), "reachable at first");
    let id = daemon.session_id("torn");
    let file = daemon.layout().state_dir().join(format!("sessions/{id}.json"));
    let before = fs::read_to_string(&file).expect("it is kept there");
    daemon.receipt(&["revoke", &id]);
    daemon.kill9();
    fs::write(&file, before).expect("it is ours");
    daemon.restart();
    assert!(!inside.attempt(&allowed));
    assert_eq!(daemon.session("torn").expect("it is running")["state"], "revoked");
    let said = daemon.wait_for_events(1, "it is said", |event| {
        event.is_of("torn")
            && event.find("/detail").is_some_and(|why| why.to_string().contains("its file says"))
    });
    assert_eq!(said[0].kind(), "session-revoked");
    inside.end();
    daemon.wait_idle();
}

/// A daemon of a release with another ABI must not guess: it refuses, and sessions stay as they are.
#[test]
fn pins_of_another_abi_are_refused_and_go_on_enforcing() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("abi").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("abi"));
    assert!(inside.attempt(&allowed), "reachable at first");
    daemon.kill9();

    let meta = read_map(daemon.layout(), "META");
    let mut other = meta.clone();
    other[0] = "0xfe".to_owned();
    write_map(daemon.layout(), "META", &other);
    let refusal = Process::spawn(daemon.layout().command(&["daemon"])).finish(DEADLINE);
    assert_eq!(refusal.status.code(), Some(3), "{}", refusal.stderr);
    assert!(
        refusal.stderr.contains("254") && refusal.stderr.contains("this build speaks"),
        "{}",
        refusal.stderr
    );
    assert!(refusal.stderr.contains("hint: "), "{}", refusal.stderr);
    assert!(inside.attempt(&allowed), "the session is as it was");
    assert!(!inside.attempt(&refused), "the session is as it was");

    write_map(daemon.layout(), "META", &meta);
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "adopted");
    inside.end();
    daemon.wait_idle();
}

/// A pin that somebody removed is put back, without a moment in which its hook does nothing.
#[test]
fn missing_link_is_noticed_and_replaced() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = Envelope::of("unpinned").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope, &unique("unpinned"));
    assert!(!inside.attempt(&refused));
    let pin = daemon.layout().pin_dir.join("links/egress_connect4");
    fs::remove_file(&pin).expect("root can do that");
    assert!(!inside.attempt(&refused), "the daemon holds the link as well");
    assert!(inside.attempt(&allowed));
    let status = Process::spawn(daemon.layout().command(&["status", "--format", "json"])).finish(DEADLINE);
    assert_eq!(status.status.code(), Some(1), "a hook is missing: {:?}", status.stdout);
    assert!(daemon.stop().success());
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "upgraded");
    assert!(pin.exists());
    assert!(!inside.attempt(&refused), "as soon as the daemon is there again");
    inside.end();
    daemon.wait_idle();
}

/// A start that was cut short before its set of pins was moved into place.
#[test]
fn half_made_pins_are_made_anew() {
    let layout = Layout::new();
    let staging = layout.pin_dir.with_file_name("enforcer-staging");
    fs::create_dir_all(staging.join("maps")).expect("the bpffs is ours");
    let daemon = Daemon::start_in(layout);
    assert_eq!(daemon.status()["daemon"]["start"], "fresh");
    wait_until(DEADLINE, "the staging directory is gone", || (!staging.exists()).then_some(()));
}

fn program_ids(daemon: &Daemon) -> Vec<u64> {
    let status = daemon.status();
    let coverage = status["coverage"].as_array().expect("a list");
    coverage.iter().filter_map(|hook| hook["program_id"].as_u64()).collect()
}

/// The bytes of the one value of an array map.
fn read_map(layout: &Layout, name: &str) -> Vec<String> {
    let pin = layout.pin_dir.join("maps").join(name);
    let mut command = bpftool();
    command.args(["--json", "map", "lookup", "pinned"]).arg(pin).args(["key", "0", "0", "0", "0"]);
    let found = Process::spawn(command).finish(DEADLINE).success().join("");
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let bytes = found["value"].as_array().expect("the bytes").iter();
    bytes.map(|byte| byte.as_str().expect("0x..").to_owned()).collect()
}

fn write_map(layout: &Layout, name: &str, bytes: &[String]) {
    let pin = layout.pin_dir.join("maps").join(name);
    let mut command = bpftool();
    command.args(["map", "update", "pinned"]).arg(pin).args(["key", "0", "0", "0", "0", "value"]).args(bytes);
    Process::spawn(command).finish(DEADLINE).success();
}

fn bpftool() -> Command {
    let mut command = Command::new("bpftool");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command
}

/// Root can detach a program and leave its pin. Nobody else may believe that it is in place.
#[test]
fn detached_program_is_noticed_and_replaced() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let envelope = || Envelope::of("detached").allow_server("only", &pair.allowed);
    let mut inside = daemon.converse(&envelope(), &unique("detached"));
    assert!(!inside.attempt(&refused));
    let mut detach = bpftool();
    detach.args(["link", "detach", "pinned"]).arg(daemon.layout().pin_dir.join("links/egress_connect4"));
    Process::spawn(detach).finish(DEADLINE).success();
    // The packet gate stands behind it; a program that sends over UDP is told so.
    let by_udp = refused.replace("tcp/", "udp-connect/");
    assert!(!inside.attempt(&by_udp));
    daemon.wait_for_events(1, "control: it is detached, and the packet gate is not", |event| {
        event.is_deny() && event.decision().operation == "packet-out"
    });

    let is_tamper = |event: &Event| event.kind() == "tamper-sign";
    let signs = daemon.wait_for_events(1, "it is noticed", is_tamper);
    assert!(signs[0].text("/detail").contains("detached cgroup/connect4"), "{signs:?}");
    let status = Process::spawn(daemon.layout().command(&["status"])).finish(DEADLINE);
    assert_eq!(status.status.code(), Some(1), "a hook is missing: {:?}", status.stdout);
    let more = daemon.run(&envelope(), &["true"]).finish(DEADLINE);
    assert_eq!(more.status.code(), Some(2), "no session is begun: {}", more.stderr);
    assert!(more.stderr.contains("egress_connect4"), "{}", more.stderr);
    assert!(daemon.stop().success());
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "upgraded");
    let signs = daemon.wait_for_events(2, "it is said that it is attached again", is_tamper);
    assert!(signs[1].text("/detail").contains("attached again"), "{signs:?}");
    assert!(!inside.attempt(&refused), "as soon as the daemon is there again");
    assert!(inside.attempt(&allowed));
    inside.end();
    daemon.wait_idle();
}

/// All links at once, directory and all.
#[test]
fn missing_links_are_all_replaced() {
    let pair = Pair::v4("tcp");
    let [_, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut daemon = Daemon::start();
    let mut inside = daemon.converse(&Envelope::of("unlinked"), &unique("unlinked"));
    assert!(!inside.attempt(&refused));
    assert!(daemon.stop().success());
    fs::remove_dir_all(daemon.layout().pin_dir.join("links")).expect("root can do that");
    // The kernel lets go of an unpinned link a little later.
    wait_until(DEADLINE, "nothing is attached: the control", || inside.attempt(&refused).then_some(()));
    daemon.restart();
    assert_eq!(daemon.status()["daemon"]["start"], "upgraded");
    assert!(!inside.attempt(&refused));
    inside.end();
    daemon.wait_idle();
}
