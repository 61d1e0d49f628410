// SPDX-License-Identifier: GPL-2.0

//! What is a hole, and what touching one does: SIGBUS, and nothing else.

use crate::harness::Outcome;
use crate::knobs::{folio_file, set_thp};
use crate::proc::{
    ensure_holes, ensure_present, entry, pages_allocated, status_kib, vma_of, Entry,
};
use crate::process::{in_child, Ended};
use crate::special::{folio_pages, huge_pages, huge_zero_pages};
use crate::sys::{of_512, page, pmd, pmd_pages, upper_table, Area, Map, Span, RW};
use crate::touch::{self, Fault};
use crate::{ensure_eq, register, swap};
use anyhow::{ensure, Context};
use nix::sys::signal::Signal;

/// Both a read and a write raise SIGBUS, at every page.
pub fn ensure_refused(span: Span) -> Outcome {
    for part in span.each_page() {
        ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)));
        ensure_eq!(part.store(1), Err(Fault::sigbus(part.addr)));
    }
    ensure_holes(span)
}

/// A3: the signal tells the very address, not that of the page.
fn a3_signal_tells_the_address() -> Outcome {
    let area = Area::marked(3)?;
    for offset in [0, 1, 8, page() - 1, page(), page() + 123, 3 * page() - 1] {
        let addr = area.addr + offset;
        ensure_eq!(
            touch::load(addr),
            Err(Fault::sigbus(addr)),
            "read at {offset}"
        );
        ensure_eq!(
            touch::store(addr, 1),
            Err(Fault::sigbus(addr)),
            "write at {offset}"
        );
    }
    Ok(())
}

/// A3: what MADV_DONTNEED has emptied is holes again.
fn a3_holes_after_dontneed() -> Outcome {
    let area = Area::filled(4, 1)?;
    area.mark()?;
    area.check_pages(1)?;
    area.pages(1..3).advise(libc::MADV_DONTNEED)?;
    ensure_refused(area.pages(1..3))?;
    area.page(0).check(1)?;
    area.page(3).check(4)
}

/// A3: what was emptied in the middle of a huge page is holes, and the rest is not.
fn a3_holes_in_a_huge_page() -> Outcome {
    let area = huge_pages(1, 1)?;
    area.mark()?;
    let hole = area.pages(5..9);
    hole.advise(libc::MADV_DONTNEED)?;
    ensure_refused(hole)?;
    area.pages(0..5).check_pages(1)?;
    area.pages(9..20).check_pages(10)?;
    area.advise(libc::MADV_DONTNEED)?;
    ensure_refused(area.pages(0..12))
}

/// A3: a touch leaves no page and no table behind, and RSS as it was.
fn a3_rss_and_page_tables_do_not_grow() -> Outcome {
    const TABLES: usize = 256;
    let area = Map::huge_pages(TABLES).map()?;
    area.mark()?;
    // Whatever the first touches need for themselves.
    ensure_refused(area.page(0))?;
    let (rss, tables) = (status_kib("RssAnon")?, status_kib("VmPTE")?);
    for index in 0..TABLES {
        let first = area.page(index * pmd_pages());
        ensure!(
            first.load().is_err() && first.store(1).is_err(),
            "no SIGBUS"
        );
    }
    // The test's own stack and heap may grow a little; upper levels may be built.
    let rss = status_kib("RssAnon")?.saturating_sub(rss);
    let slack = 64 * page() as u64 / 1024;
    ensure!(rss < slack, "RSS has grown by {rss} KiB");
    let tables = status_kib("VmPTE")?.saturating_sub(tables);
    let slack = 4 * upper_table() as u64 / 1024;
    ensure!(tables <= slack, "page tables have grown by {tables} KiB");
    ensure_holes(*area)?;
    ensure_eq!(vma_of(*area)?.kib("Rss")?, 0);
    Ok(())
}

