// SPDX-License-Identifier: GPL-2.0

//! Moves against what the kernel does to pages on its own: reclaim, migration, KSM.  It finds the
//! users of a page by way of the page, while that moves from one place to another and back.

use crate::cgroup::Cgroup;
use crate::device::{took_some, Device};
use crate::harness::Outcome;
use crate::knobs::{self, ksm_number, set_ksm};
use crate::proc::{ensure_present, vmstat};
use crate::race::Race;
use crate::special::{folio_pages, huge_pages, pages_of_folios};
use crate::sys::{page, pmd, remap, remap_all, Area, Map, MADV_COLD};
use crate::{ensure_eq, ksm, numa, register, swap};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::time::{Duration, Instant};

const PAGES: usize = 128;
/// So few that a page has come and gone, and come back, before anybody is done with it.
const FEW: usize = 4;

/// Runs, and fails unless a counter of the kernel's has grown meanwhile: else nothing was
/// disturbed.
fn while_counting(counter: &str, run: impl FnOnce() -> Outcome) -> Outcome {
    let before = vmstat(counter)?;
    run()?;
    ensure!(vmstat(counter)? > before, "{counter} has not grown");
    Ok(())
}

/// Takes the pages of both areas out to swap, again and again.
pub fn reclaimed_meanwhile(race: Race) -> Outcome {
    swap::ensure_on()?;
    while_counting("pswpout", || {
        race.run_for_a_while(|| {
            for area in &race.areas {
                area.advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")?;
            }
            Ok(())
        })
    })
}

/// A43: reclaim takes pages that are on their way.
fn a43_reclaim_meanwhile() -> Outcome {
    reclaimed_meanwhile(Race::small(PAGES)?)
}

/// C46: the same of pages that are here, there and here again while reclaim looks for them.
fn c46_reclaim_of_pages_there_and_back() -> Outcome {
    reclaimed_meanwhile(Race::small(FEW)?)
}

/// C46: the same in one vma, where nothing but the index tells the places apart.
fn c46_reclaim_of_pages_there_and_back_in_one_vma() -> Outcome {
    reclaimed_meanwhile(Race::in_one_vma(FEW)?)
}

/// C45: reclaim asks of pages that are on their way whether they were used, and leaves those there
/// that were.
fn c45_aging_meanwhile() -> Outcome {
    swap::ensure_on()?;
    let group = Cgroup::enter()?;
    let race = Race::small(PAGES)?;
    while_counting("pgscan_anon", || {
        race.run_for_a_while(|| {
            for area in &race.areas {
                area.advise(MADV_COLD).context("MADV_COLD")?;
            }
            // It says EAGAIN where it gets less than that.
            let _ = group.set("memory.reclaim", 16 * page());
            Ok(())
        })
    })
}

/// C46: pages migrate between two nodes while they move.
fn c46_migration_of_pages_there_and_back() -> Outcome {
    migrated_meanwhile(Race::small(FEW)?)
}

/// A43: the same of more pages.
fn a43_migration_meanwhile() -> Outcome {
    migrated_meanwhile(Race::small(PAGES)?)
}

/// Migrates both areas to and fro between two nodes.  A move waits for it.
pub fn migrated_meanwhile(race: Race) -> Outcome {
    numa::ensure_two_nodes()?;
    let mut node = 0;
    while_counting("pgmigrate_success", || {
        race.run_for_a_while(|| {
            node = 1 - node;
            for area in &race.areas {
                numa::move_to(*area, node)?;
            }
            Ok(())
        })
    })
}

/// A43: compaction takes pages that are on their way, in frames that they have just got.
fn a43_compaction_meanwhile() -> Outcome {
    const COMPACT: &str = "/proc/sys/vm/compact_memory";
    swap::ensure_on()?;
    let race = Race::small(PAGES)?;
    while_counting("compact_migrate_scanned", || {
        race.run_for_a_while(|| {
            race.areas[0]
                .advise(libc::MADV_PAGEOUT)
                .context("MADV_PAGEOUT")?;
            knobs::set(COMPACT, 1)
        })
    })
}

