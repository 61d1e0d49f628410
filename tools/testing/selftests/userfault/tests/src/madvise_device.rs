// SPDX-License-Identifier: GPL-2.0

//! A driver that migrates memory to its device (`migrate_vma_pages()`) fills no hole, and a page
//! that it has taken is none.

use crate::device::{took_some, Device, HERE, NOTHING};
use crate::harness::Outcome;
use crate::knobs::set_thp;
use crate::madvise_fault::ensure_refused;
use crate::proc::{ensure_entries, ensure_holes, ensure_present, entries, entry, Entry};
use crate::special::{huge_pages, huge_zero_pages};
use crate::sys::{of_512, pmd_pages, remap, Area, Map, Span, MADV_USERFAULT, RAP_ALLOW_SRC_HOLES};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::os::fd::AsFd;

/// Fails unless the device has all pages of the range.
fn ensure_taken(device: &Device, span: Span) -> Outcome {
    // To /proc/self/pagemap it looks like swap.
    ensure_entries(span, "away", Entry::swapped)?;
    // Beside where it is, a snapshot says how it may be accessed.
    let seen = device.snapshot(span).context("snapshot")?;
    ensure!(
        seen.iter().all(|byte| byte & 0xf0 == HERE),
        "the device has not taken all of it: {seen:x?}"
    );
    Ok(())
}

/// Room for a huge page, where huge pages may be taken at once.
fn huge_room() -> anyhow::Result<Area> {
    set_thp("enabled", "always")?;
    let area = Map::huge_pages(1).map()?;
    area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    Ok(area)
}

/// D08: small pages: the device gets what is there, and no hole is filled.
fn d08_device_fills_no_hole() -> Outcome {
    let device = Device::open()?;
    let area = Area::pages(16)?;
    let pages = || area.each_page().skip(1).step_by(2);
    let holes = || area.each_page().step_by(2);
    (1..).zip(pages()).for_each(|(seed, part)| part.fill(seed));

    area.mark()?;
    ensure_eq!(device.take(*area), Err(Errno::ENOENT), "it got the holes");
    pages().try_for_each(|part| ensure_taken(&device, part))?;
    holes().try_for_each(ensure_holes)?;
    ensure_eq!(device.snapshot(area.page(0)), Ok(vec![NOTHING]));
    holes().try_for_each(ensure_refused)?;

    // A touch of what it has brings the page back.
    ensure!(pages().all(|part| part.load().is_ok()), "SIGBUS");
    (1..)
        .zip(pages())
        .try_for_each(|(seed, part)| part.check(seed))?;
    pages().try_for_each(ensure_present)?;

    // Without the mark the device does fill holes.
    area.unmark()?;
    ensure_eq!(device.take(*area), Ok(()), "without the mark");
    ensure_taken(&device, *area)?;
    holes().try_for_each(Span::check_zero)
}

/// D08: where a driver would put a huge page at once, or its small pages, it puts none.
fn d08_device_fills_no_huge_hole() -> Outcome {
    let device = Device::open()?;
    for small in [false, true] {
        let area = huge_room()?;
        area.mark()?;
        if small {
            device.no_huge_page()?;
        }
        ensure_eq!(device.take(*area), Err(Errno::ENOENT), "small: {small}");
        ensure_holes(*area)?;
        ensure_refused(area.pages(0..4))?;

        // The try with small pages has left a table, so that these are small again.
        area.unmark()?;
        ensure_eq!(device.take(*area), Ok(()), "without the mark");
        ensure_taken(&device, *area)?;
        area.check_zero()?;
    }
    Ok(())
}

/// D08: holes in the place of a huge page stay holes where a few small pages are.
fn d08_device_fills_no_hole_beside_pages() -> Outcome {
    let device = Device::open()?;
    let area = huge_room()?;
    area.advise(libc::MADV_NOHUGEPAGE)?;
    let far = 500.min(pmd_pages() - 2);
    area.page(7).fill(7);
    area.page(far).fill(500);
    // Before khugepaged has a look at it.
    area.mark()?;
    area.advise(libc::MADV_HUGEPAGE)?;
    ensure_eq!(device.take(*area), Err(Errno::ENOENT));
    for (index, part) in area.each_page().enumerate() {
        match index {
            index if index == 7 || index == far => ensure_taken(&device, part)?,
            _ => ensure_holes(part)?,
        }
    }
    ensure_refused(area.pages(0..7))?;
    area.page(7).check(7)?;
    area.page(far).check(500)
}

/// D08: the zero page, small or huge, is no hole: the device gets no page for it either, and it
/// stays.
fn d08_device_leaves_zero_pages() -> Outcome {
    let device = Device::open()?;
    let small = Area::pages(4)?;
    small.check_zero()?;
    let huge = huge_zero_pages(1)?;
    huge.advise(libc::MADV_HUGEPAGE)?;
    for area in [&small, &huge] {
        area.mark()?;
        ensure!(took_some(device.take(**area)), "take");
        ensure_present(**area)?;
        area.check_zero()?;
    }
    Ok(())
}

