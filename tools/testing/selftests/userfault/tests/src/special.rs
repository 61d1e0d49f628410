// SPDX-License-Identifier: GPL-2.0

//! Memory that is not simply private and anonymous, and what may lie in the place of a page.

use crate::harness::Skip;
use crate::knobs;
use crate::proc::field;
use crate::sys::{page, pmd, pmd_pages, Area, Map, Span, MADV_POPULATE_READ, MAP_DROPPABLE, RW};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::stat::{makedev, mknod, Mode, SFlag};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::path::Path;

/// A file in memory, of so many pages.
pub fn memfd(pages: usize) -> anyhow::Result<File> {
    // SAFETY: A valid string; the descriptor is a new one.
    let file = unsafe {
        let fd = Errno::result(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC));
        File::from_raw_fd(fd.context("memfd_create")?)
    };
    file.set_len((pages * page()) as u64).context("ftruncate")?;
    Ok(file)
}

/// Maps a file over a part of an area, privately.
pub fn map_over(span: Span, file: &File) -> anyhow::Result<()> {
    // SAFETY: The memory of an area is never borrowed.
    let mapped = unsafe {
        libc::mmap(
            span.addr as *mut libc::c_void,
            span.len,
            RW,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            0,
        )
    };
    ensure!(mapped as usize == span.addr, "mmap: {}", Errno::last());
    Ok(())
}

