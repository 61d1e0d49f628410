// SPDX-License-Identifier: GPL-2.0

//! Mainline's userfaultfd, as far as its traces are of interest here.

use crate::harness::Skip;
use crate::sys::Span;
use anyhow::Context;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
const UFFD_FEATURE_MOVE: u64 = 1 << 16;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_POISON: u64 = 1 << 14;
const UFFD_FEATURE_RWP: u64 = 1 << 17;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_REGISTER_MODE_RWP: u64 = 1 << 3;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// The argument of UFFDIO_COPY and of UFFDIO_MOVE.
#[repr(C)]
struct Transfer {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// The argument of UFFDIO_ZEROPAGE and of UFFDIO_POISON.
#[repr(C)]
struct Fill {
    start: u64,
    len: u64,
    mode: u64,
    filled: i64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

/// The request number of an ioctl of userfaultfd that reads and writes a `T`.
const fn request<T>(number: u64) -> u64 {
    const READ_WRITE: u64 = 3;
    READ_WRITE << 30 | (size_of::<T>() as u64) << 16 | 0xaa << 8 | number
}

fn ioctl<T>(fd: impl AsFd, number: u64, arg: &mut T) -> nix::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: The argument is of the type that the request names.
    Errno::result(unsafe { libc::ioctl(fd, request::<T>(number), arg) }).map(drop)
}

/// Opens a descriptor that has these features, or skips the test.
fn open(features: u64) -> anyhow::Result<OwnedFd> {
    // SAFETY: It makes a descriptor only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) });
    let fd = match fd {
        Err(Errno::ENOSYS) => return Err(Skip("this kernel has no userfaultfd".into()).into()),
        // SAFETY: The descriptor is a new one.
        fd => unsafe { OwnedFd::from_raw_fd(fd.context("userfaultfd")? as i32) },
    };
    let mut api = Api {
        api: UFFD_API,
        features,
        ioctls: 0,
    };
    match ioctl(&fd, 0x3f, &mut api) {
        Err(Errno::EINVAL) => Err(Skip("userfaultfd has no such feature here".into()).into()),
        done => done.map(|()| fd).context("UFFDIO_API"),
    }
}

fn register(fd: &OwnedFd, span: Span, mode: u64) -> anyhow::Result<()> {
    try_register(fd, span, mode).context("UFFDIO_REGISTER")
}

fn try_register(fd: impl AsFd, span: Span, mode: u64) -> nix::Result<()> {
    let mut arg = Register {
        start: span.addr as u64,
        len: span.len as u64,
        mode,
        ioctls: 0,
    };
    ioctl(fd, 0x00, &mut arg)
}

/// Says UFFDIO_API on any descriptor, without a feature.
pub fn say_api(fd: impl AsFd) -> nix::Result<()> {
    let mut api = Api {
        api: UFFD_API,
        features: 0,
        ioctls: 0,
    };
    ioctl(fd, 0x3f, &mut api)
}

/// Registers a range for missing pages on any descriptor.
pub fn try_missing(fd: impl AsFd, span: Span) -> nix::Result<()> {
    try_register(fd, span, UFFDIO_REGISTER_MODE_MISSING)
}

/// Opens a descriptor that can move pages.
pub fn open_missing() -> anyhow::Result<OwnedFd> {
    open(UFFD_FEATURE_MOVE)
}

/// The same, but a touch of a hole is SIGBUS.
pub fn open_sigbus() -> anyhow::Result<OwnedFd> {
    open(UFFD_FEATURE_MOVE | UFFD_FEATURE_SIGBUS)
}

/// Registers one more range for missing pages.
pub fn add_missing(fd: &OwnedFd, span: Span) -> anyhow::Result<()> {
    register(fd, span, UFFDIO_REGISTER_MODE_MISSING)
}

#[inline(always)]
fn transfer(fd: &OwnedFd, number: u64, dst: Span, src: Span) -> nix::Result<usize> {
    let mut arg = Transfer {
        dst: dst.addr as u64,
        src: src.addr as u64,
        len: src.len as u64,
        mode: 0,
        done: 0,
    };
    ioctl(fd, number, &mut arg).map(|()| arg.done as usize)
}

/// Copies `src` to `dst`, where nothing is.  Returns how much.
#[inline(always)]
pub fn copy(fd: &OwnedFd, dst: Span, src: Span) -> nix::Result<usize> {
    transfer(fd, 0x03, dst, src)
}

/// Moves `src` to `dst`, where nothing is.  Returns how much.
#[inline(always)]
pub fn move_pages(fd: &OwnedFd, dst: Span, src: Span) -> nix::Result<usize> {
    transfer(fd, 0x05, dst, src)
}

/// Registers a range for missing pages, until the descriptor is closed.
pub fn register_missing(span: Span) -> anyhow::Result<OwnedFd> {
    let fd = open(0)?;
    add_missing(&fd, span)?;
    Ok(fd)
}

/// Reads the address of a fault.
#[inline(always)]
pub fn read_fault(fd: &OwnedFd) -> nix::Result<usize> {
    /// Of a fault in `struct uffd_msg`.
    const ADDRESS: usize = 2;
    let mut message = [0u64; 4];
    // SAFETY: There is room for a message.
    let read = unsafe {
        libc::read(
            fd.as_raw_fd(),
            message.as_mut_ptr().cast(),
            size_of_val(&message),
        )
    };
    Errno::result(read).map(|_| message[ADDRESS] as usize)
}

/// Fills a range with zero pages, which wakes those who wait for them.
pub fn zero(fd: &OwnedFd, span: Span) -> nix::Result<()> {
    fill(fd, span, 0x04)
}

/// Registers a range for missing pages and puts poison there, which outlives the descriptor.
pub fn poison(span: Span) -> anyhow::Result<()> {
    let fd = open(UFFD_FEATURE_POISON)?;
    register(&fd, span, UFFDIO_REGISTER_MODE_MISSING)?;
    fill(&fd, span, 0x08).context("UFFDIO_POISON")
}

fn fill(fd: &OwnedFd, span: Span, number: u64) -> nix::Result<()> {
    let mut arg = Fill {
        start: span.addr as u64,
        len: span.len as u64,
        mode: 0,
        filled: 0,
    };
    ioctl(fd, number, &mut arg)
}

/// Registers a range for write protection, until the descriptor is closed.
pub fn register_wp(span: Span) -> anyhow::Result<OwnedFd> {
    let fd = open(UFFD_FEATURE_WP_UNPOPULATED)?;
    register(&fd, span, UFFDIO_REGISTER_MODE_WP)?;
    Ok(fd)
}

/// Registers a range to see every access to a page of it, until the descriptor is closed.
pub fn register_rwp(span: Span) -> anyhow::Result<OwnedFd> {
    let fd = open(UFFD_FEATURE_RWP)?;
    register(&fd, span, UFFDIO_REGISTER_MODE_RWP)?;
    Ok(fd)
}

/// Write-protects a range: what is there, and what is not by markers, until the descriptor is
/// closed.
pub fn write_protect(span: Span) -> anyhow::Result<OwnedFd> {
    let fd = register_wp(span)?;
    write_protect_part(&fd, span)?;
    Ok(fd)
}

/// Write-protects a part of what is registered for that.
pub fn write_protect_part(fd: &OwnedFd, span: Span) -> anyhow::Result<()> {
    let mut arg = WriteProtect {
        start: span.addr as u64,
        len: span.len as u64,
        mode: UFFDIO_WRITEPROTECT_MODE_WP,
    };
    ioctl(fd, 0x06, &mut arg).context("UFFDIO_WRITEPROTECT")
}