/// A4: a huge page goes to the device and comes back, whole or by a touch of one page; it is no
/// hole meanwhile.
fn a4_huge_page_of_a_device_is_no_hole() -> Outcome {
    let device = Device::open()?;
    let area = huge_pages(1, 1)?;
    area.advise(libc::MADV_HUGEPAGE)?;
    area.mark()?;
    for round in 0..3 {
        ensure_eq!(device.take(*area), Ok(()), "round {round}");
        ensure_taken(&device, *area)?;
        match round {
            0 => ensure_eq!(device.give_back(*area), Ok(()), "give back"),
            1 => ensure!(area.page(of_512(300)).load().is_ok(), "SIGBUS"),
            // The first byte of every page that was filled.
            _ => ensure!(area.store(!0).is_ok(), "SIGBUS"),
        }
        area.check_pages(1)?;
    }
    Ok(())
}

/// A11: a device that faults like a program gets EFAULT for a hole, as for memory without access.
fn a11_device_access() -> Outcome {
    let device = Device::open()?;
    let area = Area::pages(3)?;
    area.page(0).fill(1);
    area.page(2).fill(3);
    area.mark()?;
    let hole = area.page(1);
    for span in [hole, area.pages(0..3), area.pages(1..3)] {
        ensure_eq!(device.read(span).err(), Some(Errno::EFAULT), "read");
        ensure_eq!(device.write(hole), Err(Errno::EFAULT), "write");
        ensure!(
            device.make_exclusive(hole).is_err(),
            "had a hole for itself"
        );
        ensure_holes(hole)?;
    }
    ensure!(device.read(area.page(0)).is_ok(), "read of a page");
    area.page(0).check(1)?;
    area.page(2).check(3)?;
    hole.unmark()?;
    ensure!(device.read(hole).is_ok(), "read without the mark");
    Ok(())
}

/// Puts something of the device's in the place of pages: at the source that is EFAULT, at the
/// destination EEXIST, and neither side changes.
fn neither_moves(what: Span) -> Outcome {
    let before = entries(what)?;
    let count = what.nr_pages();
    let room = Map::huge_pages(1).map()?;
    for flags in [0, RAP_ALLOW_SRC_HOLES] {
        for range in [0..count, 0..1, count / 2..count / 2 + 1] {
            let part = what.pages(range.clone());
            let other = room.pages(range);
            let seen = remap(other, part, flags);
            ensure_eq!(seen, Err(Errno::EFAULT), "as the source, flags {flags}");
            ensure_holes(other)?;
            let seen = remap(part, other, flags);
            ensure_eq!(seen, Err(Errno::EEXIST), "over it, flags {flags}");
            other.fill_pages(1);
            let seen = remap(part, other, flags);
            ensure_eq!(seen, Err(Errno::EEXIST), "a page over it, flags {flags}");
            other.advise(libc::MADV_DONTNEED)?;
        }
    }
    ensure_eq!(entries(what)?, before);
    Ok(())
}

/// A27, A25: small pages that a device has taken.
fn a27_device_pages_do_not_move() -> Outcome {
    let device = Device::open()?;
    let area = Area::filled(4, 1)?;
    for marked in [false, true] {
        if marked {
            area.mark()?;
        }
        ensure_eq!(device.take(*area), Ok(()));
        neither_moves(*area).with_context(|| format!("marked: {marked}"))?;
        area.check_pages(1)?;
    }
    Ok(())
}

/// A27, A25: a huge page that a device has taken.
fn a27_huge_page_of_a_device_does_not_move() -> Outcome {
    let device = Device::open()?;
    let area = huge_pages(1, 1)?;
    ensure_eq!(device.take(*area), Ok(()));
    ensure_taken(&device, *area)?;
    neither_moves(*area)?;
    area.check_pages(1)
}

/// A27, A25: pages that a device has for itself where they are.
fn a27_exclusive_pages_of_a_device_do_not_move() -> Outcome {
    let device = Device::open()?;
    let area = Area::filled(4, 1)?;
    area.mark()?;
    device.make_exclusive(*area).context("make_exclusive")?;
    ensure!(!entry(*area)?.present(), "it is as before");
    neither_moves(*area)?;
    ensure!(area.load().is_ok(), "SIGBUS");
    area.check_pages(1)
}

/// A8, C50: memory of a device, mapped privately or shared, cannot be marked.
fn a8_c50_device_memory() -> Outcome {
    let device = Device::open()?;
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let area = Map::pages(2).file(device.as_fd(), flags).map()?;
        ensure_eq!(area.load(), Ok(0), "it is mapped");
        ensure_eq!(area.advise(MADV_USERFAULT), Err(Errno::EINVAL));
        let (room, plain) = (Area::pages(2)?, Area::filled(2, 1)?);
        ensure_eq!(remap(*room, *area, 0), Err(Errno::EINVAL), "as the source");
        ensure_eq!(remap(*area, *plain, 0), Err(Errno::EINVAL), "over it");
    }
    Ok(())
}

register!(
    d08_device_fills_no_hole,
    d08_device_fills_no_huge_hole,
    d08_device_fills_no_hole_beside_pages,
    d08_device_leaves_zero_pages,
    a4_huge_page_of_a_device_is_no_hole,
    a11_device_access,
    a27_device_pages_do_not_move,
    a27_huge_page_of_a_device_does_not_move,
    a27_exclusive_pages_of_a_device_do_not_move,
    a8_c50_device_memory,
);
