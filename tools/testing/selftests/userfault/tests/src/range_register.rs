// SPDX-License-Identifier: GPL-2.0

//! Registration of ranges: what is checked, that it is all or nothing, and what becomes of vmas.

use crate::harness::Outcome;
use crate::proc::{vma_of, vmas_in};
use crate::process::must_pass_in_child;
use crate::range::Range;
use crate::sys::{page, Area, Map, Span, MAP_DROPPABLE};
use crate::touch::Fault;
use crate::{ensure_eq, register, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// Which pages of an area are registered, from smaps.
fn registered(span: Span) -> anyhow::Result<Vec<bool>> {
    let vmas = vmas_in(span)?;
    Ok(span
        .each_page()
        .map(|part| {
            vmas.iter()
                .any(|vma| vma.span.overlaps(part) && vma.has("ug"))
        })
        .collect())
}

fn ensure_registered(span: Span, want: bool) -> Outcome {
    ensure_eq!(registered(span)?, vec![want; span.nr_pages()], "{span:x?}");
    Ok(())
}

/// A62, A64: a range is registered and unregistered, twice without an error; smaps shows it.
fn a62_a64_register_and_unregister() -> Outcome {
    let (fd, area) = (Range::new()?, Area::pages(8)?);
    let middle = area.pages(2..6);
    for _ in 0..2 {
        ensure_eq!(fd.register(middle), Ok(16));
        ensure_registered(middle, true)?;
        ensure_registered(area.pages(0..2), false)?;
        ensure_registered(area.pages(6..8), false)?;
    }
    ensure_eq!(fd.unregister(area.pages(3..4)), Ok(16));
    ensure_eq!(
        registered(*area)?,
        [false, false, true, false, true, true, false, false]
    );
    // What is not registered is passed over.
    for _ in 0..2 {
        ensure_eq!(fd.unregister(*area), Ok(16));
        ensure_registered(*area, false)?;
    }
    ensure_eq!(vmas_in(*area)?.len(), 1, "not merged again");
    Ok(())
}

/// A66, C35, C37: registrations of one descriptor merge, those of two do not; neither does what is
/// mapped beside them.
fn a66_c35_split_and_merge() -> Outcome {
    let (one, two, area) = (Range::new()?, Range::new()?, Area::pages(9)?);
    for index in [0, 2, 1, 5, 3, 4] {
        one.register(area.page(index))?;
    }
    ensure_eq!(vmas_in(*area)?.len(), 2);
    two.register(area.pages(6..9))?;
    ensure_eq!(vmas_in(*area)?.len(), 2);
    ensure_registered(*area, true)?;
    one.unregister(area.pages(0..6))?;
    two.unregister(area.pages(6..9))?;
    ensure_eq!(vmas_in(*area)?.len(), 1);
    Ok(())
}

/// A63: no vma from there on, none in the range, a vma that cannot be served.
fn a63_c39_what_cannot_be() -> Outcome {
    let (fd, area) = (Range::new()?, Area::pages(4)?);
    area.page(1).unmap()?;
    ensure_eq!(fd.register(area.page(1)), Err(Errno::EINVAL), "a hole");
    ensure_eq!(fd.unregister(area.page(1)), Err(Errno::EINVAL), "a hole");
    // C36: holes between vmas are passed over.
    ensure_eq!(fd.register(*area), Ok(16));
    ensure_registered(area.page(0), true)?;
    ensure_registered(area.pages(2..4), true)?;
    ensure!(registered(area.page(1))? == [false], "the hole");
    // C3: the call gives up the lock: other calls on the address space go on.
    let shared = Map::pages(1)
        .flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS)
        .map()?;
    ensure_eq!(fd.register(*shared), Err(Errno::EINVAL), "shared");
    let droppable = Map::pages(1)
        .flags(MAP_DROPPABLE | libc::MAP_ANONYMOUS)
        .map()?;
    ensure_eq!(fd.register(*droppable), Err(Errno::EINVAL), "droppable");
    let text = a63_c39_what_cannot_be as *const () as usize & !(page() - 1);
    ensure_eq!(
        fd.register(Span::new(text, page())),
        Err(Errno::EINVAL),
        "a file"
    );
    Ok(())
}

