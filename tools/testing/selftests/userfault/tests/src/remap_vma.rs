// SPDX-License-Identifier: GPL-2.0

//! Vmas: never changed, whatever moves in them; one or two of them, marked or not.

use crate::harness::{rounds, Numbers, Outcome};
use crate::proc::{ensure_holes, ensure_present, status_kib, vma_of, vmas, vmas_in, Vma};
use crate::sys::{page, remap, remap_all, Area, Map, Span, MADV_NOUSERFAULT, RAP_ALLOW_SRC_HOLES};
use crate::touch::Fault;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::time::Duration;

/// Where the vma is, and what it is like, without what depends on its content.
fn shape(vma: &Vma) -> (Span, String, Vec<String>) {
    (vma.span, vma.access.clone(), vma.flags.clone())
}

/// A36: many moves between scattered places make no vma, and change none.
fn a36_scattered_moves_make_no_vma() -> Outcome {
    const TIME: Duration = Duration::from_secs(5);
    // Of large pages fewer are enough.
    let pages = 4096.min((64 << 20) / page());
    let areas = [Area::filled(pages, 0)?, Area::marked(pages)?];
    // Which page, by its seed, is where; `None` is a hole.
    let mut places: Vec<Option<u32>> = (0..pages as u32).map(Some).collect();
    places.resize(2 * pages, None);
    let part = |place: usize| areas[place / pages].page(place % pages);

    let mut numbers = Numbers(1);
    // What this program itself needs may grow: the heap and the stack.
    let others = || -> anyhow::Result<Vec<_>> {
        let mut vmas = vmas()?;
        vmas.retain(|vma| !["[heap]", "[stack]"].contains(&vma.name.as_str()));
        Ok(vmas.iter().map(shape).collect())
    };
    let before_others = others()?;
    let before = [vma_of(*areas[0])?, vma_of(*areas[1])?].map(|vma| shape(&vma));
    let rss = status_kib("RssAnon")?;
    for index in rounds(TIME) {
        let (dst, src) = (numbers.below(places.len()), numbers.below(places.len()));
        let want = match (places[dst], places[src]) {
            (Some(_), _) => Err(Errno::EEXIST),
            (None, None) => Err(Errno::ENOENT),
            (None, Some(_)) => Ok(page()),
        };
        ensure_eq!(
            remap(part(dst), part(src), 0),
            want,
            "move {index}, {src} to {dst}"
        );
        if want.is_ok() {
            places.swap(dst, src);
        }
    }
    ensure_eq!(others()?, before_others, "the other vmas");
    let after = [vma_of(*areas[0])?, vma_of(*areas[1])?].map(|vma| shape(&vma));
    ensure_eq!(after, before);
    let grown = status_kib("RssAnon")?.abs_diff(rss);
    let slack = 128 * page() as u64 / 1024;
    ensure!(grown < slack, "RSS has changed by {grown} KiB");
    for (place, seed) in places.into_iter().enumerate() {
        match seed {
            Some(seed) => part(place)
                .check(seed)
                .with_context(|| format!("place {place}"))?,
            None => ensure_holes(part(place))?,
        }
    }
    Ok(())
}

/// A36: neighbours that could merge, or not, stay as they are.
fn a36_boundaries_stay() -> Outcome {
    let (dst, src) = (Area::pages(6)?, Area::filled(6, 1)?);
    dst.pages(2..4).mark()?;
    src.pages(0..3).mark()?;
    // With what lies around them, which keeps them from merging with others.
    let shapes = || -> anyhow::Result<Vec<_>> {
        let around = [&dst, &src].map(|area| Span::new(area.addr - page(), area.len + 2 * page()));
        Ok([vmas_in(around[0])?, vmas_in(around[1])?]
            .concat()
            .iter()
            .map(shape)
            .collect())
    };
    let before = shapes()?;
    remap_all(dst.pages(2..4), src.pages(0..2))?;
    remap_all(dst.pages(0..2), src.pages(4..6))?;
    remap_all(dst.page(5), src.page(3))?;
    ensure_eq!(shapes()?, before);
    dst.pages(2..4).check_pages(1)?;
    dst.pages(0..2).check_pages(5)?;
    dst.page(5).check(4)
}

