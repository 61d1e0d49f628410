// SPDX-License-Identifier: GPL-2.0

//! Page tables of user space.
//!
//! The tables are walked without a lock: while a vma is locked for reading, the upper levels of
//! what it maps do not go away, and an entry that names a pte table is only a hint until the
//! table's lock is held ([`PteTable`], [`PtePair`](super::pte_pair::PtePair)).
//!
//! Addresses and lengths are in bytes. Nothing here sleeps but what says so.
//!
//! C header: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)

use crate::{
    bindings,
    error::{
        code::ENOMEM,
        Result, //
    },
    mm::{
        anon::AnonRange,
        folio::{
            Folio,
            LockedFolio, //
        },
    },
    page::PAGE_SIZE,
    sync::aref::ARef,
    types::NotThreadSafe, //
};
use core::ptr;

/// The value of a page-table entry.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Pte(pub(super) bindings::pte_t);

/// What an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PteKind {
    /// Nothing.
    None,
    /// The zero page, which is mapped for a read of what was never written.
    ZeroPage,
    /// A page.
    Present,
    /// A page that is in swap.
    Swap,
    /// A page that is being migrated.
    Migration,
    /// A marker (guard, poison, write protection), a poisoned page, a page of a device.
    Other,
}

/// How much a slot of a pmd table maps, in bytes: a huge page, or a whole pte table.
#[inline]
pub fn pmd_size() -> usize {
    // SAFETY: Always safe to call.
    unsafe { bindings::PMD_SIZE() }
}

impl Pte {
    /// What the entry holds. Looks at the value alone, so it needs no lock.
    #[inline]
    pub fn kind(self) -> PteKind {
        // SAFETY: These functions look at a value and are always safe to call.
        unsafe {
            if bindings::pte_none(self.0) != 0 {
                PteKind::None
            } else if bindings::pte_present(self.0) != 0 {
                // The zero page is special, where the architecture has a bit for that.
                if cfg!(CONFIG_ARCH_HAS_PTE_SPECIAL) && bindings::pte_special(self.0) == 0 {
                    PteKind::Present
                } else if bindings::is_zero_pfn(bindings::pte_pfn(self.0)) != 0 {
                    PteKind::ZeroPage
                } else if cfg!(CONFIG_ARCH_HAS_PTE_SPECIAL) {
                    PteKind::Other
                } else {
                    PteKind::Present
                }
            } else if bindings::softleaf_is_swap_pte(self.0) {
                PteKind::Swap
            } else if bindings::softleaf_is_migration_pte(self.0) {
                PteKind::Migration
            } else {
                PteKind::Other
            }
        }
    }

    /// Whether the entry holds a page, as [`kind`](Self::kind) says; costs less.
    #[inline(always)]
    pub(super) fn is_page(self) -> bool {
        if !cfg!(CONFIG_ARCH_HAS_PTE_SPECIAL) {
            return self.kind() == PteKind::Present;
        }
        // SAFETY: These functions look at a value and are always safe to call.
        unsafe { bindings::pte_present(self.0) != 0 && bindings::pte_special(self.0) == 0 }
    }

    /// Whether the entry holds nothing. Looks at the value alone, so it needs no lock.
    #[inline]
    pub fn is_none(self) -> bool {
        // SAFETY: `pte_none` is always safe to call.
        unsafe { bindings::pte_none(self.0) != 0 }
    }
}

/// The levels of page tables above pte tables, from the root on.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Level {
    Pgd,
    P4d,
    Pud,
    Pmd,
}

/// What the page tables hold at an address.
pub enum Entry<'a> {
    /// No pte table, and no entry up to the address `end`.
    Empty {
        /// Where the hole ends, as far as one look can tell.
        end: usize,
    },
    /// A pte table.
    Table(Pmd<'a>),
    /// An entry for a huge page, present or not.
    Huge(Pmd<'a>),
}

/// A slot of a pmd table.
///
/// # Invariants
///
/// `pmd` is the slot that maps the first address of `range`. It stays valid, and what it holds may
/// change, for as long as the vma is locked.
#[derive(Clone, Copy)]
pub struct Pmd<'a> {
    pub(super) pmd: *mut bindings::pmd_t,
    pub(super) range: AnonRange<'a>,
}

