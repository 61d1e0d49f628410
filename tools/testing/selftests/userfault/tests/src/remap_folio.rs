// SPDX-License-Identifier: GPL-2.0

//! Folios of several sizes that move whole, and what keeps them from it.

use crate::frame::{self, ensure_refused, ensure_small, is_folio, move_unsplit};
use crate::gup::Pin;
use crate::harness::{rounds, Outcome};
use crate::knobs::{folio_file, set_thp};
use crate::proc::{
    clear_soft_dirty, ensure_entries, ensure_holes, entries, frames, status_kib, Entry,
};
use crate::process::{must_pass_in_child, Holder};
use crate::remap_busy::moves_soon;
use crate::special::{folio_pages, huge_pages, is_huge, pages_of_folios};
use crate::sys::{page, pmd_pages, remap, remap_all, Area, Map, Span, RAP_ALLOW_SRC_HOLES, RW};
use crate::{ensure_eq, register, swap, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Memory of folios, its first pages, and room for them that is not aligned to them.
fn folios(count: usize) -> anyhow::Result<(Area, Span, Area, Span)> {
    let size = folio_pages();
    let (src, dst) = (pages_of_folios(size, 1)?, Map::huge_pages(1).map()?);
    let pages = count * size;
    let (from, to) = (src.pages(0..pages), dst.pages(3..3 + pages));
    for index in 0..count {
        let folio = from.pages(index * size..(index + 1) * size);
        ensure!(is_folio(folio)?, "no folio {index}");
    }
    Ok((src, from, dst, to))
}

/// Fails unless the range is whole folios of that size.
fn ensure_folios(span: Span) -> Outcome {
    for first in (0..span.nr_pages()).step_by(folio_pages()) {
        let folio = span.pages(first..first + folio_pages());
        ensure!(is_folio(folio)?, "no folio at page {first} of {span:x?}");
    }
    Ok(())
}

/// A26: a folio moves whole, of whatever size, to a place that need not be aligned to it.
fn a26_folio_moves_whole() -> Outcome {
    let all = pmd_pages();
    // As far as they are smaller than a huge page.
    for pages in [4, 16, 32, 256].into_iter().filter(|pages| *pages < all) {
        for at in [0, 3] {
            let (src, dst) = (pages_of_folios(pages, 1)?, Map::huge_pages(1).map()?);
            let (from, to) = (src.pages(0..pages), dst.pages(at..at + pages));
            move_unsplit(to, from).with_context(|| format!("{pages} pages to page {at}"))?;
            ensure!(is_folio(to)?, "{pages} pages to page {at}: split");
            to.check_pages(1)?;
            from.check_zero()?;
            src.pages(pages..all).check_pages(1 + pages as u32)?;
        }
    }
    Ok(())
}

/// A26: many of them in one call, of which the one that crosses the end of a table is split.
fn a26_folio_over_the_end_of_a_table() -> Outcome {
    let (all, folio) = (pmd_pages(), folio_pages());
    let (src, dst) = (pages_of_folios(folio, 1)?, Map::huge_pages(2).map()?);
    let to = dst.pages(5..5 + all);
    let before = frames(*src)?;
    remap_all(to, *src)?;
    ensure_eq!(frames(to)?, before);
    ensure_folios(to.pages(0..all - folio))?;
    ensure_small(to.pages(all - folio..all))?;
    to.check_pages(1)?;
    ensure_holes(*src)
}

/// A26: folios of several sizes, small pages and holes in one call.
fn a26_folios_of_several_sizes_in_one_call() -> Outcome {
    drop(pages_of_folios(folio_pages(), 1)?);
    let (src, dst) = (Map::huge_pages(1).map()?, Map::huge_pages(1).map()?);
    src.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    // How many pages a folio has, and where such folios are; 1 is none.
    let parts = match pmd_pages() {
        256.. => [(16, 0..64), (4, 64..80), (1, 84..90), (32, 96..160)],
        _ => [(8, 0..8), (4, 8..12), (1, 13..15), (8, 16..24)],
    };
    let end = parts[3].1.end;
    for (folio, pages) in parts.clone() {
        for (other, _) in parts.iter().filter(|(other, _)| *other > 1) {
            let mode = if *other == folio { "always" } else { "never" };
            set_thp(&folio_file(*other, "enabled"), mode)?;
        }
        src.pages(pages.clone()).fill_pages(pages.start as u32);
    }
    src.advise(libc::MADV_NOHUGEPAGE)
        .context("MADV_NOHUGEPAGE")?;
    let (from, to) = (src.pages(0..end), dst.pages(7..7 + end));
    let (before, splits) = (entries(from)?, frame::Splits::now()?);
    ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Ok(from.len));
    splits.ensure_no_more()?;
    for (before, after) in before.into_iter().zip(entries(to)?) {
        ensure_eq!(after.pfn().ok(), before.pfn().ok());
    }
    for (folio, pages) in parts {
        to.pages(pages.clone()).check_pages(pages.start as u32)?;
        if folio > 1 {
            let first = pages.start..pages.start + folio;
            ensure!(is_folio(to.pages(first))?, "{folio} pages: split");
        }
    }
    ensure_holes(from)
}

