// SPDX-License-Identifier: GPL-2.0

//! Pages that cannot be moved, since another one has them too: EBUSY, and they stay.

use crate::cgroup::Cgroup;
use crate::gup::Pin;
use crate::harness::{Outcome, Skip};
use crate::knobs::{ksm_number, set_ksm};
use crate::ksm;
use crate::proc::{ensure_holes, ensure_present, entries, entry};
use crate::process::{must_pass_in_child, Holder};
use crate::range::wait_until;
use crate::special::{huge_pages, is_huge, pipe_with};
use crate::sys::{of_512, page, remap, remap_all, Area, Map, Span, RAP_ALLOW_SRC_HOLES};
use crate::{ensure_eq, register, swap};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::time::{Duration, Instant};

/// The move is refused with EBUSY, under any flags, and changes nothing.
pub fn ensure_busy(src: Span) -> Outcome {
    let dst = Area::pages(src.nr_pages())?;
    let before = entries(src)?;
    for flags in [0, RAP_ALLOW_SRC_HOLES] {
        ensure_eq!(remap(*dst, src, flags), Err(Errno::EBUSY), "flags {flags}");
    }
    ensure_eq!(entries(src)?, before);
    ensure_holes(*dst)
}

/// The move works.
fn ensure_moves(src: Span) -> anyhow::Result<Area> {
    let dst = Area::pages(src.nr_pages())?;
    remap_all(*dst, src)?;
    ensure_holes(src)?;
    Ok(dst)
}

/// A41: a page that a child has too stays where it is, for the parent as for the child.
fn a41_forked_page() -> Outcome {
    let src = Area::filled(2, 1)?;
    let holder = Holder::fork()?;
    ensure_busy(*src)?;
    must_pass_in_child(|| {
        ensure_busy(*src)?;
        src.check_pages(1)
    })?;
    drop(holder);
    src.check_pages(1)
}

/// A41: memory with MADV_DONTFORK is not shared with a child, and moves.
fn a41_dontfork() -> Outcome {
    let src = Area::filled(2, 1)?;
    src.advise(libc::MADV_DONTFORK).context("MADV_DONTFORK")?;
    let _holder = Holder::fork()?;
    ensure_moves(*src)?.check_pages(1)
}

/// A41: the parent's own copy, made by a write, moves while the child keeps the old page.
fn a41_own_copy() -> Outcome {
    let src = Area::filled(2, 1)?;
    must_pass_in_child(|| {
        let holder = Holder::fork()?;
        src.fill_pages(5);
        ensure_moves(*src)?.check_pages(5)?;
        drop(holder);
        Ok(())
    })?;
    src.check_pages(1)?;
    let _holder = Holder::fork()?;
    src.fill_pages(7);
    ensure_moves(*src)?.check_pages(7)
}

/// A41: when the child is gone, a write makes the page the parent's alone again.
fn a41_after_the_child_is_gone() -> Outcome {
    let src = Area::filled(2, 1)?;
    drop(Holder::fork()?);
    // Until then it may be refused, and nothing is lost by it.
    match remap(*Area::pages(2)?, *src, 0) {
        Err(Errno::EBUSY) => src.check_pages(1)?,
        Ok(_) => return Ok(()),
        Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
    }
    for part in src.each_page() {
        let byte = part.load().expect("it is there");
        ensure_eq!(part.store(byte), Ok(()));
    }
    ensure_moves(*src)?.check_pages(1)
}

/// A41: what was the parent's alone moves, up to the first shared page.
fn a41_some_pages_forked() -> Outcome {
    let (src, dst) = (Area::filled(4, 1)?, Area::pages(4)?);
    let _holder = Holder::fork()?;
    src.pages(0..2).fill_pages(1);
    ensure_eq!(remap(*dst, *src, 0), Ok(2 * page()));
    dst.pages(0..2).check_pages(1)?;
    let rest = (dst.pages(2..4), src.pages(2..4));
    ensure_eq!(remap(rest.0, rest.1, 0), Err(Errno::EBUSY));
    rest.1.check_pages(3)
}

/// A41, C14d: a huge page that a child has too is not even split.
fn a41_forked_huge_page() -> Outcome {
    let src = huge_pages(1, 1)?;
    let _holder = Holder::fork()?;
    ensure_busy(src.pages(3..5))?;
    let dst = Map::huge_pages(1).map()?;
    ensure_eq!(remap(*dst, *src, 0), Err(Errno::EBUSY), "the whole of it");
    ensure!(is_huge(*src)?, "it was split for nothing");
    src.check_pages(1)
}

/// A41: the zero page is nobody's: fork does not hold it.
fn a41_forked_zero_page() -> Outcome {
    let src = Area::pages(1)?;
    ensure_eq!(src.load(), Ok(0));
    let _holder = Holder::fork()?;
    ensure_moves(*src)?.check_zero()
}

/// A26, C5: a page of KSM's stays where it is, and can be moved when it is no more.
fn a26_ksm_page() -> Outcome {
    ksm::hurry()?;
    let src = Area::pages(4)?;
    src.each_page().for_each(|part| part.fill(4242));
    src.advise(libc::MADV_MERGEABLE).context("MADV_MERGEABLE")?;
    ksm::wait_merged(&[*src])?;
    ensure_busy(*src)?;
    ensure_busy(src.page(3))?;
    src.advise(libc::MADV_UNMERGEABLE)
        .context("MADV_UNMERGEABLE")?;
    let dst = ensure_moves(*src)?;
    dst.each_page().try_for_each(|part| part.check(4242))
}

