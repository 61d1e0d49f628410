// SPDX-License-Identifier: GPL-2.0

//! Two pte tables under their locks, and pages that move from one to the other.
//!
//! A [`PtePair`] stands at an entry of the destination and one of the source, and goes on to the
//! next of both. What it hands out is shaped so that a page is never lost or mapped twice: see
//! [`moving`](super::moving) for pages that are mapped, and `swap_entry` for those in swap.
//!
//! Among page tables there is no order that all of the kernel keeps: mremap(2) takes the lock of
//! the old one first, and is not excluded by the read lock of a vma that shares a table with what
//! it moves. So the second lock is only tried, and if it is taken, the first is let go of before it
//! is waited for. Both tables may be one.
//!
//! The TLB is flushed once, when the pair is dropped, before the locks are: between the change of
//! an entry and the flush a thread may still use the source's old entry, and whoever needs an end
//! to that waits for the locks.
//!
//! C header: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)

use crate::{
    bindings,
    mm::{
        anon::AnonRmap,
        folio::Folio,
        folio_entries::{
            FolioPart,
            FolioRoom, //
        },
        moving::{
            Exclusive,
            Unit, //
        },
        pgtable::{
            is_exclusive,
            lock_two,
            unlock_two,
            Pmd,
            Pte,
            PteKind, //
        },
        run::Notified,
        virt::VmaRef, //
    },
    page::PAGE_SHIFT,
    sync::rcu, //
};
use core::marker::PhantomData;

/// Two pte tables under their locks.
///
/// # Invariants
///
/// - The `pages` entries from `dst.pte` and `src.pte` on are mapped, each in one table, and are
///   those for the addresses from `dst.address` and `src.address` on, which lie in their vmas,
///   which are locked and of one mm. `at` is not more than `pages`.
/// - Both `ptl` are held, once if they are the same, and lazy MMU mode is on.
/// - Secondary MMUs were told of all source entries. The RCU read lock is held.
/// - Where `moved`, the source entries before `at` may still be in TLBs; else none that was changed
///   is.
/// - `rmap` leads to `dst.address`. `template` is the entry that a page gets at the destination,
///   for the page frame 0.
pub struct PtePair<'a> {
    pub(super) dst: Side<'a>,
    pub(super) src: Side<'a>,
    pages: usize,
    at: usize,
    moved: bool,
    rmap: AnonRmap,
    template: bindings::pte_t,
    pub(super) room: &'a mut FolioRoom,
    _notified: PhantomData<&'a Notified<'a>>,
    _rcu: rcu::Guard,
}

/// One of the two tables.
pub(super) struct Side<'a> {
    pub(super) vma: &'a VmaRef,
    address: usize,
    pte: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
}

/// Maps the pte table of a slot, as `pte_offset_map_rw_nolock()` does: returns it together with
/// what the slot holds. `None` where it holds something else.
///
/// It stays mapped while the RCU read lock is held, which is all that it takes on 64-bit.
#[inline(always)]
fn map<'a>(at: &Pmd<'a>, _rcu: &rcu::Guard) -> Option<(Side<'a>, bindings::pmd_t)> {
    // SAFETY: The slot is valid by the type invariants of `Pmd`. A table that it names is freed
    // only after the RCU read lock is let go of.
    unsafe {
        let mut val = bindings::pmdp_get_lockless(at.pmd);
        if bindings::pmd_leaf(val) || bindings::pmd_present(val) == 0 {
            return None;
        }
        if bindings::pmd_bad(val) != 0 {
            return None;
        }
        let side = Side {
            vma: at.range.vma(),
            address: at.range.start(),
            pte: bindings::__pte_map(&mut val, at.range.start()),
            ptl: bindings::pte_lockptr(at.mm(), &mut val),
        };
        Some((side, val))
    }
}

/// Whether the slot still names the table that was mapped when it held `val`, once the table's lock
/// is held.
#[inline(always)]
fn is_current(at: &Pmd<'_>, val: bindings::pmd_t) -> bool {
    // SAFETY: The slot is valid by the type invariants of `Pmd`.
    unsafe { bindings::pmd_same(val, bindings::pmdp_get_lockless(at.pmd)) != 0 }
}

/// Makes the entry that a page gets which is mapped nowhere else: it depends on the vma alone.
#[inline(always)]
fn template(vma: &VmaRef) -> bindings::pte_t {
    // SAFETY: These functions look at a value.
    let pte = unsafe {
        let pte = bindings::pte_mkyoung(bindings::pfn_pte(0, vma.page_prot()));
        match vma.is_writable() {
            // The vma is no shadow stack.
            true => bindings::pte_mkdirty(bindings::pte_mkwrite_novma(pte)),
            false => bindings::pte_mkdirty(pte),
        }
    };
    finish(vma, pte)
}