/// A26: a folio of which a part is asked for is split, and the others in the call are not.
fn a26_folio_is_split_for_a_part() -> Outcome {
    let (all, folio) = (pmd_pages(), folio_pages());
    // What is asked for, and the folio in it that moves whole.
    for (range, whole) in [
        (0..folio - 1, None),
        (0..folio + 3, Some(0)),
        (3..2 * folio, Some(folio)),
        (folio / 4 + 1..folio / 2 + 1, None),
    ] {
        let (src, _, dst, _) = folios(2)?;
        let (from, to) = (src.pages(range.clone()), dst.pages(range.clone()));
        let before = frames(from)?;
        remap_all(to, from).with_context(|| format!("{range:?}"))?;
        ensure_eq!(frames(to)?, before, "{range:?}");
        to.check_pages(1 + range.start as u32)?;
        if let Some(whole) = whole {
            let whole = dst.pages(whole..whole + folio);
            ensure!(is_folio(whole)?, "{range:?}: split for nothing");
        }
        ensure_holes(from)?;
        src.pages(0..range.start).check_pages(1)?;
        src.pages(range.end..all)
            .check_pages(1 + range.end as u32)?;
    }
    Ok(())
}

/// A26: a folio that is mapped in part is split, and what is mapped moves.
fn a26_partially_mapped_folio() -> Outcome {
    let folio = folio_pages();
    let middle = folio * 3 / 8;
    for hole in [0..folio / 4, middle..middle + 3, folio * 3 / 4..folio] {
        let (_src, from, _dst, to) = folios(1)?;
        from.pages(hole.clone()).advise(libc::MADV_DONTNEED)?;
        ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Ok(from.len));
        ensure_holes(from)?;
        ensure_holes(to.pages(hole.clone()))?;
        for index in (0..folio).filter(|index| !hole.contains(index)) {
            to.page(index).check(1 + index as u32)?;
            ensure_small(to.page(index)).with_context(|| format!("hole {hole:?}"))?;
        }
    }
    Ok(())
}

/// C14d, A41: a folio that a child has too is refused, to both, and not split.
fn c14d_shared_folio_is_not_split() -> Outcome {
    let (_src, from, _dst, to) = folios(2)?;
    let holder = Holder::fork()?;
    let refused = || -> Outcome {
        ensure_refused(to, from, Errno::EBUSY).context("whole")?;
        ensure_refused(to.pages(0..3), from.pages(5..8), Errno::EBUSY).context("in part")?;
        ensure_folios(from)?;
        from.check_pages(1)
    };
    refused()?;
    must_pass_in_child(refused).context("child")?;
    drop(holder);
    // A write makes each page the parent's alone, in place or as a copy.
    from.fill_pages(1);
    remap_all(to, from)?;
    to.check_pages(1)
}

/// A41, A26: of a folio of which a child has a part, no page is lost, whichever way it goes.
fn a41_partly_shared_folio() -> Outcome {
    let folio = folio_pages();
    for range in [0..4, 4..folio] {
        let (_src, from, _dst, to) = folios(1)?;
        from.pages(4..folio).advise(libc::MADV_DONTFORK)?;
        let seen = from.pages(0..4).bytes();
        let holder = Holder::fork()?;
        from.pages(0..4).advise(libc::MADV_DOFORK)?;
        from.pages(4..folio).advise(libc::MADV_DOFORK)?;
        let (dst, src) = (to.pages(range.clone()), from.pages(range.clone()));
        match (range.start, remap(dst, src, 0)) {
            (4, Ok(moved)) => ensure_eq!(moved, src.len),
            (_, Err(Errno::EBUSY)) => src.check_pages(1 + range.start as u32)?,
            (_, result) => anyhow::bail!("{range:?}: {result:?}"),
        }
        drop(holder);
        ensure_eq!(from.pages(0..4).bytes(), seen);
    }
    Ok(())
}

