// SPDX-License-Identifier: GPL-2.0

//! The mark itself: setting it, taking it away, what keeps it, how vmas split and merge for it.

use crate::harness::Outcome;
use crate::proc::{is_marked, vma_of, vmas_in};
use crate::process::must_pass_in_child;
use crate::range_access::give_up_privileges;
use crate::sys::{page, Area, Map, Span, MADV_NOUSERFAULT, MADV_USERFAULT, RW};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// A1: the two numbers, and no neighbours of theirs.
fn a1_numbers_set_and_clear_the_mark() -> Outcome {
    let area = Area::pages(4)?;
    ensure!(!is_marked(*area)?, "marked without being told");
    ensure_eq!(area.advise(118), Ok(()));
    ensure!(is_marked(*area)?, "118 does not mark");
    ensure_eq!(area.advise(119), Ok(()));
    ensure!(!is_marked(*area)?, "119 leaves the mark");
    for advice in [117, 120] {
        ensure_eq!(area.advise(advice), Err(Errno::EINVAL), "{advice}");
    }
    ensure!(!is_marked(*area)?, "marked by other advice");
    Ok(())
}

/// A2: the mark is one flag of the vma, and nothing else changes with it.
fn a2_mark_is_one_flag() -> Outcome {
    let area = Area::filled(4, 1)?;
    let before = vma_of(*area)?;
    area.mark()?;
    let mut after = vma_of(*area)?;
    after.flags.retain(|flag| flag != "uf");
    ensure_eq!(after.flags, before.flags);
    ensure_eq!(after.span, before.span);
    ensure_eq!(after.access, before.access);
    area.check_pages(1)?;
    area.unmark()?;
    ensure_eq!(vma_of(*area)?.flags, before.flags);
    Ok(())
}

/// A2: the flag is above the 32nd: no change of the others may cut it off.
fn a2_other_advice_keeps_the_mark() -> Outcome {
    const MADV_COLD: i32 = 20;
    for advice in [
        libc::MADV_NORMAL,
        libc::MADV_RANDOM,
        libc::MADV_SEQUENTIAL,
        libc::MADV_WILLNEED,
        libc::MADV_DONTNEED,
        libc::MADV_DONTFORK,
        libc::MADV_DOFORK,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_DODUMP,
        libc::MADV_WIPEONFORK,
        libc::MADV_KEEPONFORK,
        MADV_COLD,
    ] {
        let area = Area::marked(4)?;
        // Whether this kernel knows that advice is not the question here.
        let _ = area.pages(1..3).advise(advice);
        for part in area.each_page() {
            ensure!(
                is_marked(part)?,
                "advice {advice} took the mark of {part:x?}"
            );
        }
    }
    Ok(())
}

/// A2: a change of protection or of locking keeps the mark.
fn a2_mprotect_and_mlock_keep_the_mark() -> Outcome {
    const MLOCK_ONFAULT: u32 = 1;
    let area = Area::marked(4)?;
    let middle = area.pages(1..3);
    for prot in [libc::PROT_READ, libc::PROT_NONE, RW | libc::PROT_EXEC, RW] {
        middle.protect(prot)?;
        ensure!(is_marked(middle)?, "lost under protection {prot}");
        ensure!(is_marked(area.page(0))?, "lost beside protection {prot}");
    }
    middle.lock(MLOCK_ONFAULT).context("mlock2")?;
    ensure!(
        vma_of(middle)?.has("lo") && is_marked(middle)?,
        "lost by locking"
    );
    // SAFETY: It changes locks only.
    ensure_eq!(unsafe { libc::munlockall() }, 0);
    ensure!(is_marked(*area)?, "lost by unlocking");
    Ok(())
}

