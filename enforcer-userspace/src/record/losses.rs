//! Which records are missing: how many, of which CPU, and between which two that are there.
//!
//! Each CPU counts what it lost, and every record says how many that were when it was made. What was lost after the last record, the
//! counters say. So each loss is told once, whoever tells it first.
//!
//! What a daemon has taken from the kernel and has not written down when it is killed is missing, too. The next one sees it by the numbers:
//! between the last record of a CPU that a line tells of, and the next that comes, only those may be missing that the CPU has lost.

mod reading;

use serde::{Deserialize, Serialize};

pub(crate) use reading::{Reading, Written};

/// Which record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) cpu: u32,
    /// Counts what this CPU made, and lost, since the programs were loaded.
    pub(crate) sequence: u64,
    /// How many it had lost before.
    pub(crate) lost: u64,
}

/// Records that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) cpu: u32,
    pub(crate) records: u64,
    /// How many this CPU had lost before, since the programs were loaded.
    pub(crate) before: u64,
    /// The last record of this CPU before them, ns on the boot clock; not known of what was lost before this daemon read any.
    pub(crate) after_ns: Option<u64>,
    /// The next record of this CPU; or when it was looked, if there is none.
    pub(crate) until_ns: u64,
}

/// Records that a daemon had taken, and had not written down when it was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unwritten {
    pub(crate) cpu: u32,
    pub(crate) records: u64,
    /// How many this CPU had lost by the last of them.
    pub(crate) lost: u64,
    /// The first and the last number that may be one of theirs.
    pub(crate) numbers: [u64; 2],
    /// The time of the last line before them, RFC 3339.
    pub(crate) after: String,
    /// Likewise as of a [`Loss`].
    pub(crate) until_ns: u64,
}

/// What a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    New,
    /// Likewise, the first behind some that are missing. That is to be said before it is: lines tell how far they go.
    After(Unwritten),
    /// The last that a daemon wrote down before it was killed: it had no time to say that it has it.
    Written,
    /// It is no record: there is no such CPU.
    NoCpu,
}

/// What each CPU lost, and what of it was told.
#[derive(Debug)]
pub(crate) struct Losses {
    /// See [`Told`].
    since: u64,
    from_first: bool,
    cpus: Vec<Cpu>,
}

/// What was told of the records that these kernel programs have numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The last line before those that tell of them.
    pub(crate) since: u64,
    /// Whether those lines tell of them from the first on.
    pub(crate) from_first: bool,
    /// How many lost ones, by CPU.
    pub(crate) lost: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    told: u64,
    last_ns: Option<u64>,
    untold: Option<Loss>,
    /// What earlier daemons wrote down, until it is known what is missing behind it.
    written: Option<Written>,
    /// What it had made when it was looked last.
    made: u64,
}

impl Losses {
    /// Goes on from what was told.
    pub(crate) fn new(told: Told, cpus: usize) -> Self {
        let Told { since, from_first, lost } = told;
        let lost = lost.into_iter().chain(std::iter::repeat(0)).take(cpus);
        Self { since, from_first, cpus: lost.map(|told| Cpu { told, ..Cpu::default() }).collect() }
    }

    /// Up to where earlier daemons wrote down what a CPU made.
    pub(crate) fn resume(&mut self, written: impl IntoIterator<Item = (u32, Written)>) {
        for (cpu, written) in written {
            if let Some(state) = self.state(cpu) {
                state.written = Some(written);
            }
        }
    }

    fn state(&mut self, cpu: u32) -> Option<&mut Cpu> {
        usize::try_from(cpu).ok().and_then(|at| self.cpus.get_mut(at))
    }

    /// A record, and when it was made.
    pub(crate) fn see(&mut self, Number { cpu, sequence, lost }: Number, time_ns: u64) -> Sight {
        let Some(state) = self.state(cpu) else { return Sight::NoCpu };
        if state.written.as_ref().is_some_and(|written| written.next == sequence.saturating_add(1)) {
            return Sight::Written;
        }
        let unwritten = state.find_unwritten(cpu, sequence, lost, time_ns);
        state.find(cpu, lost, time_ns);
        state.last_ns = Some(time_ns);
        unwritten.map_or(Sight::New, Sight::After)
    }

