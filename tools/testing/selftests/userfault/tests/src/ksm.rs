// SPDX-License-Identifier: GPL-2.0

//! The merging of equal pages.

use crate::harness::Outcome;
use crate::knobs::set_ksm;
use crate::proc;
use crate::sys::Span;
use anyhow::ensure;
use std::time::{Duration, Instant};

/// Lets KSM work as fast as it can.
pub fn hurry() -> Outcome {
    set_ksm("smart_scan", 0)?;
    set_ksm("sleep_millisecs", 5)?;
    set_ksm("pages_to_scan", 20_000)?;
    set_ksm("run", 1)
}

/// Waits until KSM has made one frame of all pages of these ranges.
pub fn wait_merged(spans: &[Span]) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(40);
    let start = Instant::now();
    loop {
        let pfns = frames(spans)?;
        if pfns.iter().all(|pfn| *pfn == pfns[0]) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < LIMIT,
            "KSM does not merge equal pages: {pfns:x?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The frames of all pages of these ranges.
pub fn frames(spans: &[Span]) -> anyhow::Result<Vec<u64>> {
    let all: anyhow::Result<Vec<_>> = spans.iter().map(|span| proc::frames(*span)).collect();
    Ok(all?.concat())
}
