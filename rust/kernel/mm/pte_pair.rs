// SPDX-License-Identifier: GPL-2.0

//! Two pte tables under their locks, and pages that move from one to the other.
//!
//! A [`PtePair`] stands at an entry of the destination and one of the source, and goes on to the
//! next of both. What it hands out is shaped so that a page is never lost or mapped twice: a page
//! that was taken out of the source ([`TakenPage`]) is put in place at the destination, or else
//! goes back when it is dropped.
//!
//! Lock order: the lock of the folio comes before those of the two tables, and is only tried here,
//! under them. Among page tables there is no order that all of the kernel keeps: mremap(2) takes
//! the old one first, and is not excluded by the read lock of a vma that shares a table with what
//! it moves. So the second lock is only tried too, and if it is taken, the first is let go of
//! before it is waited for. Both tables may be one.
//!
//! The TLB is flushed once, when the pair is dropped, before the locks are: between the change of
//! an entry and the flush a thread may still use the source's old entry, and whoever needs an end
//! to that waits for the locks.
//!
//! C header: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)

use crate::{
    bindings,
    mm::{
        folio::{
            Folio,
            FolioGuard,
            LockedFolio, //
        },
        mmu_notifier::InvalidateRange,
        pgtable::{
            Pmd,
            Pte,
            PteKind, //
        },
        virt::VmaRef,
    },
    page::PAGE_SIZE,
    sync::aref::ARef,
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr, //
};

/// Two pte tables under their locks.
///
/// # Invariants
///
/// - `dst.pte` and `src.pte` are the mapped entries for `dst.address` and `src.address`, and those
///   of the `left` pages from there on are in the same two tables and in their vmas, which are
///   locked and of one mm.
/// - Both `ptl` are held, once if they are the same, and lazy MMU mode is on.
/// - Secondary MMUs were told of all source entries.
/// - Where `moved` is true, the source entries from `flush_from` to `src.address` may still be in
///   TLBs; else none that was changed is.
pub struct PtePair<'a> {
    dst: Side<'a>,
    src: Side<'a>,
    left: usize,
    flush_from: usize,
    moved: bool,
    dst_has_anon_vma: bool,
    bits: DstBits,
    _notified: PhantomData<&'a InvalidateRange<'a>>,
    _nts: NotThreadSafe,
}

/// One of the two tables.
struct Side<'a> {
    vma: &'a VmaRef,
    address: usize,
    pte: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
    /// What the pmd slot held when the table was mapped.
    pmdval: bindings::pmd_t,
    pmd: *mut bindings::pmd_t,
}

impl<'a> Side<'a> {
    #[inline]
    fn map(at: &Pmd<'a>) -> Option<Self> {
        let mut pmdval = bindings::pmd_t::default();
        let mut ptl = ptr::null_mut();
        // SAFETY: The slot is valid by the type invariants of `Pmd`.
        let pte = unsafe {
            bindings::pte_offset_map_rw_nolock(
                at.vma.mm().as_raw(),
                at.pmd,
                at.address,
                &mut pmdval,
                &mut ptl,
            )
        };
        (!pte.is_null()).then_some(Self {
            vma: at.vma,
            address: at.address,
            pte,
            ptl,
            pmdval,
            pmd: at.pmd,
        })
    }

    /// Whether the slot still names the table whose lock is held.
    #[inline]
    fn is_current(&self) -> bool {
        // SAFETY: The slot is valid: `map` got it from a `Pmd`.
        unsafe { bindings::pmd_same(self.pmdval, bindings::pmdp_get_lockless(self.pmd)) != 0 }
    }

    #[inline]
    fn unmap(&self) {
        // SAFETY: `map` mapped it, and this is called once.
        unsafe { bindings::pte_unmap(self.pte) };
    }

    /// How many pages there are from here to the end of the table or of `len` bytes.
    #[inline]
    fn pages_in_table(&self, len: usize) -> usize {
        // SAFETY: `pmd_addr_end` is always safe to call.
        let end = unsafe { bindings::pmd_addr_end(self.address, self.address + len) };
        (end - self.address) / PAGE_SIZE
    }