/// C13: who waits for a page that reclaim has locked holds nothing that others need to change the
/// vmas; a debug kernel sees besides that nobody sleeps who may not.
fn c13_vmas_change_while_a_move_waits() -> Outcome {
    swap::ensure_on()?;
    let mut race = Race::small(PAGES)?;
    // A part of the range is in another vma for a moment.
    race.allowed.push(Errno::EINVAL);
    while_counting("pswpout", || {
        race.run_for_a_while(|| {
            for area in &race.areas {
                area.advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")?;
                let part = area.pages(PAGES / 2..PAGES);
                part.advise(libc::MADV_DONTDUMP).context("MADV_DONTDUMP")?;
                part.advise(libc::MADV_DODUMP).context("MADV_DODUMP")?;
            }
            drop(Area::filled(4, 1)?);
            Ok(())
        })
    })
}

/// A27, A43: a device takes pages that are on their way, until the next touch.  What it has is
/// EFAULT, as whatever is no page here.
fn a27_device_meanwhile() -> Outcome {
    let device = Device::open()?;
    let mut race = Race::small(PAGES)?;
    race.allowed.push(Errno::EFAULT);
    race.run_for_a_while(|| {
        for area in &race.areas {
            ensure!(took_some(device.take(*area)), "take");
        }
        Ok(())
    })
}

/// C11: a device that has looked up the source's pages looks them up anew after the move: what it
/// writes there does not get to the destination.
fn c11_device_forgets_the_source() -> Outcome {
    let device = Device::open()?;
    let sources = [
        Area::filled(16, 1)?,
        pages_of_folios(folio_pages(), 1)?,
        huge_pages(1, 1)?,
    ];
    for src in sources {
        let dst = Map::bytes(src.len).align(pmd()).map()?;
        // It keeps what it finds, for reading as for writing.
        device.read(*src).context("read")?;
        device.write(src.page(3)).context("write")?;
        src.page(3).fill(4);
        remap_all(*dst, *src)?;
        device.write(*src).context("write")?;
        dst.check_pages(1)?;
        src.check_zero()?;
    }
    Ok(())
}

/// C5: KSM takes equal pages that are on their way, for which the call says EBUSY, and gives them
/// back.  No call goes on for ever.
fn c5_ksm_meanwhile() -> Outcome {
    const KINDS: usize = 4;
    const MERGING: Duration = Duration::from_millis(300);
    // On a slow machine with checkers, the first time.
    const LATEST: Duration = Duration::from_secs(20);
    ksm::hurry()?;
    let mut race = Race::equal(PAGES, KINDS)?;
    race.allowed.push(Errno::EBUSY);
    let mut merged = 0;
    race.run_for_a_while(|| {
        for area in &race.areas {
            area.advise(libc::MADV_MERGEABLE)
                .context("MADV_MERGEABLE")?;
        }
        let start = Instant::now();
        while start.elapsed() < MERGING || merged == 0 && start.elapsed() < LATEST {
            std::thread::sleep(Duration::from_millis(10));
            merged = merged.max(ksm_number("pages_sharing")?);
        }
        for area in &race.areas {
            area.advise(libc::MADV_UNMERGEABLE)
                .context("MADV_UNMERGEABLE")?;
        }
        Ok(())
    })?;
    ensure!(merged > 0, "KSM has merged nothing");
    Ok(())
}

/// C5: a page of KSM's that has but one user left is EBUSY too, at once: it has no anon_vma to be
/// had, however often one tries.
fn c5_ksm_page_with_one_user() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(5);
    ksm::hurry()?;
    let (dst, src) = (Area::pages(1)?, Area::pages(2)?);
    src.each_page().for_each(|part| part.fill(4242));
    src.advise(libc::MADV_MERGEABLE).context("MADV_MERGEABLE")?;
    ksm::wait_merged(&[*src])?;
    // Not to be merged anew; what is merged stays so.
    set_ksm("run", 0)?;
    src.page(1).advise(libc::MADV_DONTNEED)?;
    let start = Instant::now();
    ensure_eq!(remap(*dst, src.page(0), 0), Err(Errno::EBUSY));
    ensure!(start.elapsed() < LIMIT, "it took {:?}", start.elapsed());
    ensure_present(src.page(0))?;
    src.page(0).check(4242)
}

register!(
    a27_device_meanwhile,
    a43_compaction_meanwhile,
    a43_migration_meanwhile,
    a43_reclaim_meanwhile,
    c5_ksm_meanwhile,
    c11_device_forgets_the_source,
    c13_vmas_change_while_a_move_waits,
    c5_ksm_page_with_one_user,
    c45_aging_meanwhile,
    c46_migration_of_pages_there_and_back,
    c46_reclaim_of_pages_there_and_back,
    c46_reclaim_of_pages_there_and_back_in_one_vma,
);
