// SPDX-License-Identifier: GPL-2.0

//! Swap: what is in it is no hole, however it comes back, and no hole is filled on that way.

use crate::harness::Outcome;
use crate::knobs::{folio_file, set_thp};
use crate::madvise_fault::ensure_refused;
use crate::proc::{ensure_entries, ensure_holes, ensure_present, Entry};
use crate::process::must_pass_in_child;
use crate::special::{folio_pages, huge_pages};
use crate::sys::{pmd_pages, Area, Map, Span, MADV_COLD, MADV_POPULATE_READ, MADV_POPULATE_WRITE};
use crate::{ensure_eq, register, swap};
use anyhow::{ensure, Context};

/// Marked memory: pages 0 to 2 are in swap, page 3 was and is a hole by now, page 4 never was
/// anything.
fn swapped_and_holes() -> anyhow::Result<Area> {
    let area = Area::pages(5)?;
    area.pages(0..4).fill_pages(1);
    area.mark()?;
    swap::out(area.pages(0..4))?;
    // To forget it costs no way back.
    area.page(3).advise(libc::MADV_DONTNEED)?;
    Ok(area)
}

fn ensure_as_before(area: &Area) -> Outcome {
    area.pages(0..3).check_pages(1)?;
    ensure_refused(area.pages(3..5))
}

/// A4: swapoff brings back what is in swap, into marked memory too, and fills no hole.
fn a4_swapoff_brings_pages_back_and_fills_no_hole() -> Outcome {
    let area = swapped_and_holes()?;
    let done = swap::off();
    let seen = ensure_present(area.pages(0..3));
    swap::ensure_on()?;
    done.context("swapoff")?;
    seen?;
    ensure_as_before(&area)
}

/// A4: whatever brings a page back from swap, marked memory gets it: a read, a write, a touch by
/// the kernel, a child's touch, MADV_WILLNEED and MADV_POPULATE.
fn a4_page_comes_back_from_swap() -> Outcome {
    type Touch = fn(Span) -> anyhow::Result<bool>;
    let touches: [(&str, Touch); 6] = [
        ("read", |part| Ok(part.load().is_ok())),
        // The first byte of every page that was filled.
        ("write", |part| Ok(part.store(!0).is_ok())),
        ("MADV_WILLNEED", |part| {
            Ok(part.advise(libc::MADV_WILLNEED).is_ok())
        }),
        ("MADV_POPULATE_READ", |part| {
            Ok(part.advise(MADV_POPULATE_READ).is_ok())
        }),
        ("MADV_POPULATE_WRITE", |part| {
            Ok(part.advise(MADV_POPULATE_WRITE).is_ok())
        }),
        ("child", |part| {
            must_pass_in_child(|| {
                ensure!(part.load().is_ok(), "SIGBUS");
                Ok(())
            })?;
            Ok(true)
        }),
    ];
    for (name, touch) in touches {
        let area = swapped_and_holes()?;
        for part in area.pages(0..3).each_page() {
            ensure!(touch(part).context(name)?, "{name} failed");
        }
        ensure_as_before(&area).context(name)?;
    }
    Ok(())
}

/// A4: marked or unmarked while it is in swap, a page stays one.
fn a4_mark_changes_while_in_swap() -> Outcome {
    let area = swapped_and_holes()?;
    area.unmark()?;
    ensure_entries(area.pages(0..3), "in swap", Entry::swapped)?;
    area.mark()?;
    ensure_as_before(&area)
}

/// D08: where a folio of several pages went to swap and comes back as one, it fills no hole that
/// was made in it meanwhile.
fn d08_swap_in_of_large_folio_fills_no_hole() -> Outcome {
    let folio = folio_pages();
    set_thp("enabled", "never")?;
    set_thp(&folio_file(folio, "enabled"), "always")?;
    let before = swap::whole_out(folio)?;
    for holes in [0..0, 3..5, 0..1, folio / 2..folio] {
        let area = Map::huge_pages(1).map()?;
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
        area.pages(0..2 * folio).fill_pages(1);
        area.mark()?;
        swap::out(area.pages(0..2 * folio))?;
        let hole = area.pages(holes.clone());
        if hole.len > 0 {
            hole.advise(libc::MADV_DONTNEED)?;
        }
        for index in (0..2 * folio).filter(|index| !holes.contains(index)) {
            area.page(index).check(1 + index as u32)?;
        }
        ensure_refused(hole).with_context(|| format!("holes {holes:?}"))?;
        ensure_refused(area.pages(2 * folio..2 * folio + 4))?;
    }
    swap::ensure_whole(swap::whole_out(folio)? > before)
}

/// A4: a huge page that may be freed is there until it is reclaimed, and then holes, all of it.
fn a4_lazily_freed_huge_page() -> Outcome {
    let area = huge_pages(1, 1)?;
    area.mark()?;
    area.advise(libc::MADV_FREE).context("MADV_FREE")?;
    area.check_pages(1)?;
    swap::page_out_until(*area, "a hole", Entry::hole)?;
    ensure_refused(area.pages(0..4))?;
    ensure_refused(area.pages(pmd_pages() - 4..pmd_pages()))?;
    ensure_holes(*area)
}

/// A4: to free a hole, to put it aside or to bring it back is success, and it stays one.
fn a4_advice_for_holes() -> Outcome {
    let area = Area::pages(4)?;
    area.page(0).fill(1);
    area.mark()?;
    for advice in [
        MADV_COLD,
        libc::MADV_FREE,
        libc::MADV_PAGEOUT,
        libc::MADV_WILLNEED,
    ] {
        area.page(0).fill(1);
        ensure_eq!(
            area.advise(advice),
            swap::advised(advice),
            "advice {advice}"
        );
        ensure_refused(area.pages(1..4)).with_context(|| format!("advice {advice}"))?;
        if advice != libc::MADV_FREE {
            area.page(0).check(1)?;
        }
    }
    Ok(())
}

register!(
    a4_swapoff_brings_pages_back_and_fills_no_hole,
    a4_page_comes_back_from_swap,
    a4_mark_changes_while_in_swap,
    a4_lazily_freed_huge_page,
    a4_advice_for_holes,
    d08_swap_in_of_large_folio_fills_no_hole,
);
