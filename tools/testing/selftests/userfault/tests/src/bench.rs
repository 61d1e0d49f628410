// SPDX-License-Identifier: GPL-2.0

//! Measures what a page costs: remap_anon_pages, and mainline's calls on the same work.
//!
//! Prints a line for each figure: `bench|WORK|HOW|UNIT|VALUE`.  The clock should count instructions
//! (QEMU's -icount), not time.  Each figure is the least of several rounds: the one in which no
//! interrupt was.  Whatever cannot be measured is an error, so that no row is missing unseen.

use crate::bench_fault;
use crate::knobs::set_thp;
use crate::proc::vmstat;
use crate::process::stay_on;
use crate::special::{huge_pages, pages_of_folios};
use crate::sys::{page, pmd, pmd_pages, remap_raw, Area, Map, Span};
use crate::touch;
use crate::uffd;
use anyhow::{ensure, Context};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ROUNDS: usize = 6;

/// For mremap to move to a place where something is.
const REPLACE: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;

/// How pages get to their place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Remap,
    Move,
    Copy,
    Mremap,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            How::Remap => "remap_anon_pages",
            How::Move => "UFFDIO_MOVE",
            How::Copy => "UFFDIO_COPY",
            How::Mremap => "mremap",
        }
    }

    /// Prepares memory that pages are to be put into.
    fn prepare(self, fd: &OwnedFd, span: Span) -> anyhow::Result<()> {
        match self {
            How::Remap => span.mark(),
            How::Move | How::Copy => uffd::add_missing(fd, span),
            How::Mremap => Ok(()),
        }
    }

    /// Makes the call.  Returns how much it did.
    #[inline(always)]
    fn call(self, fd: &OwnedFd, dst: Span, src: Span) -> nix::Result<usize> {
        match self {
            How::Remap => remap_raw(dst.addr, src.addr, src.len, 0),
            How::Move => uffd::move_pages(fd, dst, src),
            How::Copy => uffd::copy(fd, dst, src),
            How::Mremap => src
                .mremap(src.len, REPLACE, dst.addr)
                .map(|moved| moved.len),
        }
    }
}

/// What is to be moved.
struct Work {
    name: &'static str,
    /// Makes memory with content.
    source: fn() -> anyhow::Result<Area>,
    /// How many pages a call moves.
    pages: usize,
    hows: &'static [How],
    /// Whether the pages can go to and fro, and what they cost then is of interest.
    recycled: bool,
}

const ALL: &[How] = &[How::Remap, How::Move, How::Copy, How::Mremap];
const MOVES: &[How] = &[How::Remap, How::Move, How::Mremap];

fn works() -> Vec<Work> {
    let huge = pmd_pages();
    let small = |name, pages| Work {
        name,
        source: || {
            let area = Map::huge_pages(1).map()?;
            area.fill_pages(1);
            Ok(area)
        },
        pages,
        hows: ALL,
        recycled: true,
    };
    let large = |name, source, pages| Work {
        name,
        source,
        pages,
        hows: MOVES,
        recycled: false,
    };
    vec![
        small("1 page a call", 1),
        small("16 pages a call", 16),
        small("512 pages a call", 512),
        large("2 MiB pages", || huge_pages(8, 1), huge),
        large("2 MiB pages, 4 KiB a call", || huge_pages(2, 1), 1),
        large("64 KiB folios", || pages_of_folios(FOLIO, 1), FOLIO),
    ]
}

/// How many pages the folios of several pages have: 64 KiB where a page is 4 KiB.
const FOLIO: usize = 16;

impl Work {
    /// A place of the same shape as the source.
    fn destination(&self, src: &Area) -> anyhow::Result<Area> {
        Ok(Map::huge_pages(src.len / pmd()).map()?)
    }

    /// Moves all of `src`, call by call.  Returns the instructions.
    fn transfer(&self, how: How, fd: &OwnedFd, dst: Span, src: Span) -> anyhow::Result<u64> {
        let len = self.pages * page();
        let mut done = 0;
        let start = now();
        for at in (0..src.len).step_by(len) {
            let (to, from) = (Span::new(dst.addr + at, len), Span::new(src.addr + at, len));
            done += how.call(fd, to, from).context(how.name())?;
        }
        let took = now() - start;
        ensure!(done == src.len, "{} did a part only", how.name());
        Ok(took)
    }

    /// What a page costs that comes from memory just filled.
    fn fresh(&self, how: How) -> anyhow::Result<f64> {
        least(|| {
            let src = (self.source)()?;
            let dst = self.destination(&src)?;
            let fd = uffd::open_missing()?;
            how.prepare(&fd, *dst)?;
            Ok((self.transfer(how, &fd, *dst, *src)?, src.nr_pages()))
        })
    }

    /// What a page costs that goes to and fro, between page tables that are there.
    fn recycled(&self, how: How) -> anyhow::Result<f64> {
        let src = (self.source)()?;
        let dst = self.destination(&src)?;
        let fd = uffd::open_missing()?;
        how.prepare(&fd, *dst)?;
        // A copy leaves the source as it is.
        let (mut to, mut from) = (*dst, *src);
        if how != How::Copy {
            how.prepare(&fd, *src)?;
        }
        self.transfer(how, &fd, to, from)?;
        least(|| {
            match how {
                How::Copy => to.advise(libc::MADV_DONTNEED)?,
                _ => (to, from) = (from, to),
            }
            Ok((self.transfer(how, &fd, to, from)?, from.nr_pages()))
        })
    }

