// SPDX-License-Identifier: GPL-2.0

//! Folios: memory of one or more pages that is managed as one.
//!
//! A [`Folio`] is what the page tables of one or more processes map. Its lock holds off reclaim,
//! whatever wants to move or split it, and every walk of its reverse mapping. It does not hold off
//! munmap(2) and the like, which find the folio by an entry, under the lock of its page table.
//!
//! Lock order: the folio lock is taken before any page-table lock. Under a page-table lock it may
//! only be tried.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use crate::{
    bindings,
    error::{
        to_result,
        Result, //
    },
    ffi,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A wrapper for the kernel's `struct folio`.
///
/// # Invariants
///
/// Values of this type are always refcounted: by an `ARef`, or by a page-table entry whose lock is
/// held for as long as the reference lives.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: By the type invariants, this type is always refcounted.
unsafe impl AlwaysRefCounted for Folio {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_get(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller is giving up their refcount.
        unsafe { bindings::folio_put(obj.cast().as_ptr()) };
    }
}

impl Folio {
    /// Access a folio given a raw pointer.
    ///
    /// # Safety
    ///
    /// The folio must stay referenced for the duration of `'a`, by a count of the caller's or by a
    /// page-table entry that cannot change meanwhile.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::folio) -> &'a Self {
        // SAFETY: The caller promises that the folio lives for 'a. The layout is compatible due to
        // repr(transparent).
        unsafe { &*ptr.cast() }
    }

    /// Returns a raw pointer to the folio, which is valid for as long as `self` is. No reference is
    /// taken.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Whether the folio has more than one page.
    ///
    /// Stable while the folio is locked, or while a page-table entry that maps it is. Does not
    /// sleep.
    #[inline]
    pub fn is_large(&self) -> bool {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_test_large(self.as_ptr()) }
    }

    /// Whether the folio is anonymous. One that was read from swap is not before it is mapped.
    /// Stable while the folio is locked.
    #[inline]
    pub fn is_anonymous(&self) -> bool {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_test_anon(self.as_ptr()) }
    }

    /// Whether any page of the folio may be pinned for DMA.
    ///
    /// May say yes for a folio with very many references. A no is final only once nobody can pin
    /// any more: after the entries that map it were cleared under their lock. Does not sleep.
    #[inline]
    pub fn maybe_dma_pinned(&self) -> bool {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_maybe_dma_pinned(self.as_ptr()) }
    }

    /// How many pages the folio has. Stable as [`is_large`](Self::is_large) is. Does not sleep.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_nr_pages(self.as_ptr()) as usize }
    }

    /// How often the folio's pages are mapped, all in all. Does not sleep.
    ///
    /// May be out of date when it arrives, but for what the caller excludes by its locks.
    #[inline]
    pub fn mapcount(&self) -> usize {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_mapcount(self.as_ptr()) as usize }
    }

    /// Whether any page table maps a page of the folio. May be out of date, as
    /// [`mapcount`](Self::mapcount).
    #[inline]
    pub fn is_mapped(&self) -> bool {
        // SAFETY: The pointer is valid since self is a reference.
        unsafe { bindings::folio_mapped(self.as_ptr()) }
    }

    /// What leads to where the folio is mapped, with the bits that say how. Stable while the folio
    /// is locked; somebody else may change what it points to.
    #[inline]
    pub(super) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: The folio is valid, and the field is read as a single word.
        unsafe {
            let fields = &raw const (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1;
            ptr::read_volatile(&raw const (*fields).mapping)
        }
    }

    /// Locks the folio, until the guard is dropped, if nobody else holds its lock; `None` if
    /// somebody does.
    ///
    /// Does not sleep, and may be called under a page-table lock.
    #[inline]
    #[must_use = "the folio unlocks immediately when the guard is unused"]
    pub fn try_lock(&self) -> Option<FolioGuard<'_>> {
        // SAFETY: The pointer is valid since self is a reference.
        if unsafe { bindings::folio_trylock(self.as_ptr()) } {
            // INVARIANT: We just acquired the lock.
            Some(FolioGuard {
                folio: self,
                _nts: NotThreadSafe,
            })
        } else {
            None
        }
    }

    /// Gives up the reference and sleeps until whoever holds the folio's lock lets go of it.
    ///
    /// An extra reference makes a split or a migration of the folio fail, so a waiter must not
    /// keep one. Afterwards the caller knows nothing of the folio and looks it up again.
    ///
    /// Sleeps, so no spinlock may be held, and no lock that the one who holds the folio's may be
    /// waiting for: best none. Fails with `EINTR` when a fatal signal arrives; the reference is
    /// gone then too.
    #[inline]
    pub fn put_and_wait_unlocked(this: ARef<Folio>) -> Result {
        let folio = ARef::into_raw(this);
        // SAFETY: The reference that `into_raw` handed over is the one that the function drops.
        to_result(unsafe {
            bindings::folio_put_wait_locked(
                folio.cast().as_ptr(),
                bindings::TASK_KILLABLE as ffi::c_int,
            )
        })
    }
}

