// SPDX-License-Identifier: GPL-2.0

//! What leads from an anonymous folio to the vmas that map it: `struct anon_vma`, and its lock.
//!
//! C headers: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! [`mm/internal.h`](srctree/mm/internal.h)

use crate::{
    bindings,
    mm::{
        folio::FolioGuard,
        virt::VmaRef, //
    },
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        rcu, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A `struct anon_vma`.
///
/// # Invariants
///
/// Values of this type are counted (`refcount`).
#[repr(transparent)]
pub struct AnonVma(Opaque<bindings::anon_vma>);

// SAFETY: A count can be given up by any thread.
unsafe impl Send for AnonVma {}

// SAFETY: All methods can be called by several threads at once.
unsafe impl Sync for AnonVma {}

// SAFETY: It is freed when the last count goes.
unsafe impl AlwaysRefCounted for AnonVma {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: By the type invariants there is a count, so this is not the first.
        unsafe { bindings::atomic_inc(&raw mut (*self.0.get()).refcount) };
    }

    /// May sleep.
    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        let anon_vma = obj.as_ptr().cast::<bindings::anon_vma>();
        // SAFETY: The caller gives a count up.
        unsafe {
            if bindings::atomic_dec_and_test(&raw mut (*anon_vma).refcount) {
                bindings::__put_anon_vma(anon_vma);
            }
        }
    }
}

impl AnonVma {
    /// Locks it for reading, and gives the count up that kept it until now: `None` where that was
    /// the last one.
    ///
    /// May sleep.
    pub fn lock_read(this: ARef<Self>) -> Option<AnonVmaReadGuard> {
        let anon_vma = ARef::into_raw(this).as_ptr().cast::<bindings::anon_vma>();
        // SAFETY: There is a count until it is given up here, so the root stays the same and is
        // kept. With the lock held for reading nobody could take it for writing, as who gives up
        // the last count does: so that is left to us.
        unsafe {
            let root = root_of(anon_vma);
            bindings::down_read(&raw mut (*root).rwsem);
            // INVARIANT: It was just taken.
            let guard = AnonVmaReadGuard {
                anon_vma,
                root,
                _nts: NotThreadSafe,
            };
            if bindings::atomic_dec_and_test(&raw mut (*anon_vma).refcount) {
                drop(guard);
                bindings::__put_anon_vma(anon_vma);
                return None;
            }
            Some(guard)
        }
    }
}

/// The one whose lock is that of this one.
///
/// # Safety
///
/// It must be an anon_vma, though it may become another's meanwhile.
#[inline]
unsafe fn root_of(anon_vma: *mut bindings::anon_vma) -> *mut bindings::anon_vma {
    // SAFETY: The caller promises it. The field is read as a single word.
    unsafe { ptr::read_volatile(&raw const (*anon_vma).root) }
}

/// What a folio leads to while nobody keeps it.
///
/// # Invariants
///
/// `anon_vma` was that of the folio, and is an anon_vma; but it may be freed, and become another's.
pub struct Candidate<'a> {
    anon_vma: *mut bindings::anon_vma,
    folio: &'a FolioGuard<'a>,
    _rcu: PhantomData<&'a rcu::Guard>,
}

impl<'a> Candidate<'a> {
    /// That of a locked folio, if this is anonymous (and not KSM's) and mapped. Does not sleep.
    #[inline(always)]
    pub fn of(folio: &'a FolioGuard<'a>, _rcu: &'a rcu::Guard) -> Option<Self> {
        const FLAGS: usize = bindings::FOLIO_MAPPING_FLAGS as usize;
        const ANON: usize = bindings::FOLIO_MAPPING_ANON as usize;

        let mapping = folio.folio().mapping();
        if mapping.addr() & FLAGS != ANON || !folio.folio().is_mapped() {
            return None;
        }
        // INVARIANT: The anon_vma of a mapped folio is there. Since it was after the RCU read lock
        // was taken, its memory becomes nothing else while that is held (SLAB_TYPESAFE_BY_RCU).
        Some(Self {
            anon_vma: mapping.cast::<u8>().wrapping_sub(ANON).cast(),
            folio,
            _rcu: PhantomData,
        })
    }

    /// Takes a count, unless it is being freed. It is the folio's own if that is mapped after this.
    /// Does not sleep.
    #[inline]
    pub fn try_get(&self) -> Option<ARef<AnonVma>> {
        // SAFETY: By the type invariants it is an anon_vma. The count was just taken.
        unsafe {
            bindings::atomic_inc_not_zero(&raw mut (*self.anon_vma).refcount)
                .then(|| ARef::from_raw(NonNull::new_unchecked(self.anon_vma.cast())))
        }
    }

    /// Locks it for reading, if that can be done at once. Does not sleep.
    #[inline(always)]
    pub fn try_lock_read(self) -> Option<TriedLock<'a>> {
        // SAFETY: By the type invariants it is an anon_vma, and so is its root.
        unsafe {
            let root = root_of(self.anon_vma);
            (bindings::down_read_trylock(&raw mut (*root).rwsem) != 0).then(|| TriedLock {
                // INVARIANT: It was just taken.
                guard: AnonVmaReadGuard {
                    anon_vma: self.anon_vma,
                    root,
                    _nts: NotThreadSafe,
                },
                of: self,
            })
        }
    }
}

/// The lock of an anon_vma that may be another's.
pub struct TriedLock<'a> {
    guard: AnonVmaReadGuard,
    of: Candidate<'a>,
}

impl TriedLock<'_> {
    /// The lock, if the anon_vma is the folio's own still. Then it stays while it is locked, as
    /// whoever frees an anon_vma takes its lock before.
    #[inline(always)]
    pub fn confirm(self) -> Option<AnonVmaReadGuard> {
        self.of.folio.folio().is_mapped().then_some(self.guard)
    }
}

/// The lock of an anon_vma, held for reading: no vma is added to it or taken out.
///
/// # Invariants
///
/// The lock, which is in `root`, is held.
pub struct AnonVmaReadGuard {
    anon_vma: *mut bindings::anon_vma,
    root: *mut bindings::anon_vma,
    _nts: NotThreadSafe,
}

impl AnonVmaReadGuard {
    /// Leaves the lock to C, which gives it up through the anon_vma.
    #[inline]
    pub fn into_raw(self) -> *mut bindings::anon_vma {
        core::mem::ManuallyDrop::new(self).anon_vma
    }
}

impl Drop for AnonVmaReadGuard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held.
        unsafe { bindings::up_read(&raw mut (*self.root).rwsem) };
    }
}

/// Leads from a locked folio to `vma`, and to nowhere else any more. Does not sleep.
///
/// # Safety
///
/// The folio must be anonymous, and this vma, which has an anon_vma, be the only one to map it, or
/// about to.
#[inline]
pub unsafe fn move_to_vma(folio: &FolioGuard<'_>, vma: &VmaRef) {
    // SAFETY: The vma is valid. It is checked on kernels that check such things only.
    unsafe { bindings::vma_assert_anon_vma(vma.as_ptr()) };
    if let Some(mapping) = vma.anon_mapping() {
        // SAFETY: The caller promises what is asked for.
        unsafe { folio.folio().set_anon_mapping(mapping) };
    }
}
