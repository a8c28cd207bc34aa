//! What somebody may do to an audit log: each kind of change is found, at the right entry; and the same copy, untouched, is sound.

use std::collections::BTreeSet;
use std::fs;

use integration::{DEADLINE, Daemon, Envelope, LOAD_DEADLINE, Layout, LogCopy, RawSegment, wait_until};
use serde_json::Value;

/// Small, so that there are many.
const SEGMENT_BYTES: &str = "16384";

fn busy(daemon: &Daemon, times: u32) {
    let script = format!("i=0; while [ $i -lt {times} ]; do /bin/true; i=$((i+1)); done");
    daemon.run(&Envelope::of("busy"), &["sh", "-c", &script]).finish(DEADLINE).success();
}

/// A daemon with a log of many segments.
fn daemon_with_log(more: &[&str]) -> Daemon {
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.restart_with(&[&["--audit-segment", SEGMENT_BYTES][..], more].concat());
    busy(&daemon, 100);
    daemon
}

/// All is written and vouched for.
#[track_caller]
fn settled(daemon: &Daemon) -> LogCopy {
    wait_until(DEADLINE, "all is vouched for, and packed", || {
        let copy = LogCopy::of(daemon.layout());
        let verified = copy.expect_sound(daemon.layout());
        let segments = copy.segments();
        let packed = segments.iter().filter(|path| path.extension().is_some_and(|end| end == "zst")).count();
        let head: Value = serde_json::from_slice(&fs::read(copy.head()).expect("it is there")).expect("JSON");
        let is_last = head["sequence"] == verified["last"];
        (verified["unsigned_entries"] == 0 && is_last && packed + 1 == segments.len()).then_some(copy)
    })
}

/// A copy to do something to, and its segments, unpacked.
fn unpacked(copy: &LogCopy) -> (LogCopy, Vec<RawSegment>) {
    let copy = copy.again();
    let segments = copy.unpack();
    (copy, segments)
}

/// An event with an event behind it, and the place of the next checkpoint.
fn events_in(segment: &RawSegment) -> (usize, usize) {
    let is_event = |at: usize| segment.entries.get(at).is_some_and(|entry| entry.kind == 2);
    let at = (0..segment.entries.len()).find(|at| is_event(*at) && is_event(at + 1)).expect("two events");
    let next = segment.entries[at..].iter().position(|entry| entry.is_checkpoint()).expect("it ends in one");
    (at, at + next)
}

