//! Made-up streams.

mod bounds;

use std::net::IpAddr;

use super::{episode::MOST_EVIDENCE, *};
use crate::document::DocumentError;

const SECOND: u64 = 1_000_000_000;
const AGENT: &str = "agent";

fn settings(spec: &str) -> Settings {
    let text = format!("apiVersion: enforcer/v1\nkind: Detections\nspec: {spec}\n");
    Settings::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {spec}"))
}

/// Learns nothing: everything is new from the first event on.
const AT_ONCE: &str = "learning: {sessions: 0, time: 0s}";

fn detector(spec: &str) -> Detector {
    Detector::new(settings(&format!("{{{spec}}}")), std::iter::empty())
}

/// So many ns after the host was started.
fn at(boot_ns: u64) -> Moment {
    Moment {
        boot_ns,
        time: Timestamp::from_nanosecond(1_795_000_000_000_000_000 + i128::from(boot_ns)).unwrap(),
    }
}

fn session(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn to(port: u16) -> Endpoint {
    Endpoint { protocol: 6, address: IpAddr::from([192, 0, 2, 1]), port }
}

/// A stream of one session's events, numbered from 1.
struct Stream {
    detector: Detector,
    last: u64,
}

impl Stream {
    fn new(spec: &str) -> Self {
        Self { detector: detector(spec), last: 0 }
    }

    fn see(&mut self, boot_ns: u64, deed: Deed<'_>) -> Vec<Finding> {
        self.last += 1;
        let seen = Seen { sequence: Some(self.last), at: at(boot_ns), by: Some((session(1), AGENT)) };
        self.detector.see(&seen, &deed)
    }

    /// So many, so far apart.
    fn refuse(&mut self, count: u64, from_ns: u64, step_ns: u64) -> Vec<Finding> {
        (0..count).flat_map(|n| self.see(from_ns + n * step_ns, Deed::Refused)).collect()
    }
}

fn names(findings: &[Finding]) -> Vec<(Detection, Phase, u64)> {
    findings.iter().map(|finding| (finding.detection, finding.phase, finding.count)).collect()
}

#[test]
fn a_burst_is_told_of_once_and_when_it_is_over() {
    use Detection::RefusalBurst;
    let mut stream = Stream::new("refusalBurst: {refusals: 5, within: 10s}");
    assert_eq!(stream.refuse(4, 0, SECOND), [], "not yet");
    let begun = stream.refuse(1, 4 * SECOND, 0);
    assert_eq!(names(&begun), [(RefusalBurst, Phase::New, 5)]);
    assert_eq!(begun[0].evidence.iter().map(|it| it.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!((begun[0].first, begun[0].last), (at(0).time, at(4 * SECOND).time));
    assert!(begun[0].is_grave && begun[0].session == Some(session(1)));
    assert_eq!(stream.refuse(100, 5 * SECOND, SECOND), [], "it goes on");
    // Of the last ten seconds there are still enough.
    assert_eq!(stream.detector.pass_time(110 * SECOND), []);
    let over = stream.detector.pass_time(112 * SECOND + 1);
    assert_eq!(names(&over), [(RefusalBurst, Phase::Over, 105)]);
    assert_eq!((&over[0].id, over[0].is_grave), (&begun[0].id, false));
    assert_eq!(over[0].evidence.len(), MOST_EVIDENCE);
    assert_eq!(over[0].evidence.last().map(|it| it.sequence), Some(105));
    // What was counted is not counted again.
    assert_eq!(stream.refuse(4, 113 * SECOND, 0), []);
    let again = stream.refuse(1, 113 * SECOND, 0);
    assert_eq!(names(&again), [(RefusalBurst, Phase::New, 5)]);
    assert_ne!(again[0].id, begun[0].id);
    let end = stream.detector.end_session(session(1), Some(AGENT));
    assert_eq!(names(&end), [(RefusalBurst, Phase::Over, 5)], "at the end of the session at the latest");
    assert_eq!(stream.detector.end_session(session(1), Some(AGENT)), []);
}

#[test]
fn slow_refusals_and_those_of_several_sessions_are_no_burst() {
    let mut stream = Stream::new("refusalBurst: {refusals: 5, within: 10s}");
    assert_eq!(stream.refuse(1000, 0, 3 * SECOND), []);
    let mut detector = detector("refusalBurst: {refusals: 5, within: 10s}");
    for number in 0..100 {
        let seen = Seen { sequence: Some(1), at: at(1), by: Some((session(number), AGENT)) };
        assert_eq!(detector.see(&seen, &Deed::Refused), []);
    }
}

/// Without the daemon's ticks, an event that comes late enough ends what was before it.
#[test]
fn the_time_of_events_ends_a_burst() {
    let mut stream = Stream::new("refusalBurst: {refusals: 2, within: 1s}");
    assert_eq!(stream.refuse(2, 0, 0).len(), 1);
    let late = stream.refuse(1, 60 * SECOND, 0);
    assert_eq!(names(&late), [(Detection::RefusalBurst, Phase::Over, 2)]);
}

#[test]
fn events_that_were_not_written_are_counted_and_not_named() {
    let mut detector = detector("refusalBurst: {refusals: 3, within: 10s}");
    let mut findings = Vec::new();
    for sequence in [Some(7), None, Some(9)] {
        let seen = Seen { sequence, at: at(1), by: Some((session(1), AGENT)) };
        findings.extend(detector.see(&seen, &Deed::Refused));
    }
    assert_eq!(findings[0].count, 3);
    assert_eq!(findings[0].evidence.iter().map(|it| it.sequence).collect::<Vec<_>>(), [7, 9]);
}

#[test]
fn numbers_that_were_given_again_are_not_named() {
    let mut stream = Stream::new("refusalBurst: {refusals: 4, within: 10s}");
    stream.refuse(3, 0, 1);
    // The second and the third did not get into the file.
    stream.detector.forget_numbers(1);
    stream.last = 1;
    let begun = stream.refuse(1, 3, 0);
    assert_eq!((begun[0].count, begun[0].evidence.len()), (4, 2));
    assert_eq!(
        begun[0].evidence.iter().map(|it| (it.sequence, it.time)).collect::<Vec<_>>(),
        [(1, at(0).time), (2, at(3).time)]
    );
}

#[test]
fn what_is_new_is_told_of_once_after_learning() {
    use Detection::{NewDestination, NewExecutable};
    let hour = 3600 * SECOND;
    let mut stream = Stream::new("learning: {sessions: 2, time: 24h, atMost: 7d}");
    let run =
        |stream: &mut Stream, at_ns, path: &str| stream.see(at_ns, Deed::Executed { path, sha256: None });
    assert_eq!(run(&mut stream, 0, "/bin/sh"), []);
    assert_eq!(stream.see(0, Deed::Reached(to(443))), []);
    assert_eq!(run(&mut stream, 25 * hour, "/bin/ls"), [], "no session has ended yet");
    stream.detector.end_session(session(1), Some(AGENT));
    stream.detector.end_session(session(1), Some(AGENT));
    assert_eq!(run(&mut stream, 26 * hour, "/bin/sh"), [], "known");
    let found = run(&mut stream, 26 * hour, "/bin/nc");
    assert_eq!(names(&found), [(NewExecutable, Phase::New, 1)]);
    assert_eq!(found[0].subject.as_deref(), Some("/bin/nc"));
    assert_eq!(run(&mut stream, 26 * hour, "/bin/nc"), [], "it is known from then on");
    let found = stream.see(26 * hour, Deed::Reached(to(444)));
    assert_eq!(names(&found), [(NewDestination, Phase::New, 1)]);
    assert_eq!(found[0].subject.as_deref(), Some("tcp 192.0.2.1:444"));
    let udp = Endpoint { protocol: 17, ..to(443) };
    assert_eq!(stream.see(26 * hour, Deed::Reached(udp)).len(), 1, "the protocol counts");
    assert_eq!(stream.see(26 * hour, Deed::Reached(to(443))), []);
}

#[test]
fn learning_takes_as_long_as_it_says() {
    let hour = 3600 * SECOND;
    for (sessions, after, is_over) in [
        (0, 1, false),
        (3, 1, false),
        (2, 30, false),
        (3, 24, true),
        (0, 7 * 24 - 1, false),
        (0, 7 * 24, true),
    ] {
        let mut stream = Stream::new("");
        stream.see(0, Deed::Reached(to(1)));
        for _ in 0..sessions {
            stream.detector.end_session(session(1), Some(AGENT));
        }
        let found = stream.see(after * hour, Deed::Reached(to(2)));
        assert_eq!(!found.is_empty(), is_over, "{sessions} sessions, {after} hours");
    }
}

#[test]
fn content_counts_where_it_is_known() {
    let mut stream = Stream::new(AT_ONCE);
    let [one, two] = ["11", "22"].map(|byte| byte.repeat(32));
    for (sha256, is_new) in [
        (None, true),
        (Some(&one), false),
        (Some(&one), false),
        (None, false),
        (Some(&two), true),
        (Some(&two), false),
    ] {
        let sha256 = sha256.map(String::as_str);
        let found = stream.see(0, Deed::Executed { path: "/bin/a", sha256 });
        assert_eq!(!found.is_empty(), is_new, "{sha256:?}");
    }
}

#[test]
fn a_full_baseline_is_said_and_then_counted() {
    let spec = "learning: {sessions: 9, time: 24h}, newDestination: {remember: 3}";
    let mut stream = Stream::new(spec);
    for port in 1..=3 {
        assert_eq!(stream.see(0, Deed::Reached(to(port))), []);
    }
    // Though it is still learning.
    let full = stream.see(SECOND, Deed::Reached(to(4)));
    assert_eq!(names(&full), [(Detection::NewDestination, Phase::New, 1)]);
    assert!(full[0].title.contains("full") && !full[0].is_grave, "{}", full[0].title);
    for port in 5..100 {
        assert_eq!(stream.see(2 * SECOND, Deed::Reached(to(port))), []);
    }
    assert_eq!(stream.see(2 * SECOND, Deed::Reached(to(1))), [], "known");
    let over = stream.detector.pass_time(100 * SECOND);
    assert_eq!(names(&over), [(Detection::NewDestination, Phase::Over, 96)]);
    assert_eq!(over[0].session, Some(session(1)));
    assert_eq!(stream.detector.unremembered(), 96);
}

#[test]
fn agents_without_a_place_are_said_once_and_counted() {
    let mut detector = detector(AT_ONCE);
    let mut reach = |agent: u32, port: u16| {
        let agent = format!("agent-{agent}");
        let seen = Seen { sequence: Some(1), at: at(0), by: Some((session(1), &agent)) };
        let found = detector.see(&seen, &Deed::Reached(to(port))).len();
        (found, detector.take_complaint().is_some())
    };
    for agent in 0..256 {
        assert_eq!(reach(agent, 1), (1, false));
    }
    assert_eq!([reach(256, 1), reach(257, 1), reach(257, 2)], [(0, true), (0, false), (0, false)]);
    assert_eq!(reach(0, 2), (1, false), "who has a place keeps it");
    assert_eq!(detector.left_out(), 3);
}

#[test]
fn signs_are_told_of_once_for_each_session_and_kind() {
    use Detection::{EscapeSign, TamperSign};
    let mut stream = Stream::new("escapeSign: {quiet: 60s}");
    let first = stream.see(0, Deed::Escape("it was moved"));
    assert_eq!(names(&first), [(EscapeSign, Phase::New, 1)]);
    assert!(first[0].title.ends_with("it was moved"));
    assert_eq!(stream.see(SECOND, Deed::Escape("again")), []);
    assert_eq!(names(&stream.see(SECOND, Deed::Tamper("x"))), [(TamperSign, Phase::New, 1)]);
    let mut over = stream.detector.pass_time(62 * SECOND);
    over.sort_by_key(|finding| finding.detection);
    // Of a single one, all was said.
    assert_eq!(names(&over), [(EscapeSign, Phase::Over, 2)]);
    let seen = Seen { sequence: Some(1), at: at(0), by: None };
    let of_host = stream.detector.see(&seen, &Deed::Tamper("the audit log"));
    assert_eq!((names(&of_host), of_host[0].session), (vec![(TamperSign, Phase::New, 1)], None));
    assert!(!of_host[0].is_grave, "nobody is to be put in quarantine for it");
}

#[test]
fn a_limit_is_told_of_once() {
    let mut stream = Stream::new("");
    for (limit, is_new) in
        [("bytesOut", true), ("bytesOut", false), ("connections", true), ("bytesOut", false)]
    {
        let found = stream.see(0, Deed::Limit(limit));
        assert_eq!(!found.is_empty(), is_new, "{limit}");
        assert!(found.iter().all(|finding| !finding.is_grave && finding.subject.as_deref() == Some(limit)));
    }
    assert!(stream.detector.pass_time(1_000_000 * SECOND).is_empty());
    assert_eq!(stream.see(0, Deed::Limit("bytesOut")), [], "for as long as the session lasts");
}

#[test]
fn what_is_off_is_not_found() {
    let off =
        "refusalBurst: {enabled: false}, newExecutable: {enabled: false}, newDestination: {enabled: false},
        escapeSign: {enabled: false}, tamperSign: {enabled: false}, limitReached: {enabled: false}";
    let mut stream = Stream::new(&format!("{AT_ONCE}, {off}"));
    assert!(!stream.detector.finds_deeds());
    let executed = Deed::Executed { path: "/bin/sh", sha256: None };
    for _ in 0..100 {
        for deed in [
            Deed::Refused,
            executed,
            Deed::Reached(to(1)),
            Deed::Escape(""),
            Deed::Tamper(""),
            Deed::Limit("x"),
        ] {
            assert_eq!(stream.see(0, deed), []);
        }
    }
    assert!(Stream::new("").detector.finds_deeds());
}

#[test]
fn settings_that_are_wrong_are_refused_with_their_place() {
    for (spec, expect) in [
        ("{refusalBurst: {refusals: 1}}", "2 to 1000"),
        ("{refusalBurst: {refusals: 1001}}", "2 to 1000"),
        ("{refusalBurst: {refusals: x}}", ""),
        ("{refusalBurst: {within: 0s}}", "1s to 365d"),
        ("{refusalBurst: {within: 10}}", "1s to 365d"),
        ("{refusalBurst: {within: 10 s}}", "1s to 365d"),
        ("{refusalBurst: {within: 99999999999999999999s}}", "1s to 365d"),
        ("{refusalBurst: {enabled: maybe}}", ""),
        ("{refusalBurst: {often: 1}}", "often"),
        ("{newExecutable: {remember: 0}}", "1 to 10000"),
        ("{refusalBursts: {}}", "refusalBursts"),
    ] {
        let text = format!("apiVersion: enforcer/v1\nkind: Detections\nspec: {spec}\n");
        let Err(SettingsError::Document(DocumentError::Yaml(said))) = Settings::parse(text.as_bytes()) else {
            panic!("accepted: {spec}")
        };
        assert!(said.contains(expect) && said.contains("line 3"), "{spec}: {said}");
    }
    let parse = |text: &str| Settings::parse(text.as_bytes());
    let head = "apiVersion: enforcer/v1\nkind:";
    assert!(matches!(
        parse(&format!("{head} Sinks\n")),
        Err(SettingsError::Document(DocumentError::Kind { .. }))
    ));
    assert!(matches!(
        parse(&format!("{head} Detections\nspec: {{learning: {{time: 8d}}}}\n")),
        Err(SettingsError::Learning)
    ));
    assert_eq!(parse(&format!("{head} Detections\n")).unwrap(), Settings::default());
}

#[test]
fn a_baseline_survives_being_written() {
    let mut stream = Stream::new("");
    stream.see(0, Deed::Executed { path: "/bin/sh \u{1b}\"", sha256: Some(&"ab".repeat(32)) });
    stream.see(0, Deed::Executed { path: "/bin/ls", sha256: None });
    let six = Endpoint { protocol: 17, address: "2001:db8::1".parse().unwrap(), port: 53 };
    stream.see(0, Deed::Reached(six));
    stream.see(0, Deed::Reached(Endpoint { protocol: 1, port: 0, ..to(0) }));
    stream.detector.end_session(session(1), Some(AGENT));
    let written = stream.detector.take_unsaved(9);
    let [(agent, text)] = &written[..] else { panic!("one agent") };
    assert_eq!(stream.detector.take_unsaved(9), [], "it was taken");
    let read = Baseline::parse(text, agent).unwrap();
    assert_eq!(read.write(agent), *text);
    // What is known is still known to the next daemon.
    let mut next = Detector::new(settings(&format!("{{{AT_ONCE}}}")), [(agent.clone(), read)].into_iter());
    let seen = Seen { sequence: None, at: at(0), by: Some((session(2), AGENT)) };
    assert_eq!(next.see(&seen, &Deed::Reached(six)), []);
    assert_eq!(next.see(&seen, &Deed::Executed { path: "/bin/ls", sha256: None }), []);
    assert_eq!(next.see(&seen, &Deed::Executed { path: "/bin/cat", sha256: None }).len(), 1);
    stream.detector.keep_unsaved(AGENT);
    assert_eq!(stream.detector.take_unsaved(9), written, "again, if it could not be written");
    assert!(Baseline::parse(text, "other").is_err());
    for changed in [
        text.replace("/bin/ls", "/bin/nc"),
        text.trim_end().to_owned(),
        text[..text.len() / 2].to_owned(),
        String::new(),
        "garbage\n".to_owned(),
    ] {
        assert!(Baseline::parse(&changed, agent).is_err(), "{changed}");
    }
}
