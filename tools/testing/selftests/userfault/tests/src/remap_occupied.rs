// SPDX-License-Identifier: GPL-2.0

//! What lies at the destination and at the source: EEXIST first, then what the source says.

use crate::content::Content;
use crate::harness::{rounds, Outcome};
use crate::knobs::set_thp;
use crate::proc::{ensure_holes, entries};
use crate::special::{huge_pages, huge_zero_pages};
use crate::sys::{of_512, page, pmd_pages, remap, Area, Map, Span, RAP_ALLOW_SRC_HOLES};
use crate::{ensure_eq, register};
use anyhow::Context;
use nix::errno::Errno;
use std::time::Duration;

const BOTH_FLAGS: [u64; 2] = [0, RAP_ALLOW_SRC_HOLES];

/// Whatever the source holds, an occupied destination is EEXIST, and neither changes.
fn eexist_for(occupied: Content) -> Outcome {
    for source in Content::ALL {
        for flags in BOTH_FLAGS {
            let (dst, src) = (Area::pages(1)?, Area::pages(1)?);
            let _dst_holder = occupied.put(*dst, 1)?;
            let _src_holder = source.put(*src, 2)?;
            let before = (entries(*dst)?, entries(*src)?);
            let seen = remap(*dst, *src, flags);
            ensure_eq!(seen, Err(Errno::EEXIST), "source {source:?}, flags {flags}");
            let after = (entries(*dst)?, entries(*src)?);
            ensure_eq!(after, before, "source {source:?}, flags {flags}");
            occupied.check(*dst, 1)?;
            source.check(*src, 2)?;
        }
    }
    Ok(())
}

/// A25: a page at the destination.
fn a25_eexist_for_page() -> Outcome {
    eexist_for(Content::Page)
}

/// A25: the zero page at the destination.
fn a25_eexist_for_zero_page() -> Outcome {
    eexist_for(Content::ZeroPage)
}

/// A25: a page in swap at the destination.
fn a25_eexist_for_swap_entry() -> Outcome {
    eexist_for(Content::Swapped)
}

/// A25: a guard marker at the destination.
fn a25_eexist_for_guard_marker() -> Outcome {
    eexist_for(Content::Guard)
}

/// A25: a page that is shared with a child at the destination.
fn a25_eexist_for_forked_page() -> Outcome {
    eexist_for(Content::Forked)
}

/// A25: a write-protect marker of mainline's userfaultfd at the destination.
fn a25_eexist_for_wp_marker() -> Outcome {
    for flags in BOTH_FLAGS {
        let (dst, src) = (Area::pages(2)?, Area::filled(2, 1)?);
        let _uffd = crate::uffd::write_protect(*dst)?;
        ensure_eq!(
            remap(*dst, *src, flags),
            Err(Errno::EEXIST),
            "flags {flags}"
        );
        src.check_pages(1)?;
    }
    Ok(())
}

/// A25: an occupied destination beats an empty source, wherever it lies in the range.
fn a25_eexist_beats_enoent() -> Outcome {
    let (dst, src) = (Area::filled(1, 7)?, Area::pages(1)?);
    ensure_eq!(remap(*dst, *src, 0), Err(Errno::EEXIST));
    dst.advise(libc::MADV_DONTNEED)?;
    ensure_eq!(remap(*dst, *src, 0), Err(Errno::ENOENT));
    Ok(())
}

/// A25: an empty destination: the source decides, and nothing changes that is not moved.
fn a25_source_decides() -> Outcome {
    for source in Content::ALL {
        for flags in BOTH_FLAGS {
            let (dst, src) = (Area::pages(1)?, Area::pages(1)?);
            let _holder = source.put(*src, 2)?;
            let before = entries(*src)?;
            let want = source.moves(flags).map(|()| page());
            ensure_eq!(
                remap(*dst, *src, flags),
                want,
                "source {source:?}, flags {flags}"
            );
            match want {
                Ok(_) => {
                    ensure_holes(*src)?;
                    source.check(*dst, 2)?;
                }
                Err(_) => {
                    ensure_holes(*dst)?;
                    ensure_eq!(entries(*src)?, before, "source {source:?}, flags {flags}");
                    source.check(*src, 2)?;
                }
            }
        }
    }
    Ok(())
}

/// A25: guard markers at the source are EFAULT, holes allowed or not.
fn a25_guard_marker_at_source() -> Outcome {
    let (dst, src) = (Area::pages(1)?, Area::pages(1)?);
    src.advise(crate::sys::MADV_GUARD_INSTALL)
        .context("MADV_GUARD_INSTALL")?;
    for flags in BOTH_FLAGS {
        ensure_eq!(
            remap(*dst, *src, flags),
            Err(Errno::EFAULT),
            "flags {flags}"
        );
    }
    src.advise(crate::sys::MADV_GUARD_REMOVE)
        .context("MADV_GUARD_REMOVE")?;
    ensure_eq!(remap(*dst, *src, 0), Err(Errno::ENOENT));
    Ok(())
}

/// Poisons a page, or skips the test; `call` finds it so.
fn with_poison<T>(part: Span, call: impl FnOnce() -> T) -> anyhow::Result<T> {
    const MADV_HWPOISON: i32 = 100;
    let pfn = crate::proc::entry(part)?.pfn()?;
    match part.advise(MADV_HWPOISON) {
        Err(Errno::EINVAL) => crate::skip!("this kernel has no memory failures"),
        done => done.context("MADV_HWPOISON")?,
    }
    let seen = call();
    // Give the frame back where there is a way to; without it, one page is lost until the end.
    let _ = std::fs::write("/sys/kernel/debug/hwpoison/unpoison-pfn", pfn.to_string());
    Ok(seen)
}

