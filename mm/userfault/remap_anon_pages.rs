// SPDX-License-Identifier: GPL-2.0

//! `remap_anon_pages`: anonymous pages move from one address to another.
//!
//! A page moves when its entry is taken out of the source's page table and put into the
//! destination's, with the locks of both tables held. Nothing is copied, no vma changes. The call
//! is strict: it never overwrites what the destination holds, and never moves what anybody else
//! has a share in.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. The read lock of the destination's vma, then, by trying, that of the source's; or else the
//!    mmap lock for reading. Keeps both vmas, and the upper levels of their page tables, as they
//!    are.
//! 2. Secondary MMUs are told of the source range: they hold no copy of its entries until the
//!    page-table locks are dropped.
//! 3. The locks of the two pte tables, the second by trying. Keep the entries as they are, and with
//!    them the references of the pages that they map.
//! 4. The lock of each page's folio, by trying: elsewhere it comes before 3. Keeps whoever walks
//!    the reverse mapping away while that changes.
//!
//! Nothing that sleeps is done with 3 held. A folio is split with its lock held; a page that is
//! being migrated is waited for as in a page fault, with 1 held. The wait for a folio's lock, and
//! for others to let go of a folio, is with nothing held at all, not even a reference to the folio:
//! that would keep the folio from being split or migrated. Then the vmas are looked up anew. In
//! each case the call goes on with the page that it stopped at.
//!
//! # What others see
//!
//! The destination is set before the TLB is flushed, so whoever touches it faults or finds the
//! whole page. The flush, one for the run, is done before the page-table locks are dropped, so no
//! store to the source gets to the page after the call has returned.

use kernel::{
    current,
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        mmu_notifier::InvalidateRange,
        pgtable::{
            Entry,
            HugeKind,
            Pmd, //
        },
        pte_pair::{
            EntryPair,
            PtePair,
            TryLock, //
        },
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    sched::{
        cond_resched,
        in_compat_syscall, //
    },
    sync::aref::ARef,
    time::{
        delay::fsleep,
        Delta, //
    },
};

use crate::request::{
    Action,
    Request, //
};
use core::ops::Range;

/// How often a folio that others hold references to is tried to be split, and how long to leave
/// them to let go of it in between.
const MAX_SPLITS: u32 = 8;
const SPLIT_PAUSE: Delta = Delta::from_millis(1);

/// Moves `len` bytes of anonymous pages of the calling process from `src` to `dst`.
///
/// Returns the bytes moved, which are fewer than `len` where an error stopped the call on its way,
/// or that error where nothing moved. May sleep.
pub(crate) fn remap_anon_pages(dst: usize, src: usize, len: usize, flags: usize) -> Result<usize> {
    let mut call = Remap {
        request: Request::new(dst, src, len, flags, in_compat_syscall())?,
        moved: 0,
        splits: 0,
    };
    let result = call.run(current!().mm().ok_or(EINVAL)?);

    match call.moved {
        0 => result.map(|()| 0),
        moved => Ok(moved),
    }
}

/// A call on its way.
struct Remap {
    request: Request,
    /// How much is moved, in bytes.
    moved: usize,
    /// How often a split failed at this place.
    splits: u32,
}

/// Why a run of pages ended.
enum Stop {
    /// There are no more entries in one of the tables, or all is moved.
    End,
    /// The page cannot move.
    Error(Error),
    /// The page is being migrated.
    Migrating,
    /// Somebody else holds the lock of the page's folio.
    Contended(ARef<Folio>),
    /// The page's folio has other pages.
    Large(LockedFolio),
}

/// What is left to do after a step.
enum Step {
    /// Go on.
    Continue,
    /// Wait, with nothing held, until the folio is unlocked; then go on.
    Wait(ARef<Folio>),
    /// Wait a moment, with nothing held; then go on.
    Pause,
}

impl Remap {
    /// What is left to move of the destination.
    #[inline]
    fn dst(&self) -> Range<usize> {
        self.request.dst(self.moved)
    }

    /// What is left to move of the source.
    #[inline]
    fn src(&self) -> Range<usize> {
        self.request.src(self.moved)
    }

    /// Moves everything, or as much as can be moved until the error that is returned.
    fn run(&mut self, mm: &MmWithUser) -> Result {
        loop {
            match self.lock_vmas(mm)? {
                Step::Continue => return Ok(()),
                Step::Wait(folio) => Folio::put_and_wait_unlocked(folio)?,
                Step::Pause => fsleep(SPLIT_PAUSE),
            }
        }
    }

