// SPDX-License-Identifier: GPL-2.0

//! Huge pages that move whole, and what keeps them from it.

use crate::frame::{self, ensure_refused};
use crate::gup::Pin;
use crate::harness::Outcome;
use crate::proc::{
    clear_soft_dirty, ensure_entries, ensure_holes, ensure_present, entry, frames, status_kib,
    vma_of, Entry,
};
use crate::process::{must_pass_in_child, Holder};
use crate::remap_busy::moves_soon;
use crate::remap_moved::ensure_protected;
use crate::special::{huge_pages, huge_zero_pages, is_huge};
use crate::sys::{
    of_512, page, pmd, pmd_pages, remap, remap_all, table, upper_table, Area, Map, Span,
    MADV_COLLAPSE, RW,
};
use crate::touch::Fault;
use crate::{ensure_eq, register, swap};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// Moves huge pages, and fails unless they are the same and huge as before.
fn move_whole(dst: Span, src: Span) -> Outcome {
    frame::move_unsplit(dst, src)?;
    ensure!(is_huge(dst)?, "no longer huge");
    Ok(())
}

/// A huge page that has moved, with its source.
fn moved() -> anyhow::Result<(Area, Area)> {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    move_whole(*dst, *src)?;
    Ok((dst, src))
}

/// A33: a huge page moves whole, and leaves a hole that the next touch fills anew.
fn a33_huge_page_moves_whole() -> Outcome {
    let (dst, src) = moved()?;
    dst.check_pages(1)?;
    src.check_zero()?;
    src.fill_pages(2000);
    dst.check_pages(1)
}

/// A33, A32: the hole that it leaves in marked memory raises SIGBUS, all over.
fn a33_huge_page_leaves_a_marked_hole() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    src.mark()?;
    move_whole(*dst, *src)?;
    for index in [0, of_512(300), pmd_pages() - 1] {
        let part = src.page(index);
        ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)));
        ensure_eq!(part.store(1), Err(Fault::sigbus(part.addr)));
    }
    ensure_holes(*src)?;
    dst.check_pages(1)
}

/// A33: many of them in one call.
fn a33_many_huge_pages_in_one_call() -> Outcome {
    let (dst, src) = (Map::huge_pages(8).map()?, huge_pages(8, 1)?);
    move_whole(*dst, *src)?;
    dst.check_pages(1)
}

/// A33, A43: in one vma, where only the index changes, there and back.
fn a33_huge_page_moves_in_one_vma() -> Outcome {
    let area = huge_pages(2, 1)?;
    let all = pmd_pages();
    let (first, second) = (area.pages(0..all), area.pages(all..2 * all));
    second.advise(libc::MADV_DONTNEED)?;
    let before = frames(first)?;
    for (dst, src) in [(second, first), (first, second)] {
        remap_all(dst, src)?;
        ensure_eq!(frames(dst)?, before);
        ensure_holes(src)?;
    }
    let huge = pmd() as u64 / 1024;
    ensure_eq!(vma_of(*area)?.kib("AnonHugePages")?, huge);
    swap::out(first)?;
    first.check_pages(1)
}

/// A33: the huge zero page moves as it is.
fn a33_huge_zero_page_moves_whole() -> Outcome {
    let (dst, src) = (Map::huge_pages(2).map()?, huge_zero_pages(2)?);
    frame::move_unsplit(*dst, *src)?;
    dst.check_zero()?;
    // A write makes pages of its own, at this place only.
    dst.page(7).fill(7);
    dst.page(7).check(7)?;
    dst.page(8).check_zero()?;
    dst.pages(pmd_pages()..2 * pmd_pages()).check_zero()
}

/// A34: where the destination has had small pages, its empty table is taken out, and given back.
fn a34_empty_table_is_taken_out() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    let kib = table() as u64 / 1024;
    let mut seen = Vec::new();
    for _ in 0..5 {
        dst.page(5).fill(5);
        dst.page(5).advise(libc::MADV_DONTNEED)?;
        let tables = status_kib("VmPTE")?;
        move_whole(*dst, *src)?;
        let there = status_kib("VmPTE")?;
        move_whole(*src, *dst)?;
        seen.push([tables, there, status_kib("VmPTE")?]);
    }
    // The tables are those of the whole process: its heap, too, may have taken one, but not often.
    let right = |[before, there, back]: &&[u64; 3]| *there == before - kib && *back == *there;
    src.check_pages(1)?;
    if kib == 0 {
        crate::skip!("a table of {} bytes is too small to be counted", table());
    }
    ensure!(seen.iter().filter(right).count() >= 3, "{seen:?}");
    Ok(())
}

