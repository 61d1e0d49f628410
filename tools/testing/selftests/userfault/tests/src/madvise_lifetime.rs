// SPDX-License-Identifier: GPL-2.0

//! Handlers of SIGBUS that fill holes, and what becomes of the mark in the life of a process.

use crate::harness::Outcome;
use crate::proc::{ensure_holes, is_marked, vma_of, vmas, vmas_in};
use crate::process::{in_child, must_pass_in_child, Ended};
use crate::sys::{page, remap, remap_all, Area, Map, Span, MADV_POPULATE_WRITE};
use crate::touch::{self, Fault};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The hidden option that runs [`probe_flags`].
pub const PROBE_FLAGS: &str = "probe-flags";

/// Where the handler of SIGBUS finds what to move, and how often it did.
static DST: AtomicUsize = AtomicUsize::new(0);
static SRC: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);
static RESOLVED: AtomicUsize = AtomicUsize::new(0);

/// Moves the page that was touched from the same place in the source.
fn resolve_page(fault: &Fault) -> bool {
    let dst = Span::new(DST.load(Ordering::SeqCst), LEN.load(Ordering::SeqCst));
    if *fault != Fault::sigbus(fault.addr) || !(dst.addr..dst.end()).contains(&fault.addr) {
        return false;
    }
    let index = (fault.addr - dst.addr) / page();
    let src = Span::new(SRC.load(Ordering::SeqCst), dst.len);
    match remap(dst.page(index), src.page(index), 0) {
        // Another thread was first: that is as good.
        Ok(_) | Err(Errno::EEXIST) => {
            RESOLVED.fetch_add(1, Ordering::SeqCst);
            true
        }
        Err(_) => false,
    }
}

fn resolve_from(dst: Span, src: Span) {
    DST.store(dst.addr, Ordering::SeqCst);
    SRC.store(src.addr, Ordering::SeqCst);
    LEN.store(dst.len, Ordering::SeqCst);
    touch::set_resolver(resolve_page);
}

/// A12: the handler moves the page into the hole, and the access goes on with it.
fn a12_handler_resolves() -> Outcome {
    const PAGES: usize = 64;
    let (src, dst) = (Area::filled(PAGES, 1)?, Area::marked(PAGES)?);
    resolve_from(*dst, *src);
    for (index, part) in dst.each_page().enumerate() {
        if index % 2 == 1 {
            // The write meets the page that was moved in, not an empty one.
            ensure_eq!(touch::store(part.end() - 1, 0), Ok(()), "page {index}");
            part.fill(1 + index as u32);
        }
    }
    dst.check_pages(1)?;
    ensure_eq!(RESOLVED.load(Ordering::SeqCst), PAGES);
    ensure_holes(*src)
}

/// A12: plain code needs no care: an access of several bytes, over the boundary of two holes.
fn a12_access_over_two_holes() -> Outcome {
    let (src, dst) = (Area::filled(2, 1)?, Area::marked(2)?);
    // SAFETY: The source is mapped and never borrowed.
    let want = unsafe { ((src.page(1).addr - 4) as *const u64).read_unaligned() };
    resolve_from(*dst, *src);
    // SAFETY: The handler puts the pages there; if not, the test dies of it.
    let seen = unsafe { ((dst.page(1).addr - 4) as *const u64).read_unaligned() };
    ensure_eq!(seen, want);
    ensure_eq!(RESOLVED.load(Ordering::SeqCst), 2);
    Ok(())
}

