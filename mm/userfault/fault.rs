// SPDX-License-Identifier: GPL-2.0

//! What becomes of a touch of a hole.

use kernel::mm::fault::{
    FaultResult,
    VmFault, //
};

/// Answers a touch of a hole in a vma with `VM_USERFAULT`. A descriptor that serves the vma by
/// ranges is asked; if there is none, nobody serves the hole, so it is SIGBUS.
///
/// Nothing is allocated or charged for it, not even a page table, and for SIGBUS nothing is waited
/// for, so that it is the same answer with page faults disabled, from a dying task and under
/// NOWAIT. A touch by the kernel fails with EFAULT.
///
/// Where the entry is no hole any more, somebody filled it between the touch and now: the access
/// is made again.
pub(crate) fn hole(vmf: VmFault<'_>) -> FaultResult {
    match vmf.hand_over() {
        Ok(answer) => answer,
        Err(vmf) => match vmf.lock_hole() {
            Some(_hole) => FaultResult::SIGBUS,
            None => FaultResult::AGAIN,
        },
    }
}
