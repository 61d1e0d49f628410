// SPDX-License-Identifier: GPL-2.0

//! User-space page faults.
//!
//! A program marks memory with `MADV_USERFAULT`; from then on a touch of a hole in it is for the
//! program to handle, and `remap_anon_pages` is how it puts a page in place.
//!
//! This file is where C and user space come in. What is decided, the modules say; what may go
//! wrong between them and the page tables, the abstractions in `rust/kernel/mm/` see to.
//!
//! C header: [`include/linux/userfault.h`](srctree/include/linux/userfault.h)
//! Internals: Documentation/mm/userfault.rst

#[cfg(CONFIG_ANON_RMAP_RUST)]
#[deny(unsafe_code)]
mod anon_rmap;
#[cfg(CONFIG_USERFAULT)]
#[deny(unsafe_code)]
mod fault;
#[cfg(CONFIG_GUP_LOCKED_RUST)]
#[deny(unsafe_code)]
mod gup_fast;
#[cfg(CONFIG_GUP_LOCKED_RUST)]
#[deny(unsafe_code)]
mod gup_locked;
#[cfg(all(CONFIG_REMAP_ANON_PAGES, CONFIG_TRANSPARENT_HUGEPAGE))]
#[deny(unsafe_code)]
mod huge;
#[cfg(CONFIG_USERFAULT)]
#[deny(unsafe_code)]
mod madvise;
#[cfg(CONFIG_REMAP_ANON_PAGES)]
#[deny(unsafe_code)]
mod remap_anon_pages;
#[cfg(CONFIG_REMAP_ANON_PAGES)]
#[deny(unsafe_code)]
mod request;

#[cfg(CONFIG_ANON_RMAP_RUST)]
use core::ptr;
#[cfg(CONFIG_GUP_LOCKED_RUST)]
use kernel::mm::{
    gup::Pages,
    MmWithUser, //
};
#[allow(unused_imports)]
use kernel::{
    bindings,
    mm::{
        fault::VmFault,
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
    },
    prelude::*,
    syscall::syscall, //
};
#[cfg(CONFIG_ANON_RMAP_RUST)]
use kernel::{
    mm::{
        anon_rmap::move_to_vma,
        folio::FolioGuard, //
    },
    sync::aref::ARef, //
};

const __LOG_PREFIX: &[u8] = b"userfault\0";

/// Decides what `advice` makes of a vma's flags. Called by madvise(2).
///
/// Returns 0 and changes `*vm_flags`, or returns a negative errno. Does not sleep.
///
/// # Safety
///
/// The mmap lock must be held for writing, `vm_flags` valid for reading and writing.
#[cfg(CONFIG_USERFAULT)]
#[export]
unsafe extern "C" fn userfault_madvise(
    vma: *mut bindings::vm_area_struct,
    advice: c_int,
    vm_flags: *mut vm_flags_t,
) -> c_int {
    // SAFETY: The caller promises that the mmap lock is held and that `vm_flags` is valid.
    let (vma, old) = unsafe { (VmaRef::from_raw(vma), &mut *vm_flags) };

    match madvise::madvise(vma, advice, *old) {
        Ok(new) => {
            if *old & !new & flags::USERFAULT != 0 {
                // SAFETY: The caller promises that the mmap lock is held.
                unsafe { vma.dismiss_waiters() };
            }
            *old = new;
            0
        }
        Err(e) => e.to_errno(),
    }
}

/// Handles a touch of what looked like a hole. Called in the fault path for a vma in which holes
/// are ours, before anything is allocated.
///
/// # Safety
///
/// The fault must be one that a handler was called for: its vma locked for reading, its pmd
/// looked up, no page table mapped or locked.
#[cfg(CONFIG_USERFAULT)]
#[export]
unsafe extern "C" fn userfault_hole(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: The caller promises what the invariants of `VmFault` ask.
    fault::hole(unsafe { VmFault::from_raw(vmf) }).into_raw()
}

