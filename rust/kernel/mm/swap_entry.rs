// SPDX-License-Identifier: GPL-2.0

//! Entries for pages that are in swap, which move without being read in.
//!
//! The page may still, or again, be in memory too: in the swap cache. Where it was mapped before it
//! was swapped out, its reverse mapping leads to the source, and whoever faults it in at the
//! destination relies on that: so it moves along, with the folio locked. Nobody puts such a page
//! into the swap cache while the source's entry is locked, since to map it and to unmap it takes
//! that lock.
//!
//! C headers: [`include/linux/leafops.h`](srctree/include/linux/leafops.h),
//! [`mm/swap.h`](srctree/mm/swap.h)

use crate::{
    bindings,
    error::{
        code::{
            EFAULT,
            ENOMEM, //
        },
        Result, //
    },
    ffi,
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        pgtable::{
            Pte,
            PteKind, //
        },
        pte_pair::{
            EntryPair,
            PtePair, //
        },
        MmWithUser, //
    },
    sync::aref::ARef, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// What a page of the source that is in swap can do.
pub enum Swapped<'p, 'a> {
    /// Move: it is this mapping's alone.
    Alone(SwapEntries<'p, 'a>),
    /// Stay: others share it, or the destination's entry is not none.
    Shared,
    /// Wait: it is in the swap cache, and somebody else has the lock of its folio.
    Contended(ARef<Folio>),
    /// Be brought back: it is in the swap cache as part of a folio that cannot move whole.
    Part,
}

/// Entries for pages in swap which nobody shares: one, or those of a folio in the swap cache.
///
/// # Invariants
///
/// The pair has `nr` pages left. Its entries at the source are exclusive swap entries, and those at
/// the destination are none. If the swap cache has a folio for them, it is `cached`, and they are
/// all that is in swap of it.
pub struct SwapEntries<'p, 'a> {
    pair: &'p mut PtePair<'a>,
    nr: usize,
    cached: Option<LockedFolio>,
}

impl<'p, 'a> EntryPair<'p, 'a> {
    /// Looks at the source's page, which is in swap, and whether it is in the swap cache.
    ///
    /// Does not sleep. What is returned for a folio that somebody else has locked has a reference
    /// of its own, and outlives the pair.
    pub fn swapped(self) -> Swapped<'p, 'a> {
        let pair = self.pair;
        if !self.src.is_exclusive_swap() || !pair.dst_entry(0).is_none() {
            return Swapped::Shared;
        }
        let entry = self.src.swap_entry();
        // SAFETY: The entry is in use by the page table whose lock is held, which keeps the swap
        // device.
        let cached = NonNull::new(unsafe { bindings::swap_cache_get_folio(entry) });
        let Some(cached) = cached else {
            // INVARIANT: Just looked, under the locks; and nothing is in the swap cache.
            return Swapped::Alone(SwapEntries {
                pair,
                nr: 1,
                cached: None,
            });
        };
        // SAFETY: The reference that the function took is the one that is handed over.
        let cached = match LockedFolio::try_lock(unsafe { ARef::from_raw(cached.cast()) }) {
            Ok(locked) => locked,
            Err(folio) => return Swapped::Contended(folio),
        };
        // SAFETY: The folio is locked and referenced.
        let in_cache =
            unsafe { bindings::folio_matches_swap_entry(cached.folio().as_ptr(), entry) };
        let nr = match in_cache {
            true => cached.folio().nr_pages(),
            // It has left the swap cache meanwhile, and cannot come back.
            false => 1,
        };
        let first = entry.val % nr as ffi::c_ulong == 0;
        let rest = |i| {
            let src = pair.src_entry(i);
            src.is_exclusive_swap()
                && src.swap_entry().val == entry.val + i as ffi::c_ulong
                && pair.dst_entry(i).is_none()
        };
        if !first || nr > pair.left() || !(1..nr).all(rest) {
            return Swapped::Part;
        }
        // INVARIANT: Just looked, under the locks.
        Swapped::Alone(SwapEntries {
            pair,
            nr,
            cached: in_cache.then_some(cached),
        })
    }
}

