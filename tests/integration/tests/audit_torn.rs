//! What a crash leaves of the audit log: whatever byte it ends with, `verify` says what is there; and a daemon that is killed loses no more
//! than it had not written yet, and the next one says which events these were.

use std::collections::BTreeSet;
use std::fs;
use std::time::SystemTime;

use integration::{DEADLINE, Daemon, Envelope, LogCopy, Process, RawSegment, fewer, say, wait_until};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const SEED: &str = "ENFORCER_TEST_SEED";
/// What is declared: so many entries, or a second.
const WINDOW_ENTRIES: usize = 1024;
const WINDOW: SignedDuration = SignedDuration::from_secs(1);

/// Xorshift: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_nanos() as u64;
        let seed = std::env::var(SEED).map_or_else(|_| clock(), |text| text.parse().expect("a number"));
        say(&format!("{SEED}={seed}"));
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

fn busy_command() -> [&'static str; 3] {
    // Some hundred events a second: a test of every byte of the log is not one of how fast it is written.
    ["sh", "-c", "while :; do /bin/true; /bin/true; /bin/true; sleep 0.01; done"]
}

#[test]
fn log_may_end_with_any_byte() {
    let mut daemon = Daemon::start();
    daemon.stop();
    daemon.restart_with(&["--audit-segment", "32768"]);
    let worker = daemon.run(&Envelope::of("busy"), &busy_command());
    wait_until(DEADLINE, "there is something", || (daemon.counter("audit_entries") > 300).then_some(()));
    // So that some of it is not vouched for.
    daemon.kill9();
    drop(worker);
    let copy = LogCopy::of(daemon.layout());
    let segments = copy.unpack();
    let sound = copy.expect_sound(daemon.layout());
    assert!(segments.len() > 3, "{} segments", segments.len());
    // Killed between two writes, the log has one checkpoint more than is written down beside it.
    let head: Value = serde_json::from_slice(&fs::read(copy.head()).expect("it is there")).expect("JSON");
    let vouched = head["sequence"].as_u64().expect("a number");
    assert!(sound["checkpoint"]["sequence"].as_u64() >= Some(vouched), "{sound}");
    let mut entries = segments.iter().flat_map(|segment| &segment.entries);
    let first_vouched = entries.find(|entry| entry.is_checkpoint()).expect("there is one").sequence;
    let mut dice = Dice::new();
    for _ in 0..fewer(500, 50) {
        let which = dice.below(segments.len());
        let bytes = segments[which].bytes();
        let cut = 128 + dice.below(bytes.len() - 128);
        for segment in &segments[which + 1..] {
            fs::remove_file(&segment.path).expect("it is ours");
        }
        let garbage: Vec<u8> = (0..dice.below(3) * dice.below(200)).map(|_| dice.below(256) as u8).collect();
        fs::write(&segments[which].path, [&bytes[..cut], &garbage].concat()).expect("it is ours");
        check(&daemon, &copy, &segments[which], cut, &garbage, [first_vouched, vouched]);
        segments[which..].iter().for_each(RawSegment::write);
    }
    assert_eq!(copy.expect_sound(daemon.layout())["last"], sound["last"], "as before");
}

#[track_caller]
fn check(
    daemon: &Daemon,
    copy: &LogCopy,
    segment: &RawSegment,
    cut: usize,
    garbage: &[u8],
    [first_vouched, vouched]: [u64; 2],
) {
    let what = format!("cut at {cut} of {}, and {} bytes more", segment.path.display(), garbage.len());
    // By the test's own reading.
    let (mut end, mut last) = (128, segment.first() - 1);
    for entry in &segment.entries {
        if end + entry.bytes().len() > cut {
            break;
        }
        end += entry.bytes().len();
        last = entry.sequence;
    }
    let with_head = copy.verify(daemon.layout());
    let hidden = copy.head().with_extension("hidden");
    fs::rename(copy.head(), &hidden).expect("it is ours");
    let alone = copy.verify(daemon.layout());
    fs::rename(&hidden, copy.head()).expect("it is ours");
    for said in [&with_head, &alone] {
        // Of the first segment with nothing in it, nothing is known.
        assert_eq!(said["last"].as_u64(), Some(last), "{what}: {said}");
    }
    let expected = last >= vouched && alone["sound"] == true;
    assert_eq!(with_head["sound"], expected, "{what}: {with_head}");
    if last < vouched {
        assert_eq!(with_head["finding"]["sequence"], last + 1, "{what}: {with_head}");
    }
    if last < first_vouched {
        // Not even the first entries are signed.
        assert_eq!(alone["sound"], false, "{what}: {alone}");
    } else if garbage.is_empty() {
        assert_eq!(alone["sound"], true, "{what}: {alone}");
        assert_eq!(alone["torn_bytes"], cut - end, "{what}: {alone}");
    } else if alone["sound"] == true {
        let torn = alone["torn_bytes"].as_u64().expect("a number");
        assert_eq!(torn as usize, cut + garbage.len() - end, "{what}: {alone}");
    } else {
        assert_eq!(alone["finding"]["sequence"], last + 1, "{what}: {alone}");
    }
}

