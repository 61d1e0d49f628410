// SPDX-License-Identifier: GPL-2.0

//! A page fault that is being handled.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_fault`

use crate::{
    bindings,
    mm::virt::VmaRef,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    marker::PhantomData,
    ptr, //
};

/// What a fault handler answers: flags that tell the caller what became of the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct FaultResult(bindings::vm_fault_t);

impl FaultResult {
    /// Nothing is wrong: the access is made again, and faults again if need be.
    pub const AGAIN: Self = Self(0);

    /// The access gets SIGBUS, or EFAULT where the kernel makes it.
    pub const SIGBUS: Self = Self(bindings::vm_fault_reason_VM_FAULT_SIGBUS);

    /// The value as C has it: `VM_FAULT_*`, or 0.
    #[inline]
    pub fn into_raw(self) -> bindings::vm_fault_t {
        self.0
    }
}

/// A page fault in a vma.
///
/// # Invariants
///
/// The vma of the fault is locked: its read lock or the mmap lock is held. The page tables down to
/// the pmd exist. The fault's own page-table pointer is not mapped and no page-table lock is held.
#[repr(transparent)]
pub struct VmFault(Opaque<bindings::vm_fault>);

impl VmFault {
    /// Access a fault given a raw pointer.
    ///
    /// # Safety
    ///
    /// The invariants must hold for the duration of `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(vmf: *mut bindings::vm_fault) -> &'a Self {
        // SAFETY: The caller promises that the fault lives for 'a. The layout is compatible due to
        // repr(transparent).
        unsafe { &*vmf.cast() }
    }

    /// The vma in which the access was made. It is locked for as long as the fault lives.
    #[inline]
    pub fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants the vma is valid and locked.
        unsafe { VmaRef::from_raw((*self.0.get()).__bindgen_anon_1.vma) }
    }

    /// Locks the entry that was touched and reads it again. The guard that is returned holds the
    /// lock of the entry: that of its pte table, or of the pmd where there is no table.
    ///
    /// An entry is none for a moment while others work on it (mprotect, migration, a copy on
    /// write, a move that is put back), but never while its lock is free. So the entry that the
    /// fault was taken for tells nothing, and this does. Returns `None` where it is no hole: the
    /// entry holds something by now, or it has changed in another way since the fault looked.
    ///
    /// Allocates nothing. Does not sleep. The caller holds no page-table lock; the lock that is
    /// taken is a spinlock, so there is no sleeping until the guard is dropped.
    pub fn lock_hole(&self) -> Option<HoleGuard<'_>> {
        let vmf = self.0.get();
        let mm = self.vma().mm().as_raw();

        // SAFETY: By the type invariants the fault and its pmd are valid.
        let (pmd, address, flags, orig_pte) = unsafe {
            (
                (*vmf).pmd,
                (*vmf).__bindgen_anon_1.address,
                (*vmf).flags,
                (*vmf).__bindgen_anon_2.orig_pte,
            )
        };

        // SAFETY: The pmd is valid by the type invariants.
        if unsafe { bindings::pmd_none(bindings::pmdp_get_lockless(pmd)) } != 0 {
            // SAFETY: As above.
            let ptl = unsafe { bindings::pmd_lock(mm, pmd) };
            // SAFETY: `pmd_lock` returns the lock that it took.
            let guard = unsafe { HoleGuard::new(ptr::null_mut(), ptl) };
            // SAFETY: As above.
            let none = unsafe { bindings::pmd_none(bindings::pmdp_get_lockless(pmd)) } != 0;
            return none.then_some(guard);
        }

        let mut ptl = ptr::null_mut();
        // SAFETY: The pmd is valid; the function copes with one that is no table.
        let pte = unsafe { bindings::pte_offset_map_lock(mm, pmd, address, &mut ptl) };
        if pte.is_null() {
            return None;
        }
        // SAFETY: `pte_offset_map_lock` mapped the table and took its lock.
        let guard = unsafe { HoleGuard::new(pte, ptl) };
        // SAFETY: `pte` is mapped and locked.
        let now = unsafe { bindings::ptep_get(pte) };
        // The fault may have been taken for a marker (of userfaultfd's write protection) that
        // stands for a hole; it is one still if it is the same.
        let unchanged = if flags & bindings::fault_flag_FAULT_FLAG_ORIG_PTE_VALID != 0 {
            // SAFETY: `pte_same` is always safe to call.
            unsafe { bindings::pte_same(now, orig_pte) != 0 }
        } else {
            // SAFETY: `pte_none` is always safe to call.
            unsafe { bindings::pte_none(now) != 0 }
        };
        if !unchanged {
            // SAFETY: The vma is locked, `pte` is mapped.
            unsafe { bindings::update_mmu_tlb(self.vma().as_ptr(), address, pte) };
            return None;
        }
        Some(guard)
    }
}

/// The lock of an entry that is a hole: while it lives, nobody fills it.
///
/// # Invariants
///
/// `ptl` is held. `pte` is mapped by `pte_offset_map_lock`, or null.
pub struct HoleGuard<'a> {
    pte: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
    _vmf: PhantomData<&'a VmFault>,
    _nts: NotThreadSafe,
}

impl HoleGuard<'_> {
    /// # Safety
    ///
    /// The caller holds `ptl` and hands it over; `pte` is null or what `pte_offset_map_lock`
    /// mapped together with it.
    #[inline]
    unsafe fn new(pte: *mut bindings::pte_t, ptl: *mut bindings::spinlock_t) -> Self {
        // INVARIANT: The caller promises what the invariants ask.
        Self {
            pte,
            ptl,
            _vmf: PhantomData,
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for HoleGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants we hold the lock.
        unsafe { bindings::spin_unlock(self.ptl) };
        if !self.pte.is_null() {
            // SAFETY: By the type invariants the table is mapped.
            unsafe { bindings::pte_unmap(self.pte) };
        }
    }
}
