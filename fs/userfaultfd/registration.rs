// SPDX-License-Identifier: GPL-2.0

//! Which ranges a descriptor serves.
//!
//! A range is checked as a whole before anything changes, then vmas are split at its ends, which
//! may fail and changes nothing that a program sees; what is left to do cannot fail. The mmap lock
//! is held for writing all the while, and every vma that changes is locked for writing by itself,
//! so that no fault is under way in it. Those who wait are woken after that: when they come again
//! they find what is new.

use kernel::{
    mm::{
        mmap_write::MmapWriteGuard,
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    wake,
    Context, //
};
use core::ops::Range;

/// Has the descriptor serve `range`.
///
/// Fails with `ESRCH` where the process is gone, `ENOMEM` where there is no vma from the beginning
/// of the range on or the range is beyond what a program can have, and `EINVAL` where there is none
/// in the range. Then vma by vma: `EBUSY` for one that is registered with another descriptor, of
/// whichever dialect, and `EINVAL` for one in which holes cannot be for the program to fill. Holes
/// between vmas are skipped, and what is served already is no error. May sleep.
pub(crate) fn register(ctx: &Context, range: &Range<usize>) -> Result {
    let mm = address_space(ctx, range)?;
    let mut mmap = mm.mmap_write_lock_killable()?;
    check(ctx, &mmap, range, true)?;
    mmap.split_around(range, |_| true)?;
    mmap.register(range, ctx);
    Ok(())
}

/// Ends what [`register`] began, and wakes those who wait in the range. Fails like it, but does not
/// mind vmas that are not registered. May sleep.
pub(crate) fn unregister(ctx: &Context, range: &Range<usize>) -> Result {
    let mm = address_space(ctx, range)?;
    let mut mmap = mm.mmap_write_lock_killable()?;
    check(ctx, &mmap, range, false)?;
    mmap.split_around(range, VmaRef::is_served)?;
    mmap.unregister(range);
    wake(ctx, range.clone());
    Ok(())
}

/// Ends the registration of what mremap() has left behind of a vma, since it went with the pages.
///
/// Where memory for that is short it stays: whoever touches a hole there is served, as before.
pub(crate) fn left_behind(mmap: &mut MmapWriteGuard<'_>, range: &Range<usize>) {
    let Some(ctx) = mmap
        .find_vma(range.start)
        .and_then(Context::serving)
        .map(ARef::from)
    else {
        return;
    };
    if mmap.split_around(range, VmaRef::is_served).is_ok() {
        mmap.unregister(range);
    }
    wake(&ctx, range.clone());
}

fn address_space(ctx: &Context, range: &Range<usize>) -> Result<ARef<MmWithUser>> {
    let mm = ctx.mm().mmget_not_zero().ok_or(ESRCH)?;
    match range.end > mm.task_size() {
        true => Err(ENOMEM),
        false => Ok(mm),
    }
}

fn check(ctx: &Context, mmap: &MmapWriteGuard<'_>, range: &Range<usize>, new: bool) -> Result {
    let first = mmap.find_vma(range.start).ok_or(ENOMEM)?;
    if first.start() >= range.end {
        return Err(EINVAL);
    }
    for vma in mmap.vmas(range.clone()) {
        if vma.is_of_another(ctx) {
            return Err(EBUSY);
        }
        if new && !vma.is_private_anonymous() {
            return Err(EINVAL);
        }
    }
    Ok(())
}
