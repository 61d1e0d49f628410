// SPDX-License-Identifier: GPL-2.0

//! The running task: giving way to others, and what it runs as.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/compat.h`](srctree/include/linux/compat.h)

use crate::{
    bindings,
    task::Task, //
};

/// Lets another task run if one should.
///
/// May sleep, so no spinlock may be held.
#[inline]
pub fn cond_resched() {
    // SAFETY: Always safe to call.
    unsafe { bindings::cond_resched() };
}

/// Whether a system call is being made through the entry for 32-bit programs. Does not sleep.
#[inline]
pub fn in_compat_syscall() -> bool {
    // SAFETY: Looks at the running task only.
    unsafe { bindings::in_compat_syscall() }
}

impl Task {
    /// Whether a signal is pending that will end the task. Does not sleep, and needs no lock: the
    /// answer may be out of date, but a yes stays one.
    #[inline]
    pub fn fatal_signal_pending(&self) -> bool {
        // SAFETY: The task is valid, and the function reads its flags as single words.
        unsafe { bindings::fatal_signal_pending(self.as_ptr()) != 0 }
    }

    /// Whether the task is on its way out or dumps core. It is the running one, and no lock is
    /// needed.
    #[inline]
    pub fn is_exiting_or_dumping(&self) -> bool {
        self.flags() & (bindings::PF_EXITING | bindings::PF_DUMPCORE) != 0
    }

    /// Whether the task is a thread of the kernel's own, which no signal ends. It is the running
    /// one, and no lock is needed.
    #[inline]
    pub fn is_kernel_thread(&self) -> bool {
        self.flags() & bindings::PF_KTHREAD != 0
    }

    #[inline]
    fn flags(&self) -> u32 {
        // SAFETY: The task is valid, and the field is read as a single word.
        unsafe { core::ptr::read_volatile(&raw const (*self.as_ptr()).flags) }
    }
}