impl<'a> AnonRange<'a> {
    /// Where what an entry of a level covers ends, or the range does.
    ///
    /// A level that is folded into the one above it knows of no end, so those above count too.
    #[cold]
    fn end_of(self, level: Level) -> usize {
        let address = self.start();
        // SAFETY: These functions are always safe to call.
        unsafe {
            let mut end = bindings::pgd_addr_end(address, self.end());
            if level >= Level::P4d {
                end = bindings::p4d_addr_end(address, end);
            }
            if level >= Level::Pud {
                end = bindings::pud_addr_end(address, end);
            }
            if level >= Level::Pmd {
                end = bindings::pmd_addr_end(address, end);
            }
            end
        }
    }

    /// Finds the slot of a pmd table that maps the first address; where an upper level is empty,
    /// returns where that ends, or the range does.
    #[inline(always)]
    fn walk(self) -> Result<Pmd<'a>, usize> {
        let address = self.start();
        // SAFETY: The address lies in the vma, which is locked. Private anonymous memory has
        // neither huge pages above the pmd level nor shared page tables: upper levels that are
        // there stay.
        let pmd = unsafe {
            let pgd = bindings::pgd_offset(self.vma().mm().as_raw(), address);
            if bindings::pgd_none(bindings::pgdp_get(pgd)) != 0 {
                return Err(self.end_of(Level::Pgd));
            }
            let p4d = bindings::p4d_offset(pgd, address);
            if bindings::p4d_none(bindings::p4dp_get(p4d)) != 0 {
                return Err(self.end_of(Level::P4d));
            }
            let pud = bindings::pud_offset(p4d, address);
            if bindings::pud_none(bindings::pudp_get(pud)) != 0 {
                return Err(self.end_of(Level::Pud));
            }
            bindings::pmd_offset(pud, address)
        };
        // INVARIANT: The slot was just looked up for the address.
        Ok(Pmd { pmd, range: self })
    }

    /// The slot of a pmd table that maps the first address, if there is one. What it holds is not
    /// looked at. Does not sleep.
    #[inline(always)]
    pub fn pmd(self) -> Option<Pmd<'a>> {
        self.walk().ok()
    }

    /// Looks up what the page tables hold at the first address, and how far a hole reaches there.
    ///
    /// A table or a huge page is a hint that may be out of date when it arrives. An empty slot is
    /// read again under its lock, since it is empty for a moment while others work on it. Does not
    /// sleep; the caller holds no page-table lock.
    pub fn entry(self) -> Entry<'a> {
        let pmd = match self.walk() {
            Ok(pmd) => pmd,
            Err(end) => return Entry::Empty { end },
        };
        // SAFETY: The slot is valid by the type invariants.
        unsafe {
            let mut val = bindings::pmdp_get_lockless(pmd.pmd);
            if bindings::pmd_none(val) != 0 {
                let ptl = bindings::pmd_lock(self.vma().mm().as_raw(), pmd.pmd);
                val = bindings::pmdp_get_lockless(pmd.pmd);
                bindings::spin_unlock(ptl);
                if bindings::pmd_none(val) != 0 {
                    return Entry::Empty {
                        end: self.end_of(Level::Pmd),
                    };
                }
            }
            match bindings::pmd_present(val) == 0 || bindings::pmd_leaf(val) {
                true => Entry::Huge(pmd),
                false => Entry::Table(pmd),
            }
        }
    }

    /// Allocates the page tables for the first address down to the pmd table, where there are none,
    /// and returns the slot.
    ///
    /// May sleep, so no page-table lock may be held. Fails with `ENOMEM`.
    pub fn alloc_pmd(self) -> Result<Pmd<'a>> {
        let (mm, address) = (self.vma().mm().as_raw(), self.start());
        // SAFETY: The address lies in the vma, which is locked. Each function takes the locks that
        // it needs, and the level that it returns stays while the vma is locked.
        let pmd = unsafe {
            let p4d = bindings::p4d_alloc(mm, bindings::pgd_offset(mm, address), address);
            if p4d.is_null() {
                return Err(ENOMEM);
            }
            let pud = bindings::pud_alloc(mm, p4d, address);
            if pud.is_null() {
                return Err(ENOMEM);
            }
            bindings::pmd_alloc(mm, pud, address)
        };
        if pmd.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: The slot was just looked up for the address.
        Ok(Pmd { pmd, range: self })
    }

    /// Allocates the page tables for the first address down to a pte table, where there are none.
    ///
    /// The caller looks the entry up again: it may also find a huge page by then. May sleep, so no
    /// page-table lock may be held. Fails with `ENOMEM`.
    pub fn alloc_table(self) -> Result {
        let pmd = self.alloc_pmd()?.pmd;
        // SAFETY: The slot is valid; the function takes the lock that it needs.
        let failed = unsafe {
            bindings::pmd_none(bindings::pmdp_get_lockless(pmd)) != 0
                && bindings::__pte_alloc(self.vma().mm().as_raw(), pmd) != 0
        };
        match failed {
            true => Err(ENOMEM),
            false => Ok(()),
        }
    }
}

