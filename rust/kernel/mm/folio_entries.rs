// SPDX-License-Identifier: GPL-2.0

//! The entries for a folio of several pages, which move as one.
//!
//! A folio that is mapped page by page can move whole where the entries that map it follow each
//! other in one table, and nothing else maps a page of it. Its place need not be aligned to its
//! size: the reverse mapping goes by the index of its first page.

use crate::{
    alloc::{
        flags,
        KVec, //
    },
    bindings,
    mm::{
        anon::AnonRmap,
        folio::{
            Folio,
            LockedFolio, //
        },
        moving::{
            Exclusive,
            Unit, //
        },
        pgtable::is_exclusive,
        pte_pair::PtePair, //
    },
    sync::aref::ARef,
};
use core::mem::MaybeUninit;

/// Up to how many pages of a folio nothing is allocated.
const FEW: usize = 64;

/// The room for what the entries of a folio held while it is on its way.
pub struct FolioRoom([MaybeUninit<bindings::pte_t>; FEW]);

impl FolioRoom {
    /// Makes room. Costs nothing.
    #[inline(always)]
    pub const fn new() -> Self {
        Self([MaybeUninit::uninit(); FEW])
    }
}

impl Default for FolioRoom {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

/// A page of a folio of several pages, at the source, mapped there and nowhere else.
///
/// # Invariants
///
/// The pair stands at an entry of the source that maps the page frame `pfn` of `folio` exclusively,
/// and one of the destination that is none, to which `rmap` leads.
pub struct FolioPart<'p, 'a> {
    pub(super) pair: &'p mut PtePair<'a>,
    pub(super) folio: &'p Folio,
    pub(super) pfn: usize,
    pub(super) rmap: AnonRmap,
}

impl<'p, 'a> FolioPart<'p, 'a> {
    /// The folio that the page is part of.
    #[inline]
    pub fn folio(&self) -> &'p Folio {
        self.folio
    }

    /// All of the folio, if the page is its first, and all its pages are mapped at the source from
    /// there on, one after the other and nowhere else, and the destination holds nothing in their
    /// place; else the page again. Does not sleep.
    pub fn whole(self) -> Result<Exclusive<'p, FolioEntries<'p, 'a>>, Self> {
        let nr = self.folio.nr_pages();
        let many = match self.is_whole(nr) {
            false => None,
            true if nr <= FEW => Some(KVec::new()),
            true => KVec::with_capacity(nr, flags::GFP_NOWAIT | flags::__GFP_NOWARN).ok(),
        };
        let Some(many) = many else {
            return Err(self);
        };
        // INVARIANT: Just looked, with the entries locked; and there is room for `nr` of them.
        let entries = FolioEntries {
            pair: self.pair,
            pfn: self.pfn,
            nr,
            rmap: self.rmap,
            many,
        };
        // SAFETY: As above: the entries map the whole folio, exclusively.
        Ok(unsafe { Exclusive::new(self.folio, entries) })
    }

    fn is_whole(&self, nr: usize) -> bool {
        // SAFETY: The folio is valid.
        let first = unsafe { bindings::folio_pfn(self.folio.as_ptr()) } as usize;
        self.pfn == first
            && nr <= self.pair.left()
            && self.folio.mapcount() == nr
            && (0..nr).all(|i| self.pair.dst_entry(i).is_none() && self.maps(i))
    }

    /// Whether the entry that is so many `ahead` maps the page that is so many behind this one,
    /// exclusively.
    fn maps(&self, ahead: usize) -> bool {
        let src = self.pair.src_entry(ahead);
        // SAFETY: The first looks at a value. Where it is this frame, the entry, which is locked,
        // maps an anonymous page, so that there is a `struct page`.
        unsafe {
            src.is_page()
                && bindings::pte_pfn(src.0) as usize == self.pfn + ahead
                && is_exclusive(bindings::pfn_to_page(self.pfn + ahead))
        }
    }

    /// Locks the folio, so that it can be split, by trying; else returns a reference to it. Does
    /// not sleep. What is returned outlives the pair.
    pub fn lock_for_split(self) -> Result<LockedFolio, ARef<Folio>> {
        match self.folio.try_lock() {
            Some(lock) => Ok(lock.into()),
            None => Err(self.folio.into()),
        }
    }
}

/// The entries for all pages of a folio.
///
/// # Invariants
///
/// The pair has `nr` pages left. Its entries at the source map the `nr` page frames from `pfn` on,
/// all of a folio, exclusively. Those of the destination are none, and `rmap` leads to the first.
/// Where `nr` is more than `FEW`, `many` has a capacity of `nr`.
pub struct FolioEntries<'p, 'a> {
    pair: &'p mut PtePair<'a>,
    pfn: usize,
    nr: usize,
    rmap: AnonRmap,
    many: KVec<bindings::pte_t>,
}

impl FolioEntries<'_, '_> {
    /// Where what the entries held is kept.
    fn room(&mut self) -> &mut [MaybeUninit<bindings::pte_t>] {
        match self.nr <= FEW {
            true => &mut self.pair.room.0,
            false => self.many.spare_capacity_mut(),
        }
    }
}

// SAFETY: The type invariants, and those of `PtePair`, say it.
unsafe impl Unit for FolioEntries<'_, '_> {
    type Old = ();

    fn clear(&mut self) {
        for i in 0..self.nr {
            let old = self.pair.clear_src(i);
            self.room()[i].write(old);
        }
    }

    #[cold]
    fn restore(&mut self, _old: &()) {
        for i in 0..self.nr {
            // SAFETY: `clear` has written it.
            let old = unsafe { self.room()[i].assume_init() };
            self.pair.restore_src(i, old);
        }
    }

    #[inline]
    fn rmap(&self) -> AnonRmap {
        self.rmap
    }

    unsafe fn set(self, _folio: &Folio) {
        // SAFETY: The caller promises that the entries were cleared and the reverse mapping
        // changed.
        unsafe { self.pair.map_dst(self.pfn, self.nr) };
    }
}
