// SPDX-License-Identifier: GPL-2.0

//! `MADV_USERFAULT` and `MADV_NOUSERFAULT`.

use kernel::{
    bindings,
    mm::virt::{
        flags,
        vm_flags_t,
        VmaRef, //
    },
    prelude::*,
};

/// Returns what `advice` makes of `vm_flags`, the flags of `vma`.
///
/// Both advices are for ordinary private anonymous memory only, so that a program can probe for
/// what can raise userfaults: not for droppable memory, which the kernel may empty at any time, so
/// that a hole in it would tell the program nothing. Sealed memory is allowed: nothing is
/// discarded.
pub(crate) fn madvise(vma: &VmaRef, advice: c_int, vm_flags: vm_flags_t) -> Result<vm_flags_t> {
    if !vma.is_private_anonymous() {
        return Err(EINVAL);
    }
    match advice as u32 {
        bindings::MADV_USERFAULT => Ok(vm_flags | flags::USERFAULT),
        bindings::MADV_NOUSERFAULT => Ok(vm_flags & !flags::USERFAULT),
        _ => Err(EINVAL),
    }
}
