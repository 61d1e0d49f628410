// SPDX-License-Identifier: GPL-2.0

//! Events of the range protocol, for whoever watches them. They cost nothing while nobody does.
//!
//! C header: [`include/trace/events/userfaultfd.h`](srctree/include/trace/events/userfaultfd.h)

use crate::{
    mm::fault::VmFault,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    },
    tracepoint::declare_trace, //
};
use core::ops::Range;

declare_trace! {
    /// # Safety
    ///
    /// There is nothing to promise.
    unsafe fn userfaultfd_range_fault(address: usize, by_program: bool);

    /// # Safety
    ///
    /// There is nothing to promise.
    unsafe fn userfaultfd_range_read(address: usize);

    /// # Safety
    ///
    /// There is nothing to promise.
    unsafe fn userfaultfd_range_wake(start: usize, end: usize, threads: c_uint);

    /// # Safety
    ///
    /// There is nothing to promise.
    unsafe fn userfaultfd_range_resolve(address: usize, waited: u64, woken: bool);
}

/// Whether somebody wants to know how long threads wait.
#[inline]
fn is_measured() -> bool {
    #[cfg(CONFIG_TRACEPOINTS)]
    // SAFETY: The key is that of a tracepoint, which can always be looked at.
    unsafe {
        crate::jump_label::static_branch_unlikely!(
            crate::bindings::__tracepoint_userfaultfd_range_resolve,
            crate::bindings::tracepoint,
            key
        )
    }
    #[cfg(not(CONFIG_TRACEPOINTS))]
    false
}

/// The wait of a thread.
pub(super) struct Wait {
    address: usize,
    since: Option<Instant<Monotonic>>,
}

impl Wait {
    /// It begins, for the page that `fault` asks for. Does not sleep.
    #[inline]
    pub(super) fn begin(fault: &VmFault<'_>) -> Self {
        // SAFETY: There is nothing to promise.
        unsafe { userfaultfd_range_fault(fault.address(), fault.is_by_program()) };
        Self {
            address: fault.address(),
            since: is_measured().then(Instant::now),
        }
    }

    /// It ends, by a wake or by a signal. Does not sleep.
    #[inline]
    pub(super) fn end(self, woken: bool) {
        if let Some(since) = self.since {
            let waited = since.elapsed().as_nanos() as u64;
            // SAFETY: There is nothing to promise.
            unsafe { userfaultfd_range_resolve(self.address, waited, woken) };
        }
    }
}

/// A fault was read. Does not sleep.
#[inline]
pub(super) fn read(address: usize) {
    // SAFETY: There is nothing to promise.
    unsafe { userfaultfd_range_read(address) };
}

/// So many threads were woken. Does not sleep.
#[inline]
pub(super) fn wake(range: &Range<usize>, threads: usize) {
    // SAFETY: There is nothing to promise.
    unsafe { userfaultfd_range_wake(range.start, range.end, threads as c_uint) };
}
