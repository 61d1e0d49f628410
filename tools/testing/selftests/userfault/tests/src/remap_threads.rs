// SPDX-License-Identifier: GPL-2.0

//! Several threads at once: nobody sees half a page, and no page is lost.

use crate::frame::Splits;
use crate::harness::{rounds, Outcome};
use crate::proc::{ensure_holes, entries, entry};
use crate::process::join;
use crate::special::{folio_pages, huge_pages, huge_zero_pages, many_zero_pages, pages_of_folios};
use crate::sys::{page, pmd, pmd_pages, remap, remap_all, Area, Map, Span};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::time::Duration;

/// How long each of these tests goes on.
const TIME: Duration = Duration::from_secs(4);

/// Waits for a page to come, then checks all of it, from its last word to its first.
fn observe(span: Span, seed: u32, done: &AtomicBool) -> Outcome {
    for (seed, part) in (seed..).zip(span.each_page()) {
        let last = part.end() - 1;
        while crate::touch::load(last).is_err() {
            ensure!(!done.load(Ordering::Relaxed), "the mover has given up");
            std::hint::spin_loop();
        }
        part.check(seed)?;
    }
    Ok(())
}

/// How many pages are moved while others look: as many as a huge page has at most.
const PAGES: usize = 512;

/// A37: a thread that reads the destination faults, or sees the whole page.
fn observed_moves(pages_per_move: usize, source: impl Fn(u32) -> anyhow::Result<Area>) -> Outcome {
    for round in rounds(TIME) {
        let seed = 1 + round * PAGES as u32;
        let src = source(seed)?;
        let dst = Map::bytes(src.len).align(pmd()).map()?;
        dst.mark()?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| -> Outcome {
            let observers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| observe(*dst, seed, &done)))
                .collect();
            let mut firsts = (0..src.nr_pages()).step_by(pages_per_move);
            let moved = firsts.try_for_each(|first| {
                let range = first..first + pages_per_move;
                remap_all(dst.pages(range.clone()), src.pages(range))
            });
            if moved.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            let observed = observers.into_iter().map(join).collect::<Vec<_>>();
            moved?;
            observed.into_iter().collect()
        })?;
    }
    Ok(())
}

/// A37: page by page.
fn a37_whole_pages_one_by_one() -> Outcome {
    observed_moves(1, |seed| Ok(Area::filled(PAGES, seed)?))
}

/// A37: in runs, for which translations are flushed once.
fn a37_whole_pages_in_runs() -> Outcome {
    observed_moves(64, |seed| Ok(Area::filled(PAGES, seed)?))
}

/// A37: as huge pages, and as folios of several pages.
fn a37_whole_large_folios() -> Outcome {
    observed_moves(pmd_pages(), |seed| huge_pages(1, seed))?;
    observed_moves(2 * folio_pages(), |seed| {
        pages_of_folios(folio_pages(), seed)
    })
}

/// A37, A40: where each page moves to the place of the one before, a thread that sees a page at its
/// new place sees none of those that have moved earlier at its old place.
fn a37_a40_overlap_downwards() -> Outcome {
    const PAGES: usize = 128;
    let area = Area::pages(PAGES)?;
    let at = |index: usize| area.page(index).load();
    let observe = |go: &AtomicBool, done: &AtomicBool| -> Outcome {
        while !go.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        while !done.load(Ordering::Relaxed) {
            for index in (2..PAGES - 2).rev().step_by(2) {
                // So the old translation is known.
                if at(index) != Ok(index as u8) {
                    continue;
                }
                (0..200).for_each(|_| std::hint::spin_loop());
                if at(index + 1) == Ok(index as u8 + 2) {
                    ensure!(at(index) != Ok(index as u8), "page {index} is there still");
                }
            }
        }
        Ok(())
    };
    area.mark()?;
    for _ in rounds(TIME) {
        area.advise(libc::MADV_DONTNEED)?;
        area.unmark()?;
        for index in 1..PAGES {
            ensure_eq!(area.page(index).store(index as u8), Ok(()));
        }
        area.mark()?;
        let (go, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| -> Outcome {
            let observer = scope.spawn(|| observe(&go, &done));
            go.store(true, Ordering::Relaxed);
            let moved = remap_all(area.pages(0..PAGES - 1), area.pages(1..PAGES));
            done.store(true, Ordering::Relaxed);
            join(observer)?;
            moved
        })?;
    }
    Ok(())
}

