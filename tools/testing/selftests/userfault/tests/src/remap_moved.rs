// SPDX-License-Identifier: GPL-2.0

//! The page at its new place: the very same, and good for all that a page is good for.

use crate::cgroup::Cgroup;
use crate::harness::Outcome;
use crate::proc::{clear_soft_dirty, ensure_holes, ensure_present, entry, frames};
use crate::process::{must_pass_in_child, Holder};
use crate::special::{folio_pages, huge_pages, huge_zero_pages, pages_of_folios};
use crate::sys::{of_512, page, pmd, pmd_pages, remap_all, Area, Map, Span, RW};
use crate::{ensure_eq, frame, register, swap};
use anyhow::{ensure, Context};

/// A26: a page is moved, not copied: it keeps its frame.
fn a26_same_frame() -> Outcome {
    let (dst, src) = (Area::pages(8)?, Area::filled(8, 1)?);
    src.lock(0).context("mlock")?;
    dst.lock(1).context("mlock2")?;
    let before = frames(*src)?;
    remap_all(*dst, *src)?;
    ensure_eq!(frames(*dst)?, before);
    dst.check_pages(1)
}

/// A35: at the destination the page counts as written, for those who track it.
fn a35_soft_dirty() -> Outcome {
    let fresh = Area::filled(1, 1)?;
    if !entry(*fresh)?.soft_dirty() {
        crate::skip!("this kernel does not track written pages");
    }
    let (dst, src) = (Area::pages(4)?, Area::pages(4)?);
    src.pages(0..3).fill_pages(1);
    src.page(3).check_zero()?;
    clear_soft_dirty()?;
    if entry(*src)?.soft_dirty() {
        crate::skip!("this kernel does not forget written pages");
    }
    remap_all(*dst, *src)?;
    for part in dst.each_page() {
        ensure!(
            entry(part)?.soft_dirty(),
            "{part:x?} does not count as written"
        );
    }
    dst.pages(0..3).check_pages(1)?;
    dst.page(3).check_zero()
}

/// Moves pages within memory that is for reading only, and fails unless they can be written to when
/// that is allowed, and not before.
pub fn ensure_protected(dst: Span, src: Span, go: impl FnOnce(Span, Span) -> Outcome) -> Outcome {
    dst.protect(libc::PROT_READ)?;
    src.protect(libc::PROT_READ)?;
    go(dst, src)?;
    ensure!(dst.store(1).is_err(), "written to without permission");
    dst.protect(RW)?;
    dst.check_pages(1)?;
    ensure_eq!(dst.store(1), Ok(()));
    Ok(())
}

/// A35: the destination's protection holds: written to where it may be, else not.
fn a35_protection_of_the_destination() -> Outcome {
    let (dst, src) = (Area::pages(1)?, Area::filled(1, 1)?);
    ensure_protected(*dst, *src, remap_all)
}

/// A35, A41: after the move, fork and writes on both sides work as with any page.
fn a35_copy_on_write_afterwards() -> Outcome {
    let (dst, src) = (Area::pages(4)?, Area::filled(4, 1)?);
    remap_all(*dst, *src)?;
    dst.page(0).fill(1);
    must_pass_in_child(|| {
        dst.check_pages(1)?;
        dst.fill_pages(20);
        dst.check_pages(20)?;
        src.check_zero()
    })?;
    dst.check_pages(1)?;
    let holder = Holder::fork()?;
    dst.fill_pages(30);
    drop(holder);
    dst.check_pages(30)
}

/// A26: between vmas of different origin, there and back, also when the first one is gone.
fn a26_source_vma_goes_away() -> Outcome {
    let (dst, src) = (Area::pages(4)?, Area::filled(4, 1)?);
    remap_all(*dst, *src)?;
    drop(src);
    dst.check_pages(1)?;
    let third = Area::pages(4)?;
    remap_all(*third, *dst)?;
    drop(dst);
    third.check_pages(1)?;
    swap_out_and_in(*third)
}

/// Reclaim finds every page at its new place, and it comes back with its content.
fn swap_out_and_in(span: Span) -> Outcome {
    swap::out(span)?;
    span.check_pages(1)?;
    span.fill_pages(1);
    swap::out(span)?;
    span.check_pages(1)
}

