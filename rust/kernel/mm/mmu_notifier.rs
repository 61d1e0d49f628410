// SPDX-License-Identifier: GPL-2.0

//! Telling secondary MMUs that page tables change.
//!
//! A secondary MMU (KVM's, a device's) holds copies of page-table entries. It must have dropped
//! its copies of a range before an entry of it changes, and must not make new ones until the
//! change is complete.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use crate::{
    bindings,
    mm::{
        virt::VmaRef,
        MmWithUser, //
    },
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Range, //
};

/// The room for what C needs to know of a range, written only where somebody listens.
pub struct RangeRoom(MaybeUninit<bindings::mmu_notifier_range>);

impl RangeRoom {
    /// Makes room. Costs nothing.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

impl Default for RangeRoom {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

/// A range of addresses of which secondary MMUs hold no copy for as long as this lives.
///
/// # Invariants
///
/// Where `told` is something, `invalidate_range_start` was called for it and
/// `invalidate_range_end` was not. Else nobody listens in the mm, and nobody begins to while this
/// lives: that takes the mmap lock and the lock of every vma for writing, and one is read-locked.
#[must_use = "secondary MMUs may copy the entries again when this is dropped"]
pub struct InvalidateRange<'a> {
    told: Option<&'a mut bindings::mmu_notifier_range>,
    _vma: PhantomData<&'a VmaRef>,
    _nts: NotThreadSafe,
}

impl<'a> InvalidateRange<'a> {
    /// Has secondary MMUs drop what they hold of `range`, addresses of the mm of `vma` whose
    /// entries are about to be cleared (`MMU_NOTIFY_CLEAR`).
    ///
    /// The vma stays locked for as long as this lives. Does nothing where nobody listens. May sleep
    /// where somebody does, so no spinlock may be held.
    #[inline]
    pub fn clear(vma: &'a VmaRef, range: Range<usize>, room: &'a mut RangeRoom) -> Self {
        let mm = vma.mm();
        // SAFETY: The mm is valid. Lockdep wants to see the call in any case.
        let listened = cfg!(CONFIG_LOCKDEP) || unsafe { bindings::mm_has_notifiers(mm.as_raw()) };
        // INVARIANT: Somebody listens and has been told, or nobody does.
        Self {
            told: listened.then(|| Self::tell(mm, &range, room)),
            _vma: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// Calls `invalidate_range_start`.
    #[cold]
    fn tell<'r>(
        mm: &MmWithUser,
        range: &Range<usize>,
        room: &'r mut RangeRoom,
    ) -> &'r mut bindings::mmu_notifier_range {
        room.0 = MaybeUninit::zeroed();
        // SAFETY: All fields are numbers and pointers, for which zero is a value.
        let raw = unsafe { room.0.assume_init_mut() };
        // SAFETY: `raw` is valid for writing, the mm is that of a vma that is locked.
        unsafe {
            bindings::mmu_notifier_range_init(
                raw,
                bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
                0,
                mm.as_raw(),
                range.start,
                range.end,
            );
            bindings::mmu_notifier_invalidate_range_start(raw);
        }
        raw
    }
}

impl Drop for InvalidateRange<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(range) = &mut self.told {
            // SAFETY: By the type invariants this pairs with `invalidate_range_start`.
            unsafe { bindings::mmu_notifier_invalidate_range_end(*range) };
        }
    }
}