fn sequences(events: impl IntoIterator<Item = Value>) -> BTreeSet<u64> {
    events.into_iter().map(|event| event["sequence"].as_u64().expect("a number")).collect()
}

/// The events in the log, those that it says are missing, and the bytes that daemons said that they had cut.
fn logged(copy: &LogCopy) -> (BTreeSet<u64>, BTreeSet<u64>, u64) {
    let (mut events, mut lost, mut cut) = (BTreeSet::new(), BTreeSet::new(), 0);
    for entry in copy.segments().iter().flat_map(|path| RawSegment::read(path).entries) {
        match entry.kind {
            2 => events.extend(sequences([entry.json()])),
            5 => {
                let said = entry.json();
                let number = |name: &str| said[name].as_u64().expect("a number");
                lost.extend(number("first")..=number("last"));
            }
            6 => cut += entry.json()["cut_bytes"].as_u64().expect("a number"),
            _ => {}
        }
    }
    (events, lost, cut)
}

/// Cuts the log somewhere behind its last checkpoint, if there is something.
fn tear(daemon: &Daemon, dice: &mut Dice) -> bool {
    let copy = LogCopy::of(daemon.layout());
    let segments = copy.segments();
    let last = RawSegment::read(segments.last().expect("there is one"));
    let checkpoint = last.entries.iter().rposition(|entry| entry.is_checkpoint());
    let vouched = last.entries[..checkpoint.map_or(0, |at| at + 1)].iter();
    let vouched = 128 + vouched.map(|entry| entry.bytes().len()).sum::<usize>();
    let length = last.bytes().len();
    if length <= vouched + 1 {
        return false;
    }
    let name = last.path.file_name().expect("a name");
    let path = daemon.layout().state_dir().join("audit").join(name);
    let file = fs::File::options().write(true).open(path).expect("it is there");
    file.set_len((vouched + 1 + dice.below(length - vouched - 1)) as u64).expect("it is ours");
    true
}

#[test]
fn killed_daemon_loses_no_more_than_the_window_and_the_next_one_says_what() {
    let mut daemon = Daemon::start();
    let workers: Vec<Process> = (0..2).map(|_| daemon.run(&Envelope::of("busy"), &busy_command())).collect();
    let mut dice = Dice::new();
    let mut torn = 0;
    for round in 0..10 {
        let before = daemon.counter("audit_entries");
        let more = dice.below(400) as u64;
        wait_until(DEADLINE, "it has written more", || {
            (daemon.counter("audit_entries") > before + more).then_some(())
        });
        daemon.kill9();
        // As a crash of the host would leave it: what was not vouched for is not there, or half.
        torn += u32::from(round % 2 == 1 && tear(&daemon, &mut dice));
        let written =
            fs::read_to_string(daemon.layout().state_dir().join("events.jsonl")).expect("it is text");
        let last = written.lines().filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = last.collect();
        let written = sequences(lines.clone());
        let copy = LogCopy::of(daemon.layout());
        copy.expect_sound(daemon.layout());
        let (events, lost, _) = logged(&copy);
        // The event file is rotated: it has the newest.
        let missing = written.iter().filter(|event| !events.contains(event) && !lost.contains(event));
        let missing: BTreeSet<u64> = missing.copied().collect();
        let times =
            lines.iter().filter(|line| line["sequence"].as_u64().is_some_and(|it| missing.contains(&it)));
        let times =
            times.map(|line| line["time"].as_str().expect("text").parse::<Timestamp>().expect("a time"));
        let (first, last) = (times.clone().min(), times.max());
        let span = first.zip(last).map_or(SignedDuration::ZERO, |(first, last)| last.duration_since(first));
        assert!(
            missing.len() <= WINDOW_ENTRIES || span <= WINDOW,
            "round {round}: {} are missing, of {span:#}",
            missing.len()
        );
        let newest = written.last().copied().unwrap_or(0);
        let gap = missing.first().copied().unwrap_or(newest + 1)..=newest;
        assert_eq!(missing, gap.collect(), "round {round}: only the newest are missing");
        daemon.restart();
        let after = wait_until(DEADLINE, "the log goes on", || {
            let after = LogCopy::of(daemon.layout());
            (logged(&after).0.last() > Some(&newest)).then_some(after)
        });
        after.expect_sound(daemon.layout());
        let (events, lost, _) = logged(&after);
        assert!(missing.iter().all(|event| lost.contains(event)), "round {round}: it says which were lost");
        assert!(events.is_disjoint(&lost), "round {round}: and no others");
    }
    drop(workers);
    daemon.kill_sessions();
    daemon.wait_idle();
    assert_eq!(daemon.counter("fault_audit_tampered"), 0);
    let (_, _, cut) = logged(&LogCopy::of(daemon.layout()));
    assert!(torn > 0, "some of the log was not vouched for");
    assert!(cut > 0, "what was torn is said");
}
