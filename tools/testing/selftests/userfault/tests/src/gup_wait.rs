// SPDX-License-Identifier: GPL-2.0

//! Getting hold of pages: of many at once, with holes among them, and of such as have to be waited
//! for, again and again.

use crate::gup::{Benchmark, How, Kind, Pin, Pins};
use crate::harness::Outcome;
use crate::proc::{ensure_holes, ensure_present, has_symbol};
use crate::process::{interrupt, must_end};
use crate::range::{resolve, LetGo, Range};
use crate::range_fault::handle_sigusr1;
use crate::sys::{page, pmd, pmd_pages, remap_all, Area, Map};
use crate::trace::IrqsOff;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::uio::{process_vm_readv, RemoteIoVec};
use nix::unistd::getpid;
use std::io::IoSliceMut;
use std::thread;

/// C43, A86: as many pages as are asked for, whatever windows they are got in, each at its place.
fn c43_a86_many_pages() -> Outcome {
    let pins = Pins::new()?;
    let area = Map::pages(2100).align(pmd()).map()?;
    area.fill_pages(1);
    let copy = Area::pages(2100)?;
    for first in [0, 1, 511] {
        for count in [1, 2, 511, 512, 513, 1024, 1025, 1537] {
            let part = area.pages(first..first + count);
            let to = copy.pages(0..count);
            for write in [false, true] {
                to.clear();
                pins.pin(part, How { write, fast: true })?;
                let read = pins.read_to(to);
                pins.release()?;
                read.with_context(|| format!("{count} pages from {first}"))?;
                to.check_pages(1 + first as u32)?;
            }
        }
    }
    Ok(())
}

/// C43, C44: with a hole at any place the call fails, at once, fills no hole, and has let go of all
/// that it got: the pages can be moved.
fn c43_c44_hole_among_many_pages() -> Outcome {
    let pins = Pins::new()?;
    for count in [1, 2, 3, 511, 512, 513, 1024, 1300] {
        let mut places: Vec<_> = [0, count / 2, count - 1, 511, 512].into();
        places.retain(|place| *place < count);
        places.dedup();
        for place in places {
            let (area, other) = (Map::pages(count).map()?, Map::pages(count).map()?);
            area.fill_pages(1);
            area.mark()?;
            let hole = area.page(place);
            hole.advise(libc::MADV_DONTNEED)?;
            for how in How::all() {
                let pinned = pins.pin(*area, how);
                ensure_eq!(
                    pinned,
                    Err(Errno::EFAULT),
                    "{count} pages, {place}, {how:?}"
                );
            }
            ensure!(Pin::new(*area).is_err(), "registered");
            ensure_holes(hole)?;
            for index in (0..count).filter(|index| *index != place) {
                remap_all(other.page(index), area.page(index))
                    .with_context(|| format!("page {index} of {count} is pinned"))?;
            }
        }
    }
    Ok(())
}

/// The same for as many pages as there can be in a gigabyte.
fn c43_hole_among_very_many_pages() -> Outcome {
    let pins = Pins::new()?;
    let count = (1 << 30) / page();
    let area = Map::huge_pages(count / pmd_pages()).map()?;
    area.want_huge()?;
    // Not one touch for each huge page: not every MMU has such.
    area.advise(libc::MADV_POPULATE_WRITE).context("populate")?;
    area.mark()?;
    let how = How {
        write: true,
        fast: true,
    };
    pins.pin(*area, how).context("all")?;
    pins.release()?;
    for place in [0, count / 2 + 1, count - 1] {
        let hole = area.page(place);
        hole.advise(libc::MADV_DONTNEED)?;
        ensure_eq!(pins.pin(*area, how), Err(Errno::EFAULT), "{place}");
        ensure_holes(hole)?;
    }
    // What is pinned cannot be moved.
    let (from, to) = (count / 4, Area::pages(1)?);
    remap_all(*to, area.page(from))
}

/// A78: whoever waits for pages gets them in their order, tries each as often as it takes, and has
/// what it has got before.
fn a78_wait_for_many_pages() -> Outcome {
    const PAGES: usize = 40;
    let pins = Pins::new()?;
    let (area, src, copy) = (
        Area::pages(PAGES)?,
        Area::filled(PAGES, 1)?,
        Area::pages(PAGES)?,
    );
    let fd = Range::serving(*area)?;
    let holes = [0, 1, 7, 20, 21, 22, PAGES - 1];
    for index in (0..PAGES).filter(|index| !holes.contains(index)) {
        remap_all(area.page(index), src.page(index))?;
    }
    let how = How {
        write: true,
        fast: true,
    };
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| pins.pin(*area, how));
        for index in holes {
            let hole = area.page(index);
            for _ in 0..5 {
                ensure_eq!(fd.fault()?, hole.addr);
                ensure_eq!(fd.wake(hole), Ok(16), "a wake without a page");
            }
            ensure_eq!(fd.fault()?, hole.addr);
            resolve(hole, src.page(index))?;
        }
        ensure_eq!(thread.join().expect("no panic"), Ok(()));
        Ok(())
    })?;
    pins.read_to(*copy)?;
    pins.release()?;
    copy.check_pages(1)
}

