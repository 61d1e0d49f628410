// SPDX-License-Identifier: GPL-2.0

//! Reads TAP, line by line, out of a console on which others write too.

/// One test's result.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub name: String,
    pub state: State,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum State {
    Passed,
    Failed,
    Skipped,
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
        let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
        let state = match good {
            _ if directive.to_uppercase().starts_with("SKIP") => State::Skipped,
            true => State::Passed,
            false => State::Failed,
        };
        self.outcomes.push(Outcome { name: name.trim().into(), state });
        true
    }

    /// Takes a line that the kernel printed of its own tests, KUnit's, whose suites are indented.
    pub fn kernel_line(&mut self, line: &str) -> bool {
        let text = line.strip_prefix('[').and_then(|l| Some(l.split_once("] ")?.1.strip_prefix("    ")?));
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
    fn misses_what_was_not_reported() {
        assert!(read("1..2\nok 1 - a\n").complaint().is_some());
        assert!(read("ok 1 - a\n").complaint().is_some());
        assert!(read("1..1\nBail out! no memory\n").complaint().is_some_and(|c| c.contains("no memory")));
    }
}
