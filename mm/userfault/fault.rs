// SPDX-License-Identifier: GPL-2.0

//! What becomes of a touch of a hole.

use kernel::mm::fault::{
    FaultResult,
    VmFault, //
};

/// Answers a touch of a hole in a vma with `VM_USERFAULT`: nobody serves it, so it is SIGBUS.
///
/// Nothing is allocated or charged for it, not even a page table, and nothing is waited for, so
/// that it is the same answer with page faults disabled, from a dying task and under NOWAIT. A
/// touch by the kernel fails with EFAULT.
///
/// Where the entry is no hole any more, somebody filled it between the touch and now: the access
/// is made again.
pub(crate) fn hole(vmf: &VmFault) -> FaultResult {
    match vmf.lock_hole() {
        Some(_hole) => FaultResult::SIGBUS,
        None => FaultResult::AGAIN,
    }
}
