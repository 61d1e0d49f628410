// SPDX-License-Identifier: GPL-2.0

//! Moves against other system calls on the same memory: which errors there may be, and that no
//! page is lost, doubled or torn.

use crate::harness::{rounds, Numbers, Outcome};
use crate::proc::{ensure_holes, ensure_present, vma_of};
use crate::process::must_pass_in_child;
use crate::race::{Race, TIME};
use crate::special::{folio_pages, huge_pages, pages_of_folios, unmap};
use crate::sys::{page, pmd_pages, remap, remap_all, Area, Map, Span, RW};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::sync::Barrier;
use std::time::Duration;

const PAGES: usize = 128;

/// A39: of several threads with one destination one wins, at each part of it; the others get
/// EEXIST, and keep what they have.
fn one_wins(unit: usize, source: impl Fn(u32) -> anyhow::Result<Area>) -> Outcome {
    const THREADS: u32 = 4;
    for round in rounds(TIME) {
        let seed = |mover| 1 + (round * THREADS + mover) * 1024;
        let sources: Vec<_> = (0..THREADS)
            .map(|mover| source(seed(mover)))
            .collect::<Result<_, _>>()?;
        let len = sources[0].len;
        let dst = Map::bytes(len).align(crate::sys::pmd()).map()?;
        let units = dst.nr_pages() / unit;
        let part = |area: &Area, index: usize| area.pages(index * unit..(index + 1) * unit);
        let barrier = Barrier::new(sources.len());
        let results: Vec<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = sources
                .iter()
                .map(|src| {
                    let (barrier, dst) = (&barrier, &dst);
                    scope.spawn(move || {
                        barrier.wait();
                        (0..units)
                            .map(|index| remap(part(dst, index), part(src, index), 0))
                            .collect()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        for index in 0..units {
            let mut winners = 0;
            for (mover, (src, results)) in (0..).zip(sources.iter().zip(&results)) {
                let first = seed(mover) + (index * unit) as u32;
                let place = match results[index] {
                    Ok(moved) => {
                        ensure_eq!(moved, unit * page(), "round {round}, unit {index}");
                        ensure_holes(part(src, index))?;
                        winners += 1;
                        &dst
                    }
                    Err(error) => {
                        ensure_eq!(error, Errno::EEXIST, "round {round}, unit {index}");
                        src
                    }
                };
                ensure_present(part(place, index))?;
                part(place, index).check_pages(first)?;
            }
            ensure_eq!(winners, 1, "round {round}, unit {index}");
        }
    }
    Ok(())
}

/// A39: page by page.
fn a39_many_movers_one_destination() -> Outcome {
    one_wins(1, |seed| Ok(Area::filled(PAGES, seed)?))
}

/// A39: huge page by huge page.
fn a39_many_movers_one_huge_destination() -> Outcome {
    one_wins(pmd_pages(), |seed| huge_pages(1, seed))
}

/// A39: folio by folio.
fn a39_many_movers_one_destination_of_folios() -> Outcome {
    one_wins(folio_pages(), |seed| pages_of_folios(folio_pages(), seed))
}

/// A39: pages that are thrown away meanwhile are gone, or have got away to the other side whole.
fn a39_dontneed_meanwhile() -> Outcome {
    thrown_away_meanwhile(&[], false, |place| Ok(place.advise(libc::MADV_DONTNEED)?))
}

/// A39: the same where the memory goes away with them: then it is in no vma any more.
fn a39_munmap_meanwhile() -> Outcome {
    thrown_away_meanwhile(&[Errno::EINVAL], true, unmap)
}

/// Throws away every place of both sides, one by one in any order, again and again.
fn thrown_away_meanwhile(
    allowed: &[Errno],
    may_segv: bool,
    throw_away: impl Fn(Span) -> Outcome,
) -> Outcome {
    const PAUSE: Duration = Duration::from_millis(1);
    let mut numbers = Numbers(5);
    for _ in rounds(TIME) {
        let mut race = Race::small(PAGES)?;
        race.allowed.extend(allowed);
        race.lossy = true;
        race.may_segv = may_segv;
        race.run(0..PAGES as u32, |_| {
            std::thread::sleep(PAUSE);
            let (side, index) = (numbers.below(2), numbers.below(PAGES));
            throw_away(race.areas[side].page(index))
        })?;
    }
    Ok(())
}

/// A20, A39: a whole side goes to another place and comes back, with all its pages: while it is
/// away the call says EINVAL.
fn a39_mremap_away_and_back() -> Outcome {
    let away = Map::pages(PAGES).prot(libc::PROT_NONE).map()?;
    let mut race = Race::small(PAGES)?;
    race.allowed.push(Errno::EINVAL);
    race.may_segv = true;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let mut side = 0;
    race.run_for_a_while(|| {
        let own = race.areas[side];
        for (old, new) in [(own, *away), (*away, own)] {
            ensure_eq!(old.mremap(old.len, flags, new.addr), Ok(new));
            // Nothing of this program's may come to lie there.
            unmap(old)?;
        }
        side = 1 - side;
        Ok(())
    })
}

/// A41: while a child lives that has the pages too they are EBUSY, until they are stored to; the
/// child sees each of them once.
fn a41_fork_meanwhile() -> Outcome {
    forked_meanwhile(Race::small(PAGES)?)
}

/// A41: the same of huge pages.
fn a41_fork_meanwhile_of_huge_pages() -> Outcome {
    forked_meanwhile(Race::huge(2)?)
}

/// A41: the same of folios.
fn a41_fork_meanwhile_of_folios() -> Outcome {
    forked_meanwhile(Race::folios()?)
}

fn forked_meanwhile(mut race: Race) -> Outcome {
    race.allowed.push(Errno::EBUSY);
    race.run_for_a_while(|| must_pass_in_child(|| race.check_snapshot()))
}

/// A21: while one side is locked in memory and the other one is not, the call says EINVAL; no page
/// stays locked for it.
fn a21_mlock_meanwhile() -> Outcome {
    let mut race = Race::small(PAGES)?;
    race.allowed.push(Errno::EINVAL);
    race.run_for_a_while(|| {
        for locked in [true, false] {
            for area in &race.areas {
                match locked {
                    // Not the holes, which nobody may fill.
                    true => area.lock(libc::MLOCK_ONFAULT).context("mlock2")?,
                    false => area.unlock().context("munlock")?,
                }
            }
        }
        Ok(())
    })?;
    ensure!(!vma_of(race.areas[0])?.has("lo"), "still locked");
    Ok(())
}

/// A21: while the two sides may be accessed in different ways, or a part of a side, the call says
/// EINVAL.
fn a21_mprotect_meanwhile() -> Outcome {
    mprotected_meanwhile(Race::small(PAGES)?)
}

/// A21: the same of huge pages, which a change to a part of them maps page by page.
fn a21_mprotect_meanwhile_of_huge_pages() -> Outcome {
    mprotected_meanwhile(Race::huge(2)?)
}

fn mprotected_meanwhile(mut race: Race) -> Outcome {
    race.allowed.push(Errno::EINVAL);
    race.may_segv = true;
    // Parts that each get an anon_vma of their own, since there was none when they were parted, are
    // not joined again.
    let [home, away] = race.areas.map(|area| area.pages(0..race.unit));
    remap_all(away, home)?;
    remap_all(home, away)?;
    let mut numbers = Numbers(5);
    race.run_for_a_while(|| {
        let area = race.areas[numbers.below(2)];
        let part = area.page(numbers.below(area.nr_pages()));
        for span in [area, part] {
            for prot in [libc::PROT_READ, libc::PROT_NONE, RW] {
                span.protect(prot).context("mprotect")?;
            }
        }
        Ok(())
    })
}

register!(
    a21_mlock_meanwhile,
    a21_mprotect_meanwhile,
    a21_mprotect_meanwhile_of_huge_pages,
    a39_many_movers_one_destination,
    a39_many_movers_one_huge_destination,
    a39_many_movers_one_destination_of_folios,
    a39_dontneed_meanwhile,
    a39_munmap_meanwhile,
    a39_mremap_away_and_back,
    a41_fork_meanwhile,
    a41_fork_meanwhile_of_huge_pages,
    a41_fork_meanwhile_of_folios,
);
