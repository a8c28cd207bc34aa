use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc,
};

use ring::rand::SystemRandom;

use super::*;
use crate::{
    audit::{Found, Kind, Opened, Report, SegmentReader, State, Verifier},
    signature::TrustKey,
    state::{existing_key, own_key},
};

const SMALL: Limits =
    Limits { segment_bytes: 4096, keep_for: Duration::from_secs(1 << 30), keep_bytes: 1 << 40 };

/// A state directory.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn log(&self) -> LogDir {
        LogDir::at(&self.dir.path().join("audit"))
    }

    fn key(&self) -> TrustKey {
        own_key(&self.log().key_path()).unwrap().trust_key()
    }

    fn open(&self, events_before: u64, limits: Limits) -> Log {
        let dir = self.log();
        let opening = Opening {
            key: Arc::new(own_key(&dir.key_path()).unwrap()),
            next_key: existing_key(&dir.next_key_path()).unwrap().map(Arc::new),
            dir,
            host: "host".to_owned(),
            boot_id: "boot".to_owned(),
            release: "test",
            events_before,
            limits,
        };
        Log::open(opening).unwrap()
    }

    /// Has events written after those before, from one start to one stop. The signs.
    fn write(&self, before: u64, count: u64) -> Vec<String> {
        let log = self.open(before, SMALL);
        events(&log, before, count);
        assert!(log.stop());
        log.take_signs()
    }

    fn report(&self, trusted: TrustKey) -> Report {
        let random = SystemRandom::new();
        let dir = self.log();
        let (segments, stub) = dir.segments_and_stub().unwrap();
        let mut verifier = Verifier::new(vec![trusted], stub, &random);
        verifier.expect("the head".to_owned(), dir.head().unwrap());
        dir.walk(&segments, verifier, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    #[track_caller]
    fn expect_sound(&self) -> Report {
        let report = self.report(self.key());
        assert!(report.finding.is_none(), "{:?}", report.finding);
        report
    }

    /// How the last daemon found the log.
    fn opened(&self) -> Opened {
        let mut last = None;
        // `verify` goes no further than to where something is wrong.
        for segment in self.log().segments().unwrap() {
            let mut reader = SegmentReader::open(self.log().open(&segment).unwrap()).unwrap();
            while let Ok(Some(entry)) = reader.next() {
                if entry.kind == Kind::Opened {
                    last = serde_json::from_slice(entry.payload).ok();
                }
            }
        }
        last.expect("it was opened")
    }

    fn last_segment(&self) -> PathBuf {
        self.log().segments().unwrap().pop().unwrap().path
    }
}

fn events(log: &Log, before: u64, count: u64) {
    for sequence in before + 1..=before + count {
        let line = format!(r#"{{"version":1,"kind":"exec","time":"t","sequence":{sequence}}}"#);
        log.append(sequence, line.as_bytes());
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { assert!(fs::copy(&path, &to).is_ok()) }
    }
}

#[test]
fn log_goes_on_where_it_ended() {
    let place = Place::new();
    assert_eq!(place.write(0, 100), [""; 0]);
    assert_eq!(place.opened().found, Found::New);
    let first = place.expect_sound();
    assert!(first.segments > 2 && first.unsigned == 0, "{first:?}");
    assert_eq!(place.write(100, 100), [""; 0]);
    assert_eq!(place.opened().found, Found::Sound);
    let second = place.expect_sound();
    assert_eq!((second.log, second.events, second.lost), (first.log, 200, 0));
    // What the daemon before had not handed over, or what came while it ended.
    assert_eq!(place.write(207, 1), [""; 0]);
    let third = place.expect_sound();
    assert_eq!((third.events, third.lost), (201, 7));
    assert!(third.notes[0].contains("events 201 to 207"), "{:?}", third.notes);
}

/// Also of a log that ends in its first entries.
#[test]
fn end_may_be_torn_anywhere_behind_the_last_checkpoint() {
    let place = Place::new();
    place.write(0, 3);
    // Entries that nobody vouches for.
    let path = place.last_segment();
    let vouched = fs::metadata(&path).unwrap().len();
    let mut state = {
        let mut reader = SegmentReader::open(fs::File::open(&path).unwrap()).unwrap();
        let mut state = State::at(reader.header());
        while let Some(entry) = reader.next().unwrap() {
            state.follow(&entry).unwrap();
        }
        state
    };
    let mut bytes = fs::read(&path).unwrap();
    state.append(Kind::Event, br#"{"sequence":4}"#, &mut bytes);
    let whole = bytes.len();
    state.append(Kind::Event, br#"{"sequence":5}"#, &mut bytes);
    let kept = place.dir.path().join("kept");
    for length in (usize::try_from(vouched).unwrap() + 1..=bytes.len()).step_by(7) {
        let torn = Place::new();
        copy(place.dir.path(), torn.dir.path());
        fs::write(torn.last_segment(), &bytes[..length]).unwrap();
        assert_eq!(torn.write(5, 1), [""; 0], "{length}");
        let report = torn.expect_sound();
        let events = if length >= bytes.len() { 6 } else { 4 + u64::from(length >= whole) };
        assert_eq!(report.events, events, "{length}");
        assert_eq!(report.events + report.lost, 6, "{length}: the rest is declared");
        let cut = length - if length >= whole { whole } else { usize::try_from(vouched).unwrap() };
        let expected = if cut == 0 || length == bytes.len() { Found::Sound } else { Found::Torn };
        assert_eq!(torn.opened().found, expected, "{length}");
    }
    assert!(!kept.exists());
}

#[test]
fn what_was_vouched_for_and_is_gone_is_a_sign() {
    let place = Place::new();
    place.write(0, 100);
    let before = Place::new();
    copy(place.dir.path(), before.dir.path());
    place.write(100, 100);
    let changed = |what: &str, change: &dyn Fn(&Place)| {
        let other = Place::new();
        copy(place.dir.path(), other.dir.path());
        change(&other);
        let signs = other.write(200, 1);
        assert_eq!(signs.len(), 1, "{what}");
        let opened = other.opened();
        assert_eq!(opened.found, Found::Tampered, "{what}");
        assert_eq!(opened.detail.as_ref(), signs.first(), "{what}");
        let report = other.report(place.key());
        assert!(report.finding.is_some(), "{what}: and stays one");
        assert_eq!(other.write(201, 1), [""; 0], "{what}: said once");
    };
    let cut = |place: &Place, bytes: u64| {
        let path = place.last_segment();
        let length = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(length - bytes).unwrap();
    };
    changed("cut short", &|place| cut(place, 1));
    changed("one byte changed", &|place| {
        let path = place.last_segment();
        let mut bytes = fs::read(&path).unwrap();
        bytes[150] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    changed("the last segment gone", &|place| fs::remove_file(place.last_segment()).unwrap());
    changed("the last segment is none", &|place| fs::write(place.last_segment(), "x").unwrap());
    changed("an older copy", &|place| {
        fs::remove_dir_all(place.log().path()).unwrap();
        copy(before.log().path(), place.log().path());
    });
    changed("all of it gone", &|place| fs::remove_dir_all(place.log().path()).unwrap());
    changed("no head", &|place| fs::remove_file(place.log().head_path()).unwrap());
    changed("a head that is none", &|place| fs::write(place.log().head_path(), "{}").unwrap());
    changed("another key", &|place| fs::remove_file(place.log().key_path()).unwrap());
    // Control.
    assert_eq!(place.write(200, 1), [""; 0]);
    place.expect_sound();
}

#[test]
fn change_of_keys_that_was_cut_short_is_finished_or_was_none() {
    let place = Place::new();
    let first = place.key();
    let old = fs::read(place.log().key_path()).unwrap();
    let log = place.open(0, SMALL);
    events(&log, 0, 2);
    let (send, rotated) = mpsc::channel();
    log.rotate_key(Box::new(move |answer| send.send(answer.unwrap()).unwrap()));
    let id = rotated.recv().unwrap();
    assert!(log.stop());
    let second = place.key();
    assert_eq!(second.id().to_string(), id);
    assert!(place.report(first.clone()).finding.is_none());
    // Killed before the file had its name: the log says which key it is.
    let new = fs::read(place.log().key_path()).unwrap();
    fs::write(place.log().next_key_path(), &new).unwrap();
    fs::set_permissions(place.log().next_key_path(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    fs::write(place.log().key_path(), &old).unwrap();
    assert_eq!(place.write(2, 1), [""; 0]);
    assert_eq!((place.key(), place.log().next_key_path().exists()), (second.clone(), false));
    // Killed before the log had heard of it.
    fs::write(place.log().next_key_path(), &old).unwrap();
    fs::set_permissions(place.log().next_key_path(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    assert_eq!(place.write(3, 1), [""; 0]);
    assert_eq!((place.key(), place.log().next_key_path().exists()), (second, false));
    assert!(place.report(first).finding.is_none());
}

#[test]
fn what_is_too_much_goes_and_leaves_a_stub() {
    let place = Place::new();
    let first = place.key();
    let limits = Limits { keep_bytes: 12_000, ..SMALL };
    let mut before = 0;
    for _ in 0..10 {
        let log = place.open(before, limits);
        events(&log, before, 200);
        before += 200;
        if before == 600 {
            let (send, rotated) = mpsc::channel();
            log.rotate_key(Box::new(move |answer| send.send(answer.unwrap()).unwrap()));
            rotated.recv().unwrap();
        }
        // What is not compressed yet is not removed.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let too_much = || {
            let segments = place.log().segments().unwrap_or_default();
            let plain = segments.iter().filter(|segment| !segment.packed).count();
            plain > 1 || segments.iter().map(|segment| segment.bytes).sum::<u64>() > 20_000
        };
        while too_much() {
            assert!(std::time::Instant::now() < deadline, "it is not removed");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(log.stop());
        assert_eq!(log.take_signs(), [""; 0]);
        assert_eq!(log.counters()[4], ("fault_audit_write", 0, true));
    }
    let report = place.report(first);
    assert!(report.finding.is_none(), "{:?}", report.finding);
    assert!(report.first > 200, "{report:?}");
    assert!(report.last > 2000);
}