#[test]
fn every_kind_of_change_is_found_at_the_right_entry() {
    let daemon = daemon_with_log(&[]);
    let layout = daemon.layout();
    let early = settled(&daemon);
    busy(&daemon, 60);
    let mut sound = settled(&daemon);
    // A segment that has only just begun has no end that could be cut.
    while unpacked(&sound).1.last().is_none_or(|last| last.entries.is_empty()) {
        busy(&daemon, 1);
        sound = settled(&daemon);
    }
    assert!(sound.segments().len() >= 5, "{:?}", sound.segments());
    let (control, _) = unpacked(&sound);
    control.expect_sound(layout);
    let mut kinds = 0;
    // In the middle of a segment in the middle: what is done to it, and where it must be found.
    let mut change = |what: &str, change: &dyn Fn(&mut RawSegment, usize, usize) -> u64| {
        let (copy, mut segments) = unpacked(&sound);
        let segment = &mut segments[2];
        let (at, checkpoint) = events_in(segment);
        let expected = change(segment, at, checkpoint);
        segment.write();
        let (named, _) = copy.expect_finding(layout, what, expected);
        assert_eq!(Some(named.as_str()), segment.path.file_name().and_then(|name| name.to_str()), "{what}");
        kinds += 1;
    };
    change("an edited payload", &|segment, at, _| {
        edit(&mut segment.entries[at].payload);
        segment.entries[at].sequence
    });
    change("an edited payload, chained anew", &|segment, at, checkpoint| {
        edit(&mut segment.entries[at].payload);
        segment.rechain(at);
        segment.entries[checkpoint].sequence
    });
    change("an inserted entry", &|segment, at, _| {
        let entry = segment.entries[at].clone();
        segment.entries.insert(at, entry);
        segment.entries[at + 1].sequence + 1
    });
    change("an inserted entry, numbered and chained anew", &|segment, at, checkpoint| {
        let entry = segment.entries[at].clone();
        segment.entries.insert(at, entry);
        segment.entries[at + 1..].iter_mut().for_each(|entry| entry.sequence += 1);
        segment.rechain(at);
        segment.entries[checkpoint + 1].sequence
    });
    change("a deleted entry", &|segment, at, _| segment.entries.remove(at).sequence);
    change("a deleted entry, numbered and chained anew", &|segment, at, checkpoint| {
        segment.entries.remove(at);
        segment.entries[at..].iter_mut().for_each(|entry| entry.sequence -= 1);
        segment.rechain(at);
        segment.entries[checkpoint - 1].sequence
    });
    change("entries in another order", &|segment, at, _| {
        segment.entries.swap(at, at + 1);
        segment.entries[at + 1].sequence
    });
    change("a changed checkpoint", &|segment, _, checkpoint| {
        let entry = &mut segment.entries[checkpoint];
        let mut signed = entry.json();
        let statement = signed["statement"].as_str().expect("text").replace("\"time\":\"20", "\"time\":\"21");
        signed["statement"] = statement.into();
        entry.payload = serde_json::to_vec(&signed).expect("JSON");
        segment.rechain(checkpoint);
        segment.entries[checkpoint].sequence
    });
    change("a checkpoint with another signature", &|segment, at, checkpoint| {
        let other = segment.entries.iter().rposition(|entry| {
            entry.is_checkpoint() && entry.sequence != segment.entries[checkpoint].sequence
        });
        let signature = match other {
            Some(other) => segment.entries[other].json()["signature"].clone(),
            None => Value::Null,
        };
        assert!(checkpoint > at);
        let mut signed = segment.entries[checkpoint].json();
        signed["signature"] = signature;
        segment.entries[checkpoint].payload = serde_json::to_vec(&signed).expect("JSON");
        segment.rechain(checkpoint);
        segment.entries[checkpoint].sequence
    });
    change("an entry of another kind", &|segment, at, _| {
        segment.entries[at].kind = 4;
        segment.entries[at].sequence
    });
    change("a header that says something else", &|segment, _, _| {
        segment.header[120] ^= 1;
        segment.first()
    });
    change("a segment cut in the middle", &|segment, at, _| {
        segment.entries.truncate(at);
        segment.rest = b"half".to_vec();
        segment.entries.last().map_or(segment.first(), |entry| entry.sequence + 1)
    });

    // Files.
    let (copy, segments) = unpacked(&sound);
    fs::rename(&segments[1].path, copy.dir().join("x")).expect("it is ours");
    fs::rename(&segments[2].path, &segments[1].path).expect("it is ours");
    fs::rename(copy.dir().join("x"), &segments[2].path).expect("it is ours");
    copy.expect_finding(layout, "two segments in each other's place", segments[1].first());

    let (copy, segments) = unpacked(&sound);
    fs::remove_file(&segments[2].path).expect("it is ours");
    copy.expect_finding(layout, "a segment that is gone", segments[2].first());

    let (copy, segments) = unpacked(&sound);
    fs::remove_file(&segments[0].path).expect("it is ours");
    copy.expect_finding(layout, "the first segment is gone", 1);

    // The end.
    let (copy, mut segments) = unpacked(&sound);
    let last = segments.last_mut().expect("there are some");
    let gone = last.entries.pop().expect("the last checkpoint");
    assert!(gone.is_checkpoint(), "all was vouched for");
    last.write();
    copy.expect_finding(layout, "cut at an entry", gone.sequence);
    last.rest = gone.bytes()[..20].to_vec();
    last.write();
    copy.expect_finding(layout, "cut in an entry", gone.sequence);

    let copy = sound.again();
    early.replace_dir_of(&copy);
    let before = early.expect_sound(layout);
    let ends = before["last"].as_u64().expect("a number") + 1;
    copy.expect_finding(layout, "an older copy in its place", ends);
    // By what is kept elsewhere, too, where there is no head beside the log.
    fs::remove_file(copy.head()).expect("it is ours");
    copy.expect_sound(layout);
    let head = sound.head().display().to_string();
    let said = copy.verify_with(layout, &["--checkpoint", &head]);
    assert_eq!(said["finding"]["sequence"], ends, "{said}");
    let said = sound.verify_with(layout, &["--checkpoint", &early.head().display().to_string()]);
    assert_eq!(said["sound"], true, "control: {said}");

    // A byte of a packed one.
    let copy = sound.again();
    let packed = copy.segments()[2].clone();
    let mut bytes = fs::read(&packed).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&packed, bytes).expect("it is ours");
    let said = copy.verify(layout);
    let (_, segments) = unpacked(&sound);
    let found = said["finding"]["sequence"].as_u64().unwrap_or_else(|| panic!("a damaged segment: {said}"));
    assert!((segments[2].first()..=segments[3].first()).contains(&found), "{said}");
    assert_eq!(said["finding"]["segment"].as_str(), packed.file_name().and_then(|name| name.to_str()));

    // Another host.
    let other = daemon_with_log(&[]);
    let foreign = settled(&other);
    let (_, of_other) = unpacked(&foreign);
    let (copy, segments) = unpacked(&sound);
    fs::copy(&of_other[2].path, &segments[2].path).expect("it is ours");
    let (_, what) = copy.expect_finding(layout, "a segment of another host", segments[2].first());
    assert!(what.contains("another log"), "{what}");
    let (copy, mut segments) = unpacked(&sound);
    segments[2].entries = of_other[2].entries.clone();
    let first = segments[2].first();
    segments[2].entries.iter_mut().zip(first..).for_each(|(entry, sequence)| entry.sequence = sequence);
    segments[2].rechain(0);
    segments[2].write();
    let (_, what) = copy.expect_finding(layout, "entries of another host, chained anew", {
        first + segments[2].entries.iter().position(|entry| entry.is_checkpoint()).expect("one") as u64
    });
    assert!(what.contains("signed"), "{what}");

    // Another key: of the log as a whole, and of what it is compared with.
    let copy = sound.again();
    foreign.replace_dir_of(&copy);
    assert_eq!(copy.verify(layout)["sound"], false, "another log altogether");
    let key = foreign.key().display().to_string();
    let said = sound.verify_with(layout, &["--key", &key]);
    assert!(said["finding"]["what"].as_str().is_some_and(|what| what.contains("trusted")), "{said}");
    let (copy, mut segments) = unpacked(&sound);
    let mut begun = segments[0].entries[0].json();
    begun["key"] = fs::read_to_string(foreign.key()).expect("text").into();
    segments[0].entries[0].payload = serde_json::to_vec(&begun).expect("JSON");
    segments[0].rechain(0);
    segments[0].write();
    copy.expect_finding(layout, "another first key", 1);

    sound.expect_sound(layout);
    assert_eq!(kinds, 12);
}

