//! What waits to be written: one stretch of memory with a bound, so that nothing is allocated for each event. What finds no room is
//! counted, by the number of the first and the last event, at the place where it would have been.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Rotated;
use crate::audit::MAX_PAYLOAD_BYTES;

/// Some ten thousand events.
const MAX_BYTES: usize = 16 << 20;
const MAX_ITEMS: usize = 64 << 10;
/// What is kept of memory that was needed once.
const KEPT_BYTES: usize = 1 << 20;

/// One thing to write, or to do between two of them.
pub(super) enum Item {
    Event {
        bytes: usize,
    },
    /// Events that found no room, as events count.
    Lost {
        first: u64,
        last: u64,
        events: u64,
    },
    Rotate(Option<Rotated>),
    /// The segment that begins with this entry is compressed, or could not be.
    Packed(u64, bool),
}

/// What was taken from the queue.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) items: Vec<Item>,
}

impl Batch {
    /// Where there is much to write, there will be more: memory is given back when it was not needed.
    fn clear(&mut self) {
        let is_little = self.bytes.len() < KEPT_BYTES && self.items.len() < KEPT_BYTES / size_of::<Item>();
        self.bytes.clear();
        self.items.clear();
        if is_little {
            self.bytes.shrink_to(KEPT_BYTES);
            self.items.shrink_to(KEPT_BYTES / size_of::<Item>());
        }
    }
}

#[derive(Default)]
struct Inner {
    batch: Batch,
    /// Whether the writer waits, and has to be woken.
    waits: bool,
    stop: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        if std::mem::take(&mut inner.waits) {
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Adds an event; false if there is no room.
    pub(super) fn push(&self, sequence: u64, line: &[u8]) -> bool {
        let mut inner = self.lock();
        let Batch { bytes, items } = &mut inner.batch;
        let fits = bytes.len() + line.len() <= MAX_BYTES
            && items.len() < MAX_ITEMS
            && line.len() <= MAX_PAYLOAD_BYTES;
        if fits {
            bytes.extend_from_slice(line);
            items.push(Item::Event { bytes: line.len() });
        } else if let Some(Item::Lost { last, events, .. }) = items.last_mut() {
            *last = sequence;
            *events += 1;
        } else {
            items.push(Item::Lost { first: sequence, last: sequence, events: 1 });
        }
        self.wake(inner);
        fits
    }

    /// Whether it is half full: whoever can wait with what comes next, should.
    pub(super) fn is_crowded(&self) -> bool {
        let inner = self.lock();
        inner.batch.bytes.len() > MAX_BYTES / 2 || inner.batch.items.len() > MAX_ITEMS / 2
    }

    pub(super) fn rotate(&self, then: Rotated) {
        self.add(Item::Rotate(Some(then)));
    }

    pub(super) fn packed(&self, first: u64, done: bool) {
        self.add(Item::Packed(first, done));
    }

    fn add(&self, item: Item) {
        let mut inner = self.lock();
        inner.batch.items.push(item);
        self.wake(inner);
    }

    pub(super) fn stop(&self) {
        let mut inner = self.lock();
        inner.stop = true;
        self.wake(inner);
    }

    /// Waits until there is something, or it is time. Gives it in exchange for what was done. Whether there will be no more.
    pub(super) fn take(&self, done: &mut Batch, until: Option<Instant>) -> bool {
        done.clear();
        let mut inner = self.lock();
        while inner.batch.items.is_empty() && !inner.stop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            inner.waits = true;
            inner = match left {
                Some(left) => self.wake.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
        }
        inner.waits = false;
        std::mem::swap(&mut inner.batch, done);
        inner.stop
    }

    /// Waits, whatever comes. Whether it is to stop.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut inner = self.lock();
        while !inner.stop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner.waits = true;
            inner = self.wake.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.waits = false;
        inner.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_in_its_place() {
        let queue = Queue::default();
        let line = vec![b'x'; 1 << 20];
        assert!(!queue.is_crowded());
        let pushed: Vec<bool> = (1..=20).map(|sequence| queue.push(sequence, &line)).collect();
        assert_eq!(pushed.iter().filter(|fits| **fits).count(), 16);
        assert!(queue.is_crowded());
        assert!(
            !queue.push(21, b"small, but too late would be out of order") || pushed.iter().all(|fits| *fits)
        );
        let mut batch = Batch::default();
        assert!(!queue.take(&mut batch, Some(Instant::now())));
        let Some(Item::Lost { first: 17, last: 21, events: 5 }) = batch.items.last() else {
            panic!("the last five are lost");
        };
        assert!(queue.push(22, &line), "there is room again");
        assert!(!queue.push(23, &vec![0; MAX_PAYLOAD_BYTES + 1]), "too long for an entry");
        assert!(queue.push(24, b"y"));
        assert!(!queue.is_crowded());
        queue.stop();
        assert!(queue.take(&mut batch, None), "nothing more will come");
        assert!(matches!(
            batch.items[..],
            [Item::Event { .. }, Item::Lost { first: 23, last: 23, events: 1 }, Item::Event { bytes: 1 }]
        ));
    }
}