/// Puts memory without access in the place of what was mapped there, which is unmapped.
pub fn unmap(span: Span) -> anyhow::Result<()> {
    // SAFETY: The memory of an area is never borrowed.
    let mapped = unsafe {
        libc::mmap(
            span.addr as *mut libc::c_void,
            span.len,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    ensure!(mapped as usize == span.addr, "mmap: {}", Errno::last());
    Ok(())
}

/// Shared anonymous memory.
pub fn shared_anonymous(pages: usize) -> anyhow::Result<Area> {
    let map = Map::pages(pages).flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    map.map().context("mmap")
}

/// Private memory from /dev/zero.
pub fn dev_zero(pages: usize) -> anyhow::Result<Area> {
    let path = Path::new("/dev/zero");
    if !path.exists() {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(path, SFlag::S_IFCHR, mode, makedev(1, 5)).context("mknod")?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context("/dev/zero")?;
    let map = Map::pages(pages).file(file.as_fd(), libc::MAP_PRIVATE);
    map.map().context("mmap")
}

/// Huge pages of hugetlb.
pub fn hugetlb(pages: usize, flags: i32) -> anyhow::Result<Area> {
    knobs::set("/proc/sys/vm/nr_hugepages", 8)?;
    // They need not be as large as transparent ones, nor may they lie beside other memory on every
    // MMU.  So the kernel says where.
    let len = pages * 1024 * field("/proc/meminfo", "Hugepagesize")? as usize;
    let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    // SAFETY: It takes free addresses only.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, RW, flags, -1, 0) };
    match mapped {
        libc::MAP_FAILED if Errno::last() == Errno::ENOMEM => {
            Err(Skip("no memory for hugetlb pages".into()).into())
        }
        libc::MAP_FAILED => Err(Errno::last()).context("mmap"),
        // SAFETY: Just mapped, for this test only.
        mapped => Ok(unsafe { Area::from_span(Span::new(mapped as usize, len)) }),
    }
}

/// Memory of memfd_secret.
pub fn secretmem(pages: usize) -> anyhow::Result<Area> {
    // SAFETY: It makes a descriptor only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_memfd_secret, 0) });
    let file = match fd {
        Err(Errno::ENOSYS) => return Err(Skip("this kernel has no memfd_secret".into()).into()),
        // SAFETY: The descriptor is a new one.
        fd => unsafe { File::from_raw_fd(fd.context("memfd_secret")? as i32) },
    };
    file.set_len((pages * page()) as u64).context("ftruncate")?;
    let map = Map::pages(pages).file(file.as_fd(), libc::MAP_SHARED);
    map.map().context("mmap")
}

/// Memory that the kernel may drop.
pub fn droppable(pages: usize) -> anyhow::Result<Area> {
    let map = Map::pages(pages).flags(MAP_DROPPABLE | libc::MAP_ANONYMOUS);
    map.map().context("mmap")
}

/// A shadow stack, where the processor has such.
pub fn shadow_stack(pages: usize) -> anyhow::Result<Area> {
    const NR_MAP_SHADOW_STACK: i64 = 453;
    // SAFETY: It maps new memory only.
    let addr = unsafe { libc::syscall(NR_MAP_SHADOW_STACK, 0, pages * page(), 0) };
    match Errno::result(addr) {
        // SAFETY: As above: it is nobody else's.
        Ok(addr) => Ok(unsafe { Area::from_span(Span::new(addr as usize, pages * page())) }),
        Err(error) => Err(Skip(format!("no shadow stacks here: {error}")).into()),
    }
}

/// Whether the range is one huge page, or huge pages only.
pub fn is_huge(span: Span) -> anyhow::Result<bool> {
    let kib = crate::proc::vma_of(span)?.kib("AnonHugePages")?;
    Ok(kib as usize * 1024 >= span.len)
}

/// So many huge pages with content, or a skip where this kernel has none.
pub fn huge_pages(count: usize, first_seed: u32) -> anyhow::Result<Area> {
    knobs::set_thp("enabled", "always")?;
    knobs::set_thp("defrag", "always")?;
    let area = Map::huge_pages(count).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.fill_pages(first_seed);
    // khugepaged is not to interfere with what comes.
    area.advise(libc::MADV_NOHUGEPAGE)
        .context("MADV_NOHUGEPAGE")?;
    if !is_huge(*area)? {
        return Err(Skip("no huge pages to be had".into()).into());
    }
    Ok(area)
}

/// How many pages the folios have that most tests use: so few that several of them, and a place
/// between two of them, are in the room of a huge page.
pub fn folio_pages() -> usize {
    16.min(pmd_pages() / 4)
}

/// The room of a huge page, in folios of so many pages, with content; or a skip.
pub fn pages_of_folios(pages: usize, first_seed: u32) -> anyhow::Result<Area> {
    knobs::set_thp("enabled", "never")?;
    knobs::set_thp(&knobs::folio_file(pages, "enabled"), "always")?;
    let area = Map::huge_pages(1).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.fill_pages(first_seed);
    area.advise(libc::MADV_NOHUGEPAGE)
        .context("MADV_NOHUGEPAGE")?;
    let frames = crate::proc::frames(area.pages(0..pages))?;
    if !frames.windows(2).all(|pair| pair[1] == pair[0] + 1) {
        return Err(Skip(format!("no folios of {pages} pages to be had")).into());
    }
    Ok(area)
}

/// Zero pages, so many that it takes a while to move them, and as many holes.
pub fn many_zero_pages() -> anyhow::Result<[Area; 2]> {
    const PAGES: usize = 1 << 19;
    // They take page tables only.
    let map = || Map::pages(PAGES).more_flags(libc::MAP_NORESERVE).map();
    let (src, dst) = (map()?, map()?);
    // Not every kernel knows of others.
    let _ = src.advise(libc::MADV_NOHUGEPAGE);
    src.advise(MADV_POPULATE_READ).context("populate")?;
    Ok([src, dst])
}

/// So many huge zero pages.
pub fn huge_zero_pages(count: usize) -> anyhow::Result<Area> {
    knobs::set_thp("enabled", "always")?;
    knobs::set_thp("use_zero_page", 1)?;
    let area = Map::huge_pages(count).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    for index in 0..count {
        let huge = Span::new(area.addr + index * pmd(), pmd());
        ensure!(huge.load() == Ok(0), "not zero");
        crate::proc::ensure_present(huge).context("one read did not map a huge zero page")?;
    }
    area.advise(libc::MADV_NOHUGEPAGE)
        .context("MADV_NOHUGEPAGE")?;
    Ok(area)
}

/// Pages of a range in a pipe: the kernel has references to them, but no pins.
pub struct Pipe {
    reader: File,
    len: usize,
}

/// Puts the pages of a range, at most 16, into a pipe.
pub fn pipe_with(span: Span) -> anyhow::Result<Pipe> {
    let (reader, writer) = nix::unistd::pipe().context("pipe")?;
    let part = span.iovec();
    // SAFETY: The memory of an area is never borrowed.
    let spliced = unsafe { libc::vmsplice(writer.as_raw_fd(), &part, 1, 0) };
    ensure!(spliced as usize == span.len, "vmsplice: {spliced}");
    Ok(Pipe {
        reader: File::from(reader),
        len: span.len,
    })
}

impl Pipe {
    /// What is in it.
    pub fn bytes(mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len];
        self.reader.read_exact(&mut bytes).context("read")?;
        Ok(bytes)
    }
}