/// A guard for the folio lock; unlocks when dropped.
///
/// # Invariants
///
/// The lock of `folio` is held, and this guard owns it.
#[must_use = "the folio unlocks immediately when the guard is unused"]
pub struct FolioGuard<'a> {
    folio: &'a Folio,
    // The lock belongs to no thread, but whoever takes it under a page-table lock lets go of it
    // before that one.
    _nts: NotThreadSafe,
}

impl<'a> FolioGuard<'a> {
    /// The lock of a folio that somebody else has locked.
    ///
    /// # Safety
    ///
    /// The folio must be referenced and locked for `'a`, and the lock be given up by who has taken
    /// it.
    #[inline]
    pub unsafe fn assume_held(folio: *mut bindings::folio) -> ManuallyDrop<Self> {
        // SAFETY: The folio is valid. It is checked on kernels that check such things only.
        unsafe { bindings::folio_assert_locked(folio) };
        // INVARIANT: The caller promises it.
        ManuallyDrop::new(Self {
            // SAFETY: The caller promises that it is referenced.
            folio: unsafe { Folio::from_raw(folio) },
            _nts: NotThreadSafe,
        })
    }

    /// The folio whose lock is held, for as long as the guard lives.
    #[inline]
    pub fn folio(&self) -> &Folio {
        self.folio
    }
}

impl Drop for FolioGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants we hold the lock.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
    }
}

/// A folio that is locked and referenced, so that it can be taken along to where sleeping is
/// allowed.
///
/// # Invariants
///
/// The lock of `folio` is held, and this owns it.
#[must_use = "the folio unlocks immediately when this is dropped"]
pub struct LockedFolio {
    folio: ARef<Folio>,
    _nts: NotThreadSafe,
}

impl From<FolioGuard<'_>> for LockedFolio {
    #[inline]
    fn from(guard: FolioGuard<'_>) -> Self {
        // INVARIANT: The guard's lock goes over to the new value, since the guard is not dropped.
        let guard = ManuallyDrop::new(guard);
        Self {
            folio: guard.folio.into(),
            _nts: NotThreadSafe,
        }
    }
}

impl LockedFolio {
    /// Locks a folio, if nobody else holds its lock; else gives the reference back. Does not sleep,
    /// and may be called under a page-table lock.
    #[inline]
    pub fn try_lock(folio: ARef<Folio>) -> Result<Self, ARef<Folio>> {
        // SAFETY: The reference keeps the folio.
        if unsafe { bindings::folio_trylock(folio.as_ptr()) } {
            // INVARIANT: We just acquired the lock.
            Ok(Self {
                folio,
                _nts: NotThreadSafe,
            })
        } else {
            Err(folio)
        }
    }

    /// The folio whose lock is held, for as long as this lives.
    #[inline]
    pub fn folio(&self) -> &Folio {
        &self.folio
    }

    /// Splits a large folio into single pages, and unlocks it. A folio of one page is left as it
    /// is.
    ///
    /// Fails with `EAGAIN` where others hold references, with `EBUSY` where the folio cannot be
    /// split now, and with `EINVAL` where it never can. It is whole then. May sleep, so no
    /// page-table lock may be held; those of vmas, or the mmap lock, may.
    pub fn split(self) -> Result {
        // C warns when it is given a single page.
        if !self.folio.is_large() {
            return Ok(());
        }
        // SAFETY: The folio is locked by the type invariants, and the reference is ours. Both stay
        // with the folio that its first page becomes.
        to_result(unsafe { bindings::split_folio(self.folio.as_ptr()) })
    }
}

impl Drop for LockedFolio {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants we hold the lock.
        unsafe { bindings::folio_unlock(self.folio.as_ptr()) };
    }
}
