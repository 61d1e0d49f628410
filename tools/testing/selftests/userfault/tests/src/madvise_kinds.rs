// SPDX-License-Identifier: GPL-2.0

//! Which memory may be marked: private anonymous memory, and nothing else.

use crate::harness::Outcome;
use crate::proc::{is_marked, vma_of, vmas};
use crate::special;
use crate::sys::{
    page, Area, Map, Span, MADV_NOUSERFAULT, MADV_POPULATE_WRITE, MADV_USERFAULT, RW,
};
use crate::touch::Fault;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsFd;

/// Both calls are refused, and nothing is marked.
fn refused(span: Span) -> Outcome {
    let before = vma_of(span.page(0))?;
    for advice in [MADV_USERFAULT, MADV_NOUSERFAULT] {
        ensure_eq!(span.advise(advice), Err(Errno::EINVAL), "advice {advice}");
    }
    ensure_eq!(vma_of(span.page(0))?.flags, before.flags);
    Ok(())
}

/// A8: a file, mapped privately or shared.
fn a8_file() -> Outcome {
    let file = File::open("/proc/self/exe").context("/proc/self/exe")?;
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let map = Map::pages(2)
            .prot(libc::PROT_READ)
            .file(file.as_fd(), flags);
        let area = map.map().context("mmap")?;
        refused(*area).with_context(|| format!("flags {flags}"))?;
    }
    Ok(())
}

/// A8: a private file mapping with its page copied on write is still no anonymous memory.
fn a8_file_with_anonymous_page() -> Outcome {
    let file = File::open("/proc/self/exe").context("/proc/self/exe")?;
    let area = Map::pages(2).file(file.as_fd(), libc::MAP_PRIVATE).map()?;
    area.fill_pages(1);
    refused(*area)
}

/// A8: shared memory of a memfd, also mapped privately.
fn a8_shmem() -> Outcome {
    let file = special::memfd(2)?;
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let area = Map::pages(2)
            .file(file.as_fd(), flags)
            .map()
            .context("mmap")?;
        refused(*area).with_context(|| format!("flags {flags}"))?;
    }
    Ok(())
}

/// A8: shared anonymous memory.
fn a8_shared_anonymous() -> Outcome {
    refused(*special::shared_anonymous(2)?)
}

/// A8: hugetlb, private as shared.
fn a8_hugetlb() -> Outcome {
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        refused(*special::hugetlb(1, flags)?).with_context(|| format!("flags {flags}"))?;
    }
    Ok(())
}

/// A8: memory that the kernel itself cannot read.
fn a8_secretmem() -> Outcome {
    refused(*special::secretmem(2)?)
}

/// A8: memory that the kernel may drop.
fn a8_droppable() -> Outcome {
    refused(*special::droppable(2)?)
}

/// A8: a shadow stack.
fn a8_shadow_stack() -> Outcome {
    refused(*special::shadow_stack(2)?)
}

/// A8: the kernel's own mappings.
fn a8_vdso_and_vvar() -> Outcome {
    let own: Vec<_> = vmas()?
        .into_iter()
        .filter(|vma| ["[vdso]", "[vvar]", "[vvar_vclock]"].contains(&vma.name.as_str()))
        .collect();
    ensure!(!own.is_empty(), "no vdso");
    for vma in own {
        refused(vma.span).context(vma.name)?;
    }
    Ok(())
}

/// A8: /dev/zero, mapped privately, is anonymous memory.
fn a8_private_dev_zero() -> Outcome {
    let area = special::dev_zero(2)?;
    area.mark()?;
    ensure!(is_marked(*area)?, "not marked");
    ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
    area.unmark()?;
    area.check_zero()
}

/// A8: the heap and the stack are anonymous memory.
fn a8_heap_and_stack() -> Outcome {
    // Let the heap grow by a page that nobody uses.
    // SAFETY: Nothing else changes the program break: malloc takes what it has to into account.
    let start = unsafe { libc::sbrk(3 * page() as libc::intptr_t) } as usize;
    let heap = Span::new(start.next_multiple_of(page()), page());
    heap.mark().context("the heap")?;
    ensure_eq!(heap.load(), Err(Fault::sigbus(heap.addr)));
    heap.unmark()?;

    let stack = vmas()?.into_iter().find(|vma| vma.name == "[stack]");
    let stack = stack.context("no stack")?.span;
    // It is in use: no hole may be left in it.
    stack
        .advise(MADV_POPULATE_WRITE)
        .context("MADV_POPULATE_WRITE")?;
    stack.mark().context("the stack")?;
    ensure!(is_marked(stack.page(0))?, "not marked");
    stack.unmark()
}

/// A8: sealed memory may be marked, since nothing is discarded; read-only or not.
fn a8_sealed() -> Outcome {
    for prot in [RW, libc::PROT_READ] {
        let area = Map::pages(2).prot(prot).map()?;
        area.seal().context("mseal")?;
        area.mark()?;
        ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
        area.unmark()?;
        ensure_eq!(area.load(), Ok(0));
    }
    Ok(())
}

/// A8: where a range begins well and goes on badly, the result is EINVAL.
fn a8_mixed_range() -> Outcome {
    let area = Area::pages(4)?;
    let file = special::memfd(1)?;
    special::map_over(area.page(2), &file)?;
    ensure_eq!(area.advise(MADV_USERFAULT), Err(Errno::EINVAL));
    ensure!(
        !is_marked(area.page(2))? && !is_marked(area.page(3))?,
        "marked"
    );
    Ok(())
}

register!(
    a8_file,
    a8_file_with_anonymous_page,
    a8_shmem,
    a8_shared_anonymous,
    a8_hugetlb,
    a8_secretmem,
    a8_droppable,
    a8_shadow_stack,
    a8_vdso_and_vvar,
    a8_private_dev_zero,
    a8_heap_and_stack,
    a8_sealed,
    a8_mixed_range,
);