/// A36: RSS of both vmas together, and of the process, is as before.
fn a36_rss_moves_with_the_pages() -> Outcome {
    const PAGES: usize = 256;
    let (dst, src) = (Area::pages(PAGES)?, Area::filled(PAGES, 1)?);
    dst.page(0).fill(1);
    let whole = PAGES as u64 * page() as u64 / 1024;
    let rss = |area: &Area| vma_of(**area)?.kib("Rss");
    ensure_eq!(rss(&src)?, whole);
    let before = status_kib("RssAnon")?;
    remap_all(dst.pages(1..PAGES), src.pages(1..PAGES))?;
    ensure_eq!(rss(&dst)?, whole);
    ensure_eq!(rss(&src)?, page() as u64 / 1024);
    let changed = status_kib("RssAnon")?.abs_diff(before);
    let slack = 32 * page() as u64 / 1024;
    ensure!(changed < slack, "RSS has changed by {changed} KiB");
    Ok(())
}

/// A40: within one vma.
fn a40_same_vma() -> Outcome {
    let area = Area::pages(8)?;
    area.pages(0..3).fill_pages(1);
    remap_all(area.pages(5..8), area.pages(0..3))?;
    area.pages(5..8).check_pages(1)?;
    ensure_holes(area.pages(0..5))?;
    remap_all(area.pages(0..3), area.pages(5..8))?;
    area.pages(0..3).check_pages(1)
}

/// A40: onto itself is EEXIST; where there is nothing, ENOENT, or holes that count.
fn a40_onto_itself() -> Outcome {
    let area = Area::pages(4)?;
    area.pages(0..2).fill_pages(1);
    let (pages, holes) = (area.pages(0..2), area.pages(2..4));
    for flags in [0, RAP_ALLOW_SRC_HOLES] {
        ensure_eq!(
            remap(pages, pages, flags),
            Err(Errno::EEXIST),
            "flags {flags}"
        );
    }
    ensure_eq!(remap(holes, holes, 0), Err(Errno::ENOENT));
    ensure_eq!(remap(holes, holes, RAP_ALLOW_SRC_HOLES), Ok(holes.len));
    pages.check_pages(1)
}

/// A40: to a place that overlaps the source and lies after it: EEXIST, before anything moves.
fn a40_overlap_upwards() -> Outcome {
    for distance in 1..4 {
        let area = Area::pages(8)?;
        area.pages(0..4).fill_pages(1);
        let (dst, src) = (area.pages(distance..distance + 4), area.pages(0..4));
        ensure_eq!(remap(dst, src, 0), Err(Errno::EEXIST), "{distance} pages");
        src.check_pages(1)?;
        ensure_holes(area.pages(4..8))?;
    }
    Ok(())
}

/// A40: the same where the source is a page and holes: the page moves once, and is not taken for
/// the source's when its new place has its turn.
fn a40_overlap_over_holes() -> Outcome {
    for (flags, moved) in [(0, 1), (RAP_ALLOW_SRC_HOLES, 3)] {
        let area = Area::pages(8)?;
        area.page(0).fill_pages(1);
        let result = remap(area.pages(1..4), area.pages(0..3), flags);
        ensure_eq!(result, Ok(moved * page()), "flags {flags}");
        area.page(1).check_pages(1)?;
        ensure_holes(area.page(0))?;
        ensure_holes(area.pages(2..8))?;
    }
    Ok(())
}