    /// Each CPU has made and lost so many; whether every record that was made is read, or was a moment ago. What is missing at the end.
    pub(crate) fn settle(
        &mut self,
        made: &[u64],
        lost: &[u64],
        is_all_read: bool,
        now_ns: u64,
    ) -> Vec<Unwritten> {
        let mut missing = Vec::new();
        for (((cpu, state), made), lost) in (0..).zip(&mut self.cpus).zip(made).zip(lost) {
            // Where it made none since it was looked last, all of its records are read.
            if is_all_read && state.made == *made {
                missing.extend(state.find_unwritten(cpu, *made, *lost, now_ns));
            }
            state.made = *made;
            state.find(cpu, *lost, now_ns);
        }
        missing
    }

    /// What is to be told.
    pub(crate) fn take(&mut self) -> Vec<Loss> {
        self.cpus.iter_mut().filter_map(|state| state.untold.take()).collect()
    }

    pub(crate) fn told(&self) -> Told {
        let Self { since, from_first, .. } = *self;
        Told { since, from_first, lost: self.cpus.iter().map(|state| state.told).collect() }
    }
}

impl Cpu {
    /// What is missing between what was written down and `next`, if it is not known yet.
    fn find_unwritten(&mut self, cpu: u32, next: u64, lost: u64, until_ns: u64) -> Option<Unwritten> {
        let Written { next: first, lost: lost_before, time } = self.written.take()?;
        let missing = next.saturating_sub(first);
        let records = missing.saturating_sub(lost.saturating_sub(lost_before));
        let numbers = [first, next.checked_sub(1)?];
        (records > 0).then_some(Unwritten { cpu, records, lost, numbers, after: time, until_ns })
    }

    fn find(&mut self, cpu: u32, lost: u64, until_ns: u64) {
        // Less: a program was interrupted by another between the two numbers that it noted.
        let records = lost.saturating_sub(self.told);
        if records == 0 {
            return;
        }
        let (before, after_ns) = (self.told, self.last_ns);
        let untold = self.untold.get_or_insert(Loss { cpu, records: 0, before, after_ns, until_ns });
        untold.records += records;
        untold.until_ns = untold.until_ns.max(until_ns);
        self.told = lost;
    }
}

/// A record of the kernel's. Where numbers of a CPU are missing, another line says that they were lost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct LineRecord {
    pub(crate) cpu: u32,
    /// Counts what this CPU made, and lost, since the programs were loaded.
    pub(crate) sequence: u64,
    /// How many it had lost before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Records that were lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineLoss {
    pub(crate) cpu: u32,
    /// How many this CPU had lost before, since the programs were loaded; where there are `numbers`, by the last of them.
    pub(crate) before: u64,
    /// The time of the last record of this CPU before them, RFC 3339; null if this daemon had read none.
    pub(crate) after: Option<String>,
    /// The time of the next; or when it was looked, if there was none.
    pub(crate) until: String,
    /// Of those that a daemon had taken, and had not written down when it was killed: the first and the last number that may be theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) numbers: Option<[u64; 2]>,
}

/// Events that were gone before a sink had sent them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineGap {
    /// The number of the first.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The time of the event before them, RFC 3339; null if this daemon had not sent that.
    pub(crate) after: Option<String>,
    /// That of the next.
    pub(crate) until: String,
}

impl LineLoss {
    pub(super) fn new(loss: &Loss, wall: impl Fn(u64) -> jiff::Timestamp) -> Self {
        let time = |ns| format!("{:.9}", wall(ns));
        Self {
            cpu: loss.cpu,
            before: loss.before,
            after: loss.after_ns.map(time),
            until: time(loss.until_ns),
            numbers: None,
        }
    }