/// A3: no page is allocated, not even for a moment.
fn a3_nothing_is_allocated() -> Outcome {
    const TOUCHES: usize = 4000;
    let area = Map::huge_pages(1).map()?;
    area.mark()?;
    let before = pages_allocated()?;
    for index in 0..TOUCHES {
        let part = area.page(index % area.nr_pages());
        let refused = if index % 2 == 0 {
            part.load().is_err()
        } else {
            part.store(1).is_err()
        };
        ensure!(refused, "no SIGBUS");
    }
    let allocated = pages_allocated()? - before;
    ensure!(
        allocated < TOUCHES as u64 / 2,
        "{allocated} pages were allocated during {TOUCHES} touches"
    );
    Ok(())
}

/// A3: fetching an instruction is a touch.
fn a3_instruction_fetch() -> Outcome {
    let area = Map::pages(1).prot(RW | libc::PROT_EXEC).map()?;
    area.mark()?;
    let addr = area.addr;
    let ended = in_child(|| {
        // SAFETY: It raises SIGBUS before anything runs; if not, the child dies otherwise.
        unsafe { std::mem::transmute::<usize, extern "C" fn()>(addr)() };
        Ok(())
    })?;
    ensure_eq!(ended, Ended::Killed(Signal::SIGBUS));
    Ok(())
}

/// A4: a page in swap is no hole: it comes back with its content.
fn a4_swapped_page_is_no_hole() -> Outcome {
    let area = Area::filled(4, 1)?;
    area.mark()?;
    swap::out(*area)?;
    ensure!(
        area.page(0).load().is_ok() && area.page(1).store(0).is_ok(),
        "SIGBUS"
    );
    area.page(1).fill(2);
    area.check_pages(1)
}

/// A4: a page that may be freed is there until it is reclaimed, and then a hole.
fn a4_lazily_freed_page() -> Outcome {
    let area = Area::filled(4, 1)?;
    area.mark()?;
    area.advise(libc::MADV_FREE).context("MADV_FREE")?;
    area.page(0).check(1)?;
    // Writing keeps a page.
    ensure_eq!(area.page(1).store(3), Ok(()));
    let freed = area.pages(2..4);
    swap::page_out_until(freed, "a hole", Entry::hole)?;
    ensure_refused(freed)?;
    ensure_eq!(area.page(1).load(), Ok(3));
    Ok(())
}

/// A5: reads raise as writes do, and install no zero page.
fn a5_reads_and_writes() -> Outcome {
    let area = Area::marked(16)?;
    for (index, part) in area.each_page().enumerate() {
        let fault = match index % 2 {
            0 => part.load().err(),
            _ => part.store(1).err(),
        };
        ensure_eq!(fault, Some(Fault::sigbus(part.addr)), "page {index}");
        ensure_holes(part)?;
    }
    Ok(())
}

/// A5: the same beside pages that are there, where a table is.
fn a5_holes_beside_pages() -> Outcome {
    let area = Area::pages(16)?;
    area.pages(4..8).fill_pages(1);
    area.mark()?;
    ensure_refused(area.pages(0..4))?;
    ensure_refused(area.pages(8..16))?;
    area.pages(4..8).check_pages(1)
}

/// A5: a read of memory that may only be read.
fn a5_read_only_hole() -> Outcome {
    let area = Map::pages(2).prot(libc::PROT_READ).map()?;
    area.mark()?;
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    ensure_holes(*area)
}

/// A6: where a write would get a huge page, it gets SIGBUS.
fn a6_huge_page_by_write() -> Outcome {
    let area = thp_area()?;
    ensure_eq!(area.store(1), Err(Fault::sigbus(area.addr)));
    let inside = area.addr + pmd() + 5 * page() + 7;
    ensure_eq!(touch::store(inside, 1), Err(Fault::sigbus(inside)));
    ensure_holes(*area)
}

