// SPDX-License-Identifier: GPL-2.0

//! Events inside the kernel, from tracefs.

use crate::knobs::mount_at;
use anyhow::Context;
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
