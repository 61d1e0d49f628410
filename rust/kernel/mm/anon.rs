// SPDX-License-Identifier: GPL-2.0

//! Private anonymous memory: which vmas hold it, and what a page of theirs needs.
//!
//! Methods of [`VmaRef`] that need the vma read lock or the mmap read lock, which its type
//! invariants say is held, and of the guard of the mmap lock. Addresses and lengths are in bytes.
//! Nothing here sleeps but what says so, and what does not sleep can be called under a spinlock.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::{
    bindings,
    error::{
        code::EINVAL,
        to_result,
        Result, //
    },
    mm::{
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
        MmWithUser,
        MmapReadGuard, //
    },
    types::NotThreadSafe,
};
use core::ops::Range;

/// Mappings that hold something else than ordinary pages, or hold them in another way.
const NOT_ORDINARY: vm_flags_t = flags::IO
    | flags::PFNMAP
    | flags::MIXEDMAP
    | flags::DONTEXPAND
    | flags::HUGETLB
    | bindings::VM_SHADOW_STACK;

impl VmaRef {
    /// Whether the vma is one of `mm`.
    #[inline]
    pub fn is_in(&self, mm: &MmWithUser) -> bool {
        self.mm().as_raw() == mm.as_raw()
    }

    /// Whether the vma maps private anonymous memory that is ordinary.
    ///
    /// A private mapping of `/dev/zero` is. Mappings of files, shared ones, special ones (device
    /// memory, the vdso), hugetlb and shadow stacks are not.
    #[inline]
    pub fn is_private_anonymous(&self) -> bool {
        // SAFETY: The vma is valid and locked by the type invariants.
        let anonymous = unsafe { bindings::vma_is_anonymous(self.as_ptr()) };

        anonymous && self.flags() & (flags::SHARED | NOT_ORDINARY) == 0
    }

    /// Whether the kernel may drop the vma's pages under memory pressure (`VM_DROPPABLE`,
    /// `MAP_DROPPABLE` of mmap(2)).
    #[inline]
    pub fn is_droppable(&self) -> bool {
        self.flags() & bindings::VM_DROPPABLE != 0
    }

    /// Whether the vma is mlocked (`VM_LOCKED`), whenever its pages come to be there: so it is with
    /// `MLOCK_ONFAULT` too.
    #[inline]
    pub fn is_mlocked(&self) -> bool {
        self.flags() & bindings::VM_LOCKED != 0
    }

    /// Whether the vma is sealed by mseal(2) (`VM_SEALED`).
    #[inline]
    pub fn is_sealed(&self) -> bool {
        self.flags() & bindings::VM_SEALED != 0
    }

    /// Whether the program may write to the vma now (`VM_WRITE`), as far as mprotect(2) goes: a
    /// page may still be write-protected in its page-table entry.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.flags() & flags::WRITE != 0
    }

    /// How the program may access the vma now: none or some of [`flags::READ`], [`flags::WRITE`]
    /// and [`flags::EXEC`].
    #[inline]
    pub fn access(&self) -> vm_flags_t {
        self.flags() & (flags::READ | flags::WRITE | flags::EXEC)
    }

    /// The bits that the vma gives to every page-table entry: protection, caching, protection key.
    #[inline]
    pub(super) fn page_prot(&self) -> bindings::pgprot_t {
        // SAFETY: The vma is valid by the type invariants. mprotect changes the field with the vma
        // locked for writing.
        unsafe { (*self.as_ptr()).vm_page_prot }
    }

    /// Whether the vma gives the same bits as `other` to its page-table entries: the same access,
    /// caching and protection key.
    #[inline]
    pub fn same_page_prot(&self, other: &VmaRef) -> bool {
        // SAFETY: `pgprot_val` is always safe to call.
        unsafe { bindings::pgprot_val(self.page_prot()) == bindings::pgprot_val(other.page_prot()) }
    }

    /// Whether the whole of `range`, which are addresses, lies in the vma.
    #[inline]
    pub fn contains(&self, range: &Range<usize>) -> bool {
        self.start() <= range.start && range.end <= self.end()
    }

    /// Whether the vma has what the reverse mapping of a page of its own needs (`anon_vma`).
    ///
    /// Once true it stays so until the vma goes away. [`MmapReadGuard::prepare_anon_vma`] makes it
    /// true.
    #[inline]
    pub fn has_anon_vma(&self) -> bool {
        // SAFETY: The vma is valid by the type invariants. The field is set once, by whoever
        // prepares it under the mmap lock, and read as a single word.
        unsafe { !core::ptr::read_volatile(&raw const (*self.as_ptr()).anon_vma).is_null() }
    }
}

impl MmWithUser {
    /// Locks the mmap lock for reading, until the guard that is returned is dropped.
    ///
    /// May sleep. The caller holds neither the mmap lock nor the lock of a vma of this mm. Fails
    /// with `EINTR` when a fatal signal arrives.
    #[inline]
    pub fn mmap_read_lock_killable(&self) -> Result<MmapReadGuard<'_>> {
        // SAFETY: The pointer is valid since self is a reference.
        to_result(unsafe { bindings::mmap_read_lock_killable(self.as_raw()) })?;

        // INVARIANT: We just acquired the read lock.
        Ok(MmapReadGuard {
            mm: self,
            _nts: NotThreadSafe,
        })
    }
}

impl MmapReadGuard<'_> {
    /// Gives `vma` what the reverse mapping of a page of its own needs (`anon_vma`), if it does not
    /// have it yet.
    ///
    /// May sleep. The mmap lock is held, by `self`. Fails with `ENOMEM`, and with `EINVAL` for a
    /// vma of another mm.
    #[inline]
    pub fn prepare_anon_vma(&self, vma: &VmaRef) -> Result {
        if !vma.is_in(self.mm) {
            return Err(EINVAL);
        }
        // SAFETY: The vma is valid and we hold its mmap lock for reading.
        to_result(unsafe { bindings::anon_vma_prepare(vma.as_ptr()) })
    }
}
