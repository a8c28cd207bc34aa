//! Which records are missing: how many, of which CPU, and between which two that are there.
//!
//! Each CPU counts what it lost, and every record says how many that were when it was made. What was lost after the last record, the
//! counters say. So each loss is told once, whoever tells it first.

use serde::{Deserialize, Serialize};

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

/// What each CPU lost, and what of it was told.
#[derive(Debug)]
pub(crate) struct Losses(Vec<Cpu>);

#[derive(Clone, Debug, Default)]
struct Cpu {
    told: u64,
    last_ns: Option<u64>,
    untold: Option<Loss>,
}

impl Losses {
    /// What each CPU lost was told up to these.
    pub(crate) fn new(told: &[u64], cpus: usize) -> Self {
        let told = told.iter().copied().chain(std::iter::repeat(0)).take(cpus);
        Self(told.map(|told| Cpu { told, ..Cpu::default() }).collect())
    }

    /// A record, and when it was made. Whether there is such a CPU.
    pub(crate) fn see(&mut self, Number { cpu, lost, .. }: Number, time_ns: u64) -> bool {
        let Some(state) = usize::try_from(cpu).ok().and_then(|at| self.0.get_mut(at)) else { return false };
        state.find(cpu, lost, time_ns);
        state.last_ns = Some(time_ns);
        true
    }

    /// Every record that was made is read, and each CPU has lost so many.
    pub(crate) fn settle(&mut self, lost: &[u64], now_ns: u64) {
        for ((cpu, state), lost) in (0..).zip(&mut self.0).zip(lost) {
            state.find(cpu, *lost, now_ns);
        }
    }

    /// What is to be told.
    pub(crate) fn take(&mut self) -> Vec<Loss> {
        self.0.iter_mut().filter_map(|state| state.untold.take()).collect()
    }

    /// What was told, by CPU.
    pub(crate) fn told(&self) -> Vec<u64> {
        self.0.iter().map(|state| state.told).collect()
    }
}

impl Cpu {
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
}

/// Records that were lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineLoss {
    pub(crate) cpu: u32,
    /// How many this CPU had lost before, since the programs were loaded.
    pub(crate) before: u64,
    /// The time of the last record of this CPU before them, RFC 3339; null if this daemon had read none.
    pub(crate) after: Option<String>,
    /// The time of the next; or when it was looked, if there was none.
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(cpu: u32, lost: u64) -> Number {
        Number { cpu, sequence: 0, lost }
    }

    #[test]
    fn each_loss_is_told_once_with_what_is_around_it() {
        let mut losses = Losses::new(&[5], 2);
        assert!(losses.see(number(0, 5), 100) && losses.see(number(1, 0), 110));
        assert_eq!(losses.take(), [], "5 were told");
        assert!(
            losses.see(number(0, 8), 200) && losses.see(number(0, 9), 210) && losses.see(number(0, 9), 220)
        );
        let first = Loss { cpu: 0, records: 4, before: 5, after_ns: Some(100), until_ns: 210 };
        assert_eq!(losses.take(), [first]);
        losses.settle(&[9, 3], 300);
        let last = Loss { cpu: 1, records: 3, before: 0, after_ns: Some(110), until_ns: 300 };
        assert_eq!(losses.take(), [last], "after the last record");
        assert!(
            losses.see(number(1, 3), 310) && losses.see(number(0, 7), 320),
            "a program that was interrupted"
        );
        assert_eq!(losses.take(), []);
        assert_eq!(losses.told(), [9, 3]);
        assert!(!losses.see(number(2, 1), 1), "there is no such CPU");
    }

    #[test]
    fn what_came_before_the_first_record_has_no_beginning() {
        let mut losses = Losses::new(&[], 1);
        losses.see(number(0, 2), 50);
        assert_eq!(losses.take(), [Loss { cpu: 0, records: 2, before: 0, after_ns: None, until_ns: 50 }]);
    }
}
