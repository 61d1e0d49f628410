// SPDX-License-Identifier: GPL-2.0

//! What the call returns: counts of what was moved, errors where nothing was, holes that count.

use crate::content::Content;
use crate::harness::{rounds, Outcome};
use crate::madvise_atomic::end_of;
use crate::proc::{ensure_holes, ensure_present, entries, entry, is_marked, status_kib};
use crate::process::Holder;
use crate::range::wait_until;
use crate::special::{huge_pages, many_zero_pages};
use crate::sys::{
    page, pmd, pmd_pages, remap, remap_all, remap_raw, upper_table, Area, Map, Span,
    RAP_ALLOW_SRC_HOLES,
};
use crate::touch::Fault;
use crate::{ensure_eq, register};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use proptest::prelude::{prop_oneof, Just};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

const TIB: usize = 1 << 40;

/// A30, A31: the bytes before an obstacle are moved and counted; the rest tells the reason.
fn a30_a31_short_count_then_the_reason() -> Outcome {
    const PAGES: usize = 6;
    for source in [Content::Hole, Content::Forked, Content::Guard] {
        let Err(reason) = source.moves(0) else {
            continue;
        };
        for at in [0, 1, 5] {
            let (dst, src) = (Area::pages(PAGES)?, Area::pages(PAGES)?);
            let _holder = source.put(src.page(at), 50)?;
            for (index, part) in src.each_page().enumerate() {
                if index != at {
                    part.fill(1 + index as u32);
                }
            }
            let what = format!("{source:?} at {at}");
            stops_at(*dst, *src, at, reason).context(what)?;
            src.pages(at + 1..PAGES).check_pages(2 + at as u32)?;
            source.check(src.page(at), 50)?;
        }
    }
    Ok(())
}

/// A30, A31: the same for an occupied destination.
fn a30_a31_short_count_then_eexist() -> Outcome {
    const PAGES: usize = 6;
    for at in [0, 1, 5] {
        let (dst, src) = (Area::pages(PAGES)?, Area::filled(PAGES, 1)?);
        dst.page(at).fill(50);
        stops_at(*dst, *src, at, Errno::EEXIST).with_context(|| format!("at {at}"))?;
        dst.page(at).check(50)?;
        src.pages(at..PAGES).check_pages(1 + at as u32)?;
    }
    Ok(())
}

/// Moving stops at page `at`: what is before it is moved, what is after it is not.
fn stops_at(dst: Span, src: Span, at: usize, reason: Errno) -> Outcome {
    let seen = remap(dst, src, 0);
    let want = if at == 0 {
        Err(reason)
    } else {
        Ok(at * page())
    };
    ensure_eq!(seen, want);
    dst.pages(0..at).check_pages(1)?;
    ensure_holes(src.pages(0..at))?;
    let end = src.nr_pages();
    ensure_holes(dst.pages(at + 1..end))?;
    let rest = remap(dst.pages(at..end), src.pages(at..end), 0);
    ensure_eq!(rest, Err(reason), "the rest");
    Ok(())
}

/// A30: full success returns the length, small or large, over several tables.
fn a30_length_on_success() -> Outcome {
    for count in [1, 2, 511, 512, 513, 1500] {
        let (dst, src) = (Area::pages(count)?, Area::filled(count, 1)?);
        ensure_eq!(remap(*dst, *src, 0), Ok(src.len), "{count} pages");
        dst.check_pages(1)?;
        ensure_holes(*src)?;
    }
    Ok(())
}

