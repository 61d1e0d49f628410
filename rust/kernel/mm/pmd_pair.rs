// SPDX-License-Identifier: GPL-2.0

//! Two slots of pmd tables under their locks, and a huge page that moves from one to the other.
//!
//! With the huge page goes the pte table that was set aside when it was mapped (deposited), for the
//! day on which it is split.
//!
//! What [`pte_pair`](super::pte_pair) says of the order of locks and of the TLB holds here too.
//!
//! C header: [`include/linux/huge_mm.h`](srctree/include/linux/huge_mm.h)

use crate::{
    bindings,
    mm::{
        anon::AnonRmap,
        folio::Folio,
        moving::{
            Exclusive,
            Unit, //
        },
        pgtable::{
            lock_two,
            pmd_size,
            unlock_two,
            HugeKind,
            Pmd, //
        },
        run::Notified,
        virt::VmaRef, //
    },
    types::NotThreadSafe, //
};
use core::marker::PhantomData;

/// Two slots of pmd tables under their locks, the destination's empty.
///
/// # Invariants
///
/// Both slots are those of the first address of what a slot maps, all of which is in their vmas,
/// which are of one mm. Both locks are held, once if they are the same. The destination's slot is
/// none until `moved`. Secondary MMUs were told of all that the source's slot maps. Where `moved`,
/// what the source's slot held may still be in TLBs.
pub struct PmdPair<'a> {
    dst: Pmd<'a>,
    src: Pmd<'a>,
    dst_ptl: *mut bindings::spinlock_t,
    src_ptl: *mut bindings::spinlock_t,
    moved: bool,
    _notified: PhantomData<&'a Notified<'a>>,
    _nts: NotThreadSafe,
}

/// What the source's slot holds.
pub enum Huge<'p, 'a> {
    /// A huge page that is mapped here and nowhere else.
    Page(Exclusive<'p, HugeEntry<'p, 'a>>),
    /// The huge zero page.
    ZeroPage(HugeZeroPage<'p, 'a>),
    /// Something that does not move; what, says the kind.
    Other(HugeKind),
}

impl<'a> PmdPair<'a> {
    /// Locks the two slots of a run that is all that a slot maps, and does `work` with them.
    ///
    /// Returns `None` for any other run, and where the destination's slot is not empty any more.
    /// The locks are spinlocks: `work` may not sleep. The caller holds no page-table lock.
    #[inline(always)]
    pub fn with<R>(notified: &'a Notified<'_>, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let (dst, src) = (&notified.run.dst, &notified.run.src);
        if !notified.run.is_whole_slot() {
            return None;
        }
        let (mm, start) = (dst.mm(), src.range.start());
        let end = start.wrapping_add(pmd_size());
        // SAFETY: The slots are valid by the type invariants of `Pmd`, and so are their locks; the
        // vma is locked.
        let (dst_ptl, src_ptl, empty) = unsafe {
            bindings::flush_cache_range(src.range.vma().as_ptr(), start, end);
            let dst_ptl = bindings::pmd_lockptr(mm, dst.pmd);
            let src_ptl = bindings::pmd_lockptr(mm, src.pmd);
            lock_two(dst_ptl, src_ptl);
            let empty = bindings::pmd_none(bindings::pmdp_get_lockless(dst.pmd)) != 0;
            (dst_ptl, src_ptl, empty)
        };
        // INVARIANT: A run that long begins, in both slots, where the slot does. Both locks were
        // taken. If the slot is not empty, the pair is not used.
        let mut pair = Self {
            dst: *dst,
            src: *src,
            dst_ptl,
            src_ptl,
            moved: false,
            _notified: PhantomData,
            _nts: NotThreadSafe,
        };
        empty.then(|| work(&mut pair))
    }

    /// What the source's slot holds.
    #[inline(always)]
    pub fn source(&mut self) -> Huge<'_, 'a> {
        // SAFETY: The slot's lock is held. The entry does not change but through a `Unit`, which
        // moves the reference along.
        match (unsafe { self.src.huge_locked() }, self.dst.range.rmap()) {
            (Err(HugeKind::ZeroPage), _) => Huge::ZeroPage(HugeZeroPage { pair: self }),
            (Err(kind), _) => Huge::Other(kind),
            // Without an anon_vma no page of its own can be mapped.
            (Ok(_), None) => Huge::Other(HugeKind::Gone),
            (Ok(folio), Some(rmap)) => {
                let entry = HugeEntry { pair: self, rmap };
                // SAFETY: The entry maps all of the folio, exclusively. The locks are held and the
                // destination's slot is none.
                Huge::Page(unsafe { Exclusive::new(folio, entry) })
            }
        }
    }

