// SPDX-License-Identifier: GPL-2.0

//! What works behind the program's back fills no hole; and the counters tell that nothing was.

use crate::cgroup::Cgroup;
use crate::harness::Outcome;
use crate::knobs::{set_thp, thp_number};
use crate::proc::{ensure_holes, vmstat};
use crate::special::{huge_pages, is_huge};
use crate::sys::{page, pmd, Area, Map, Span};
use crate::touch;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use std::time::{Duration, Instant};

const MADV_COLLAPSE: i32 = 25;

/// Half of a huge page's room in small pages, the other half holes.
fn half_filled() -> anyhow::Result<Area> {
    let area = Map::huge_pages(1).map()?;
    for (index, part) in area.each_page().enumerate().skip(1).step_by(2) {
        part.fill(index as u32);
    }
    Ok(area)
}

/// What `half_filled()` has made is as it was.
fn still_half_filled(area: &Area) -> Outcome {
    for (index, part) in area.each_page().enumerate() {
        match index % 2 {
            0 => ensure_holes(part)?,
            _ => part.check(index as u32)?,
        }
    }
    Ok(())
}

/// Lets khugepaged work as fast and as boldly as it can.
fn hurry_khugepaged() -> Outcome {
    set_thp("enabled", "always")?;
    set_thp("defrag", "always")?;
    set_thp("khugepaged/defrag", 1)?;
    set_thp("khugepaged/scan_sleep_millisecs", 10)?;
    set_thp("khugepaged/alloc_sleep_millisecs", 10)?;
    set_thp("khugepaged/max_ptes_none", pmd() / page() - 1)?;
    set_thp("khugepaged/pages_to_scan", 1 << 16)
}

/// A7: khugepaged leaves a vma with holes alone, while it takes another one beside it.
fn a7_khugepaged_fills_no_hole() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(40);
    let (marked, plain) = (half_filled()?, half_filled()?);
    marked.mark()?;
    hurry_khugepaged()?;
    for area in [&marked, &plain] {
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    }

    let start = Instant::now();
    while !is_huge(*plain)? {
        ensure!(
            start.elapsed() < LIMIT,
            "khugepaged does not even take what is not marked"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let scans = thp_number("khugepaged/full_scans")?;
    while thp_number("khugepaged/full_scans")? < scans + 2 {
        ensure!(start.elapsed() < LIMIT, "khugepaged does not go on");
        std::thread::sleep(Duration::from_millis(50));
    }
    still_half_filled(&marked)?;
    ensure!(marked.load().is_err(), "no SIGBUS");
    Ok(())
}

/// A7, C53: where the mark comes while khugepaged is at work, the holes that are there then stay.
fn a7_mark_races_with_khugepaged() -> Outcome {
    const ROUNDS: usize = 20;
    hurry_khugepaged()?;
    for round in 0..ROUNDS {
        let area = half_filled()?;
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
        std::thread::sleep(Duration::from_millis(round as u64 * 5));
        area.mark()?;
        if is_huge(*area)? {
            // It was sooner: then nothing may be missing, and the rest is zero.
            for (index, part) in area.each_page().enumerate() {
                match index % 2 {
                    0 => part.check_zero()?,
                    _ => part.check(index as u32)?,
                }
            }
            continue;
        }
        std::thread::sleep(Duration::from_millis(50));
        still_half_filled(&area).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// A7: MADV_COLLAPSE refuses memory with holes, and changes nothing of it.
fn a7_collapse_fills_no_hole() -> Outcome {
    set_thp("enabled", "always")?;
    let area = half_filled()?;
    area.mark()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    ensure!(
        area.advise(MADV_COLLAPSE).is_err(),
        "MADV_COLLAPSE filled holes"
    );
    still_half_filled(&area)?;

    let empty = Map::huge_pages(1).map()?;
    empty.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    empty.mark()?;
    ensure!(
        empty.advise(MADV_COLLAPSE).is_err(),
        "MADV_COLLAPSE made a page of nothing"
    );
    ensure_holes(*empty)?;

    area.unmark()?;
    ensure_eq!(area.advise(MADV_COLLAPSE), Ok(()), "without the mark");
    ensure!(is_huge(*area)?, "the test would see nothing");
    Ok(())
}

/// A7: memory that is marked and has no hole keeps its content, whatever MADV_COLLAPSE says.
fn a7_collapse_without_holes() -> Outcome {
    set_thp("enabled", "always")?;
    let area = Map::huge_pages(1).map()?;
    area.fill_pages(1);
    area.mark()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    let _ = area.advise(MADV_COLLAPSE);
    area.check_pages(1)
}

/// Touches holes where each touch could get a huge page.
fn touch_huge_holes(area: &Area) -> Outcome {
    const TOUCHES: usize = 200;
    for index in 0..TOUCHES {
        let huge = Span::new(area.addr + index % (area.len / pmd()) * pmd(), pmd());
        let part = huge.page(index % huge.nr_pages());
        let refused = match index % 2 {
            0 => touch::load(part.addr).is_err(),
            _ => touch::store(part.addr, 1).is_err(),
        };
        ensure!(refused, "no SIGBUS");
    }
    ensure_holes(**area)
}

/// A17: a refused touch counts neither as an allocation of a huge page nor as a fallback from one.
fn a17_thp_counters_stay() -> Outcome {
    const COUNTERS: [&str; 4] = [
        "thp_fault_alloc",
        "thp_fault_fallback",
        "thp_fault_fallback_charge",
        "thp_zero_page_alloc",
    ];
    // It counts where it should, or the test says nothing.
    let before = vmstat("thp_fault_alloc")?;
    drop(huge_pages(1, 1)?);
    ensure!(
        vmstat("thp_fault_alloc")? > before,
        "the counter does not count"
    );

    let area = Map::huge_pages(4).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.mark()?;
    let read = || COUNTERS.map(|name| vmstat(name).ok());
    let before = read();
    touch_huge_holes(&area)?;
    ensure_eq!(read(), before, "{COUNTERS:?}");
    Ok(())
}

/// A17, C52: nothing is charged, not even for a moment.
fn a17_nothing_is_charged() -> Outcome {
    let group = Cgroup::enter()?;
    drop(huge_pages(1, 1)?);
    let area = Map::huge_pages(4).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.mark()?;
    touch_huge_holes(&area)?;

    // A charge of a huge page would hit this limit, however short.
    let anon = group.stat("anon")?;
    let current = group.number("memory.current")?;
    group.set("memory.max", current + pmd() as u64 / 2)?;
    let events = group.event("max")?;
    touch_huge_holes(&area)?;
    ensure_eq!(group.event("max")?, events, "a charge hit the limit");
    let grown = group.number("memory.current")?.saturating_sub(current);
    ensure!(grown < pmd() as u64 / 4, "{grown} bytes were charged");
    ensure!(
        group.stat("anon")? <= anon + 64 * page() as u64,
        "anonymous memory was charged"
    );

    group.set("memory.max", "max")?;
    area.unmark()?;
    ensure_eq!(area.store(1), Ok(()));
    let grown = group.number("memory.current")?.saturating_sub(current);
    ensure!(grown >= page() as u64, "the test would see nothing");
    Ok(())
}

register!(
    a7_khugepaged_fills_no_hole,
    a7_mark_races_with_khugepaged,
    a7_collapse_fills_no_hole,
    a7_collapse_without_holes,
    a17_thp_counters_stay,
    a17_nothing_is_charged,
);