    pub(super) fn unwritten(unwritten: &Unwritten, wall: impl Fn(u64) -> jiff::Timestamp) -> Self {
        Self {
            cpu: unwritten.cpu,
            before: unwritten.lost,
            after: Some(unwritten.after.clone()),
            until: format!("{:.9}", wall(unwritten.until_ns)),
            numbers: Some(unwritten.numbers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lost: &[u64]) -> Told {
        Told { since: 6, from_first: true, lost: lost.to_vec() }
    }

    fn number(cpu: u32, lost: u64) -> Number {
        Number { cpu, sequence: 0, lost }
    }

    #[track_caller]
    fn see(losses: &mut Losses, records: &[(Number, u64)]) {
        for (number, time_ns) in records {
            assert_eq!(losses.see(*number, *time_ns), Sight::New);
        }
    }

    #[test]
    fn each_loss_is_told_once_with_what_is_around_it() {
        let mut losses = Losses::new(told(&[5]), 2);
        see(&mut losses, &[(number(0, 5), 100), (number(1, 0), 110)]);
        assert_eq!(losses.take(), [], "5 were told");
        see(&mut losses, &[(number(0, 8), 200), (number(0, 9), 210), (number(0, 9), 220)]);
        let first = Loss { cpu: 0, records: 4, before: 5, after_ns: Some(100), until_ns: 210 };
        assert_eq!(losses.take(), [first]);
        losses.settle(&[0, 0], &[9, 3], true, 300);
        let last = Loss { cpu: 1, records: 3, before: 0, after_ns: Some(110), until_ns: 300 };
        assert_eq!(losses.take(), [last], "after the last record");
        see(&mut losses, &[(number(1, 3), 310), (number(0, 7), 320)]);
        assert_eq!(losses.take(), [], "a program that was interrupted");
        assert_eq!(losses.told(), told(&[9, 3]));
        assert_eq!(losses.see(number(2, 1), 1), Sight::NoCpu);
    }

    #[test]
    fn what_came_before_the_first_record_has_no_beginning() {
        let mut losses = Losses::new(Told::default(), 1);
        losses.see(number(0, 2), 50);
        assert_eq!(losses.take(), [Loss { cpu: 0, records: 2, before: 0, after_ns: None, until_ns: 50 }]);
    }

    /// A daemon that comes after one that wrote record 10 of CPU 1, by when that had lost 3.
    fn resumed() -> Losses {
        let mut losses = Losses::new(told(&[0, 3]), 2);
        losses.resume([(1, Written { next: 11, lost: 3, time: "t10".to_owned() })]);
        losses
    }

    #[test]
    fn what_a_killed_daemon_did_not_write_down_is_told_once() {
        let of = |sequence, lost| Number { cpu: 1, sequence, lost };
        let unwritten = |records, lost, last, until_ns| Unwritten {
            cpu: 1,
            records,
            lost,
            numbers: [11, last],
            after: "t10".to_owned(),
            until_ns,
        };
        // 11 to 19 are missing: the CPU had lost 4 of them.
        let mut losses = resumed();
        assert_eq!(losses.see(of(10, 3), 400), Sight::Written, "it was on its way out");
        assert_eq!(losses.see(of(20, 7), 500), Sight::After(unwritten(5, 7, 19, 500)));
        see(&mut losses, &[(of(30, 7), 600)]);
        // Nothing comes any more: when it is known that all is read, what was made says it.
        let mut losses = resumed();
        for (made, is_all_read) in [(20, true), (20, false), (21, true)] {
            assert_eq!(losses.settle(&[0, made], &[0, 7], is_all_read, 700), [], "it is not known yet");
        }
        assert_eq!(losses.settle(&[0, 21], &[0, 7], true, 800), [unwritten(6, 7, 20, 800)]);
        assert_eq!(losses.settle(&[0, 21], &[0, 7], true, 900), [], "once");
        // Nothing is missing.
        see(&mut resumed(), &[(of(13, 5), 500)]);
        let mut losses = resumed();
        assert_eq!(losses.settle(&[0, 11], &[0, 3], true, 700), []);
        assert_eq!(losses.settle(&[0, 11], &[0, 3], true, 800), []);
    }
}
