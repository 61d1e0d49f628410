// SPDX-License-Identifier: GPL-2.0

//! Which code of the kernel a thread comes to: KCOV.

use crate::fuzz_shared::Shared;
use crate::sys::Map;
use anyhow::Context;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many program counters there is room for, of one call.
const WORDS: usize = 16 << 10;
const TRACE_PC: libc::c_int = 0;

nix::ioctl_write_int_bad!(
    init_trace,
    nix::request_code_read!(b'c', 1, size_of::<usize>())
);
nix::ioctl_write_int_bad!(enable, nix::request_code_none!(b'c', 100));

/// A buffer, which one thread at a time fills.  The watchdog has it too: what a thread has come to
/// when it is killed is not lost.
pub struct Cover {
    file: File,
    /// How many program counters there are, and then those.
    words: &'static [AtomicU64],
}

impl Cover {
    /// Makes one, if the kernel has been built for that.
    pub fn new() -> anyhow::Result<Option<Self>> {
        let path = Path::new("/sys/kernel/debug/kcov");
        if !path.exists() {
            return Ok(None);
        }
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        // SAFETY: The argument is a number of words.
        unsafe { init_trace(file.as_raw_fd(), WORDS as libc::c_int) }.context("KCOV_INIT_TRACE")?;
        let map = Map::bytes(WORDS * size_of::<u64>()).file(file.as_fd(), libc::MAP_SHARED);
        let memory = map.leak().context("mmap")?;
        // SAFETY: The kernel writes whole numbers, as others do.
        let words = unsafe { std::slice::from_raw_parts(memory as *const AtomicU64, WORDS) };
        Ok(Some(Self { file, words }))
    }

    /// Lets this thread fill it, until its end.
    pub fn enable(&self) -> nix::Result<()> {
        // SAFETY: The argument is a number.
        unsafe { enable(self.file.as_raw_fd(), TRACE_PC) }.map(drop)
    }

    /// Takes out what is there.
    pub fn drain(&self, shared: &Shared) {
        let count = self.words[0].load(Relaxed) as usize;
        for word in self.words.iter().skip(1).take(count) {
            shared.reached(word.load(Relaxed));
        }
        self.words[0].store(0, Relaxed);
    }
}
