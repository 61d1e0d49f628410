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
        code::{
            EINVAL,
            ENOMEM, //
        },
        Result, //
    },
    mm::{
        folio::Folio,
        virt::VmaRef, //
    },
    page::PAGE_SIZE,
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
    /// A page, or something else that is present.
    Present,
    /// A page that is in swap.
    Swap,
    /// A page that is being migrated.
    Migration,
    /// A marker (guard, poison, write protection), a poisoned page, a page of a device.
    Other,
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
                if bindings::is_zero_pfn(bindings::pte_pfn(self.0)) != 0 {
                    PteKind::ZeroPage
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

    /// Whether the entry holds nothing. Looks at the value alone, so it needs no lock.
    #[inline]
    pub fn is_none(self) -> bool {
        // SAFETY: `pte_none` is always safe to call.
        unsafe { bindings::pte_none(self.0) != 0 }
    }
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
/// `pmd` is the slot for `address`, which lies in `vma`, which is private anonymous. The slot stays
/// valid, and what it holds may change, for as long as the vma is locked.
#[derive(Clone, Copy)]
pub struct Pmd<'a> {
    pub(super) pmd: *mut bindings::pmd_t,
    pub(super) vma: &'a VmaRef,
    pub(super) address: usize,
}

impl VmaRef {
    /// Looks up what the page tables hold at `address`, for which a hole matters up to `end`.
    ///
    /// A table or a huge page is a hint that may be out of date when it arrives. An empty slot is
    /// read again under its lock, since it is empty for a moment while others work on it. Does not
    /// sleep; the caller holds no page-table lock.
    ///
    /// The addresses must lie in the vma, and that must be private anonymous; else the answer is an
    /// empty hole.
    #[inline]
    pub fn entry(&self, address: usize, end: usize) -> Entry<'_> {
        if address >= end || !self.contains(&(address..end)) || !self.is_private_anonymous() {
            return Entry::Empty { end };
        }
        // SAFETY: The address lies in the vma, which is locked, and private anonymous memory has
        // neither huge pages above the pmd level nor shared page tables: upper levels that are
        // there stay.
        unsafe {
            let pgd = bindings::pgd_offset(self.mm().as_raw(), address);
            if bindings::pgd_none(bindings::pgdp_get(pgd)) != 0 {
                return Entry::Empty {
                    end: bindings::pgd_addr_end(address, end),
                };
            }
            let p4d = bindings::p4d_offset(pgd, address);
            if bindings::p4d_none(bindings::p4dp_get(p4d)) != 0 {
                return Entry::Empty {
                    end: bindings::p4d_addr_end(address, end),
                };
            }
            let pud = bindings::pud_offset(p4d, address);
            if bindings::pud_none(bindings::pudp_get(pud)) != 0 {
                return Entry::Empty {
                    end: bindings::pud_addr_end(address, end),
                };
            }
            let slot = bindings::pmd_offset(pud, address);
            let mut val = bindings::pmdp_get_lockless(slot);
            if bindings::pmd_none(val) != 0 {
                let ptl = bindings::pmd_lock(self.mm().as_raw(), slot);
                val = bindings::pmdp_get_lockless(slot);
                bindings::spin_unlock(ptl);
                if bindings::pmd_none(val) != 0 {
                    return Entry::Empty {
                        end: bindings::pmd_addr_end(address, end),
                    };
                }
            }
            // INVARIANT: The slot was looked up for the address, which lies in the vma.
            let pmd = Pmd {
                pmd: slot,
                vma: self,
                address,
            };
            if bindings::pmd_present(val) == 0 || bindings::pmd_leaf(val) {
                Entry::Huge(pmd)
            } else {
                Entry::Table(pmd)
            }
        }
    }

    /// Allocates the page tables for `address` down to a pte table, where there are none.
    ///
    /// The caller looks the entry up again: it may also find a huge page by then. May sleep, so no
    /// page-table lock may be held. Fails with `ENOMEM`, and with `EINVAL` for an address outside
    /// the vma or a vma that is not private anonymous.
    #[cold]
    pub fn alloc_table(&self, address: usize) -> Result {
        if address < self.start() || address >= self.end() || !self.is_private_anonymous() {
            return Err(EINVAL);
        }
        let mm = self.mm().as_raw();
        // SAFETY: The address lies in the vma, which is locked. Each function takes the locks that
        // it needs, and the level that it returns stays while the vma is locked.
        unsafe {
            let p4d = bindings::p4d_alloc(mm, bindings::pgd_offset(mm, address), address);
            if p4d.is_null() {
                return Err(ENOMEM);
            }
            let pud = bindings::pud_alloc(mm, p4d, address);
            if pud.is_null() {
                return Err(ENOMEM);
            }
            let pmd = bindings::pmd_alloc(mm, pud, address);
            if pmd.is_null() {
                return Err(ENOMEM);
            }
            if bindings::pmd_none(bindings::pmdp_get_lockless(pmd)) != 0
                && bindings::__pte_alloc(mm, pmd) != 0
            {
                return Err(ENOMEM);
            }
        }
        Ok(())
    }
}

