use std::{fs, io::Write as _};

use super::*;
use crate::{
    record::export::Host,
    sinks::settings::{Form, Only, To},
};

/// A receiver that answers as a function does.
struct Scripted<F>(F);

impl<F: FnMut(&[Message]) -> Result<Sent, NotSent> + Send> Transport for Scripted<F> {
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent> {
        self.0(batch)
    }
}

/// Takes everything, on a connection that then turns out to be broken.
struct Broken;

impl Transport for Broken {
    fn send(&mut self, _: &[Message]) -> Result<Sent, NotSent> {
        Ok(Sent::OnItsWay)
    }

    fn check(&mut self) -> Result<(), NotSent> {
        Err(NotSent::later("the connection is broken"))
    }
}

/// A worker, and the directory in which its events and its place are.
struct Scene {
    directory: tempfile::TempDir,
    worker: Worker,
}

type Taken = Arc<Mutex<Vec<u64>>>;

impl Scene {
    fn new(events: std::ops::RangeInclusive<u64>, noted: Option<u64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        write(&path, events.clone());
        let cursor = directory.path().join("cursor");
        if let Some(noted) = noted {
            fs::write(&cursor, format!("{noted}\n")).unwrap();
        }
        let settings =
            SinkSettings { name: "a".to_owned(), form: Form::Native, only: Only::default(), to: To::Stdout };
        let host = Host {
            name: "host".to_owned(),
            release: String::new(),
            trust_domain: "example.org".parse().unwrap(),
        };
        let renderer = Renderer::new(Form::Native, host);
        let nobody = Box::new(Scripted(|_: &[Message]| Ok(Sent::Taken)));
        let worker =
            Worker::new(settings, renderer, nobody, (&path, *events.end()), Cursor::at(cursor)).unwrap();
        Self { directory, worker }
    }

    fn answers(&mut self, script: impl FnMut(&[Message]) -> Result<Sent, NotSent> + Send + 'static) {
        self.worker.transport = Box::new(Scripted(script));
    }

    /// Sends what there is, at once.
    fn deliver(&mut self) {
        let batch = self.worker.tail.next(MOST_EVENTS, MOST_BYTES).unwrap();
        self.worker.deliver(&batch);
    }

    fn noted(&self) -> Option<u64> {
        self.worker.cursor.read().unwrap()
    }

    fn counted(&self) -> [u64; 4] {
        let Progress { sent, refused, lost, reached, .. } = &*self.worker.progress;
        [sent, refused, lost, reached].map(|counted| counted.load(Relaxed))
    }
}

fn write(path: &Path, events: impl IntoIterator<Item = u64>) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for event in events {
        let line = serde_json::json!({
            "version": 1, "kind": "daemon-fault", "time": at(event), "sequence": event,
        });
        writeln!(file, "{line}").unwrap();
    }
}

/// When an event happened.
fn at(event: u64) -> String {
    format!("2026-01-01T00:00:{event:02}Z")
}

fn number(message: &Message) -> u64 {
    let event: serde_json::Value = serde_json::from_str(&message.text).unwrap();
    event["sequence"].as_u64().unwrap()
}

fn take(taken: &Taken, batch: &[Message]) -> Result<Sent, NotSent> {
    taken.lock().unwrap().extend(batch.iter().map(number));
    Ok(Sent::Taken)
}

#[test]
fn one_that_is_refused_keeps_none_of_the_others() {
    let (mut scene, taken) = (Scene::new(1..=5, None), Taken::default());
    let (keeps, mut busy) = (Arc::clone(&taken), true);
    scene.answers(move |batch| {
        if batch.iter().any(|message| number(message) == 3) {
            return Err(NotSent::Never { why: "not this one".to_owned() });
        }
        // Busy for a moment, in the middle.
        if number(&batch[0]) == 4 && std::mem::take(&mut busy) {
            return Err(NotSent::later("busy"));
        }
        take(&keeps, batch)
    });
    scene.deliver();
    assert_eq!(*taken.lock().unwrap(), [1, 2, 4, 5], "in order");
    assert_eq!(scene.counted(), [4, 1, 0, 5]);
    assert_eq!(scene.noted(), Some(5));
    assert_eq!(scene.worker.progress.why(), None, "nothing is wrong with the receiver");
}

#[test]
fn where_none_is_taken_none_is_given_up() {
    let mut scene = Scene::new(1..=3, Some(0));
    let stop = Arc::clone(&scene.worker.stop);
    scene.answers(move |batch| {
        // Nobody waits for what comes after the last.
        stop.store(number(&batch[0]) == 3, Relaxed);
        Err(NotSent::Never { why: "the token is of another index".to_owned() })
    });
    scene.deliver();
    assert_eq!((scene.counted(), scene.noted()), ([0, 0, 0, 0], Some(0)));
    assert!(scene.worker.progress.why().unwrap().contains("none of 3 events is taken"));
    let taken = Taken::default();
    let keeps = Arc::clone(&taken);
    scene.answers(move |batch| take(&keeps, batch));
    scene.deliver();
    assert_eq!((&taken.lock().unwrap()[..], scene.noted()), (&[1, 2, 3][..], Some(3)), "again");
}

