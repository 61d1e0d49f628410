// SPDX-License-Identifier: GPL-2.0

//! Folios of several sizes that move whole, and what keeps them from it.

use crate::frame::{self, ensure_refused, ensure_small, is_folio, move_unsplit};
use crate::gup::Pin;
use crate::harness::{rounds, Outcome};
use crate::knobs::set_thp;
use crate::proc::{
    clear_soft_dirty, ensure_entries, ensure_holes, entries, frames, status_kib, Entry,
};
use crate::process::{must_pass_in_child, Holder};
use crate::remap_busy::moves_soon;
use crate::special::{huge_pages, is_huge, pages_of_folios};
use crate::sys::{page, remap, remap_all, Area, Map, Span, RAP_ALLOW_SRC_HOLES, RW};
use crate::{ensure_eq, register, swap, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The size that most tests use, and how many pages it is.
const SIZE: usize = 64 << 10;
const FOLIO: usize = SIZE >> 12;

/// Memory of such folios, its first pages, and room for them that is not aligned to them.
fn folios(count: usize) -> anyhow::Result<(Area, Span, Area, Span)> {
    let (src, dst) = (pages_of_folios(SIZE, 1)?, Map::huge_pages(1).map()?);
    let pages = count * FOLIO;
    let (from, to) = (src.pages(0..pages), dst.pages(3..3 + pages));
    for index in 0..count {
        let folio = from.pages(index * FOLIO..(index + 1) * FOLIO);
        ensure!(is_folio(folio)?, "no folio {index}");
    }
    Ok((src, from, dst, to))
}

/// Fails unless the range is whole folios of that size.
fn ensure_folios(span: Span) -> Outcome {
    for first in (0..span.nr_pages()).step_by(FOLIO) {
        let folio = span.pages(first..first + FOLIO);
        ensure!(is_folio(folio)?, "no folio at page {first} of {span:x?}");
    }
    Ok(())
}

/// A26: a folio moves whole, of whatever size, to a place that need not be aligned to it.
fn a26_folio_moves_whole() -> Outcome {
    for size in [16 << 10, SIZE, 128 << 10, 1 << 20] {
        for at in [0, 3] {
            let (src, dst) = (pages_of_folios(size, 1)?, Map::huge_pages(1).map()?);
            let pages = size / page();
            let (from, to) = (src.pages(0..pages), dst.pages(at..at + pages));
            move_unsplit(to, from).with_context(|| format!("{size} bytes to page {at}"))?;
            ensure!(is_folio(to)?, "{size} bytes to page {at}: split");
            to.check_pages(1)?;
            from.check_zero()?;
            src.pages(pages..512).check_pages(1 + pages as u32)?;
        }
    }
    Ok(())
}

/// A26: many of them in one call, of which the one that crosses the end of a table is split.
fn a26_folio_over_the_end_of_a_table() -> Outcome {
    let (src, dst) = (pages_of_folios(SIZE, 1)?, Map::huge_pages(2).map()?);
    let to = dst.pages(5..517);
    let before = frames(*src)?;
    remap_all(to, *src)?;
    ensure_eq!(frames(to)?, before);
    ensure_folios(to.pages(0..512 - FOLIO))?;
    ensure_small(to.pages(512 - FOLIO..512))?;
    to.check_pages(1)?;
    ensure_holes(*src)
}

/// A26: folios of several sizes, small pages and holes in one call.
fn a26_folios_of_several_sizes_in_one_call() -> Outcome {
    drop(pages_of_folios(SIZE, 1)?);
    let (src, dst) = (Map::huge_pages(1).map()?, Map::huge_pages(1).map()?);
    src.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    let parts = [(64, 0..64), (16, 64..80), (0, 84..90), (128, 96..160)];
    for (kib, pages) in parts.clone() {
        for size in [16, 64, 128] {
            let mode = if size == kib { "always" } else { "never" };
            set_thp(&format!("hugepages-{size}kB/enabled"), mode)?;
        }
        src.pages(pages.clone()).fill_pages(pages.start as u32);
    }
    src.advise(libc::MADV_NOHUGEPAGE)
        .context("MADV_NOHUGEPAGE")?;
    let (before, splits) = (entries(src.pages(0..160))?, frame::Splits::now()?);
    let (from, to) = (src.pages(0..160), dst.pages(7..167));
    ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Ok(from.len));
    splits.ensure_no_more()?;
    for (before, after) in before.into_iter().zip(entries(to)?) {
        ensure_eq!(after.pfn().ok(), before.pfn().ok());
    }
    for (kib, pages) in parts {
        to.pages(pages.clone()).check_pages(pages.start as u32)?;
        if kib > 0 {
            let first = pages.start..pages.start + kib / 4;
            ensure!(is_folio(to.pages(first))?, "{kib} KiB: split");
        }
    }
    ensure_holes(from)
}

