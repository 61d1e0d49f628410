// SPDX-License-Identifier: GPL-2.0

//! A hole, and memory without access beside it: to the kernel both are a bad address.

use crate::ensure_eq;
use crate::proc::ensure_holes;
use crate::sys::{Area, Span};
use anyhow::Context;
use nix::errno::Errno;
use std::os::fd::RawFd;

/// Reads a file into a range.
pub fn read(fd: RawFd, span: Span) -> nix::Result<isize> {
    // SAFETY: The memory of an area is never borrowed.
    Errno::result(unsafe { libc::read(fd, span.addr as *mut libc::c_void, span.len) })
}

/// Writes a range to a file.
pub fn write(fd: RawFd, span: Span) -> nix::Result<isize> {
    // SAFETY: As above.
    Errno::result(unsafe { libc::write(fd, span.addr as *const libc::c_void, span.len) })
}

/// Memory whose second page is a marked hole, and the like without access instead.
pub struct Pair {
    pub holed: Area,
    pub reference: Area,
}

impl Pair {
    /// Makes both: a page, the hole, a page.
    pub fn new() -> anyhow::Result<Self> {
        let (holed, reference) = (Area::pages(3)?, Area::pages(3)?);
        for area in [&holed, &reference] {
            area.page(0).fill(1);
            area.page(2).fill(3);
        }
        holed.mark()?;
        reference.page(1).protect(libc::PROT_NONE)?;
        Ok(Self { holed, reference })
    }

    /// Both give the same result, and the hole stays.
    pub fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        mut call: impl FnMut(Span) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let want = call(*self.reference).context("at memory without access")?;
        let seen = call(*self.holed).context("at a hole")?;
        ensure_eq!(seen, want, "{what}, at a hole and at memory without access");
        ensure_holes(self.holed.page(1))?;
        Ok(seen)
    }
}