/// What a slot holds that is no huge page which is mapped there and nowhere else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugeKind {
    /// The huge zero page.
    ZeroPage,
    /// A page that is shared or pinned.
    Shared,
    /// A page that is being migrated.
    Migration,
    /// Something else that is not present.
    Other,
    /// No huge page any more.
    Gone,
}

/// What came of trying to lock the folio of a huge page.
pub enum LockHuge {
    /// It is locked.
    Locked(LockedFolio),
    /// Somebody else has the lock.
    Contended(ARef<Folio>),
    /// There is no huge page that is mapped here and nowhere else; what there is, says the kind.
    Not(HugeKind),
}

impl<'a> Pmd<'a> {
    /// How many bytes the slot maps from its first address on, as far as its range goes.
    #[inline(always)]
    pub fn size(&self) -> usize {
        let in_slot = pmd_size() - (self.range.start() & (pmd_size() - 1));
        in_slot.min(self.range.size())
    }

    #[inline(always)]
    pub(super) fn mm(&self) -> *mut bindings::mm_struct {
        self.range.vma().mm().as_raw()
    }

    /// What the slot holds, and the folio of an exclusive page.
    ///
    /// # Safety
    ///
    /// The slot's lock must be held, and the entry be left as it is, for as long as the folio is
    /// used.
    #[inline(always)]
    pub(super) unsafe fn huge_locked<'f>(&self) -> Result<&'f Folio, HugeKind> {
        // SAFETY: The slot is valid by the type invariants. A page that it maps stays, since the
        // lock is held. Ordinary private anonymous memory has no pages but anonymous ones.
        unsafe {
            let val = bindings::pmdp_get_lockless(self.pmd);
            if bindings::pmd_present(val) != 0 && bindings::pmd_leaf(val) {
                if bindings::is_huge_zero_pmd(val) {
                    return Err(HugeKind::ZeroPage);
                }
                // What a pmd maps is the head of its folio.
                let page = bindings::pmd_page(val);
                let folio = Folio::from_raw(page.cast());
                return match is_exclusive(page) && !folio.maybe_dma_pinned() {
                    true => Ok(folio),
                    false => Err(HugeKind::Shared),
                };
            }
            Err(
                if bindings::pmd_none(val) != 0 || bindings::pmd_present(val) != 0 {
                    HugeKind::Gone
                } else if bindings::pmd_is_migration_entry(val) {
                    HugeKind::Migration
                } else {
                    HugeKind::Other
                },
            )
        }
    }

    /// Whether the slot holds a huge page that is mapped here and nowhere else, or the huge zero
    /// page. Does not sleep; the caller holds no page-table lock.
    pub fn is_movable(&self) -> bool {
        // SAFETY: The slot is valid by the type invariants, and its lock is held in between.
        unsafe {
            let ptl = bindings::pmd_lock(self.mm(), self.pmd);
            let movable = matches!(self.huge_locked(), Ok(_) | Err(HugeKind::ZeroPage));
            bindings::spin_unlock(ptl);
            movable
        }
    }

