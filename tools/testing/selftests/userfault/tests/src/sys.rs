// SPDX-License-Identifier: GPL-2.0

//! Memory under test, and the calls under test.

use crate::arch::MAP_32BIT;
use crate::touch::{self, Fault};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::LazyLock;

/// The number of the system call.  Not taken from the headers: this is what it has to be.
pub const NR_REMAP_ANON_PAGES: i64 = 548;
/// Accept holes in the source.
pub const RAP_ALLOW_SRC_HOLES: u64 = 1 << 0;
/// Wake those who wait for what was moved.
pub const RAP_WAKE: u64 = 1 << 1;
/// Mark memory: a hole in it raises SIGBUS.
pub const MADV_USERFAULT: i32 = 118;
/// Take the mark away.
pub const MADV_NOUSERFAULT: i32 = 119;

// Advice that the libc crate does not have for every target.
pub const MADV_COLD: i32 = 20;
pub const MADV_POPULATE_READ: i32 = 22;
pub const MADV_POPULATE_WRITE: i32 = 23;
pub const MADV_COLLAPSE: i32 = 25;
pub const MADV_GUARD_INSTALL: i32 = 102;
pub const MADV_GUARD_REMOVE: i32 = 103;
pub const MAP_DROPPABLE: i32 = 0x08;

/// Read and write.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The size of a page.
pub fn page() -> usize {
    static SIZE: LazyLock<usize> = LazyLock::new(|| {
        // SAFETY: No preconditions.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a size")
    });
    *SIZE
}

/// What a page table maps: the size of a huge page, whether there are such or not.
pub fn pmd() -> usize {
    static SIZE: LazyLock<usize> = LazyLock::new(|| {
        let path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
        match std::fs::read_to_string(path) {
            Ok(size) => size.trim().parse().expect("a size"),
            Err(_) => pmd_of_the_mmu(),
        }
    });
    *SIZE
}

/// The same where the kernel has no huge pages to tell it.
fn pmd_of_the_mmu() -> usize {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hash = cpus
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.trim() == "MMU" && value.trim() == "Hash");
    match page() {
        0x10000 if hash => 16 << 20,
        _ => 2 << 20,
    }
}

/// How many pages a huge page has.
pub fn pmd_pages() -> usize {
    pmd() / page()
}

/// Where a page lies in a huge page that lies there where one has 512 pages: it may have fewer.
pub fn of_512(index: usize) -> usize {
    index * pmd_pages() / 512
}

/// What a table takes whose entries are pages, in bytes.
pub fn table() -> usize {
    pmd_pages() * size_of::<u64>()
}

/// What a table of an upper level takes at most.
pub fn upper_table() -> usize {
    page().min(8 << 10)
}

/// The system call with any arguments.
///
/// The memory that it may change is never borrowed: it is that of areas only.
pub fn remap_raw(dst: usize, src: usize, len: usize, flags: u64) -> nix::Result<usize> {
    // SAFETY: See above.
    let moved = unsafe { libc::syscall(NR_REMAP_ANON_PAGES, dst, src, len, flags) };
    Errno::result(moved).map(|moved| moved as usize)
}

/// Moves `src` to `dst`, which has the same length, and checks what holds for every result.
pub fn remap(dst: Span, src: Span, flags: u64) -> nix::Result<usize> {
    assert_eq!(dst.len, src.len, "a fault of the test");
    let moved = remap_raw(dst.addr, src.addr, src.len, flags)?;
    assert!(
        moved > 0 && moved <= src.len && moved % page() == 0,
        "remap_anon_pages returned {moved} for {} bytes",
        src.len
    );
    Ok(moved)
}

/// Moves the whole of `src` to `dst`, or fails the test.
pub fn remap_all(dst: Span, src: Span) -> anyhow::Result<()> {
    let moved = remap(dst, src, 0).context("remap_anon_pages")?;
    ensure!(moved == src.len, "moved {moved} bytes of {}", src.len);
    Ok(())
}

/// A range of addresses in an area under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub addr: usize,
    pub len: usize,
}

impl Span {
    /// Any range.
    pub fn new(addr: usize, len: usize) -> Self {
        Self { addr, len }
    }

    /// Its end.
    pub fn end(self) -> usize {
        self.addr + self.len
    }

    /// Whether it has memory in common with another one.
    pub fn overlaps(self, other: Self) -> bool {
        self.addr < other.end() && other.addr < self.end()
    }

    /// How many pages it has.
    pub fn nr_pages(self) -> usize {
        self.len / page()
    }

    /// One page of it.
    pub fn page(self, index: usize) -> Self {
        self.pages(index..index + 1)
    }

    /// Some pages of it.
    pub fn pages(self, range: Range<usize>) -> Self {
        assert!(range.end * page() <= self.len, "a fault of the test");
        Self::new(self.addr + range.start * page(), range.len() * page())
    }

    /// All its pages, one by one.
    pub fn each_page(self) -> impl Iterator<Item = Self> {
        (0..self.nr_pages()).map(move |index| self.page(index))
    }