/// A37: what another thread stores to the source while the call runs is in the page, or is in a
/// fresh one; after the call has returned it never changes the page at the destination.
fn a37_no_store_through_the_source_afterwards() -> Outcome {
    let (dst, src) = (Area::pages(1)?, Area::pages(1)?);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| -> Outcome {
            let mut value = 0u8;
            while !done.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                ensure_eq!(src.store(value), Ok(()));
            }
            Ok(())
        });
        let observed = rounds(TIME).try_for_each(|round| -> Outcome {
            match remap(*dst, *src, 0) {
                Ok(_) => {
                    let seen = dst.load();
                    for _ in 0..50 {
                        ensure_eq!(dst.load(), seen, "round {round}: changed after the return");
                    }
                    dst.advise(libc::MADV_DONTNEED)?;
                }
                // The writer has not come to its next store yet.
                Err(Errno::ENOENT | Errno::EBUSY) => (),
                Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        join(writer)?;
        observed
    })
}

/// Runs two calls at once.
fn race(calls: [impl FnOnce() -> nix::Result<usize> + Send; 2]) -> [nix::Result<usize>; 2] {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        calls
            .map(|call| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    call()
                })
            })
            .map(|thread| thread.join().expect("no panic"))
    })
}

/// A39: of two threads with the same destination one gets EEXIST, and keeps its page.
fn a39_two_sources() -> Outcome {
    let sources = [Area::pages(1)?, Area::pages(1)?];
    for round in rounds(TIME) {
        let dst = Area::pages(1)?;
        let seeds = [2 * round + 1, 2 * round + 2];
        for (source, seed) in sources.iter().zip(seeds) {
            source.fill(seed);
        }
        let to = *dst;
        let results = race(
            sources
                .each_ref()
                .map(|source| move || remap(to, **source, 0)),
        );
        let winner = match results {
            [Ok(_), Err(Errno::EEXIST)] => 0,
            [Err(Errno::EEXIST), Ok(_)] => 1,
            results => anyhow::bail!("round {round}: {results:?}"),
        };
        dst.check(seeds[winner])?;
        ensure_holes(*sources[winner])?;
        sources[1 - winner].check(seeds[1 - winner])?;
    }
    Ok(())
}

/// A39: of two threads with the same source one gets ENOENT, and its destination stays a hole.
fn a39_two_destinations() -> Outcome {
    let src = Area::pages(1)?;
    for round in rounds(TIME) {
        let destinations = [Area::pages(1)?, Area::pages(1)?];
        src.fill(round + 1);
        let from = *src;
        let results = race(
            destinations
                .each_ref()
                .map(|dst| move || remap(**dst, from, 0)),
        );
        let winner = match results {
            [Ok(_), Err(Errno::ENOENT)] => 0,
            [Err(Errno::ENOENT), Ok(_)] => 1,
            results => anyhow::bail!("round {round}: {results:?}"),
        };
        destinations[winner].check(round + 1)?;
        ensure_holes(*destinations[1 - winner])?;
        ensure_holes(*src)?;
    }
    Ok(())
}

