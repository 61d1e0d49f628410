// SPDX-License-Identifier: GPL-2.0

//! What two kernels said of suites that were run once or more, and what comes of it.
//!
//! Some of upstream's tests depend on timing and fail now and then, on a pristine kernel too. A
//! suite that gets into trouble or differs is therefore run again, on both kernels, until something
//! that ours said is something that the pristine one said, in whichever try. What preceded it is
//! reported, for a fault of ours may be one that shows only now and then. A kernel that complains or
//! hangs has failed: no other try makes up for that.

use crate::selftests::{Run, Suite};
use crate::verdicts::{compare, Compared, Count, Said};
use std::fmt::Write;

/// As often as this a suite is run, at most.
const TRIES: [&str; 3] = ["1st", "2nd", "3rd"];
const KERNELS: [&str; 2] = ["pristine", "ours"];
/// What a kernel said of a suite that it did not come to.
const NOTHING: &Said = &Said { outcomes: Vec::new(), status: None, seconds: 0 };

/// A suite on both kernels.
struct Pair<'a> {
    said: [&'a Said; 2],
    trouble: Vec<String>,
    compared: Compared,
}

impl<'a> Pair<'a> {
    fn new(runs: [&'a Run; 2], name: &str) -> Self {
        let said = runs.map(|run| run.suites.get(name).unwrap_or(NOTHING));
        let trouble = |(said, kernel): (&&Said, _)| Some(format!("{} on {kernel}", said.trouble()?));
        let trouble = said.iter().zip(KERNELS).filter_map(trouble).collect();
        Self { said, trouble, compared: compare(said[0], said[1]) }
    }

    fn agrees(&self) -> bool {
        self.trouble.is_empty() && self.compared.different == 0
    }
}

/// All tries: the first with all suites, each further one with those that did not agree before.
pub struct Tries<'a> {
    suites: &'a [&'static Suite],
    runs: Vec<[Run; 2]>,
}

