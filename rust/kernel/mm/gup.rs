// SPDX-License-Identifier: GPL-2.0

//! Getting hold of the pages of a program, under an mmap lock that a page fault may give up.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`mm/internal.h`](srctree/mm/internal.h)

use crate::{
    bindings,
    current,
    mm::MmapReadGuard,
    page::PAGE_SHIFT,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem, //
};

/// Pages of a program that somebody wants to get hold of, in the order of their addresses. What was
/// got is taken off.
///
/// # Invariants
///
/// `array` is null, or valid for writes of `left` pointers.
pub struct Pages<'a> {
    address: usize,
    left: usize,
    array: *mut *mut bindings::page,
    flags: c_uint,
    _array: PhantomData<&'a mut bindings::page>,
}

impl Pages<'_> {
    /// `count` pages from `address` on, got hold of as `flags` (`FOLL_*`) says, for each of which a
    /// pointer is put into `array`. With a null `array` they are only faulted in.
    ///
    /// # Safety
    ///
    /// `array` must be null, or valid for writes of so many pointers. In the latter case, and only
    /// then, `flags` must have `FOLL_GET` or `FOLL_PIN`, and not both.
    #[inline]
    pub unsafe fn new(
        address: usize,
        count: usize,
        array: *mut *mut bindings::page,
        flags: c_uint,
    ) -> Self {
        // INVARIANT: The caller promises it.
        Self {
            address,
            left: count,
            array,
            flags,
            _array: PhantomData,
        }
    }

    /// The address of the next page.
    #[inline]
    pub fn address(&self) -> usize {
        self.address
    }

    /// How many pages are still to be got.
    #[inline]
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether the caller looks at every signal, not only at fatal ones (`FOLL_INTERRUPTIBLE`).
    #[inline]
    pub fn is_interruptible(&self) -> bool {
        self.flags & bindings::FOLL_INTERRUPTIBLE != 0
    }

    /// Whether the caller may not sleep (`FOLL_FAST_ONLY`).
    #[inline]
    pub fn is_atomic(&self) -> bool {
        self.flags & bindings::GUP_FAST_ONLY != 0
    }

    /// Takes pages off, which somebody else has got: so many, or all.
    #[inline]
    pub fn take_off(&mut self, count: usize) {
        let count = count.min(self.left);
        self.left -= count;
        self.address = self.address.wrapping_add(count << PAGE_SHIFT);
        if !self.array.is_null() {
            // SAFETY: There was room for more pointers than that.
            // INVARIANT: There is room for those that are left.
            self.array = unsafe { self.array.add(count) };
        }
    }

    /// Gets what is left, up to a page that cannot be got, or to one for which a page fault gives
    /// up the lock, and then there is none to be returned. Fails if the first page cannot be got.
    ///
    /// May sleep.
    #[inline]
    pub fn get_rest<'b>(&mut self, lock: MmapReadGuard<'b>) -> Result<Option<MmapReadGuard<'b>>> {
        self.get(lock, self.left, 0)
    }

    /// Tries the next page alone, for which a page fault has given up the lock before. Like
    /// [`get_rest`](Self::get_rest) else.
    ///
    /// May sleep.
    #[inline]
    pub fn get_next_again<'b>(
        &mut self,
        lock: MmapReadGuard<'b>,
    ) -> Result<Option<MmapReadGuard<'b>>> {
        self.get(lock, self.left.min(1), bindings::GUP_TRIED)
    }

    fn get<'b>(
        &mut self,
        lock: MmapReadGuard<'b>,
        count: usize,
        more_flags: c_uint,
    ) -> Result<Option<MmapReadGuard<'b>>> {
        let mm = lock.mm.as_raw();
        let (array, flags) = (self.array, self.flags | more_flags);
        let mut locked = 1;
        // SAFETY: The guard has the lock, and the array has room for `count` pointers, which are
        // not more than `left`.
        let got = unsafe {
            bindings::__get_user_pages(mm, self.address, count, flags, array, &mut locked)
        };
        let lock = match locked {
            0 => {
                // What it would do was done.
                mem::forget(lock);
                None
            }
            _ => Some(lock),
        };
        // A fault that gives up the lock is no error.
        #[cfg(CONFIG_DEBUG_VM)]
        crate::warn_on!(lock.is_none() && got < 0);
        match got {
            0.. => self.take_off(got as usize),
            error => return Err(Error::from_errno(error as c_int)),
        }
        Ok(lock)
    }

    /// Gets at most `most` of what is left, as far as that needs neither a lock nor a page fault,
    /// with interrupts off. Returns how many there were.
    ///
    /// The pages are those of the running task. Without an array for them there are none. Does not
    /// sleep.
    #[inline]
    pub fn get_fast(&mut self, most: usize) -> usize {
        if self.array.is_null() || current!().mm().is_none() {
            return 0;
        }
        let count = self.left.min(most);
        let flags = self.flags | bindings::GUP_FAST_ONLY;
        // SAFETY: The array has room for `count` pointers. What cannot be looked up is refused.
        let got = unsafe { bindings::gup_fast_fallback(self.address, count, flags, self.array) };
        let got = got.max(0) as usize;
        self.take_off(got);
        got
    }
}
