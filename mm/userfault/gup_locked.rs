// SPDX-License-Identifier: GPL-2.0

//! Getting hold of pages that a page fault has to wait for.
//!
//! The mmap lock is held while page tables are looked at, and given up by a fault that waits: for a
//! disk, or for a program that serves its own faults. So a page is tried again, with the lock taken
//! anew, until it is there.

use kernel::{
    current,
    mm::{
        gup::Pages,
        MmWithUser,
        MmapReadGuard, //
    },
    prelude::*, //
};

/// Gets hold of `pages`, for the first of which a page fault has given up the lock of `mm`, which
/// nobody holds now, nor when this returns. What was got is taken off.
///
/// May sleep. Ends early, but does not fail, at a page that cannot be got although nobody has to be
/// waited for. Fails with `EINTR` for a signal that the caller looks at, and for what a page is
/// refused.
pub(crate) fn wait(mm: &MmWithUser, pages: &mut Pages<'_>) -> Result {
    while pages.left() > 0 {
        let Some(lock) = wait_for_next(mm, pages)? else {
            break;
        };
        // Whoever keeps the lock has come as far as it goes.
        if pages.left() == 0 || pages.get_rest(lock)?.is_some() {
            break;
        }
    }
    Ok(())
}

/// Gets the next page, however often it has to be tried. `None` where it cannot be got although
/// nobody has to be waited for.
fn wait_for_next<'a>(
    mm: &'a MmWithUser,
    pages: &mut Pages<'_>,
) -> Result<Option<MmapReadGuard<'a>>> {
    let left = pages.left();
    loop {
        // Else one who is to be killed would try again and again.
        if is_interrupted(pages) {
            return Err(EINTR);
        }
        let lock = mm.mmap_read_lock_killable()?;
        if let Some(lock) = pages.get_next_again(lock)? {
            return Ok((pages.left() < left).then_some(lock));
        }
    }
}

fn is_interrupted(pages: &Pages<'_>) -> bool {
    let task = current!();
    task.fatal_signal_pending() || pages.is_interruptible() && task.signal_pending()
}
