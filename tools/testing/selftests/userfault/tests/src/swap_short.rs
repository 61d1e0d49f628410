// SPDX-License-Identifier: GPL-2.0

//! Swap that can be too short for a while, so that pages stay in the swap cache.

use crate::harness::{Outcome, Skip};
use crate::proc::Entry;
use crate::sys::{page, Span};
use crate::{knobs, swap};
use anyhow::Context;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

const CONSOLE: &str = "/proc/sys/kernel/printk";
const DISK: &str = "/dev/ram1";
const PARTITION: &str = "/dev/ram1p1";

#[repr(C)]
pub struct Partition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

#[repr(C)]
pub struct Request {
    op: i32,
    flags: i32,
    len: i32,
    partition: *mut Partition,
}

// BLKPG
nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), Request);

const ADD: i32 = 1;
const DELETE: i32 = 2;
const RESIZE: i32 = 3;

/// A partition of the second ramdisk, for swap.
pub struct ShortSwap {
    disk: File,
    bytes: u64,
}

impl ShortSwap {
    /// Makes it, or skips the test where there is no such disk.
    pub fn new() -> anyhow::Result<Self> {
        if !Path::new(DISK).exists() {
            return Err(Skip(format!("no {DISK}")).into());
        }
        let swap = Self {
            disk: File::options().read(true).write(true).open(DISK)?,
            bytes: swap::device_bytes(DISK)?,
        };
        swap.request(ADD, swap.bytes).context("no partition")?;
        Ok(swap)
    }

    fn request(&self, op: i32, bytes: u64) -> nix::Result<()> {
        let mut partition = Partition {
            start: 0,
            length: bytes as i64,
            number: 1,
            names: [0; 128],
        };
        let request = Request {
            op,
            flags: 0,
            len: size_of::<Partition>() as i32,
            partition: &mut partition,
        };
        // SAFETY: The argument is of the type that the request names, as is what it points to.
        unsafe { blkpg(self.disk.as_raw_fd(), &request) }.map(drop)
    }

    /// Moves a range out to the swap cache, from where it cannot be written to swap.  No other swap
    /// is on from then until this is dropped.
    pub fn out_to_cache(&self, span: Span) -> Outcome {
        if swap::devices()? != [PARTITION] {
            swap::off()?;
            swap::on(PARTITION)?;
        }
        // Each write that fails makes a line, in the middle of ours.
        let level = std::fs::read_to_string(CONSOLE).context(CONSOLE)?;
        knobs::set(CONSOLE, 1)?;
        // There is room for the header only.
        self.request(RESIZE, page() as u64).context("shrink")?;
        let done = swap::page_out_until(span, "in swap", Entry::swapped);
        self.request(RESIZE, self.bytes).context("grow")?;
        knobs::set(CONSOLE, level.trim())?;
        done
    }
}

impl Drop for ShortSwap {
    fn drop(&mut self) {
        let _ = self.request(RESIZE, self.bytes);
        let _ = swap::off();
        let _ = self.request(DELETE, self.bytes);
        let _ = swap::ensure_on();
    }
}
