// SPDX-License-Identifier: GPL-2.0

//! Watches a guest's console: what the kernel complains of, what a program printed, how it ended.

use regex::Regex;
use std::collections::{BTreeMap, VecDeque};

/// Every one of these in a line of the kernel is a failed run, whatever the tests say.
const COMPLAINTS: &str = concat!(
    r"Kernel panic|\bOops\b|\bBUG: |\bWARNING: |\bKASAN: |general protection fault|kernel BUG at",
    r"|Unable to handle kernel|panicked at|ODEBUG:|list_(add|del) corruption|corruption detected|sleeping function called|scheduling while atomic",
    r"|possible recursive locking|possible circular locking|inconsistent lock state|suspicious RCU usage",
    r"|lock held when returning|invalid wait context|bad unlock balance|\bINFO: (task|rcu|trying|possible)",
    r"|rcu.*\bstall|soft lockup|hard LOCKUP|Bad rss-counter|page still charged|Bad page (state|map|cache)",
    r"|non-zero pgtables_bytes|unreferenced object|nobody cared|Out of memory|ORC unwind|stack guard page",
    // A checker that has given up, and tables that are not what they should be.
    r"|kmemleak: (Cannot|Memory pool)|Bad swap (file|offset) entry|bad p[gmu4]d\b|UBSAN: ",
);
/// How KCSAN begins a report; the two functions follow that it has seen at one place.
const RACE: &str = "BUG: KCSAN: ";
/// The line that ends one.
const RACE_END: &str = "==================";
/// Functions of ours there: Rust, or what Rust calls to come to an inline function of C.
const OURS: &str = r"\b(_R|rust_helper_)";
/// What the kernel is tainted with when it has run its own unit tests.
const TAINT_TEST: u64 = 1 << 18;
/// How many lines after a complaint belong to it.
const TRACE: usize = 40;
/// How many lines are kept to be shown when a run fails.
const LAST: usize = 30;

pub struct Console {
    complaint: Regex,
    /// A complaint in the middle of a line of a test.
    spliced: Regex,
    time: Regex,
    ours: Regex,
    last: VecDeque<String>,
    /// Lines of complaints with what follows them.
    pub complaints: Vec<String>,
    /// Data races that are at no place of ours, and how often each was reported. Upstream has many
    /// that it knows of, so they are no complaint. It is said of those that Rust has called.
    pub races: BTreeMap<String, usize>,
    /// The race whose report has begun.
    race: Option<String>,
    trace: usize,
    /// The program that prints now.
    running: Option<String>,
    /// How each program ended.
    pub ended: BTreeMap<String, i32>,
    /// Whether the guest said that it had run everything.
    pub done: bool,
}

