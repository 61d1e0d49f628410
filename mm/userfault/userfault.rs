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

#[cfg(CONFIG_USERFAULT)]
#[deny(unsafe_code)]
mod fault;
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

/// remap_anon_pages(2): moves anonymous pages from `src` to `dst`.
///
/// Returns the bytes moved, or an error where none was.
#[cfg(CONFIG_REMAP_ANON_PAGES)]
#[syscall]
fn remap_anon_pages(dst: usize, src: usize, len: usize, flags: usize) -> Result<usize> {
    remap_anon_pages::remap_anon_pages(dst, src, len, flags)
}
