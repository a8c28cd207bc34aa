//! How long kernel programs run, as far as the kernel tells. It keeps the number of runs and their sum, and no distribution (`struct
//! bpf_prog_stats`, include/linux/filter.h, Linux 6.18): what ran between two looks is counted at its mean. So a histogram shows the seconds in
//! which runs took longer, and not the single run that did.

use std::{collections::BTreeMap, time::Duration};

/// Upper bounds of the buckets, in nanoseconds. One more has no bound.
const BOUNDS_NS: [u64; 10] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];

/// What the kernel has counted of one of its programs.
#[derive(Clone, Debug)]
pub(crate) struct ProgramTime {
    /// The kernel's number for it: another one is another program, and begins at nothing.
    pub(crate) id: u32,
    pub(crate) program: &'static str,
    /// Runs that were timed, if the kernel does that (`kernel.bpf_stats_enabled`), and the time that they took together.
    pub(crate) runs: u64,
    pub(crate) time: Duration,
    /// Runs that the kernel left out, because the program was running on the same CPU; counted always.
    pub(crate) misses: u64,
}

/// What ran since the first look, by program.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunTimes(BTreeMap<&'static str, Distribution>);

#[derive(Clone, Debug)]
struct Distribution {
    last: ProgramTime,
    runs: u64,
    time: Duration,
    /// Runs by bucket, each in one.
    buckets: [u64; BOUNDS_NS.len() + 1],
}

impl RunTimes {
    /// Whether nothing was looked at yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what the kernel has counted by now.
    pub(crate) fn look(&mut self, now: &[ProgramTime]) {
        for counted in now {
            let of = self.0.entry(counted.program).or_insert_with(|| Distribution {
                last: counted.clone(),
                runs: 0,
                time: Duration::ZERO,
                buckets: Default::default(),
            });
            let (runs, time) =
                if of.last.id == counted.id { (of.last.runs, of.last.time) } else { Default::default() };
            of.add(counted.runs.saturating_sub(runs), counted.time.saturating_sub(time));
            of.last = counted.clone();
        }
    }

    /// Of each program that ran: its name, the time of all runs in seconds, their number, and the number of those in each bucket,
    /// with its upper bound in seconds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, f64, u64, Vec<(f64, u64)>)> {
        let bounds =
            || BOUNDS_NS.iter().map(|ns| Duration::from_nanos(*ns).as_secs_f64()).chain([f64::INFINITY]);
        self.0.iter().filter(|(_, of)| of.runs > 0).map(move |(program, of)| {
            (*program, of.time.as_secs_f64(), of.runs, bounds().zip(of.buckets).collect())
        })
    }
}

impl Distribution {
    fn add(&mut self, runs: u64, time: Duration) {
        let Some(mean_ns) = time.as_nanos().checked_div(u128::from(runs)) else { return };
        let bucket = BOUNDS_NS.partition_point(|bound| u128::from(*bound) < mean_ns);
        self.buckets[bucket] += runs;
        self.runs += runs;
        self.time += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(id: u32, runs: u64, time_ns: u64) -> [ProgramTime; 1] {
        [ProgramTime { id, program: "egress", runs, time: Duration::from_nanos(time_ns), misses: 0 }]
    }

    #[test]
    fn what_ran_between_two_looks_is_counted_at_its_mean() {
        let mut times = RunTimes::default();
        times.look(&counted(1, 1000, 5_000_000));
        assert_eq!(times.iter().count(), 0, "it ran before");
        times.look(&counted(1, 1010, 5_001_000));
        times.look(&counted(1, 1010, 5_001_000));
        times.look(&counted(1, 1012, 5_401_000));
        // Another program of the same name.
        times.look(&counted(2, 1, 101));
        let (program, seconds, runs, buckets) = times.iter().next().unwrap();
        assert_eq!((program, runs), ("egress", 13));
        assert!((seconds - 401_101e-9).abs() < 1e-12, "{seconds}");
        let filled: Vec<_> = buckets.iter().filter(|(_, runs)| *runs > 0).copied().collect();
        assert_eq!(filled, [(100e-9, 10), (200e-9, 1), (f64::INFINITY, 2)]);
    }
}
