// SPDX-License-Identifier: GPL-2.0

//! A run: entries of one page table that are to move to another, before anything is locked.

use crate::{
    mm::{
        anon::AnonRange,
        mmu_notifier::{
            InvalidateRange,
            RangeRoom, //
        },
        pgtable::{
            pmd_size,
            Pmd, //
        },
    },
    page::PAGE_MASK, //
};

/// Entries that are to move, as far as they lie in one slot of a pmd table on either side.
///
/// # Invariants
///
/// Both vmas are of one mm, and both slots map the `len` bytes from their first address on, which
/// are in their ranges. `len` is a multiple of the page size, and not 0.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub(super) dst: Pmd<'a>,
    pub(super) src: Pmd<'a>,
    pub(super) len: usize,
}

impl<'a> Run<'a> {
    /// Takes as much as both slots map of their ranges. `None` where that is less than a page, or
    /// the vmas are of two mms.
    #[inline(always)]
    pub fn new(dst: Pmd<'a>, src: Pmd<'a>) -> Option<Self> {
        let in_slot = |at: &Pmd<'_>| at.range.start() & (pmd_size() - 1);
        let slots = pmd_size() - in_slot(&dst).max(in_slot(&src));
        let len = slots.min(dst.range.size()).min(src.range.size()) & PAGE_MASK;
        // INVARIANT: Both slots map so much of their ranges.
        (len > 0 && dst.mm() == src.mm()).then_some(Self { dst, src, len })
    }

    /// The same for the slots of two ranges, where both have one. What they hold is not looked at.
    #[inline(always)]
    pub fn find(dst: AnonRange<'a>, src: AnonRange<'a>) -> Option<Self> {
        Self::new(dst.pmd()?, src.pmd()?)
    }

    /// Whether it is all that the slots map.
    #[inline]
    pub fn is_whole_slot(&self) -> bool {
        self.len == pmd_size()
    }

    /// Has secondary MMUs drop what they hold of the source, whose entries are about to be cleared.
    ///
    /// Does nothing where nobody listens. May sleep where somebody does, so no spinlock may be
    /// held. The vmas stay locked for as long as what is returned lives.
    #[inline(always)]
    pub fn notify(&'a self, room: &'a mut RangeRoom) -> Notified<'a> {
        let start = self.src.range.start();
        // INVARIANT: Secondary MMUs were just told.
        Notified {
            run: self,
            _range: InvalidateRange::clear(
                self.src.range.vma(),
                start..start.wrapping_add(self.len),
                room,
            ),
        }
    }
}

/// A run of whose source secondary MMUs hold no copy for as long as this lives.
///
/// # Invariants
///
/// `_range` is the source of `run`.
#[must_use = "secondary MMUs may copy the entries again when this is dropped"]
pub struct Notified<'a> {
    pub(super) run: &'a Run<'a>,
    _range: InvalidateRange<'a>,
}