#[test]
fn what_was_on_its_way_by_a_connection_that_broke_is_sent_again() {
    let (mut scene, taken) = (Scene::new(1..=2, None), Taken::default());
    let (keeps, mut tries) = (Arc::clone(&taken), 0);
    scene.answers(move |batch| {
        tries += 1;
        if tries == 2 {
            return Err(NotSent::later("it has broken"));
        }
        take(&keeps, batch).map(|_| Sent::OnItsWay)
    });
    scene.deliver();
    assert_eq!(scene.noted(), Some(0), "nobody has said that it arrived");
    write(&scene.directory.path().join("events.jsonl"), [3]);
    scene.deliver();
    assert_eq!(scene.counted()[3], 0, "back");
    scene.deliver();
    assert_eq!(*taken.lock().unwrap(), [1, 2, 1, 2, 3]);
}

#[test]
fn what_was_long_on_its_way_has_not_arrived_where_the_connection_broke() {
    let mut scene = Scene::new(1..=3, Some(0));
    scene.worker.transport = Box::new(Broken);
    scene.deliver();
    // As when this thread stood still in between.
    let long_ago = Instant::now().checked_sub(ON_ITS_WAY * 2).unwrap();
    scene.worker.on_its_way.iter_mut().for_each(|(since, _)| *since = long_ago);
    scene.worker.settle().expect_err("nobody knows whether it arrived");
    assert_eq!(scene.noted(), Some(0));
    scene.answers(|_| Ok(Sent::OnItsWay));
    scene.worker.settle().unwrap();
    assert_eq!(scene.noted(), Some(3), "control: by a connection that stands it has");
}

#[test]
fn what_is_gone_is_said_by_number_and_time_and_counted_once() {
    type Said = Arc<Mutex<Vec<(u64, serde_json::Value)>>>;
    let (mut scene, said) = (Scene::new(5..=7, Some(1)), Said::default());
    let (keeps, mut tries) = (Arc::clone(&said), 0);
    scene.answers(move |batch| {
        tries += 1;
        if tries == 2 {
            return Err(NotSent::later("it has broken"));
        }
        keeps.lock().unwrap().extend(batch.iter().map(|message| {
            let event: serde_json::Value = serde_json::from_str(&message.text).unwrap();
            assert_eq!(event["lost_events"].is_null(), event["kind"] != "records-lost", "{event}");
            assert_eq!(event["lost"].is_null(), event["lost_events"].is_null(), "{event}");
            (event["lost"].as_u64().unwrap_or(0), event["lost_events"].clone())
        }));
        Ok(Sent::OnItsWay)
    });
    let path = scene.directory.path().join("events.jsonl");
    let gap = |first: u64, last: u64, after: Option<String>| {
        let gap = serde_json::json!({"first": first, "last": last, "after": after, "until": at(last + 1)});
        (last + 1 - first, gap)
    };
    let event = || (0, serde_json::Value::Null);
    let take = || std::mem::take(&mut *said.lock().unwrap());
    scene.deliver();
    assert_eq!(take(), [gap(2, 4, None), event(), event(), event()]);
    assert_eq!(scene.counted(), [4, 0, 3, 7]);
    write(&path, [10]);
    scene.deliver();
    assert_eq!((take(), scene.counted()[3]), (Vec::new(), 1), "back");
    scene.deliver();
    let expect = [gap(2, 4, None), event(), event(), event(), gap(8, 9, Some(at(7))), event()];
    assert_eq!(take(), expect, "again");
    write(&path, [12]);
    scene.deliver();
    assert_eq!(take(), [gap(11, 11, Some(at(10))), event()]);
    assert_eq!(scene.counted()[2], 3 + 2 + 1, "each is lost once");
}

#[test]
fn a_place_behind_all_events_is_taken_for_the_last() {
    let (mut scene, taken) = (Scene::new(1..=3, Some(500)), Taken::default());
    let keeps = Arc::clone(&taken);
    scene.answers(move |batch| take(&keeps, batch));
    assert!(scene.worker.tail.next(MOST_EVENTS, MOST_BYTES).unwrap().is_empty());
    write(&scene.directory.path().join("events.jsonl"), [4, 5]);
    scene.deliver();
    assert_eq!(*taken.lock().unwrap(), [4, 5]);
    assert_eq!((scene.counted(), scene.noted()), ([2, 0, 0, 5], Some(5)));
}

#[test]
fn waits_grow_to_a_bound_and_begin_anew() {
    let all: Vec<Duration> = waits().take(40).collect();
    for (at, wait) in all.iter().enumerate() {
        let least = WAITS[0].saturating_mul(1 << at.min(20)).min(WAITS[1] / 2);
        // Of a millionth of that nobody speaks: it is reckoned in 32 bits.
        let [least, most] = [least.mul_f64(0.999), least.mul_f64(2.001)];
        assert!((least..=most).contains(wait), "wait {at} is {wait:?}, and not in {least:?}..={most:?}");
        assert!(*wait <= WAITS[1].mul_f64(1.001));
    }
    let others: Vec<Duration> = waits().take(40).collect();
    assert_ne!(all, others, "receivers are not tried by all hosts at once");
    let mut scene = Scene::new(1..=1, None);
    assert!(scene.worker.breaks.nth(10).unwrap() > WAITS[0] * 10);
    scene.deliver();
    assert!(scene.worker.breaks.next().unwrap() <= WAITS[0] * 3, "after it was taken");
}