/// A29, A27: pages that are reclaimed and migrated meanwhile are waited for, not refused: all of
/// them move, in whatever state they are.
fn a29_never_eagain() -> Outcome {
    const PAGES: usize = 64;
    const TIME: Duration = Duration::from_secs(5);
    crate::swap::ensure_on()?;
    let areas = [Area::filled(PAGES, 1)?, Area::pages(PAGES)?];
    let compact = std::path::Path::new("/proc/sys/vm/compact_memory");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let disturber = scope.spawn(|| -> Outcome {
            while !done.load(Ordering::Relaxed) {
                for area in &areas {
                    area.advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")?;
                }
                if compact.exists() {
                    std::fs::write(compact, "1").context("compact_memory")?;
                }
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

/// A29: a fatal signal ends the call, however much is left to do: seen by who has the same memory,
/// and is not killed.
fn a29_fatal_signal() -> Outcome {
    for _ in 0..20 {
        let [src, dst] = many_zero_pages()?;
        let process = AtomicI32::new(0);
        let ended = std::thread::scope(|scope| -> anyhow::Result<WaitStatus> {
            let thread = scope.spawn(|| {
                end_of(|| {
                    process.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
                    remap(*dst, *src, 0).is_ok() as isize
                })
            });
            let begun = wait_until(|| Ok(entry(dst.page(0))?.present()));
            // It may be over by now.
            let _ = kill(
                Pid::from_raw(process.load(Ordering::SeqCst)),
                Signal::SIGKILL,
            );
            let ended = thread.join().expect("no panic")?;
            begun.map(|()| ended)
        })?;
        let present = |span: Span| -> anyhow::Result<usize> {
            Ok(entries(span)?
                .iter()
                .filter(|entry| entry.present())
                .count())
        };
        let (moved, left) = (present(*dst)?, present(*src)?);
        ensure_eq!(moved + left, src.nr_pages(), "{moved} moved, {left} left");
        if left > 0 {
            let killed = matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _));
            ensure!(killed, "{ended:?}");
            return Ok(());
        }
    }
    bail!("it never ended before all had moved")
}

/// A32: holes count as moved, and are holes afterwards: a touch raises SIGBUS.
fn a32_holes_count() -> Outcome {
    let (dst, src) = (Area::marked(8)?, Area::pages(8)?);
    let full = [1, 2, 5];
    full.iter()
        .for_each(|&index| src.page(index).fill(index as u32));
    ensure_eq!(
        remap(*dst, *src, 0),
        Err(Errno::ENOENT),
        "holes not allowed"
    );
    ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
    for (index, part) in dst.each_page().enumerate() {
        if full.contains(&index) {
            part.check(index as u32)?;
        } else {
            ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)), "page {index}");
            ensure_holes(part)?;
        }
    }
    ensure_holes(*src)?;
    ensure!(is_marked(*dst)?, "the mark is gone");
    Ok(())
}

/// A32: nothing but holes is success too, again and again.
fn a32_only_holes() -> Outcome {
    let (dst, src) = (Area::pages(1024)?, Area::pages(1024)?);
    for _ in 0..3 {
        ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
        ensure_eq!(remap(*src, *dst, RAP_ALLOW_SRC_HOLES), Ok(src.len));
    }
    ensure_holes(*dst)?;
    ensure_holes(*src)
}

/// A32, C14e: a terabyte with two pages in it: quick, and no table for the holes.
fn a32_terabyte_of_holes() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(10);
    let (src, dst) = (Map::bytes(TIB).map()?, Map::bytes(TIB).map()?);
    let places = [TIB / 3 / page() * page(), TIB - page()];
    let in_src = places.map(|place| Span::new(src.addr + place, page()));
    let in_dst = places.map(|place| Span::new(dst.addr + place, page()));
    in_src.iter().for_each(|part| part.fill(3));
    let tables = status_kib("VmPTE")?;
    let start = Instant::now();
    ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(TIB));
    ensure!(start.elapsed() < LIMIT, "it took {:?}", start.elapsed());
    for part in in_dst {
        part.check(3)?;
    }
    for part in in_src {
        ensure_holes(part)?;
    }
    // A table of each of three levels for each page, and one to spare.
    let grown = status_kib("VmPTE")?.saturating_sub(tables);
    ensure!(
        grown <= 7 * upper_table() as u64 / 1024,
        "tables have grown by {grown} KiB"
    );
    Ok(())
}