    #[inline]
    fn get(&self) -> Pte {
        // SAFETY: The entry is mapped: the type invariants of `PtePair`.
        Pte(unsafe { bindings::ptep_get(self.pte) })
    }
}

/// The bits that every page gets at the destination: they depend on its vma alone.
#[derive(Clone, Copy)]
struct DstBits {
    prot: bindings::pgprot_t,
    writable: bool,
    soft_dirty: bool,
    rwp: bool,
}

impl DstBits {
    #[inline]
    fn new(vma: &VmaRef) -> Self {
        Self {
            prot: vma.page_prot(),
            writable: vma.is_writable(),
            // SAFETY: Always safe to call.
            soft_dirty: unsafe { bindings::pgtable_supports_soft_dirty() },
            // SAFETY: The vma is valid and locked.
            rwp: unsafe { bindings::userfaultfd_rwp(vma.as_ptr()) },
        }
    }

    /// Marks what moved for those who look for changes, and for a userfaultfd that wants to see
    /// the next access.
    #[inline]
    fn finish(self, mut pte: bindings::pte_t) -> Pte {
        // SAFETY: These functions look at a value and are always safe to call.
        unsafe {
            if self.soft_dirty {
                pte = bindings::pte_mksoft_dirty(pte);
            }
            if self.rwp {
                pte = bindings::pte_mkuffd(bindings::pte_modify(pte, bindings::PAGE_NONE()));
            }
        }
        Pte(pte)
    }

    /// The entry for a folio of one page that is mapped nowhere else.
    #[inline]
    fn page(self, folio: &Folio, vma: &VmaRef) -> Pte {
        // SAFETY: The folio and the vma are valid; the rest looks at a value.
        let pte = unsafe {
            let mut pte = bindings::folio_mk_pte(folio.as_ptr(), self.prot);
            pte = bindings::pte_mkyoung(bindings::pte_mkdirty(pte));
            if self.writable {
                pte = bindings::pte_mkwrite(pte, vma.as_ptr());
            }
            pte
        };
        self.finish(pte)
    }

    /// The entry for the zero page: never writable. KSM marks those that it has put in place, to
    /// count them; the mark moves along.
    #[inline]
    fn zero_page(self, address: usize, old: bindings::pte_t) -> Pte {
        // SAFETY: These functions look at a value and are always safe to call.
        let pte = unsafe {
            let pte = bindings::pfn_pte(bindings::zero_pfn(address), self.prot);
            if bindings::pte_dirty(old) != 0 {
                bindings::pte_mkdirty(bindings::pte_mkspecial(pte))
            } else {
                bindings::pte_mkspecial(pte)
            }
        };
        self.finish(pte)
    }
}