/// C48, A2: MADV_UNMERGEABLE clears the highest bit of an int, and not all that is above.
fn a2_c48_unmergeable_keeps_the_mark() -> Outcome {
    let area = Area::marked(2)?;
    for advice in [libc::MADV_MERGEABLE, libc::MADV_UNMERGEABLE] {
        match area.advise(advice) {
            Err(Errno::EINVAL) => crate::skip!("this kernel does not merge equal pages"),
            done => done.context("madvise")?,
        }
        ensure!(is_marked(*area)?, "advice {advice} took the mark");
    }
    ensure!(area.load().is_err(), "marked, but not armed");
    Ok(())
}

/// A9: without the mark, a touch allocates as ever; holes become pages one by one.
fn a9_without_the_mark_faults_allocate() -> Outcome {
    let area = Area::marked(4)?;
    ensure!(area.load().is_err(), "no SIGBUS");
    area.unmark()?;
    area.check_zero()?;
    area.fill_pages(7);
    area.check_pages(7)
}

/// A9: setting what is set, and clearing what is clear, is success.
fn a9_no_change_is_success() -> Outcome {
    let area = Area::pages(2)?;
    for advice in [
        MADV_NOUSERFAULT,
        MADV_USERFAULT,
        MADV_USERFAULT,
        MADV_NOUSERFAULT,
    ] {
        ensure_eq!(area.advise(advice), Ok(()), "advice {advice}");
        ensure_eq!(
            is_marked(*area)?,
            advice == MADV_USERFAULT,
            "advice {advice}"
        );
    }
    Ok(())
}

/// A9: bad ranges get what madvise gives for them, and change nothing.
fn a9_bad_ranges() -> Outcome {
    let area = Area::pages(4)?;
    for advice in [MADV_USERFAULT, MADV_NOUSERFAULT] {
        let odd = Span::new(area.addr + 1, page());
        ensure_eq!(odd.advise(advice), Err(Errno::EINVAL), "unaligned");
        let endless = Span::new(area.addr, usize::MAX - page());
        ensure_eq!(endless.advise(advice), Err(Errno::EINVAL), "wraps");
        let empty = Span::new(area.addr, 0);
        ensure_eq!(empty.advise(advice), Ok(()), "empty");
        ensure!(!is_marked(*area)?, "marked by a bad range");
    }
    Ok(())
}

/// A9: a gap in the range is ENOMEM, as for every advice, and the rest is done.
fn a9_range_with_a_gap() -> Outcome {
    let area = Area::pages(6)?;
    area.page(2).unmap()?;
    ensure_eq!(area.advise(MADV_USERFAULT), Err(Errno::ENOMEM));
    ensure!(is_marked(area.pages(0..2))?, "not marked before the gap");
    ensure!(is_marked(area.pages(3..6))?, "not marked after the gap");
    Ok(())
}

/// A9: it needs no privilege.
fn a9_needs_no_privilege() -> Outcome {
    must_pass_in_child(|| {
        give_up_privileges()?;
        let area = Area::marked(1)?;
        ensure!(area.load().is_err(), "no SIGBUS");
        area.unmark()?;
        area.check_zero()
    })
}

/// A10: the mark splits a vma in three, and its end merges them again.
fn a10_mark_splits_and_merges() -> Outcome {
    let area = Area::pages(6)?;
    ensure_eq!(vmas_in(*area)?.len(), 1);
    let middle = area.pages(2..4);
    middle.mark()?;
    let seen: Vec<_> = vmas_in(*area)?
        .iter()
        .map(|vma| (vma.span, vma.has("uf")))
        .collect();
    let want = [
        (area.pages(0..2), false),
        (middle, true),
        (area.pages(4..6), false),
    ];
    ensure_eq!(seen, want);
    middle.unmark()?;
    ensure_eq!(vmas_in(*area)?.len(), 1, "after the mark is taken away");
    area.mark()?;
    area.pages(0..3).unmark()?;
    ensure_eq!(vmas_in(*area)?.len(), 2);
    area.pages(0..3).mark()?;
    ensure_eq!(vmas_in(*area)?.len(), 1, "after the mark is back");
    Ok(())
}

