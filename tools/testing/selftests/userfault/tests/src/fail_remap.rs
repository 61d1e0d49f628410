// SPDX-License-Identifier: GPL-2.0

//! `remap_anon_pages` when an allocation fails: what has moved is all there, what has not is as it
//! was, and the rest can be moved later.

use crate::fail::{layout, room, Call, Expect, Forms, ENOMEM};
use crate::frame::Splits;
use crate::harness::Outcome;
use crate::proc::{entries, Entry};
use crate::range::Range;
use crate::special::{folio_pages, huge_pages, huge_zero_pages, pages_of_folios};
use crate::swap_short::ShortSwap;
use crate::sys::{page, pmd_pages, remap_raw, Area, Map, Span, RAP_ALLOW_SRC_HOLES, RAP_WAKE};
use crate::{ensure_eq, register, swap};
use anyhow::{ensure, Context};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

/// A move, and what lies in both ranges before it.
struct Move {
    dst: Span,
    src: Span,
    flags: u64,
    /// What is not a hole holds its number in the source, or zero.
    zero: bool,
    before: BTreeMap<usize, (usize, Entry)>,
    layouts: [Vec<BTreeSet<String>>; 2],
    _owners: Box<dyn Any>,
}

impl Move {
    fn new(owners: impl Any, dst: Span, src: Span, flags: u64) -> anyhow::Result<Self> {
        let mut before = BTreeMap::new();
        for (index, entry) in entries(src)?.into_iter().enumerate() {
            if !entry.hole() {
                before.insert(src.page(index).addr, (index, entry));
            }
        }
        Ok(Self {
            dst,
            src,
            flags,
            zero: false,
            before,
            layouts: [layout(dst)?, layout(src)?],
            _owners: Box::new(owners),
        })
    }
}

impl Call for Move {
    fn call(&self, done: usize) -> nix::Result<usize> {
        let (dst, src) = (self.dst.addr + done, self.src.addr + done);
        remap_raw(dst, src, self.src.len - done, self.flags)
    }

    fn all(&self) -> usize {
        self.src.len
    }

    fn check(&self, done: usize) -> Outcome {
        ensure_eq!(done % page(), 0);
        let mut want = self.before.clone();
        for index in 0..done / page() {
            if let Some(content) = want.remove(&self.src.page(index).addr) {
                want.insert(self.dst.page(index).addr, content);
            }
        }
        for span in [self.dst, self.src] {
            for (at, seen) in span.each_page().zip(entries(span)?) {
                let Some((index, before)) = want.get(&at.addr) else {
                    ensure!(seen.hole(), "{at:x?} is no hole: {seen:x?}");
                    continue;
                };
                if before.present() && !self.zero {
                    ensure_eq!(seen.pfn()?, before.pfn()?, "{at:x?}");
                } else {
                    ensure!(!seen.hole(), "{at:x?} is lost");
                }
                match self.zero {
                    true => at.check_zero()?,
                    false => at.check(1 + *index as u32)?,
                }
            }
        }
        ensure_eq!([layout(self.dst)?, layout(self.src)?], self.layouts);
        Ok(())
    }
}

/// Forms of the call: what becomes of an allocation that fails, and what makes the move.
type Table<'a> = [(&'a str, Expect, &'a dyn Fn() -> anyhow::Result<Move>)];

fn each(table: &Table<'_>) -> Outcome {
    let mut forms = Forms::new()?;
    for (name, expect, make) in table {
        forms.form(name, *expect, make)?;
    }
    forms.end()
}

/// Room where no table of any level is, in a vma that has been touched.
fn far(span_len: usize) -> anyhow::Result<(Area, Span)> {
    room(true, span_len)
}

/// The room, in a vma that was not.
fn untouched(half: usize) -> anyhow::Result<Area> {
    Ok(Map::bytes(2 * half).align(half).map()?)
}

/// A place that has a table, and so many pages of room in it.
fn near(pages: usize) -> anyhow::Result<(Area, Span)> {
    let area = Map::huge_pages(1).map()?;
    area.page(pages + 1).fill(1);
    let dst = area.pages(0..pages);
    Ok((area, dst))
}

/// A move of the whole of an area to a place far away.
fn to_far(src: Area, flags: u64) -> anyhow::Result<Move> {
    let (span, (area, dst)) = (*src, far(src.len)?);
    Move::new((src, area), dst, span, flags)
}