/// A40: to a place that overlaps the source and lies before it: no page is lost, whatever is done.
fn a40_overlap_downwards() -> Outcome {
    for distance in 1..4 {
        let area = Area::pages(8)?;
        area.pages(4..8).fill_pages(1);
        let (dst, src) = (area.pages(4 - distance..8 - distance), area.pages(4..8));
        let moved = match remap(dst, src, 0) {
            Ok(moved) => moved / page(),
            Err(Errno::EEXIST) => 0,
            Err(error) => anyhow::bail!("remap_anon_pages: {error}"),
        };
        dst.pages(0..moved).check_pages(1)?;
        src.pages(moved..4).check_pages(1 + moved as u32)?;
        let there = crate::proc::entries(*area)?
            .iter()
            .filter(|e| e.present())
            .count();
        ensure_eq!(there, 4, "{distance} pages");
    }
    Ok(())
}

/// A42: the mark makes no difference, on neither side.
fn a42_with_and_without_the_mark() -> Outcome {
    for (mark_dst, mark_src) in [(false, false), (true, false), (false, true), (true, true)] {
        let (dst, src) = (Area::pages(3)?, Area::filled(2, 1)?);
        for (area, mark) in [(&dst, mark_dst), (&src, mark_src)] {
            if mark {
                area.mark()?;
            }
        }
        remap_all(dst.pages(0..2), *src)?;
        dst.pages(0..2).check_pages(1)?;
        let (hole, left) = (dst.page(2), src.page(0));
        ensure_eq!(
            hole.load().err(),
            mark_dst.then(|| Fault::sigbus(hole.addr))
        );
        ensure_eq!(
            left.load().err(),
            mark_src.then(|| Fault::sigbus(left.addr))
        );
    }
    Ok(())
}

/// A42: the mark may come and go between moves.
fn a42_mark_comes_and_goes() -> Outcome {
    let (dst, src) = (Area::marked(4)?, Area::filled(4, 1)?);
    remap_all(dst.page(0), src.page(0))?;
    dst.unmark()?;
    remap_all(dst.page(1), src.page(1))?;
    dst.pages(2..3).mark()?;
    remap_all(dst.page(2), src.page(2))?;
    ensure_eq!(dst.advise(MADV_NOUSERFAULT), Ok(()));
    remap_all(dst.page(3), src.page(3))?;
    dst.check_pages(1)
}

/// A42: memory that is registered with mainline's userfaultfd takes pages too.
fn a42_with_mainline_registration() -> Outcome {
    let (dst, src) = (Area::pages(2)?, Area::filled(2, 1)?);
    let uffd = crate::uffd::register_missing(*dst)?;
    remap_all(*dst, *src)?;
    ensure_present(*dst)?;
    dst.check_pages(1)?;
    drop(uffd);
    dst.check_pages(1)
}

/// A42: anonymous memory of all sorts serves: the heap, a stack, what is not to be dumped.
fn a42_any_private_anonymous_memory() -> Outcome {
    let src = Area::filled(1, 1)?;
    for flags in [libc::MAP_STACK, libc::MAP_GROWSDOWN] {
        let area = Map::pages(2).more_flags(flags).map()?;
        remap_all(area.page(1), *src).with_context(|| format!("flags {flags:#x}"))?;
        area.page(1).check(1)?;
        remap_all(*src, area.page(1)).with_context(|| format!("flags {flags:#x}"))?;
    }
    for advice in [
        libc::MADV_DONTDUMP,
        libc::MADV_WIPEONFORK,
        libc::MADV_DONTFORK,
    ] {
        let area = Area::pages(1)?;
        area.advise(advice)?;
        remap_all(*area, *src).with_context(|| format!("advice {advice}"))?;
        area.check(1)?;
        remap_all(*src, *area).with_context(|| format!("advice {advice}"))?;
    }
    src.check(1)
}

register!(
    a36_scattered_moves_make_no_vma,
    a36_boundaries_stay,
    a36_rss_moves_with_the_pages,
    a40_same_vma,
    a40_onto_itself,
    a40_overlap_upwards,
    a40_overlap_over_holes,
    a40_overlap_downwards,
    a42_with_and_without_the_mark,
    a42_mark_comes_and_goes,
    a42_with_mainline_registration,
    a42_any_private_anonymous_memory,
);