/// A34: the table that a huge page is split into moves with it: it needs none, neither then nor
/// when it is split.
fn a34_tables_move_with_huge_pages() -> Outcome {
    let (dst, src) = (Map::huge_pages(2).map()?, huge_pages(2, 1)?);
    let tables = status_kib("VmPTE")?;
    move_whole(*dst, *src)?;
    // Those of two upper levels may be new.
    let grown = status_kib("VmPTE")? - tables;
    ensure!(
        grown <= 2 * upper_table() as u64 / 1024,
        "{grown} KiB of tables"
    );
    for index in 0..2 {
        dst.page(pmd_pages() * index + 9)
            .advise(libc::MADV_DONTNEED)?;
    }
    ensure_eq!(status_kib("VmPTE")?, tables + grown, "after the split");
    dst.pages(10..pmd_pages()).check_pages(11)
}

/// A33: huge pages move whole in the middle of small ones, wherever the call begins and ends.
fn a33_huge_and_small_pages_in_one_call() -> Outcome {
    let all = pmd_pages();
    for range in [0..4 * all, of_512(700)..of_512(1900), all..3 * all] {
        let (dst, src) = (Map::huge_pages(4).map()?, huge_pages(4, 1)?);
        for room in [0, 2] {
            let room = src.pages(all * room..all * (room + 1));
            room.advise(libc::MADV_DONTNEED)?;
        }
        src.pages(0..all).fill_pages(1);
        src.pages(2 * all..3 * all).fill_pages(1 + 2 * all as u32);
        // The huge page in room 1 is in the range only where all of it is.
        let whole = [all..2 * all, 3 * all..4 * all]
            .into_iter()
            .filter(|huge| range.start <= huge.start && huge.end <= range.end);
        let before = frames(src.pages(range.clone()))?;
        remap_all(dst.pages(range.clone()), src.pages(range.clone()))?;
        ensure_eq!(frames(dst.pages(range.clone()))?, before, "{range:?}");
        let huge = whole.clone().count() as u64 * pmd() as u64 / 1024;
        let seen = vma_of(*dst)?.kib("AnonHugePages")?;
        ensure_eq!(seen, huge, "huge KiB of {range:?}");
        for huge in whole {
            ensure!(frame::is_folio(dst.pages(huge))?, "split: {range:?}");
        }
        dst.pages(range.clone())
            .check_pages(1 + range.start as u32)?;
    }
    Ok(())
}

/// A33, A25: a table with an entry is not taken out: what lies before the entry moves.
fn a33_occupied_entry_in_the_table() -> Outcome {
    let all = pmd_pages();
    for at in [0, 1, of_512(100), all - 1] {
        let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
        dst.page(at).fill(5000);
        if at > 0 {
            ensure_eq!(remap(*dst, *src, 0), Ok(at * page()), "at {at}");
        }
        let (to, from) = (dst.pages(at..all), src.pages(at..all));
        ensure_refused(to, from, Errno::EEXIST).with_context(|| format!("at {at}"))?;
        ensure_eq!(is_huge(*src)?, at == 0, "at {at}");
        dst.pages(0..at).check_pages(1)?;
        dst.page(at).check(5000)?;
        ensure_holes(dst.pages(at + 1..all))?;
        from.check_pages(1 + at as u32)?;
    }
    Ok(())
}

/// A25: a huge page at the destination, or the huge zero page: EEXIST, and both stay as they are.
fn a25_huge_page_to_huge_page() -> Outcome {
    let src = huge_pages(1, 1)?;
    for dst in [huge_pages(1, 1000)?, huge_zero_pages(1)?] {
        let before = frames(*dst)?;
        ensure_refused(*dst, *src, Errno::EEXIST)?;
        ensure_eq!(frames(*dst)?, before);
        ensure!(is_huge(*src)?, "split");
    }
    src.check_pages(1)
}

/// A33: where it cannot move whole it is split: to another alignment, or when a part is asked for.
fn a33_huge_page_is_split_for_a_part() -> Outcome {
    let (all, part) = (pmd_pages(), of_512(100));
    for (to, from) in [
        (1..all + 1, 0..all),
        (0..all - 1, 0..all - 1),
        (1..all, 1..all),
        (0..part, all - part..all),
    ] {
        let (dst, src) = (Map::huge_pages(2).map()?, huge_pages(1, 1)?);
        let (dst, part) = (dst.pages(to), src.pages(from.clone()));
        remap_all(dst, part).with_context(|| format!("{from:?}"))?;
        dst.check_pages(1 + from.start as u32)?;
        frame::ensure_small(dst)?;
        ensure_holes(part)?;
        src.pages(0..from.start).check_pages(1)?;
        src.pages(from.end..all).check_pages(1 + from.end as u32)?;
    }
    Ok(())
}

