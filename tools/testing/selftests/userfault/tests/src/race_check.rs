// SPDX-License-Identifier: GPL-2.0

//! What has to be when a race is over.

use crate::harness::Outcome;
use crate::knobs::{folio_file, thp_number};
use crate::proc::{entries, status_kib, vmas};
use crate::race::Race;
use crate::special::is_huge;
use crate::sys::{page, pmd, remap_all};
use crate::{ensure_eq, swap, touch};
use anyhow::{ensure, Context};

/// What the kernel counts of a process, in KiB, and of folios.
pub struct Counts {
    rss: u64,
    swap: u64,
    tables: u64,
    /// How often a folio of one size was split, where the kernel counts it.
    splits: Option<u64>,
}

impl Counts {
    /// As it is now, for folios of so many pages.
    pub fn now(unit: usize) -> anyhow::Result<Self> {
        Ok(Self {
            rss: status_kib("RssAnon")?,
            swap: status_kib("VmSwap")?,
            tables: status_kib("VmPTE")?,
            splits: thp_number(&folio_file(unit, "stats/split")).ok(),
        })
    }
}

impl Race {
    /// When all is quiet: each page is in one place, with its content, and can be moved and
    /// reclaimed as any other.
    pub fn check(&self) -> Outcome {
        let stored = self.stored.lock().expect("no panic");
        let there = [entries(self.areas[0])?, entries(self.areas[1])?];
        let mut words = vec![0; page() / size_of::<u64>()];
        let mut left = 0;
        for (index, (first, second)) in there[0].iter().zip(&there[1]).enumerate() {
            let found = usize::from(!first.hole()) + usize::from(!second.hole());
            ensure!(
                found == 1 || self.lossy && found == 0,
                "page {index} is there {found} times: {first:x?}, {second:x?}"
            );
            if found == 0 {
                continue;
            }
            let side = usize::from(first.hole());
            let addr = self.last_byte(side, index);
            let seen = touch::load(addr);
            ensure_eq!(seen, Ok(stored[index]), "the last byte of page {index}");
            ensure!(self.look(&mut words, side, index)?, "page {index} is lost");
            // It is this process's alone, whoever had it before.
            ensure_eq!(touch::store(addr, stored[index]), Ok(()), "page {index}");
            left += 1;
        }
        self.check_counters(left)?;
        if self.lossy {
            return Ok(());
        }
        self.gather()?;
        if self.stays_whole {
            let splits = Counts::now(self.unit)?.splits;
            ensure_eq!(splits, self.before.splits, "splits");
            let huge = self.unit * page() < pmd() || is_huge(self.areas[0])?;
            ensure!(huge, "the huge pages are huge no more");
        }
        if swap::ensure_on().is_ok() {
            swap::out(self.areas[0]).context("reclaim afterwards")?;
        }
        for index in 0..self.nr_pages() {
            ensure!(self.look(&mut words, 0, index)?, "page {index} is lost");
        }
        Ok(())
    }

    fn check_counters(&self, left: usize) -> Outcome {
        let kib = |pages: usize| (pages * page() / 1024) as u64;
        let mut own = vmas()?;
        own.retain(|vma| self.areas.iter().any(|area| vma.span.overlaps(*area)));
        for (name, want) in [
            ("Rss", kib(left)),
            ("Anonymous", kib(left)),
            ("Swap", 0),
            ("Locked", 0),
        ] {
            let sizes: anyhow::Result<Vec<_>> = own.iter().map(|vma| vma.kib(name)).collect();
            let seen: u64 = sizes?.iter().sum();
            ensure_eq!(seen, want, "{name} of both areas");
        }
        // The rest of the process has some too; a move that counts wrong does so many times.
        const SLACK: u64 = 1024;
        let slack = SLACK.max(kib(64));
        let (before, now) = (&self.before, Counts::now(self.unit)?);
        let rss = before.rss - kib(self.nr_pages() - left);
        for (name, seen, want, slack) in [
            ("RSS", now.rss, rss, slack),
            ("swap", now.swap, before.swap, slack),
            ("the size of the tables", now.tables, before.tables, SLACK),
        ] {
            let right = seen.abs_diff(want) <= slack;
            ensure!(right, "{name} is {seen} KiB instead of {want}");
        }
        Ok(())
    }

    /// Moves everything back to the first area, which nothing hinders any more.
    fn gather(&self) -> Outcome {
        let [home, away] = self.areas;
        let there: Vec<_> = entries(home)?.iter().map(|entry| !entry.hole()).collect();
        let mut first = 0;
        for run in there.chunk_by(|a, b| a == b) {
            let range = first..first + run.len();
            first = range.end;
            if !run[0] {
                remap_all(home.pages(range.clone()), away.pages(range.clone()))
                    .with_context(|| format!("of {range:?} afterwards"))?;
            }
        }
        Ok(())
    }
}