    /// Locks the folio of a huge page that is mapped here and nowhere else, by trying.
    ///
    /// Does not sleep; the caller holds no page-table lock. What is returned for a folio has a
    /// reference of its own.
    pub fn lock_huge(&self) -> LockHuge {
        // SAFETY: The slot is valid by the type invariants, and its lock is held in between. The
        // entry keeps the folio meanwhile.
        unsafe {
            let ptl = bindings::pmd_lock(self.mm(), self.pmd);
            let huge = match self.huge_locked() {
                Ok(folio) => LockedFolio::try_lock(folio.into())
                    .map_or_else(LockHuge::Contended, LockHuge::Locked),
                Err(kind) => LockHuge::Not(kind),
            };
            bindings::spin_unlock(ptl);
            huge
        }
    }

    /// Replaces an entry for a huge page by a table that maps the same memory in small pages.
    ///
    /// The folio stays whole. Does nothing where the slot holds no huge page any more. May sleep,
    /// so no page-table lock may be held.
    #[inline]
    pub fn split_huge(&self) {
        // SAFETY: The slot and the vma are valid by the type invariants.
        unsafe {
            let vma = self.range.vma().as_ptr();
            bindings::__split_huge_pmd(vma, self.pmd, self.range.start(), false);
        }
    }

    /// Takes the pte table out of the slot and frees it, if it is empty; returns whether it did.
    ///
    /// All of the table must be in the slot's range; else nothing is done. Does not sleep; the
    /// caller holds no page-table lock.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    #[cold]
    pub fn free_empty_table(&self) -> bool {
        if self.size() != pmd_size() {
            return false;
        }
        let (mm, address) = (self.mm(), self.range.start());
        let mut pmdval = bindings::pmd_t::default();
        let mut ptl = ptr::null_mut();
        // SAFETY: The slot is valid by the type invariants.
        let pte = unsafe {
            bindings::pte_offset_map_rw_nolock(mm, self.pmd, address, &mut pmdval, &mut ptl)
        };
        if pte.is_null() {
            return false;
        }
        // SAFETY: The slot and the mapped table are valid, and so are their locks. With both held
        // the table is in use while the slot names it, and nobody fills it. Once it is out of the
        // slot, and no processor knows it any more, only those use it who walk it without its lock:
        // they see in the slot that it is out, and it is freed when they are done.
        unsafe {
            let pml = bindings::pmd_lockptr(mm, self.pmd);
            lock_two(pml, ptl);
            let empty = bindings::pmd_same(pmdval, bindings::pmdp_get_lockless(self.pmd)) != 0
                && (0..pmd_size() / PAGE_SIZE)
                    .all(|i| Pte(bindings::ptep_get(pte.add(i))).is_none());
            if empty {
                bindings::pmdp_collapse_flush(self.range.vma().as_ptr(), address, self.pmd);
            }
            unlock_two(pml, ptl);
            bindings::pte_unmap(pte);
            if empty {
                bindings::mm_dec_nr_ptes(mm);
                bindings::pte_free_defer(mm, bindings::pmd_pgtable(pmdval));
            }
            empty
        }
    }

    /// Sleeps until the page whose entry for migration is in the slot, or is the first one in its
    /// table, has been migrated.
    ///
    /// Takes no reference to the page, which would keep it from being migrated. Returns at once
    /// where there is no such entry any more. No page-table lock may be held.
    #[inline]
    pub fn wait_for_migration(&self) {
        let mm = self.mm();
        // SAFETY: The slot is valid by the type invariants; the functions take its lock or its
        // table's, and cope with whatever they find.
        unsafe {
            if bindings::pmd_is_migration_entry(bindings::pmdp_get_lockless(self.pmd)) {
                bindings::pmd_migration_entry_wait(mm, self.pmd);
            } else {
                bindings::migration_entry_wait(mm, self.pmd, self.range.start());
            }
        }
    }

