// SPDX-License-Identifier: GPL-2.0

//! What works behind the program's back fills no hole; and the counters tell that nothing was.

use crate::cgroup::Cgroup;
use crate::harness::{rounds, Outcome};
use crate::knobs::{folio_file, set_thp, thp_number};
use crate::proc::{ensure_holes, ensure_present, entries, entry, vmstat};
use crate::special::{folio_pages, huge_pages, is_huge};
use crate::sys::{page, pmd, pmd_pages, Area, Map, Span, MADV_COLLAPSE};
use crate::touch;
use crate::trace::Trace;
use crate::{ensure_eq, register, skip};
use anyhow::{ensure, Context};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Half of a huge page's room in small pages, the other half holes.
fn half_filled() -> anyhow::Result<Area> {
    let area = Map::huge_pages(1).map()?;
    fill_half(*area);
    Ok(area)
}

fn fill_half(huge: Span) {
    for (index, part) in huge.each_page().enumerate().skip(1).step_by(2) {
        part.fill(index as u32);
    }
}

/// What `fill_half()` has filled is as it was, and the holes were filled with zeroes.
fn all_filled(huge: Span) -> Outcome {
    for (index, part) in huge.each_page().enumerate() {
        match index % 2 {
            0 => part.check_zero()?,
            _ => part.check(index as u32)?,
        }
    }
    Ok(())
}

