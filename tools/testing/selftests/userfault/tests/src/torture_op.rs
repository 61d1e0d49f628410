// SPDX-License-Identifier: GPL-2.0

//! The operations of the torture test: which there are, and how often each is chosen.

use crate::harness::Numbers;
use crate::sys::{pmd_pages, RAP_ALLOW_SRC_HOLES, RAP_WAKE};
use crate::torture_area::{HUGE, LOCKED, MARKED, MERGEABLE, SERVED, WRITABLE};
use std::ops::Range;

/// How many areas a thread has, and how many huge pages each has room for.
pub const AREAS: usize = 4;
pub const HUGE_PAGES: usize = 2;

/// Some pages of one area.
#[derive(Clone, Debug)]
pub struct Part {
    pub area: usize,
    pub pages: Range<usize>,
}

/// One operation. Which it is depends on the seed alone.
#[derive(Clone, Debug)]
pub enum Op {
    Read(usize, usize),
    /// Write a number that no other page has, or one that many have.
    Write(usize, usize, bool),
    /// Move pages, to where in an area the first is to go.
    Move(Part, (usize, usize), u64),
    /// The same where the destination was emptied before.
    Receive(Part, (usize, usize), u64),
    /// A move with arguments that are wrong, by bits of the number.
    Wrong(Part, usize),
    Drop(Part),
    /// `MADV_FREE`, and a write to what may be gone.
    Free(Part),
    /// Pages get an attribute, or lose it.
    Change(Part, u8, bool),
    Guard(Part, bool),
    Wake(Part),
    Collapse(Part),
    /// `MADV_PAGEOUT` or `MADV_COLD`.
    Reclaim(Part, bool),
    Migrate(Part, i32),
    Relocate(usize),
    /// An area begins anew, with these attributes.
    Renew(usize, u8),
    /// A child, which looks and works on its own after so many milliseconds.
    Fork(u64),
    Audit(usize),
}

/// How often each is chosen, of all together; what they are follows in the same order below.
const WEIGHTS: [usize; 17] = [
    7000, 7000, 5000, 600, 60, 200, 40, 100, 60, 40, 10, 60, 20, 10, 20, 4, 6,
];

pub fn nr_pages() -> usize {
    HUGE_PAGES * pmd_pages()
}

fn part(numbers: &mut Numbers) -> Part {
    let area = numbers.below(AREAS);
    let longest = match numbers.below(16) {
        0 => nr_pages(),
        1..4 => 64,
        _ => 8,
    };
    let start = numbers.below(nr_pages());
    let end = start + 1 + numbers.below(longest);
    let pages = start..end.min(nr_pages());
    Part { area, pages }
}

/// A huge page, or the place of one.
fn huge(numbers: &mut Numbers) -> Part {
    let start = numbers.below(HUGE_PAGES) * pmd_pages();
    Part {
        area: numbers.below(AREAS),
        pages: start..start + pmd_pages(),
    }
}

/// Pages to be moved, and where they are to go.
fn way(numbers: &mut Numbers) -> (Part, (usize, usize)) {
    if numbers.below(64) == 0 {
        let dst = huge(numbers);
        return (huge(numbers), (dst.area, dst.pages.start));
    }
    let mut src = part(numbers);
    let area = numbers.below(AREAS);
    let start = match numbers.below(2) {
        0 => src.pages.start,
        _ => numbers.below(nr_pages()),
    };
    src.pages.end = src.pages.end.min(src.pages.start + nr_pages() - start);
    (src, (area, start))
}

fn flags(numbers: &mut Numbers) -> u64 {
    [
        0,
        0,
        RAP_ALLOW_SRC_HOLES,
        RAP_ALLOW_SRC_HOLES,
        RAP_WAKE,
        RAP_ALLOW_SRC_HOLES | RAP_WAKE,
    ][numbers.below(6)]
}

/// Attributes that a whole area may begin with.
fn attrs(numbers: &mut Numbers) -> u8 {
    let likely = [
        0,
        MARKED,
        MARKED,
        MARKED | SERVED,
        MARKED | SERVED,
        HUGE,
        HUGE,
        HUGE | MARKED,
        MERGEABLE,
        MERGEABLE | MARKED,
    ];
    likely[numbers.below(likely.len())]
}

/// One attribute, for all of an area or a part, since what differs in one cannot be moved at once.
fn change(numbers: &mut Numbers) -> Op {
    let likely = [
        MARKED, MARKED, SERVED, SERVED, WRITABLE, LOCKED, HUGE, MERGEABLE,
    ];
    let attr = likely[numbers.below(likely.len())];
    let mut what = part(numbers);
    if numbers.below(4) > 0 {
        what.pages = 0..nr_pages();
    }
    // Most memory is to be written to, and not to be locked.
    let on = match attr {
        WRITABLE => numbers.below(4) > 0,
        LOCKED => numbers.below(4) == 0,
        _ => numbers.below(2) == 0,
    };
    Op::Change(what, attr, on)
}

/// The next operation of a thread.
pub fn next(numbers: &mut Numbers) -> Op {
    let mut left = numbers.below(WEIGHTS.iter().sum());
    let mut kind = 0;
    while left >= WEIGHTS[kind] {
        left -= WEIGHTS[kind];
        kind += 1;
    }
    let area = numbers.below(AREAS);
    match kind {
        0 => Op::Read(area, numbers.below(nr_pages())),
        1 => Op::Write(area, numbers.below(nr_pages()), numbers.below(8) == 0),
        2 | 3 => {
            let ((src, dst), flags) = (way(numbers), flags(numbers));
            match kind {
                2 => Op::Move(src, dst, flags),
                _ => Op::Receive(src, dst, flags),
            }
        }
        4 => Op::Wrong(part(numbers), 1 + numbers.below(15)),
        5 => Op::Drop(part(numbers)),
        6 => Op::Free(part(numbers)),
        7 => change(numbers),
        8 => Op::Guard(part(numbers), numbers.below(2) == 0),
        9 => Op::Wake(part(numbers)),
        10 => Op::Collapse(huge(numbers)),
        11 => Op::Reclaim(part(numbers), numbers.below(4) > 0),
        12 => Op::Migrate(part(numbers), numbers.below(2) as i32),
        13 => Op::Relocate(area),
        14 => Op::Renew(area, attrs(numbers)),
        15 => Op::Fork(numbers.below(40) as u64),
        _ => Op::Audit(area),
    }
}