/// C14d, A41: a huge page that a child has too stays whole, for both, and moves whole when a write
/// has made it the parent's alone.
fn c14d_shared_huge_page_is_not_split() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    let holder = Holder::fork()?;
    let refused = || -> Outcome {
        ensure_refused(*dst, *src, Errno::EBUSY).context("whole")?;
        ensure_refused(dst.pages(1..9), src.pages(0..8), Errno::EBUSY).context("in part")?;
        ensure!(is_huge(*src)?, "split");
        src.check_pages(1)
    };
    refused()?;
    must_pass_in_child(refused).context("child")?;
    drop(holder);
    // The first byte of every page that was filled.
    ensure_eq!(src.store(!0), Ok(()));
    if !is_huge(*src)? {
        crate::skip!("this kernel copies a page of it instead");
    }
    move_whole(*dst, *src)?;
    dst.check_pages(1)
}

/// C14c: a huge page that is pinned anywhere stays whole, and where it is.
fn c14c_pinned_huge_page_is_not_split() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    let pin = Pin::new(src.page(5))?;
    ensure_refused(*dst, *src, Errno::EBUSY).context("whole")?;
    ensure_refused(dst.pages(1..9), src.pages(0..8), Errno::EBUSY).context("in part")?;
    ensure!(is_huge(*src)?, "split");
    pin.release()?;
    moves_soon(*dst, *src)?;
    ensure!(is_huge(*dst)?, "split when it was not pinned any more");
    dst.check_pages(1)
}

/// C14: at the destination all of a huge page counts as written.
fn c14_soft_dirty_huge_page() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    if !entry(*src)?.soft_dirty() {
        crate::skip!("this kernel does not track written pages");
    }
    clear_soft_dirty()?;
    ensure_entries(*src, "clean", |entry| !entry.soft_dirty())?;
    move_whole(*dst, *src)?;
    ensure_entries(*dst, "written", Entry::soft_dirty)
}

/// C14: and so does the huge zero page, where nothing was before.
fn c14_soft_dirty_huge_zero_page() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_zero_pages(1)?);
    if !entry(*Area::filled(1, 1)?)?.soft_dirty() {
        crate::skip!("this kernel does not track written pages");
    }
    clear_soft_dirty()?;
    remap_all(*dst, *src)?;
    ensure_entries(*dst, "written", Entry::soft_dirty)
}

/// A35: what was written of a huge page that is free to be dropped stays.
fn a35_huge_page_that_was_free_to_be_dropped() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    src.advise(libc::MADV_FREE).context("MADV_FREE")?;
    src.fill_pages(1000);
    ensure!(is_huge(*src)?, "split");
    move_whole(*dst, *src)?;
    swap::ensure_on()?;
    swap::page_out_until(*dst, "reclaimed", |entry| !entry.present())?;
    dst.check_pages(1000)
}

/// A35: the destination's protection holds.
fn a35_huge_page_in_read_only_memory() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    ensure_protected(*dst, *src, move_whole)
}

/// A35: write protection stays behind, and the watch over the destination's accesses is set.
fn a35_userfaultfd_bits_of_a_huge_page() -> Outcome {
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    let _uffd = crate::uffd::write_protect(*src)?;
    ensure_entries(*src, "protected", Entry::watched)?;
    move_whole(*dst, *src)?;
    ensure_entries(*dst, "free", |entry| !entry.watched())?;
    dst.fill_pages(2);
    dst.check_pages(2)?;

    let watched = Map::huge_pages(1).map()?;
    let uffd = crate::uffd::register_rwp(*watched)?;
    move_whole(*watched, *dst)?;
    ensure_entries(*watched, "watched", Entry::watched)?;
    drop(uffd);
    watched.check_pages(2)
}