    /// How often, for each MiB, other processors are told to flush.
    fn flushes(&self, how: How) -> anyhow::Result<f64> {
        let all = (self.source)()?;
        let src = all.pages(0..all.nr_pages().min(self.pages * 64));
        let dst = self.destination(&all)?;
        let fd = uffd::open_missing()?;
        how.prepare(&fd, *dst)?;
        let before = vmstat("nr_tlb_remote_flush").context("CONFIG_DEBUG_TLBFLUSH")?;
        self.transfer(how, &fd, *dst, src)?;
        let flushes = vmstat("nr_tlb_remote_flush")? - before;
        Ok(flushes as f64 / (src.len as f64 / (1 << 20) as f64))
    }
}

/// The least instructions for a page in several rounds, each so many for so many pages.
pub fn least(mut round: impl FnMut() -> anyhow::Result<(u64, usize)>) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (took, pages) = round()?;
        least = least.min(took as f64 / pages as f64);
    }
    Ok(least)
}

/// Nanoseconds, or instructions where the clock counts them.
pub fn now() -> u64 {
    // SAFETY: The pointer is to a value of the right type.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

pub fn print(work: &str, how: &str, unit: &str, value: f64) {
    println!("bench|{work}|{how}|{unit}|{value:.2}");
}

pub const A_PAGE: &str = "instructions a page";

/// What everything else can be compared with.
fn plain() -> anyhow::Result<()> {
    const CALLS: usize = 1000;
    let null = least(|| {
        let start = now();
        for _ in 0..CALLS {
            // SAFETY: The call does nothing.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        Ok((now() - start, CALLS))
    })?;
    print("a null system call", "getppid", "instructions a call", null);

    let fault = least(|| {
        let area = Map::huge_pages(1).map()?;
        Ok((touch_all(*area), area.nr_pages()))
    })?;
    print("a fault", "plain", A_PAGE, fault);
    Ok(())
}

/// Writes to each page.  Returns the instructions.
pub fn touch_all(area: Span) -> u64 {
    let start = now();
    for part in area.each_page() {
        // SAFETY: The memory is mapped and never borrowed.
        unsafe { (part.addr as *mut u8).write_volatile(1) };
    }
    now() - start
}

/// What the signal handler works with: both areas, and the descriptor where it takes one.
static DST: AtomicUsize = AtomicUsize::new(0);
static SRC: AtomicUsize = AtomicUsize::new(0);
static FD: AtomicUsize = AtomicUsize::new(0);

/// Fills the hole of a fault in the handler.
fn resolve(how: How, fault: &touch::Fault) -> bool {
    let at = (fault.addr & !(page() - 1)) - DST.load(Ordering::Relaxed);
    let dst = Span::new(DST.load(Ordering::Relaxed) + at, page());
    let src = Span::new(SRC.load(Ordering::Relaxed) + at, page());
    // SAFETY: `sigbus()` keeps the descriptor open while the handler may run.
    let fd = unsafe { &*(FD.load(Ordering::Relaxed) as *const OwnedFd) };
    how.call(fd, dst, src) == Ok(page())
}

/// A fault that the program resolves in a SIGBUS handler.
fn sigbus() -> anyhow::Result<()> {
    let resolvers: [(How, touch::Resolver); 3] = [
        (How::Remap, |fault| resolve(How::Remap, fault)),
        (How::Move, |fault| resolve(How::Move, fault)),
        (How::Copy, |fault| resolve(How::Copy, fault)),
    ];
    for (how, resolver) in resolvers {
        let cost = least(|| {
            let (dst, src) = (Map::huge_pages(1).map()?, Map::huge_pages(1).map()?);
            src.fill_pages(1);
            let fd = uffd::open_sigbus()?;
            how.prepare(&fd, *dst)?;
            DST.store(dst.addr, Ordering::Relaxed);
            SRC.store(src.addr, Ordering::Relaxed);
            FD.store(&raw const fd as usize, Ordering::Relaxed);
            touch::set_resolver(resolver);
            Ok((touch_all(*dst), dst.nr_pages()))
        })?;
        print(
            "a fault resolved in a SIGBUS handler",
            how.name(),
            A_PAGE,
            cost,
        );
    }
    Ok(())
}

/// How often other processors must flush, in a process that runs on two of them.
fn flushes(works: &[Work]) -> anyhow::Result<()> {
    static STOP: AtomicBool = AtomicBool::new(false);
    static RUNS: AtomicBool = AtomicBool::new(false);
    let other = std::thread::spawn(|| -> anyhow::Result<()> {
        stay_on(1)?;
        RUNS.store(true, Ordering::SeqCst);
        while !STOP.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        Ok(())
    });
    while !RUNS.load(Ordering::SeqCst) && !other.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
    for work in works {
        for how in work.hows {
            let count = work.flushes(*how).with_context(|| work.name)?;
            print(work.name, how.name(), "TLB flushes a MiB", count);
        }
    }
    STOP.store(true, Ordering::SeqCst);
    other.join().expect("it does not panic")
}

/// Measures everything.
pub fn run() -> anyhow::Result<()> {
    stay_on(0)?;
    set_thp("use_zero_page", 1)?;
    plain()?;
    let works = works();
    for work in &works {
        for how in work.hows {
            let cost = work.fresh(*how).with_context(|| work.name)?;
            print(work.name, how.name(), A_PAGE, cost);
        }
        for how in work.hows.iter().filter(|_| work.recycled) {
            let cost = work.recycled(*how).with_context(|| work.name)?;
            print(
                &format!("{}, recycled", work.name),
                how.name(),
                A_PAGE,
                cost,
            );
        }
    }
    sigbus()?;
    bench_fault::run()?;
    flushes(&works)
}