/// Moves to and fro between two areas by four threads, each part in turn: no deadlock, and every
/// page is somewhere, once.
fn opposite_directions(areas: [Area; 2], parts: &[Range<usize>]) -> Outcome {
    std::thread::scope(|scope| -> Outcome {
        let threads: Vec<_> = [(0, 1), (1, 0), (0, 1), (1, 0)]
            .into_iter()
            .map(|(from, to)| {
                let (src, dst) = (&areas[from], &areas[to]);
                scope.spawn(move || -> Outcome {
                    for round in rounds(TIME) {
                        let range = parts[round as usize % parts.len()].clone();
                        match remap(dst.pages(range.clone()), src.pages(range), 0) {
                            Ok(_) | Err(Errno::EEXIST | Errno::ENOENT) => (),
                            Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(join)
    })?;
    let there = [entries(*areas[0])?, entries(*areas[1])?];
    for (index, (first, second)) in there[0].iter().zip(&there[1]).enumerate() {
        ensure!(
            first.present() != second.present(),
            "page {index}: {first:x?}, {second:x?}"
        );
        let place = if first.present() {
            &areas[0]
        } else {
            &areas[1]
        };
        place.page(index).check(1 + index as u32)?;
    }
    Ok(())
}

/// A39: page by page, and a few at once.
fn a39_opposite_directions() -> Outcome {
    const PAGES: usize = 32;
    let part = |first: usize| first..(first + 1 + first % 3).min(PAGES);
    let parts: Vec<_> = (0..PAGES).map(part).collect();
    opposite_directions([Area::filled(PAGES, 1)?, Area::pages(PAGES)?], &parts)
}

/// A39: huge pages, whole for as long as nobody takes a part of them; then also in parts.
fn a39_opposite_directions_of_huge_pages() -> Outcome {
    let areas = || -> anyhow::Result<_> { Ok([huge_pages(2, 1)?, Map::huge_pages(2).map()?]) };
    let all = pmd_pages();
    let whole = [0..all, all..2 * all, 0..2 * all];
    let first = areas()?;
    let splits = Splits::now()?;
    opposite_directions(first, &whole).context("whole")?;
    splits.ensure_no_more()?;
    let parts = [0..all, all..2 * all, all - 12..all + 18];
    opposite_directions(areas()?, &parts).context("in parts")
}

/// A39: folios of several pages, whole and in parts.
fn a39_opposite_directions_of_folios() -> Outcome {
    let (all, folio) = (pmd_pages(), folio_pages());
    let areas = [pages_of_folios(folio, 1)?, Map::huge_pages(1).map()?];
    let some = all / 8;
    let parts = [
        0..folio,
        folio..3 * folio,
        all - 2 * folio..all,
        some..2 * some,
        some + 6..some + 11,
        0..all,
    ];
    opposite_directions(areas, &parts)
}

/// A39, A43: moves while vmas come, go and split around them, so that the locks change.
fn a39_moves_while_vmas_change() -> Outcome {
    const PAGES: usize = 16;
    let areas = [Area::filled(PAGES, 1)?, Area::pages(PAGES)?];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let disturber = scope.spawn(|| -> Outcome {
            while !done.load(Ordering::Relaxed) {
                drop(Area::pages(4)?);
                for area in &areas {
                    // The outer pages only: those of the moves stay in one vma.
                    area.page(0).advise(libc::MADV_DONTDUMP)?;
                    area.page(0).advise(libc::MADV_DODUMP)?;
                }
            }
            Ok(())
        });
        let moved = rounds(TIME).try_for_each(|round| {
            let (from, to) = (round as usize % 2, (round as usize + 1) % 2);
            let range = 1..PAGES;
            remap_all(areas[to].pages(range.clone()), areas[from].pages(range))
        });
        done.store(true, Ordering::Relaxed);
        join(disturber)?;
        moved
    })?;
    let moved = areas
        .iter()
        .find(|area| area.page(1).load() != Ok(0))
        .context("lost")?;
    moved.pages(1..PAGES).check_pages(2)
}

/// A39: who unmaps a part of the destination does not wait for the end of a long call, which ends
/// for it, whichever locks it takes.
fn a39_unmap_in_a_long_call() -> Outcome {
    for touched in [false, true] {
        let in_time = || -> anyhow::Result<bool> {
            let [src, dst] = many_zero_pages()?;
            if touched {
                // From then on it has an anon_vma.
                dst.page(0).fill(1);
                dst.advise(libc::MADV_DONTNEED)?;
            }
            let last = dst.page(dst.nr_pages() - 1);
            std::thread::scope(|scope| {
                let moving = scope.spawn(|| remap(*dst, *src, 0));
                while !entry(dst.page(0))?.present() {
                    ensure!(!moving.is_finished(), "nothing has moved");
                }
                last.unmap()?;
                let moved = moving
                    .join()
                    .expect("no panic")
                    .context("remap_anon_pages")?;
                Ok(moved < src.len)
            })
        };
        let seen = (0..20)
            .map(|_| in_time())
            .find(|seen| !matches!(seen, Ok(false)));
        ensure!(
            seen.context("it waits for the end of the call")??,
            "touched: {touched}"
        );
    }
    Ok(())
}

/// A39: an unmap of the destination meanwhile is EINVAL or a short count, and loses nothing else.
fn a39_unmap_meanwhile() -> Outcome {
    const PAGES: usize = 256;
    for round in rounds(TIME) {
        let (dst, src) = (Area::pages(PAGES)?, Area::filled(PAGES, 1)?);
        let barrier = Barrier::new(2);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                dst.unmap()
            });
            barrier.wait();
            remap(*dst, *src, 0)
        });
        let moved = match result {
            Ok(moved) => moved / page(),
            Err(Errno::EINVAL) => 0,
            Err(error) => anyhow::bail!("round {round}: {error}"),
        };
        ensure_holes(src.pages(0..moved))?;
        src.pages(moved..PAGES).check_pages(1 + moved as u32)?;
    }
    Ok(())
}