/// Marks what moved for those who look for changes, and for a userfaultfd that wants to see the
/// next access.
#[inline(always)]
fn finish(vma: &VmaRef, mut pte: bindings::pte_t) -> bindings::pte_t {
    // SAFETY: These functions look at a value, and at the vma, which is valid and locked.
    unsafe {
        if bindings::pgtable_supports_soft_dirty() {
            pte = bindings::pte_mksoft_dirty(pte);
        }
        if bindings::userfaultfd_rwp(vma.as_ptr()) {
            pte = bindings::pte_mkuffd(bindings::pte_modify(pte, bindings::PAGE_NONE()));
        }
    }
    pte
}

impl<'a> PtePair<'a> {
    /// Maps and locks the tables of a run, and does `work` with them.
    ///
    /// Returns `None` where one of the slots names no table, and where the destination's vma has no
    /// anon_vma. The locks are spinlocks: `work` may not sleep until it drops the pair. The caller
    /// holds no page-table lock.
    #[inline(always)]
    pub fn with<R>(
        notified: &'a Notified<'_>,
        room: &'a mut FolioRoom,
        work: impl FnOnce(Self) -> R,
    ) -> Option<R> {
        let run = notified.run;
        let rmap = run.dst.range.rmap()?;
        let rcu = rcu::read_lock();
        let (dst, dst_val) = map(&run.dst, &rcu)?;
        let (src, src_val) = map(&run.src, &rcu)?;
        let mm = dst.vma.mm().as_raw();
        let end = src.address.wrapping_add(run.len);
        // SAFETY: The vma is valid and locked. Both locks live as long as their tables are mapped.
        unsafe {
            bindings::flush_cache_range(src.vma.as_ptr(), src.address, end);
            lock_two(dst.ptl, src.ptl);
        }
        if !is_current(&run.dst, dst_val) || !is_current(&run.src, src_val) {
            // SAFETY: The locks were just taken.
            unsafe { unlock_two(dst.ptl, src.ptl) };
            return None;
        }
        // SAFETY: `drop` has the counterpart of the first. The mm is valid, and a lock of one of
        // its page tables is held, as the second asks: reclaim may have emptied a destination entry
        // (of MADV_FREE memory) and not have flushed it yet, and a thread must not go on reading
        // the old page where the new one is.
        unsafe {
            bindings::lazy_mmu_mode_enable();
            if bindings::mm_tlb_flush_batched(mm) {
                bindings::flush_tlb_batched_pending(mm);
            }
        }
        // INVARIANT: The entries of the whole run are mapped, and both tables are in use under
        // their locks.
        let pair = Self {
            pages: run.len >> PAGE_SHIFT,
            at: 0,
            moved: false,
            rmap,
            template: template(dst.vma),
            dst,
            src,
            room,
            _notified: PhantomData,
            _rcu: rcu,
        };
        Some(work(pair))
    }

    /// The pair of entries that it stands at; `None` at the end.
    ///
    /// What is done with the pair of entries makes this stand behind them. Where it is dropped
    /// instead, both entries stay as they are and come again.
    #[inline]
    pub fn current(&mut self) -> Option<EntryPair<'_, 'a>> {
        if self.at == self.pages {
            return None;
        }
        // INVARIANT: There is a page left, and the entries are read under their locks.
        Some(EntryPair {
            dst: self.dst_entry(0),
            src: self.src_entry(0),
            pair: self,
        })
    }

    /// How many pages are left.
    #[inline]
    pub(super) fn left(&self) -> usize {
        self.pages - self.at
    }

    /// How much is done with, in bytes.
    #[inline]
    pub fn done(&self) -> usize {
        self.at << PAGE_SHIFT
    }

    /// Goes on, behind entries that are done with and of which nothing has to be flushed. Not more
    /// than are left.
    #[inline]
    pub(super) fn skip(&mut self, pages: usize) {
        // INVARIANT: `at` is not more than `pages`.
        self.at = self.at.wrapping_add(pages).min(self.pages);
    }

    /// Goes on, behind entries whose old values at the source have to be flushed.
    #[inline]
    fn moved(&mut self, pages: usize) {
        self.moved = true;
        self.skip(pages);
    }