    /// Locks the two vmas, checks them and moves what they allow.
    fn lock_vmas(&mut self, mm: &MmWithUser) -> Result<Step> {
        if let Some(dst) = mm.lock_vma_under_rcu(self.dst().start) {
            // The second lock is only tried: whoever wants to write-lock both may already have one
            // and wait for the other. One vma is locked once.
            if (dst.start()..dst.end()).contains(&self.src().start) {
                if dst.has_anon_vma() {
                    return self.run_locked(&dst, &dst);
                }
            } else if let Some(src) = mm.lock_vma_under_rcu(self.src().start) {
                if dst.has_anon_vma() {
                    return self.run_locked(&dst, &src);
                }
            }
        }

        // An anon_vma can only be prepared under the mmap lock.
        let mmap = mm.mmap_read_lock_killable()?;
        let src = mmap.vma_lookup(self.src().start).ok_or(EINVAL)?;
        let dst = mmap.vma_lookup(self.dst().start).ok_or(EINVAL)?;
        self.check_vmas(dst, src)?;
        mmap.prepare_anon_vma(dst)?;
        self.run_locked(dst, src)
    }

    /// Checks that what is left lies in vmas between which pages may move.
    fn check_vmas(&self, dst: &VmaRef, src: &VmaRef) -> Result {
        for (vma, left) in [
            (src, self.src().start..self.request.whole_src().end),
            (dst, self.dst().start..self.request.whole_dst().end),
        ] {
            if !vma.contains(&left) || !vma.is_private_anonymous() || vma.is_droppable() {
                return Err(EINVAL);
            }
            // To take pages out is to discard them, to put pages in is to write.
            if vma.is_sealed() && !vma.is_writable() {
                return Err(EINVAL);
            }
        }
        // A page must not become accessible in another way by moving.
        if src.access() != dst.access() || src.access() == 0 || !src.same_page_prot(dst) {
            return Err(EINVAL);
        }
        if src.is_mlocked() != dst.is_mlocked() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Moves everything that is left, with the vmas locked.
    fn run_locked(&mut self, dst: &VmaRef, src: &VmaRef) -> Result<Step> {
        self.check_vmas(dst, src)?;

        loop {
            match self.step(dst, src)? {
                Step::Continue => {}
                wait => return Ok(wait),
            }
            if self.moved == self.request.limit() {
                return Ok(Step::Continue);
            }
            if current!().fatal_signal_pending() {
                return Err(EINTR);
            }
            cond_resched();
        }
    }

    /// Does one step at the place where the call has got to: moves what one pair of pte tables
    /// allows, steps over a hole, or makes way for that.
    fn step(&mut self, dst_vma: &VmaRef, src_vma: &VmaRef) -> Result<Step> {
        let (dst, src) = (self.dst(), self.src());

        match (
            dst_vma.entry(dst.start, dst.end),
            src_vma.entry(src.start, src.end),
        ) {
            (Entry::Table(to), Entry::Table(from)) => return self.move_run(src_vma, &to, &from),

            // An occupied destination is seen whatever the source holds.
            (Entry::Huge(_), _) => return Err(EEXIST),

            // A hole costs no page table, and whole empty tables are stepped over at once.
            (Entry::Empty { end: dst_end }, Entry::Empty { end }) => {
                self.skip_hole((end - src.start).min(dst_end - dst.start))?
            }
            (Entry::Table(to), Entry::Empty { end }) => {
                if let Some(table) = to.lock_table() {
                    match table.hole_len(dst.end) {
                        0 => return Err(EEXIST),
                        len => self.skip_hole(len.min(end - src.start))?,
                    }
                }
            }
            (Entry::Empty { end }, Entry::Table(from)) => {
                let hole = from.lock_table().map(|table| table.hole_len(src.end));
                match hole {
                    Some(0) => dst_vma.alloc_table(dst.start)?,
                    Some(len) => self.skip_hole(len.min(end - dst.start))?,
                    None => {}
                }
            }

            (to, Entry::Huge(from)) => {
                if let Entry::Table(to) = to {
                    if to.lock_table().is_some_and(|t| !t.first().is_none()) {
                        return Err(EEXIST);
                    }
                }
                match from.huge_kind() {
                    HugeKind::Exclusive | HugeKind::ZeroPage => from.split_huge(),
                    HugeKind::Shared => return Err(EBUSY),
                    HugeKind::Migration => from.wait_for_migration(),
                    HugeKind::Other => return Err(EFAULT),
                    HugeKind::Gone => {}
                }
            }
        }
        Ok(Step::Continue)
    }

    /// Goes over `len` bytes for which neither side holds anything.
    fn skip_hole(&mut self, len: usize) -> Result {
        if let Action::Fail(e) = self.request.hole() {
            return Err(e);
        }
        self.moved += len;
        Ok(())
    }

    /// Moves what one pair of pte tables allows, under their locks and with one TLB flush.
    fn move_run(&mut self, src_vma: &VmaRef, to: &Pmd<'_>, from: &Pmd<'_>) -> Result<Step> {
        let (dst, src) = (self.dst(), self.src());
        let len = to.len_in_table(dst.end).min(from.len_in_table(src.end));
        let notified = InvalidateRange::clear(src_vma, src.start..src.start + len).ok_or(EINVAL)?;

        let stop = {
            let Some(mut pair) = PtePair::lock(to, from, len, &notified) else {
                // One of the tables has just gone.
                return Ok(Step::Continue);
            };
            let stop = self.move_entries(&mut pair);
            let moved = pair.src_address() - src.start;
            if moved > 0 {
                self.moved += moved;
                self.splits = 0;
            }
            stop
        };
        drop(notified);

        match stop {
            Stop::End => Ok(Step::Continue),
            Stop::Error(e) => Err(e),
            Stop::Contended(folio) => Ok(Step::Wait(folio)),
            Stop::Large(folio) => self.split(folio),
            Stop::Migrating => {
                match src_vma.entry(self.src().start, src.end) {
                    Entry::Table(from) | Entry::Huge(from) => from.wait_for_migration(),
                    Entry::Empty { .. } => {}
                }
                Ok(Step::Continue)
            }
        }
    }

    /// Moves page after page until the pair ends or a page cannot move.
    fn move_entries(&self, pair: &mut PtePair<'_>) -> Stop {
        loop {
            let src_address = pair.src_address();
            let Some(entry) = pair.current() else {
                return Stop::End;
            };
            let (dst_is_none, src) = (entry.dst().is_none(), entry.src().kind());
            match self.request.action(src_address, dst_is_none, src) {
                Action::Skip => entry.skip(),
                Action::MoveZeroPage => entry.move_zero_page(),
                Action::MovePage => {
                    if let Err(stop) = move_page(entry) {
                        return stop;
                    }
                }
                Action::Wait => return Stop::Migrating,
                Action::Fail(e) => return Stop::Error(e),
            }
        }
    }

    /// Splits a folio, so that its pages can move one by one.
    ///
    /// It is known to be exclusive, or nobody would have asked.
    fn split(&mut self, folio: LockedFolio) -> Result<Step> {
        match folio.split() {
            Ok(()) => Ok(Step::Continue),
            // Others hold references, for a moment or for ever.
            Err(_) if self.splits < MAX_SPLITS => {
                self.splits += 1;
                Ok(Step::Pause)
            }
            Err(_) => Err(EBUSY),
        }
    }
}

/// Moves one page that is present in the source to the destination, which is a hole.
fn move_page(entry: EntryPair<'_, '_>) -> Result<(), Stop> {
    // Shared by a fork or by KSM: others would lose it, or see what is written to it later.
    let page = entry.exclusive_page().ok_or(Stop::Error(EBUSY))?;

    // A device writes to the page, wherever it is mapped: the program would look for the data at
    // the source.
    if page.folio().maybe_dma_pinned() {
        return Err(Stop::Error(EBUSY));
    }
    let page = match page.try_lock() {
        TryLock::Locked(page) => page,
        TryLock::Large(folio) => return Err(Stop::Large(folio)),
        TryLock::Contended(folio) => return Err(Stop::Contended(folio)),
    };

    // gup_fast pins without a lock, but only while it finds the entry unchanged. From here on it
    // does not, so that this look is the last one needed. A page that is not placed goes back.
    let page = page.take();
    if page.folio().maybe_dma_pinned() {
        return Err(Stop::Error(EBUSY));
    }
    page.place();
    Ok(())
}