    /// Maps and locks the pte table, until the guard is dropped. Returns `None` where the slot
    /// names no table any more.
    ///
    /// The lock is a spinlock: no sleeping until the guard is dropped. The caller holds no other
    /// page-table lock.
    #[inline]
    pub fn lock_table(&self) -> Option<PteTable<'a>> {
        let mut ptl = ptr::null_mut();
        // SAFETY: The slot is valid by the type invariants.
        let pte = unsafe {
            bindings::pte_offset_map_lock(self.mm(), self.pmd, self.range.start(), &mut ptl)
        };
        if pte.is_null() {
            return None;
        }
        // INVARIANT: The table was just mapped and locked.
        Some(PteTable {
            pte,
            ptl,
            pmd: *self,
            _nts: NotThreadSafe,
        })
    }
}

/// A pte table, mapped and locked; unlocks when dropped.
///
/// # Invariants
///
/// `pte` is the mapped entry for the first address of `pmd`, and `ptl` is held.
pub struct PteTable<'a> {
    pte: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
    pmd: Pmd<'a>,
    _nts: NotThreadSafe,
}

impl PteTable<'_> {
    /// The value of the first entry, the one for the first address of the slot.
    #[inline]
    pub fn first(&self) -> Pte {
        // SAFETY: The entry is mapped by the type invariants.
        Pte(unsafe { bindings::ptep_get(self.pte) })
    }

    /// Counts the bytes from the first address of the slot for which the table holds nothing, as
    /// far as the range goes.
    #[inline]
    pub fn hole_len(&self) -> usize {
        let nr = self.pmd.size() / PAGE_SIZE;
        (0..nr)
            // SAFETY: All entries to the end of the table are mapped, by the type invariants.
            .position(|i| unsafe { !Pte(bindings::ptep_get(self.pte.add(i))).is_none() })
            .unwrap_or(nr)
            * PAGE_SIZE
    }
}

impl Drop for PteTable<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants we hold the lock and the table is mapped.
        unsafe {
            bindings::spin_unlock(self.ptl);
            bindings::pte_unmap(self.pte);
        }
    }
}

/// Takes the locks of two page tables, which may be one.
///
/// Whoever holds one of them may be waiting for the other: among page tables there is no order that
/// all of the kernel keeps. So neither is waited for while the other is held.
///
/// # Safety
///
/// Both locks must be valid, and the caller must hold neither.
#[inline(always)]
pub(super) unsafe fn lock_two(a: *mut bindings::spinlock_t, b: *mut bindings::spinlock_t) {
    // SAFETY: The caller promises that the locks are valid and free to take.
    unsafe {
        bindings::spin_lock(a);
        if a != b && bindings::spin_trylock(b) == 0 {
            lock_two_contended(a, b);
        }
    }
}

/// Goes on with [`lock_two`] where `held` is held, and `wanted` is by somebody else.
///
/// # Safety
///
/// As said.
#[cold]
unsafe fn lock_two_contended(
    mut held: *mut bindings::spinlock_t,
    mut wanted: *mut bindings::spinlock_t,
) {
    loop {
        // SAFETY: The caller promises that the locks are valid, and that the first is held.
        unsafe {
            bindings::spin_unlock(held);
            bindings::spin_lock(wanted);
            if bindings::spin_trylock(held) != 0 {
                return;
            }
        }
        (held, wanted) = (wanted, held);
    }
}

/// Gives back what [`lock_two`] took.
///
/// # Safety
///
/// The caller must hold both locks.
#[inline]
pub(super) unsafe fn unlock_two(a: *mut bindings::spinlock_t, b: *mut bindings::spinlock_t) {
    // SAFETY: The caller promises to hold the locks.
    unsafe {
        if a != b {
            bindings::spin_unlock(b);
        }
        bindings::spin_unlock(a);
    }
}

/// Whether a page belongs to one mm alone, as `PageAnonExclusive()` for a page that is not of
/// hugetlb.
///
/// # Safety
///
/// The page must be valid, anonymous and not of hugetlb.
#[inline(always)]
pub(super) unsafe fn is_exclusive(page: *mut bindings::page) -> bool {
    // SAFETY: The caller promises that the page is valid. The bit changes under locks that the
    // callers hold, others do not.
    let flags = unsafe { ptr::read_volatile(&raw const (*page).flags.f) };
    flags & 1 << bindings::pageflags_PG_anon_exclusive != 0
}
