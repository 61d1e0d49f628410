// SPDX-License-Identifier: GPL-2.0

//! What `remap_anon_pages` is asked for, and what that makes of a pair of entries.
//!
//! Only arithmetic and decisions: nothing here looks at an address space.

use kernel::{
    bindings,
    mm::pgtable::PteKind,
    page::PAGE_MASK,
    prelude::*, //
};

use core::ops::Range;

/// Holes in the source count as moved.
const ALLOW_SRC_HOLES: usize = bindings::RAP_ALLOW_SRC_HOLES as usize;
/// Whoever waits for what was moved is woken.
const WAKE: usize = bindings::RAP_WAKE as usize;

/// The flags that there are: without the range protocol nobody waits.
const FLAGS: usize = match cfg!(CONFIG_USERFAULTFD_RANGE) {
    true => ALLOW_SRC_HOLES | WAKE,
    false => ALLOW_SRC_HOLES,
};

/// What one call moves for a 32-bit program, to which 2 GiB and more would look like an error.
const COMPAT_MAX: usize = i32::MAX as usize & PAGE_MASK;

/// The arguments of a call, checked as far as they can be by themselves.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    dst: Range<usize>,
    src: Range<usize>,
    allow_holes: bool,
    wake: bool,
    limit: usize,
    /// How far into the source the call goes before the ranges overlap.
    own_src: usize,
}

/// What to do with a pair of entries.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Both are holes, which are allowed: go on.
    Skip,
    /// Move the zero page.
    MoveZeroPage,
    /// Move the page, if it can be moved.
    MovePage,
    /// Move the entry for a page in swap, if it can be moved.
    MoveSwap,
    /// Wait until the source's page has been migrated.
    Wait,
    /// Stop here.
    Fail(Error),
}

impl Request {
    /// Checks the arguments; `None` where one is wrong. `compat` says whether they come from a
    /// 32-bit program.
    pub(crate) fn new(
        dst: usize,
        src: usize,
        len: usize,
        flags: usize,
        compat: impl FnOnce() -> bool,
    ) -> Option<Self> {
        if (src | dst | len) & !PAGE_MASK != 0 {
            return None;
        }
        if flags & !FLAGS != 0 || len == 0 {
            return None;
        }
        let limit = match len > COMPAT_MAX && compat() {
            true => COMPAT_MAX,
            false => len,
        };
        Some(Self {
            dst: dst..dst.checked_add(len)?,
            src: src..src.checked_add(len)?,
            allow_holes: flags & ALLOW_SRC_HOLES != 0,
            wake: flags & WAKE != 0,
            limit,
            own_src: limit.min(dst.abs_diff(src)),
        })
    }

    /// Whether those are to be woken who wait for what is moved.
    #[inline]
    pub(crate) fn wakes(&self) -> bool {
        self.wake
    }

    /// The whole destination.
    pub(crate) fn whole_dst(&self) -> &Range<usize> {
        &self.dst
    }

    /// The whole source.
    pub(crate) fn whole_src(&self) -> &Range<usize> {
        &self.src
    }

    /// How much this call moves at most, in bytes.
    #[inline]
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// What is left to move of the destination, of which `moved` bytes are.
    #[inline]
    pub(crate) fn dst(&self, moved: usize) -> Range<usize> {
        self.dst.start.wrapping_add(moved)..self.dst.start.wrapping_add(self.limit)
    }

    /// What is left to move of the source.
    #[inline]
    pub(crate) fn src(&self, moved: usize) -> Range<usize> {
        self.src.start.wrapping_add(moved)..self.src.start.wrapping_add(self.limit)
    }

    /// What is left to move of the source before the ranges overlap.
    ///
    /// Where the destination is behind the source, the call meets there what it has itself put in
    /// place, or left as a hole. It was a hole, and is to be one when its turn comes. Where the
    /// destination is before the source, it meets places that it has emptied itself: see
    /// [`Self::go_on`]. Empty where more than that is moved.
    #[inline]
    pub(crate) fn own_src(&self, moved: usize) -> Range<usize> {
        let start = self.src.start.wrapping_add(moved);
        start..self.src.start.wrapping_add(self.own_src.max(moved))
    }

    /// Lets [`own_src`](Self::own_src) begin anew at what is moved, where the destination is before
    /// the source; returns whether there is more of it now. What was emptied must be flushed from
    /// the TLB: other threads would see a page at its old and its new place, and write to the wrong
    /// one.
    #[cold]
    pub(crate) fn go_on(&mut self, moved: usize) -> bool {
        if self.dst.start >= self.src.start {
            return false;
        }
        let distance = self.src.start - self.dst.start;
        let old = self.own_src;
        self.own_src = self.limit.min(moved.saturating_add(distance));
        self.own_src != old
    }

