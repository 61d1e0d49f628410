// SPDX-License-Identifier: GPL-2.0

//! A thread of the fuzzer: what it draws by lot, and how it makes a call.

use crate::fuzz_calls::{Call, GENERATORS};
use crate::fuzz_cover::Cover;
use crate::fuzz_shared::{Place, Ring, Shared, THREADS};
use crate::harness::Numbers;
use crate::sys::{page, pmd, pmd_pages, Span};
use nix::errno::Errno;
use std::sync::atomic::Ordering::Relaxed;

/// The memory that all calls are about: so many huge pages, at the same place in every process.
const POOL: usize = 0x1000_0000_0000;
const POOL_HUGE: usize = 8;
/// The last of them are kept full, for pages to be taken from.
const STORE_HUGE: usize = 2;

pub fn pool() -> Span {
    Span::new(POOL, POOL_HUGE * pmd())
}

pub fn store() -> Span {
    let len = STORE_HUGE * pmd();
    Span::new(pool().end() - len, len)
}

/// How many places calls often meet at, and for how many steps those stay the same.
const HOT: usize = 4;
const HOT_STEPS: u64 = 32;
/// Makes numbers that are near far apart.
pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What of a descriptor's file is where, so that no number ever means another thing.
pub const USERFAULTFDS: std::ops::Range<usize> = 100..106;
pub const PIPE_OUT: usize = 110;
pub const PIPE_IN: usize = 111;
pub const EPOLL: usize = 112;
pub const MEMFD: usize = 113;
pub const DISK: usize = 114;
pub const MEM: usize = 115;
pub const PAGEMAP: usize = 116;
pub const CLEAR_REFS: usize = 117;
pub const PINS: usize = 118;
pub const HMM: usize = 119;
pub const SELF: usize = 120;
pub const USERFAULTFD_DEVICE: usize = 121;
pub const COMPACT: usize = 122;
pub const CGROUP_RECLAIM: usize = 123;
pub const CGROUP_HIGH: usize = 124;
pub const CGROUP_MAX: usize = 125;

/// A thread, or the child of one.
pub struct Thread {
    pub numbers: Numbers,
    pub shared: &'static Shared,
    pub place: &'static Place,
    /// Those of children are behind those of all threads.
    index: usize,
    pub child: Option<i32>,
    /// The same for all threads of a process.
    process: u64,
    steps: u64,
    ring: &'static Ring,
    covers: &'static [Cover],
}

impl Thread {
    /// One of a process: what it draws begins with the seed and that process's number.
    pub fn new(
        seed: u64,
        shared: &'static Shared,
        place: &'static Place,
        covers: &'static [Cover],
        index: usize,
    ) -> Self {
        let process = seed ^ place.number.load(Relaxed).wrapping_mul(SPREAD);
        let mut numbers = Numbers(process.wrapping_add(index as u64).wrapping_mul(SPREAD));
        numbers.below(2);
        Self {
            numbers,
            shared,
            place,
            index,
            child: None,
            process,
            steps: 0,
            ring: &place.rings[index],
            covers,
        }
    }

    /// Goes on as the child of the thread, in a process of its own.
    pub fn become_child(&mut self) {
        self.index += THREADS;
        self.ring = &self.place.rings[self.index];
        self.child = None;
        self.trace();
    }

