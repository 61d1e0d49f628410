// SPDX-License-Identifier: GPL-2.0

//! Pages that are in swap and still, or again, in memory: the swap cache's folio moves along.
//!
//! If it did not, it would be mapped at the destination by the next touch, and reclaim, migration
//! and unmapping would look for it at the source.

use crate::frame::{self, in_swap_cache, is_large};
use crate::harness::Outcome;
use crate::proc::{ensure_holes, frames};
use crate::process::must_pass_in_child;
use crate::remap_args::{Key, PKEY_DISABLE_ACCESS};
use crate::remap_swap::{move_unread, swapped};
use crate::special::{folio_pages, huge_pages, pages_of_folios, pipe_with};
use crate::swap::{self, ensure_unread};
use crate::swap_short::ShortSwap;
use crate::sys::{page, pmd_pages, remap, remap_all, Area, Map, Span, RAP_ALLOW_SRC_HOLES, RW};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// Something that is done with pages, and its name.
type Use = (&'static str, fn(Span) -> Outcome);

/// What comes after a move must find the page at its new place.
const AFTERWARDS: [Use; 5] = [
    ("reclaim", |span| {
        span.check_pages(1)?;
        swap::out(span)?;
        span.check_pages(1)?;
        span.fill_pages(1);
        swap::out(span)
    }),
    ("reclaim without a touch", swap::out),
    ("migration", |span| {
        span.check_pages(1)?;
        frame::migrate(span)
    }),
    ("swapoff", |span| {
        let done = swap::off();
        let seen = crate::proc::ensure_present(span);
        swap::ensure_on()?;
        done.and(seen)
    }),
    ("fork", |span| {
        must_pass_in_child(|| {
            span.check_pages(1)?;
            span.fill_pages(9);
            span.check_pages(9)
        })?;
        span.check_pages(1)
    }),
];

/// C4: a page that was kept in the swap cache since somebody held it.
fn c4_swap_cache_folio() -> Outcome {
    for (name, then) in AFTERWARDS {
        let (dst, src) = (Area::pages(3)?, Area::filled(3, 1)?);
        let cached = swap::out_to_cache(*src)?;
        move_unread(*dst, *src).context(name)?;
        ensure_unread(|| dst.check_pages(1)).context(name)?;
        ensure_eq!(frames(*dst)?, cached, "not the swap cache's folios");
        swap::out_to_cache(*dst)?;
        move_unread(*src, *dst).context(name)?;
        then(*src).context(name)?;
        src.check_pages(1).context(name)?;
        ensure_holes(*dst)?;
    }
    Ok(())
}

/// C4: a page that was read back ahead of any touch.
fn c4_read_ahead_folio() -> Outcome {
    for (name, then) in AFTERWARDS {
        let (dst, src) = (Area::pages(3)?, swapped(3)?);
        swap::read_ahead(*src)?;
        move_unread(*dst, *src).context(name)?;
        then(*dst).context(name)?;
        dst.check_pages(1).context(name)?;
        ensure_holes(*src)?;
    }
    Ok(())
}

/// C4: in one vma, where only the folio's index changes.
fn c4_swap_cache_folio_in_one_vma() -> Outcome {
    let area = Area::pages(8)?;
    let (from, to) = (area.pages(0..3), area.pages(5..8));
    from.fill_pages(1);
    swap::out_to_cache(from)?;
    move_unread(to, from)?;
    to.check_pages(1)?;
    to.fill_pages(1);
    swap::out(to)?;
    to.check_pages(1)
}

/// C4: both vmas go, and with them what was in the swap cache.
fn c4_unmapped_after_the_move() -> Outcome {
    for read_ahead in [false, true] {
        let (dst, src) = (Area::pages(3)?, Area::filled(3, 1)?);
        if read_ahead {
            swap::out(*src)?;
            swap::read_ahead(*src)?;
        } else {
            swap::out_to_cache(*src)?;
        }
        move_unread(*dst, *src)?;
        drop(src);
        let before = crate::proc::status_kib("VmSwap")?;
        drop(dst);
        let after = crate::proc::status_kib("VmSwap")?;
        ensure_eq!(before - after, 3 * page() as u64 / 1024);
    }
    Ok(())
}

/// C4: while it is held, it moves or is EBUSY; neither loses anything.
fn c4_held_swap_cache_folio() -> Outcome {
    let (dst, src) = (Area::pages(1)?, Area::filled(1, 1)?);
    let pipe = pipe_with(*src)?;
    swap::out(*src)?;
    let place = match remap(*dst, *src, 0) {
        Ok(_) => dst,
        Err(Errno::EBUSY) => src,
        Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
    };
    place.check(1)?;
    ensure_eq!(pipe.bytes()?, place.bytes(), "in the pipe");
    swap::out(*place)?;
    place.check(1)
}

/// A large folio, its pages, and what makes it.
type Folio = (&'static str, fn() -> usize, fn() -> anyhow::Result<Area>);

const FOLIOS: [Folio; 2] = [
    ("a folio", folio_pages, || pages_of_folios(folio_pages(), 1)),
    ("a huge page", pmd_pages, || huge_pages(1, 1)),
];

/// C4: a large folio in the swap cache moves along where all of it moves to one table.
fn c4_large_folio_in_the_swap_cache() -> Outcome {
    let short = ShortSwap::new()?;
    let (all, mut whole) = (pmd_pages(), false);
    for (name, pages, make) in FOLIOS {
        let pages = pages();
        for (then_name, then) in AFTERWARDS {
            let (area, dst) = (make()?, Map::huge_pages(1).map()?);
            let at = (all - pages).min(5);
            let (from, to) = (area.pages(0..pages), dst.pages(at..at + pages));
            let cached = frames(from)?;
            short.out_to_cache(from)?;
            ensure!(in_swap_cache(cached[0])?, "{name}: not in the swap cache");
            whole |= is_large(cached[0])?;
            move_unread(to, from).context(name)?;
            ensure!(in_swap_cache(cached[0])?, "{name}: gone");
            ensure_unread(|| to.check_pages(1)).context(name)?;
            ensure_eq!(frames(to)?, cached, "{name}");
            then(to).with_context(|| format!("{name}, {then_name}"))?;
            to.check_pages(1)?;
            ensure_holes(from)?;
            area.pages(pages..all).check_pages(1 + pages as u32)?;
        }
    }
    swap::ensure_whole(whole)
}

/// C4: where a part of it is to move, it is mapped at the source first: nothing is lost of either.
fn c4_part_of_a_large_folio_in_the_swap_cache() -> Outcome {
    let short = ShortSwap::new()?;
    let (all, mut whole) = (pmd_pages(), false);
    for (name, pages, make) in FOLIOS {
        let pages = pages();
        let one = 8.min(pages / 2);
        let cases = [
            (0..pages - 1, 0),
            (3..9.min(pages - 1), 3),
            (5..pages, 5),
            (one..one + 1, one),
            // All of it, but to two tables.
            (0..pages, all - pages / 2),
        ];
        for (range, at) in cases {
            let (area, dst) = (make()?, Map::huge_pages(2).map()?);
            let (from, to) = (area.pages(range.clone()), dst.pages(at..at + range.len()));
            let cached = frames(area.pages(0..pages))?;
            short.out_to_cache(area.pages(0..pages))?;
            ensure!(in_swap_cache(cached[0])?, "{name}: not in the swap cache");
            whole |= is_large(cached[0])?;
            let what = || format!("{range:?} of {name} to {at}");
            ensure_unread(|| remap_all(to, from)).with_context(what)?;
            ensure_holes(from)?;
            to.check_pages(1 + range.start as u32).with_context(what)?;
            area.pages(0..range.start).check_pages(1)?;
            area.pages(range.end..all)
                .check_pages(1 + range.end as u32)?;
            swap::out(to).with_context(what)?;
            to.check_pages(1 + range.start as u32)?;
        }
    }
    swap::ensure_whole(whole)
}

/// C4, A25: a destination that is occupied where a page of the folio is to go: what lies before it
/// moves.
fn c4_a25_occupied_in_the_middle_of_a_folio() -> Outcome {
    let short = ShortSwap::new()?;
    let (all, mut whole) = (pmd_pages(), false);
    for (name, pages, make) in FOLIOS {
        let pages = pages();
        for at in [0, 1, 5, pages - 1] {
            let (area, dst) = (make()?, Map::huge_pages(1).map()?);
            let first = (all - pages).min(5);
            let (from, to) = (area.pages(0..pages), dst.pages(first..first + pages));
            let cached = frames(from)?;
            short.out_to_cache(from)?;
            whole |= is_large(cached[0])?;
            to.page(at).fill(500);
            if at > 0 {
                ensure_eq!(remap(to, from, 0), Ok(at * page()), "{name}, {at}");
            }
            let rest = at..pages;
            let seen = remap(to.pages(rest.clone()), from.pages(rest.clone()), 0);
            ensure_eq!(seen, Err(Errno::EEXIST), "{name}, {at}");
            to.page(at).check(500)?;
            to.pages(0..at).check_pages(1)?;
            ensure_holes(to.pages(at + 1..pages))?;
            from.pages(rest).check_pages(1 + at as u32)?;
        }
    }
    swap::ensure_whole(whole)
}

/// Moves half of a folio in the swap cache where `close` keeps this thread from reading, until
/// `open` lets it.
fn move_unreadable(close: impl Fn(Span) -> Outcome, open: impl Fn(Span) -> Outcome) -> Outcome {
    let (short, size) = (ShortSwap::new()?, folio_pages());
    let (area, dst) = (pages_of_folios(size, 1)?, Map::huge_pages(1).map()?);
    let (from, to) = (area.pages(0..size / 2), dst.pages(0..size / 2));
    let cached = frames(area.pages(0..size))?;
    short.out_to_cache(area.pages(0..size))?;
    let whole = is_large(cached[0])?;
    [*area, *dst].into_iter().try_for_each(&close)?;
    ensure_eq!(remap(to, from, 0), Ok(from.len));
    ensure_holes(from)?;
    open(*dst)?;
    to.check_pages(1)?;
    swap::ensure_whole(whole)
}

/// C4: so it is in memory that is for writing only.
fn c4_part_of_a_folio_that_cannot_be_read() -> Outcome {
    let protect = |prot| move |span: Span| Ok(span.protect(prot)?);
    move_unreadable(protect(libc::PROT_WRITE), protect(RW))
}

/// C4: and in memory whose protection key this thread has no rights for.
fn c4_part_of_a_folio_without_rights() -> Outcome {
    let key = Key::without(PKEY_DISABLE_ACCESS)?;
    move_unreadable(|span| key.protect(span), |span| Key::NONE.protect(span))
}

/// C4: pages in the swap cache, pages that are only in swap and holes in one call.
fn c4_some_in_the_swap_cache() -> Outcome {
    let (dst, src) = (Area::pages(12)?, swapped(9)?);
    swap::read_ahead(src.pages(1..2))?;
    swap::read_ahead(src.pages(4..6))?;
    src.pages(7..8).advise(libc::MADV_DONTNEED)?;
    let to = dst.pages(2..11);
    ensure_unread(|| {
        ensure_eq!(remap(to, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
        Ok(())
    })?;
    ensure_holes(*src)?;
    ensure_holes(to.page(7))?;
    to.pages(0..7).check_pages(1)?;
    to.page(8).check(9)
}

register!(
    c4_swap_cache_folio,
    c4_read_ahead_folio,
    c4_swap_cache_folio_in_one_vma,
    c4_unmapped_after_the_move,
    c4_held_swap_cache_folio,
    c4_large_folio_in_the_swap_cache,
    c4_part_of_a_large_folio_in_the_swap_cache,
    c4_a25_occupied_in_the_middle_of_a_folio,
    c4_part_of_a_folio_that_cannot_be_read,
    c4_part_of_a_folio_without_rights,
    c4_some_in_the_swap_cache,
);
