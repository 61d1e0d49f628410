// SPDX-License-Identifier: GPL-2.0

//! Pages in swap: they move as they are, unread, unless somebody else has them too.

use crate::cgroup::Cgroup;
use crate::harness::{rounds, Outcome};
use crate::proc::{
    clear_soft_dirty, ensure_entries, ensure_holes, ensure_present, entries, status_kib,
    swap_places, Entry,
};
use crate::process::{must_pass_in_child, Holder};
use crate::remap_busy::ensure_busy;
use crate::special::{folio_pages, huge_pages, pages_of_folios};
use crate::swap::ensure_unread;
use crate::sys::{page, pmd_pages, remap, remap_all, Area, Map, Span, RAP_ALLOW_SRC_HOLES};
use crate::touch;
use crate::{ensure_eq, register, swap, uffd};
use anyhow::{ensure, Context};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a race goes on.
const TIME: Duration = Duration::from_secs(4);

/// Moves what is in swap, and fails unless it is in the same place in swap as before, unread.
pub fn move_unread(dst: Span, src: Span) -> Outcome {
    let before = swap_places(src)?;
    ensure_unread(|| remap_all(dst, src))?;
    ensure_eq!(swap_places(dst)?, before, "the places in swap");
    ensure_holes(src)
}

/// So many pages with content, in swap.
pub fn swapped(count: usize) -> anyhow::Result<Area> {
    let area = Area::filled(count, 1)?;
    swap::out(*area)?;
    Ok(area)
}

/// A28: an entry moves to its new place, and so does the page when it is touched there.
fn a28_swap_entry_moves_unread() -> Outcome {
    for count in [1, 2, 600] {
        let (dst, src) = (Area::pages(count)?, swapped(count)?);
        move_unread(*dst, *src).with_context(|| format!("{count} pages"))?;
        dst.check_pages(1)?;
        src.check_zero()?;
        // And again, from its new place.
        swap::out(*dst)?;
        let third = Area::pages(count)?;
        move_unread(*third, *dst)?;
        third.check_pages(1)?;
    }
    Ok(())
}

/// A28: in one vma.
fn a28_swap_entry_moves_in_one_vma() -> Outcome {
    let area = Area::pages(32)?;
    area.pages(0..16).fill_pages(1);
    swap::out(area.pages(0..16))?;
    move_unread(area.pages(16..32), area.pages(0..16))?;
    area.pages(16..32).check_pages(1)
}

/// A28: the process has as much in swap as before, and so has the cgroup that has paid for it,
/// though another moves it; when the vma goes, nothing.
fn a28_swap_counters_stay() -> Outcome {
    const PAGES: usize = 512;
    let group = Cgroup::enter()?;
    let counts = || -> anyhow::Result<[u64; 2]> {
        Ok([
            status_kib("VmSwap")?,
            group.number("memory.swap.current")? / 1024,
        ])
    };
    let (dst, src) = (Area::pages(PAGES)?, swapped(PAGES)?);
    let other = Cgroup::named("userfault-tests-other")?;
    other.add(std::process::id())?;
    let before = counts()?;
    move_unread(*dst, *src)?;
    ensure_eq!(counts()?, before);
    drop(src);
    ensure_eq!(counts()?, before, "without the source");
    drop(dst);
    let gone = counts()?;
    let all = (PAGES * page() / 1024) as u64;
    for (before, gone) in before.into_iter().zip(gone) {
        ensure!(before - gone >= all, "{before} KiB, then {gone} KiB");
    }
    Ok(())
}

/// A28: what is in swap moves in one call with pages, zero pages and holes.
fn a28_all_states_in_one_call() -> Outcome {
    const EACH: usize = 5;
    let (dst, src) = (Area::pages(4 * EACH)?, Area::pages(4 * EACH)?);
    let part = |at: usize| src.pages(at * EACH..(at + 1) * EACH);
    part(1).fill_pages(1);
    swap::out(part(1))?;
    part(0).fill_pages(100);
    part(2).check_zero()?;
    let before = entries(*src)?;
    ensure_unread(|| {
        ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
        Ok(())
    })?;
    for (before, after) in before.into_iter().zip(entries(*dst)?) {
        ensure_eq!(after.pfn().ok(), before.pfn().ok());
        ensure_eq!(after.swap_place().ok(), before.swap_place().ok());
    }
    ensure_holes(*src)?;
    dst.pages(0..EACH).check_pages(100)?;
    dst.pages(EACH..2 * EACH).check_pages(1)?;
    ensure_holes(dst.pages(3 * EACH..4 * EACH))
}

