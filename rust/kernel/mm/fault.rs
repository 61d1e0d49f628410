// SPDX-License-Identifier: GPL-2.0

//! A page fault that is being handled.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_fault`

#[cfg(CONFIG_USERFAULTFD_RANGE)]
use crate::mm::virt::flags;
use crate::{
    bindings,
    current,
    mm::virt::VmaRef,
    page::PAGE_MASK,
    prelude::*,
    time::msecs_to_jiffies,
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr::{
        self,
        NonNull, //
    }, //
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

    /// The access is made again, after the vma is locked anew.
    const RETRY: Self = Self(bindings::vm_fault_reason_VM_FAULT_RETRY);

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
/// The vma of the fault is locked: its read lock or the mmap lock is held, and the fault is who
/// gives it up. The page tables down to the pmd exist. The fault's own page-table pointer is not
/// mapped and no page-table lock is held.
pub struct VmFault<'a> {
    vmf: NonNull<bindings::vm_fault>,
    _vmf: PhantomData<&'a bindings::vm_fault>,
    _nts: NotThreadSafe,
}

impl<'a> VmFault<'a> {
    /// Access a fault given a raw pointer.
    ///
    /// # Safety
    ///
    /// The invariants must hold for the duration of `'a`, or until the lock is given up by
    /// [`unlock`](Self::unlock). The pointer is not null.
    #[inline]
    pub unsafe fn from_raw(vmf: *mut bindings::vm_fault) -> Self {
        // INVARIANT: The caller promises what they ask.
        Self {
            // SAFETY: The caller promises that it is not null.
            vmf: unsafe { NonNull::new_unchecked(vmf) },
            _vmf: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// The vma in which the access was made. It is locked for as long as the fault lives.
    #[inline]
    pub fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants the vma is valid and locked.
        unsafe { VmaRef::from_raw((*self.vmf.as_ptr()).__bindgen_anon_1.vma) }
    }

    /// The address of the page that was touched, whatever the size of the page that may come there.
    #[inline]
    pub fn address(&self) -> usize {
        // SAFETY: By the type invariants the fault is valid.
        unsafe { (*self.vmf.as_ptr()).__bindgen_anon_1.address & PAGE_MASK }
    }

    #[inline]
    fn has(&self, flag: bindings::fault_flag) -> bool {
        // SAFETY: By the type invariants the fault is valid.
        unsafe { (*self.vmf.as_ptr()).flags & flag != 0 }
    }

    /// Whether the program made the access, not the kernel for it.
    #[inline]
    pub fn is_by_program(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_USER)
    }

    /// Whether the caller can come again after the vma was unlocked.
    #[inline]
    pub fn may_retry(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY)
    }

    /// The answer for a caller that wants to come again, and nothing to be waited for. The vma
    /// stays locked.
    #[inline]
    pub fn retry_without_waiting(&self) -> Option<FaultResult> {
        self.has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT)
            .then_some(FaultResult::RETRY)
    }

    /// Whether the caller has waited for the page already, and comes again.
    #[inline]
    pub fn has_waited(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_TRIED)
    }

    /// What may end a wait for the page.
    ///
    /// No signal ends a thread of the kernel's own. If it waited for a process that is being
    /// killed, and that for its work, both would do so for ever.
    ///
    /// A program is to run its handler, whatever it waits for, and then makes the access again. An
    /// access by the kernel cannot: where the caller says that it looks at signals it is let go
    /// once, to do so; when it has come again it waits, rather than be let go again and again.
    #[inline]
    pub fn wait_mode(&self) -> WaitMode {
        if current!().is_kernel_thread() {
            return WaitMode::Limited;
        }
        let looks = self.has(bindings::fault_flag_FAULT_FLAG_INTERRUPTIBLE) && !self.has_waited();
        match self.is_by_program() || looks {
            true => WaitMode::Interruptible,
            false => WaitMode::Killable,
        }
    }

    /// Gives up the lock of the vma, which is not to be used any more. The caller comes again.
    #[inline]
    pub fn unlock(self) -> FaultResult {
        // SAFETY: By the type invariants the lock is held, and it is ours to give up.
        unsafe { bindings::release_fault_lock(self.vmf.as_ptr()) };
        FaultResult::RETRY
    }

    /// Hands the fault over to the descriptor that serves the vma by ranges, which may sleep; `Err`
    /// where none does.
    #[cfg(CONFIG_USERFAULTFD_RANGE)]
    #[inline]
    pub fn hand_over(self) -> Result<FaultResult, Self> {
        match self.vma().is_served() {
            // SAFETY: By the type invariants it is such a fault.
            true => Ok(FaultResult(unsafe {
                bindings::userfaultfd_range_fault(self.vmf.as_ptr())
            })),
            false => Err(self),
        }
    }

    /// Without the range protocol: no descriptor does.
    #[cfg(not(CONFIG_USERFAULTFD_RANGE))]
    #[inline]
    pub fn hand_over(self) -> Result<FaultResult, Self> {
        Err(self)
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
    pub fn lock_hole(self) -> Option<Hole<'a>> {
        let vmf = self.vmf.as_ptr();
        let mm = self.vma().mm().as_raw();

        // SAFETY: By the type invariants the fault and its pmd are valid.
        let (pmd, address, orig_pte) = unsafe {
            (
                (*vmf).pmd,
                (*vmf).__bindgen_anon_1.address,
                (*vmf).__bindgen_anon_2.orig_pte,
            )
        };

        // SAFETY: The pmd is valid by the type invariants.
        if unsafe { bindings::pmd_none(bindings::pmdp_get_lockless(pmd)) } != 0 {
            // SAFETY: As above.
            let ptl = unsafe { bindings::pmd_lock(mm, pmd) };
            // SAFETY: `pmd_lock` returns the lock that it took.
            let entry = unsafe { EntryLock::new(ptr::null_mut(), ptl) };
            // SAFETY: As above.
            let none = unsafe { bindings::pmd_none(bindings::pmdp_get_lockless(pmd)) } != 0;
            return none.then_some(Hole { entry, fault: self });
        }

        let mut ptl = ptr::null_mut();
        // SAFETY: The pmd is valid; the function copes with one that is no table.
        let pte = unsafe { bindings::pte_offset_map_lock(mm, pmd, address, &mut ptl) };
        if pte.is_null() {
            return None;
        }
        // SAFETY: `pte_offset_map_lock` mapped the table and took its lock.
        let entry = unsafe { EntryLock::new(pte, ptl) };
        // SAFETY: `pte` is mapped and locked.
        let now = unsafe { bindings::ptep_get(pte) };
        // The fault may have been taken for a marker (of userfaultfd's write protection) that
        // stands for a hole; it is one still if it is the same.
        let unchanged = if self.has(bindings::fault_flag_FAULT_FLAG_ORIG_PTE_VALID) {
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
        Some(Hole { entry, fault: self })
    }
}

