// SPDX-License-Identifier: GPL-2.0

//! A folio that moves from one place in the page tables to another.
//!
//! The steps are types, so that none is left out: what is mapped at the source and nowhere else
//! ([`Exclusive`]) gets its folio locked ([`Locked`]), is taken out of the source ([`Taken`]), and
//! then is put in place at the destination, or goes back when it is dropped. What moves as one, and
//! with it which entries these are, is a [`Unit`]: the entry of a page, the entries of a folio of
//! several pages, the entry of a huge page.
//!
//! Lock order: the lock of the folio comes before those of page tables, and is only tried here,
//! under them. While it is held nobody follows the folio's reverse mapping, which changes on the
//! way.

use crate::{
    mm::{
        anon::AnonRmap,
        folio::{
            Folio,
            FolioGuard, //
        },
    },
    sync::{
        aref::ARef,
        barrier::smp_mb_after_atomic, //
    },
};
use core::{
    mem::ManuallyDrop,
    ptr, //
};

/// The entries that map all of a folio at the source, and those that are to map it at the
/// destination.
///
/// # Safety
///
/// While a value lives, the locks of all these entries' tables must be held, secondary MMUs must
/// hold no copy of the source's, and the destination's must be none.
pub unsafe trait Unit: Sized {
    /// What the source's entries held.
    type Old;

    /// Clears the source's entries: from here on an access finds a hole.
    fn clear(&mut self) -> Self::Old;

    /// Puts back what [`clear`](Self::clear) has taken out.
    fn restore(&mut self, old: &Self::Old);

    /// What leads from the folio to the destination.
    fn rmap(&self) -> AnonRmap;

    /// Fills the destination's entries, sees to it that the source's old ones are flushed from the
    /// TLB before the tables are unlocked, and is done with both.
    ///
    /// # Safety
    ///
    /// The source's entries must have been cleared, and the folio's reverse mapping must lead to
    /// the destination.
    unsafe fn set(self, folio: &Folio);
}

/// A folio that is mapped at the source and nowhere else.
///
/// # Invariants
///
/// The source's entries of `unit` map all of `folio`, exclusively, so that they keep it.
pub struct Exclusive<'f, U: Unit> {
    folio: &'f Folio,
    unit: U,
}

impl<'f, U: Unit> Exclusive<'f, U> {
    /// # Safety
    ///
    /// The type invariants must hold.
    #[inline]
    pub(super) unsafe fn new(folio: &'f Folio, unit: U) -> Self {
        // INVARIANT: The caller promises it.
        Self { folio, unit }
    }

    /// The folio.
    #[inline]
    pub fn folio(&self) -> &'f Folio {
        self.folio
    }

    /// Locks the folio by trying. Does not sleep.
    ///
    /// Where somebody else has the lock, what is returned is a reference to the folio that outlives
    /// the locks of the page tables.
    #[inline]
    pub fn try_lock(self) -> Result<Locked<'f, U>, ARef<Folio>> {
        match self.folio.try_lock() {
            // INVARIANT: The folio was just locked.
            Some(lock) => Ok(Locked {
                lock,
                unit: self.unit,
            }),
            None => Err(self.folio.into()),
        }
    }
}

/// A folio of the source that is locked: nobody follows its reverse mapping.
///
/// # Invariants
///
/// Those of [`Exclusive`], and the folio is locked.
pub struct Locked<'f, U: Unit> {
    lock: FolioGuard<'f>,
    unit: U,
}

impl<'f, U: Unit> Locked<'f, U> {
    /// Takes the folio out of the source: from here on an access finds a hole, and nobody can pin
    /// the folio any more. Whoever looks for pins afterwards sees all of them.
    #[inline]
    pub fn take(mut self) -> Taken<'f, U> {
        let old = self.unit.clear();
        // gup_fast pins, then looks at the entry again. Here it is the other way round, and the
        // look at the pins must not come before the entry is clear, which is not ordered by itself
        // on every architecture. Pairs with the barrier in C's `try_grab_folio_fast()`.
        smp_mb_after_atomic();
        // INVARIANT: The entries were just cleared.
        Taken {
            lock: self.lock,
            unit: self.unit,
            old,
        }
    }
}

/// A folio that is out of the source and not yet at the destination. Goes back when dropped.
///
/// # Invariants
///
/// Those of [`Locked`], but that the source's entries, which held `old`, are none now.
#[must_use = "the folio goes back to the source when this is dropped"]
pub struct Taken<'f, U: Unit> {
    lock: FolioGuard<'f>,
    unit: U,
    old: U::Old,
}

impl<U: Unit> Taken<'_, U> {
    /// The folio.
    #[inline]
    pub fn folio(&self) -> &Folio {
        self.lock.folio()
    }

    /// Puts the folio in place at the destination, and unlocks it.
    ///
    /// Its reverse mapping goes over to the destination's vma first. The entries get the protection
    /// of that vma, are dirty and young, and have what those who look for changes go by.
    #[inline]
    pub fn place(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so each field is moved out or dropped once, here.
        let (lock, unit) = unsafe {
            ptr::drop_in_place((&raw const this.old).cast_mut());
            (ptr::read(&this.lock), ptr::read(&this.unit))
        };
        // SAFETY: The folio is exclusive and locked, and no entry maps it.
        unsafe { unit.rmap().set(lock.folio()) };
        // SAFETY: The source's entries are none by the type invariants, and the reverse mapping was
        // just changed.
        unsafe { unit.set(lock.folio()) };
    }
}

impl<U: Unit> Drop for Taken<'_, U> {
    #[inline]
    fn drop(&mut self) {
        self.unit.restore(&self.old);
    }
}
