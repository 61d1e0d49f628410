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
    mem::MaybeUninit,
    ops::Range, //
};

/// A range of addresses of which secondary MMUs hold no copy for as long as this lives.
///
/// # Invariants
///
/// `invalidate_range_start` was called for `range` of `mm`, `invalidate_range_end` was not.
#[must_use = "secondary MMUs may copy the entries again when this is dropped"]
pub struct InvalidateRange<'a> {
    range: bindings::mmu_notifier_range,
    mm: &'a MmWithUser,
    _nts: NotThreadSafe,
}

impl<'a> InvalidateRange<'a> {
    /// Has secondary MMUs drop what they hold of `range`, addresses of `vma` whose entries are
    /// about to be cleared (`MMU_NOTIFY_CLEAR`).
    ///
    /// Returns `None` for a range that is empty or not inside the vma. The vma stays locked for as
    /// long as this lives.
    ///
    /// Costs next to nothing where nobody listens. May sleep where somebody does, so no spinlock
    /// may be held.
    #[inline]
    pub fn clear(vma: &'a VmaRef, range: Range<usize>) -> Option<Self> {
        if range.is_empty() || !vma.contains(&range) {
            return None;
        }
        let mut raw = MaybeUninit::zeroed();
        // SAFETY: `raw` is valid for writing, the mm is that of a vma that is locked.
        unsafe {
            bindings::mmu_notifier_range_init(
                raw.as_mut_ptr(),
                bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
                0,
                vma.mm().as_raw(),
                range.start,
                range.end,
            );
            bindings::mmu_notifier_invalidate_range_start(raw.as_mut_ptr());
        }
        // INVARIANT: `invalidate_range_start` was just called.
        Some(Self {
            // SAFETY: `mmu_notifier_range_init` initialised it; without `CONFIG_MMU_NOTIFIER` it
            // has few fields, which were zeroed.
            range: unsafe { raw.assume_init() },
            mm: vma.mm(),
            _nts: NotThreadSafe,
        })
    }

    /// Whether `range`, addresses of `vma`, is in the range that secondary MMUs were told of. Does
    /// not sleep.
    #[inline]
    pub fn covers(&self, vma: &VmaRef, range: &Range<usize>) -> bool {
        vma.is_in(self.mm) && self.range.start <= range.start && range.end <= self.range.end
    }
}

impl Drop for InvalidateRange<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this pairs with `invalidate_range_start`.
        unsafe { bindings::mmu_notifier_invalidate_range_end(&mut self.range) };
    }
}
