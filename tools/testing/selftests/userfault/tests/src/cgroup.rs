// SPDX-License-Identifier: GPL-2.0

//! A memory cgroup for a test.

use crate::harness::{Outcome, Skip};
use crate::knobs::mount_at;
use crate::proc::field;
use anyhow::Context;
use std::fs;
use std::path::PathBuf;

/// A cgroup with this process in it.  It goes away when it is dropped.
pub struct Cgroup {
    root: PathBuf,
    own: PathBuf,
}

impl Cgroup {
    /// Makes it and moves this process there.
    pub fn enter() -> anyhow::Result<Self> {
        let root = mount_at("/sys/fs/cgroup", "cgroup2")?;
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Err(Skip("no memory controller in cgroup2".into()).into());
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").context("subtree_control")?;
        let own = root.join(format!("userfault-tests-{}", std::process::id()));
        fs::create_dir(&own).context("mkdir")?;
        let group = Self { root, own };
        group.set("cgroup.procs", std::process::id())?;
        Ok(group)
    }

    /// Writes a file of it.
    pub fn set(&self, name: &str, value: impl ToString) -> Outcome {
        fs::write(self.own.join(name), value.to_string())
            .with_context(|| format!("{name}: {}", value.to_string()))
    }

    /// A number in a file of it.
    pub fn number(&self, name: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.own.join(name)).with_context(|| name.to_owned())?;
        text.trim().parse().with_context(|| name.to_owned())
    }

    /// How often something has happened, of its `memory.events`.
    pub fn event(&self, name: &str) -> anyhow::Result<u64> {
        field(&self.own.join("memory.events").to_string_lossy(), name)
    }

    /// A line of its `memory.stat`.
    pub fn stat(&self, name: &str) -> anyhow::Result<u64> {
        field(&self.own.join("memory.stat").to_string_lossy(), name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.set("memory.max", "max");
        let _ = fs::write(
            self.root.join("cgroup.procs"),
            std::process::id().to_string(),
        );
        let _ = fs::remove_dir(&self.own);
    }
}