impl<'a> Tries<'a> {
    pub fn new(suites: &'a [&'static Suite], theirs: Run, ours: Run) -> Self {
        Self { suites, runs: vec![[theirs, ours]] }
    }

    pub fn add(&mut self, theirs: Run, ours: Run) {
        self.runs.push([theirs, ours]);
    }

    /// The suites to try again, and what the next try is called.
    pub fn again(&self) -> Option<(&'static str, Vec<&'static Suite>)> {
        let next = TRIES.get(self.runs.len())?;
        if self.runs.iter().flatten().any(|run| run.trouble.is_some()) {
            return None;
        }
        let differs = |suite: &&&Suite| !self.settled(suite.name).1.agrees();
        let suites: Vec<_> = self.suites.iter().filter(differs).copied().collect();
        (!suites.is_empty()).then_some((next, suites))
    }

    /// A suite in one try of the pristine kernel and one of ours.
    fn pair(&self, name: &str, theirs: usize, ours: usize) -> Pair<'_> {
        Pair::new([&self.runs[theirs][0], &self.runs[ours][1]], name)
    }

    /// A suite as soon as it agrees, or else in its last try, and how many tries precede that.
    fn settled(&self, name: &str) -> (usize, Pair<'_>) {
        let last = self.runs.len() - 1;
        // With each try, it and those that precede it.
        let pairs = |n| (0..=n).flat_map(move |i| [(n, i, n), (n, n, i)]);
        let agree = (0..=last)
            .flat_map(pairs)
            .map(|(n, theirs, ours)| (n, self.pair(name, theirs, ours)))
            .find(|(_, pair)| pair.agrees());
        agree.unwrap_or_else(|| (last, self.pair(name, last, last)))
    }

    /// What the pristine kernel said, of each suite where it agreed with ours if it did.
    pub fn theirs(&self) -> Run {
        let mut theirs = self.runs[0][0].clone();
        for suite in self.suites {
            let (_, pair) = self.settled(suite.name);
            if pair.agrees() {
                theirs.suites.insert(suite.name.into(), pair.said[0].clone());
            }
        }
        theirs
    }

    /// What came of it, and how many things failed.
    pub fn report(&self) -> (String, usize) {
        let (mut total, mut failed) = (Count::default(), 0);
        let (mut diffs, mut late) = (String::new(), Vec::new());
        let head = format!("{:>6}{:>6}{:>6}{:>6}   ", "pass", "fail", "xfail", "skip");
        let mut out = format!("\n{:28} {:^27}  {:^27}\n", "", KERNELS[0], KERNELS[1]);
        let _ = writeln!(out, "{:28} {head}  {head}", "suite");
        for suite in self.suites {
            let (tried, pair) = self.settled(suite.name);
            let Count { passed, failed: alike, skipped, expected } = pair.compared.same;
            total.passed += passed + expected;
            total.failed += alike;
            total.skipped += skipped;
            failed += pair.trouble.len() + pair.compared.different;
            let mut verdicts: Vec<_> = pair.trouble.iter().map(|t| format!("FAILED: {t}")).collect();
            match pair.compared.different {
                0 if pair.agrees() => verdicts.push(verdict(pair.compared.same)),
                0 => {}
                different => verdicts.push(format!("DIFFERS in {different}")),
            }
            let mut verdict = verdicts.join("; ");
            if tried > 0 {
                verdict += &format!(" at the {} try", TRIES[tried]);
                if pair.agrees() {
                    late.push(suite.name);
                }
            }
            let columns = pair.said.map(|s| {
                let Count { passed, failed, skipped, expected } = s.count();
                format!("{passed:>6}{failed:>6}{expected:>6}{skipped:>6}   ")
            });
            let _ = writeln!(out, "{:28} {}  {verdict}", suite.name, columns.join("  "));
            diffs += &self.diffs(suite.name, tried);
        }
        out += &diffs;
        for (runs, nth) in self.runs.iter().zip(TRIES) {
            for (run, kernel) in runs.iter().zip(KERNELS) {
                if let Some(trouble) = &run.trouble {
                    failed += 1;
                    let _ = writeln!(out, "\nthe {kernel} kernel, {nth} try: {trouble}");
                }
            }
        }
        if total.failed > 0 {
            let _ =
                writeln!(out, "\nfail on both kernels alike, and are counted neither way: {}", total.failed);
        }
        if !late.is_empty() {
            let _ = writeln!(out, "\nsame, but not at the 1st try: {}", late.join(" "));
        }
        let _ =
            writeln!(out, "\n{} passed, {failed} failed, {} skipped on both", total.passed, total.skipped);
        (out, failed)
    }

    /// What was wrong with a suite in its tries.
    fn diffs(&self, name: &str, tried: usize) -> String {
        let mut out = String::new();
        for (i, nth) in TRIES.iter().enumerate().take(tried + 1) {
            let Pair { trouble, compared, .. } = self.pair(name, i, i);
            if !trouble.is_empty() {
                let _ = writeln!(out, "\n{name}, {nth} try: {}", trouble.join("; "));
            }
            if compared.different > 0 {
                let _ = write!(out, "\n{name}, {nth} try: - pristine, + ours\n{}", compared.diff);
            }
        }
        out
    }
}

