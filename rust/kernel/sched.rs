// SPDX-License-Identifier: GPL-2.0

//! Giving way to others in long loops.
//!
//! C header: [`include/linux/sched.h`](srctree/include/linux/sched.h)

use crate::{
    bindings,
    task::Task, //
};

/// Lets another task run if one should.
///
/// May sleep.
#[inline]
pub fn cond_resched() {
    // SAFETY: Called where sleeping is allowed, which `might_sleep` inside checks.
    unsafe { bindings::cond_resched() };
}

impl Task {
    /// Whether a signal is pending that will end the task.
    #[inline]
    pub fn fatal_signal_pending(&self) -> bool {
        // SAFETY: The task is valid, and the function reads its flags as single words.
        unsafe { bindings::fatal_signal_pending(self.as_ptr()) != 0 }
    }
}
