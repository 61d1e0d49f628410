// SPDX-License-Identifier: GPL-2.0

//! What a suite of tests that are not ours said, and how that differs between two kernels.

use crate::tap::{Outcome, State, Tap};
use regex::Regex;
use serde::{Deserialize, Serialize};
use similar::{Algorithm, ChangeTag, DiffOp, DiffTag};
use std::fmt::Write;
use std::sync::LazyLock;

/// A suite on one kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub outcomes: Vec<Outcome>,
    /// Its exit status; none where the guest ended before it.
    pub status: Option<i32>,
    /// How long it took. Nobody compares this.
    pub seconds: u64,
}

/// How many outcomes of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub expected: usize,
}

impl Count {
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut count = Self::default();
        for outcome in outcomes {
            *match outcome.state {
                State::Passed => &mut count.passed,
                State::Failed => &mut count.failed,
                State::Skipped => &mut count.skipped,
                State::Expected => &mut count.expected,
            } += 1;
        }
        count
    }
}

impl Said {
    pub fn count(&self) -> Count {
        Count::of(&self.outcomes)
    }

    /// What no test may do, on whichever kernel.
    pub fn trouble(&self) -> Option<String> {
        match self.status {
            None => Some("did not come to its end".into()),
            // timeout(1) lets the program die of the signal that it sends.
            Some(137 | 143) => Some(format!("was killed after {} seconds", self.seconds)),
            Some(status) if status > 128 => Some(format!("died of signal {}", status - 128)),
            Some(status) if !(0..=125).contains(&status) => Some("could not be run".into()),
            Some(_) => None,
        }
    }
}

/// A step inside a test: khugepaged and its like say in colour how it went.
static STEP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^# (.*?)[. ]*\x1b\[3([0-9])m(.*?)\x1b\[0m").expect("a regular expression"));
const RED: &str = "1";

/// stress-ng says so in its summary, and ends well.
static SKIPPED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^stress-ng: info: +\[\d+\] skipped: [1-9]\d*: (.*)").expect("a regular expression")
});

/// What differs from one run to the next in the name of a test, or in why it was skipped.
static VARIES: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
    [
        // A line of the kernel that fell into one of a test.
        (r"\[ *\d+\.\d{6}\].*", ""),
        // An address.
        (r"\b0x[0-9a-f]{5,}\b", "0x..."),
        // A time that was measured.
        (r"\b\d+(\.\d+)? ?(ns|us|ms|s|sec|seconds)\b", "TIME"),
    ]
    .map(|(what, with)| (Regex::new(what).expect("a regular expression"), with))
});

fn normal(text: &str) -> String {
    let all = VARIES.iter();
    all.fold(text.to_string(), |text, (what, with)| what.replace_all(&text, *with).into_owned()).trim().into()
}

/// Reads a suite's lines, one after the other.
#[derive(Default)]
pub struct Reader {
    tap: Tap,
    outcomes: Vec<Outcome>,
}

impl Reader {
    pub fn line(&mut self, line: &str) {
        if let Some(why) = line.strip_prefix("1..0 # SKIP") {
            self.push(State::Skipped, "all of it", why);
        } else if self.tap.line(line) {
            if let Some(outcome) = self.tap.outcomes.last() {
                let Outcome { state, name, why } = outcome.clone();
                self.push(state, &name, &why);
            }
        } else if let Some(why) = SKIPPED.captures(line) {
            self.push(State::Skipped, "all of it", &why[1]);
        } else if let Some(step) = STEP.captures(line).filter(|step| &step[2] == RED) {
            // The last step alone decides on what the test reports.
            self.push(State::Failed, &format!("(step) {}: {}", &step[1], &step[3]), "");
        }
    }

    fn push(&mut self, state: State, name: &str, why: &str) {
        self.outcomes.push(Outcome { state, name: normal(name), why: normal(why) });
    }

    pub fn end(mut self, status: Option<i32>, seconds: u64) -> Said {
        let Tap { planned, outcomes, bail } = &self.tap;
        let speaks_tap = planned.is_some() || bail.is_some() || !outcomes.is_empty();
        match (self.tap.complaint(), status) {
            (Some(complaint), _) if speaks_tap => self.push(State::Failed, &complaint, ""),
            // A program without a word of TAP, but for one that says that it skips.
            (_, Some(status)) if !speaks_tap && self.outcomes.is_empty() => {
                let state = match status {
                    0 => State::Passed,
                    4 => State::Skipped,
                    _ => State::Failed,
                };
                self.push(state, &format!("exit status {status}"), "");
            }
            _ => {}
        }
        Said { outcomes: self.outcomes, status, seconds }
    }
}

/// A suite on two kernels.
pub struct Compared {
    /// The outcomes that are the same.
    pub same: Count,
    /// How many are not, or are there on one kernel only.
    pub different: usize,
    /// These, with what stands around them.
    pub diff: String,
}