    fn cover(&self) -> Option<&'static Cover> {
        self.covers.get(self.index)
    }

    /// From now on the kernel notes where this thread comes to.
    pub fn trace(&self) {
        if let Some(cover) = self.cover() {
            // A buffer that is still the last child's: then this one is not traced.
            let _ = cover.enable();
        }
    }

    /// Makes some calls of one kind.
    pub fn step(&mut self) {
        self.steps += 1;
        let is_child = self.index >= THREADS;
        let possible = || GENERATORS.iter().filter(|g| g.by_child || !is_child);
        let mut lot = self.below(possible().map(|g| g.weight).sum());
        for generator in possible() {
            if lot < generator.weight {
                return (generator.make)(self);
            }
            lot -= generator.weight;
        }
    }

    /// Does something that is a call, or like one.
    pub fn record<T>(
        &mut self,
        call: Call,
        args: &[usize],
        what: impl FnOnce() -> nix::Result<T>,
        value: impl FnOnce(&T) -> i64,
    ) -> nix::Result<T> {
        self.ring.begin(call, args);
        let result = what();
        self.end(call, result.as_ref().map(value).map_err(|error| *error));
        result
    }

    fn end(&self, call: Call, result: nix::Result<i64>) {
        self.ring
            .end(result.unwrap_or_else(|error| -(error as i64)));
        self.shared.count(call, result.is_ok());
        if let Some(cover) = self.cover() {
            cover.drain(self.shared);
        }
    }

    /// Makes a child with these flags; returns 0 there, which notes nothing.
    pub fn fork(&mut self, call: Call, flags: i32) -> nix::Result<i32> {
        let flags = flags as usize;
        self.ring.begin(call, &[flags]);
        // SAFETY: Without a stack of its own the child has a copy of this one.  It makes system
        // calls only, which need nothing that another thread may have locked.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        let pid = Errno::result(pid);
        if pid != Ok(0) {
            self.end(call, pid);
        }
        pid.map(|pid| pid as i32)
    }

    /// Reads the beginning of a file, whose name ends with a zero.  Allocates nothing: a child has
    /// locks as they were in other threads.
    pub fn read_file(&mut self, call: Call, path: &[u8], text: &mut [u8]) {
        let what = || {
            // SAFETY: A valid string, and a buffer of this length.
            unsafe {
                let fd = Errno::result(libc::open(path.as_ptr().cast(), libc::O_CLOEXEC))?;
                let read = libc::read(fd, text.as_mut_ptr().cast(), text.len());
                let read = Errno::result(read);
                libc::close(fd);
                read
            }
        };
        let _ = self.record(call, &[], what, |read| *read as i64);
    }

    /// Makes a system call.  What it may change is the memory that all calls are about, and what
    /// the caller has to itself.
    pub fn call(&mut self, call: Call, number: i64, args: &[usize]) -> nix::Result<usize> {
        let mut six = [0; 6];
        six[..args.len()].copy_from_slice(args);
        let [a, b, c, d, e, f] = six;
        // SAFETY: See above.
        let what = || Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) });
        let result = self.record(call, args, what, |result| *result)?;
        Ok(result as usize)
    }

    /// A number below the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.numbers.below(limit)
    }

    /// Whether it is that one of so many.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Any of these bits.
    pub fn bits(&mut self, all: &[usize]) -> usize {
        let some = self.below(1 << all.len());
        let chosen = all
            .iter()
            .enumerate()
            .filter(|(bit, _)| some & 1 << bit != 0);
        chosen.fold(0, |bits, (_, own)| bits | own)
    }

    /// One of the pages that all threads of a process often choose for a while.
    fn hot(&mut self, pages: usize) -> usize {
        let which = self.steps / HOT_STEPS * HOT as u64 + self.below(HOT) as u64;
        Numbers((self.process ^ which).wrapping_mul(SPREAD)).below(pages)
    }

    /// The address of a page, often one where others do something, or where a table begins.
    pub fn address(&mut self) -> usize {
        let pages = pool().nr_pages();
        let index = match self.below(8) {
            0..3 => {
                let hot = self.hot(pages);
                (hot + self.below(4)).saturating_sub(self.below(4))
            }
            3 => self.below(POOL_HUGE) * pmd_pages(),
            4 => (self.below(POOL_HUGE) + 1) * pmd_pages() - 1 - self.below(8),
            5 => self.below(pages) / 16 * 16,
            _ => self.below(pages),
        };
        POOL + index.min(pages - 1) * page()
    }

    /// A range of pages of the pool.
    pub fn span(&mut self) -> Span {
        let addr = self.address();
        let len = match self.below(16) {
            0..6 => page(),
            6..11 => (1 + self.below(16)) * page(),
            11 => 16 * page(),
            12 => pmd() - addr % pmd(),
            13 => pmd(),
            14 => self.below(3 * pmd_pages()) * page(),
            _ => (1 + self.below(POOL_HUGE)) * pmd(),
        };
        Span::new(addr, len.min(pool().end() - addr))
    }

    /// A short one.
    pub fn short_span(&mut self) -> Span {
        let span = self.span();
        let pages = 1 + self.below(16);
        Span::new(span.addr, span.len.min(pages * page()))
    }

    /// Some huge pages of the pool, from the first to the last byte.
    pub fn huge_span(&mut self) -> Span {
        let (first, count) = (self.below(POOL_HUGE), 1 + self.below(2));
        Span::new(POOL + first * pmd(), count.min(POOL_HUGE - first) * pmd())
    }

    /// So much of the store.
    pub fn source(&mut self, len: usize) -> Span {
        let len = len.min(store().len);
        let room = (store().len - len) / page();
        let index = self.below(room + 1);
        Span::new(store().addr + index * page(), len)
    }

    /// A userfaultfd of this half of them, 0 or 1, or sometimes of the other.
    pub fn userfaultfd(&mut self, half: usize) -> usize {
        let len = USERFAULTFDS.len() / 2;
        let half = if self.one_in(8) { 1 - half } else { half };
        USERFAULTFDS.start + half * len + self.below(len)
    }

    /// Sometimes something else: what nobody should ask for.  Not for calls that would then change
    /// memory of ours.
    pub fn spoil(&mut self, value: usize) -> usize {
        if !self.one_in(32) {
            return value;
        }
        match self.below(10) {
            0 => value + 1,
            1 => value | (page() / 2),
            2 => value | 1 << 63,
            3 => value ^ 1 << 47,
            4 => usize::MAX & !(page() - 1),
            5 => usize::MAX,
            6 => 0x7fff_ffff_f000,
            7 => 0,
            8 => value.wrapping_neg(),
            _ => self.below(1 << 30) << 31 | self.below(1 << 30),
        }
    }

    /// The same for calls that change memory: it has to stay what it is, or be refused.
    pub fn misalign(&mut self, addr: usize) -> usize {
        match self.below(64) {
            0 => addr + 1,
            1 => addr | 1 << 63,
            _ => addr,
        }
    }
}
