// SPDX-License-Identifier: GPL-2.0

//! What all processes of the fuzzer and their watchdog have in common: how many calls of each kind
//! were made, which lines of the kernel were reached, and the last calls of each thread.
//!
//! All of it is atomic numbers in shared memory, so that whoever dies loses nothing.

use crate::fuzz_calls::{Call, NAMES};
use crate::fuzz_thread::SPREAD;
use crate::sys::Map;
use anyhow::Context;
use nix::errno::Errno;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// How many processes there are at most, and how many threads each has.
pub const PROCESSES: usize = 8;
pub const THREADS: usize = 3;
/// How many threads of one process are traced: each may have a child, of one thread.
pub const TRACED: usize = 2 * THREADS;

/// Room for the program counters, of which there are some thousands.
const COUNTERS: usize = 1 << 15;
/// How many calls of a thread are kept.
const LAST: usize = 24;
const ARGS: usize = 6;
/// The result of a call that has not returned.
const UNDER_WAY: i64 = i64::MIN;

/// A call of a thread.
struct Record {
    /// Its number in [`NAMES`] and 1; 0 for none.
    call: AtomicUsize,
    args: [AtomicUsize; ARGS],
    result: AtomicI64,
}

/// The last calls of a thread.
pub struct Ring {
    /// How many there were in all.
    made: AtomicUsize,
    records: [Record; LAST],
}

impl Ring {
    /// Notes what is about to be done.
    pub fn begin(&self, call: Call, args: &[usize]) {
        let record = &self.records[self.made.load(Relaxed) % LAST];
        record.result.store(UNDER_WAY, Relaxed);
        for (index, place) in record.args.iter().enumerate() {
            place.store(args.get(index).copied().unwrap_or(0), Relaxed);
        }
        record.call.store(1 + call as usize, Relaxed);
    }

    /// Notes what came of it: a number, or an errno below 0.
    pub fn end(&self, result: i64) {
        let made = self.made.load(Relaxed);
        self.records[made % LAST].result.store(result, Relaxed);
        self.made.store(made + 1, Relaxed);
    }

    /// Forgets everything: another thread begins.
    fn clear(&self) {
        self.made.store(0, Relaxed);
        for record in &self.records {
            record.call.store(0, Relaxed);
        }
    }

    /// The last calls, the oldest first.
    pub fn last(&self) -> Vec<String> {
        let made = self.made.load(Relaxed);
        (made.saturating_sub(LAST - 1)..=made)
            .filter_map(|number| {
                let record = &self.records[number % LAST];
                let name = NAMES[record.call.load(Relaxed).checked_sub(1)?];
                let args = record.args.each_ref().map(|arg| arg.load(Relaxed));
                let result = match record.result.load(Relaxed) {
                    UNDER_WAY => "has not returned".to_owned(),
                    error @ -4095..=-1 => format!("{:?}", Errno::from_raw(-error as i32)),
                    result => format!("{result:#x}"),
                };
                // What is left of the round before is not the last call.
                (number < made || result == "has not returned")
                    .then(|| format!("{number:5} {name} {args:x?} = {result}"))
            })
            .collect()
    }
}

/// What is kept of a process.
pub struct Place {
    /// Which process it is, of all that there ever were.
    pub number: AtomicU64,
    /// Its number for the kernel, 0 where there is none.
    pub pid: AtomicI32,
    /// Those of its threads.
    pub threads: [AtomicI32; THREADS],
    /// Those of its threads first, then those of their children.
    pub rings: [Ring; TRACED],
    /// How many threads it has besides.
    pub extra: AtomicUsize,
    /// A context of io_submit().
    pub aio: AtomicUsize,
}

impl Place {
    /// Makes room for another process.
    pub fn begin(&self, number: u64) {
        self.number.store(number, Relaxed);
        self.pid.store(0, Relaxed);
        self.extra.store(0, Relaxed);
        self.aio.store(0, Relaxed);
        self.rings.iter().for_each(Ring::clear);
    }

    /// Whether its memory is in small folios only.  The number says it, so that a seed repeats it.
    pub fn has_small_folios(&self) -> bool {
        self.number.load(Relaxed) % 4 == 3
    }

    /// How many calls its threads have made; more of them mean that it is alive.
    pub fn progress(&self) -> usize {
        self.rings.iter().map(|ring| ring.made.load(Relaxed)).sum()
    }
}

/// How often a call was made, and how often it did what was asked for.
pub struct Count {
    made: AtomicU64,
    good: AtomicU64,
}

/// What all have in common.
pub struct Shared {
    counts: [Count; NAMES.len()],
    /// Program counters, each where its hash says or behind that.
    counters: [AtomicU64; COUNTERS],
    pub places: [Place; PROCESSES],
}

impl Shared {
    /// Makes it, for this process and all that it will have.
    pub fn new() -> anyhow::Result<&'static Self> {
        let map = Map::bytes(size_of::<Self>()).flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let memory = map.leak().context("mmap")?;
        // SAFETY: It is as large as that, aligned, zero, which is valid for numbers, and others
        // change it only as atomic numbers.
        Ok(unsafe { &*(memory as *const Self) })
    }

    /// Counts a call.
    pub fn count(&self, call: Call, good: bool) {
        let count = &self.counts[call as usize];
        count.made.fetch_add(1, Relaxed);
        count.good.fetch_add(u64::from(good), Relaxed);
    }

    /// How often each call was made, and how often it succeeded.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64, u64)> + '_ {
        NAMES.iter().zip(&self.counts).map(|(name, count)| {
            let (made, good) = (count.made.load(Relaxed), count.good.load(Relaxed));
            (*name, made, good)
        })
    }

    /// Adds a program counter that was reached.
    pub fn reached(&self, counter: u64) {
        let first = (counter.wrapping_mul(SPREAD) >> 40) as usize;
        for index in first..first + COUNTERS {
            let place = &self.counters[index % COUNTERS];
            match place.compare_exchange(0, counter, Relaxed, Relaxed) {
                Err(other) if other != counter => (),
                _ => return,
            }
        }
    }

    /// All program counters that were reached.
    pub fn counters(&self) -> anyhow::Result<Vec<u64>> {
        let all = self.counters.iter().map(|counter| counter.load(Relaxed));
        let mut counters: Vec<_> = all.filter(|counter| *counter != 0).collect();
        counters.sort_unstable();
        (counters.len() < COUNTERS)
            .then_some(counters)
            .context("no room for so many program counters")
    }
}
