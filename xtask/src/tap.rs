// SPDX-License-Identifier: GPL-2.0

//! Reads TAP, line by line, out of a console on which others write too.

use serde::{Deserialize, Serialize};

/// One test's result.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub state: State,
    pub name: String,
    /// What stands behind a `#`: why it was skipped, for example.
    pub why: String,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Clone, Copy, Serialize, Deserialize)]
pub enum State {
    Passed,
    Failed,
    Skipped,
    /// It failed, and was expected to.
    Expected,
}

#[derive(Default)]
pub struct Tap {
    pub planned: Option<usize>,
    pub outcomes: Vec<Outcome>,
    pub bail: Option<String>,
}

impl Tap {
    /// Takes a line; true where it was a test's result.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(count) = line.strip_prefix("1..") {
            let count = count.split_whitespace().next().and_then(|n| n.parse().ok());
            self.planned = count.map(|n: usize| n + self.planned.unwrap_or(0)).or(self.planned);
        }
        if let Some(why) = line.strip_prefix("Bail out!") {
            self.bail = Some(why.trim().to_string());
        }
        let (good, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return false,
        };
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches([' ', '-']);
        // The kernel's own tests put the directive behind the name or before it: "ok 7 # SKIP name".
        let (name, why) = match rest.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
            Some((directive, name)) => (name, directive),
            None => rest.split_once(" # ").unwrap_or((rest, "")),
        };
        let state = match why.split_whitespace().next().unwrap_or_default() {
            word if word.eq_ignore_ascii_case("skip") => State::Skipped,
            word if word.eq_ignore_ascii_case("xfail") => State::Expected,
            _ if good => State::Passed,
            _ => State::Failed,
        };
        self.outcomes.push(Outcome { state, name: name.trim().into(), why: why.trim().into() });
        true
    }

    /// Takes a line that the kernel printed of its own tests, KUnit's, whose suites are indented.
    pub fn kernel_line(&mut self, line: &str) -> bool {
        let text = line.strip_prefix('[').and_then(|l| l.split_once("] ")?.1.strip_prefix("    "));
        text.is_some_and(|text| self.line(text))
    }

    /// What is wrong with the report as a whole.
    pub fn complaint(&self) -> Option<String> {
        match (&self.bail, self.planned) {
            (Some(why), _) => Some(format!("the tests gave up: {why}")),
            (None, None) => Some("the tests printed no plan".into()),
            (None, Some(0)) => Some("there are no tests".into()),
            (None, Some(n)) if n != self.outcomes.len() => {
                Some(format!("{n} tests were planned, {} reported", self.outcomes.len()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tap {
        let mut tap = Tap::default();
        for line in text.lines() {
            tap.line(line);
        }
        tap
    }

    #[test]
    fn reads_results() {
        let tap =
            read("TAP version 13\n1..3\nok 1 - A1 sigbus\n# why\nnot ok 2 - A2\nok 3 - A3 # SKIP no thp\n");
        let states: Vec<_> = tap.outcomes.iter().map(|o| o.state).collect();
        assert_eq!(states, [State::Passed, State::Failed, State::Skipped]);
        assert_eq!(tap.outcomes[0].name, "A1 sigbus");
        assert_eq!(tap.complaint(), None);
    }

    #[test]
    fn reads_the_kernel_s_own() {
        let mut tap = Tap::default();
        for line in [
            "[    0.511] KTAP version 1",
            "[    0.511] 1..1",
            "[    0.512]     KTAP version 1",
            "[    0.512]     # Subtest: rust_userfault",
            "[    0.512]     1..2",
            "[    0.513]     ok 1 a19_misaligned",
            "[    0.514] something else",
            "[    0.515]     not ok 2 a18_flags",
            "[    0.516] ok 1 rust_userfault",
        ] {
            tap.kernel_line(line);
        }
        let states: Vec<_> = tap.outcomes.iter().map(|o| (o.name.as_str(), o.state)).collect();
        assert_eq!(states, [("a19_misaligned", State::Passed), ("a18_flags", State::Failed)]);
        assert_eq!(tap.complaint(), None);
    }

    #[test]
    fn reads_the_directives_of_upstream_s_tests() {
        let tap = read(
            "ok 1 # SKIP move on hugetlb (feature missing)\nok 2 # XFAIL overlapping\n\
             ok 3 guard.anon.cow # SKIP only anon\nnot ok 4 # error pin\nok 5 a-b (#1)\nok 6 c #  d\n",
        );
        use State::*;
        let states: Vec<_> = tap.outcomes.iter().map(|o| o.state).collect();
        assert_eq!(states, [Skipped, Expected, Skipped, Failed, Passed, Passed]);
        let names: Vec<_> = tap.outcomes.iter().map(|o| o.name.as_str()).collect();
        let wanted =
            ["move on hugetlb (feature missing)", "overlapping", "guard.anon.cow", "pin", "a-b (#1)", "c"];
        assert_eq!(names, wanted);
        assert_eq!(tap.outcomes[2].why, "SKIP only anon");
    }

    #[test]
    fn misses_what_was_not_reported() {
        assert!(read("1..2\nok 1 - a\n").complaint().is_some());
        assert!(read("ok 1 - a\n").complaint().is_some());
        assert!(read("1..1\nBail out! no memory\n").complaint().is_some_and(|c| c.contains("no memory")));
    }
}