/// A28: what a large folio was swapped out as moves too, in whole and in part, to any place.
fn a28_swapped_large_folio() -> Outcome {
    type Make = fn() -> anyhow::Result<Area>;
    let makes: [(&str, Make); 2] = [
        ("folios", || pages_of_folios(folio_pages(), 1)),
        ("a huge page", || huge_pages(1, 1)),
    ];
    let all = pmd_pages();
    for (name, make) in makes {
        for (to, from) in [(0..all, 0..all), (3..19, 0..16), (7..17, 5..15)] {
            let (src, dst) = (make()?, Map::huge_pages(1).map()?);
            swap::out(*src).context(name)?;
            let (to, part) = (dst.pages(to), src.pages(from.clone()));
            move_unread(to, part).with_context(|| format!("{from:?} of {name}"))?;
            to.check_pages(1 + from.start as u32)?;
            src.pages(0..from.start).check_pages(1)?;
            src.pages(from.end..all).check_pages(1 + from.end as u32)?;
            swap::out(to)?;
            to.check_pages(1 + from.start as u32)?;
        }
    }
    Ok(())
}

/// C14, A35: at the destination what is in swap counts as written, and still does when it is back.
fn c14_soft_dirty_swap_entry() -> Outcome {
    let (dst, src) = (Area::pages(3)?, swapped(3)?);
    if !entries(*src)?[0].soft_dirty() {
        crate::skip!("this kernel does not track written pages in swap");
    }
    clear_soft_dirty()?;
    ensure_entries(*src, "clean", |entry| !entry.soft_dirty())?;
    move_unread(*dst, *src)?;
    ensure_entries(*dst, "written", Entry::soft_dirty)?;
    dst.check_pages(1)?;
    ensure_entries(*dst, "written", Entry::soft_dirty)
}

/// A35: write protection stays behind, also where the destination is registered for it.
fn a35_write_protection_of_swap_entry() -> Outcome {
    for register in [false, true] {
        let (dst, src) = (Area::pages(2)?, Area::filled(2, 1)?);
        let _src_uffd = uffd::write_protect(*src)?;
        swap::out(*src)?;
        ensure_entries(*src, "protected", Entry::watched)?;
        let _dst_uffd = register.then(|| uffd::register_wp(*dst)).transpose()?;
        move_unread(*dst, *src)?;
        ensure_entries(*dst, "free", |entry| !entry.watched())?;
        dst.check_pages(1)?;
        dst.fill_pages(5);
        dst.check_pages(5)?;
    }
    Ok(())
}

/// A35: where the destination's accesses are watched, those to what was in swap are.
fn a35_swap_entry_to_watched_destination() -> Outcome {
    let (dst, src) = (Area::pages(2)?, swapped(2)?);
    let uffd = uffd::register_rwp(*dst)?;
    move_unread(*dst, *src)?;
    ensure_entries(*dst, "watched", Entry::watched)?;
    drop(uffd);
    dst.check_pages(1)
}

/// C7, C47: what is in swap and a child has too stays, for the parent as for the child.
fn c7_shared_swap_entry() -> Outcome {
    let src = swapped(2)?;
    let holder = Holder::fork()?;
    ensure_busy(*src)?;
    must_pass_in_child(|| {
        ensure_busy(*src)?;
        src.check_pages(1)
    })?;
    drop(holder);
    src.check_pages(1)
}

/// C7: the same where the page was shared before it went to swap.
fn c7_shared_page_goes_to_swap() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(20);
    swap::ensure_on()?;
    let group = Cgroup::enter()?;
    let src = Area::filled(2, 1)?;
    let holder = Holder::fork()?;
    let start = Instant::now();
    // MADV_PAGEOUT leaves alone what is shared; the cgroup's limit does not.
    while ensure_entries(*src, "in swap", Entry::swapped).is_err() {
        ensure!(start.elapsed() < LIMIT, "not reclaimed");
        let _ = group.set("memory.reclaim", 4 << 20);
    }
    ensure_busy(*src)?;
    must_pass_in_child(|| ensure_busy(*src))?;
    drop(holder);
    src.check_pages(1)
}

/// C7: a page that is mapped once, but that the other process has in swap: shared, on both sides.
fn c7_mapped_here_and_in_swap_there() -> Outcome {
    let src = swapped(2)?;
    let holder = Holder::fork()?;
    src.check_pages(1)?;
    ensure_present(*src)?;
    ensure_busy(*src).context("mapped here")?;
    // The child's, which it has read, and the parent's, which is in swap.
    let other = swapped(2)?;
    must_pass_in_child(|| {
        let grandchild = Holder::fork()?;
        other.check_pages(1)?;
        ensure_busy(*other).context("mapped in the child")?;
        drop(grandchild);
        Ok(())
    })?;
    drop(holder);
    src.check_pages(1)?;
    other.check_pages(1)
}

/// C47: when the child is gone it moves again, at the latest when a write has brought it back.
fn c47_moves_again_after_the_child() -> Outcome {
    let (dst, src) = (Area::pages(2)?, swapped(2)?);
    drop(Holder::fork()?);
    if remap(*dst, *src, 0).is_err() {
        ensure_holes(*dst)?;
        src.check_pages(1)?;
        src.fill_pages(1);
        remap_all(*dst, *src)?;
    }
    dst.check_pages(1)?;
    // A child that never came to have it is no hindrance at all.
    let (dst, src) = (Area::pages(2)?, swapped(2)?);
    src.advise(libc::MADV_DONTFORK).context("MADV_DONTFORK")?;
    let _holder = Holder::fork()?;
    move_unread(*dst, *src)?;
    dst.check_pages(1)
}

