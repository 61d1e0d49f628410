// SPDX-License-Identifier: GPL-2.0

//! Moves of huge pages and folios against whoever makes such, takes them apart or takes them away.

use crate::harness::{rounds, Outcome};
use crate::knobs::{set_thp, thp_number};
use crate::proc::ensure_holes;
use crate::race::{Race, TIME};
use crate::register;
use crate::remap_race_memory::{migrated_meanwhile, reclaimed_meanwhile};
use crate::special::huge_pages;
use crate::sys::{page, pmd, pmd_pages, remap, Area, Map, MADV_COLLAPSE};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A33, A37: huge pages move to and fro whole: whoever reads finds every page of them whole.
fn a33_huge_pages_to_and_fro() -> Outcome {
    stays_whole(Race::huge(3)?)
}

/// A26, A37: so do folios.
fn a26_folios_to_and_fro() -> Outcome {
    stays_whole(Race::folios()?)
}

fn stays_whole(mut race: Race) -> Outcome {
    race.stays_whole = true;
    race.run_for_a_while(nothing)
}

/// Lets the others work, who are enough.
fn nothing() -> Outcome {
    std::thread::sleep(Duration::from_millis(10));
    Ok(())
}

/// A33, C46: pieces of huge pages move while others move others of the same: the page is split by
/// one of them, while the other ones want to split it or to move a piece of it.
fn a33_pieces_of_huge_pages_to_and_fro() -> Outcome {
    for _ in rounds(TIME) {
        let mut race = Race::huge(4)?;
        race.unit = 1;
        race.longest = 32;
        // A page that two threads want to split is not split by one of them, perhaps by neither.
        race.allowed.push(Errno::EBUSY);
        race.run(0..20, |_| nothing())?;
    }
    Ok(())
}

/// A43: huge pages go to swap, whole or in parts, and come back in parts.
fn a43_reclaim_meanwhile_of_huge_pages() -> Outcome {
    reclaimed_meanwhile(may_be_split(Race::huge(2)?))
}

/// A43: so do folios.
fn a43_reclaim_meanwhile_of_folios() -> Outcome {
    reclaimed_meanwhile(may_be_split(Race::folios()?))
}

/// What is in parts has to be split before it moves, which fails while another thread holds it.
fn may_be_split(mut race: Race) -> Race {
    race.allowed.push(Errno::EBUSY);
    race
}

/// A43: huge pages migrate between two nodes.
fn a43_migration_meanwhile_of_huge_pages() -> Outcome {
    migrated_meanwhile(Race::huge(2)?)
}

/// A43: so do folios.
fn a43_migration_meanwhile_of_folios() -> Outcome {
    migrated_meanwhile(Race::folios()?)
}

/// C10: small pages that become a huge page, and pieces of it that move away and come back: the
/// table goes away under the call, and comes again.
fn c10_collapse_meanwhile() -> Outcome {
    let race = may_be_split(Race::to_collapse()?);
    let collapsed = Cell::new(0);
    let collapse = || {
        for area in &race.areas {
            // It is refused while a page is away or busy.
            let done = area.advise(MADV_COLLAPSE).is_ok();
            collapsed.set(collapsed.get() + u64::from(done));
        }
        Ok(())
    };
    until_collapsed(&race, collapse, || Ok(collapsed.get()))
}

/// C10: the same where khugepaged does it, in the background.
fn c10_khugepaged_meanwhile() -> Outcome {
    set_thp("khugepaged/scan_sleep_millisecs", 1)?;
    set_thp("khugepaged/alloc_sleep_millisecs", 1)?;
    set_thp("khugepaged/pages_to_scan", 4096)?;
    let race = may_be_split(Race::to_collapse()?);
    until_collapsed(&race, nothing, || thp_number("khugepaged/pages_collapsed"))
}