/// What `fill_half()` has made is as it was.
fn still_half_filled(huge: Span) -> Outcome {
    let entries = entries(huge)?;
    for (index, part) in huge.each_page().enumerate() {
        match index % 2 {
            0 => ensure!(entries[index].hole(), "page {index} is no hole"),
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
    set_thp("khugepaged/max_ptes_none", pmd_pages() - 1)?;
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
    still_half_filled(*marked)?;
    ensure!(marked.load().is_err(), "no SIGBUS");
    Ok(())
}

/// The event of the second look at what is to become a huge page, with the vma locked, and what it
/// says where holes are in the way. The first look, the scan, has let them pass then.
const SECOND_LOOK: &str = "mm_collapse_huge_page_isolate";
const HOLES: &str = "status=exceed_none_pte";

/// A7, C53: khugepaged looks again before it collapses. Where folios of several pages are allowed,
/// its scan lets every hole pass, so that the second look alone keeps them.
fn c53_khugepaged_looks_again() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(40);
    let folio = folio_pages();
    set_thp(&folio_file(folio, "enabled"), "always")?;
    hurry_khugepaged()?;
    let trace = Trace::of(&[&format!("huge_memory/{SECOND_LOOK}")])?;
    let area = Map::huge_pages(1).map()?;
    // Of the first folio's room all is there, of the others' all but one page, then one page.
    let is_hole = |index: usize| match index / folio {
        0 => false,
        1 => index == 2 * folio - 1,
        _ => index % folio != 5,
    };
    let fill = || {
        for (index, part) in area.each_page().enumerate() {
            if !is_hole(index) {
                part.fill(index as u32);
            }
        }
    };
    let check = || -> Outcome {
        for (index, part) in area.each_page().enumerate() {
            match is_hole(index) {
                true => ensure_holes(part)?,
                false => part.check(index as u32)?,
            }
        }
        Ok(())
    };
    fill();
    area.mark()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    let start = Instant::now();
    let orders = [pmd_pages(), folio].map(|pages| format!("order={}", pages.ilog2()));
    while !trace.has(&[SECOND_LOOK, HOLES, &orders[0]])?
        || !trace.has(&[SECOND_LOOK, HOLES, &orders[1]])?
    {
        ensure!(start.elapsed() < LIMIT, "khugepaged does not look twice");
        std::thread::sleep(Duration::from_millis(50));
    }
    let scans = thp_number("khugepaged/full_scans")?;
    while thp_number("khugepaged/full_scans")? < scans + 2 {
        ensure!(start.elapsed() < LIMIT, "khugepaged does not go on");
        std::thread::sleep(Duration::from_millis(50));
    }
    check()?;
    ensure!(area.page(2 * folio - 1).load().is_err(), "no SIGBUS");

    // Without the mark it fills them.
    area.unmark()?;
    while entry(area.page(2 * folio - 1))?.hole() {
        ensure!(start.elapsed() < LIMIT, "khugepaged fills no hole at all");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Marks memory while it is being collapsed, until the mark has come between the scan and the
/// collapse.  What was a hole at the time of the mark stays one.
///
/// `collapse` begins it, perhaps in a thread that ends when it is done.  Whether the mark ever
/// comes in between is chance; [`c53_khugepaged_looks_again`] leaves nothing to it.
fn mark_between_scan_and_collapse(collapse: fn(Span) -> Option<JoinHandle<()>>) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(40);
    const BEGIN: Duration = Duration::from_secs(10);
    const REGIONS: usize = 8;
    let trace = Trace::of(&[&format!("huge_memory/{SECOND_LOOK}")])?;
    for round in rounds(LIMIT) {
        let area = Map::huge_pages(REGIONS).map()?;
        let region = |index| Span::new(area.addr + index * pmd(), pmd());
        (0..REGIONS).for_each(|index| fill_half(region(index)));
        let thread = collapse(*area);
        // When the first is done, the next ones are at hand.
        let start = Instant::now();
        while entry(area.page(0))?.hole() {
            ensure!(start.elapsed() < BEGIN, "nothing is collapsed");
        }
        // Each time at another moment.
        let wait = Duration::from_micros(u64::from(round) % 20 * 50);
        let start = Instant::now();
        while start.elapsed() < wait {}
        area.mark()?;
        let holes: Vec<_> = (0..REGIONS)
            .map(|index| Ok(entry(region(index))?.hole()))
            .collect::<anyhow::Result<_>>()?;
        match thread {
            Some(thread) => thread.join().expect("no panic"),
            // Time to do what khugepaged may have begun.
            None => std::thread::sleep(Duration::from_millis(50)),
        }
        for (index, had_holes) in holes.into_iter().enumerate() {
            let checked = match had_holes {
                true => still_half_filled(region(index)),
                false => all_filled(region(index)),
            };
            checked.with_context(|| format!("round {round}, region {index}"))?;
        }
        if trace.has(&[SECOND_LOOK, HOLES])? {
            return Ok(());
        }
    }
    skip!("the mark never came between the scan and the collapse");
}

/// A7, C53: the mark comes between khugepaged's scan and its collapse.
fn c53_mark_between_scan_and_collapse_of_khugepaged() -> Outcome {
    hurry_khugepaged()?;
    mark_between_scan_and_collapse(|area| {
        let _ = area.advise(libc::MADV_HUGEPAGE);
        None
    })
}

/// A7, C53: the mark comes between the scan and the collapse that another thread has asked for.
fn c53_mark_between_scan_and_collapse_of_madvise() -> Outcome {
    set_thp("enabled", "always")?;
    // khugepaged is to leave it to the thread.
    set_thp("khugepaged/scan_sleep_millisecs", 1_000_000)?;
    mark_between_scan_and_collapse(|area| {
        let _ = area.advise(libc::MADV_HUGEPAGE);
        // It says that there were holes, if they came in its way.
        Some(std::thread::spawn(move || {
            let _ = area.advise(MADV_COLLAPSE);
        }))
    })
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
    still_half_filled(*area)?;

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

/// A7, C53: zero pages in marked memory are no holes. They are left alone as holes are, so that no
/// hole among them is filled.
fn c53_collapse_among_zero_pages() -> Outcome {
    set_thp("enabled", "always")?;
    let area = Map::huge_pages(1).map()?;
    let last = pmd_pages() - 1;
    let (zero, full) = (area.pages(0..last - 11), area.pages(last - 11..last));
    let hole = area.page(last);
    zero.check_zero()?;
    full.fill_pages(1);
    area.mark()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    ensure!(
        area.advise(MADV_COLLAPSE).is_err(),
        "MADV_COLLAPSE filled a hole"
    );
    ensure_holes(hole)?;
    ensure_present(zero)?;
    zero.check_zero()?;
    full.check_pages(1)
}

/// D08: a huge page that is nearly all zero is taken apart under memory pressure, and zero pages
/// take the place of what was never written: no holes.
fn d08_underused_huge_page_leaves_no_hole() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(20);
    set_thp("enabled", "always")?;
    set_thp("shrink_underused", 1)?;
    set_thp("khugepaged/max_ptes_none", 100.min(pmd_pages() / 2))?;
    let area = Map::huge_pages(1).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.page(3).fill(3);
    ensure!(is_huge(*area)?, "no huge page");
    area.mark()?;
    let start = Instant::now();
    while is_huge(*area)? {
        ensure!(start.elapsed() < LIMIT, "it is not taken apart");
        std::fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches")?;
    }
    ensure_present(*area)?;
    area.page(3).check(3)?;
    area.pages(0..3).check_zero()?;
    area.pages(4..pmd_pages()).check_zero()?;
    let part = area.page(100.min(pmd_pages() - 1));
    ensure_eq!(part.store(1), Ok(()), "write to a zero page");
    Ok(())
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
    drop(huge_pages(1, 1)?);
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
    let slack = (pmd() / 4).max(12 * page()) as u64;
    ensure!(grown < slack, "{grown} bytes were charged");
    ensure!(
        group.stat("anon")? <= anon + 64 * page() as u64,
        "anonymous memory was charged"
    );

    group.set("memory.max", "max")?;
    area.unmark()?;
    // Of each huge page, which are together more than may have been charged in advance.
    for huge in (0..area.nr_pages()).step_by(pmd_pages()) {
        ensure_eq!(area.page(huge).store(1), Ok(()));
    }
    let grown = group.number("memory.current")?.saturating_sub(current);
    ensure!(grown >= page() as u64, "the test would see nothing");
    Ok(())
}

register!(
    a7_khugepaged_fills_no_hole,
    c53_khugepaged_looks_again,
    c53_mark_between_scan_and_collapse_of_khugepaged,
    c53_mark_between_scan_and_collapse_of_madvise,
    a7_collapse_fills_no_hole,
    a7_collapse_without_holes,
    c53_collapse_among_zero_pages,
    d08_underused_huge_page_leaves_no_hole,
    a17_thp_counters_stay,
    a17_nothing_is_charged,
);