impl<'a> PtePair<'a> {
    /// Maps and locks the tables of two slots for moving up to `len` bytes from `src` to `dst`.
    ///
    /// `len` is in bytes, a multiple of the page size. `notified` is the range of the source, whose
    /// copies secondary MMUs have dropped. Returns `None` where one of the slots names no table any
    /// more, and where `notified` or the vmas do not cover the whole of `len` or are not of one mm.
    ///
    /// The locks are spinlocks: no sleeping until the pair is dropped. The caller holds no
    /// page-table lock.
    #[inline]
    pub fn lock(
        dst: &Pmd<'a>,
        src: &Pmd<'a>,
        len: usize,
        notified: &'a InvalidateRange<'_>,
    ) -> Option<Self> {
        let from = src.address..src.address.checked_add(len)?;
        let to = dst.address..dst.address.checked_add(len)?;
        if !notified.covers(src.vma, &from)
            || !dst.vma.is_in(src.vma.mm())
            || !src.vma.contains(&from)
            || !dst.vma.contains(&to)
        {
            return None;
        }

        let dst = Side::map(dst)?;
        let Some(src) = Side::map(src) else {
            dst.unmap();
            return None;
        };
        // SAFETY: The vma is valid and locked.
        unsafe { bindings::flush_cache_range(src.vma.as_ptr(), from.start, from.end) };
        // SAFETY: Both locks live as long as their tables are mapped.
        unsafe { lock_two(dst.ptl, src.ptl) };

        let pair = Self {
            left: dst.pages_in_table(len).min(src.pages_in_table(len)),
            flush_from: src.address,
            moved: false,
            dst_has_anon_vma: dst.vma.has_anon_vma(),
            bits: DstBits::new(dst.vma),
            dst,
            src,
            _notified: PhantomData,
            _nts: NotThreadSafe,
        };
        // SAFETY: `drop` has the counterpart of the first. The mm is valid, and a lock of one of
        // its page tables is held, as the second asks: reclaim may have emptied a destination entry
        // (of MADV_FREE memory) and not have flushed it yet, and a thread must not go on reading
        // the old page where the new one is.
        unsafe {
            bindings::lazy_mmu_mode_enable();
            bindings::flush_tlb_batched_pending(pair.dst.vma.mm().as_raw());
        }

        // INVARIANT: The entries from here to the end of each table are mapped, and now both
        // tables are known to be in use under their locks.
        (pair.dst.is_current() && pair.src.is_current()).then_some(pair)
    }

    /// The pair of entries that it stands at; `None` at the end of either table or of the length.
    ///
    /// What is done with the pair of entries makes this stand at the next. Where it is dropped
    /// instead, both entries stay as they are and come again.
    #[inline]
    pub fn current(&mut self) -> Option<EntryPair<'_, 'a>> {
        // INVARIANT: There is a page left, and the entries are read under their locks.
        (self.left > 0).then(|| EntryPair {
            dst: self.dst.get(),
            src: self.src.get(),
            pair: self,
        })
    }

    /// The source address that the pair stands at, in bytes: all before it is done with.
    #[inline]
    pub fn src_address(&self) -> usize {
        self.src.address
    }

    #[inline]
    fn advance(&mut self) {
        self.left -= 1;
        self.dst.address += PAGE_SIZE;
        self.src.address += PAGE_SIZE;
        // SAFETY: The entries are in one table with the ones before, or just behind its last, and
        // are not read there, since `left` is zero.
        unsafe {
            self.dst.pte = self.dst.pte.add(1);
            self.src.pte = self.src.pte.add(1);
        }
    }

    /// Takes the source entry out: from here on an access finds a hole.
    #[inline]
    fn clear_src(&mut self) -> bindings::pte_t {
        // SAFETY: The entry is mapped and locked, and secondary MMUs were told.
        unsafe {
            bindings::ptep_get_and_clear(self.src.vma.mm().as_raw(), self.src.address, self.src.pte)
        }
    }

    /// Fills the destination entry and notes that the source's old one has to be flushed.
    ///
    /// # Safety
    ///
    /// The destination entry is none, `pte` was made from what `clear_src` took out, and the
    /// reverse mapping of its page leads to the destination.
    #[inline]
    unsafe fn set_dst(&mut self, pte: Pte) {
        // SAFETY: The entry is mapped and locked.
        unsafe {
            bindings::set_pte_at(
                self.dst.vma.mm().as_raw(),
                self.dst.address,
                self.dst.pte,
                pte.0,
            )
        };
        if !self.moved {
            self.flush_from = self.src.address;
            self.moved = true;
        }
    }
}

impl Drop for PtePair<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `lock` turned lazy MMU mode on, took the locks and mapped the tables, in the
        // opposite order; the vma is locked.
        unsafe {
            bindings::lazy_mmu_mode_disable();
            if self.moved {
                bindings::flush_tlb_range(self.src.vma.as_ptr(), self.flush_from, self.src.address);
            }
            unlock_two(self.dst.ptl, self.src.ptl);
            // The pointers may be just behind the tables. On 64-bit there is nothing to unmap: the
            // RCU read lock is let go of, whatever the pointer.
            self.src.unmap();
            self.dst.unmap();
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
    pair: &'p mut PtePair<'a>,
    dst: Pte,
    src: Pte,
}

