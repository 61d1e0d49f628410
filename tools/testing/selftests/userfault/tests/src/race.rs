// SPDX-License-Identifier: GPL-2.0

//! Threads that move pages to and fro between two areas while something disturbs them.
//!
//! Page `i` is always in place `i` of one of the two, so that whoever looks at a place finds that
//! very page or faults.  Its last byte is counted up by one thread, which finds there what it has
//! stored before: no store gets lost.  Both areas are marked: a touch makes no page.

use crate::ensure_eq;
use crate::harness::{rounds, Numbers, Outcome};
use crate::knobs::set_thp;
use crate::process::join;
use crate::race_check::Counts;
use crate::special::{folio_pages, huge_pages, pages_of_folios};
use crate::sys::{page, pattern, pmd_pages, remap, Area, Map, Span, RAP_ALLOW_SRC_HOLES};
use crate::touch::{self, Fault};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

/// How long a race goes on.
pub const TIME: Duration = Duration::from_secs(2);

/// What any race may say: another thread has put the page there, or has taken it away.
const TAKEN: [Errno; 2] = [Errno::EEXIST, Errno::ENOENT];

/// Two areas, and the pages in them.
pub struct Race {
    /// Between them all pages move.  At first they are in the first.
    pub areas: [Span; 2],
    _memory: Vec<Area>,
    /// What the call may say.  Anything else ends the test.
    pub allowed: Vec<Errno>,
    /// So many pages are always moved at once.
    pub unit: usize,
    /// So many units are moved by one call at most.
    pub longest: usize,
    /// So many different contents the pages have.
    pub kinds: usize,
    /// Pages come back to the first area at once, and stay there for so long, so that it is full
    /// most of the time.
    pub home: Option<Duration>,
    /// Pages are stored to.
    pub stores: bool,
    /// Nothing that moves is to be split.
    pub stays_whole: bool,
    /// Pages may be thrown away, by what disturbs.
    pub lossy: bool,
    /// A touch may also find no memory, or no access to it.
    pub may_segv: bool,
    /// What was last stored to the last byte of each page.
    pub stored: Mutex<Vec<u8>>,
    /// What the kernel had counted before.
    pub before: Counts,
}

impl Race {
    fn new(full: Area, empty: Area, unit: usize) -> anyhow::Result<Self> {
        let areas = [*full, *empty];
        Self::between(areas, vec![full, empty], unit)
    }

    fn between(areas: [Span; 2], memory: Vec<Area>, unit: usize) -> anyhow::Result<Self> {
        for area in areas {
            area.mark()?;
        }
        let pages = areas[0].nr_pages();
        let race = Self {
            areas,
            _memory: memory,
            allowed: TAKEN.to_vec(),
            unit,
            longest: 8,
            kinds: pages,
            home: None,
            stores: true,
            stays_whole: false,
            lossy: false,
            may_segv: false,
            stored: Mutex::new(vec![0; pages]),
            before: Counts::now(unit)?,
        };
        for index in 0..pages {
            ensure_eq!(touch::store(race.last_byte(0, index), 0), Ok(()));
        }
        Ok(race)
    }

    /// So many small pages.
    pub fn small(pages: usize) -> anyhow::Result<Self> {
        Self::new(Area::filled(pages, 1)?, Area::pages(pages)?, 1)
    }

    /// So many small pages, and as many places for them in the same vma.
    pub fn in_one_vma(pages: usize) -> anyhow::Result<Self> {
        let area = Area::pages(2 * pages)?;
        let areas = [area.pages(0..pages), area.pages(pages..2 * pages)];
        areas[0].fill_pages(1);
        Self::between(areas, vec![area], 1)
    }

    /// Small pages of which many are equal.
    pub fn equal(pages: usize, kinds: usize) -> anyhow::Result<Self> {
        let full = Area::pages(pages)?;
        for (index, part) in full.each_page().enumerate() {
            part.fill(1 + (index % kinds) as u32);
        }
        let race = Self::new(full, Area::pages(pages)?, 1)?;
        Ok(Self {
            kinds,
            stores: false,
            ..race
        })
    }