pub fn compare(theirs: &Said, ours: &Said) -> Compared {
    let (old, new) = (&theirs.outcomes, &ours.outcomes);
    let ops = similar::capture_diff_slices(Algorithm::Myers, old, new);
    let mut compared = Compared { same: Count::default(), different: 0, diff: String::new() };
    let mut same = Vec::new();
    for op in &ops {
        match op.tag() {
            DiffTag::Equal => same.extend(&old[op.old_range()]),
            _ => compared.different += op.old_range().len().max(op.new_range().len()),
        }
    }
    compared.same = Count::of(same);
    for group in similar::group_diff_ops(ops, 1) {
        for change in group.iter().flat_map(|op: &DiffOp| op.iter_changes(old, new)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let Outcome { state, name, why } = change.value();
            let _ = writeln!(compared.diff, "{sign} {state:?} {name} {why}");
        }
    }
    if theirs.status != ours.status && theirs.trouble().or(ours.trouble()).is_none() {
        let status = |said: &Said| said.status.unwrap_or(-1);
        compared.different += 1;
        let _ = writeln!(compared.diff, "- exit status {}\n+ exit status {}", status(theirs), status(ours));
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, status: i32) -> Said {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.end(Some(status), 1)
    }

    #[test]
    fn keeps_outcomes_and_steps_that_failed() {
        let said = said(
            "TAP version 13\n1..2\n# Collapse it.... \x1b[32mOK\x1b[0m\nok 1 collapse_full\n\
             # Check it... \x1b[31mFail: Bad return value\x1b[0m\n# Last... \x1b[32mOK\x1b[0m\nok 2 collapse_fork\n",
            0,
        );
        let names: Vec<_> = said.outcomes.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["collapse_full", "(step) Check it: Fail: Bad return value", "collapse_fork"]);
        assert_eq!(said.count(), Count { passed: 2, failed: 1, ..Count::default() });
    }

    #[test]
    fn drops_what_varies() {
        let first = said("1..1\nok 1 moved 0x7f0012345000 in 12.5 ms[    3.123456] Memory failure\n", 0);
        let second = said("1..1\nok 1 moved 0x7fffabcde000 in 9 ms\n", 0);
        assert_eq!(first.outcomes, second.outcomes);
        let compared = compare(&first, &second);
        assert_eq!((compared.same.passed, compared.different), (1, 0));
        // A size is no time, and tells one test from another.
        assert_eq!(normal("8 kB, 0x10, 2 MB"), "8 kB, 0x10, 2 MB");
    }

    #[test]
    fn sees_differences() {
        let theirs = said("1..3\nok 1 a\nok 2 b\nok 3 # SKIP c\n", 0);
        let ours = said("1..3\nok 1 a\nnot ok 2 b\nok 3 # SKIP c\n", 1);
        let compared = compare(&theirs, &ours);
        assert_eq!((compared.same.passed, compared.same.skipped, compared.different), (1, 1, 2));
        assert!(compared.diff.contains("- Passed b") && compared.diff.contains("+ Failed b"));
        assert!(compared.diff.contains("+ exit status 1"));
        // One that is not there at all, and one that gave up.
        assert_eq!(compare(&theirs, &said("1..3\nok 1 a\nok 3 # SKIP c\n", 0)).different, 2);
        assert!(compare(&theirs, &said("1..3\nok 1 a\nBail out! no memory\n", 1)).diff.contains("no memory"));
    }

    #[test]
    fn fails_alike_is_the_same() {
        let bad = said("1..2\nok 1 a\nnot ok 2 b\n", 1);
        let compared = compare(&bad, &bad.clone());
        assert_eq!((compared.same.passed, compared.same.failed, compared.different), (1, 1, 0));
        assert!(compared.diff.is_empty());
    }

    #[test]
    fn reads_suites_that_skip_and_that_speak_no_tap() {
        assert_eq!(said("1..0 # SKIP no THP\n", 4).count(), Count { skipped: 1, ..Count::default() });
        assert_eq!(said("hello\n", 0).count().passed, 1);
        let stress =
            |n| format!("stress-ng: info:  [3] skipped: {n}\nstress-ng: info:  [3] passed: 2: vm (2)\n");
        assert_eq!(said(&stress("0"), 0).count().passed, 1);
        assert_eq!(said(&stress("2: vm (2)"), 0).count(), Count { skipped: 1, ..Count::default() });
        assert_eq!(said("hello\n", 4).count().skipped, 1);
        assert_eq!(said("hello\n", 1).count().failed, 1);
    }

    #[test]
    fn knows_what_no_test_may_do() {
        assert!(said("1..1\nok 1 a\n", 1).trouble().is_none());
        assert!(said("1..1\nok 1 a\n", 139).trouble().is_some_and(|t| t.contains("signal 11")));
        assert!(said("1..1\nok 1 a\n", 143).trouble().is_some_and(|t| t.contains("killed")));
        assert!(said("", 127).trouble().is_some_and(|t| t.contains("run")));
        assert!(Reader::default().end(None, 0).trouble().is_some());
    }
}