/// A39: threads that move different pages of a huge zero page all find theirs: none sees the moment
/// at which its entry is exchanged for a table.
fn a39_pieces_of_a_huge_zero_page() -> Outcome {
    for round in rounds(TIME) {
        let src = huge_zero_pages(1)?;
        let dst = Map::huge_pages(1).map()?;
        let barrier = Barrier::new(2);
        let half = |first: usize| {
            barrier.wait();
            (first..16).step_by(2).try_for_each(|index| -> Outcome {
                let moved = remap(dst.page(index), src.page(index), 0);
                ensure_eq!(moved, Ok(page()), "round {round}, page {index}");
                Ok(())
            })
        };
        std::thread::scope(|scope| -> Outcome {
            let other = scope.spawn(|| half(0));
            let results = [half(1), join(other)];
            results.into_iter().collect()
        })?;
    }
    Ok(())
}

/// A39: mremap between two page tables, and moves between the same two, both ways: they take the
/// locks of both, and neither waits for the other for ever.
fn a39_mremap_between_the_same_tables() -> Outcome {
    const PAGES: usize = 8;
    let around = Map::huge_pages(2).prot(libc::PROT_NONE).map()?;
    let table = around.pages(0..around.len / page() / 2).len / page();
    let part = |first: usize| -> anyhow::Result<Span> {
        let part = around.pages(first..first + PAGES);
        part.protect(crate::sys::RW)?;
        Ok(part)
    };
    let (vmas, moved) = (
        [part(1)?, around.pages(table + 1..table + 1 + PAGES)],
        [part(2 * PAGES)?, part(table + 2 * PAGES)?],
    );
    vmas[0].fill_pages(1);
    moved[0].fill_pages(100);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let mover = scope.spawn(|| -> Outcome {
            let mut at = 0;
            while !done.load(Ordering::Relaxed) {
                remap_all(moved[1 - at], moved[at])?;
                at = 1 - at;
            }
            moved[at].check_pages(100)
        });
        let mut at = 0;
        let result = rounds(TIME).try_for_each(|_| -> Outcome {
            let (old, new) = (vmas[at], vmas[1 - at]);
            // The old place stays mapped, or a new thread's stack may come there.
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
            ensure_eq!(old.mremap(old.len, flags, new.addr), Ok(new));
            at = 1 - at;
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        join(mover)?;
        result?;
        vmas[at].check_pages(1)
    })
}

register!(
    a37_whole_pages_one_by_one,
    a37_whole_pages_in_runs,
    a37_whole_large_folios,
    a37_a40_overlap_downwards,
    a37_no_store_through_the_source_afterwards,
    a39_two_sources,
    a39_two_destinations,
    a39_opposite_directions,
    a39_opposite_directions_of_huge_pages,
    a39_opposite_directions_of_folios,
    a39_moves_while_vmas_change,
    a39_unmap_in_a_long_call,
    a39_unmap_meanwhile,
    a39_pieces_of_a_huge_zero_page,
    a39_mremap_between_the_same_tables,
);
