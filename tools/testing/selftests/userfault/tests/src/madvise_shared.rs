// SPDX-License-Identifier: GPL-2.0

//! Pages that others have a share in: KSM's, a child's, those that the kernel keeps hold of.
//!
//! To be given a copy of one's own (`FAULT_FLAG_UNSHARE`) counts as a read: of a page it works in
//! marked memory, of a hole it is refused.

use crate::gup::{How, Pins};
use crate::harness::Outcome;
use crate::knobs::{ksm_number, set_ksm};
use crate::ksm;
use crate::madvise_fault::ensure_refused;
use crate::pair::Pair;
use crate::proc::{ensure_present, is_marked};
use crate::process::Holder;
use crate::sys::{remap_all, Area, Span};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// Marked memory: the even pages are equal, the odd ones are holes.
fn equal_pages_and_holes() -> anyhow::Result<(Area, Vec<Span>)> {
    let area = Area::pages(8)?;
    let pages: Vec<_> = area.each_page().step_by(2).collect();
    pages.iter().for_each(|part| part.fill(777));
    area.mark()?;
    area.advise(libc::MADV_MERGEABLE)
        .context("MADV_MERGEABLE")?;
    ksm::hurry()?;
    ksm::wait_merged(&pages)?;
    Ok((area, pages))
}

fn ensure_odd_pages_refused(area: &Area) -> Outcome {
    area.each_page()
        .skip(1)
        .step_by(2)
        .try_for_each(ensure_refused)
}

/// A4, C48: KSM merges the pages of marked memory and keeps its holes; MADV_UNMERGEABLE gives each
/// page its copy again, and keeps the holes too.
fn a4_unmergeable_gives_pages_back_and_keeps_holes() -> Outcome {
    let (area, pages) = equal_pages_and_holes()?;
    ensure_odd_pages_refused(&area)?;
    ensure!(pages.iter().all(|part| part.load().is_ok()), "SIGBUS");
    area.advise(libc::MADV_UNMERGEABLE)
        .context("MADV_UNMERGEABLE")?;
    let mut frames = ksm::frames(&pages)?;
    frames.sort_unstable();
    frames.dedup();
    ensure_eq!(frames.len(), pages.len(), "frames of their own");
    ensure!(is_marked(*area)?, "the mark is gone");
    pages.iter().try_for_each(|part| part.check(777))?;
    ensure_odd_pages_refused(&area)
}

/// A4: the same where KSM gives up all that it has, of every process.
fn a4_ksm_unmerges_all_and_keeps_holes() -> Outcome {
    let (area, pages) = equal_pages_and_holes()?;
    set_ksm("run", 2)?;
    ensure_eq!(ksm_number("pages_sharing")?, 0);
    pages.iter().try_for_each(|part| part.check(777))?;
    ensure_odd_pages_refused(&area)
}

/// A4: a write to a page of KSM's copies it: neither is a hole, and KSM's zero page is none.
fn a4_write_to_a_page_of_ksm() -> Outcome {
    let (area, pages) = equal_pages_and_holes()?;
    pages[1].fill(1);
    pages[0].check(777)?;
    pages[1].check(1)?;
    ensure_odd_pages_refused(&area)?;

    set_ksm("use_zero_pages", 1)?;
    let zeroes = Area::pages(4)?;
    zeroes.clear();
    zeroes.mark()?;
    zeroes
        .advise(libc::MADV_MERGEABLE)
        .context("MADV_MERGEABLE")?;
    ksm::wait_merged(&[*zeroes])?;
    zeroes.check_zero()?;
    zeroes.page(1).fill(1);
    zeroes
        .advise(libc::MADV_UNMERGEABLE)
        .context("MADV_UNMERGEABLE")?;
    ensure_present(*zeroes)?;
    zeroes.page(0).check_zero()?;
    zeroes.page(1).check(1)
}

/// A11: to keep hold of a hole for long is EFAULT, to read as to write, and of what lies around it
/// nothing is kept hold of.
fn a11_pin_of_a_hole() -> Outcome {
    let pins = Pins::new()?;
    for how in How::all() {
        let pair = Pair::new()?;
        for range in [1..2, 0..3, 1..3, 0..2] {
            let what = format!("{range:?}, {how:?}");
            let seen = pair.same(&what, |area| Ok(pins.pin(area.pages(range.clone()), how)))?;
            ensure_eq!(seen, Err(Errno::EFAULT), "{what}");
        }
        // What is pinned does not move.
        let room = Area::pages(3)?;
        remap_all(room.page(0), pair.holed.page(0))?;
        remap_all(room.page(2), pair.holed.page(2))?;
    }
    Ok(())
}

/// A4: to keep hold of a page to read it, for long, takes a copy if others have a share in it, and
/// that is no touch of a hole. What is written to it later is what the holder sees.
fn a4_pin_takes_a_copy() -> Outcome {
    for how in How::all().filter(|how| !how.write) {
        let (zero, forked) = (Area::pages(1)?, Area::filled(1, 1)?);
        zero.check_zero()?;
        let holder = Holder::fork()?;
        let (ksm, merged) = equal_pages_and_holes()?;
        let own = Area::filled(1, 1)?;
        for (what, span) in [
            ("zero", *zero),
            ("forked", *forked),
            ("merged", merged[0]),
            ("own", *own),
        ] {
            if !is_marked(span)? {
                span.mark()?;
            }
            let pins = Pins::new()?;
            ensure_eq!(pins.pin(span, how), Ok(()), "{what}, {how:?}");
            span.fill(5);
            let seen = Area::pages(1)?;
            seen.fill(9);
            pins.read_to(*seen).context("what is pinned")?;
            seen.check(5).with_context(|| format!("{what}, {how:?}"))?;
        }
        merged[1].check(777)?;
        ensure_odd_pages_refused(&ksm)?;
        drop(holder);
    }
    Ok(())
}

register!(
    a4_unmergeable_gives_pages_back_and_keeps_holes,
    a4_ksm_unmerges_all_and_keeps_holes,
    a4_write_to_a_page_of_ksm,
    a4_pin_takes_a_copy,
    a11_pin_of_a_hole,
);
