// SPDX-License-Identifier: GPL-2.0

//! Entries that are empty for a moment, since somebody works on them, are no holes.

use crate::device::{took_some, Device};
use crate::harness::{rounds, Outcome};
use crate::knobs::set_ksm;
use crate::proc::clear_soft_dirty;
use crate::process::{in_child, Ended};
use crate::special::huge_pages;
use crate::sys::{Area, MADV_COLLAPSE, RW};
use crate::{ensure_eq, ksm, register, swap};
use anyhow::{ensure, Context};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Reads and writes all pages while another thread disturbs them.  None may look like a hole.
fn never_a_hole(area: &Area, mut disturb: impl FnMut() -> Outcome) -> Outcome {
    const TIME: Duration = Duration::from_secs(3);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let toucher = scope.spawn(|| -> Outcome {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                for (index, part) in area.each_page().enumerate() {
                    let fault = match (index + rounds) % 2 {
                        0 => part.load().err(),
                        _ => part.store(9).err(),
                    };
                    // While the protection is less, that is what a touch must say.
                    if let Some(fault) = fault {
                        ensure_eq!(fault.signal, Signal::SIGSEGV, "page {index}");
                    }
                }
                rounds += 1;
            }
            Ok(())
        });
        let disturbed = rounds(TIME)
            .take_while(|_| !toucher.is_finished())
            .try_for_each(|_| disturb());
        done.store(true, Ordering::Relaxed);
        toucher.join().expect("it does not panic")?;
        disturbed
    })
}

/// A4: an entry that is empty for a moment, while mprotect changes it, is no hole.
fn a4_mprotect_makes_no_hole() -> Outcome {
    let area = Area::filled(64, 1)?;
    area.mark()?;
    never_a_hole(&area, || {
        area.protect(libc::PROT_READ)?;
        Ok(area.protect(RW)?)
    })
}

/// A4: the same where the entry is that of a huge page.
fn a4_mprotect_of_huge_page_makes_no_hole() -> Outcome {
    let area = huge_pages(1, 1)?;
    area.mark()?;
    never_a_hole(&area, || {
        area.protect(libc::PROT_READ)?;
        area.protect(RW)?;
        area.protect(libc::PROT_NONE)?;
        Ok(area.protect(RW)?)
    })
}

/// A4: a page that is copied on write is no hole meanwhile.
fn a4_copy_on_write_makes_no_hole() -> Outcome {
    let area = Area::filled(64, 1)?;
    area.mark()?;
    never_a_hole(&area, || {
        let ended = in_child(|| Ok(()))?;
        ensure_eq!(ended, Ended::Passed);
        Ok(())
    })
}

/// A4: a page that goes to swap and comes back, or migrates, is no hole meanwhile.
fn a4_reclaim_and_migration_make_no_hole() -> Outcome {
    let area = Area::filled(64, 1)?;
    area.mark()?;
    swap::out(*area)?;
    let compact = std::path::Path::new("/proc/sys/vm/compact_memory");
    never_a_hole(&area, || {
        area.advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")?;
        if compact.exists() {
            fs::write(compact, "1").context("compact_memory")?;
        }
        Ok(())
    })
}

/// A4: the same where the device on which swap lies is taken away, which brings everything back.
fn a4_swapoff_makes_no_hole() -> Outcome {
    let area = Area::filled(64, 1)?;
    area.mark()?;
    swap::out(*area)?;
    never_a_hole(&area, || {
        area.advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")?;
        swap::off()?;
        swap::ensure_on()
    })
}

/// A4: a page that is write-protected to see whether it changes is no hole meanwhile.
fn a4_soft_dirty_makes_no_hole() -> Outcome {
    type Make = fn() -> anyhow::Result<Area>;
    let makes: [Make; 2] = [|| Ok(Area::filled(64, 1)?), || huge_pages(1, 1)];
    for make in makes {
        let area = make()?;
        area.mark()?;
        never_a_hole(&area, clear_soft_dirty)?;
    }
    Ok(())
}

/// A4: a page that KSM takes and gives back is no hole meanwhile.
fn a4_ksm_makes_no_hole() -> Outcome {
    let area = Area::pages(64)?;
    area.clear();
    area.mark()?;
    ksm::hurry()?;
    never_a_hole(&area, || {
        area.advise(libc::MADV_MERGEABLE)
            .context("MADV_MERGEABLE")?;
        std::thread::sleep(Duration::from_millis(30));
        set_ksm("run", 2)?;
        set_ksm("run", 1)?;
        area.advise(libc::MADV_UNMERGEABLE)
            .context("MADV_UNMERGEABLE")
    })
}

/// A4: pages that become a huge page, which becomes small pages again, are no holes meanwhile.
fn a4_collapse_makes_no_hole() -> Outcome {
    let area = huge_pages(1, 1)?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    area.mark()?;
    let mut collapsed = 0;
    never_a_hole(&area, || {
        // A change to a part of it takes the entry apart.
        area.page(3).protect(libc::PROT_READ)?;
        area.page(3).protect(RW)?;
        // It may be refused while the other thread has a page busy.
        collapsed += usize::from(area.advise(MADV_COLLAPSE).is_ok());
        Ok(())
    })?;
    ensure!(collapsed > 0, "MADV_COLLAPSE never worked");
    Ok(())
}

/// A4: pages that a device takes, which come back by a touch, are no holes meanwhile.
fn a4_device_makes_no_hole() -> Outcome {
    let device = Device::open()?;
    let small = Area::filled(64, 1)?;
    let huge = huge_pages(1, 1)?;
    huge.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    for area in [&small, &huge] {
        area.mark()?;
        never_a_hole(area, || {
            ensure!(took_some(device.take(**area)), "take");
            // A page that is just coming back cannot be had.
            let _ = device.make_exclusive(area.page(1));
            Ok(())
        })?;
    }
    Ok(())
}

register!(
    a4_mprotect_makes_no_hole,
    a4_mprotect_of_huge_page_makes_no_hole,
    a4_copy_on_write_makes_no_hole,
    a4_reclaim_and_migration_make_no_hole,
    a4_swapoff_makes_no_hole,
    a4_soft_dirty_makes_no_hole,
    a4_ksm_makes_no_hole,
    a4_collapse_makes_no_hole,
    a4_device_makes_no_hole,
);
