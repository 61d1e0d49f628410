// SPDX-License-Identifier: GPL-2.0

//! A userfaultfd that speaks the range protocol.

use crate::harness::Outcome;
use crate::sys::{page, remap, Span, RAP_WAKE};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The version of the protocol, and the answer to any other.
pub const PROTOCOL: u64 = 0xaa;
pub const UNKNOWN_PROTOCOL: u64 = u64::MAX;
/// What is added to the beginning of a range.
pub const REGISTER: u64 = 1;
pub const UNREGISTER: u64 = 2;
/// Serve accesses of programs only.
pub const USER_MODE_ONLY: i32 = 1;

/// How long something may take that is bound to happen.
pub const SOON: Duration = Duration::from_secs(30);
/// How long something is watched that must not happen.
pub const A_WHILE: Duration = Duration::from_millis(150);

// USERFAULTFD_IOC_NEW
nix::ioctl_write_int_bad!(new_descriptor, nix::request_code_none!(0xaa, 0));

/// A descriptor.
#[derive(Debug)]
pub struct Range(OwnedFd);

impl Range {
    /// A new one, to which nothing was written, with these flags.
    pub fn open(flags: i32) -> nix::Result<Self> {
        // SAFETY: It makes a descriptor only.
        let fd = Errno::result(unsafe {
            libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags)
        })?;
        // SAFETY: It is a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// The same, from an open /dev/userfaultfd.
    pub fn from_device(device: &File, flags: i32) -> nix::Result<Self> {
        // SAFETY: The argument is a number; it makes a descriptor only.
        let fd = unsafe { new_descriptor(device.as_raw_fd(), (libc::O_CLOEXEC | flags) as _) }?;
        // SAFETY: It is a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// One that is ready, with these flags.
    pub fn with(flags: i32) -> anyhow::Result<Self> {
        let fd = Self::open(flags).context("userfaultfd")?;
        ensure!(fd.write(&[PROTOCOL]) == Ok(8), "the version");
        ensure!(fd.read() == Ok(PROTOCOL), "the answer");
        Ok(fd)
    }

    /// One that is ready, and whose reads wait.
    pub fn new() -> anyhow::Result<Self> {
        Self::with(0)
    }

    /// One that is ready, and whose reads do not wait.
    pub fn without_waiting() -> anyhow::Result<Self> {
        Self::with(libc::O_NONBLOCK)
    }

    /// One that is ready and serves a range, which is marked.
    pub fn serving(span: Span) -> anyhow::Result<Self> {
        let fd = Self::new()?;
        span.mark()?;
        fd.register(span).context("register")?;
        Ok(fd)
    }

    /// Its number.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Writes words.
    pub fn write(&self, words: &[u64]) -> nix::Result<usize> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        nix::unistd::write(&self.0, &bytes)
    }

    /// Reads a word.
    pub fn read(&self) -> nix::Result<u64> {
        let mut bytes = [0; 8];
        let read = nix::unistd::read(&self.0, &mut bytes)?;
        assert_eq!(read, bytes.len(), "the length that was read");
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Reads a fault that comes soon.
    pub fn fault(&self) -> anyhow::Result<usize> {
        ensure!(
            self.ready_within(SOON)?.contains(PollFlags::POLLIN),
            "no fault"
        );
        Ok(self.read().context("read")? as usize)
    }

    /// What it is ready for now.
    pub fn ready(&self) -> anyhow::Result<PollFlags> {
        self.poll(PollTimeout::ZERO)
    }

    /// Waits until it is ready for a read.
    fn ready_within(&self, time: Duration) -> anyhow::Result<PollFlags> {
        let end = Instant::now() + time;
        loop {
            let ready = self.ready()?;
            if ready.contains(PollFlags::POLLIN) || Instant::now() > end {
                return Ok(ready);
            }
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(Duration::from_millis(100))?).context("poll")?;
        }
    }

    fn poll(&self, timeout: PollTimeout) -> anyhow::Result<PollFlags> {
        let events = PollFlags::POLLIN | PollFlags::POLLOUT;
        let mut fds = [PollFd::new(self.0.as_fd(), events)];
        poll(&mut fds, timeout).context("poll")?;
        fds[0].revents().context("unknown events")
    }

    /// Waits a little for something to read.
    pub fn wait_a_little(&self) -> Outcome {
        self.poll(PollTimeout::try_from(Duration::from_millis(20))?)
            .map(drop)
    }

    /// Fails if a fault comes within a while.
    pub fn ensure_silent(&self) -> Outcome {
        let ready = self.ready_within(A_WHILE)?;
        ensure!(
            !ready.contains(PollFlags::POLLIN),
            "there is a fault to read"
        );
        Ok(())
    }

    /// Waits until so many faults are there, read or not.
    pub fn wait_for(&self, total: u64) -> Outcome {
        wait_until(|| Ok(self.counts()?.1 == total))
            .with_context(|| format!("{:?} instead of {total} in all", self.counts()))
    }

    /// Has it serve a range.
    pub fn register(&self, span: Span) -> nix::Result<usize> {
        self.write(&[span.addr as u64 | REGISTER, span.end() as u64])
    }

    /// Has it serve a range no more.
    pub fn unregister(&self, span: Span) -> nix::Result<usize> {
        self.write(&[span.addr as u64 | UNREGISTER, span.end() as u64])
    }

    /// Wakes who waits in a range.
    pub fn wake(&self, span: Span) -> nix::Result<usize> {
        self.write(&[span.addr as u64, span.end() as u64])
    }

    /// How many faults were not read, and how many there are, by fdinfo.
    pub fn counts(&self) -> anyhow::Result<(u64, u64)> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let field = |name| crate::proc::field(&path, name);
        Ok((field("pending")?, field("total")?))
    }
}

impl From<OwnedFd> for Range {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Range {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets all threads that wait in a range go on, when it is dropped: a test that fails ends.
pub struct LetGo(Span);

impl LetGo {
    pub fn at_the_end(span: Span) -> Self {
        Self(span)
    }
}

impl Drop for LetGo {
    fn drop(&mut self) {
        let _ = self.0.unmark();
    }
}

/// Moves a page to where a fault was, and wakes.  That it is there already is as good.
pub fn resolve(dst: Span, src: Span) -> Outcome {
    match remap(dst, src, RAP_WAKE) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).context("remap_anon_pages"),
    }
}

/// Serves faults until it is told to stop.
pub fn serve(fd: &Range, dst: Span, src: Span, over: &AtomicBool) -> Outcome {
    while !over.load(Ordering::SeqCst) {
        match fd.read() {
            Ok(addr) => {
                let index = (addr as usize - dst.addr) / page();
                resolve(dst.page(index), src.page(index))?;
            }
            Err(Errno::EAGAIN) => drop(fd.wait_a_little()?),
            Err(error) => return Err(error).context("read"),
        }
    }
    Ok(())
}

/// The page of an address.
pub fn page_at(addr: usize) -> Span {
    Span::new(addr, page())
}

/// Waits until something holds that is bound to.
pub fn wait_until(mut holds: impl FnMut() -> anyhow::Result<bool>) -> Outcome {
    let end = Instant::now() + SOON;
    while !holds()? {
        ensure!(Instant::now() < end, "it takes too long");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