/// A43: reclaim finds a moved page at its new place.
fn a43_reclaim_afterwards() -> Outcome {
    let (dst, src) = (Area::pages(16)?, Area::filled(16, 1)?);
    remap_all(*dst, *src)?;
    swap_out_and_in(*dst)?;
    ensure_holes(*src)
}

/// A43: the same in one vma, where only the page's index changes.
fn a43_reclaim_after_move_in_one_vma() -> Outcome {
    let area = Area::pages(32)?;
    area.pages(0..16).fill_pages(1);
    remap_all(area.pages(16..32), area.pages(0..16))?;
    swap_out_and_in(area.pages(16..32))?;
    ensure_holes(area.pages(0..16))
}

/// A43: the same with a child that has the vma, but not the page.
fn a43_reclaim_with_a_child() -> Outcome {
    let (dst, src) = (Area::pages(4)?, Area::pages(4)?);
    dst.page(3).fill(9);
    let _holder = Holder::fork()?;
    src.pages(0..3).fill_pages(1);
    remap_all(dst.pages(0..3), src.pages(0..3))?;
    let _second = Holder::fork()?;
    dst.pages(0..3).fill_pages(1);
    swap_out_and_in(dst.pages(0..3))
}

/// A43: a moved page migrates to another frame, so that its users are found at the new place.
fn a43_migration_afterwards() -> Outcome {
    let (dst, src) = (Area::pages(2)?, Area::filled(2, 1)?);
    remap_all(*dst, *src)?;
    frame::migrate(dst.page(0))?;
    dst.check_pages(1)?;
    ensure_holes(*src)
}

/// A33: a few pages out of the middle of a huge page: they move, and the rest stays.
fn a33_pages_of_a_huge_page() -> Outcome {
    let (dst, src) = (Area::pages(7)?, huge_pages(1, 1)?);
    let (start, end) = (of_512(100), of_512(100) + 7);
    remap_all(*dst, src.pages(start..end))?;
    dst.check_pages(1 + start as u32)?;
    ensure_holes(src.pages(start..end))?;
    src.pages(0..start).check_pages(1)?;
    src.pages(end..pmd_pages()).check_pages(1 + end as u32)
}

/// A33: the first, the last and all the rest of it, one after the other.
fn a33_huge_page_in_pieces() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    let last = pmd_pages() - 1;
    for range in [0..1, last..last + 1, 1..3, 3..last] {
        remap_all(dst.pages(range.clone()), src.pages(range))?;
    }
    dst.check_pages(1)?;
    ensure_holes(*src)
}

/// A33, A7: when a huge page is split for it, what is all zero in it becomes no hole.
fn a33_zeroes_in_a_huge_page() -> Outcome {
    let (dst, src) = (Area::pages(3)?, huge_pages(1, 1)?);
    // Where what is moved is, and where the zeroes are.
    let (half, start) = (of_512(100) / 2, of_512(100));
    let zeroes = src.pages(start..start + 10);
    for part in zeroes.each_page() {
        part.clear();
    }
    src.mark()?;
    remap_all(dst.pages(0..2), src.pages(half..half + 2))?;
    remap_all(dst.page(2), zeroes.page(9))?;
    dst.pages(0..2).check_pages(1 + half as u32)?;
    dst.page(2).check_zero()?;
    zeroes.pages(0..9).check_zero()?;
    for part in zeroes.pages(0..9).each_page() {
        ensure_eq!(part.store(1), Ok(()));
    }
    src.pages(0..half).check_pages(1)?;
    src.pages(half + 2..start).check_pages(3 + half as u32)?;
    let rest = start + 10..pmd_pages();
    src.pages(rest.clone()).check_pages(1 + rest.start as u32)
}

/// A33: a whole huge page, to a place that is aligned as it is.
fn a33_whole_huge_page() -> Outcome {
    let (dst, src) = (Map::huge_pages(2).map()?, huge_pages(2, 1)?);
    remap_all(*dst, *src)?;
    ensure_present(*dst)?;
    dst.check_pages(1)?;
    ensure_holes(*src)?;
    must_pass_in_child(|| {
        dst.check_pages(1)?;
        dst.page(5).fill(9);
        Ok(())
    })?;
    dst.check_pages(1)
}