/// A32: a page in the destination is seen, however far in the holes it lies.
fn a32_occupied_destination_far_in_holes() -> Outcome {
    let (src, dst) = (Map::bytes(TIB).map()?, Map::bytes(TIB).map()?);
    for place in [
        TIB / 2 + 3 * page(),
        TIB / 2,
        TIB / 5 / pmd() * pmd() + pmd() - page(),
    ] {
        let (before, rest) = (Span::new(dst.addr, place), TIB - place);
        let obstacle = Span::new(before.end(), page());
        obstacle.fill(9);
        ensure_eq!(
            remap(*dst, *src, RAP_ALLOW_SRC_HOLES),
            Ok(place),
            "{place:#x}"
        );
        let seen = remap_raw(before.end(), src.addr + place, rest, RAP_ALLOW_SRC_HOLES);
        ensure_eq!(seen, Err(Errno::EEXIST), "the rest from {place:#x}");
        obstacle.check(9)?;
    }
    Ok(())
}

/// A32: holes are stepped over as far as both sides have them, though their tables do not begin at
/// the same place: no page is passed over, of the source or of the destination.
fn a32_tables_that_begin_elsewhere() -> Outcome {
    let (n, all) = (pmd_pages() / 8, pmd_pages());
    // Around the border of two tables, in the middle of one, and from the beginning of one.
    let (around, middle, first) = (all - n..all + n, n..3 * n, 0..2 * n);
    let areas = || -> anyhow::Result<[Area; 2]> {
        Ok([Map::huge_pages(2).map()?, Map::huge_pages(2).map()?])
    };
    for (to, dst_has_table) in [(&middle, true), (&middle, false), (&first, false)] {
        let [dst, src] = areas()?;
        let (to, from) = (dst.pages(to.clone()), src.pages(around.clone()));
        src.pages(all..all + n).fill_pages(1);
        if dst_has_table {
            dst.page(all - 1).fill(9);
        }
        ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Ok(from.len));
        ensure_holes(to.pages(0..n))?;
        to.pages(n..2 * n).check_pages(1)?;
        ensure_holes(from)?;
    }
    for (from, src_has_table) in [(&middle, true), (&middle, false), (&first, false)] {
        let [dst, src] = areas()?;
        let (to, from) = (dst.pages(around.clone()), src.pages(from.clone()));
        let at = n + n / 2;
        to.page(at).fill(7);
        if src_has_table {
            src.page(all - 1).fill(9);
        }
        ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Ok(at * page()));
        let (to, from) = (to.pages(at..2 * n), from.pages(at..2 * n));
        ensure_eq!(remap(to, from, RAP_ALLOW_SRC_HOLES), Err(Errno::EEXIST));
        to.page(0).check(7)?;
    }
    Ok(())
}

/// A32: huge pages at the destination are seen too, and source tables without pages are holes.
fn a32_tables_without_pages() -> Outcome {
    let src = Map::huge_pages(4).map()?;
    for index in 0..4 {
        src.page(index * pmd_pages()).fill(1);
    }
    src.advise(libc::MADV_DONTNEED)?;
    let dst = Map::huge_pages(4).map()?;
    ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
    let huge = huge_pages(1, 1)?;
    let part = Span::new(src.addr, huge.len);
    ensure_eq!(remap(*huge, part, RAP_ALLOW_SRC_HOLES), Err(Errno::EEXIST));
    huge.check_pages(1)
}

/// A38: the source is a hole: a touch gets a fresh zero page, or SIGBUS where it is marked.
fn a38_source_is_a_hole() -> Outcome {
    let (dst, src) = (Area::pages(4)?, Area::filled(4, 1)?);
    remap_all(*dst, *src)?;
    ensure_holes(*src)?;
    src.check_zero()?;
    src.fill_pages(9);
    dst.check_pages(1)?;

    let (dst, src) = (Area::pages(2)?, Area::filled(2, 1)?);
    src.mark()?;
    remap_all(*dst, *src)?;
    ensure_eq!(src.load(), Err(Fault::sigbus(src.addr)));
    ensure_eq!(src.store(1), Err(Fault::sigbus(src.addr)));
    ensure_holes(*src)
}