fn verdict(same: Count) -> String {
    match same {
        Count { passed: 0, failed: 0, expected: 0, .. } => "nothing ran: all skipped".into(),
        Count { failed: 0, .. } => "same".into(),
        Count { failed, .. } => format!("same: {failed} fail on both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites::SUITES;
    use crate::tap::{Outcome, State};

    fn run(suites: &[(usize, State, i32)]) -> Run {
        let said = |state, status| Said {
            outcomes: vec![Outcome { state, name: "a".into(), why: String::new() }],
            status: Some(status),
            seconds: 1,
        };
        let suites = suites.iter().map(|&(i, state, status)| (SUITES[i].name.into(), said(state, status)));
        Run { suites: suites.collect(), trouble: None }
    }

    fn names(tries: &Tries) -> Vec<&'static str> {
        tries.again().map_or(Vec::new(), |(_, suites)| suites.iter().map(|s| s.name).collect())
    }

    const OK: (State, i32) = (State::Passed, 0);
    const BAD: (State, i32) = (State::Failed, 1);
    const DEAD: (State, i32) = (State::Passed, 139);

    fn two(first: (State, i32), second: (State, i32)) -> Run {
        run(&[(0, first.0, first.1), (1, second.0, second.1)])
    }

    #[test]
    fn runs_no_suite_again_that_agrees() {
        let suites = [&SUITES[0], &SUITES[1]];
        let tries = Tries::new(&suites, two(OK, BAD), two(OK, BAD));
        assert!(tries.again().is_none());
        let (text, failed) = tries.report();
        assert!(failed == 0 && !text.contains(" try") && text.contains("1 fail on both"), "{text}");
    }

    #[test]
    fn is_content_with_a_later_try() {
        let suites = [&SUITES[0], &SUITES[1]];
        let mut tries = Tries::new(&suites, two(BAD, OK), two(OK, DEAD));
        assert_eq!(names(&tries), [SUITES[0].name, SUITES[1].name]);
        tries.add(two(OK, OK), two(OK, DEAD));
        assert_eq!(names(&tries), [SUITES[1].name]);
        tries.add(run(&[(1, OK.0, OK.1)]), run(&[(1, OK.0, OK.1)]));
        assert!(tries.again().is_none());
        let (text, failed) = tries.report();
        assert_eq!(failed, 0, "{text}");
        for part in [
            "same at the 2nd try\n",
            "same at the 3rd try\n",
            &format!("\n{}, 1st try: - pristine, + ours\n- Failed a", SUITES[0].name),
            &format!("\n{}, 2nd try: died of signal 11 on ours\n", SUITES[1].name),
            &format!("not at the 1st try: {} {}\n", SUITES[0].name, SUITES[1].name),
            "\n2 passed, 0 failed, 0 skipped",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        // Not what the pristine kernel said by mistake.
        assert_eq!(tries.theirs().suites, two(OK, OK).suites);
    }

    #[test]
    fn fails_what_agrees_in_no_try() {
        let suites = [&SUITES[0], &SUITES[1]];
        let mut tries = Tries::new(&suites, two(OK, OK), two(BAD, OK));
        for nth in ["2nd", "3rd"] {
            assert_eq!(tries.again().map(|(nth, suites)| (nth, suites.len())), Some((nth, 1)));
            tries.add(run(&[(0, OK.0, OK.1)]), run(&[(0, BAD.0, BAD.1)]));
        }
        assert!(tries.again().is_none());
        let (text, failed) = tries.report();
        // The test and the exit status.
        assert_eq!(failed, 2);
        assert!(
            text.contains("DIFFERS in 2 at the 3rd try") && text.contains("1 passed, 2 failed"),
            "{text}"
        );
    }

    #[test]
    fn agrees_across_tries() {
        // Both kernels can say both.
        let suites = [&SUITES[0]];
        let mut tries = Tries::new(&suites, run(&[(0, OK.0, OK.1)]), run(&[(0, BAD.0, BAD.1)]));
        tries.add(run(&[(0, BAD.0, BAD.1)]), run(&[(0, OK.0, OK.1)]));
        assert!(tries.again().is_none());
        let (text, failed) = tries.report();
        assert!(failed == 0 && text.contains("1st try: -") && text.contains("2nd try: -"), "{text}");
        // A suite that dies on both is in trouble, not the same.
        let dead = || run(&[(0, DEAD.0, DEAD.1)]);
        assert!(Tries::new(&suites, dead(), dead()).again().is_some());
    }

    #[test]
    fn no_try_makes_up_for_a_kernel_that_complains() {
        let suites = [&SUITES[0], &SUITES[1]];
        let ours = Run { trouble: Some("WARNING".into()), ..run(&[(0, BAD.0, BAD.1)]) };
        let tries = Tries::new(&suites, two(OK, OK), ours.clone());
        assert!(tries.again().is_none());
        let mut tries = Tries::new(&suites, two(OK, OK), two(OK, BAD));
        tries.add(two(OK, OK), Run { trouble: ours.trouble, ..two(OK, OK) });
        assert!(tries.again().is_none());
        let (text, failed) = tries.report();
        assert!(failed == 1 && text.contains("the ours kernel, 2nd try: WARNING"), "{text}");
    }
}