/// Another digit, or letter, somewhere in its middle: it is JSON as before.
fn edit(payload: &mut [u8]) {
    let middle = payload.len() / 2;
    let at = (middle..payload.len()).find(|at| payload[*at].is_ascii_alphanumeric()).expect("text");
    payload[at] = if payload[at] == b'1' { b'2' } else { b'1' };
}

#[test]
fn what_was_removed_leaves_a_stub_that_counts() {
    let daemon = daemon_with_log(&["--audit-keep-bytes", "30000"]);
    let layout: &Layout = daemon.layout();
    let copy = wait_until(DEADLINE, "segments are removed", || {
        busy(&daemon, 100);
        let copy = settled(&daemon);
        copy.dir().join("removed.stub").exists().then_some(copy)
    });
    let said = copy.expect_sound(layout);
    let first = said["first"].as_u64().expect("a number");
    assert!(first > 1, "{said}");
    assert!(said["notes"].to_string().contains("were removed"), "{said}");
    let stub = copy.dir().join("removed.stub");
    let text = fs::read_to_string(&stub).expect("it is text");
    let change = |from: &str, to: &str| {
        let changed = copy.again();
        let text = text.replace(from, to);
        assert_ne!(text, fs::read_to_string(&stub).expect("it is text"), "{from}");
        fs::write(changed.dir().join("removed.stub"), text).expect("it is ours");
        let said = changed.verify(layout);
        assert_eq!(said["sound"], false, "{from}: {said}");
    };
    change("the log took more", "the log took less");
    change(&format!("\\\"last\\\":{}", first - 1), &format!("\\\"last\\\":{first}"));
    change("statement", "statements");
    let without = copy.again();
    fs::remove_file(without.dir().join("removed.stub")).expect("it is ours");
    without.expect_finding(layout, "no stub", 1);
    let less = copy.again();
    let oldest = less.segments()[0].clone();
    fs::remove_file(oldest).expect("it is ours");
    less.expect_finding(layout, "more is gone than the stub says", first);
    copy.expect_sound(layout);
}

