// SPDX-License-Identifier: GPL-2.0

//! Huge pages that move whole.

use kernel::{
    mm::{
        mmu_notifier::RangeRoom,
        pgtable::HugeKind,
        pmd_pair::{
            Huge,
            PmdPair, //
        },
        run::Run, //
    },
    prelude::*, //
};

use crate::remap_anon_pages::{
    move_exclusive,
    Stop, //
};

/// Moves the huge page, or the huge zero page, that is all of a run, with its deposited page table,
/// under the locks of both slots and with one TLB flush.
///
/// Fails with `Stop::NoTable` where there is none, or something at the destination. May sleep.
#[cold]
pub(crate) fn move_huge(run: Run<'_>) -> Result<(), Stop> {
    let mut room = RangeRoom::new();
    let notified = run.notify(&mut room);
    let moved = PmdPair::with(&notified, |pair| match pair.source() {
        Huge::Page(page) => move_exclusive(page),
        Huge::ZeroPage(page) => {
            page.place();
            Ok(())
        }
        Huge::Other(HugeKind::Migration) => Err(Stop::Migrating),
        Huge::Other(HugeKind::Shared) => Err(Stop::Error(EBUSY)),
        Huge::Other(HugeKind::Other) => Err(Stop::Error(EFAULT)),
        Huge::Other(HugeKind::Gone | HugeKind::ZeroPage) => Err(Stop::NoTable),
    });
    moved.unwrap_or(Err(Stop::NoTable))
}
