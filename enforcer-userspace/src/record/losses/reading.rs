//! How far the lines of earlier daemons go: up to which record of each CPU.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{LineLoss, LineRecord, Told};

/// Up to which of a CPU's records lines tell of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The number of the next.
    pub(super) next: u64,
    /// How many it had lost by then.
    pub(super) lost: u64,
    /// Of the last line, RFC 3339.
    pub(super) time: String,
}

/// How far lines go, found by reading them from the last one back.
#[derive(Debug)]
pub(crate) struct Reading {
    since: u64,
    from_first: bool,
    cpus: u32,
    /// How far, and by how many lines of it.
    found: BTreeMap<u32, (Written, u32)>,
}

impl Reading {
    /// Records that interrupt each other may be written the wrong way round: the last of so many lines of a CPU is its last.
    const LINES: u32 = 16;

    /// Of the lines that tell of what was numbered so.
    pub(crate) const fn new(told: &Told, cpus: u32) -> Self {
        Self { since: told.since, from_first: told.from_first, cpus, found: BTreeMap::new() }
    }

    /// The line before. Whether those before that can tell more.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        #[derive(Deserialize)]
        struct Line {
            time: String,
            sequence: u64,
            record: Option<LineRecord>,
            lost_records: Option<LineLoss>,
        }
        let Ok(Line { time, sequence, record, lost_records }) = serde_json::from_str::<Line>(line) else {
            return true;
        };
        if sequence > self.since {
            match (record, lost_records) {
                (Some(LineRecord { cpu, sequence, lost }), _) => self.note(cpu, sequence, lost, &time),
                (None, Some(LineLoss { cpu, before, numbers: Some([_, last]), .. })) => {
                    self.note(cpu, last, before, &time);
                }
                (None, _) => {}
            }
        }
        if sequence <= self.since.saturating_add(1) {
            // Of whom none of all lines tells, nothing was written down.
            for cpu in (0..self.cpus).filter(|_| self.from_first) {
                let nothing = || (Written { next: 0, lost: 0, time: time.clone() }, 0);
                self.found.entry(cpu).or_insert_with(nothing);
            }
            return false;
        }
        self.found.len() < self.cpus as usize || self.found.values().any(|(_, lines)| *lines < Self::LINES)
    }

    fn note(&mut self, cpu: u32, sequence: u64, lost: u64, time: &str) {
        if cpu >= self.cpus {
            return;
        }
        let written = Written { next: sequence.saturating_add(1), lost, time: time.to_owned() };
        let (last, lines) = self.found.entry(cpu).or_insert_with(|| (written.clone(), 0));
        *lines = lines.saturating_add(1);
        if written.next > last.next {
            *last = written;
        }
    }

    /// By CPU.
    pub(crate) fn into_written(self) -> impl Iterator<Item = (u32, Written)> {
        self.found.into_iter().map(|(cpu, (written, _))| (cpu, written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sequence: u64, record: u64, lost: u64) -> String {
        format!(
            r#"{{"version":1,"kind":"fork","time":"t{record}","sequence":{sequence},"record":{{"cpu":1,"sequence":{record},"lost":{lost}}}}}"#
        )
    }

    /// What is found in lines, of which the last is read first.
    fn written(lines: &[String], since: u64) -> BTreeMap<u32, Written> {
        read(lines, &Told { since, from_first: true, lost: Vec::new() })
    }

    fn read(lines: &[String], told: &Told) -> BTreeMap<u32, Written> {
        let mut reading = Reading::new(told, 2);
        let _read = lines.iter().rev().take_while(|line| reading.read(line)).count();
        reading.into_written().collect()
    }

    fn at(next: u64, lost: u64, time: &str) -> Written {
        Written { next, lost, time: time.to_owned() }
    }

    #[test]
    fn how_far_lines_go_is_what_the_last_of_each_cpu_say() {
        let others = [line(8, 9, 2), line(9, 10, 3), r#"{"kind":"exec"}"#.to_owned(), "no line".to_owned()];
        assert_eq!(written(&others, 6).get(&1), Some(&at(11, 3, "t10")));
        let lost = |numbers| LineLoss { cpu: 1, before: 7, after: None, until: "t".into(), numbers };
        let lost = |numbers| {
            serde_json::json!({"time": "t", "sequence": 10, "lost_records": lost(numbers)}).to_string()
        };
        let one = |lines: &[String], since| written(lines, since).remove(&1);
        assert_eq!(one(&[line(9, 4, 0), lost(Some([5, 19]))], 7), Some(at(20, 7, "t")), "they are told of");
        assert_eq!(
            one(&[line(9, 4, 0), lost(None)], 7),
            Some(at(5, 0, "t4")),
            "the next record says how many"
        );
        assert_eq!(
            one(&[line(9, 5, 0), line(10, 4, 0)], 7),
            Some(at(6, 0, "t5")),
            "one interrupted the other"
        );
        assert_eq!(
            one(&[line(9, 5, 0), line(10, 6, 0)], 10),
            Some(at(0, 0, "t6")),
            "these are of other numbers"
        );
        assert_eq!(one(&[line(9, 5, 0)], 8), Some(at(6, 0, "t5")));
        // CPU 0 is in no line: whether it wrote any is known only if all lines are there.
        assert_eq!(written(&[line(9, 5, 0)], 8).get(&0), Some(&at(0, 0, "t5")));
        assert_eq!(written(&[line(9, 5, 0)], 7).get(&0), None);
        let later = Told { since: 8, from_first: false, lost: Vec::new() };
        assert_eq!(
            read(&[line(9, 5, 0)], &later).get(&0),
            None,
            "what it made before is in lines that are gone"
        );
        let odd = line(9, u64::MAX, u64::MAX);
        assert_eq!(one(&[odd], 0), Some(at(u64::MAX, u64::MAX, &format!("t{}", u64::MAX))));
    }
}
