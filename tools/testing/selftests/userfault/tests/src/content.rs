// SPDX-License-Identifier: GPL-2.0

//! What may lie in the place of a page, and what a move makes of it.

use crate::harness::Outcome;
use crate::proc::{ensure_holes, entry};
use crate::process::Holder;
use crate::sys::{Span, MADV_GUARD_INSTALL, RAP_ALLOW_SRC_HOLES};
use crate::{ensure_eq, swap};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// What lies in the place of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Hole,
    /// A page of this process alone.
    Page,
    /// The zero page.
    ZeroPage,
    /// A page that a child has too.
    Forked,
    /// A page in swap.
    Swapped,
    /// A guard marker.
    Guard,
}

impl Content {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Hole,
        Self::Page,
        Self::ZeroPage,
        Self::Forked,
        Self::Swapped,
        Self::Guard,
    ];

    /// Puts it in the place of every page of a range that is empty.
    ///
    /// The child that shares a forked page, if any, lives as long as what is returned.
    pub fn put(self, span: Span, seed: u32) -> anyhow::Result<Option<Holder>> {
        match self {
            Self::Hole => (),
            Self::Page => span.fill(seed),
            Self::ZeroPage => {
                for part in span.each_page() {
                    ensure_eq!(part.load(), Ok(0));
                }
            }
            Self::Forked => {
                span.fill(seed);
                return Holder::fork().map(Some);
            }
            Self::Swapped => {
                span.fill(seed);
                swap::out(span)?;
            }
            Self::Guard => span
                .advise(MADV_GUARD_INSTALL)
                .context("MADV_GUARD_INSTALL")?,
        }
        Ok(None)
    }

    /// What a move of it to a hole gives, under these flags.
    pub fn moves(self, flags: u64) -> nix::Result<()> {
        match self {
            Self::Page | Self::ZeroPage | Self::Swapped => Ok(()),
            Self::Hole if flags & RAP_ALLOW_SRC_HOLES != 0 => Ok(()),
            Self::Hole => Err(Errno::ENOENT),
            Self::Forked => Err(Errno::EBUSY),
            Self::Guard => Err(Errno::EFAULT),
        }
    }

    /// Checks that it is there, with its content.
    pub fn check(self, span: Span, seed: u32) -> Outcome {
        match self {
            Self::Hole => ensure_holes(span),
            Self::Page | Self::Forked | Self::Swapped => span.check(seed),
            Self::ZeroPage => span.check_zero(),
            Self::Guard => {
                ensure!(entry(span)?.guard(), "the guard marker is gone");
                ensure!(span.load().is_err(), "the guard does not guard");
                Ok(())
            }
        }
    }
}