    /// The destination's entry, `ahead` of where the pair stands. Less than are left.
    #[inline]
    pub(super) fn dst_entry(&self, ahead: usize) -> Pte {
        // SAFETY: The entry is mapped: the type invariants and what the caller promises.
        Pte(unsafe { bindings::ptep_get(self.dst.pte.add(self.at + ahead)) })
    }

    /// The source's entry, likewise.
    #[inline]
    pub(super) fn src_entry(&self, ahead: usize) -> Pte {
        // SAFETY: As above.
        Pte(unsafe { bindings::ptep_get(self.src.pte.add(self.at + ahead)) })
    }

    /// What leads from a folio to the destination where the pair stands.
    #[inline]
    pub(super) fn rmap(&self) -> AnonRmap {
        self.rmap.advance(self.at)
    }

    /// The destination's address that the pair stands at, in bytes.
    #[inline]
    pub(super) fn dst_address(&self) -> usize {
        self.dst.address.wrapping_add(self.done())
    }

    /// The source's address, likewise.
    #[inline]
    fn src_address(&self) -> usize {
        self.src.address.wrapping_add(self.done())
    }

    /// Takes an entry out of the source, `ahead` of where the pair stands, and returns what it
    /// held. Less than are left.
    #[inline]
    pub(super) fn clear_src(&mut self, ahead: usize) -> bindings::pte_t {
        let address = self.src_address().wrapping_add(ahead << PAGE_SHIFT);
        // SAFETY: The entry is mapped and locked, and secondary MMUs were told.
        unsafe {
            bindings::ptep_get_and_clear(
                self.src.vma.mm().as_raw(),
                address,
                self.src.pte.add(self.at + ahead),
            )
        }
    }

    /// Puts back what [`clear_src`](Self::clear_src) took out.
    #[inline]
    pub(super) fn restore_src(&mut self, ahead: usize, pte: bindings::pte_t) {
        let address = self.src_address().wrapping_add(ahead << PAGE_SHIFT);
        // SAFETY: The entry is mapped and locked, and what it held maps the same as before.
        unsafe {
            bindings::set_pte_at(
                self.src.vma.mm().as_raw(),
                address,
                self.src.pte.add(self.at + ahead),
                pte,
            )
        }
    }

    /// Fills an entry of the destination, `ahead` of where the pair stands, with one that maps no
    /// folio. Less than are left.
    ///
    /// # Safety
    ///
    /// The entry must be none, and `pte` made from what was taken out of the source.
    #[inline]
    pub(super) unsafe fn set_dst(&mut self, ahead: usize, pte: bindings::pte_t) {
        let address = self.dst_address().wrapping_add(ahead << PAGE_SHIFT);
        // SAFETY: The entry is mapped and locked; the caller promises the rest.
        unsafe {
            bindings::set_pte_at(
                self.dst.vma.mm().as_raw(),
                address,
                self.dst.pte.add(self.at + ahead),
                pte,
            )
        };
    }

    /// Maps `pages` pages from the page frame `pfn` on at the destination, and goes on. Not more
    /// than are left.
    ///
    /// # Safety
    ///
    /// The entries must be none, the pages those of one folio that `clear_src` took out of the
    /// source, and its reverse mapping must lead to where the pair stands.
    #[inline]
    pub(super) unsafe fn map_dst(&mut self, pfn: usize, pages: usize) {
        // SAFETY: The entries are mapped and locked; the caller promises the rest.
        unsafe {
            bindings::set_ptes(
                self.dst.vma.mm().as_raw(),
                self.dst_address(),
                self.dst.pte.add(self.at),
                bindings::pte_advance_pfn(self.template, pfn),
                pages as u32,
            )
        };
        self.moved(pages);
    }
}

impl Drop for PtePair<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `with` turned lazy MMU mode on and took the locks; the vma is locked.
        unsafe {
            bindings::lazy_mmu_mode_disable();
            if self.moved {
                bindings::flush_tlb_range(
                    self.src.vma.as_ptr(),
                    self.src.address,
                    self.src_address(),
                );
            }
            unlock_two(self.dst.ptl, self.src.ptl);
        }
    }
}

/// An entry of the destination and one of the source, both locked.
///
/// # Invariants
///
/// The pair has a page left. `dst` and `src` are the values of the entries; no more of them can
/// change than what the CPU marks as accessed or dirty.
pub struct EntryPair<'p, 'a> {
    pub(super) pair: &'p mut PtePair<'a>,
    dst: Pte,
    pub(super) src: Pte,
}

