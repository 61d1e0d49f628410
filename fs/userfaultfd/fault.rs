// SPDX-License-Identifier: GPL-2.0

//! What becomes of a touch of a hole that a descriptor serves.

use kernel::{
    bindings,
    current,
    mm::fault::{
        FaultResult,
        Hole,
        VmFault, //
    },
    sync::aref::ARef, //
};

use crate::Context;

/// Has the thread wait until the program has filled the hole, or has at least been asked to.
///
/// A fault that cannot wait, or that nobody may be kept waiting for, is refused as if no descriptor
/// served the hole. One that must not wait now is to come again, and is not told to anybody.
pub(crate) fn fault(vmf: VmFault<'_>) -> FaultResult {
    let Some(hole) = vmf.lock_hole() else {
        return FaultResult::AGAIN;
    };
    // The vma, which has the context, is not ours any more while we wait.
    let Some(ctx) = Context::serving(hole.fault().vma()).map(ARef::from) else {
        return FaultResult::SIGBUS;
    };
    if is_refused(&hole, &ctx) {
        return FaultResult::SIGBUS;
    }
    if let Some(later) = hole.fault().retry_without_waiting() {
        return later;
    }
    match ctx.range() {
        Some(descriptor) => descriptor
            .waiters
            .wait(hole, || ctx.notify(bindings::EPOLLIN)),
        None => FaultResult::SIGBUS,
    }
}

fn is_refused(hole: &Hole<'_>, ctx: &Context) -> bool {
    let task = current!();
    // What a task does for itself on its way out, or into a core dump, is not to hang. A thread of
    // the kernel's own, which cannot be killed, waits once, for a limited time.
    task.is_exiting_or_dumping()
        || task.is_kernel_thread() && hole.fault().has_waited()
        || !(hole.fault().is_by_program() || ctx.serves_kernel())
        || !hole.fault().may_retry()
        // It may have been no hole before the OOM killer took what it could.
        || hole.fault().vma().mm().is_reaped()
}