/// C14c: a folio that is pinned anywhere is refused, whole or in part, and not split.
fn c14c_pinned_folio_is_not_split() -> Outcome {
    let (_src, from, _dst, to) = folios(1)?;
    let (pinned, other) = (folio_pages() / 4 + 1, folio_pages() / 2 + 1);
    let pin = Pin::new(from.page(pinned))?;
    let part = from.pages(other..other + 3);
    ensure_refused(to, from, Errno::EBUSY).context("whole")?;
    ensure_refused(to.pages(0..3), part, Errno::EBUSY).context("in part")?;
    ensure_folios(from)?;
    pin.release()?;
    moves_soon(to, from)?;
    ensure_folios(to)?;
    to.check_pages(1)
}

/// A25: a destination that is occupied in the middle of a folio: what lies before it moves.
fn a25_occupied_in_the_middle_of_a_folio() -> Outcome {
    let folio = folio_pages();
    for at in [0, 5, folio - 1, folio] {
        let (_src, from, _dst, to) = folios(2)?;
        to.page(at).fill(500);
        if at > 0 {
            ensure_eq!(remap(to, from, 0), Ok(at * page()), "at {at}");
        }
        let rest = at..2 * folio;
        let rest = (to.pages(rest.clone()), from.pages(rest));
        ensure_refused(rest.0, rest.1, Errno::EEXIST).with_context(|| format!("at {at}"))?;
        to.pages(0..at).check_pages(1)?;
        to.page(at).check(500)?;
        from.pages(at..2 * folio).check_pages(1 + at as u32)?;
        ensure_folios(from.pages(folio..2 * folio))?;
    }
    Ok(())
}

/// A33: a huge page that is mapped page by page moves whole where both are aligned, else split.
fn a33_huge_page_mapped_by_entries() -> Outcome {
    for at in [0, 1] {
        let (src, dst) = (huge_pages(1, 1)?, Map::huge_pages(2).map()?);
        src.pages(0..9).protect(libc::PROT_READ)?;
        src.pages(0..9).protect(RW)?;
        ensure!(!is_huge(*src)? && is_folio(*src)?, "not as it should be");
        let to = dst.pages(at..at + pmd_pages());
        match at {
            0 => move_unsplit(to, *src)?,
            _ => remap_all(to, *src)?,
        }
        ensure_eq!(is_folio(to)?, at == 0, "to page {at}");
        to.check_pages(1)?;
        to.fill_pages(2000);
        to.check_pages(2000)?;
        ensure_holes(*src)?;
    }
    Ok(())
}

/// A35: entries of a folio that are not all in the same state: it moves whole all the same.
fn a35_mixed_entries_of_a_folio() -> Outcome {
    // Written since tracking has begun, and not.
    let (_src, from, _dst, to) = folios(1)?;
    let tracked = entries(from)?[0].soft_dirty();
    clear_soft_dirty()?;
    from.pages(3..6).fill_pages(4);
    move_unsplit(to, from).context("soft-dirty")?;
    if tracked {
        ensure_entries(to, "written", Entry::soft_dirty)?;
    }
    to.check_pages(1)?;

    // Free to be dropped, and written again: what was written stays, whatever becomes of the rest.
    let (_src, from, _dst, to) = folios(1)?;
    from.advise(libc::MADV_FREE).context("MADV_FREE")?;
    from.pages(3..6).fill_pages(4);
    move_unsplit(to, from).context("MADV_FREE")?;
    to.check_pages(1)?;
    swap::ensure_on()?;
    swap::page_out_until(to, "reclaimed", |entry| !entry.present())?;
    to.pages(3..6).check_pages(4)?;

    // Write-protected by mainline's userfaultfd, and not: at the destination none is.  At last,
    // since not every MMU has it.
    let (_src, from, _dst, to) = folios(1)?;
    let uffd = uffd::register_wp(from)?;
    uffd::write_protect_part(&uffd, from.pages(3..6))?;
    ensure_entries(from.pages(3..6), "protected", Entry::watched)?;
    move_unsplit(to, from).context("write-protected")?;
    ensure_entries(to, "free", |entry| !entry.watched())?;
    to.fill_pages(100);
    to.check_pages(100)
}