/// A25: a poisoned page at the source is EFAULT, holes allowed or not.
fn a25_poison_at_source() -> Outcome {
    let (dst, src) = (Area::pages(1)?, Area::filled(1, 1)?);
    let seen = with_poison(*src, || BOTH_FLAGS.map(|flags| remap(*dst, *src, flags)))?;
    ensure_eq!(seen, [Err(Errno::EFAULT); 2]);
    Ok(())
}

/// A25, A27: poison in a huge page splits it: what lies before it moves, and what lies after it.
fn a25_poison_in_a_huge_page() -> Outcome {
    let (all, at) = (pmd_pages(), of_512(100));
    let (dst, src) = (Map::huge_pages(1).map()?, huge_pages(1, 1)?);
    let parts = [0..all, at..all, at + 1..all];
    let seen = with_poison(src.page(at), || {
        parts.map(|part| remap(dst.pages(part.clone()), src.pages(part), 0))
    })?;
    let rest = (all - 1 - at) * page();
    let want = [Ok(at * page()), Err(Errno::EFAULT), Ok(rest)];
    ensure_eq!(seen, want);
    ensure_holes(dst.page(at))?;
    dst.pages(0..at).check_pages(1)?;
    dst.pages(at + 1..all).check_pages(2 + at as u32)
}

/// A23: a huge page at the destination, at its start and in its middle.
fn a23_huge_page_at_destination() -> Outcome {
    for dst in [huge_pages(1, 1)?, huge_zero_pages(1)?] {
        let (holes, pages) = (Area::pages(4)?, Area::filled(4, 1)?);
        for at in [0, of_512(100), pmd_pages() - 4] {
            let part = dst.pages(at..at + 4);
            for (src, flags) in [(&pages, 0), (&holes, 0), (&holes, RAP_ALLOW_SRC_HOLES)] {
                ensure_eq!(remap(part, **src, flags), Err(Errno::EEXIST), "at {at}");
            }
        }
        pages.check_pages(1)?;
    }
    Ok(())
}

/// A23: EEXIST also where the source has not even a table, and for whole huge pages.
fn a23_eexist_beats_missing_table() -> Outcome {
    let dst = huge_pages(2, 1)?;
    let src = Map::huge_pages(2).map()?;
    for flags in BOTH_FLAGS {
        ensure_eq!(
            remap(*dst, *src, flags),
            Err(Errno::EEXIST),
            "flags {flags}"
        );
    }
    dst.check_pages(1)?;
    let (dst, page) = (Map::huge_pages(1).map()?, Area::filled(1, 3)?);
    dst.page(0).fill(1);
    ensure_eq!(
        remap(dst.page(0), src.page(0), 0),
        Err(Errno::EEXIST),
        "one page"
    );
    ensure_eq!(remap(dst.page(1), *page, 0), Ok(page.len), "beside it");
    Ok(())
}

/// A24: no table at the source is ENOENT, or with the flag counts as holes.
fn a24_missing_table_at_source() -> Outcome {
    let (dst, src) = (Map::huge_pages(3).map()?, Map::huge_pages(3).map()?);
    ensure_eq!(remap(*dst, *src, 0), Err(Errno::ENOENT));
    ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
    ensure_holes(*dst)
}

/// A24, C9, C10: huge pages that come and go meanwhile are no EFAULT, and lose nothing.
fn a24_races_with_huge_pages() -> Outcome {
    const TIME: Duration = Duration::from_secs(4);
    drop(huge_pages(1, 1)?);
    set_thp("enabled", "always")?;
    let areas = [Map::huge_pages(1).map()?, Map::huge_pages(1).map()?];
    for area in &areas {
        area.advise(libc::MADV_HUGEPAGE).context("MADV_HUGEPAGE")?;
    }
    let [dst, src] = &areas;
    std::thread::scope(|scope| -> Outcome {
        let disturber = scope.spawn(|| -> Outcome {
            for _ in rounds(TIME) {
                for area in &areas {
                    let _ = area.page(7).store(1);
                    area.advise(libc::MADV_DONTNEED)?;
                }
            }
            Ok(())
        });
        let all = pmd_pages();
        let part = 3..all.min(40);
        let calls = [(0..all, 0), (0..all, RAP_ALLOW_SRC_HOLES), (part, 0)];
        let results = rounds(TIME).try_for_each(|round| {
            let (range, flags) = calls[round as usize % calls.len()].clone();
            acceptable(remap(dst.pages(range.clone()), src.pages(range), flags))
        });
        disturber.join().expect("no panic")?;
        results
    })
}

/// What a call may say while another thread fills and empties both sides.
fn acceptable(result: nix::Result<usize>) -> Outcome {
    match result {
        Ok(_) | Err(Errno::EEXIST | Errno::ENOENT | Errno::EBUSY) => Ok(()),
        Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
    }
}

/// A22: a destination that was never touched is prepared for pages.
fn a22_untouched_destination() -> Outcome {
    let (dst, src) = (Area::pages(2)?, Area::filled(2, 1)?);
    ensure_eq!(remap(*dst, *src, 0), Ok(src.len));
    dst.check_pages(1)
}

register!(
    a22_untouched_destination,
    a23_huge_page_at_destination,
    a23_eexist_beats_missing_table,
    a24_missing_table_at_source,
    a24_races_with_huge_pages,
    a25_eexist_for_page,
    a25_eexist_for_zero_page,
    a25_eexist_for_swap_entry,
    a25_eexist_for_guard_marker,
    a25_eexist_for_forked_page,
    a25_eexist_for_wp_marker,
    a25_eexist_beats_enoent,
    a25_source_decides,
    a25_guard_marker_at_source,
    a25_poison_at_source,
    a25_poison_in_a_huge_page,
);