/// Gets hold of those pages that are left when a page fault has given up the mmap lock. Called by
/// what is behind get_user_pages_unlocked(), pin_user_pages_remote() and their like.
///
/// `got` of the pages are there already. Returns how many there are then, all in all, or a negative
/// errno where there is none. May sleep.
///
/// # Safety
///
/// The mm must be in use, and this thread not hold its lock. `pages` must be null, or have room for
/// so many pointers.
#[cfg(CONFIG_GUP_LOCKED_RUST)]
#[export]
unsafe extern "C" fn gup_wait_for_pages(
    mm: *mut bindings::mm_struct,
    start: usize,
    nr_pages: usize,
    flags: c_uint,
    pages: *mut *mut bindings::page,
    got: isize,
) -> isize {
    // SAFETY: The caller promises that the mm is in use, and that there is room.
    let (mm, mut pages) = unsafe {
        (
            MmWithUser::from_raw(mm),
            Pages::new(start, nr_pages, pages, flags),
        )
    };
    // A fault that gives up the lock is no error.
    #[cfg(CONFIG_DEBUG_VM)]
    kernel::warn_on!(got < 0 || got as usize >= nr_pages);
    pages.take_off(got.max(0) as usize);
    let result = gup_locked::wait(mm, &mut pages);
    match (nr_pages - pages.left(), result) {
        (0, Err(e)) => e.to_errno() as isize,
        (got, _) => got as isize,
    }
}

/// Gets hold of many pages of the running task without a lock. Called by get_user_pages_fast() and
/// its like, which have checked the arguments.
///
/// Returns how many pages there are. Sleeps, unless `flags` has `FOLL_FAST_ONLY`.
///
/// # Safety
///
/// The range must be one that a program can have, and `pages` have room for so many pointers.
#[cfg(CONFIG_GUP_LOCKED_RUST)]
#[export]
unsafe extern "C" fn gup_fast_windows(
    start: usize,
    nr_pages: usize,
    flags: c_uint,
    pages: *mut *mut bindings::page,
) -> usize {
    // SAFETY: The caller promises that there is room.
    gup_fast::get(&mut unsafe { Pages::new(start, nr_pages, pages, flags) })
}

/// Takes a count of the anon_vma of a folio, which the caller gives up; null where the folio is not
/// mapped, or not anonymous. May sleep.
///
/// # Safety
///
/// The caller must hold a reference to the folio, and have locked it.
#[cfg(CONFIG_ANON_RMAP_RUST)]
#[export]
unsafe extern "C" fn folio_get_anon_vma(folio: *const bindings::folio) -> *mut bindings::anon_vma {
    // SAFETY: The caller promises it.
    match anon_rmap::get(unsafe { &FolioGuard::assume_held(folio.cast_mut()) }) {
        Some(anon_vma) => ARef::into_raw(anon_vma).as_ptr().cast(),
        None => ptr::null_mut(),
    }
}

/// Locks the anon_vma of a folio for reading, which the caller unlocks; null where the folio is not
/// mapped, or not anonymous, or `rwc` asks not to wait for the lock: then `rwc` says so.
///
/// May sleep, unless `rwc` asks not to.
///
/// # Safety
///
/// The caller must hold a reference to the folio, and have locked it. `rwc` must be null or valid.
#[cfg(CONFIG_ANON_RMAP_RUST)]
#[export]
unsafe extern "C" fn folio_lock_anon_vma_read(
    folio: *const bindings::folio,
    rwc: *mut bindings::rmap_walk_control,
) -> *mut bindings::anon_vma {
    // SAFETY: The caller promises it.
    let (folio, may_wait) = unsafe {
        (
            FolioGuard::assume_held(folio.cast_mut()),
            rwc.is_null() || !(*rwc).try_lock,
        )
    };
    match anon_rmap::lock_read(&folio, may_wait) {
        Ok(Some(guard)) => guard.into_raw(),
        Ok(None) => ptr::null_mut(),
        Err(anon_rmap::Contended) => {
            // SAFETY: It is not null, or waiting would have been allowed.
            unsafe { (*rwc).contended = true };
            ptr::null_mut()
        }
    }
}

/// Gives a folio that one vma alone maps, or is about to, to that vma's anon_vma. Does not sleep.
///
/// # Safety
///
/// The folio must be anonymous and locked, and mapped nowhere but in this vma, which must be
/// locked.
#[cfg(CONFIG_ANON_RMAP_RUST)]
#[export]
unsafe extern "C" fn folio_move_anon_rmap(
    folio: *mut bindings::folio,
    vma: *mut bindings::vm_area_struct,
) {
    // SAFETY: The caller promises it.
    unsafe { move_to_vma(&FolioGuard::assume_held(folio), VmaRef::from_raw(vma)) };
}

/// remap_anon_pages(2): moves anonymous pages from `src` to `dst`.
///
/// Returns the bytes moved, or an error where none was.
#[cfg(CONFIG_REMAP_ANON_PAGES)]
#[syscall]
fn remap_anon_pages(dst: usize, src: usize, len: usize, flags: usize) -> Result<usize> {
    remap_anon_pages::remap_anon_pages(dst, src, len, flags)
}