/// No change is seen where there is none: by whoever reads while the daemon packs and removes what they are reading.
#[test]
fn a_log_is_sound_while_it_is_removed_from() {
    let daemon = daemon_with_log(&["--audit-keep-bytes", "30000"]);
    let layout: &Layout = daemon.layout();
    let script = "while :; do /bin/true; /bin/true; /bin/true; sleep 0.01; done";
    let worker = daemon.run(&Envelope::of("busy"), &["sh", "-c", script]);
    let mut firsts = BTreeSet::new();
    wait_until(LOAD_DEADLINE, "it was removed from often enough", || {
        let said = layout.outcome(&["audit", "verify", "--format", "json"]).success().join("\n");
        let said: Value = serde_json::from_str(&said).expect("it is JSON");
        assert_eq!(said["sound"], true, "{said}");
        firsts.insert(said["first"].as_u64());
        (firsts.len() >= 30).then_some(())
    });
    drop(worker);
    daemon.kill_sessions();
}

/// The daemon sees it when it starts, says so in the log and in an event, and runs.
#[test]
fn daemon_finds_an_older_copy_in_the_place_of_its_log() {
    let mut daemon = daemon_with_log(&[]);
    let early = settled(&daemon);
    busy(&daemon, 30);
    let late = settled(&daemon);
    daemon.stop();
    let state = daemon.layout().state_dir();
    for entry in fs::read_dir(state.join("audit")).expect("it is there") {
        fs::remove_file(entry.expect("it can be read").path()).expect("it is ours");
    }
    for path in
        fs::read_dir(early.dir()).expect("it is there").map(|entry| entry.expect("it can be read").path())
    {
        fs::copy(&path, state.join("audit").join(path.file_name().expect("a name")))
            .expect("it can be copied");
    }
    daemon.restart();
    let signs = daemon.wait_for_events(1, "it is said", |event| event.kind() == "tamper-sign");
    assert!(signs[0].text("/detail").contains("ends with"), "{:?}", signs[0]);
    assert_eq!(daemon.counter("fault_audit_tampered"), 1);
    busy(&daemon, 3);
    let ends = early.expect_sound(daemon.layout())["last"].as_u64().expect("a number");
    let now = wait_until(DEADLINE, "it is written", || {
        let copy = LogCopy::of(daemon.layout());
        (copy.verify(daemon.layout())["finding"]["sequence"] == ends + 2).then_some(copy)
    });
    let (_, what) = now.expect_finding(daemon.layout(), "what the daemon found", ends + 2);
    assert!(what.contains("a daemon found at its start"), "{what}");
    late.expect_sound(daemon.layout());
}