    /// As many folios of several pages as lie in one table on both sides, where the other side is
    /// not aligned to them.  They move whole.
    pub fn folios() -> anyhow::Result<Self> {
        Self::folios_at_most(usize::MAX)
    }

    /// The same, but not more than so many.
    pub fn folios_at_most(count: usize) -> anyhow::Result<Self> {
        const OFFSET: usize = 5;
        let folio = folio_pages();
        let (full, empty) = (pages_of_folios(folio, 1)?, Map::huge_pages(1).map()?);
        let pages = (full.nr_pages() - folio).min(count.saturating_mul(folio));
        full.pages(pages..full.nr_pages())
            .advise(libc::MADV_DONTNEED)?;
        let areas = [full.pages(0..pages), empty.pages(OFFSET..OFFSET + pages)];
        Self::between(areas, vec![full, empty], folio)
    }

    /// Small pages in the room of a huge page that they may become, which they do only while all of
    /// them are there.
    pub fn to_collapse() -> anyhow::Result<Self> {
        const PAUSE: Duration = Duration::from_millis(1);
        set_thp("enabled", "madvise")?;
        let (full, empty) = (Map::huge_pages(1).map()?, Map::huge_pages(1).map()?);
        full.fill_pages(1);
        let race = Self::new(full, empty, 1)?;
        for area in race.areas {
            area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
        }
        Ok(Self {
            longest: 32,
            home: Some(PAUSE),
            ..race
        })
    }

    /// So many huge pages, which move whole.
    pub fn huge(count: usize) -> anyhow::Result<Self> {
        let empty = Map::huge_pages(count).map()?;
        Self::new(huge_pages(count, 1)?, empty, pmd_pages())
    }

    /// How many pages there are in all.
    pub fn nr_pages(&self) -> usize {
        self.areas[0].nr_pages()
    }

    fn seed(&self, index: usize) -> u32 {
        1 + (index % self.kinds) as u32
    }

    /// The place of the byte that is counted up.
    pub fn last_byte(&self, side: usize, index: usize) -> usize {
        self.areas[side].page(index).end() - 1
    }

    /// Moves, reads and stores in threads of their own, until the steps are over.  Then every page
    /// has to be there, as good as before.
    pub fn run(
        &self,
        steps: impl Iterator<Item = u32>,
        mut disturb: impl FnMut(usize) -> Outcome,
    ) -> Outcome {
        let done = AtomicBool::new(false);
        let workers: [&(dyn Fn() -> Outcome + Sync); 4] = [
            &|| self.mover(1, &done),
            &|| self.mover(2, &done),
            &|| self.reader(&done),
            &|| self.writer(&done),
        ];
        // Nothing is disturbed before all of them run: a thread that starts maps memory.
        let ready = Barrier::new(workers.len() + 1);
        std::thread::scope(|scope| -> Outcome {
            let threads = workers.map(|work| {
                let (ready, done) = (&ready, &done);
                scope.spawn(move || {
                    ready.wait();
                    let worked = work();
                    if worked.is_err() {
                        done.store(true, Ordering::Relaxed);
                    }
                    worked
                })
            });
            ready.wait();
            let disturbed = steps
                .take_while(|_| !done.load(Ordering::Relaxed))
                .try_for_each(|step| disturb(step as usize));
            done.store(true, Ordering::Relaxed);
            let worked: Vec<_> = threads.into_iter().map(join).collect();
            worked.into_iter().collect::<Outcome>()?;
            disturbed
        })?;
        self.check()
    }

    /// The same for the usual time.
    pub fn run_for_a_while(&self, mut disturb: impl FnMut() -> Outcome) -> Outcome {
        self.run(rounds(TIME), |_| disturb())
    }

    fn mover(&self, seed: u64, done: &AtomicBool) -> Outcome {
        let mut numbers = Numbers(seed);
        let units = self.nr_pages() / self.unit;
        let mut moved = 0;
        while !done.load(Ordering::Relaxed) {
            let from = self.home.map_or_else(|| numbers.below(2), |_| 0);
            let (first, count) = (numbers.below(units), 1 + numbers.below(self.longest));
            let end = (first + count).min(units);
            let flags = [0, RAP_ALLOW_SRC_HOLES][numbers.below(2)];
            moved += self.call(from, first * self.unit..end * self.unit, flags)?;
            if let Some(pause) = self.home {
                for unit in first..end {
                    self.call(1, unit * self.unit..(unit + 1) * self.unit, 0)?;
                }
                std::thread::sleep(pause);
            }
        }
        ensure!(moved > 0, "never has a page moved");
        Ok(())
    }

