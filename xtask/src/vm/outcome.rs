//! What came of a job: read from what it printed and how it ended.

use std::fmt;

use super::job::Speaks;

/// `timeout` ends with these when time is up.
const TIMED_OUT: &[i32] = &[124, 137];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed {
        status: i32,
    },
    TimedOut,
    /// The machine ended, or hung, before the job did.
    Lost,
    NotRun,
}

/// What Rust's test harness counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ignored: usize,
    /// Left out by name.
    pub(super) filtered: usize,
    /// The one that was begun and has not ended.
    pub(super) running: Option<String>,
    /// Whether it came to its end.
    complete: bool,
}

impl Counts {
    pub(super) fn read(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines() {
            if let Some(total) = line.strip_prefix("test result: ") {
                let number = |word: &str| {
                    let part = total.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
                    part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
                };
                counts.passed = number("passed");
                counts.failed = number("failed");
                counts.ignored = number("ignored");
                counts.filtered = number("filtered out");
                counts.complete = true;
                counts.running = None;
            } else if let Some((test, result)) =
                line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
                && !counts.complete
            {
                // What a test prints past the harness stands between its name and its result.
                counts.running = Some(test.to_owned());
                counts.take(result);
            } else if counts.running.is_some() {
                counts.take(line);
            }
        }
        counts
    }

    fn take(&mut self, result: &str) {
        let count = match result.trim() {
            result if result.ends_with("ok") => &mut self.passed,
            result if result.ends_with("FAILED") => &mut self.failed,
            result if result.contains("ignored") => &mut self.ignored,
            _ => return,
        };
        *count += 1;
        self.running = None;
    }
}

impl Outcome {
    pub(super) fn of(status: i32, speaks: Speaks, counts: &Counts) -> Self {
        match status {
            // A harness that exits with 0 without having run its tests, or any at all, has tested nothing.
            0 if speaks == Speaks::TestHarness && !counts.complete => Self::Failed { status },
            0 => Self::Passed,
            status if TIMED_OUT.contains(&status) => Self::TimedOut,
            status => Self::Failed { status },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "ok"),
            Self::Failed { status } => write!(f, "FAILED (exit status {status})"),
            Self::TimedOut => write!(f, "TIMED OUT"),
            Self::Lost => write!(f, "LOST with the machine"),
            Self::NotRun => write!(f, "NOT RUN"),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.ignored + self.filtered;
        write!(f, "{} passed, {} failed, {skipped} skipped", self.passed, self.failed)?;
        if let Some(test) = &self.running {
            write!(f, ", while `{test}` was running")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_the_harness_prints() {
        const BEGIN: &str = "\nrunning 3 tests\ntest one ... ok\ntest two ... ";
        for (rest, expect) in [
            (
                "FAILED\ntest three ... ok\n\nfailures:\n\n---- two stdout ----\ntest x ... ok\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.00s\n",
                "2 passed, 1 failed, 4 skipped",
            ),
            ("", "1 passed, 0 failed, 0 skipped, while `two` was running"),
            (
                "something it says\nok\ntest three ... ",
                "2 passed, 0 failed, 0 skipped, while `three` was running",
            ),
            ("ignored, because\n", "1 passed, 0 failed, 1 skipped"),
        ] {
            assert_eq!(Counts::read(&format!("{BEGIN}{rest}")).to_string(), expect, "{rest}");
        }
    }

    #[test]
    fn a_harness_that_was_cut_short_has_not_passed() {
        let whole = Counts::read("test one ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n");
        let cut = Counts::read("test one ... ok\n");
        for (status, speaks, counts, expect) in [
            (0, Speaks::TestHarness, &whole, Outcome::Passed),
            (0, Speaks::TestHarness, &cut, Outcome::Failed { status: 0 }),
            (0, Speaks::Status, &cut, Outcome::Passed),
            (101, Speaks::TestHarness, &whole, Outcome::Failed { status: 101 }),
            (124, Speaks::TestHarness, &cut, Outcome::TimedOut),
        ] {
            assert_eq!(Outcome::of(status, speaks, counts), expect);
        }
    }
}
