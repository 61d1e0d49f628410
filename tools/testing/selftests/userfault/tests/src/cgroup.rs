// SPDX-License-Identifier: GPL-2.0

//! A memory cgroup for a test.

use crate::harness::{Outcome, Skip};
use crate::knobs::mount_at;
use crate::proc::field;
use crate::sys::Area;
use anyhow::Context;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A cgroup, mostly with this process in it.  It goes away when it is dropped.
pub struct Cgroup {
    root: PathBuf,
    own: PathBuf,
}

impl Cgroup {
    /// Makes it and moves this process there.
    pub fn enter() -> anyhow::Result<Self> {
        let group = Self::new()?;
        group.add(std::process::id())?;
        Ok(group)
    }

    /// Makes it, with nobody in it.
    pub fn new() -> anyhow::Result<Self> {
        Self::named(&format!("userfault-tests-{}", std::process::id()))
    }

    /// The same, of this name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let root = mount_at("/sys/fs/cgroup", "cgroup2")?;
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Err(Skip("no memory controller in cgroup2".into()).into());
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").context("subtree_control")?;
        let own = root.join(name);
        fs::create_dir(&own).context("mkdir")?;
        Ok(Self { root, own })
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// Moves a process there, by its number.
    pub fn add(&self, process: u32) -> Outcome {
        self.set("cgroup.procs", process)
    }

    /// Writes a file of it.
    pub fn set(&self, name: &str, value: impl ToString) -> Outcome {
        fs::write(self.own.join(name), value.to_string())
            .with_context(|| format!("{name}: {}", value.to_string()))
    }

    /// Lets nothing of it go to swap.
    pub fn forbid_swap(&self) -> Outcome {
        match self.file("memory.swap.max").exists() {
            true => self.set("memory.swap.max", 0),
            // The kernel has no swap.
            false => Ok(()),
        }
    }

    /// A number in a file of it.
    pub fn number(&self, name: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.own.join(name)).with_context(|| name.to_owned())?;
        text.trim().parse().with_context(|| name.to_owned())
    }

    /// Opens a file of it, to be read later.
    pub fn gauge(&self, name: &str) -> anyhow::Result<Gauge> {
        let gauge = Gauge(File::open(self.own.join(name)).with_context(|| name.to_owned())?);
        // The first time it allocates what it needs.
        gauge.read(|_| Some(()))?;
        Ok(gauge)
    }

    /// How often something has happened, of its `memory.events`.
    pub fn event(&self, name: &str) -> anyhow::Result<u64> {
        field(&self.own.join("memory.events").to_string_lossy(), name)
    }

    /// A line of its `memory.stat`.
    pub fn stat(&self, name: &str) -> anyhow::Result<u64> {
        field(&self.own.join("memory.stat").to_string_lossy(), name)
    }

    /// The same to a few KiB.
    ///
    /// Changes are added up when there are many, or after seconds: this makes many.
    pub fn exact_stat(&self, name: &str) -> anyhow::Result<u64> {
        drop(Area::filled(1024, 1)?);
        self.stat(name)
    }
}

/// A file of a cgroup that is open, so that it can be read where there is no memory to open it.
pub struct Gauge(File);

impl Gauge {
    fn read<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> anyhow::Result<T> {
        let mut buffer = [0; 512];
        let count = self.0.read_at(&mut buffer, 0).context("read")?;
        let text = std::str::from_utf8(&buffer[..count])?;
        parse(text).context("not as expected")
    }

    /// The number that is all of it.
    pub fn number(&self) -> anyhow::Result<u64> {
        self.read(|text| text.trim().parse().ok())
    }

    /// The numbers of all its lines.
    pub fn numbers(&self) -> anyhow::Result<[u64; 8]> {
        self.read(|text| {
            let mut numbers = [0; 8];
            for (number, line) in numbers.iter_mut().zip(text.lines()) {
                *number = line.split_whitespace().nth(1)?.parse().ok()?;
            }
            Some(numbers)
        })
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
