// SPDX-License-Identifier: GPL-2.0

//! Getting hold of many pages without a lock.
//!
//! Page tables are kept by having interrupts off while they are looked at, which nobody should have
//! for long. So many pages are got in windows, and between two of them interrupts are on.

use kernel::{
    bindings,
    mm::gup::Pages,
    page::PAGE_SHIFT,
    sched::cond_resched, //
};

/// The most pages that are got with interrupts off. The windows lie as page tables do where pages
/// are of 4 KiB.
const WINDOW: usize = bindings::GUP_FAST_WINDOW as usize;

/// Gets hold of `pages`, and says of how many, from the first on, up to one that would need a lock.
///
/// Sleeps between two windows, unless the caller may not.
pub(crate) fn get(pages: &mut Pages<'_>) -> usize {
    let wanted = pages.left();
    while pages.left() > 0 {
        let window = WINDOW - (pages.address() >> PAGE_SHIFT) % WINDOW;
        let window = window.min(pages.left());
        if pages.get_fast(window) < window {
            break;
        }
        if !pages.is_atomic() {
            cond_resched();
        }
    }
    wanted - pages.left()
}