    /// Whether all of a huge page of `size` bytes is left to move, to a place for one.
    #[inline]
    pub(crate) fn fits_huge(&self, moved: usize, size: usize) -> bool {
        let (dst, src) = (self.dst(moved), self.own_src(moved));
        (dst.start | src.start) % size == 0 && src.len() >= size
    }

    /// Decides on a pair of entries.
    ///
    /// Strict: whatever the destination holds would be lost, so that comes first.
    pub(crate) fn action(&self, dst_is_none: bool, src: PteKind) -> Action {
        if !dst_is_none {
            return Action::Fail(EEXIST);
        }
        match src {
            PteKind::None => self.hole(),
            PteKind::ZeroPage => Action::MoveZeroPage,
            PteKind::Present => Action::MovePage,
            PteKind::Swap => Action::MoveSwap,
            PteKind::Migration => Action::Wait,
            PteKind::Other => Action::Fail(EFAULT),
        }
    }

    /// Decides on a hole in the source, for which the destination holds nothing.
    #[inline]
    pub(crate) fn hole(&self) -> Action {
        if self.allow_holes {
            Action::Skip
        } else {
            Action::Fail(ENOENT)
        }
    }
}

// The macro makes entries for C.
#[cfg(CONFIG_USERFAULT_KUNIT_TEST)]
#[allow(unsafe_code)]
#[kernel::macros::kunit_tests(rust_userfault)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    const DST: usize = 0x10_0000 * PAGE_SIZE;
    const SRC: usize = 0x20_0000 * PAGE_SIZE;

    fn request(dst: usize, src: usize, pages: usize, flags: usize) -> Option<Request> {
        Request::new(dst, src, pages * PAGE_SIZE, flags, || false)
    }

    #[test]
    fn a19_misaligned() {
        assert!(request(DST, SRC, 1, 0).is_some());
        assert_eq!(request(DST + 1, SRC, 1, 0), None);
        assert_eq!(request(DST, SRC + PAGE_SIZE / 2, 1, 0), None);
        assert_eq!(Request::new(DST, SRC, PAGE_SIZE - 1, 0, || false), None);
    }

    #[test]
    fn a19_empty_and_wrapping() {
        let last = usize::MAX & PAGE_MASK;
        assert_eq!(request(DST, SRC, 0, 0), None);
        assert_eq!(request(last, SRC, 1, 0), None);
        assert_eq!(request(DST, last, 1, 0), None);
        assert_eq!(Request::new(DST, SRC, last, 0, || false), None);
        assert!(request(last - PAGE_SIZE, SRC, 1, 0).is_some());
    }

    #[test]
    fn a18_flags() {
        assert!(request(DST, SRC, 1, ALLOW_SRC_HOLES).is_some());
        assert_eq!(request(DST, SRC, 1, 1 << 2), None);
        let wakes = request(DST, SRC, 1, WAKE).map(|request| request.wakes());
        assert_eq!(wakes, cfg!(CONFIG_USERFAULTFD_RANGE).then_some(true));
        assert_eq!(request(DST, SRC, 1, ALLOW_SRC_HOLES | 1 << 63), None);
    }

    #[test]
    fn a30_limit_of_32_bit_programs() -> Result {
        let len = 1 << 31;
        assert_eq!(
            Request::new(DST, SRC, len, 0, || false)
                .ok_or(EINVAL)?
                .limit(),
            len
        );
        assert_eq!(
            Request::new(DST, SRC, len, 0, || true)
                .ok_or(EINVAL)?
                .limit(),
            len - PAGE_SIZE
        );
        assert_eq!(
            Request::new(DST, SRC, PAGE_SIZE, 0, || true)
                .ok_or(EINVAL)?
                .limit(),
            PAGE_SIZE
        );
        Ok(())
    }

    #[test]
    fn what_is_left() -> Result {
        let request = request(DST, SRC, 4, 0).ok_or(EINVAL)?;
        assert_eq!(request.dst(0), *request.whole_dst());
        assert_eq!(request.src(0), *request.whole_src());
        assert_eq!(request.dst(PAGE_SIZE), DST + PAGE_SIZE..DST + 4 * PAGE_SIZE);
        assert!(request.src(4 * PAGE_SIZE).is_empty());
        Ok(())
    }

    #[test]
    fn a25_eexist_beats_everything() -> Result {
        for flags in [0, ALLOW_SRC_HOLES] {
            let request = request(DST, SRC, 4, flags).ok_or(EINVAL)?;
            for kind in [
                PteKind::None,
                PteKind::ZeroPage,
                PteKind::Present,
                PteKind::Swap,
                PteKind::Migration,
                PteKind::Other,
            ] {
                assert_eq!(request.action(false, kind), Action::Fail(EEXIST));
            }
        }
        Ok(())
    }

    #[test]
    fn a25_a27_the_source_decides() -> Result {
        let strict = request(DST, SRC, 4, 0).ok_or(EINVAL)?;
        let lax = request(DST, SRC, 4, ALLOW_SRC_HOLES).ok_or(EINVAL)?;
        assert_eq!(strict.action(true, PteKind::None), Action::Fail(ENOENT));
        assert_eq!(lax.action(true, PteKind::None), Action::Skip);
        for request in [strict, lax] {
            let action = |kind| request.action(true, kind);
            assert_eq!(action(PteKind::Present), Action::MovePage);
            assert_eq!(action(PteKind::Swap), Action::MoveSwap);
            assert_eq!(action(PteKind::ZeroPage), Action::MoveZeroPage);
            assert_eq!(action(PteKind::Migration), Action::Wait);
            assert_eq!(action(PteKind::Other), Action::Fail(EFAULT));
        }
        Ok(())
    }

    #[test]
    fn a40_overlapping_ranges() -> Result {
        // The destination lies two pages above the source: what is put there is met again.
        let up = request(SRC + 2 * PAGE_SIZE, SRC, 8, ALLOW_SRC_HOLES).ok_or(EINVAL)?;
        assert_eq!(up.own_src(0), SRC..SRC + 2 * PAGE_SIZE);
        assert_eq!(up.own_src(PAGE_SIZE).len(), PAGE_SIZE);
        assert!(up.own_src(2 * PAGE_SIZE).is_empty());
        assert!(up.own_src(7 * PAGE_SIZE).is_empty());
        // What is moved onto itself is what is in its own way.
        assert!(request(SRC, SRC, 8, 0).ok_or(EINVAL)?.own_src(0).is_empty());
        // Two pages below it: the call goes on behind them, and then there is no more.
        let mut down = request(SRC - 2 * PAGE_SIZE, SRC, 5, 0).ok_or(EINVAL)?;
        for (moved, rest) in [(0, 2), (2, 2), (3, 2), (4, 1)] {
            let moved = moved * PAGE_SIZE;
            assert_eq!(down.go_on(moved), moved != 0 && rest == 2);
            assert_eq!(down.own_src(moved).len(), rest * PAGE_SIZE);
        }
        // Apart, a page is met as the source only.
        for dst in [SRC - 8 * PAGE_SIZE, SRC + 8 * PAGE_SIZE, DST] {
            let mut request = request(dst, SRC, 8, 0).ok_or(EINVAL)?;
            for moved in [0, 3 * PAGE_SIZE, 7 * PAGE_SIZE] {
                assert_eq!(request.own_src(moved), request.src(moved));
                assert!(!request.go_on(moved));
            }
        }
        Ok(())
    }

    #[test]
    fn a33_place_for_a_huge_page() -> Result {
        let (pages, huge) = (8, 8 * PAGE_SIZE);
        let fits = |dst, src, len, moved: usize| -> Result<bool> {
            Ok(request(dst, src, len, 0)
                .ok_or(EINVAL)?
                .fits_huge(moved, huge))
        };
        assert!(fits(DST, SRC, pages, 0)?);
        assert!(!fits(DST, SRC, pages - 1, 0)?);
        assert!(!fits(DST + PAGE_SIZE, SRC, 2 * pages, 0)?);
        assert!(!fits(DST, SRC + PAGE_SIZE, 2 * pages, 0)?);
        assert!(!fits(DST + PAGE_SIZE, SRC + PAGE_SIZE, 2 * pages, 0)?);
        assert!(fits(
            DST + PAGE_SIZE,
            SRC + PAGE_SIZE,
            2 * pages,
            huge - PAGE_SIZE
        )?);
        assert!(!fits(DST, SRC, 2 * pages - 1, huge)?);
        // What overlaps is not the source's own.
        assert!(fits(SRC + huge, SRC, 2 * pages, 0)?);
        assert!(!fits(SRC + huge, SRC, 2 * pages, huge)?);
        Ok(())
    }
}
