// SPDX-License-Identifier: GPL-2.0

//! Allocations of the kernel that fail on demand.

use crate::harness::{Outcome, Skip};
use crate::knobs::mount_at;
use anyhow::Context;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Makes one allocation of this thread fail.
pub struct FailNth(File);

impl FailNth {
    /// Prepares it, or skips the test where the kernel has no such thing.
    pub fn new() -> anyhow::Result<Self> {
        let none = || Skip("this kernel has no allocations that fail on demand".into());
        let debug = mount_at("/sys/kernel/debug", "debugfs")?;
        for kind in ["failslab", "fail_page_alloc"] {
            let dir = debug.join(kind);
            if !dir.exists() {
                return Err(none().into());
            }
            for (name, value) in [("verbose", "0"), ("ignore-gfp-wait", "N")] {
                fs::write(dir.join(name), value).with_context(|| format!("{kind}/{name}"))?;
            }
        }
        fs::write(debug.join("fail_page_alloc/min-order"), "0").context("min-order")?;
        let path = Path::new("/proc/thread-self/fail-nth");
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.map_err(|_| none())?))
    }

    /// Runs `call` once for each allocation in it, with that allocation failing, and at last with
    /// none failing.  `check` gets the result each time, and whether an allocation has failed; it
    /// says whether to go on.
    pub fn each<T>(
        &self,
        mut call: impl FnMut() -> T,
        mut check: impl FnMut(T, bool) -> anyhow::Result<bool>,
    ) -> Outcome {
        const MOST: usize = 200;
        for nth in 1..MOST {
            self.0.write_all_at(nth.to_string().as_bytes(), 0)?;
            let result = call();
            // What is left of the number; none is left when it was used.
            let mut left = [0; 16];
            let count = self.0.read_at(&mut left, 0);
            self.0.write_all_at(b"0", 0)?;
            let failed = left[..count?].starts_with(b"0");
            let go_on = check(result, failed).with_context(|| format!("allocation {nth}"))?;
            if !failed || !go_on {
                return Ok(());
            }
        }
        anyhow::bail!("more than {MOST} allocations")
    }
}