/// A78: a page that is refused ends the wait, and what was got before is counted.
fn a78_end_of_a_wait() -> Outcome {
    let (area, src) = (Area::pages(4)?, Area::filled(2, 1)?);
    let fd = Range::serving(area.pages(0..3))?;
    area.page(3).mark()?;
    let me = getpid();
    let mut seen = vec![0; area.len];
    let read = thread::scope(|scope| -> anyhow::Result<_> {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| {
            let remote = RemoteIoVec {
                base: area.addr,
                len: area.len,
            };
            process_vm_readv(me, &mut [IoSliceMut::new(&mut seen)], &[remote])
        });
        for index in 0..2 {
            ensure_eq!(fd.fault()?, area.page(index).addr);
            resolve(area.page(index), src.page(index))?;
        }
        ensure_eq!(fd.fault()?, area.page(2).addr);
        fd.unregister(area.page(2))?;
        Ok(thread.join().expect("no panic"))
    })?;
    ensure_eq!(read, Ok(2 * page()));
    ensure!(
        seen[..2 * page()] == area.pages(0..2).bytes(),
        "something else was read"
    );
    area.pages(0..2).check_pages(1)
}

/// A77: without an array for them pages are waited for too.
fn a77_populate_waits() -> Outcome {
    for advice in [libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE] {
        let (area, src) = (Area::pages(4)?, Area::filled(4, 1)?);
        let fd = Range::serving(*area)?;
        remap_all(area.page(1), src.page(1))?;
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(*area);
            let thread = scope.spawn(|| area.advise(advice));
            for index in [0, 2, 3] {
                ensure_eq!(fd.fault()?, area.page(index).addr);
                resolve(area.page(index), src.page(index))?;
            }
            ensure_eq!(thread.join().expect("no panic"), Ok(()));
            Ok(())
        })?;
        ensure_present(*area)?;
        area.check_pages(1)?;
    }
    Ok(())
}

/// C43: interrupts are on again between 512 pages: the longest time without them is a small part of
/// what many pages take.
fn c43_interrupts_off_for_a_window() -> Outcome {
    if !has_symbol("gup_fast_windows")? {
        crate::skip!("this kernel gets pages without a lock by upstream's function");
    }
    let benchmark = Benchmark::open()?;
    let irqs = IrqsOff::new()?;
    let area = Map::bytes(1 << 30).map()?;
    area.advise(libc::MADV_POPULATE_WRITE).context("populate")?;
    irqs.ensure_brief(|| Ok(benchmark.run(Kind::GetFast, *area, area.nr_pages())? / 1000))
}

/// A78: a fatal signal ends the wait, another does not where the caller does not look at it.
fn a78_signals() -> Outcome {
    must_end(true, || {
        let area = Area::pages(1)?;
        let fd = Range::serving(*area)?;
        let (span, pins) = (*area, Pins::new()?);
        thread::spawn(move || pins.pin(span, How::all().last().expect("there are some")));
        fd.wait_for(1)?;
        Ok((area, fd))
    })?;

    handle_sigusr1()?;
    let (area, src) = (Area::pages(1)?, Area::filled(1, 1)?);
    let fd = Range::serving(*area)?;
    let (span, pins) = (*area, Pins::new()?);
    let thread = thread::spawn(move || {
        let pinned = pins.pin(span, How::all().last().expect("there are some"));
        (pinned, pins.release())
    });
    ensure_eq!(fd.fault()?, span.addr);
    for _ in 0..5 {
        interrupt(&thread)?;
        thread::sleep(std::time::Duration::from_millis(5));
    }
    resolve(span, *src)?;
    ensure_eq!(thread.join().expect("no panic"), (Ok(()), Ok(())));
    area.check(1)
}

register!(
    c43_a86_many_pages,
    c43_c44_hole_among_many_pages,
    c43_hole_among_very_many_pages,
    c43_interrupts_off_for_a_window,
    a78_wait_for_many_pages,
    a78_end_of_a_wait,
    a77_populate_waits,
    a78_signals,
);