    /// It as one part of a vector of `readv` and its like.
    pub fn iovec(self) -> libc::iovec {
        libc::iovec {
            iov_base: self.addr as *mut libc::c_void,
            iov_len: self.len,
        }
    }

    /// `madvise`.
    pub fn advise(self, advice: i32) -> nix::Result<()> {
        // SAFETY: The memory of an area is never borrowed.
        let ret = unsafe { libc::madvise(self.addr as *mut libc::c_void, self.len, advice) };
        Errno::result(ret).map(drop)
    }

    /// Marks it with `MADV_USERFAULT`, or fails the test.
    pub fn mark(self) -> anyhow::Result<()> {
        self.advise(MADV_USERFAULT).context("MADV_USERFAULT")
    }

    /// Takes the mark away, or fails the test.
    pub fn unmark(self) -> anyhow::Result<()> {
        self.advise(MADV_NOUSERFAULT).context("MADV_NOUSERFAULT")
    }

    /// Lets it have huge pages, where the kernel has any.
    pub fn want_huge(self) -> anyhow::Result<()> {
        match self.advise(libc::MADV_HUGEPAGE) {
            Err(Errno::EINVAL) => Ok(()),
            advised => advised.context("MADV_HUGEPAGE"),
        }
    }

    /// `mprotect`.
    pub fn protect(self, prot: i32) -> nix::Result<()> {
        // SAFETY: As in `advise()`.
        let ret = unsafe { libc::mprotect(self.addr as *mut libc::c_void, self.len, prot) };
        Errno::result(ret).map(drop)
    }

    /// `mremap`.  Returns where the mapping is now.
    pub fn mremap(self, new_len: usize, flags: i32, new: usize) -> nix::Result<Self> {
        // SAFETY: As in `advise()`.
        let moved = unsafe {
            let old = self.addr as *mut libc::c_void;
            libc::mremap(old, self.len, new_len, flags, new)
        };
        match moved {
            libc::MAP_FAILED => Err(Errno::last()),
            moved => Ok(Self::new(moved as usize, new_len)),
        }
    }

    /// `munmap`.
    pub fn unmap(self) -> nix::Result<()> {
        // SAFETY: As in `advise()`.
        let ret = unsafe { libc::munmap(self.addr as *mut libc::c_void, self.len) };
        Errno::result(ret).map(drop)
    }

    /// `mlock2`.
    pub fn lock(self, flags: u32) -> nix::Result<()> {
        // SAFETY: As in `advise()`.
        let ret = unsafe { libc::mlock2(self.addr as *const libc::c_void, self.len, flags) };
        Errno::result(ret).map(drop)
    }

    /// `munlock`.
    pub fn unlock(self) -> nix::Result<()> {
        // SAFETY: As in `advise()`.
        let ret = unsafe { libc::munlock(self.addr as *const libc::c_void, self.len) };
        Errno::result(ret).map(drop)
    }

    /// `mseal`.
    pub fn seal(self) -> nix::Result<()> {
        const NR_MSEAL: i64 = 462;
        // SAFETY: As in `advise()`.
        let ret = unsafe { libc::syscall(NR_MSEAL, self.addr, self.len, 0) };
        Errno::result(ret).map(drop)
    }

    /// Reads its first byte.
    pub fn load(self) -> Result<u8, Fault> {
        touch::load(self.addr)
    }

    /// Writes its first byte.
    pub fn store(self, value: u8) -> Result<(), Fault> {
        touch::store(self.addr, value)
    }

    fn words(self) -> impl Iterator<Item = *mut u64> {
        let first = self.addr as *mut u64;
        (0..self.len / size_of::<u64>()).map(move |index| first.wrapping_add(index))
    }

    /// Writes every word of it.  No two words that are filled with different seeds are equal.
    pub fn fill(self, seed: u32) {
        for (index, word) in self.words().enumerate() {
            // SAFETY: The memory is mapped and never borrowed; if not, the test dies of it.
            unsafe { word.write_volatile(pattern(seed, index)) };
        }
    }

    /// Writes zero to every word of it.
    pub fn clear(self) {
        for word in self.words() {
            // SAFETY: As in `fill()`.
            unsafe { word.write_volatile(0) };
        }
    }

    /// Checks every word that `fill()` has written.
    pub fn check(self, seed: u32) -> anyhow::Result<()> {
        self.check_words(|index| pattern(seed, index))
    }

    /// Checks that it is all zero.
    pub fn check_zero(self) -> anyhow::Result<()> {
        self.check_words(|_| 0)
    }

    fn check_words(self, want: impl Fn(usize) -> u64) -> anyhow::Result<()> {
        for (index, word) in self.words().enumerate() {
            // SAFETY: As in `fill()`.
            let seen = unsafe { word.read_volatile() };
            let want = want(index);
            ensure!(
                seen == want,
                "word {index} of {self:x?} is {seen:#x} instead of {want:#x}"
            );
        }
        Ok(())
    }

