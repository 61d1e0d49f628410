// SPDX-License-Identifier: GPL-2.0

//! A device that takes anonymous pages away into memory of its own: the kernel's test of HMM.

use crate::harness::Skip;
use crate::sys::{page, Span};
use anyhow::Context;
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What all its requests take: an address and a number of pages, a buffer for what comes of it.
#[repr(C)]
pub struct Command {
    addr: u64,
    buffer: u64,
    pages: u64,
    pages_done: u64,
    faults: u64,
}

nix::ioctl_readwrite!(device_read, b'H', 0x00, Command);
nix::ioctl_readwrite!(device_write, b'H', 0x01, Command);
nix::ioctl_readwrite!(migrate_to_device, b'H', 0x02, Command);
nix::ioctl_readwrite!(migrate_to_system, b'H', 0x03, Command);
nix::ioctl_readwrite!(snapshot, b'H', 0x04, Command);
nix::ioctl_readwrite!(make_exclusive, b'H', 0x05, Command);
nix::ioctl_readwrite!(set_flags, b'H', 0x08, Command);

type Request = unsafe fn(libc::c_int, *mut Command) -> nix::Result<libc::c_int>;

/// What a snapshot says of a page.
pub const NOTHING: u8 = 0;
pub const HERE: u8 = 0x20;

/// The device, which looks at the memory of the process that has opened it.
///
/// When it is closed, everything that it has taken comes back.
pub struct Device(File);

impl Device {
    /// Opens it, or skips the test where this kernel has no such thing.
    pub fn open() -> anyhow::Result<Self> {
        let path = "/dev/hmm_dmirror0";
        match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Skip("this kernel has no test device of HMM".into()).into())
            }
            file => Ok(Self(file.context(path)?)),
        }
    }

    fn call(&self, request: Request, span: Span, unit: usize) -> nix::Result<Vec<u8>> {
        let mut buffer = vec![0; span.nr_pages() * unit];
        let mut command = Command {
            addr: span.addr as u64,
            buffer: buffer.as_mut_ptr() as u64,
            pages: span.nr_pages() as u64,
            pages_done: 0,
            faults: 0,
        };
        // SAFETY: The buffer has room for so much of each page; the memory is never borrowed.
        unsafe { request(self.0.as_raw_fd(), &mut command) }?;
        Ok(buffer)
    }

    /// Asks it to take all pages of a range away.  ENOENT: it did not get all of them.
    pub fn take(&self, span: Span) -> nix::Result<()> {
        self.call(migrate_to_device, span, page()).map(drop)
    }

    /// Asks it to give back what it has taken.
    pub fn give_back(&self, span: Span) -> nix::Result<()> {
        self.call(migrate_to_system, span, page()).map(drop)
    }

    /// Lets it read a range, for which it faults like a program.
    pub fn read(&self, span: Span) -> nix::Result<Vec<u8>> {
        self.call(device_read, span, page())
    }

    /// Lets it write zeroes to a range, for which it faults like a program.
    pub fn write(&self, span: Span) -> nix::Result<()> {
        self.call(device_write, span, page()).map(drop)
    }

    /// Lets it have the pages for itself where they are, until the next touch.
    pub fn make_exclusive(&self, span: Span) -> nix::Result<()> {
        self.call(make_exclusive, span, page()).map(drop)
    }

    /// Lets it look at a range without a fault: a byte for each page.
    pub fn snapshot(&self, span: Span) -> nix::Result<Vec<u8>> {
        self.call(snapshot, span, 1)
    }

    /// Makes its next allocation of a huge page fail, so that it takes small ones.
    pub fn no_huge_page(&self) -> nix::Result<()> {
        const FAIL_ALLOC: usize = 1;
        // The flags stand in the place of the number of pages, and no page is looked at.
        let span = Span::new(page(), FAIL_ALLOC * page());
        self.call(set_flags, span, 1).map(drop)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether an error of [`Device::take`] only says that it did not get every page.
pub fn took_some(result: nix::Result<()>) -> bool {
    matches!(result, Ok(()) | Err(Errno::ENOENT))
}
