// SPDX-License-Identifier: GPL-2.0

//! The mark together with mainline's userfaultfd: who serves a hole.

use crate::harness::Outcome;
use crate::madvise_fault::ensure_refused;
use crate::proc::{ensure_holes, is_marked};
use crate::sys::Area;
use crate::touch::Fault;
use crate::{ensure_eq, register, uffd};
use anyhow::{ensure, Context};
use nix::poll::{poll, PollFd, PollFlags};
use std::os::fd::AsFd;

/// A3: a write-protect marker of userfaultfd is a hole.
fn a3_wp_marker_is_a_hole() -> Outcome {
    let area = Area::marked(2)?;
    let _uffd = uffd::write_protect(*area)?;
    for part in area.each_page() {
        ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)));
        ensure_eq!(part.store(1), Err(Fault::sigbus(part.addr)));
    }
    Ok(())
}

/// A3: a registration for write protection serves no holes: they raise SIGBUS.
fn a3_write_protection_serves_no_hole() -> Outcome {
    let area = Area::marked(2)?;
    let _uffd = uffd::register_wp(*area)?;
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    ensure_holes(*area)
}

/// A3, A8: a registration to see the accesses to pages serves no holes either; whichever comes
/// first, it or the mark.
fn a3_tracking_serves_no_hole() -> Outcome {
    for register in [uffd::register_wp, uffd::register_rwp] {
        for mark_first in [true, false] {
            let area = Area::pages(2)?;
            area.page(0).fill(1);
            if mark_first {
                area.mark()?;
            }
            let fd = register(*area)?;
            if !mark_first {
                area.mark()?;
            }
            ensure!(is_marked(*area)?, "not marked");
            let hole = area.page(1);
            ensure_refused(hole)?;
            area.page(0).check(1)?;
            drop(fd);
            ensure!(is_marked(*area)?, "the end of the registration took it");
            ensure_refused(hole)?;
            area.page(0).check(1)?;
        }
    }
    Ok(())
}

/// A8: memory may be registered that is marked, and marked that is registered.  Missing pages are
/// then the registration's, and SIGBUS again when it ends.
fn a8_registration_for_missing_pages_comes_first() -> Outcome {
    const WAIT_MS: u16 = 20_000;
    for mark_first in [true, false] {
        let area = Area::pages(2)?;
        if mark_first {
            area.mark()?;
        }
        let fd = uffd::register_missing(*area)?;
        if !mark_first {
            area.mark()?;
        }
        ensure!(is_marked(*area)?, "not marked");
        std::thread::scope(|scope| -> Outcome {
            let toucher = scope.spawn(|| area.load());
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            let reported = poll(&mut fds, WAIT_MS).context("poll")?;
            uffd::zero(&fd, area.page(0)).context("UFFDIO_ZEROPAGE")?;
            let touched = toucher.join().expect("no panic");
            ensure_eq!(reported, 1, "reported; the touch gave {touched:?}");
            ensure_eq!(touched, Ok(0));
            Ok(())
        })?;
        drop(fd);
        let hole = area.page(1);
        ensure_eq!(hole.load(), Err(Fault::sigbus(hole.addr)), "after the end");
        ensure_eq!(area.load(), Ok(0));
    }
    Ok(())
}

register!(
    a3_wp_marker_is_a_hole,
    a3_write_protection_serves_no_hole,
    a3_tracking_serves_no_hole,
    a8_registration_for_missing_pages_comes_first,
);
