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

/// What one call moves for a 32-bit program, to which 2 GiB and more would look like an error.
const COMPAT_MAX: usize = i32::MAX as usize & PAGE_MASK;

/// The arguments of a call, checked as far as they can be by themselves.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    dst: Range<usize>,
    src: Range<usize>,
    allow_holes: bool,
    limit: usize,
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
    /// Wait until the source's page has been migrated.
    Wait,
    /// Stop here.
    Fail(Error),
}

impl Request {
    /// Checks the arguments. `compat`: they come from a 32-bit program.
    pub(crate) fn new(
        dst: usize,
        src: usize,
        len: usize,
        flags: usize,
        compat: bool,
    ) -> Result<Self> {
        if (src | dst | len) & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        if flags & !ALLOW_SRC_HOLES != 0 || len == 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            dst: dst..dst.checked_add(len).ok_or(EINVAL)?,
            src: src..src.checked_add(len).ok_or(EINVAL)?,
            allow_holes: flags & ALLOW_SRC_HOLES != 0,
            limit: if compat { len.min(COMPAT_MAX) } else { len },
        })
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
        self.dst.start + moved..self.dst.start + self.limit
    }

    /// What is left to move of the source.
    #[inline]
    pub(crate) fn src(&self, moved: usize) -> Range<usize> {
        self.src.start + moved..self.src.start + self.limit
    }

    /// Whether this call has put something, or left a hole, at `address` before it got there as a
    /// source: the ranges overlap. It was a hole, and is to be one when its turn comes.
    #[inline]
    fn was_dst(&self, address: usize) -> bool {
        let dst = self.dst.start..self.dst.start + (address - self.src.start);
        dst.contains(&address)
    }

    /// Decides on the source's entry for `address` and the entry that it would move to.
    ///
    /// Strict: whatever the destination holds would be lost, so that comes first.
    #[inline]
    pub(crate) fn action(&self, address: usize, dst_is_none: bool, src: PteKind) -> Action {
        if !dst_is_none {
            return Action::Fail(EEXIST);
        }
        match if self.was_dst(address) {
            PteKind::None
        } else {
            src
        } {
            PteKind::None => self.hole(),
            PteKind::ZeroPage => Action::MoveZeroPage,
            PteKind::Present => Action::MovePage,
            PteKind::Migration => Action::Wait,
            PteKind::Swap => Action::Fail(EBUSY),
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

    fn request(dst: usize, src: usize, pages: usize, flags: usize) -> Result<Request> {
        Request::new(dst, src, pages * PAGE_SIZE, flags, false)
    }

    #[test]
    fn a19_misaligned() {
        assert!(request(DST, SRC, 1, 0).is_ok());
        assert_eq!(request(DST + 1, SRC, 1, 0), Err(EINVAL));
        assert_eq!(request(DST, SRC + PAGE_SIZE / 2, 1, 0), Err(EINVAL));
        assert_eq!(Request::new(DST, SRC, PAGE_SIZE - 1, 0, false), Err(EINVAL));
    }

    #[test]
    fn a19_empty_and_wrapping() {
        let last = usize::MAX & PAGE_MASK;
        assert_eq!(request(DST, SRC, 0, 0), Err(EINVAL));
        assert_eq!(request(last, SRC, 1, 0), Err(EINVAL));
        assert_eq!(request(DST, last, 1, 0), Err(EINVAL));
        assert_eq!(Request::new(DST, SRC, last, 0, false), Err(EINVAL));
        assert!(request(last - PAGE_SIZE, SRC, 1, 0).is_ok());
    }

    #[test]
    fn a18_flags() {
        assert!(request(DST, SRC, 1, ALLOW_SRC_HOLES).is_ok());
        assert_eq!(request(DST, SRC, 1, 1 << 1), Err(EINVAL));
        assert_eq!(request(DST, SRC, 1, ALLOW_SRC_HOLES | 1 << 63), Err(EINVAL));
    }

    #[test]
    fn a30_limit_of_32_bit_programs() -> Result {
        let len = 1 << 31;
        assert_eq!(Request::new(DST, SRC, len, 0, false)?.limit(), len);
        assert_eq!(
            Request::new(DST, SRC, len, 0, true)?.limit(),
            len - PAGE_SIZE
        );
        assert_eq!(
            Request::new(DST, SRC, PAGE_SIZE, 0, true)?.limit(),
            PAGE_SIZE
        );
        Ok(())
    }

    #[test]
    fn what_is_left() -> Result {
        let request = request(DST, SRC, 4, 0)?;
        assert_eq!(request.dst(0), *request.whole_dst());
        assert_eq!(request.src(0), *request.whole_src());
        assert_eq!(request.dst(PAGE_SIZE), DST + PAGE_SIZE..DST + 4 * PAGE_SIZE);
        assert!(request.src(4 * PAGE_SIZE).is_empty());
        Ok(())
    }

    #[test]
    fn a25_eexist_beats_everything() -> Result {
        for flags in [0, ALLOW_SRC_HOLES] {
            let request = request(DST, SRC, 4, flags)?;
            for kind in [
                PteKind::None,
                PteKind::ZeroPage,
                PteKind::Present,
                PteKind::Swap,
                PteKind::Migration,
                PteKind::Other,
            ] {
                assert_eq!(request.action(SRC, false, kind), Action::Fail(EEXIST));
            }
        }
        Ok(())
    }

    #[test]
    fn a25_a27_the_source_decides() -> Result {
        let strict = request(DST, SRC, 4, 0)?;
        let lax = request(DST, SRC, 4, ALLOW_SRC_HOLES)?;
        assert_eq!(
            strict.action(SRC, true, PteKind::None),
            Action::Fail(ENOENT)
        );
        assert_eq!(lax.action(SRC, true, PteKind::None), Action::Skip);
        for request in [strict, lax] {
            let action = |kind| request.action(SRC, true, kind);
            assert_eq!(action(PteKind::Present), Action::MovePage);
            assert_eq!(action(PteKind::ZeroPage), Action::MoveZeroPage);
            assert_eq!(action(PteKind::Migration), Action::Wait);
            assert_eq!(action(PteKind::Other), Action::Fail(EFAULT));
        }
        Ok(())
    }

    #[test]
    fn a40_overlapping_ranges() -> Result {
        // The destination lies two pages above the source: what is put there is met again.
        let up = request(SRC + 2 * PAGE_SIZE, SRC, 8, ALLOW_SRC_HOLES)?;
        let action = |page| up.action(SRC + page * PAGE_SIZE, true, PteKind::Present);
        assert_eq!(action(0), Action::MovePage);
        assert_eq!(action(1), Action::MovePage);
        assert_eq!(action(2), Action::Skip);
        assert_eq!(action(7), Action::Skip);
        // Below it, a page is met as the source first.
        let down = request(SRC - 2 * PAGE_SIZE, SRC, 8, 0)?;
        for page in 0..8 {
            let action = down.action(SRC + page * PAGE_SIZE, true, PteKind::Present);
            assert_eq!(action, Action::MovePage);
        }
        Ok(())
    }
}
