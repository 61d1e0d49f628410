// SPDX-License-Identifier: GPL-2.0

//! `process_madvise`: a process may mark its own memory by it, and no other's.

use crate::harness::Outcome;
use crate::knobs::set_thp;
use crate::proc::{entries_of, is_marked, vmas_of, Entry};
use crate::process::Holder;
use crate::special::memfd;
use crate::sys::{
    page, Area, Map, Span, MADV_COLD, MADV_COLLAPSE, MADV_NOUSERFAULT, MADV_USERFAULT,
};
use crate::touch::Fault;
use crate::{ensure_eq, register, special, swap};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A descriptor of a process.
pub fn pidfd(pid: Pid) -> anyhow::Result<OwnedFd> {
    // SAFETY: It makes a descriptor only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) });
    // SAFETY: The descriptor is a new one.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.context("pidfd_open")? as i32) })
}

/// `process_madvise`.  Returns how many bytes were advised on.
pub fn process_madvise(fd: i32, spans: &[Span], advice: i32, flags: u32) -> nix::Result<usize> {
    let parts: Vec<_> = spans.iter().map(|span| span.iovec()).collect();
    let nr = libc::SYS_process_madvise;
    // SAFETY: The memory of an area is never borrowed.
    let done = unsafe { libc::syscall(nr, fd, parts.as_ptr(), parts.len(), advice, flags) };
    Errno::result(done).map(|done| done as usize)
}

/// A8, A9: several ranges of its own memory at once, to mark them and to take the mark away.
fn a8_process_madvise_of_own_memory() -> Outcome {
    let own = pidfd(Pid::this())?;
    let area = Area::pages(6)?;
    let (first, middle, last) = (area.pages(0..2), area.pages(2..4), area.pages(4..6));
    let call = |advice| process_madvise(own.as_raw_fd(), &[first, last], advice, 0);
    ensure_eq!(call(MADV_USERFAULT), Ok(4 * page()));
    for part in [first, last] {
        ensure!(is_marked(part)?, "not marked");
        ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)));
    }
    ensure!(!is_marked(middle)?, "marked what was not named");
    middle.check_zero()?;
    ensure_eq!(call(MADV_NOUSERFAULT), Ok(4 * page()));
    ensure!(!is_marked(*area)?, "still marked");
    area.check_zero()
}

/// A8, A9: an error leaves everything as it was, up to the range that it is about: those before it
/// are done, and counted.
fn a9_process_madvise_that_fails() -> Outcome {
    let own = pidfd(Pid::this())?;
    let own = own.as_raw_fd();
    let area = Area::pages(4)?;
    let (first, last) = (area.pages(0..2), area.pages(2..4));
    let file = Area::pages(1)?;
    special::map_over(*file, &memfd(1)?)?;
    let gap = Area::pages(1)?;
    gap.unmap()?;
    let odd = Span::new(first.addr + 1, page());

    for (fd, flags, bad, error) in [
        (own, 1, first, Errno::EINVAL),
        (-1, 0, first, Errno::EBADF),
        (own, 0, *file, Errno::EINVAL),
        (own, 0, *gap, Errno::ENOMEM),
        (own, 0, odd, Errno::EINVAL),
    ] {
        let seen = process_madvise(fd, &[bad, last], MADV_USERFAULT, flags);
        ensure_eq!(seen, Err(error), "{bad:x?}, flags {flags}");
        ensure!(!is_marked(*area)?, "marked by a call that failed");
    }
    for bad in [*file, *gap, odd] {
        let seen = process_madvise(own, &[first, bad, last], MADV_USERFAULT, 0);
        ensure_eq!(seen, Ok(first.len), "{bad:x?}");
        ensure!(is_marked(first)? && !is_marked(last)?, "{bad:x?}");
        first.unmark()?;
    }
    Ok(())
}

fn marked_vmas(pid: Pid, span: Span) -> anyhow::Result<usize> {
    Ok(vmas_of(pid)?
        .iter()
        .filter(|vma| vma.span.addr < span.end() && span.addr < vma.span.end() && vma.has("uf"))
        .count())
}

/// A8: the memory of another process can neither be marked nor unmarked, by root neither.
fn a8_process_madvise_of_a_child() -> Outcome {
    for marked in [false, true] {
        let area = Area::filled(2, 1)?;
        if marked {
            area.mark()?;
        }
        let child = Holder::fork()?;
        let fd = pidfd(child.pid())?;
        for advice in [MADV_USERFAULT, MADV_NOUSERFAULT] {
            let seen = process_madvise(fd.as_raw_fd(), &[*area], advice, 0);
            ensure_eq!(seen, Err(Errno::EINVAL), "advice {advice}");
        }
        ensure_eq!(marked_vmas(child.pid(), *area)?, usize::from(marked));
        ensure_eq!(is_marked(*area)?, marked);
        area.check_pages(1)?;
    }
    Ok(())
}

/// A7, D08: what another process may ask for fills no hole: neither a huge page in the place of
/// small ones and holes, nor any way to swap and back.
fn d08_process_madvise_fills_no_hole_of_a_child() -> Outcome {
    set_thp("enabled", "always")?;
    let area = Map::huge_pages(1).map()?;
    area.pages(0..8).fill_pages(1);
    for marked in [true, false] {
        if marked {
            area.mark()?;
        } else {
            area.unmark()?;
        }
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
        let child = Holder::fork()?;
        let fd = pidfd(child.pid())?;
        let holes = area.pages(8..area.nr_pages());
        if marked {
            for advice in [MADV_COLD, libc::MADV_PAGEOUT, libc::MADV_WILLNEED] {
                let seen = process_madvise(fd.as_raw_fd(), &[*area], advice, 0);
                let want = swap::advised(advice).map(|()| area.len);
                ensure_eq!(seen, want, "advice {advice}");
                ensure!(
                    entries_of(child.pid(), holes)?.iter().all(|e| e.hole()),
                    "advice {advice} filled holes"
                );
            }
        }
        let seen = process_madvise(fd.as_raw_fd(), &[*area], MADV_COLLAPSE, 0);
        ensure_eq!(seen.is_err(), marked, "MADV_COLLAPSE: {seen:?}");
        let want = if marked { Entry::hole } else { Entry::present };
        ensure!(
            entries_of(child.pid(), holes)?.into_iter().all(want),
            "marked: {marked}"
        );
        area.pages(0..8).check_pages(1)?;
    }
    Ok(())
}

register!(
    a8_process_madvise_of_own_memory,
    a8_process_madvise_of_a_child,
    a9_process_madvise_that_fails,
    d08_process_madvise_fills_no_hole_of_a_child,
);