/// A6: where a read would get the huge zero page, it gets SIGBUS.
fn a6_huge_zero_page_by_read() -> Outcome {
    let area = thp_area()?;
    set_thp("use_zero_page", 1)?;
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    let inside = area.addr + pmd() + 5 * page() + 7;
    ensure_eq!(touch::load(inside), Err(Fault::sigbus(inside)));
    ensure_holes(*area)
}

/// Two huge pages' room, marked, where huge pages would be taken at once.
fn thp_area() -> anyhow::Result<Area> {
    // It must be possible without the mark, or the test says nothing.
    drop(huge_pages(1, 1)?);
    let area = Map::huge_pages(2).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.mark()?;
    Ok(area)
}

/// A6: the same for folios of several pages.
fn a6_multi_size_folio() -> Outcome {
    set_thp("enabled", "always")?;
    set_thp(&folio_file(folio_pages(), "enabled"), "always")?;
    let area = Map::huge_pages(1).map()?;
    // A small page keeps a huge one from being taken.
    let at = 100.min(pmd_pages() - 12);
    area.page(at).fill(1);
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.mark()?;
    ensure_refused(area.pages(0..2 * folio_pages()))?;
    ensure_refused(area.pages(at - 4..at))?;
    area.page(at).check(1)
}

/// A15: what was there before the mark is no hole; a huge page may have come by one touch.
fn a15_pages_before_the_mark_stay() -> Outcome {
    let area = Area::pages(3)?;
    area.page(0).fill(1);
    ensure_eq!(area.page(1).load(), Ok(0));
    area.mark()?;
    area.page(0).check(1)?;
    area.page(1).check_zero()?;
    ensure_eq!(area.page(1).store(5), Ok(()), "write to the zero page");
    ensure_refused(area.page(2))?;

    let huge = huge_pages(1, 1)?;
    huge.mark()?;
    huge.check_pages(1)?;
    let zero = huge_zero_pages(1)?;
    zero.mark()?;
    let at = of_512(300);
    let (part, next) = (zero.page(at), zero.page(at + 1));
    ensure_eq!(part.load(), Ok(0));
    ensure_eq!(part.store(5), Ok(()), "write to the huge zero page");
    ensure_eq!(next.load(), Ok(0));
    ensure_present(next)
}

/// A16: memory without access stays SIGSEGV, hole or not.
fn a16_no_access_is_sigsegv() -> Outcome {
    let area = Area::pages(2)?;
    area.page(0).fill(1);
    area.mark()?;
    area.protect(libc::PROT_NONE)?;
    for part in area.each_page() {
        ensure_eq!(part.load(), Err(Fault::no_access(part.addr)));
        ensure_eq!(part.store(1), Err(Fault::no_access(part.addr)));
    }
    area.protect(RW)?;
    area.page(0).check(1)?;
    ensure_refused(area.page(1))
}

/// A16: a write to memory that may only be read is SIGSEGV, in a hole too.
fn a16_write_to_read_only_is_sigsegv() -> Outcome {
    let area = Area::marked(1)?;
    area.protect(libc::PROT_READ)?;
    ensure_eq!(area.store(1), Err(Fault::no_access(area.addr)));
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    ensure!(entry(*area)?.hole(), "not a hole any more");
    Ok(())
}

register!(
    a3_signal_tells_the_address,
    a3_holes_after_dontneed,
    a3_holes_in_a_huge_page,
    a3_rss_and_page_tables_do_not_grow,
    a3_nothing_is_allocated,
    a3_instruction_fetch,
    a4_swapped_page_is_no_hole,
    a4_lazily_freed_page,
    a5_reads_and_writes,
    a5_holes_beside_pages,
    a5_read_only_hole,
    a6_huge_page_by_write,
    a6_huge_zero_page_by_read,
    a6_multi_size_folio,
    a15_pages_before_the_mark_stay,
    a16_no_access_is_sigsegv,
    a16_write_to_read_only_is_sigsegv,
);