    /// Empties the source's slot, and returns what it held.
    #[inline]
    fn clear_src(&mut self) -> bindings::pmd_t {
        // SAFETY: The slot is valid and locked, holds an entry for a huge page, and secondary MMUs
        // were told.
        unsafe {
            bindings::pmdp_huge_get_and_clear(self.src.mm(), self.src.range.start(), self.src.pmd)
        }
    }

    /// Fills the destination's slot, to which the deposited table goes along.
    ///
    /// # Safety
    ///
    /// `pmd` must be made from what `clear_src` has taken out, and the reverse mapping of its
    /// folio, if it has one, must lead to the destination.
    #[inline]
    unsafe fn set_dst(&mut self, pmd: bindings::pmd_t) {
        let mm = self.dst.mm();
        // SAFETY: Both slots are valid and locked. The source's has a table deposited, since it
        // held a huge page, and the destination's is none. A processor that walks in software looks
        // for the table as soon as it sees the entry.
        unsafe {
            let table = bindings::pgtable_trans_huge_withdraw(mm, self.src.pmd);
            bindings::pgtable_trans_huge_deposit(mm, self.dst.pmd, table);
            bindings::set_pmd_at(mm, self.dst.range.start(), self.dst.pmd, pmd);
        }
        self.moved = true;
    }
}

impl Drop for PmdPair<'_> {
    #[inline]
    fn drop(&mut self) {
        let start = self.src.range.start();
        // SAFETY: `with` took the locks; the vma is locked.
        unsafe {
            if self.moved {
                let end = start.wrapping_add(pmd_size());
                bindings::flush_pmd_tlb_range(self.src.range.vma().as_ptr(), start, end);
            }
            unlock_two(self.dst_ptl, self.src_ptl);
        }
    }
}

/// Marks what moved for those who look for changes, and for a userfaultfd that wants to see the
/// next access.
#[inline]
fn finish(vma: &VmaRef, mut pmd: bindings::pmd_t) -> bindings::pmd_t {
    // SAFETY: These functions look at a value, and at the vma, which is valid and locked.
    unsafe {
        if bindings::pgtable_supports_soft_dirty() {
            pmd = bindings::pmd_mksoft_dirty(pmd);
        }
        if bindings::userfaultfd_rwp(vma.as_ptr()) {
            pmd = bindings::pmd_mkuffd(bindings::pmd_modify(pmd, bindings::PAGE_NONE()));
        }
    }
    pmd
}

/// The entry for a huge page.
///
/// # Invariants
///
/// The source's slot of the pair maps all of a folio, exclusively, and `rmap` leads to the
/// destination.
pub struct HugeEntry<'p, 'a> {
    pair: &'p mut PmdPair<'a>,
    rmap: AnonRmap,
}

// SAFETY: The type invariants, and those of `PmdPair`, say it.
unsafe impl Unit for HugeEntry<'_, '_> {
    type Old = bindings::pmd_t;

    #[inline]
    fn clear(&mut self) -> Self::Old {
        self.pair.clear_src()
    }

    #[cold]
    fn restore(&mut self, old: &Self::Old) {
        let src = self.pair.src;
        // SAFETY: The slot is valid and locked, and held this value.
        unsafe { bindings::set_pmd_at(src.mm(), src.range.start(), src.pmd, *old) };
    }

    #[inline]
    fn rmap(&self) -> AnonRmap {
        self.rmap
    }

    #[inline]
    unsafe fn set(self, folio: &Folio) {
        let vma = self.pair.dst.range.vma();
        // SAFETY: The folio is valid; the rest looks at a value.
        let pmd = unsafe {
            let mut pmd = bindings::folio_mk_pmd(folio.as_ptr(), vma.page_prot());
            if vma.is_writable() {
                // The vma is no shadow stack.
                pmd = bindings::pmd_mkwrite_novma(pmd);
            }
            bindings::pmd_mkyoung(bindings::pmd_mkdirty(pmd))
        };
        // SAFETY: The caller promises that the entry was cleared and the reverse mapping changed.
        unsafe { self.pair.set_dst(finish(vma, pmd)) };
    }
}

/// The entry for the huge zero page.
///
/// # Invariants
///
/// The source's slot of the pair maps the huge zero page.
pub struct HugeZeroPage<'p, 'a> {
    pair: &'p mut PmdPair<'a>,
}

impl HugeZeroPage<'_, '_> {
    /// Moves the huge zero page to the destination. It is not writable there.
    pub fn place(self) {
        let vma = self.pair.dst.range.vma();
        let old = self.pair.clear_src();
        // SAFETY: These functions look at a value and are always safe to call.
        let pmd = unsafe { bindings::pmd_modify(bindings::pmd_clear_uffd(old), vma.page_prot()) };
        // SAFETY: The zero page has no reverse mapping; the mm keeps its reference.
        unsafe { self.pair.set_dst(finish(vma, pmd)) };
    }
}