/// A33: a whole huge page, to a place that is not aligned, and where a table was already.
fn a33_whole_huge_page_to_unaligned_place() -> Outcome {
    let src = huge_pages(1, 1)?;
    let dst = Map::huge_pages(2).map()?;
    dst.page(2).fill(1);
    let part = Span::new(dst.addr + 3 * page(), pmd());
    remap_all(part, *src)?;
    part.check_pages(1)?;
    ensure_holes(*src)?;
    dst.page(2).check(1)
}

/// A33: small pages into a huge page's room, and its neighbours at the same time.
fn a33_over_several_huge_pages() -> Outcome {
    let src = huge_pages(3, 1)?;
    let dst = Map::huge_pages(3).map()?;
    let (start, count) = (of_512(300), of_512(1000));
    let (end, at) = (start + count, of_512(200));
    let (from, to) = (src.pages(start..end), dst.pages(at..at + count));
    remap_all(to, from)?;
    to.check_pages(1 + start as u32)?;
    src.pages(0..start).check_pages(1)?;
    src.pages(end..src.nr_pages()).check_pages(1 + end as u32)
}

/// A26: the huge zero page moves, whole or in part.
fn a26_huge_zero_page() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_zero_pages(1)?);
    remap_all(*dst, *src)?;
    ensure_present(*dst)?;
    ensure_holes(*src)?;
    dst.check_zero()?;
    dst.page(9).fill(9);
    dst.page(9).check(9)?;
    dst.page(10).check_zero()?;

    let (dst, src) = (Area::pages(4)?, huge_zero_pages(1)?);
    let at = of_512(50);
    remap_all(*dst, src.pages(at..at + 4))?;
    ensure_present(*dst)?;
    dst.check_zero()?;
    ensure_holes(src.pages(at..at + 4))?;
    src.pages(at + 4..at + 10).check_zero()
}

/// A26: folios of several pages, whole, in part, and over their boundaries.
fn a26_multi_size_folio() -> Outcome {
    let folio = folio_pages();
    let all = 4 * folio;
    for (start, end) in [
        (0, folio),
        (0, all),
        (3, 5),
        (folio - 1, 2 * folio + 1),
        (1, all),
    ] {
        let src = pages_of_folios(folio, 1)?;
        let dst = Area::pages(end - start)?;
        remap_all(*dst, src.pages(start..end)).with_context(|| format!("{start}..{end}"))?;
        dst.check_pages(1 + start as u32)?;
        ensure_holes(src.pages(start..end))?;
        src.pages(0..start).check_pages(1)?;
        src.pages(end..all).check_pages(1 + end as u32)?;
    }
    Ok(())
}

/// A26: KiB of anonymous memory in a cgroup are as before, also where another cgroup moves what
/// this one has paid: a move charges nothing.
fn a26_charge_stays() -> Outcome {
    const PAGES: usize = 2048;
    for by_another in [false, true] {
        let group = Cgroup::enter()?;
        let other = Cgroup::named("userfault-tests-other")?;
        let (dst, src) = (Area::pages(PAGES)?, Area::filled(PAGES, 1)?);
        if by_another {
            other.add(std::process::id())?;
        }
        let before = [group.stat("anon")?, other.stat("anon")?];
        remap_all(*dst, *src)?;
        let after = [group.stat("anon")?, other.stat("anon")?];
        for (before, after) in before.iter().zip(after) {
            let changed = after.abs_diff(*before);
            ensure!(
                changed <= (PAGES * page() / 8) as u64,
                "by another: {by_another}: anon has changed by {changed} bytes"
            );
        }
        dst.check_pages(1)?;
        drop((dst, src));
        let left = group.stat("anon")?;
        ensure!(
            left < before[0],
            "anon is {left} bytes, was {} with the pages",
            before[0]
        );
    }
    Ok(())
}

register!(
    a26_same_frame,
    a26_source_vma_goes_away,
    a26_huge_zero_page,
    a26_multi_size_folio,
    a26_charge_stays,
    a33_pages_of_a_huge_page,
    a33_huge_page_in_pieces,
    a33_zeroes_in_a_huge_page,
    a33_whole_huge_page,
    a33_whole_huge_page_to_unaligned_place,
    a33_over_several_huge_pages,
    a35_soft_dirty,
    a35_protection_of_the_destination,
    a35_copy_on_write_afterwards,
    a43_reclaim_afterwards,
    a43_reclaim_after_move_in_one_vma,
    a43_reclaim_with_a_child,
    a43_migration_afterwards,
);
