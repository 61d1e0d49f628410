// SPDX-License-Identifier: GPL-2.0

//! Markers that stand in the place of a page: a guard, poison.  They are no holes; where they are
//! taken away, a hole is left.

use crate::harness::Outcome;
use crate::madvise_fault::ensure_refused;
use crate::pair::write;
use crate::proc::{ensure_entries, ensure_holes, entry, Entry};
use crate::process::must_pass_in_child;
use crate::special::{huge_pages, memfd};
use crate::sys::{Area, Map, Span, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_POPULATE_READ};
use crate::touch::Fault;
use crate::{ensure_eq, register, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::os::fd::AsRawFd;

/// What a touch of poison says.
const BUS_MCEERR_AR: i32 = 4;

/// Both a read and a write raise SIGSEGV, at every page, and the kernel's touch gets EFAULT.
fn ensure_guarded(span: Span) -> Outcome {
    let file = memfd(1)?;
    for part in span.each_page() {
        for fault in [part.load().err(), part.store(1).err()] {
            let seen = fault.map(|fault| (fault.signal, fault.addr));
            ensure_eq!(seen, Some((Signal::SIGSEGV, part.addr)));
        }
        ensure_eq!(write(file.as_raw_fd(), part), Err(Errno::EFAULT));
    }
    ensure_entries(span, "guarded", Entry::guard)
}

/// A3, A16: a guard over a hole or over a page of marked memory: a touch is SIGSEGV.  Where it is
/// taken away, there is a hole, and a touch is SIGBUS.
fn a3_guard_regions() -> Outcome {
    for mark_first in [true, false] {
        let area = Area::pages(6)?;
        area.pages(0..3).fill_pages(1);
        if mark_first {
            area.mark()?;
        }
        let guard = area.pages(2..4);
        guard
            .advise(MADV_GUARD_INSTALL)
            .context("MADV_GUARD_INSTALL")?;
        area.mark()?;
        ensure_guarded(guard)?;
        ensure_refused(area.pages(4..6))?;
        area.pages(0..2).check_pages(1)?;
        // Nothing else takes it away.
        guard.advise(libc::MADV_DONTNEED)?;
        ensure_eq!(guard.advise(MADV_POPULATE_READ), Err(Errno::EFAULT));
        area.unmark()?;
        ensure_guarded(guard)?;
        area.mark()?;

        must_pass_in_child(|| {
            ensure_guarded(guard)?;
            guard.advise(MADV_GUARD_REMOVE)?;
            ensure_refused(guard)
        })?;
        ensure_guarded(guard)?;
        guard
            .advise(MADV_GUARD_REMOVE)
            .context("MADV_GUARD_REMOVE")?;
        ensure_refused(guard)?;
        area.pages(0..2).check_pages(1)?;
    }
    Ok(())
}

/// A3: the same over a part of a huge page, and over holes where not even a table is.
fn a3_guard_in_huge_memory() -> Outcome {
    let full = huge_pages(1, 1)?;
    let empty = Map::huge_pages(1).map()?;
    for area in [&full, &empty] {
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
        area.mark()?;
        let guard = area.pages(10..12);
        guard
            .advise(MADV_GUARD_INSTALL)
            .context("MADV_GUARD_INSTALL")?;
        ensure_guarded(guard)?;
        guard.advise(MADV_GUARD_REMOVE)?;
        ensure_refused(guard)?;
    }
    full.pages(0..10).check_pages(1)?;
    full.pages(12..full.nr_pages()).check_pages(13)?;
    ensure_holes(*empty)
}

/// A16: a guard needs no mark: without it there is a page again where the guard was.
fn a16_guard_taken_away_without_the_mark() -> Outcome {
    let area = Area::marked(2)?;
    area.advise(MADV_GUARD_INSTALL)?;
    area.unmark()?;
    area.advise(MADV_GUARD_REMOVE)?;
    area.check_zero()
}

/// A4: poison that mainline's userfaultfd has put is no hole, and says so.
fn a4_poison_marker_is_no_hole() -> Outcome {
    let area = Area::marked(2)?;
    let (poison, hole) = (area.page(0), area.page(1));
    uffd::poison(poison)?;
    ensure_poisoned(poison)?;
    ensure_refused(hole)?;
    poison.advise(libc::MADV_DONTNEED)?;
    ensure_refused(*area)
}

/// A4: a page that the memory has lost is no hole, and says so.
fn a4_poisoned_page_is_no_hole() -> Outcome {
    const MADV_HWPOISON: i32 = 100;
    let area = Area::filled(2, 1)?;
    area.mark()?;
    let poison = area.page(0);
    let pfn = entry(poison)?.pfn()?;
    match poison.advise(MADV_HWPOISON) {
        Err(Errno::EINVAL) => crate::skip!("this kernel has no memory failures"),
        done => done.context("MADV_HWPOISON")?,
    }
    let seen = ensure_poisoned(poison);
    poison.advise(libc::MADV_DONTNEED)?;
    // Give the frame back where there is a way to; without it, one page is lost until the end.
    let _ = std::fs::write("/sys/kernel/debug/hwpoison/unpoison-pfn", pfn.to_string());
    seen?;
    ensure_refused(poison)?;
    area.page(1).check(2)
}

fn ensure_poisoned(span: Span) -> Outcome {
    for fault in [span.load().err(), span.store(1).err()] {
        let fault = fault.context("it can be touched")?;
        ensure_eq!(fault.signal, Signal::SIGBUS);
        ensure_eq!(fault.code, BUS_MCEERR_AR);
        ensure!(fault != Fault::sigbus(span.addr), "like a hole");
    }
    ensure!(!entry(span)?.hole(), "it is a hole");
    Ok(())
}

register!(
    a3_guard_regions,
    a3_guard_in_huge_memory,
    a4_poison_marker_is_no_hole,
    a4_poisoned_page_is_no_hole,
    a16_guard_taken_away_without_the_mark,
);
