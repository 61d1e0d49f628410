// SPDX-License-Identifier: GPL-2.0

//! What leads from an anonymous folio to the vmas that map it: `struct anon_vma`, and its lock.
//!
//! C headers: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! [`mm/internal.h`](srctree/mm/internal.h)

use crate::{
    bindings,
    mm::{
        folio::Folio,
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
use core::ptr::{
    self,
    NonNull, //
};

/// A `struct anon_vma`.
///
/// # Invariants
///
/// It is one for as long as the reference lives: a count is held, or the RCU read lock. With the
/// latter it may be freed and become another's meanwhile.
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
        // SAFETY: The caller holds a count, so this is not the first.
        unsafe { bindings::atomic_inc(&raw mut (*self.as_ptr()).refcount) };
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
    /// That of `folio`, if the folio is anonymous (and not KSM's) and mapped. Whoever unmaps it
    /// does not ask us, so that it is the folio's only as long as the folio is
    /// [mapped](Folio::is_mapped) when looked at later.
    ///
    /// The caller has locked the folio. Does not sleep.
    #[inline(always)]
    pub fn of<'a>(folio: &Folio, _rcu: &'a rcu::Guard) -> Option<&'a Self> {
        const FLAGS: usize = bindings::FOLIO_MAPPING_FLAGS as usize;
        const ANON: usize = bindings::FOLIO_MAPPING_ANON as usize;

        // SAFETY: The folio is valid, and the field is read as a single word.
        let mapping = unsafe {
            let fields = &raw const (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1;
            ptr::read_volatile(&raw const (*fields).mapping)
        };
        if mapping.addr() & FLAGS != ANON || !folio.is_mapped() {
            return None;
        }
        let anon_vma = mapping.cast::<u8>().wrapping_sub(ANON).cast::<Self>();
        // SAFETY: A mapped folio's anon_vma was not freed before the RCU read lock was taken, and
        // memory of an anon_vma becomes nothing else while that is held (SLAB_TYPESAFE_BY_RCU).
        Some(unsafe { &*anon_vma })
    }

    #[inline]
    fn as_ptr(&self) -> *mut bindings::anon_vma {
        self.0.get()
    }

    /// The one whose lock is that of this one. It is another for another's.
    #[inline]
    fn root(&self) -> *mut bindings::anon_vma {
        // SAFETY: By the type invariants it is an anon_vma, and the field is read as a single word.
        unsafe { ptr::read_volatile(&raw const (*self.as_ptr()).root) }
    }

    /// Takes a count, unless it is being freed. Does not sleep.
    #[inline]
    pub fn try_get(&self) -> Option<ARef<Self>> {
        // SAFETY: By the type invariants it is an anon_vma. The count was just taken.
        unsafe {
            bindings::atomic_inc_not_zero(&raw mut (*self.as_ptr()).refcount)
                .then(|| ARef::from_raw(NonNull::from(self)))
        }
    }

    /// Locks it for reading, if that can be done at once. Does not sleep.
    #[inline(always)]
    pub fn try_lock_read(&self) -> Option<AnonVmaReadGuard> {
        let root = self.root();
        // SAFETY: Roots are anon_vmas, freed as such.
        let locked = unsafe { bindings::down_read_trylock(&raw mut (*root).rwsem) } != 0;
        // INVARIANT: It was just taken.
        locked.then(|| AnonVmaReadGuard {
            anon_vma: self.as_ptr(),
            root,
            _nts: NotThreadSafe,
        })
    }

    /// Locks it for reading, and gives the count up that kept it until now: `None` where that was
    /// the last one.
    ///
    /// May sleep.
    pub fn lock_read(this: ARef<Self>) -> Option<AnonVmaReadGuard> {
        // The root stays the same: there is a count.
        let (anon_vma, root) = (this.as_ptr(), this.root());
        // SAFETY: The root is kept by what it is the root of.
        unsafe { bindings::down_read(&raw mut (*root).rwsem) };
        // INVARIANT: It was just taken.
        let guard = AnonVmaReadGuard {
            anon_vma,
            root,
            _nts: NotThreadSafe,
        };
        let anon_vma = ARef::into_raw(this).as_ptr().cast::<bindings::anon_vma>();
        // SAFETY: The count is ours to give up. With the lock held for reading nobody could take
        // it for writing, as who gives the last count up does.
        unsafe {
            if bindings::atomic_dec_and_test(&raw mut (*anon_vma).refcount) {
                drop(guard);
                bindings::__put_anon_vma(anon_vma);
                return None;
            }
        }
        Some(guard)
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

/// Leads from `folio` to `vma`, and to nowhere else any more, as it is mapped there alone.
///
/// Does not sleep.
///
/// # Safety
///
/// The folio must be anonymous and mapped by this vma alone, which has an anon_vma, and be locked.
#[inline]
pub unsafe fn move_to_vma(folio: &Folio, vma: &VmaRef) {
    let mapping = vma.anon_mapping();
    debug_assert!(!mapping.is_null());
    // SAFETY: The caller promises what is asked for.
    unsafe { folio.set_anon_mapping(mapping) };
}