/// C38: where a part cannot be registered none is, and what was stays.
fn c38_all_or_nothing() -> Outcome {
    let (fd, other, area) = (Range::new()?, Range::new()?, Area::pages(8)?);
    fd.register(area.page(1))?;
    other.register(area.page(6))?;
    let before = registered(*area)?;
    ensure_eq!(fd.register(area.pages(0..8)), Err(Errno::EBUSY));
    ensure_eq!(fd.unregister(area.pages(0..8)), Err(Errno::EBUSY));
    ensure_eq!(registered(*area)?, before);
    other.unregister(area.page(6))?;
    // The same for a kind of memory that cannot be.
    let whole = Area::pages(8)?;
    // SAFETY: The area is under test, and never borrowed.
    let mapped = unsafe {
        libc::mmap(
            whole.page(5).addr as *mut libc::c_void,
            page(),
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    ensure!(mapped != libc::MAP_FAILED, "mmap");
    ensure_eq!(fd.register(*whole), Err(Errno::EINVAL));
    ensure_registered(*whole, false)
}

/// Memory that one dialect has registered is EBUSY to the other, and to another descriptor.
fn a63_busy() -> Outcome {
    let (one, two, area) = (Range::new()?, Range::new()?, Area::pages(4)?);
    one.register(area.page(1))?;
    ensure_eq!(two.register(area.pages(0..2)), Err(Errno::EBUSY));
    ensure_eq!(two.unregister(area.pages(0..2)), Err(Errno::EBUSY));
    let mainline = uffd::open_missing()?;
    ensure_eq!(
        uffd::try_missing(&mainline, area.pages(0..2)),
        Err(Errno::EBUSY)
    );
    uffd::add_missing(&mainline, area.page(3))?;
    ensure_eq!(one.register(area.pages(2..4)), Err(Errno::EBUSY));
    ensure_eq!(one.register(area.page(2)), Ok(16));
    drop(one);
    ensure_eq!(two.register(area.pages(0..3)), Ok(16));
    drop(mainline);
    ensure_eq!(two.register(*area), Ok(16));
    Ok(())
}

/// A66, C48: the registration outlives other changes of the vma, and the mark of it.
fn a66_other_changes() -> Outcome {
    let (fd, area) = (Range::new()?, Area::pages(4)?);
    fd.register(*area)?;
    area.page(1).protect(libc::PROT_READ)?;
    area.page(2).lock(0)?;
    area.advise(libc::MADV_DONTDUMP)?;
    area.mark()?;
    area.unmark()?;
    ensure_registered(*area, true)?;
    area.page(2).unlock()?;
    area.page(1).protect(libc::PROT_READ | libc::PROT_WRITE)?;
    ensure_eq!(vmas_in(*area)?.len(), 1);
    ensure_registered(*area, true)
}

/// A70: the end of a descriptor takes its registrations away, and vmas merge again.
fn a70_close() -> Outcome {
    let (fd, area) = (Range::new()?, Area::pages(6)?);
    for index in [0, 2, 4] {
        fd.register(area.page(index))?;
    }
    drop(fd);
    ensure_registered(*area, false)?;
    ensure_eq!(vmas_in(*area)?.len(), 1);
    Ok(())
}

/// C31: a child has the mark and no registration: its holes are SIGBUS, before and after the
/// descriptor is closed.
fn c31_fork() -> Outcome {
    let area = Area::pages(2)?;
    let fd = Range::serving(*area)?;
    must_pass_in_child(|| {
        ensure_registered(*area, false)?;
        ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
        // SAFETY: The descriptor is not used in the child any more.
        unsafe { libc::close(fd.raw()) };
        ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
        ensure!(vma_of(*area)?.has("uf"), "not marked");
        Ok(())
    })?;
    ensure_registered(*area, true)
}

/// A66: mremap carries the registration along, to a grown part too.
fn a66_mremap_carries_it() -> Outcome {
    let (fd, area) = (Range::new()?, Area::pages(4)?);
    area.page(0).fill(1);
    area.mark()?;
    fd.register(*area)?;
    let place = Map::pages(8).map()?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = area
        .mremap(6 * page(), flags, place.addr)
        .context("mremap")?;
    ensure_registered(moved, true)?;
    ensure!(vma_of(moved)?.has("uf"), "not marked");
    moved.page(0).check(1)?;
    // It grows where it is, if nothing is behind it.
    place.pages(6..8).unmap()?;
    let grown = moved.mremap(8 * page(), 0, 0).context("mremap in place")?;
    ensure_registered(grown, true)
}

/// A66: with MREMAP_DONTUNMAP the registration goes with the pages, the mark is on both.
fn a66_mremap_dontunmap() -> Outcome {
    for part in [0..4, 1..3] {
        let (fd, area) = (Range::new()?, Area::pages(4)?);
        area.fill_pages(1);
        area.mark()?;
        fd.register(*area)?;
        let old = area.pages(part.clone());
        let place = Map::pages(4).map()?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let moved = old.mremap(old.len, flags, place.addr).context("mremap")?;
        ensure_registered(moved, true)?;
        ensure_registered(old, false)?;
        moved.check_pages(1 + part.start as u32)?;
        for hole in old.each_page() {
            ensure_eq!(hole.load(), Err(Fault::sigbus(hole.addr)));
        }
        // What was not moved is served as before.
        let rest = part.start + (4 - part.end);
        let served = registered(*area)?
            .into_iter()
            .filter(|served| *served)
            .count();
        ensure_eq!(served, rest);
    }
    Ok(())
}

/// munmap ends a registration, and what is mapped there next has none.
fn a66_munmap_ends_it() -> Outcome {
    let (fd, area) = (Range::new()?, Area::pages(4)?);
    fd.register(*area)?;
    area.pages(1..3).unmap()?;
    // SAFETY: The place is free, and of the area.
    let mapped = unsafe {
        libc::mmap(
            area.page(1).addr as *mut libc::c_void,
            2 * page(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    ensure!(mapped != libc::MAP_FAILED, "mmap");
    ensure_eq!(registered(*area)?, [true, false, false, true]);
    Ok(())
}

register!(
    a62_a64_register_and_unregister,
    a66_c35_split_and_merge,
    a63_c39_what_cannot_be,
    c38_all_or_nothing,
    a63_busy,
    a66_other_changes,
    a70_close,
    c31_fork,
    a66_mremap_carries_it,
    a66_mremap_dontunmap,
    a66_munmap_ends_it,
);