    /// A copy of what is there.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        for word in self.words() {
            // SAFETY: As in `fill()`.
            bytes.extend_from_slice(&unsafe { word.read_volatile() }.to_ne_bytes());
        }
        bytes
    }

    /// Fills each page with a seed of its own, `first` the first.
    pub fn fill_pages(self, first: u32) {
        (first..)
            .zip(self.each_page())
            .for_each(|(seed, page)| page.fill(seed));
    }

    /// Checks what `fill_pages()` has written.
    pub fn check_pages(self, first: u32) -> anyhow::Result<()> {
        (first..)
            .zip(self.each_page())
            .try_for_each(|(seed, page)| page.check(seed))
    }
}

/// What `fill()` writes to a word.  Never 0.
pub fn pattern(seed: u32, index: usize) -> u64 {
    !(u64::from(seed) << 32 | index as u64)
}

/// How memory is to be mapped.
pub struct Map<'fd> {
    len: usize,
    align: usize,
    prot: i32,
    flags: i32,
    fd: Option<BorrowedFd<'fd>>,
}

impl<'fd> Map<'fd> {
    /// Private anonymous memory to read and write, so many bytes.
    pub fn bytes(len: usize) -> Self {
        Self {
            len,
            align: page(),
            prot: RW,
            flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            fd: None,
        }
    }

    /// The same, so many pages.
    pub fn pages(count: usize) -> Self {
        Self::bytes(count * page())
    }

    /// The same, so many huge pages, aligned to their size.
    pub fn huge_pages(count: usize) -> Self {
        Self::bytes(count * pmd()).align(pmd())
    }

    /// Aligned to a power of two.
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// With this protection.
    pub fn prot(self, prot: i32) -> Self {
        Self { prot, ..self }
    }

    /// With these flags instead of `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE`.
    pub fn flags(self, flags: i32) -> Self {
        Self { flags, ..self }
    }

    /// With these flags in addition.
    pub fn more_flags(self, flags: i32) -> Self {
        let flags = self.flags | flags;
        Self { flags, ..self }
    }

    /// From this file, with these flags.
    pub fn file(self, fd: BorrowedFd<'fd>, flags: i32) -> Self {
        Self {
            flags,
            fd: Some(fd),
            ..self
        }
    }

    /// Maps it, between two pages without access that keep it from merging with anything.  It gets
    /// small pages, until it is told otherwise by `MADV_HUGEPAGE`.
    pub fn map(self) -> nix::Result<Area> {
        let around = Self {
            len: self.len + self.align + 2 * page(),
            prot: libc::PROT_NONE,
            flags: libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_NORESERVE
                | (self.flags & MAP_32BIT),
            fd: None,
            align: page(),
        };
        let around = Span::new(around.map_at(0, 0)?, around.len);
        let addr = (around.addr + page()).next_multiple_of(self.align);
        // Built first, so that a failure unmaps what is there.
        let area = Area {
            span: Span::new(addr, self.len),
            around,
        };
        self.map_at(addr, libc::MAP_FIXED)?;
        // A test that wants huge pages says so.  Not every kernel and not all memory can have them.
        let _ = area.advise(libc::MADV_NOHUGEPAGE);
        Ok(area)
    }

    /// Maps it wherever there is room, and for good.
    pub fn leak(self) -> nix::Result<usize> {
        self.map_at(0, 0)
    }

    fn map_at(&self, addr: usize, more_flags: i32) -> nix::Result<usize> {
        // SAFETY: The address is free, or inside of an area that is being made.
        let mapped = unsafe {
            libc::mmap(
                addr as *mut libc::c_void,
                self.len,
                self.prot,
                self.flags | more_flags,
                self.fd.map_or(-1, |fd| fd.as_raw_fd()),
                0,
            )
        };
        match mapped {
            libc::MAP_FAILED => Err(Errno::last()),
            mapped => Ok(mapped as usize),
        }
    }
}

/// Memory under test.  Nothing in this program ever makes a reference into it.
#[derive(Debug)]
pub struct Area {
    span: Span,
    around: Span,
}

impl Area {
    /// Takes over what was mapped by other means.
    ///
    /// # Safety
    ///
    /// Nothing else may use or unmap it.
    pub unsafe fn from_span(span: Span) -> Self {
        Self { span, around: span }
    }

    /// Private anonymous memory to read and write.
    pub fn pages(count: usize) -> nix::Result<Self> {
        Map::pages(count).map()
    }

    /// The same with content, see [`Span::fill_pages`].
    pub fn filled(count: usize, first_seed: u32) -> nix::Result<Self> {
        let area = Self::pages(count)?;
        area.fill_pages(first_seed);
        Ok(area)
    }

    /// The same without content, and marked with `MADV_USERFAULT`.
    pub fn marked(count: usize) -> anyhow::Result<Self> {
        let area = Self::pages(count)?;
        area.mark()?;
        Ok(area)
    }
}

impl Deref for Area {
    type Target = Span;

    fn deref(&self) -> &Span {
        &self.span
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        let _ = self.around.unmap();
    }
}