impl<'p, 'a> EntryPair<'p, 'a> {
    /// The value of the destination's entry, read under its lock.
    #[inline]
    pub fn dst(&self) -> Pte {
        self.dst
    }

    /// The value of the source's entry, read under its lock.
    #[inline]
    pub fn src(&self) -> Pte {
        self.src
    }

    /// Leaves both entries as they are and goes on to the next.
    #[inline]
    pub fn skip(self) {
        self.pair.advance();
    }

    /// Moves the zero page, if that is what the source holds and the destination holds nothing;
    /// else does as [`skip`](Self::skip).
    #[inline]
    pub fn move_zero_page(self) {
        if self.src.kind() == PteKind::ZeroPage && self.dst.is_none() {
            let old = self.pair.clear_src();
            let pte = self.pair.bits.zero_page(self.pair.dst.address, old);
            // SAFETY: The zero page has no reverse mapping. The destination's entry is none.
            unsafe { self.pair.set_dst(pte) };
        }
        self.pair.advance();
    }

    /// The source's page, if it is an anonymous one that is mapped here and nowhere else.
    ///
    /// `None` for whatever may be shared (by a fork, by KSM) or is no ordinary page, where the
    /// destination's entry is not none, and where its vma has no anon_vma.
    #[inline]
    pub fn exclusive_page(self) -> Option<SrcPage<'p, 'a>> {
        if self.src.kind() != PteKind::Present || !self.dst.is_none() {
            return None;
        }
        if !self.pair.dst_has_anon_vma {
            return None;
        }
        let src = &self.pair.src;
        // SAFETY: The vma is valid, and the entry is locked, so that its page stays.
        let page = unsafe { bindings::vm_normal_page(src.vma.as_ptr(), src.address, self.src.0) };
        // SAFETY: As above. A private anonymous vma maps no page but anonymous ones.
        if page.is_null() || unsafe { bindings::PageAnonExclusive(page) } == 0 {
            return None;
        }
        Some(SrcPage {
            // SAFETY: As above: the entry that maps the page does not change while 'p lives, but
            // through this type, which moves the entry's reference along with the page.
            folio: unsafe { Folio::from_raw(bindings::page_folio(page)) },
            pair: self.pair,
        })
    }
}

/// A page of the source that is mapped there and nowhere else.
///
/// # Invariants
///
/// The pair's source entry maps a page of `folio`, exclusively. Its destination entry is none, and
/// the destination's vma has an anon_vma.
pub struct SrcPage<'p, 'a> {
    pair: &'p mut PtePair<'a>,
    folio: &'p Folio,
}

impl<'p, 'a> SrcPage<'p, 'a> {
    /// The folio of the page.
    #[inline]
    pub fn folio(&self) -> &'p Folio {
        self.folio
    }

    /// Locks the page's folio by trying, since elsewhere its lock comes before those of page
    /// tables.
    ///
    /// Does not sleep. What is returned for a folio that is large or that somebody else has locked
    /// has a reference of its own, and outlives the pair.
    #[inline]
    pub fn try_lock(self) -> TryLock<'p, 'a> {
        match self.folio.try_lock() {
            Some(lock) if self.folio.is_large() => TryLock::Large(lock.into()),
            // INVARIANT: The folio was just locked, and is not large.
            Some(lock) => TryLock::Locked(LockedPage {
                pair: self.pair,
                lock,
            }),
            None => TryLock::Contended(self.folio.into()),
        }
    }
}

/// What came of trying to lock the folio of a page.
pub enum TryLock<'p, 'a> {
    /// It is locked, and its only page can move.
    Locked(LockedPage<'p, 'a>),
    /// It is locked, and has to be split before a page of it can move.
    Large(LockedFolio),
    /// Somebody else has the lock.
    Contended(ARef<Folio>),
}