/// A28: swapoff after the move brings the pages to their new place.
fn a28_swapoff_after_the_move() -> Outcome {
    let (dst, src) = (Area::pages(20)?, swapped(20)?);
    move_unread(*dst, *src)?;
    let done = swap::off();
    let seen = ensure_present(*dst);
    swap::ensure_on()?;
    done?;
    seen?;
    dst.check_pages(1)?;
    ensure_holes(*src)
}

/// Moves pages to and fro, all of them each time, while another thread disturbs.
fn race(areas: [Area; 2], disturb: impl Fn([Span; 2]) -> Outcome + Sync) -> Outcome {
    let done = AtomicBool::new(false);
    let spans = areas.each_ref().map(|area| **area);
    std::thread::scope(|scope| -> Outcome {
        let disturber = scope.spawn(|| -> Outcome {
            while !done.load(Ordering::Relaxed) {
                disturb(spans)?;
            }
            Ok(())
        });
        let moved = rounds(TIME).try_for_each(|round| {
            let (from, to) = (round as usize % 2, (round as usize + 1) % 2);
            remap_all(spans[to], spans[from])?;
            ensure_holes(spans[from])?;
            if round % 4 > 1 {
                spans[to].check_pages(1)?;
            }
            spans[to].advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")
        });
        done.store(true, Ordering::Relaxed);
        disturber.join().expect("no panic")?;
        moved
    })?;
    let there = areas
        .iter()
        .find(|area| ensure_holes(***area).is_err())
        .context("lost")?;
    there.check_pages(1)
}

/// Areas whose holes stay holes when they are touched: one with pages, one without.
fn marked_pair(filled: Area, empty: Area) -> anyhow::Result<[Area; 2]> {
    swap::ensure_on()?;
    filled.mark()?;
    empty.mark()?;
    Ok([filled, empty])
}

/// A28: swapoff meanwhile loses no page, and no move fails for it.
fn a28_swapoff_meanwhile() -> Outcome {
    let areas = marked_pair(Area::filled(64, 1)?, Area::pages(64)?)?;
    let raced = race(areas, |_| {
        swap::off()?;
        swap::ensure_on()
    });
    swap::ensure_on()?;
    raced
}

/// A28, C4: nor does reading ahead, which fills the swap cache.
fn a28_read_ahead_meanwhile() -> Outcome {
    let areas = marked_pair(Area::filled(64, 1)?, Area::pages(64)?)?;
    race(areas, |spans| {
        for span in spans {
            span.advise(libc::MADV_WILLNEED).context("MADV_WILLNEED")?;
        }
        Ok(())
    })
}

/// Reads one byte of every page, which is as it should be wherever there is a page.
fn read_all(spans: [Span; 2]) -> Outcome {
    for span in spans {
        for (index, part) in span.each_page().enumerate() {
            // The fifth byte of a page is that of its seed.
            if let Ok(seen) = touch::load(part.addr + 4) {
                ensure_eq!(seen, !(1 + index as u8), "page {index} of {span:x?}");
            }
        }
    }
    Ok(())
}

/// A28, A37: nor do touches of the source, which swap it in: nobody ever sees another content.
fn a28_swap_in_meanwhile() -> Outcome {
    race(
        marked_pair(Area::filled(64, 1)?, Area::pages(64)?)?,
        read_all,
    )
}

/// A28, A37: the same with folios that are swapped in, and out, as a whole.
fn a28_swap_in_of_large_folios_meanwhile() -> Outcome {
    let folio = folio_pages();
    let anonymous = swap::anonymous_folios()?;
    let (src, dst) = (pages_of_folios(folio, 1)?, Map::huge_pages(1).map()?);
    for area in [&src, &dst] {
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    }
    let before = swap::whole_out(folio)?;
    race(marked_pair(src, dst)?, read_all)?;
    // This process may have got more of them, but none is freed that was not counted.
    let now = swap::anonymous_folios()?;
    ensure!(now >= anonymous, "{now} are left of {anonymous}");
    swap::ensure_whole(swap::whole_out(folio)? > before)
}

register!(
    a28_swap_entry_moves_unread,
    a28_swap_entry_moves_in_one_vma,
    a28_swap_counters_stay,
    a28_all_states_in_one_call,
    a28_swapped_large_folio,
    c14_soft_dirty_swap_entry,
    a35_write_protection_of_swap_entry,
    a35_swap_entry_to_watched_destination,
    c7_shared_swap_entry,
    c7_shared_page_goes_to_swap,
    c7_mapped_here_and_in_swap_there,
    c47_moves_again_after_the_child,
    a28_swapoff_after_the_move,
    a28_swapoff_meanwhile,
    a28_read_ahead_meanwhile,
    a28_swap_in_meanwhile,
    a28_swap_in_of_large_folios_meanwhile,
);