impl SwapEntries<'_, '_> {
    /// Moves the entries to the destination, and goes on to the next pair of entries.
    ///
    /// They are marked for those who look for changes. The folio in the swap cache, if any, is
    /// unlocked.
    pub fn place(self) {
        let vma = self.pair.dst.vma;
        // One that was read from swap and not mapped yet leads nowhere: who maps it first makes it
        // anonymous, and counts it as that.
        let cached = self.cached.as_ref().map(LockedFolio::folio);
        if let Some(folio) = cached.filter(|folio| folio.is_anonymous()) {
            // SAFETY: The folio is locked, and mapped nowhere: all of it is in swap, exclusively.
            unsafe { self.pair.rmap().set(folio) };
        }
        for i in 0..self.nr {
            let mut pte = self.pair.clear_src(i);
            // SAFETY: The first four look at a value, or at the vma, which is valid and locked. The
            // destination's entry is none by the type invariants.
            unsafe {
                if bindings::pgtable_supports_soft_dirty() {
                    pte = bindings::pte_swp_mksoft_dirty(pte);
                }
                pte = bindings::pte_swp_clear_uffd(pte);
                if bindings::userfaultfd_rwp(vma.as_ptr()) {
                    pte = bindings::pte_swp_mkuffd(pte);
                }
                self.pair.set_dst(i, pte);
            }
        }
        // A processor has no entry in its TLB for what is not present.
        self.pair.skip(self.nr);
    }
}

impl MmWithUser {
    /// Maps the page of `address` if it is in swap, whether the program may touch it or not. Fills
    /// no hole.
    ///
    /// It may have to be tried again: others' lock of a folio is not waited for.
    ///
    /// May sleep. The caller holds neither the mmap lock nor the lock of a vma of this mm. Fails
    /// with `EFAULT` where the page cannot be read or is poisoned, with `ENOMEM`, and with `EINTR`
    /// when a fatal signal arrives.
    #[cold]
    pub fn swap_in(&self, address: usize) -> Result {
        // By the second the mmap lock is not given up.
        const FLAGS: bindings::fault_flag = bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY
            | bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT;
        const LOST: bindings::vm_fault_reason = bindings::vm_fault_reason_VM_FAULT_SIGBUS
            | bindings::vm_fault_reason_VM_FAULT_HWPOISON
            | bindings::vm_fault_reason_VM_FAULT_HWPOISON_LARGE;

        let mmap = self.mmap_read_lock_killable()?;
        let Some(vma) = mmap.vma_lookup(address) else {
            return Ok(());
        };
        let mm = self.as_raw();
        // SAFETY: The mm is valid, and its mmap lock held, which keeps the upper tables.
        let pmd = unsafe { bindings::mm_find_pmd(mm, address) };
        if pmd.is_null() {
            return Ok(());
        }
        let mut ptl = ptr::null_mut();
        // SAFETY: The pmd is valid, as above; the function copes with one that is no table.
        let pte = unsafe { bindings::pte_offset_map_ro_nolock(mm, pmd, address, &mut ptl) };
        if pte.is_null() {
            return Ok(());
        }
        // SAFETY: `pte` is mapped.
        let now = unsafe { bindings::ptep_get_lockless(pte) };
        if Pte(now).kind() != PteKind::Swap {
            // SAFETY: As above.
            unsafe { bindings::pte_unmap(pte) };
            return Ok(());
        }
        let mut vmf = bindings::vm_fault {
            __bindgen_anon_1: bindings::vm_fault__bindgen_ty_1 {
                vma: vma.as_ptr(),
                address,
                real_address: address,
                ..Default::default()
            },
            __bindgen_anon_2: bindings::vm_fault__bindgen_ty_2 { orig_pte: now },
            flags: FLAGS,
            pmd,
            pte,
            ptl,
            ..Default::default()
        };
        // SAFETY: The mmap lock is held, `pte` is mapped, which the function undoes, and the entry
        // was one for a page in swap: it looks again whether it is.
        let answer = unsafe { bindings::do_swap_page(&mut vmf) };
        match answer {
            _ if answer & bindings::vm_fault_reason_VM_FAULT_OOM != 0 => Err(ENOMEM),
            _ if answer & LOST != 0 => Err(EFAULT),
            _ => Ok(()),
        }
    }
}

impl Pte {
    /// Whether the entry is for a page in swap that nobody shares.
    fn is_exclusive_swap(self) -> bool {
        // SAFETY: The function looks at a value and is always safe to call.
        self.kind() == PteKind::Swap && unsafe { bindings::pte_swp_exclusive(self.0) }
    }

    /// Where in swap the page is.
    fn swap_entry(self) -> bindings::swp_entry_t {
        // SAFETY: As above.
        unsafe { bindings::softleaf_from_pte(self.0) }
    }
}
