// SPDX-License-Identifier: GPL-2.0

//! Migration between nodes.

use crate::harness::{Outcome, Skip};
use crate::sys::Span;
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::fs;

/// Skips the test where there is but one node.
pub fn ensure_two_nodes() -> Outcome {
    let nodes = fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    if nodes.trim() != "0-1" {
        return Err(Skip(format!("no nodes 0 and 1 with memory, but: {nodes}")).into());
    }
    Ok(())
}

/// Migrates what it can of a range to a node.  Returns how many pages are there now.
pub fn move_to(span: Span, node: i32) -> anyhow::Result<usize> {
    const MPOL_MF_MOVE: i32 = 1 << 1;
    migrate(span, node, MPOL_MF_MOVE)
}

/// The same for pages that other processes map too.
pub fn move_shared_to(span: Span, node: i32) -> anyhow::Result<usize> {
    const MPOL_MF_MOVE_ALL: i32 = 1 << 2;
    migrate(span, node, MPOL_MF_MOVE_ALL)
}

fn migrate(span: Span, node: i32, flags: i32) -> anyhow::Result<usize> {
    let pages: Vec<usize> = span.each_page().map(|part| part.addr).collect();
    let nodes = vec![node; pages.len()];
    let mut status = vec![-1; pages.len()];
    // SAFETY: It moves pages of areas only, and writes as many numbers as there is room for.
    let failed = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            flags,
        )
    });
    // That of a page which could not be had is in its status.
    match failed {
        Err(Errno::ENOENT) => (),
        failed => ensure!(failed.context("move_pages")? >= 0),
    }
    Ok(status.iter().filter(|own| **own == node).count())
}