/// A26: a folio of which a part is asked for is split, and the others in the call are not.
fn a26_folio_is_split_for_a_part() -> Outcome {
    // What is asked for, and the folio in it that moves whole.
    for (range, whole) in [
        (0..FOLIO - 1, None),
        (0..FOLIO + 3, Some(0)),
        (3..2 * FOLIO, Some(FOLIO)),
        (5..9, None),
    ] {
        let (src, _, dst, _) = folios(2)?;
        let (from, to) = (src.pages(range.clone()), dst.pages(range.clone()));
        let before = frames(from)?;
        remap_all(to, from).with_context(|| format!("{range:?}"))?;
        ensure_eq!(frames(to)?, before, "{range:?}");
        to.check_pages(1 + range.start as u32)?;
        if let Some(whole) = whole {
            let whole = dst.pages(whole..whole + FOLIO);
            ensure!(is_folio(whole)?, "{range:?}: split for nothing");
        }
        ensure_holes(from)?;
        src.pages(0..range.start).check_pages(1)?;
        src.pages(range.end..512)
            .check_pages(1 + range.end as u32)?;
    }
    Ok(())
}

/// A26: a folio that is mapped in part is split, and what is mapped moves.
fn a26_partially_mapped_folio() -> Outcome {
    for hole in [0..4, 6..9, 12..FOLIO] {
        let (_src, from, _dst, to) = folios(1)?;
        from.pages(hole.clone()).advise(libc::MADV_DONTNEED)?;
        ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Ok(from.len));
        ensure_holes(from)?;
        ensure_holes(to.pages(hole.clone()))?;
        for index in (0..FOLIO).filter(|index| !hole.contains(index)) {
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
    for range in [0..4, 4..FOLIO] {
        let (_src, from, _dst, to) = folios(1)?;
        from.pages(4..FOLIO).advise(libc::MADV_DONTFORK)?;
        let seen = from.pages(0..4).bytes();
        let holder = Holder::fork()?;
        from.pages(0..4).advise(libc::MADV_DOFORK)?;
        from.pages(4..FOLIO).advise(libc::MADV_DOFORK)?;
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
    let pin = Pin::new(from.page(5))?;
    ensure_refused(to, from, Errno::EBUSY).context("whole")?;
    ensure_refused(to.pages(0..3), from.pages(9..12), Errno::EBUSY).context("in part")?;
    ensure_folios(from)?;
    pin.release()?;
    moves_soon(to, from)?;
    ensure_folios(to)?;
    to.check_pages(1)
}

/// A25: a destination that is occupied in the middle of a folio: what lies before it moves.
fn a25_occupied_in_the_middle_of_a_folio() -> Outcome {
    for at in [0, 5, FOLIO - 1, FOLIO] {
        let (_src, from, _dst, to) = folios(2)?;
        to.page(at).fill(500);
        if at > 0 {
            ensure_eq!(remap(to, from, 0), Ok(at * page()), "at {at}");
        }
        let rest = at..2 * FOLIO;
        let rest = (to.pages(rest.clone()), from.pages(rest));
        ensure_refused(rest.0, rest.1, Errno::EEXIST).with_context(|| format!("at {at}"))?;
        to.pages(0..at).check_pages(1)?;
        to.page(at).check(500)?;
        from.pages(at..2 * FOLIO).check_pages(1 + at as u32)?;
        ensure_folios(from.pages(FOLIO..2 * FOLIO))?;
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
        let to = dst.pages(at..at + 512);
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

    // Write-protected by mainline's userfaultfd, and not: at the destination none is.
    let (_src, from, _dst, to) = folios(1)?;
    let uffd = uffd::register_wp(from)?;
    uffd::write_protect_part(&uffd, from.pages(3..6))?;
    ensure_entries(from.pages(3..6), "protected", Entry::watched)?;
    move_unsplit(to, from).context("write-protected")?;
    ensure_entries(to, "free", |entry| !entry.watched())?;
    to.fill_pages(100);
    to.check_pages(100)?;

    // Free to be dropped, and written again: what was written stays, whatever becomes of the rest.
    let (_src, from, _dst, to) = folios(1)?;
    from.advise(libc::MADV_FREE).context("MADV_FREE")?;
    from.pages(3..6).fill_pages(4);
    move_unsplit(to, from).context("MADV_FREE")?;
    to.check_pages(1)?;
    swap::ensure_on()?;
    swap::page_out_until(to, "reclaimed", |entry| !entry.present())?;
    to.pages(3..6).check_pages(4)
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
    swap::out(to.pages(9..2 * FOLIO)).context("munmap")?;
    to.pages(9..2 * FOLIO).check_pages(10)
}

/// A43: the same in one vma, where only the index changes; RSS does not.
fn a43_moved_folio_in_one_vma() -> Outcome {
    let area = pages_of_folios(SIZE, 1)?;
    area.pages(256..512).advise(libc::MADV_DONTNEED)?;
    let (from, to) = (area.pages(0..224), area.pages(263..487));
    let rss = status_kib("RssAnon")?;
    move_unsplit(to, from)?;
    let changed = status_kib("RssAnon")?.abs_diff(rss);
    ensure!(changed < 256, "RSS has changed by {changed} KiB");
    swap::out(to)?;
    to.check_pages(1)?;
    area.pages(224..256).check_pages(225)
}

/// A27: while folios migrate they are waited for: all of them move, every time.
fn a27_folios_that_migrate_meanwhile() -> Outcome {
    const TIME: Duration = Duration::from_secs(4);
    let (src, dst) = (pages_of_folios(SIZE, 1)?, Map::huge_pages(1).map()?);
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