/// A26: a page of KSM's that has gone to swap stays merged there, whatever is advised then, until
/// it is written to.
fn a26_ksm_page_in_swap() -> Outcome {
    swap::ensure_on()?;
    let group = Cgroup::enter()?;
    ksm::hurry()?;
    let src = Area::pages(2)?;
    src.each_page().for_each(|part| part.fill(4343));
    src.advise(libc::MADV_MERGEABLE).context("MADV_MERGEABLE")?;
    ksm::wait_merged(&[*src])?;
    set_ksm("run", 0)?;
    wait_until(|| {
        // It fails where it cannot reclaim so much.
        let _ = group.set("memory.reclaim", "16M");
        Ok(entries(*src)?.iter().all(|entry| entry.swapped()))
    })?;
    src.advise(libc::MADV_UNMERGEABLE)
        .context("MADV_UNMERGEABLE")?;
    ensure_busy(*src)?;
    ensure_eq!(src.store(0), Ok(()));
    ensure_eq!(src.page(1).store(0), Ok(()));
    ensure_moves(*src).map(drop)
}

/// A26: KSM's zero pages move, and its count of them stays right.
fn a26_ksm_zero_page() -> Outcome {
    set_ksm("use_zero_pages", 1)?;
    ksm::hurry()?;
    let before = ksm_number("ksm_zero_pages")?;
    let src = Area::pages(4)?;
    for part in src.each_page() {
        ensure_eq!(part.store(0), Ok(()));
    }
    src.advise(libc::MADV_MERGEABLE).context("MADV_MERGEABLE")?;
    ksm::wait_merged(&[*src])?;
    ensure_eq!(ksm_number("ksm_zero_pages")?, before + 4, "when merged");
    let dst = ensure_moves(*src)?;
    // They may stay KSM's, or become plain zero pages, as long as the count knows.
    let moved = ksm_number("ksm_zero_pages")?;
    ensure!([before, before + 4].contains(&moved), "{moved} when moved");
    dst.check_zero()?;
    drop(dst);
    ensure_eq!(ksm_number("ksm_zero_pages")?, before, "when unmapped");
    Ok(())
}

/// A26: a plain zero page that was moved is none of KSM's.
fn a26_zero_page_is_not_ksm_s() -> Outcome {
    let before = ksm_number("ksm_zero_pages").map_err(|_| Skip("no KSM".into()))?;
    let src = Area::pages(4)?;
    src.check_zero()?;
    let dst = ensure_moves(*src)?;
    ensure_eq!(ksm_number("ksm_zero_pages")?, before, "when moved");
    drop(dst);
    ensure_eq!(ksm_number("ksm_zero_pages")?, before, "when unmapped");
    Ok(())
}

/// A26: the zero page as the source moves.
fn a26_zero_page() -> Outcome {
    let src = Area::pages(2)?;
    src.check_zero()?;
    let frame = entry(*src)?.pfn()?;
    let dst = ensure_moves(*src)?;
    ensure_eq!(
        entry(*dst)?.pfn()?,
        frame,
        "it was not moved, but made anew"
    );
    dst.check_zero()?;
    // A write makes a page of its own, at this place only.
    dst.page(0).fill(1);
    dst.page(0).check(1)?;
    dst.page(1).check_zero()
}

/// Moves what was pinned: the pin may go away a little later.
pub fn moves_soon(dst: Span, src: Span) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(10);
    let start = Instant::now();
    loop {
        match remap_all(dst, src) {
            Err(error) if start.elapsed() > LIMIT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            moved => return moved,
        }
    }
}

/// A26, C14c: a page that is pinned stays where it is, and its neighbours do not.
fn a26_pinned_page() -> Outcome {
    let src = Area::filled(3, 1)?;
    let pin = Pin::new(src.page(1))?;
    ensure_busy(src.page(1))?;
    ensure_moves(src.page(0))?.check(1)?;
    ensure_moves(src.page(2))?.check(3)?;
    pin.release()?;
    let dst = Area::pages(1)?;
    moves_soon(*dst, src.page(1))?;
    dst.check(2)
}

/// A26: a page whose folio is pinned anywhere stays where it is, and the folio whole.
fn a26_page_of_a_pinned_huge_page() -> Outcome {
    let src = huge_pages(1, 1)?;
    let pin = Pin::new(src.page(5))?;
    ensure_busy(src.pages(5..6))?;
    let at = of_512(100);
    ensure_busy(src.pages(at..at + 2))?;
    pin.release()?;
    let dst = Area::pages(2)?;
    moves_soon(*dst, src.pages(at..at + 2))?;
    dst.check_pages(1 + at as u32)?;
    src.pages(0..at).check_pages(1)
}

/// A26: what the kernel merely reads at the moment does not lose its content.
fn a26_page_in_a_pipe() -> Outcome {
    let (src, dst) = (Area::filled(1, 1)?, Area::pages(1)?);
    let pipe = pipe_with(*src)?;
    let place = match remap(*dst, *src, 0) {
        Ok(_) => &dst,
        Err(Errno::EBUSY) => &src,
        Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
    };
    place.check(1)?;
    ensure_eq!(pipe.bytes()?, place.bytes(), "in the pipe");
    ensure_present(**place)
}

register!(
    a26_ksm_page,
    a26_ksm_page_in_swap,
    a26_ksm_zero_page,
    a26_zero_page_is_not_ksm_s,
    a26_zero_page,
    a26_pinned_page,
    a26_page_of_a_pinned_huge_page,
    a26_page_in_a_pipe,
    a41_forked_page,
    a41_dontfork,
    a41_own_copy,
    a41_after_the_child_is_gone,
    a41_some_pages_forked,
    a41_forked_huge_page,
    a41_forked_zero_page,
);
