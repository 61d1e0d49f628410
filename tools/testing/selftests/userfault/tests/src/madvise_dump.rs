// SPDX-License-Identifier: GPL-2.0

//! Who looks at memory from outside: a core dump, soft-dirty tracking.

use crate::cgroup::Cgroup;
use crate::harness::Outcome;
use crate::knobs;
use crate::madvise_fault::ensure_refused;
use crate::proc::{clear_soft_dirty, ensure_entries, ensure_holes, entries, is_marked, Entry};
use crate::process::{in_child, Ended};
use crate::sys::{page, pmd, remap_all, Area, Map, Span};
use crate::{ensure_eq, register, swap};
use anyhow::{ensure, Context};
use nix::sys::resource::{setrlimit, Resource, RLIM_INFINITY};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const CORE: &str = "/tmp/userfault-tests.core";

/// Where the content of a range stands in a core file.
fn find_in_core(core: &File, span: Span) -> anyhow::Result<u64> {
    const PT_LOAD: u64 = 1;
    let number = |offset: u64, bytes: usize| -> anyhow::Result<u64> {
        let mut buffer = [0; 8];
        core.read_exact_at(&mut buffer[..bytes], offset)?;
        Ok(u64::from_le_bytes(buffer))
    };
    // The fields of the two headers of a 64-bit ELF file, by where they are and how wide.
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = table + index * size;
        let (kind, offset) = (number(at, 4)?, number(at + 8, 8)?);
        let (addr, len) = (number(at + 16, 8)?, number(at + 32, 8)?);
        let inside = addr <= span.addr as u64 && span.end() as u64 <= addr + len;
        if kind == PT_LOAD && inside {
            return Ok(offset + span.addr as u64 - addr);
        }
    }
    anyhow::bail!("{span:x?} is not in the core file")
}

/// A11: a process with marked memory dumps core: what is there is in it, holes are zeroes that take
/// no room, and nothing is allocated for them.
fn a11_core_dump() -> Outcome {
    const SIZE: usize = 256 << 20;
    knobs::set("/proc/sys/kernel/core_pattern", CORE)?;
    let group = Cgroup::enter()?;
    // The start of it could be huge pages.
    let area = Map::bytes(SIZE).align(pmd()).map()?;
    area.pages(1..3).fill_pages(1);
    area.page(4).fill(4);
    ensure_eq!(area.page(5).load(), Ok(0));
    area.page(600).fill(600);
    swap::out(area.page(4))?;
    area.want_huge()?;
    area.mark()?;
    let before = entries(*area)?;

    let peak = group.number("memory.peak")?;
    let ended = in_child(|| {
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).context("setrlimit")?;
        // SAFETY: It ends the process.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::raise(libc::SIGSEGV);
        }
        Ok(())
    })?;
    let peak = group.number("memory.peak")?.saturating_sub(peak);
    let core = File::open(CORE).context(CORE);
    let _ = fs::remove_file(CORE);
    let core = core?;
    ensure_eq!(ended, Ended::Killed(Signal::SIGSEGV));

    let start = find_in_core(&core, *area)?;
    for (index, part) in area.pages(0..1024).each_page().enumerate() {
        let mut seen = vec![1; page()];
        core.read_exact_at(&mut seen, start + (index * page()) as u64)?;
        let want = match index {
            1 | 2 | 4 | 600 => part.bytes(),
            _ => vec![0; page()],
        };
        ensure!(seen == want, "page {index} is another in the core file");
    }
    let room = core.metadata()?.blocks() * 512;
    ensure!(room < SIZE as u64 / 4, "the core file takes {room} bytes");
    ensure!(peak < SIZE as u64 / 4, "it took {peak} bytes of memory");
    ensure_eq!(entries(area.pages(5..1024))?, before[5..1024]);
    Ok(())
}

/// A2, A4: to forget what was written keeps the mark, and holes are holes; a refused touch writes
/// nothing, and a page that comes is written.
fn a2_soft_dirty_keeps_mark_and_holes() -> Outcome {
    if !Path::new("/proc/self/clear_refs").exists() {
        crate::skip!("this kernel does not track what is written");
    }
    let (area, src) = (Area::pages(6)?, Area::filled(1, 9)?);
    area.pages(0..3).fill_pages(1);
    area.mark()?;
    swap::out(area.page(2))?;
    ensure_entries(area.pages(0..3), "written", Entry::soft_dirty)?;
    clear_soft_dirty()?;
    ensure!(is_marked(*area)?, "the mark is gone");
    ensure_entries(*area, "as if not written", |entry| !entry.soft_dirty())?;
    ensure_holes(area.pages(3..6))?;

    ensure_refused(area.pages(3..6))?;
    area.page(1).fill(2);
    ensure!(area.page(2).load().is_ok(), "SIGBUS");
    remap_all(area.page(4), *src)?;
    let seen: Vec<_> = entries(*area)?.iter().map(|e| e.soft_dirty()).collect();
    ensure_eq!(seen, [false, true, false, false, true, false]);
    area.pages(0..3).check_pages(1)?;
    area.page(4).check(9)?;
    ensure_refused(area.page(3))?;
    ensure_refused(area.page(5))
}

register!(a11_core_dump, a2_soft_dirty_keeps_mark_and_holes);