/// A page of the source whose folio is locked: nobody walks its reverse mapping.
///
/// # Invariants
///
/// Those of [`SrcPage`]; the folio is locked and not large.
pub struct LockedPage<'p, 'a> {
    pair: &'p mut PtePair<'a>,
    lock: FolioGuard<'p>,
}

impl<'p, 'a> LockedPage<'p, 'a> {
    /// Takes the page out of the source: from here on an access finds a hole, and nobody can pin
    /// the page any more.
    #[inline]
    pub fn take(self) -> TakenPage<'p, 'a> {
        let pte = self.pair.clear_src();
        // INVARIANT: The entry was just cleared.
        TakenPage {
            pair: self.pair,
            lock: self.lock,
            pte,
        }
    }
}

/// A page that is out of the source and not yet at the destination. Goes back when dropped.
///
/// # Invariants
///
/// Those of [`LockedPage`], but that the pair's source entry, which held `pte`, is none now.
#[must_use = "the page goes back to the source when this is dropped"]
pub struct TakenPage<'p, 'a> {
    pair: &'p mut PtePair<'a>,
    lock: FolioGuard<'p>,
    pte: bindings::pte_t,
}

impl TakenPage<'_, '_> {
    /// The folio of the page.
    #[inline]
    pub fn folio(&self) -> &Folio {
        self.lock.folio()
    }

    /// Puts the page in place at the destination, and goes on to the next pair of entries.
    ///
    /// Its reverse mapping goes over to the destination's vma first. The entry gets the protection
    /// of that vma, is dirty and young, and has what those who look for changes go by. The folio is
    /// unlocked.
    #[inline]
    pub fn place(self) {
        let mut this = ManuallyDrop::new(self);
        let folio = this.lock.folio().as_ptr();
        let vma = this.pair.dst.vma;
        // SAFETY: The folio is locked, so nobody follows its reverse mapping meanwhile, and it is
        // mapped nowhere. The vma has an anon_vma. The destination's entry is none by the type
        // invariants.
        unsafe {
            bindings::folio_move_anon_rmap(folio, vma.as_ptr());
            (*folio)
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_2
                .index = bindings::linear_anon_page_index(vma.as_ptr(), this.pair.dst.address);
            let pte = this.pair.bits.page(this.lock.folio(), vma);
            this.pair.set_dst(pte);
        }
        this.pair.advance();
        // SAFETY: `this` is not used any more, and only its lock needs to be dropped.
        unsafe { ptr::drop_in_place(&mut this.lock) };
    }
}

impl Drop for TakenPage<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        let src = &self.pair.src;
        // SAFETY: By the type invariants the entry is none and held this value.
        unsafe {
            bindings::set_pte_at(src.vma.mm().as_raw(), src.address, src.pte, self.pte);
        }
    }
}

/// Takes the locks of two page tables, which may be one.
///
/// Whoever holds one of them may be waiting for the other, so neither is waited for while the other
/// is held.
///
/// # Safety
///
/// Both locks must be valid, and the caller must hold neither.
#[inline]
unsafe fn lock_two(a: *mut bindings::spinlock_t, b: *mut bindings::spinlock_t) {
    let (mut first, mut second) = (a, b);
    // SAFETY: The caller promises that the locks are valid and free to take.
    unsafe {
        bindings::spin_lock(first);
        while first != second && bindings::spin_trylock(second) == 0 {
            bindings::spin_unlock(first);
            (first, second) = (second, first);
            bindings::spin_lock(first);
        }
    }
}

/// Gives back what [`lock_two`] took.
///
/// # Safety
///
/// The caller must hold both locks.
#[inline]
unsafe fn unlock_two(a: *mut bindings::spinlock_t, b: *mut bindings::spinlock_t) {
    // SAFETY: The caller promises to hold the locks.
    unsafe {
        if a != b {
            bindings::spin_unlock(b);
        }
        bindings::spin_unlock(a);
    }
}