/// A10: what touches the mark also holds for the pages: each side behaves as its own vma says.
fn a10_split_vmas_behave_differently() -> Outcome {
    let area = Area::pages(6)?;
    area.pages(2..4).mark()?;
    for (index, part) in area.each_page().enumerate() {
        ensure_eq!(
            part.load().is_err(),
            (2..4).contains(&index),
            "page {index}"
        );
    }
    Ok(())
}

/// A10: neighbours merge where both are marked, and never where one is.
fn a10_new_neighbours() -> Outcome {
    let area = Area::pages(6)?;
    let (left, right) = (area.pages(0..3), area.pages(3..6));
    right.protect(libc::PROT_READ)?;
    left.mark()?;
    right.protect(RW)?;
    ensure_eq!(vmas_in(*area)?.len(), 2, "one of them is marked");
    ensure!(!is_marked(right)?, "the mark has spread");
    right.protect(libc::PROT_READ)?;
    right.mark()?;
    ensure_eq!(vmas_in(*area)?.len(), 2, "their protection differs");
    right.protect(RW)?;
    ensure_eq!(vmas_in(*area)?.len(), 1, "nothing differs any more");
    Ok(())
}

/// A10: a fresh mapping beside a marked one is not marked.
fn a10_new_mapping_is_not_marked() -> Outcome {
    let area = Area::marked(4)?;
    // SAFETY: Within the area, which is never borrowed.
    let mapped = unsafe {
        libc::mmap(
            area.page(2).addr as *mut libc::c_void,
            page(),
            RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    ensure_eq!(mapped as usize, area.page(2).addr);
    ensure!(!is_marked(area.page(2))?, "the new mapping is marked");
    ensure_eq!(vmas_in(*area)?.len(), 3);
    ensure_eq!(area.page(2).load(), Ok(0));
    ensure!(
        area.page(1).load().is_err() && area.page(3).load().is_err(),
        "not armed"
    );
    Ok(())
}

/// A13: smaps shows `uf` on what is marked and on nothing else, and knows the flag's name.
fn a13_smaps_shows_the_mark() -> Outcome {
    let (marked, plain) = (Area::marked(2)?, Area::pages(2)?);
    ensure!(vma_of(*marked)?.has("uf"), "no uf");
    ensure!(!vma_of(*plain)?.has("uf"), "uf without the mark");
    ensure!(!vma_of(*marked)?.has("??"), "a flag without a name");
    let all = crate::proc::vmas()?;
    ensure_eq!(all.iter().filter(|vma| vma.has("uf")).count(), 1);
    Ok(())
}

/// A10: a vma that is locked, or may not be dumped, takes the mark like any other.
fn a10_any_private_anonymous_memory() -> Outcome {
    for flags in [
        libc::MAP_LOCKED,
        libc::MAP_STACK,
        libc::MAP_GROWSDOWN,
        libc::MAP_POPULATE,
    ] {
        let area = Map::pages(2).more_flags(flags).map().context("mmap")?;
        area.mark().with_context(|| format!("flags {flags:#x}"))?;
        ensure!(is_marked(*area)?, "flags {flags:#x}");
    }
    Ok(())
}

register!(
    a1_numbers_set_and_clear_the_mark,
    a2_mark_is_one_flag,
    a2_other_advice_keeps_the_mark,
    a2_mprotect_and_mlock_keep_the_mark,
    a2_c48_unmergeable_keeps_the_mark,
    a9_without_the_mark_faults_allocate,
    a9_no_change_is_success,
    a9_bad_ranges,
    a9_range_with_a_gap,
    a9_needs_no_privilege,
    a10_mark_splits_and_merges,
    a10_split_vmas_behave_differently,
    a10_new_neighbours,
    a10_new_mapping_is_not_marked,
    a10_any_private_anonymous_memory,
    a13_smaps_shows_the_mark,
);