impl VmaRef {
    /// Whether a descriptor serves the holes of the vma by ranges, where they are for the program
    /// to fill.
    #[cfg(CONFIG_USERFAULTFD_RANGE)]
    #[inline]
    pub fn is_served(&self) -> bool {
        self.flags() & flags::UFFD_RANGE != 0
    }

    /// Wakes those who wait for a page in `range` of the vma, if a descriptor serves it.
    ///
    /// Does not sleep.
    #[cfg(CONFIG_USERFAULTFD_RANGE)]
    #[inline]
    pub fn wake_waiters(&self, range: Range<usize>) {
        if self.is_served() {
            // SAFETY: The vma is locked by its type invariants, and served.
            unsafe { bindings::userfaultfd_range_wake_vma(self.as_ptr(), range.start, range.end) };
        }
    }

    /// Without the range protocol: nobody waits.
    #[cfg(not(CONFIG_USERFAULTFD_RANGE))]
    #[inline]
    pub fn wake_waiters(&self, _range: Range<usize>) {}

    /// Wakes all who wait for a page in the vma, since holes in it are for them to fill no more.
    ///
    /// Nobody has the vma locked for reading any more when this returns, nor can lock it before the
    /// mmap lock is given up: who is woken finds what is new. May sleep.
    ///
    /// # Safety
    ///
    /// The mmap lock must be held for writing.
    pub unsafe fn dismiss_waiters(&self) {
        #[cfg(CONFIG_USERFAULTFD_RANGE)]
        if self.is_served() {
            // SAFETY: The caller promises that the mmap lock is held.
            unsafe { bindings::vma_start_write(self.as_ptr()) };
            self.wake_waiters(self.start()..self.end());
        }
    }
}

/// What may end a wait, besides what is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitMode {
    /// Any signal.
    Interruptible,
    /// A fatal signal.
    Killable,
    /// Time.
    Limited,
}

impl WaitMode {
    /// The state of a task that waits so.
    #[inline]
    pub(super) fn task_state(self) -> u32 {
        match self {
            WaitMode::Interruptible => bindings::TASK_INTERRUPTIBLE,
            WaitMode::Killable | WaitMode::Limited => bindings::TASK_KILLABLE,
        }
    }

    /// How long a task waits at most, in jiffies.
    #[inline]
    pub(super) fn limit(self) -> c_long {
        /// Longer than most pages take, and not long for a process that is being killed.
        const LIMIT_MS: u32 = 2000;
        match self {
            WaitMode::Interruptible | WaitMode::Killable => c_long::MAX,
            WaitMode::Limited => msecs_to_jiffies(LIMIT_MS) as c_long,
        }
    }
}

/// A hole that was touched, and the lock of its entry: while it lives, nobody fills it.
pub struct Hole<'a> {
    // Dropped first.
    entry: EntryLock,
    fault: VmFault<'a>,
}

impl<'a> Hole<'a> {
    /// The fault that touched it.
    #[inline]
    pub fn fault(&self) -> &VmFault<'a> {
        &self.fault
    }

    /// Gives up the lock of the entry, and then that of the vma.
    #[inline]
    pub fn unlock(self) -> FaultResult {
        drop(self.entry);
        self.fault.unlock()
    }
}

/// The lock of an entry.
///
/// # Invariants
///
/// `ptl` is held. `pte` is mapped by `pte_offset_map_lock`, or null.
struct EntryLock {
    pte: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
    _nts: NotThreadSafe,
}

impl EntryLock {
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
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for EntryLock {
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
