// SPDX-License-Identifier: GPL-2.0

//! A disk that is a file in memory.

use crate::harness::Skip;
use anyhow::Context;
use nix::sys::memfd::{memfd_create, MFdFlags};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

const CONTROL: &str = "/dev/loop-control";

nix::ioctl_none_bad!(get_free, 0x4c82);
nix::ioctl_write_int_bad!(set_fd, 0x4c00);
nix::ioctl_none_bad!(clear_fd, 0x4c01);

/// The disk, until it is dropped.
pub struct Loop {
    file: File,
    device: File,
}

impl Loop {
    /// A disk of so many bytes, or skips the test where this kernel has none.
    pub fn new(len: usize) -> anyhow::Result<Self> {
        let control = match File::open(CONTROL) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Skip(format!("this kernel has no {CONTROL}")).into());
            }
            control => control.context(CONTROL)?,
        };
        let file = File::from(memfd_create(c"disk", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(len as u64)?;
        // SAFETY: The request has no argument.
        let number = unsafe { get_free(control.as_raw_fd()) }.context("LOOP_CTL_GET_FREE")?;
        let path = format!("/dev/loop{number}");
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .context(path)?;
        // SAFETY: The argument is a number.
        unsafe { set_fd(device.as_raw_fd(), file.as_raw_fd()) }.context("LOOP_SET_FD")?;
        Ok(Self { file, device })
    }

    /// What is on it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The disk, around the page cache.
    pub fn direct(&self) -> &File {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // SAFETY: The request has no argument.
        let _ = unsafe { clear_fd(self.device.as_raw_fd()) };
    }
}