/// A43: a moved huge page is split by all that splits one, and its pages stay where they are.
fn a43_moved_huge_page_is_split() -> Outcome {
    type Split = fn(Span) -> nix::Result<()>;
    let splits: [(&str, Split); 3] = [
        ("munmap", Span::unmap),
        ("mprotect", |part| part.protect(libc::PROT_READ)),
        ("MADV_DONTNEED", |part| part.advise(libc::MADV_DONTNEED)),
    ];
    for (name, split) in splits {
        let (dst, _src) = moved()?;
        let (start, end) = (of_512(100), of_512(200));
        split(dst.pages(start..end)).context(name)?;
        dst.pages(0..start).check_pages(1).context(name)?;
        let rest = dst.pages(end..pmd_pages());
        rest.check_pages(1 + end as u32).context(name)?;
        rest.fill_pages(1201);
        swap::out(rest).context(name)?;
        rest.check_pages(1201).context(name)?;
    }
    Ok(())
}

/// A43: reclaim and migration find a moved huge page at its new place.
fn a43_moved_huge_page_is_reclaimed_and_migrates() -> Outcome {
    let (dst, src) = moved()?;
    swap::out(*dst)?;
    dst.check_pages(1)?;
    ensure_holes(*src)?;

    let (dst, src) = moved()?;
    frame::migrate(dst.pages(7..8))?;
    frame::compact()?;
    dst.check_pages(1)?;
    ensure_present(*dst)?;
    ensure_holes(*src)
}

/// A43, A35: a child shares a moved huge page until either of them writes.
fn a43_moved_huge_page_is_copied_on_write() -> Outcome {
    let (dst, src) = moved()?;
    must_pass_in_child(|| {
        dst.check_pages(1)?;
        dst.fill_pages(2000);
        dst.check_pages(2000)?;
        src.page(0).check_zero()
    })?;
    dst.check_pages(1)?;
    let _holder = Holder::fork()?;
    dst.fill_pages(3000);
    dst.check_pages(3000)
}

/// A43: once split, its pages are collapsed into a huge page again.
fn a43_moved_huge_page_is_collapsed_again() -> Outcome {
    let (dst, _src) = moved()?;
    dst.pages(0..9).protect(libc::PROT_READ)?;
    dst.pages(0..9).protect(RW)?;
    ensure!(!is_huge(*dst)?, "not split");
    dst.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    dst.advise(MADV_COLLAPSE).context("MADV_COLLAPSE")?;
    ensure!(is_huge(*dst)?, "not collapsed");
    dst.check_pages(1)
}

/// A36: what the process, and its cgroup, has of pages, huge pages and tables stays the same.
fn a36_counters_of_a_huge_page() -> Outcome {
    // So many that what each processor counts for itself at first is little beside it.
    let huge = 2048 / pmd_pages();
    let group = crate::cgroup::Cgroup::enter()?;
    let (dst, src) = (Map::huge_pages(huge).map()?, huge_pages(huge, 1)?);
    let all = src.len as u64;
    let counts = || -> anyhow::Result<[u64; 3]> {
        Ok([
            status_kib("RssAnon")? * 1024,
            group.stat("anon")?,
            group.stat("anon_thp")?,
        ])
    };
    let before = counts()?;
    move_whole(*dst, *src)?;
    for (before, after) in before.into_iter().zip(counts()?) {
        let changed = after.abs_diff(before);
        ensure!(changed < all / 8, "{before} is {after} now");
    }
    drop(dst);
    for (before, after) in before.into_iter().zip(counts()?) {
        let gone = before.saturating_sub(after);
        ensure!(gone > all / 4 * 3, "{before} is {after} at the end");
    }
    Ok(())
}

register!(
    a33_huge_page_moves_whole,
    a33_huge_page_leaves_a_marked_hole,
    a33_many_huge_pages_in_one_call,
    a33_huge_page_moves_in_one_vma,
    a33_huge_zero_page_moves_whole,
    a34_empty_table_is_taken_out,
    a34_tables_move_with_huge_pages,
    a33_huge_and_small_pages_in_one_call,
    a33_occupied_entry_in_the_table,
    a25_huge_page_to_huge_page,
    a33_huge_page_is_split_for_a_part,
    c14d_shared_huge_page_is_not_split,
    c14c_pinned_huge_page_is_not_split,
    c14_soft_dirty_huge_page,
    c14_soft_dirty_huge_zero_page,
    a35_userfaultfd_bits_of_a_huge_page,
    a35_huge_page_in_read_only_memory,
    a35_huge_page_that_was_free_to_be_dropped,
    a43_moved_huge_page_is_split,
    a43_moved_huge_page_is_reclaimed_and_migrates,
    a43_moved_huge_page_is_copied_on_write,
    a43_moved_huge_page_is_collapsed_again,
    a36_counters_of_a_huge_page,
);