/// A12: several threads in the same holes: each goes on, and sees the page.
fn a12_handlers_of_many_threads() -> Outcome {
    const PAGES: usize = 32;
    let (src, dst) = (Area::filled(PAGES, 1)?, Area::marked(PAGES)?);
    resolve_from(*dst, *src);
    std::thread::scope(|scope| -> Outcome {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| dst.check_pages(1))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    ensure_holes(*src)
}

/// A14: a zero page is no hole, in the child neither, though nothing but the page tables tells so.
fn a14_fork_of_zero_pages() -> Outcome {
    for mark_first in [false, true] {
        let area = Area::pages(3)?;
        if mark_first {
            // Zero pages then come by a move only.
            area.mark()?;
            let zero = Area::pages(1)?;
            ensure_eq!(zero.load(), Ok(0));
            remap_all(area.page(0), *zero)?;
        } else {
            ensure_eq!(area.page(0).load(), Ok(0));
            area.mark()?;
        }
        must_pass_in_child(|| {
            ensure_eq!(area.page(0).load(), Ok(0));
            ensure_eq!(area.page(0).store(1), Ok(()));
            ensure_holes(area.pages(1..3))
        })
        .with_context(|| format!("marked first: {mark_first}"))?;
        area.page(0).check_zero()?;
    }
    Ok(())
}

/// A14: the child inherits the mark: its holes raise SIGBUS, its pages are its own.
fn a14_fork_inherits_the_mark() -> Outcome {
    let area = Area::pages(2)?;
    area.page(0).fill(1);
    area.mark()?;
    must_pass_in_child(|| {
        ensure!(is_marked(*area)?, "not marked");
        area.page(0).check(1)?;
        area.page(0).fill(5);
        let hole = area.page(1);
        ensure_eq!(hole.load(), Err(Fault::sigbus(hole.addr)));
        ensure_eq!(hole.store(1), Err(Fault::sigbus(hole.addr)));
        ensure_holes(hole)?;
        area.unmark()?;
        hole.check_zero()
    })?;
    ensure!(is_marked(*area)?, "the child's change reached the parent");
    area.page(0).check(1)?;
    ensure!(area.page(1).load().is_err(), "no SIGBUS in the parent");
    // Without a handler it kills.
    let ended = in_child(|| {
        // SAFETY: Resetting a signal has no preconditions.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        let _ = area.page(1).load();
        Ok(())
    })?;
    ensure_eq!(ended, Ended::Killed(Signal::SIGBUS));
    Ok(())
}

/// A14: memory that is wiped for the child is holes there, and raises SIGBUS.
fn a14_wiped_memory_is_holes() -> Outcome {
    let area = Area::filled(2, 1)?;
    area.mark()?;
    area.advise(libc::MADV_WIPEONFORK)
        .context("MADV_WIPEONFORK")?;
    must_pass_in_child(|| {
        ensure_holes(*area)?;
        ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
        Ok(())
    })?;
    area.check_pages(1)
}

/// A14: exec leaves no mark behind, on the heap neither.
fn a14_exec_clears_the_mark() -> Outcome {
    let area = Area::marked(2)?;
    let heap = vmas()?.into_iter().find(|vma| vma.name == "[heap]");
    let heap = heap.context("no heap")?.span;
    // It is in use: no hole may be left in it.
    heap.advise(MADV_POPULATE_WRITE)
        .context("MADV_POPULATE_WRITE")?;
    heap.mark()?;
    let status = Command::new("/proc/self/exe")
        .arg(format!("--{PROBE_FLAGS}"))
        .status();
    heap.unmark()?;
    ensure!(
        status.context("exec")?.success(),
        "marked memory after exec"
    );
    drop(area);
    Ok(())
}

/// What the test of exec runs: success unless any own memory is marked.
pub fn probe_flags() -> ExitCode {
    match vmas() {
        Ok(vmas) if !vmas.iter().any(|vma| vma.has("uf")) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// A14: mremap: memory that grows in place or elsewhere is marked in its new part too.
fn a14_mremap_grows() -> Outcome {
    // In place, over what was unmapped for it.
    let area = Area::pages(4)?;
    let old = area.pages(0..2);
    old.fill_pages(1);
    old.mark()?;
    area.pages(2..4).unmap()?;
    ensure_eq!(old.mremap(area.len, 0, 0).context("mremap")?, *area);
    ensure!(is_marked(*area)?, "the part that was added is not marked");
    old.check_pages(1)?;
    for part in [area.page(2), area.page(3)] {
        ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)));
    }

    // Elsewhere.
    let room = Area::pages(8)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let grown = area.mremap(room.len, flags, room.addr).context("mremap")?;
    ensure!(
        is_marked(grown)?,
        "the part that was added elsewhere is not marked"
    );
    grown.pages(0..2).check_pages(1)?;
    let added = grown.page(7);
    ensure_eq!(added.store(1), Err(Fault::sigbus(added.addr)));
    Ok(())
}