    /// Moves pages out of one of the areas.  Returns how much was moved.
    fn call(&self, from: usize, range: Range<usize>, flags: u64) -> anyhow::Result<usize> {
        let (src, dst) = (self.areas[from], self.areas[1 - from]);
        match remap(dst.pages(range.clone()), src.pages(range.clone()), flags) {
            Ok(moved) => Ok(moved),
            Err(error) if self.allowed.contains(&error) => Ok(0),
            Err(error) => bail!("remap_anon_pages of {range:?} from {from}: {error}"),
        }
    }

    fn reader(&self, done: &AtomicBool) -> Outcome {
        let mut numbers = Numbers(3);
        let mut words = vec![0; page() / size_of::<u64>()];
        while !done.load(Ordering::Relaxed) {
            let (side, index) = (numbers.below(2), numbers.below(self.nr_pages()));
            self.look(&mut words, side, index)?;
        }
        Ok(())
    }

    /// Reads a whole page, if it is there.
    pub fn look(&self, words: &mut [u64], side: usize, index: usize) -> anyhow::Result<bool> {
        self.look_at(words, self.areas[side].page(index), index)
    }

    /// The same of a place that may be elsewhere.
    pub fn look_at(&self, words: &mut [u64], place: Span, index: usize) -> anyhow::Result<bool> {
        if let Err(fault) = touch::copy(words, place.addr) {
            self.fault_is_right(fault, place)?;
            return Ok(false);
        }
        if let Some(at) = first_wrong(words, self.seed(index)) {
            bail!("{place:x?} is torn: word {at} is {:#x}", words[at]);
        }
        Ok(true)
    }

    fn fault_is_right(&self, fault: Fault, place: Span) -> Outcome {
        let hole = fault == Fault::sigbus(fault.addr);
        let gone = self.may_segv && fault.signal == Signal::SIGSEGV;
        let inside = (place.addr..place.end()).contains(&fault.addr);
        ensure!(inside && (hole || gone), "{fault:x?} in {place:x?}");
        Ok(())
    }

    fn writer(&self, done: &AtomicBool) -> Outcome {
        let mut stored = self.stored.lock().expect("no panic");
        let mut numbers = Numbers(4);
        while self.stores && !done.load(Ordering::Relaxed) {
            let (side, index) = (numbers.below(2), numbers.below(self.nr_pages()));
            let place = self.areas[side].page(index);
            let addr = self.last_byte(side, index);
            let next = stored[index].wrapping_add(1);
            let result = touch::load(addr).and_then(|seen| touch::store(addr, next).map(|()| seen));
            match result {
                Ok(seen) => {
                    ensure_eq!(seen, stored[index], "the last byte of page {index}");
                    stored[index] = next;
                }
                Err(fault) => self.fault_is_right(fault, place)?,
            }
        }
        Ok(())
    }

    /// In a forked child, where nothing moves: each page is in one place, whole.
    pub fn check_snapshot(&self) -> Outcome {
        let mut words = vec![0; page() / size_of::<u64>()];
        for index in 0..self.nr_pages() {
            let there = [
                self.look(&mut words, 0, index)?,
                self.look(&mut words, 1, index)?,
            ];
            ensure!(there[0] != there[1], "page {index} is there: {there:?}");
        }
        Ok(())
    }
}

/// The first word that is not as in a page that was filled with this seed, but for the last byte.
fn first_wrong(words: &[u64], seed: u32) -> Option<usize> {
    const LAST_BYTE: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0xff]);
    words.iter().enumerate().position(|(index, word)| {
        let last = index + 1 == words.len();
        let counted = if last { LAST_BYTE } else { 0 };
        (word ^ pattern(seed, index)) & !counted != 0
    })
}
