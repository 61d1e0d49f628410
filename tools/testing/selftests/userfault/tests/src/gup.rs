// SPDX-License-Identifier: GPL-2.0

//! Pages that the kernel keeps hold of for long (`FOLL_PIN | FOLL_LONGTERM`), by its test of gup
//! or for io_uring.

use crate::harness::{Outcome, Skip};
use crate::knobs::mount_at;
use crate::sys::Span;
use anyhow::Context;
use io_uring::IoUring;
use std::fs::File;
use std::os::fd::AsRawFd;

#[repr(C)]
pub struct Range {
    addr: u64,
    size: u64,
    flags: u32,
}

nix::ioctl_write_ptr!(pin_start, b'g', 7, Range);
nix::ioctl_write_ptr!(pin_read, b'g', 9, u64);

/// How pages are to be pinned.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// To be written to, by the kernel.
    pub write: bool,
    /// Without a lock first, where that is possible.
    pub fast: bool,
}

impl How {
    /// All the ways.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..4).map(|bits| Self {
            write: bits & 1 != 0,
            fast: bits & 2 != 0,
        })
    }
}

/// Pages that may be pinned, until it is dropped.
pub struct Pins(File);

impl Pins {
    /// Prepares it, or skips the test where this kernel has no such thing.
    pub fn new() -> anyhow::Result<Self> {
        let path = mount_at("/sys/kernel/debug", "debugfs")?.join("gup_test");
        if !path.exists() {
            return Err(Skip("this kernel has no test of get_user_pages".into()).into());
        }
        let file = File::options().read(true).write(true).open(&path);
        Ok(Self(file.with_context(|| path.display().to_string())?))
    }

    /// Pins all pages of a range, or none.
    pub fn pin(&self, span: Span, how: How) -> nix::Result<()> {
        let range = Range {
            addr: span.addr as u64,
            size: span.len as u64,
            flags: u32::from(how.write) | u32::from(how.fast) << 1,
        };
        // SAFETY: The argument is of the type that the request names.
        unsafe { pin_start(self.0.as_raw_fd(), &range) }.map(drop)
    }

    /// Copies what is in the pinned pages to memory of an area, as large as what was pinned.
    pub fn read_to(&self, span: Span) -> nix::Result<()> {
        let addr = span.addr as u64;
        // SAFETY: As above; the memory of an area is never borrowed.
        unsafe { pin_read(self.0.as_raw_fd(), &addr) }.map(drop)
    }
}

/// A ring of io_uring, or skips the test where this kernel has none.
pub fn ring() -> anyhow::Result<IoUring> {
    match IoUring::new(2) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            Err(Skip("this kernel has no io_uring".into()).into())
        }
        ring => ring.context("io_uring"),
    }
}

/// Memory that the kernel may write into at any time: registered with io_uring.
pub struct Pin(IoUring);

impl Pin {
    /// Registers it.
    pub fn new(span: Span) -> anyhow::Result<Self> {
        let ring = ring()?;
        let buffer = libc::iovec {
            iov_base: span.addr as *mut libc::c_void,
            iov_len: span.len,
        };
        // SAFETY: The memory of an area is never borrowed, and lives longer.
        unsafe { ring.submitter().register_buffers(&[buffer]) }.context("register_buffers")?;
        Ok(Self(ring))
    }

    /// Lets go of it.  The pins may go away a little later.
    pub fn release(self) -> Outcome {
        self.0
            .submitter()
            .unregister_buffers()
            .context("unregister_buffers")
    }
}