/// Goes on for the usual time, or longer if there was no collapse yet.
fn until_collapsed(
    race: &Race,
    mut disturb: impl FnMut() -> Outcome,
    collapses: impl Fn() -> anyhow::Result<u64>,
) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(20);
    let before = collapses()?;
    let start = Instant::now();
    let none = || collapses().is_ok_and(|number| number == before);
    let going_on = || start.elapsed() < TIME || start.elapsed() < LIMIT && none();
    race.run((0..).take_while(|_| going_on()), |_| disturb())?;
    ensure!(!none(), "no collapse in {LIMIT:?}");
    Ok(())
}

/// C9, C10: a huge page at the destination that comes by a touch, and goes.
fn c9_huge_page_comes_and_goes() -> Outcome {
    destination_changes(|dst| dst.page(7).fill(1))
}

/// C9, C10: the same where it is made of small pages, which are there before.
fn c10_huge_page_takes_the_place_of_a_table() -> Outcome {
    destination_changes(|dst| {
        let _ = dst.advise(libc::MADV_NOHUGEPAGE);
        dst.page(7).fill(1);
        let _ = dst.advise(libc::MADV_HUGEPAGE);
        let _ = dst.advise(MADV_COLLAPSE);
    })
}

/// Moves to a place that another thread fills and empties.  The source is nobody else's, so that
/// nothing but the destination may be in the way, and what has not moved stays.
fn destination_changes(fill: impl Fn(&Area) + Sync) -> Outcome {
    let all = pmd_pages();
    let dst = Map::huge_pages(1).map()?;
    let sources = [Map::huge_pages(1).map()?, huge_pages(1, 1)?];
    for area in [&dst, &sources[1]] {
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    }
    set_thp("khugepaged/max_ptes_none", all - 1)?;
    sources[0].fill_pages(1);
    let done = AtomicBool::new(false);
    let (mut moved, mut occupied) = (0, 0);
    std::thread::scope(|scope| -> Outcome {
        let disturber = scope.spawn(|| -> Outcome {
            while !done.load(Ordering::Relaxed) {
                fill(&dst);
                // To clear a huge page takes its time; to be in the way is to take some too.
                std::thread::sleep(Duration::from_micros((pmd() >> 12) as u64));
                dst.advise(libc::MADV_DONTNEED)?;
            }
            Ok(())
        });
        let calls = [0..all, 3..all.min(40), all - 12..all];
        let results = rounds(TIME).try_for_each(|round| -> Outcome {
            let src = &sources[round as usize % 2];
            let range = calls[round as usize / 2 % calls.len()].clone();
            let from = src.pages(range.clone());
            match remap(dst.pages(range.clone()), from, 0) {
                Ok(bytes) => {
                    let gone = bytes / page();
                    let rest = range.start + gone;
                    ensure_holes(from.pages(0..gone))?;
                    src.pages(0..range.start).check_pages(1)?;
                    src.pages(rest..all).check_pages(1 + rest as u32)?;
                    // A huge page where it was one.
                    src.advise(libc::MADV_DONTNEED)?;
                    src.fill_pages(1);
                    // A short count says that something was in the way of the next page.
                    match gone == from.nr_pages() {
                        true => moved += 1,
                        false => occupied += 1,
                    }
                }
                Err(Errno::EEXIST) => occupied += 1,
                Err(error) => anyhow::bail!("remap_anon_pages of {range:?}: {error}"),
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        disturber.join().expect("no panic")?;
        results
    })?;
    ensure!(moved > 0 && occupied > 0, "{moved} moved, {occupied} not");
    Ok(())
}

register!(
    a26_folios_to_and_fro,
    a33_huge_pages_to_and_fro,
    a33_pieces_of_huge_pages_to_and_fro,
    a43_migration_meanwhile_of_folios,
    a43_migration_meanwhile_of_huge_pages,
    a43_reclaim_meanwhile_of_folios,
    a43_reclaim_meanwhile_of_huge_pages,
    c9_huge_page_comes_and_goes,
    c10_collapse_meanwhile,
    c10_huge_page_takes_the_place_of_a_table,
    c10_khugepaged_meanwhile,
);