/// A35: at a destination whose accesses are watched, every page of a folio is.
fn a35_folio_to_watched_destination() -> Outcome {
    let (_src, from, _dst, to) = folios(1)?;
    let uffd = uffd::register_rwp(to)?;
    move_unsplit(to, from)?;
    ensure_entries(to, "watched", Entry::watched)?;
    drop(uffd);
    to.check_pages(1)
}

/// A43: a moved folio is reclaimed, migrates, is shared and is unmapped in part as any other.
fn a43_moved_folio() -> Outcome {
    let moved = || -> anyhow::Result<(Area, Area, Span)> {
        let (src, from, dst, to) = folios(2)?;
        move_unsplit(to, from)?;
        Ok((src, dst, to))
    };
    let (_src, _dst, to) = moved()?;
    swap::out(to).context("reclaim")?;
    to.check_pages(1)?;

    let (_src, _dst, to) = moved()?;
    frame::compact()?;
    to.check_pages(1).context("compaction")?;
    frame::migrate(to.pages(5..6))?;
    to.check_pages(1).context("migration")?;

    let (_src, _dst, to) = moved()?;
    must_pass_in_child(|| {
        to.check_pages(1)?;
        to.fill_pages(100);
        to.check_pages(100)
    })?;
    to.check_pages(1).context("copy on write")?;

    let (_src, _dst, to) = moved()?;
    to.pages(3..9).unmap()?;
    to.pages(0..3).check_pages(1)?;
    let rest = to.pages(9..2 * folio_pages());
    swap::out(rest).context("munmap")?;
    rest.check_pages(10)
}

/// A43: the same in one vma, where only the index changes; RSS does not.
fn a43_moved_folio_in_one_vma() -> Outcome {
    let (all, folio) = (pmd_pages(), folio_pages());
    let (half, count) = (all / 2, all * 7 / 16 / folio * folio);
    let area = pages_of_folios(folio, 1)?;
    area.pages(half..all).advise(libc::MADV_DONTNEED)?;
    let to = area.pages(half + 7..half + 7 + count);
    let from = area.pages(0..count);
    let rss = status_kib("RssAnon")?;
    move_unsplit(to, from)?;
    let changed = status_kib("RssAnon")?.abs_diff(rss);
    let slack = (64.min(count / 2) * page() / 1024) as u64;
    ensure!(changed < slack, "RSS has changed by {changed} KiB");
    swap::out(to)?;
    to.check_pages(1)?;
    area.pages(count..half).check_pages(1 + count as u32)
}

/// A27: while folios migrate they are waited for: all of them move, every time.
fn a27_folios_that_migrate_meanwhile() -> Outcome {
    const TIME: Duration = Duration::from_secs(4);
    let (src, dst) = (
        pages_of_folios(folio_pages(), 1)?,
        Map::huge_pages(1).map()?,
    );
    let areas = [src, dst];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let disturber = scope.spawn(|| -> Outcome {
            while !done.load(Ordering::Relaxed) {
                frame::compact()?;
            }
            Ok(())
        });
        let moved = rounds(TIME).try_for_each(|round| {
            let (from, to) = (round as usize % 2, (round as usize + 1) % 2);
            remap_all(*areas[to], *areas[from])?;
            areas[to].check_pages(1)
        });
        done.store(true, Ordering::Relaxed);
        disturber.join().expect("no panic")?;
        moved
    })
}

register!(
    a26_folio_moves_whole,
    a26_folio_over_the_end_of_a_table,
    a26_folios_of_several_sizes_in_one_call,
    a26_folio_is_split_for_a_part,
    a26_partially_mapped_folio,
    c14d_shared_folio_is_not_split,
    a41_partly_shared_folio,
    c14c_pinned_folio_is_not_split,
    a25_occupied_in_the_middle_of_a_folio,
    a33_huge_page_mapped_by_entries,
    a35_mixed_entries_of_a_folio,
    a35_folio_to_watched_destination,
    a43_moved_folio,
    a43_moved_folio_in_one_vma,
    a27_folios_that_migrate_meanwhile,
);
