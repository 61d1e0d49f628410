// SPDX-License-Identifier: GPL-2.0

//! The mmap lock for writing, and what can be changed of vmas with it.
//!
//! C headers: [`include/linux/mmap_lock.h`](srctree/include/linux/mmap_lock.h),
//! [`mm/vma.h`](srctree/mm/vma.h)

use crate::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    mm::{
        userfaultfd::{
            Context,
            Range as Protocol, //
        },
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
        MmWithUser, //
    },
    prelude::*,
    sched::cond_resched,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    ops::Range,
    ptr, //
};

/// What mainline sets of a vma's flags together with its context, and what the range protocol does.
const REGISTERED: vm_flags_t = bindings::__VM_UFFD_FLAGS as vm_flags_t;

/// A guard for the mmap lock, locked for writing: nobody else looks at a vma or changes one, but
/// those who have locked it for reading by itself.
///
/// # Invariants
///
/// The lock is held.
pub struct MmapWriteGuard<'a> {
    mm: &'a MmWithUser,
    // The lock must be given up by the thread that has taken it.
    _nts: NotThreadSafe,
}

impl MmWithUser {
    /// Locks the mmap lock for writing, until the guard that is returned is dropped.
    ///
    /// May sleep. The caller holds neither the mmap lock nor the lock of a vma of this mm. Fails
    /// with `EINTR` when a fatal signal arrives.
    #[inline]
    pub fn mmap_write_lock_killable(&self) -> Result<MmapWriteGuard<'_>> {
        // SAFETY: The pointer is valid since self is a reference.
        to_result(unsafe { bindings::mmap_write_lock_killable(self.as_raw()) })?;
        // INVARIANT: It was just taken.
        Ok(MmapWriteGuard {
            mm: self,
            _nts: NotThreadSafe,
        })
    }

    /// The address behind the last that a program of this mm can have.
    #[inline]
    pub fn task_size(&self) -> usize {
        // SAFETY: The mm is valid, and the field does not change after exec.
        unsafe { (*self.as_raw()).__bindgen_anon_1.task_size }
    }
}

impl<'a> MmapWriteGuard<'a> {
    /// Looks at an mm that somebody else has locked.
    ///
    /// # Safety
    ///
    /// The mmap lock must be held for writing, by this thread, for as long as the guard is used,
    /// which must be forgotten.
    #[inline]
    pub unsafe fn assume_held(mm: &'a MmWithUser) -> core::mem::ManuallyDrop<Self> {
        // INVARIANT: The caller promises it.
        core::mem::ManuallyDrop::new(Self {
            mm,
            _nts: NotThreadSafe,
        })
    }

    /// The first vma that ends behind `address`.
    #[inline]
    pub fn find_vma(&self, address: usize) -> Option<&VmaRef> {
        // SAFETY: The lock is held for as long as `self` is borrowed.
        unsafe { self.mm.find_vma(address) }
    }

    /// The vmas that have an address in `range`, in their order.
    pub fn vmas(&self, range: Range<usize>) -> impl Iterator<Item = &VmaRef> {
        // SAFETY: As above.
        unsafe { self.mm.vmas(range) }
    }

    /// Splits vmas so that none for which `which` holds lies partly in `range`.
    ///
    /// May sleep. Fails with `ENOMEM`; some may be split then, which nobody sees but who counts
    /// them.
    pub fn split_around(
        &mut self,
        range: &Range<usize>,
        which: impl Fn(&VmaRef) -> bool,
    ) -> Result {
        for at in [range.start, range.end] {
            let vma = self.find_vma(at).filter(|vma| vma.start() < at);
            let Some(vma) = vma.filter(|vma| which(vma)) else {
                continue;
            };
            let (end, flags, ctx) = (vma.end(), vma.flags(), vma.userfaultfd());
            let mut vmi = VmaIterator::new(self.mm, at);
            // The part behind is made what it is. It does not begin with the vma, so that it does
            // not merge with what lies before: that may be what was split off a moment ago.
            // SAFETY: The mmap lock is held, and the iterator is at the vma.
            from_err_ptr(unsafe {
                let vma = bindings::vma_find(vmi.as_ptr(), end);
                bindings::vma_modify_uffd(vmi.as_ptr(), vma, vma, at, end, flags, ctx, false)
            })?;
        }
        Ok(())
    }

    /// Registers the vmas in `range` with `ctx`. Merges those that it can.
    ///
    /// May sleep. Nothing can go wrong: [`split_around`](Self::split_around) was called for the
    /// same range and all vmas. Nobody has a vma of the range locked for reading any more when this
    /// returns, nor can lock it before the mmap lock is given up.
    pub fn register<T: Protocol>(&mut self, range: &Range<usize>, ctx: &Context<T>) {
        self.change(range, |_| true, flags::UFFD_RANGE, ctx.as_raw());
    }

    /// Ends the registration of the vmas in `range` that are served by ranges.
    ///
    /// As [`register`](Self::register); `split_around` was called for the vmas that are served.
    pub fn unregister(&mut self, range: &Range<usize>) {
        self.change(range, VmaRef::is_served, 0, ptr::null_mut());
    }

    fn change(
        &mut self,
        range: &Range<usize>,
        which: impl Fn(&VmaRef) -> bool,
        flag: vm_flags_t,
        ctx: *mut bindings::userfaultfd_ctx,
    ) {
        let mut vmi = VmaIterator::new(self.mm, range.start);
        // SAFETY: The mmap lock is held, so that the vmas that the iterator gives are valid. Each
        // that is changed lies in the range as a whole, so that nothing has to be split, and what
        // cannot be merged for want of memory is not: no error is returned.
        unsafe {
            let mut prev = bindings::vma_prev(vmi.as_ptr());
            loop {
                let found = bindings::vma_find(vmi.as_ptr(), range.end);
                if found.is_null() {
                    break;
                }
                let vma = VmaRef::from_raw(found);
                prev = match which(vma) {
                    false => found,
                    true => {
                        let (start, end) = (vma.start(), vma.end());
                        let new = vma.flags() & !REGISTERED | flag;
                        let vmi = vmi.as_ptr();
                        let vma =
                            bindings::vma_modify_uffd(vmi, prev, found, start, end, new, ctx, true);
                        bindings::userfaultfd_set_ctx(vma, ctx, flag);
                        vma
                    }
                };
                cond_resched();
            }
        }
    }
}

impl Drop for MmapWriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants we hold the lock.
        unsafe { bindings::mmap_write_unlock(self.mm.as_raw()) };
    }
}

/// An iterator of C's, which starts at an address.
struct VmaIterator(Opaque<bindings::vma_iterator>);

impl VmaIterator {
    fn new(mm: &MmWithUser, address: usize) -> Self {
        let new = Self(Opaque::uninit());
        // SAFETY: The mm is valid. The iterator has no pointer to itself.
        unsafe { bindings::vma_iter_init(new.0.get(), mm.as_raw(), address) };
        new
    }

    fn as_ptr(&mut self) -> *mut bindings::vma_iterator {
        self.0.get()
    }
}