/// What an entry for a huge page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugeKind {
    /// The huge zero page.
    ZeroPage,
    /// A page that is mapped here and nowhere else, and not pinned for DMA.
    Exclusive,
    /// A page that is shared or pinned.
    Shared,
    /// A page that is being migrated.
    Migration,
    /// Something else that is not present.
    Other,
    /// No huge page any more.
    Gone,
}

impl<'a> Pmd<'a> {
    /// The bytes from the slot's address to the end of its pte table or to the address `end`.
    #[inline]
    pub fn len_in_table(&self, end: usize) -> usize {
        // SAFETY: `pmd_addr_end` is always safe to call.
        unsafe { bindings::pmd_addr_end(self.address, end) }.saturating_sub(self.address)
    }

    /// What the slot holds, read under its lock, which is let go of again. Does not sleep; the
    /// caller holds no page-table lock.
    pub fn huge_kind(&self) -> HugeKind {
        // SAFETY: The slot is valid by the type invariants.
        let ptl = unsafe { bindings::pmd_lock(self.vma.mm().as_raw(), self.pmd) };
        // SAFETY: As above, and the lock is held: a page that is mapped here stays.
        let kind = unsafe {
            let val = bindings::pmdp_get_lockless(self.pmd);
            if bindings::pmd_none(val) != 0 {
                HugeKind::Gone
            } else if bindings::pmd_present(val) == 0 {
                if bindings::pmd_is_migration_entry(val) {
                    HugeKind::Migration
                } else {
                    HugeKind::Other
                }
            } else if !bindings::pmd_leaf(val) {
                HugeKind::Gone
            } else if bindings::is_huge_zero_pmd(val) {
                HugeKind::ZeroPage
            } else {
                let page = bindings::pmd_page(val);
                let folio = Folio::from_raw(bindings::page_folio(page));
                if bindings::PageAnonExclusive(page) != 0 && !folio.maybe_dma_pinned() {
                    HugeKind::Exclusive
                } else {
                    HugeKind::Shared
                }
            }
        };
        // SAFETY: We hold the lock.
        unsafe { bindings::spin_unlock(ptl) };
        kind
    }

    /// Replaces an entry for a huge page by a table that maps the same memory in small pages.
    ///
    /// The folio stays whole. Does nothing where the slot holds no huge page any more. May sleep,
    /// so no page-table lock may be held.
    #[inline]
    pub fn split_huge(&self) {
        // SAFETY: The slot and the vma are valid by the type invariants.
        unsafe { bindings::__split_huge_pmd(self.vma.as_ptr(), self.pmd, self.address, false) };
    }

    /// Sleeps until the page whose entry for migration is in the slot, or is the first one in its
    /// table, has been migrated.
    ///
    /// Takes no reference to the page, which would keep it from being migrated. Returns at once
    /// where there is no such entry any more. No page-table lock may be held.
    #[inline]
    pub fn wait_for_migration(&self) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: The slot is valid by the type invariants; the functions take its lock or its
        // table's, and cope with whatever they find.
        unsafe {
            if bindings::pmd_is_migration_entry(bindings::pmdp_get_lockless(self.pmd)) {
                bindings::pmd_migration_entry_wait(mm, self.pmd);
            } else {
                bindings::migration_entry_wait(mm, self.pmd, self.address);
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
            bindings::pte_offset_map_lock(self.vma.mm().as_raw(), self.pmd, self.address, &mut ptl)
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
/// `pte` is the mapped entry for the address of `pmd`, and `ptl` is held.
pub struct PteTable<'a> {
    pte: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
    pmd: Pmd<'a>,
    _nts: NotThreadSafe,
}

impl PteTable<'_> {
    /// The value of the first entry, the one for the address of the slot.
    #[inline]
    pub fn first(&self) -> Pte {
        // SAFETY: The entry is mapped by the type invariants.
        Pte(unsafe { bindings::ptep_get(self.pte) })
    }

    /// Counts the bytes from the address of the slot for which the table holds nothing, up to the
    /// end of the table or the address `end`.
    #[inline]
    pub fn hole_len(&self, end: usize) -> usize {
        let nr = self.pmd.len_in_table(end) / PAGE_SIZE;
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
