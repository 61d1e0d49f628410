// SPDX-License-Identifier: GPL-2.0

//! Huge pages that move whole.

use kernel::{
    mm::{
        pgtable::HugeKind,
        pmd_pair::{
            Huge,
            PmdPair, //
        },
        run::Notified, //
    },
    prelude::*, //
};

use crate::remap_anon_pages::{
    move_exclusive,
    Stop, //
};

/// Moves a huge page, or the huge zero page, with its deposited page table, under the locks of both
/// slots and with one TLB flush.
pub(crate) fn move_huge(notified: &Notified<'_>) -> Result<(), Stop> {
    // Something may have come to the destination.
    let mut pair = PmdPair::lock(notified).ok_or(Stop::NoTable)?;

    match pair.source() {
        Huge::Page(page) => move_exclusive(page),
        Huge::ZeroPage(page) => Ok(page.place()),
        Huge::Other(HugeKind::Migration) => Err(Stop::Migrating),
        Huge::Other(HugeKind::Shared) => Err(Stop::Error(EBUSY)),
        Huge::Other(HugeKind::Other) => Err(Stop::Error(EFAULT)),
        Huge::Other(_) => Err(Stop::NoTable),
    }
}
