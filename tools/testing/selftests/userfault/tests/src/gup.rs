// SPDX-License-Identifier: GPL-2.0

//! Pages that the kernel keeps hold of for long (`FOLL_PIN | FOLL_LONGTERM`), by its test of gup
//! or for io_uring.

use crate::harness::{Outcome, Skip};
use crate::knobs::mount_at;
use crate::sys::Span;
use anyhow::{ensure, Context};
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
nix::ioctl_none!(pin_stop, b'g', 8);
nix::ioctl_write_ptr!(pin_read, b'g', 9, u64);

/// What the kernel's test of gup measures.
#[repr(C)]
#[derive(Default)]
pub struct Measure {
    get_usec: u64,
    put_usec: u64,
    addr: u64,
    size: u64,
    pages_per_call: u32,
    gup_flags: u32,
    test_flags: u32,
    which_pages: [u32; 8],
}

nix::ioctl_readwrite!(get_fast, b'g', 1, Measure);
nix::ioctl_readwrite!(pin_fast, b'g', 2, Measure);
nix::ioctl_readwrite!(get_locked, b'g', 4, Measure);
nix::ioctl_readwrite!(pin_locked, b'g', 5, Measure);

/// A function of the kernel that gets hold of pages.
#[derive(Clone, Copy)]
pub enum Kind {
    Get,
    Pin,
    GetFast,
    PinFast,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Get, Self::Pin, Self::GetFast, Self::PinFast];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Get => "get_user_pages",
            Kind::Pin => "pin_user_pages",
            Kind::GetFast => "get_user_pages_fast",
            Kind::PinFast => "pin_user_pages_fast",
        }
    }
}

/// The kernel's test, which counts the time that it takes.
pub struct Benchmark(File);

impl Benchmark {
    /// Opens it, or skips the test where this kernel has no such thing.
    pub fn open() -> anyhow::Result<Self> {
        Pins::new().map(|pins| Self(pins.0))
    }

    /// Gets hold of all pages of a range, so many in a call, and lets go of them. Returns the
    /// nanoseconds.
    pub fn run(&self, kind: Kind, span: Span, pages_per_call: usize) -> anyhow::Result<u64> {
        let mut measure = Measure {
            addr: span.addr as u64,
            size: span.len as u64,
            pages_per_call: pages_per_call as u32,
            ..Measure::default()
        };
        let fd = self.0.as_raw_fd();
        // SAFETY: The argument is of the type that the requests name.
        unsafe {
            match kind {
                Kind::Get => get_locked(fd, &mut measure),
                Kind::Pin => pin_locked(fd, &mut measure),
                Kind::GetFast => get_fast(fd, &mut measure),
                Kind::PinFast => pin_fast(fd, &mut measure),
            }
        }
        .context(kind.name())?;
        ensure!(
            measure.size == span.len as u64,
            "{}: a part only",
            kind.name()
        );
        Ok(measure.get_usec * 1000)
    }
}

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

    /// Lets go of them.
    pub fn release(&self) -> nix::Result<()> {
        // SAFETY: The request has no argument.
        unsafe { pin_stop(self.0.as_raw_fd()) }.map(drop)
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
        let buffer = span.iovec();
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