impl<'p, 'a> EntryPair<'p, 'a> {
    /// Whether the destination's entry holds nothing.
    #[inline]
    pub fn dst_is_none(&self) -> bool {
        self.dst.is_none()
    }

    /// What the source's entry holds.
    #[inline]
    pub fn src_kind(&self) -> PteKind {
        self.src.kind()
    }

    /// Leaves both entries as they are and goes on to the next.
    #[inline]
    pub fn skip(self) {
        self.pair.skip(1);
    }

    /// Moves the zero page, if that is what the source holds and the destination holds nothing;
    /// else does as [`skip`](Self::skip).
    ///
    /// It is not writable there. KSM marks those that it has put in place, to count them; the mark
    /// moves along.
    pub fn move_zero_page(self) {
        if self.src.kind() != PteKind::ZeroPage || !self.dst.is_none() {
            return self.skip();
        }
        let vma = self.pair.dst.vma;
        let pair = self.pair;
        let old = pair.clear_src(0);
        // SAFETY: These functions look at a value and are always safe to call.
        let pte = unsafe {
            let pfn = bindings::zero_pfn(pair.dst_address());
            let pte = bindings::pte_mkspecial(bindings::pfn_pte(pfn, vma.page_prot()));
            match bindings::pte_dirty(old) != 0 {
                true => bindings::pte_mkdirty(pte),
                false => pte,
            }
        };
        // SAFETY: The destination's entry is none.
        unsafe { pair.set_dst(0, finish(vma, pte)) };
        pair.moved(1);
    }

    /// The source's page, if it is one that is mapped here and nowhere else.
    ///
    /// `None` for whatever may be shared (by a fork, by KSM) or is no page, and where the
    /// destination's entry is not none.
    #[inline(always)]
    pub fn exclusive_page(self) -> Option<Mapped<'p, 'a>> {
        if !self.src.is_page() || !self.dst.is_none() {
            return None;
        }
        let rmap = self.pair.rmap();
        let pair = self.pair;
        // SAFETY: The entry is locked, so that the page that it maps stays. Ordinary private
        // anonymous memory has no pages but anonymous ones, all of which have a `struct page`.
        let (pfn, page, compound) = unsafe {
            let pfn = bindings::pte_pfn(self.src.0) as usize;
            let page = bindings::pfn_to_page(pfn);
            if !is_exclusive(page) {
                return None;
            }
            (pfn, page, bindings::PageCompound(page) != 0)
        };
        // SAFETY: As above: what maps it does not change while 'p lives, but through a `Unit`,
        // which moves the reference along with the entry. A page that is not compound is a folio.
        let folio = unsafe {
            Folio::from_raw(match compound {
                true => bindings::page_folio(page),
                false => page.cast(),
            })
        };
        Some(match compound {
            // SAFETY: The entry maps the folio's only page, exclusively. The locks are held and the
            // destination's entry is none.
            false => Mapped::Page(unsafe { Exclusive::new(folio, PageEntry { pair, pfn, rmap }) }),
            true => Mapped::Part(FolioPart {
                pair,
                folio,
                pfn,
                rmap,
            }),
        })
    }
}

/// A page that is mapped at the source and nowhere else.
pub enum Mapped<'p, 'a> {
    /// It is a folio of its own.
    Page(Exclusive<'p, PageEntry<'p, 'a>>),
    /// It is part of a larger folio.
    Part(FolioPart<'p, 'a>),
}

/// The entries for a folio of one page.
///
/// # Invariants
///
/// The pair has a page left, whose frame at the source is `pfn`, and `rmap` leads to where it
/// stands.
pub struct PageEntry<'p, 'a> {
    pair: &'p mut PtePair<'a>,
    pfn: usize,
    rmap: AnonRmap,
}

// SAFETY: The type invariants of `PtePair` and `EntryPair` say it.
unsafe impl Unit for PageEntry<'_, '_> {
    type Old = bindings::pte_t;

    #[inline]
    fn clear(&mut self) -> Self::Old {
        self.pair.clear_src(0)
    }

    #[inline]
    fn restore(&mut self, old: &Self::Old) {
        self.pair.restore_src(0, *old);
    }

    #[inline]
    fn rmap(&self) -> AnonRmap {
        self.rmap
    }

    #[inline]
    unsafe fn set(self, _folio: &Folio) {
        // SAFETY: The caller promises that the entry was cleared and the reverse mapping changed.
        unsafe { self.pair.map_dst(self.pfn, 1) };
    }
}