/// A38: one source serves for one page after the other, as a buffer that is received into.
fn a38_source_is_used_again() -> Outcome {
    const PAGES: usize = 64;
    let (dst, buffer) = (Area::marked(PAGES)?, Area::pages(1)?);
    for (seed, part) in (1..).zip(dst.each_page()) {
        buffer.fill(seed);
        remap_all(part, *buffer)?;
        ensure_holes(*buffer)?;
    }
    dst.check_pages(1)?;
    ensure_present(*dst)
}

/// A25 to A32: whatever lies on both sides, the result is what the rules make of it, page by page.
fn a25_to_a32_any_layout() -> Outcome {
    let swapped = match crate::swap::ensure_on() {
        Ok(()) => 1,
        Err(_) => 0,
    };
    let any = |holes, pages| {
        prop_oneof![
            holes => Just(Content::Hole),
            pages => Just(Content::Page),
            1 => Just(Content::ZeroPage),
            1 => Just(Content::Forked),
            swapped => Just(Content::Swapped),
            1 => Just(Content::Guard),
        ]
    };
    let sides = proptest::collection::vec((any(12, 1), any(4, 8)), 1..10);
    let layout = (sides, prop_oneof![Just(0), Just(RAP_ALLOW_SRC_HOLES)]);
    let config = Config {
        cases: 48,
        max_shrink_iters: 100,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&layout, |(sides, flags)| {
            follows_the_rules(&sides, flags)
                .map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Lays out pages of `(destination, source)`, moves, and compares with the rules.
fn follows_the_rules(sides: &[(Content, Content)], flags: u64) -> Outcome {
    const SRC_SEED: u32 = 1000;
    let (dst, src) = (Area::pages(sides.len())?, Area::pages(sides.len())?);
    let places = || {
        (0..).zip(sides).flat_map(|(index, (at_dst, at_src))| {
            let place = index as usize;
            [
                (*at_dst, dst.page(place), index),
                (*at_src, src.page(place), SRC_SEED + index),
            ]
        })
    };
    // One child for all, before there is anything that it must not share.
    places()
        .filter(|(content, ..)| *content == Content::Forked)
        .for_each(|(_, part, seed)| part.fill(seed));
    let _holder = Holder::fork()?;
    for (content, part, seed) in places() {
        if content != Content::Forked {
            content.put(part, seed)?;
        }
    }

    let stop = sides
        .iter()
        .enumerate()
        .find_map(|(index, (at_dst, at_src))| {
            let reason = match at_dst {
                Content::Hole => at_src.moves(flags).err()?,
                _ => Errno::EEXIST,
            };
            Some((index, reason))
        });
    let (moved, want) = match stop {
        None => (sides.len(), Ok(src.len)),
        Some((0, reason)) => (0, Err(reason)),
        Some((index, _)) => (index, Ok(index * page())),
    };
    ensure_eq!(remap(*dst, *src, flags), want);
    for ((index, (at_dst, at_src)), seed) in sides.iter().enumerate().zip(SRC_SEED..) {
        if index < moved {
            at_src
                .check(dst.page(index), seed)
                .with_context(|| format!("moved page {index}"))?;
            ensure_holes(src.page(index))?;
        } else {
            let own_seed = index as u32;
            at_dst
                .check(dst.page(index), own_seed)
                .with_context(|| format!("dst {index}"))?;
            at_src
                .check(src.page(index), seed)
                .with_context(|| format!("src {index}"))?;
        }
    }
    Ok(())
}

register!(
    a25_to_a32_any_layout,
    a29_never_eagain,
    a29_fatal_signal,
    a30_a31_short_count_then_the_reason,
    a30_a31_short_count_then_eexist,
    a30_length_on_success,
    a32_holes_count,
    a32_only_holes,
    a32_terabyte_of_holes,
    a32_occupied_destination_far_in_holes,
    a32_tables_without_pages,
    a32_tables_that_begin_elsewhere,
    a38_source_is_a_hole,
    a38_source_is_used_again,
);