/// A22: small pages, holes, zero pages.
fn a22_each_allocation_of_small_pages() -> Outcome {
    each(&[
        ("to an untouched vma", ENOMEM, &|| {
            let (src, area) = (Area::filled(3, 1)?, untouched(1 << 30)?);
            let (from, to) = (*src, Span::new(area.addr + (1 << 30), src.len));
            Move::new((src, area), to, from, 0)
        }),
        ("to where no table is", ENOMEM, &|| {
            to_far(Area::filled(3, 1)?, 0)
        }),
        ("to where a table is", Expect::Nothing, &|| {
            let (src, (area, dst)) = (Area::filled(3, 1)?, near(3)?);
            let from = *src;
            Move::new((src, area), dst, from, 0)
        }),
        ("to two tables, of which one is missing", ENOMEM, &|| {
            let (src, area) = (Area::filled(8, 1)?, Map::huge_pages(2).map()?);
            area.page(0).fill(1);
            let (from, at) = (*src, pmd_pages() - 4);
            let to = area.pages(at..at + 8);
            Move::new((src, area), to, from, 0)
        }),
        ("holes only", Expect::Nothing, &|| {
            let (src, (area, dst)) = (Area::filled(5, 1)?, far(4 * page())?);
            src.pages(0..4).advise(libc::MADV_DONTNEED)?;
            let from = src.pages(0..4);
            Move::new((src, area), dst, from, RAP_ALLOW_SRC_HOLES)
        }),
        ("holes and pages", ENOMEM, &|| {
            let src = Area::filled(6, 1)?;
            for hole in [0, 3] {
                src.page(hole).advise(libc::MADV_DONTNEED)?;
            }
            to_far(src, RAP_ALLOW_SRC_HOLES)
        }),
        ("zero pages", ENOMEM, &|| {
            let src = Area::pages(3)?;
            src.check_zero()?;
            let zero = true;
            to_far(src, 0).map(|all| Move { zero, ..all })
        }),
        ("down, over itself", ENOMEM, &|| {
            let (area, at) = (Map::huge_pages(2).map()?, pmd_pages());
            let (to, from) = (area.pages(at - 2..at + 4), area.pages(at..at + 6));
            from.fill_pages(1);
            Move::new(area, to, from, 0)
        }),
        ("up, over what was a hole", ENOMEM, &|| {
            let (area, at) = (Map::huge_pages(2).map()?, pmd_pages());
            let (from, to) = (area.pages(at - 6..at), area.pages(at - 2..at + 4));
            from.page(2).fill(3);
            Move::new(area, to, from, RAP_ALLOW_SRC_HOLES)
        }),
        ("with a wake", Expect::Nothing, &|| {
            let (src, (area, dst)) = (Area::filled(3, 1)?, near(3)?);
            let (from, fd) = (*src, Range::serving(dst)?);
            Move::new((src, area, fd), dst, from, RAP_WAKE)
        }),
    ])
}

/// A33, A34: huge pages, whole and in part, and huge zero pages.
fn a33_each_allocation_of_huge_pages() -> Outcome {
    let all = pmd_pages();
    each(&[
        ("whole", ENOMEM, &|| to_far(huge_pages(1, 1)?, 0)),
        ("two", ENOMEM, &|| to_far(huge_pages(2, 1)?, 0)),
        ("whole, for an empty table", Expect::Nothing, &|| {
            let (src, dst) = (huge_pages(1, 1)?, Map::huge_pages(1).map()?);
            dst.page(0).fill(1);
            dst.page(0).advise(libc::MADV_DONTNEED)?;
            let (from, to) = (*src, *dst);
            Move::new((src, dst), to, from, 0)
        }),
        ("in part", ENOMEM, &|| {
            let (src, (area, dst)) = (huge_pages(1, 1)?, far(9 * page())?);
            let from = src.pages(0..9);
            Move::new((src, area), dst, from, 0)
        }),
        ("to two tables", ENOMEM, &|| {
            let (src, (area, dst)) = (huge_pages(1, 1)?, far(2 * all * page())?);
            let (from, to) = (*src, dst.pages(all / 2..all / 2 + all));
            Move::new((src, area), to, from, 0)
        }),
        ("the zero page, whole", ENOMEM, &|| {
            let zero = true;
            to_far(huge_zero_pages(1)?, 0).map(|all| Move { zero, ..all })
        }),
        ("the zero page, in part", ENOMEM, &|| {
            let (src, (area, dst)) = (huge_zero_pages(1)?, far(9 * page())?);
            let (from, zero) = (src.pages(0..9), true);
            Move::new((src, area), dst, from, 0).map(|all| Move { zero, ..all })
        }),
    ])
}

/// A26: folios of several pages: what is kept of the entries of a large one is allocated, and where
/// that fails it is split.
fn a26_each_allocation_of_folios() -> Outcome {
    let whole = |pages: usize| {
        move || {
            let (src, (area, dst)) = (pages_of_folios(pages, 1)?, near(pages)?);
            let from = src.pages(0..pages);
            Move::new((src, area), dst, from, 0)
        }
    };
    each(&[
        ("whole", Expect::Nothing, &whole(folio_pages())),
        ("in part", Expect::Nothing, &|| {
            let (src, (area, dst)) = (pages_of_folios(folio_pages(), 0)?, near(3)?);
            let from = src.pages(1..4);
            Move::new((src, area), dst, from, 0)
        }),
        ("to where no table is", ENOMEM, &|| {
            to_far(pages_of_folios(folio_pages(), 1)?, 0)
        }),
    ])?;
    if pmd_pages() > 256 {
        let splits = Splits::now()?;
        each(&[("large", Expect::Works, &whole(256))])?;
        ensure!(splits.ensure_no_more().is_err(), "none was split");
    }
    Ok(())
}

/// C4: pages in swap, alone, with the page in the swap cache, and with more than is asked for.
fn c4_each_allocation_of_swapped_pages() -> Outcome {
    each(&[
        ("in swap", ENOMEM, &|| {
            let src = Area::filled(3, 1)?;
            swap::out(*src)?;
            to_far(src, 0)
        }),
        ("in the swap cache", ENOMEM, &|| {
            let src = Area::filled(3, 1)?;
            swap::out_to_cache(*src)?;
            to_far(src, 0)
        }),
    ])?;
    let (short, folio) = (ShortSwap::new()?, folio_pages());
    each(&[("a part of a folio in the swap cache", ENOMEM, &|| {
        let (src, (area, dst)) = (pages_of_folios(folio, 1)?, far((folio - 1) * page())?);
        short.out_to_cache(src.pages(0..folio))?;
        let from = src.pages(0..folio - 1);
        Move::new((src, area), dst, from, 0).context("move")
    })])
}

register!(
    a22_each_allocation_of_small_pages,
    a33_each_allocation_of_huge_pages,
    a26_each_allocation_of_folios,
    c4_each_allocation_of_swapped_pages,
);