/// What a line of the console is.
pub enum Line<'a> {
    /// The kernel's, or of nobody in particular.
    Kernel(&'a str),
    /// The program's that runs.
    Program(&'a str),
    /// The program of this name begins.
    Begin(&'a str),
    /// It ended with this status.
    End(i32),
    /// Another word from the guest to us.
    Mark,
}

impl Console {
    pub fn new() -> Self {
        Self {
            complaint: Regex::new(COMPLAINTS).expect("COMPLAINTS is a regular expression"),
            spliced: Regex::new(&format!(r"\[ *\d+\.\d+\] .*(?:{COMPLAINTS})"))
                .expect("a regular expression"),
            time: Regex::new(r"^\[ *\d+\.\d+\]").expect("a regular expression"),
            ours: Regex::new(OURS).expect("OURS is a regular expression"),
            last: VecDeque::new(),
            complaints: Vec::new(),
            races: BTreeMap::new(),
            race: None,
            trace: 0,
            running: None,
            ended: BTreeMap::new(),
            done: false,
        }
    }

    pub fn line<'a>(&mut self, line: &'a str) -> Line<'a> {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line.to_string());
        if let Some(word) = line.strip_prefix("userfault: ") {
            return self.mark(word);
        }
        let kernel = self.time.is_match(line);
        // A test may say "WARNING:" itself, in its diagnostics.
        let said_by_test = ["#", "ok ", "not ok "].iter().any(|p| line.starts_with(p));
        let race = line.split_once(RACE).map(|(_, race)| race).filter(|race| !self.ours.is_match(race));
        match (race, self.race.take()) {
            (Some(race), _) => {
                *self.races.entry(race.into()).or_default() += 1;
                self.race = Some(race.into());
            }
            (None, Some(race)) if self.ours.is_match(line) => {
                *self.races.entry(format!("{race}, called by Rust")).or_default() += 1;
                *self.races.entry(race).or_default() -= 1;
                self.races.retain(|_, times| *times > 0);
            }
            (None, race) => self.race = race.filter(|_| !line.contains(RACE_END)),
        }
        let complaint = match said_by_test {
            _ if race.is_some() => false,
            true => self.spliced.is_match(line),
            false => self.complaint.is_match(line),
        };
        if complaint {
            if let (0, Some(name)) = (self.trace, &self.running) {
                self.complaints.push(format!("while {name} ran:"));
            }
            self.trace = TRACE;
        }
        if self.trace > 0 && (complaint || !said_by_test) {
            self.trace -= 1;
            self.complaints.push(line.to_string());
        }
        match self.running.is_some() && !kernel {
            true => Line::Program(line),
            false => Line::Kernel(line),
        }
    }

    fn mark<'a>(&mut self, word: &'a str) -> Line<'a> {
        let mut words = word.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("begin"), Some(name), _) => {
                self.running = Some(name.into());
                return Line::Begin(name);
            }
            (Some("end"), Some(name), Some(status)) => {
                let status = status.parse().unwrap_or(-1);
                self.running = None;
                self.ended.insert(name.into(), status);
                return Line::End(status);
            }
            (Some("tainted"), Some(mask), _) if mask.parse().is_ok_and(|m: u64| m & !TAINT_TEST == 0) => {}
            (Some("tainted"), ..) => self.complaints.push(format!("the kernel is {word}")),
            (Some("done"), ..) => self.done = true,
            _ => {}
        }
        Line::Mark
    }

    /// The last lines, for a message.
    pub fn tail(&self) -> String {
        self.last.iter().map(|l| format!("    {l}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &str) -> Console {
        let mut console = Console::new();
        for line in text.lines() {
            console.line(line);
        }
        console
    }

    #[test]
    fn sees_complaints() {
        for bad in [
            "[   1.5] WARNING: CPU: 0 PID: 1 at mm/memory.c:1",
            "[   1.5] BUG: KASAN: slab-use-after-free in x",
            "ok 1[   1.5] BUG: Bad rss-counter state mm:1",
            "[   1.5] WARNING: possible circular locking dependency detected",
            "[   9.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "unreferenced object 0xffff (size 64):",
            "[   1.5] BUG: KCSAN: data-race in rust_helper_set_pte_at / ptep_get",
            "[   1.5] kmemleak: Cannot allocate a kmemleak_object structure",
            "[   1.5] get_swap_device: Bad swap offset entry 1",
            "[   1.5] mm/pgtable-generic.c:54: bad pmd 0000000012345678(0000000000000001)",
            "userfault: tainted 512",
            "userfault: tainted 262656",
        ] {
            assert!(!watch(bad).complaints.is_empty(), "{bad}");
        }
    }

    #[test]
    fn does_not_see_what_is_none() {
        for good in [
            "[   0.0] kasan: KernelAddressSanitizer initialized (generic)",
            "[   0.0] DEBUG: x",
            "[   9.0] Memory failure: 0x1: Sending SIGBUS to a:1 due to hardware memory corruption",
            "# WARNING: not the kernel's",
            "userfault: tainted 0",
            "userfault: tainted 262144",
            "[   0.1] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
        ] {
            assert!(watch(good).complaints.is_empty(), "{good}");
        }
    }

    #[test]
    fn counts_races_of_upstream() {
        let race = "[   1.5] BUG: KCSAN: data-race in filemap_map_pages / folio_add_lru";
        let console = watch(&format!("{race}\n{race}\nok 1 - a{race}"));
        assert!(console.complaints.is_empty());
        assert_eq!(console.races["data-race in filemap_map_pages / folio_add_lru"], 3);
    }

    #[test]
    fn says_whether_rust_called() {
        let race = "[   1.5] BUG: KCSAN: data-race in mas_walk / mas_store";
        let (frame, end) =
            ("[   1.5]  _RNvNtCs1_6kernel2mm4anon4lock+0x10/0x20", "[   1.5] ======================");
        let console = watch(&format!("{race}\n{end}\n{frame}\n{race}\n{frame}\n{frame}\n{end}"));
        assert!(console.complaints.is_empty());
        assert_eq!(console.races["data-race in mas_walk / mas_store"], 1);
        assert_eq!(console.races["data-race in mas_walk / mas_store, called by Rust"], 1);
    }

    #[test]
    fn knows_who_printed() {
        let mut console = watch("userfault: begin tests\nuserfault: alive");
        assert!(matches!(console.line("ok 1 - a"), Line::Program(_)));
        assert!(matches!(console.line("[   1.5] hello"), Line::Kernel(_)));
        assert!(matches!(console.line("userfault: end tests 3"), Line::End(3)));
        console.line("userfault: done");
        assert_eq!((console.ended["tests"], console.done), (3, true));
    }
}
