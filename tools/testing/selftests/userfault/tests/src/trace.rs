// SPDX-License-Identifier: GPL-2.0

//! Events inside the kernel, from tracefs.

use crate::harness::Outcome;
use crate::knobs::{mount_at, number, set, TRACER};
use crate::skip;
use anyhow::{ensure, Context};
use std::fs;
use std::path::PathBuf;

/// A recording of its own of some events, until it is dropped.
pub struct Trace(PathBuf);

impl Trace {
    /// Begins to record these events: `huge_memory/mm_collapse_huge_page`.
    pub fn of(events: &[&str]) -> anyhow::Result<Self> {
        let root = mount_at("/sys/kernel/tracing", "tracefs")?;
        let own = root.join(format!("instances/userfault-tests-{}", std::process::id()));
        fs::create_dir(&own).with_context(|| own.display().to_string())?;
        let trace = Self(own);
        for event in events {
            let enable = trace.0.join("events").join(event).join("enable");
            fs::write(&enable, "1").with_context(|| enable.display().to_string())?;
        }
        Ok(trace)
    }

    /// Whether an event was recorded whose line has all these words.
    pub fn has(&self, words: &[&str]) -> anyhow::Result<bool> {
        Ok(!self.lines(words)?.is_empty())
    }

    /// The lines of events that have all these words.
    pub fn lines(&self, words: &[&str]) -> anyhow::Result<Vec<String>> {
        let text = fs::read_to_string(self.0.join("trace")).context("trace")?;
        Ok(text
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .map(str::to_owned)
            .collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The tracer of interrupts that are off.
pub struct IrqsOff(PathBuf);

impl IrqsOff {
    /// Looks for it, or skips the test where there is none.
    pub fn new() -> anyhow::Result<Self> {
        let tracing = mount_at("/sys/kernel/tracing", "tracefs")?;
        let tracers = fs::read_to_string(tracing.join("available_tracers"))?;
        if !tracers.split_whitespace().any(|name| name == "irqsoff") {
            skip!("this kernel has no tracer of interrupts that are off");
        }
        Ok(Self(tracing))
    }

    /// Fails if they are off for a quarter of what `call` takes, which says how many microseconds.
    pub fn ensure_brief(&self, call: impl FnOnce() -> anyhow::Result<u64>) -> Outcome {
        set(TRACER, "irqsoff")?;
        let all = call()?;
        let off = number(&self.0.join("tracing_max_latency").to_string_lossy())?;
        println!("# interrupts were off for {off} of {all} microseconds at most");
        ensure!(off < all / 4, "interrupts were off for {off} of {all} us");
        Ok(())
    }
}