/// A14: mremap moves the mark with the memory.
fn a14_mremap_moves() -> Outcome {
    let (area, room) = (Area::pages(3)?, Area::pages(3)?);
    area.page(0).fill(1);
    area.mark()?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = area.mremap(area.len, flags, room.addr).context("mremap")?;
    ensure!(is_marked(moved)?, "the mark stayed behind");
    ensure!(vmas_in(*area)?.is_empty(), "the memory stayed behind");
    moved.page(0).check(1)?;
    ensure_eq!(moved.page(1).load(), Err(Fault::sigbus(moved.page(1).addr)));
    Ok(())
}

/// A14: MREMAP_DONTUNMAP: both places are marked, the old one is holes.
fn a14_mremap_dontunmap() -> Outcome {
    let (area, room) = (Area::filled(3, 1)?, Area::pages(3)?);
    area.mark()?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let moved = area.mremap(area.len, flags, room.addr).context("mremap")?;
    ensure!(is_marked(moved)?, "the new place is not marked");
    ensure!(is_marked(*area)?, "the old place is not marked");
    moved.check_pages(1)?;
    ensure_holes(*area)?;
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    Ok(())
}

/// A14: a stack that grows is marked in its new part: the touch that grew it is SIGBUS.
fn a14_growing_stack() -> Outcome {
    let room = Area::pages(1024)?;
    room.unmap()?;
    let start = room.page(1000).addr;
    // SAFETY: The place was just freed.
    let stack = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            4 * page(),
            crate::sys::RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN | libc::MAP_FIXED,
            -1,
            0,
        )
    } as usize;
    ensure_eq!(stack, start);
    let stack = Span::new(stack, 4 * page());
    stack.mark()?;
    let below = Span::new(stack.addr - 3 * page(), page());
    ensure_eq!(below.store(1), Err(Fault::sigbus(below.addr)));
    let vma = vma_of(Span::new(below.addr, stack.end() - below.addr))?;
    ensure!(vma.has("uf"), "the part that grew is not marked");
    ensure_holes(below)
}

/// A14, A12: the moved page stays usable in the child as in the parent.
fn a14_fork_after_a_move() -> Outcome {
    let (src, dst) = (Area::filled(2, 1)?, Area::marked(3)?);
    remap_all(dst.pages(0..2), *src)?;
    must_pass_in_child(|| {
        dst.pages(0..2).check_pages(1)?;
        dst.page(0).fill(9);
        ensure!(dst.page(2).load().is_err(), "no SIGBUS");
        ensure_eq!(src.load(), Ok(0), "the source is not marked");
        Ok(())
    })?;
    dst.pages(0..2).check_pages(1)
}

/// A14: the mark is the memory's, whichever thread sets it or touches it.
fn a14_threads_share_the_mark() -> Outcome {
    let area = Map::pages(2).map()?;
    std::thread::scope(|scope| scope.spawn(|| area.mark()).join().expect("no panic"))?;
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    std::thread::scope(|scope| -> Outcome {
        let fault = scope
            .spawn(|| area.page(1).load())
            .join()
            .expect("no panic");
        ensure_eq!(fault, Err(Fault::sigbus(area.page(1).addr)));
        Ok(())
    })
}

register!(
    a12_handler_resolves,
    a12_access_over_two_holes,
    a12_handlers_of_many_threads,
    a14_fork_of_zero_pages,
    a14_fork_inherits_the_mark,
    a14_wiped_memory_is_holes,
    a14_exec_clears_the_mark,
    a14_mremap_grows,
    a14_mremap_moves,
    a14_mremap_dontunmap,
    a14_growing_stack,
    a14_fork_after_a_move,
    a14_threads_share_the_mark,
);
