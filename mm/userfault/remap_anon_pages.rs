// SPDX-License-Identifier: GPL-2.0

//! `remap_anon_pages`: anonymous pages move from one address to another.
//!
//! A page moves when its entry is taken out of the source's page table and put into the
//! destination's, with the locks of both tables held. Nothing is copied, no vma changes. The call
//! is strict: it never overwrites what the destination holds, and never moves what anybody else
//! has a share in.
//!
//! What moves as one is as large as can be: a huge page (`huge.rs`), a folio of several pages, a
//! page. An entry for a page in swap moves as it is. A huge page or a folio that does not fit, or
//! not all of which is to move, is split, once it is known that nobody else has a share in it.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. The read lock of the destination's vma, then, by trying, that of the source's; or else the
//!    mmap lock for reading. Keeps both vmas, and the upper levels of their page tables, as they
//!    are.
//! 2. Secondary MMUs are told of the source range: they hold no copy of its entries until the
//!    page-table locks are dropped.
//! 3. The locks of the two page tables, the second by trying. Keep the entries as they are, and
//!    with them the references of the pages that they map.
//! 4. The lock of each folio, by trying: elsewhere it comes before 3. Keeps whoever walks the
//!    reverse mapping away while that changes.
//!
//! Nothing that sleeps is done with 3 held. A folio is split with its lock held; a page that is
//! being migrated is waited for as in a page fault, with 1 held. The wait for a folio's lock, and
//! for others to let go of a folio, is with nothing held at all, not even a reference to the folio:
//! that would keep the folio from being split or migrated. So is the fault that brings back from
//! swap what cannot move there. Then, and now and then in a long call, the vmas are looked up anew.
//! In each case the call goes on with the page that it stopped at.
//!
//! # What others see
//!
//! The destination is set before the TLB is flushed, so whoever touches it faults or finds the
//! whole page. The flush, one for the run, is done before the page-table locks are dropped, so no
//! store to the source gets to the page after the call has returned.

use kernel::{
    current,
    mm::{
        anon::{
            AnonRange,
            PrivateAnonVma, //
        },
        folio::{
            Folio,
            LockedFolio, //
        },
        folio_entries::FolioRoom,
        mmu_notifier::RangeRoom,
        moving::{
            Exclusive,
            Unit, //
        },
        pgtable::{
            pmd_size,
            Entry,
            HugeKind,
            LockHuge,
            Pmd, //
        },
        pte_pair::{
            EntryPair,
            Mapped,
            PtePair, //
        },
        run::Run,
        swap_entry::Swapped,
        virt::VmaRef,
        MmWithUser,
        MmapReadGuard,
        VmaReadGuard, //
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

#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
use crate::huge::move_huge;
use crate::request::{
    Action,
    Request, //
};
use core::ops::Range;

/// How many runs, of a table's entries at most, are done before the vmas are unlocked, so that who
/// wants to change them, or others of the process, does not wait for the end of a long call.
const MAX_RUNS: u32 = 16;

/// How often something is tried that others may keep from being done, such as the split of a folio
/// that they hold references to, and how long to leave them to let go of it in between.
const MAX_TRIES: u32 = 8;
const PAUSE: Delta = Delta::from_millis(1);

/// Moves `len` bytes of anonymous pages of the calling process from `src` to `dst`.
///
/// Returns the bytes moved, which are fewer than `len` where an error stopped the call on its way,
/// or that error where nothing moved. May sleep.
#[inline]
pub(crate) fn remap_anon_pages(dst: usize, src: usize, len: usize, flags: usize) -> Result<usize> {
    let mut call = Remap {
        request: Request::new(dst, src, len, flags, in_compat_syscall).ok_or(EINVAL)?,
        moved: 0,
        tried: (0, 0),
    };
    let result = call.run(current!().mm().ok_or(EINVAL)?);

    match call.moved {
        0 => result.map(|()| 0),
        moved => {
            if call.request.wakes() {
                if let Some(mm) = current!().mm() {
                    call.wake(mm);
                }
            }
            Ok(moved)
        }
    }
}

/// A call on its way.
struct Remap {
    request: Request,
    /// How much is moved, in bytes.
    moved: usize,
    /// Where something failed that is tried again, and how often it did.
    tried: (usize, u32),
}

/// What keeps the two vmas as they are.
enum Locked<'a> {
    /// Their own locks, the destination's first; one where they are one.
    Vmas(VmaReadGuard<'a>, Option<VmaReadGuard<'a>>),
    /// The lock of all.
    Mmap(MmapReadGuard<'a>),
}

/// The two vmas, locked and checked.
#[derive(Clone, Copy)]
struct Vmas<'a> {
    dst: PrivateAnonVma<'a>,
    src: PrivateAnonVma<'a>,
}

/// Why a run of pages ended.
pub(crate) enum Stop {
    /// There are no more entries in one of the tables, or all is moved.
    End,
    /// One of the tables is missing.
    NoTable,
    /// The page cannot move.
    Error(Error),
    /// The page is being migrated.
    Migrating,
    /// Somebody else holds the lock of the page's folio.
    Contended(ARef<Folio>),
    /// The page's folio has other pages, which do not move along.
    Large(LockedFolio),
    /// The page is in the swap cache with others, which do not move along.
    Swapped,
}

/// What is left to do after a step.
enum Step {
    /// Go on.
    Continue,
    /// Wait, with nothing held, until the folio is unlocked; then go on.
    Wait(ARef<Folio>),
    /// Wait a moment, with nothing held; then go on.
    Pause,
    /// Bring the page back from swap, with nothing held; then go on.
    SwapIn,
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

    /// Wakes those who wait for what is moved. Where a part of that is not mapped or not served any
    /// more, they were woken there, but who waits in the rest is to be found.
    #[cold]
    fn wake(&self, mm: &MmWithUser) {
        let range = self.request.dst(0).start..self.dst().start;
        if let Some(vma) = mm.lock_vma_under_rcu(range.start) {
            if vma.contains(&range) {
                return vma.wake_waiters(range);
            }
        }
        for vma in mm.mmap_read_lock().vmas(range.clone()) {
            vma.wake_waiters(range.clone());
        }
    }

    /// Moves everything, or as much as can be moved until the error that is returned.
    #[inline(always)]
    fn run(&mut self, mm: &MmWithUser) -> Result {
        loop {
            let step = {
                let locked = self.lock(mm)?;
                let (dst, src) = match &locked {
                    Locked::Vmas(dst, src) => (&**dst, src.as_deref().unwrap_or(dst)),
                    Locked::Mmap(mmap) => self.prepare(mmap)?,
                };
                self.run_locked(dst, src)?
            };
            match step {
                Step::Continue if self.is_done() => return Ok(()),
                Step::Continue => {}
                Step::Wait(folio) => Folio::put_and_wait_unlocked(folio)?,
                Step::Pause => fsleep(PAUSE),
                Step::SwapIn => mm.swap_in(self.src().start)?,
            }
        }
    }

    /// Locks the two vmas, or the mmap lock where that cannot be done at once, or is not enough.
    #[inline(always)]
    fn lock<'a>(&self, mm: &'a MmWithUser) -> Result<Locked<'a>> {
        match mm.lock_two_vmas(self.dst().start, self.src().start) {
            Some((dst, src)) if dst.has_anon_vma() => Ok(Locked::Vmas(dst, src)),
            vmas => {
                drop(vmas);
                Ok(Locked::Mmap(mm.mmap_read_lock_killable()?))
            }
        }
    }

    /// Finds the two vmas under the mmap lock, and gives the destination's an anon_vma, for which
    /// that lock is needed.
    #[cold]
    fn prepare<'a>(&self, mmap: &'a MmapReadGuard<'_>) -> Result<(&'a VmaRef, &'a VmaRef)> {
        let src = mmap.vma_lookup(self.src().start).ok_or(EINVAL)?;
        let dst = mmap.vma_lookup(self.dst().start).ok_or(EINVAL)?;
        self.check_vmas(dst, src)?;
        mmap.prepare_anon_vma(dst)?;
        Ok((dst, src))
    }

    /// Checks that what is left, the beginning of which is in these vmas, is all in them, and that
    /// pages may move between them.
    #[inline(always)]
    fn check_vmas<'a>(&self, dst: &'a VmaRef, src: &'a VmaRef) -> Result<Vmas<'a>> {
        if self.request.whole_src().end > src.end() || self.request.whole_dst().end > dst.end() {
            return Err(EINVAL);
        }
        let vmas = Vmas {
            src: src.as_private_anonymous().ok_or(EINVAL)?,
            dst: dst.as_private_anonymous().ok_or(EINVAL)?,
        };
        // By moving a page must become neither accessible in another way, nor locked or unlocked.
        if !src.keeps_pages_like(dst) || !src.is_accessible() {
            return Err(EINVAL);
        }
        // To take pages out is to discard them, to put pages in is to write.
        if (src.is_sealed() || dst.is_sealed()) && !src.lets_thread_write() {
            return Err(EINVAL);
        }
        Ok(vmas)
    }

    #[inline(always)]
    fn is_done(&self) -> bool {
        self.moved == self.request.limit()
    }

    /// Moves what is left, or a good part of it, with the vmas locked.
    #[inline(always)]
    fn run_locked(&mut self, dst: &VmaRef, src: &VmaRef) -> Result<Step> {
        let vmas = self.check_vmas(dst, src)?;

        for _ in 0..MAX_RUNS {
            match self.move_run(vmas) {
                Stop::End => {}
                stop => match self.make_way(stop, vmas)? {
                    Step::Continue => {}
                    wait => return Ok(wait),
                },
            }
            if self.is_done() {
                break;
            }
            if current!().fatal_signal_pending() {
                return Err(EINTR);
            }
            cond_resched();
        }
        Ok(Step::Continue)
    }

    /// Moves a huge page, or what one pair of pte tables allows, under their locks and with one TLB
    /// flush.
    #[inline(always)]
    fn move_run(&mut self, vmas: Vmas<'_>) -> Stop {
        let src = vmas.src.range(self.request.own_src(self.moved));
        let (Some(dst), Some(src)) = (vmas.dst.range(self.dst()), src) else {
            return Stop::NoTable;
        };
        let Some(run) = Run::find(dst, src) else {
            return Stop::NoTable;
        };
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        if run.is_whole_slot() {
            match move_huge(run) {
                Ok(()) => {
                    self.moved = self.moved.wrapping_add(pmd_size());
                    return Stop::End;
                }
                Err(Stop::NoTable) => {}
                Err(stop) => return stop,
            }
        }
        let mut range = RangeRoom::new();
        let notified = run.notify(&mut range);
        let mut room = FolioRoom::new();
        let moved = PtePair::with(&notified, &mut room, |pair| self.move_entries(pair));
        let (stop, done) = moved.unwrap_or((Stop::NoTable, 0));
        self.moved = self.moved.wrapping_add(done);
        stop
    }

    /// Moves page after page until the pair ends or a page cannot move; returns how much is done
    /// with, in bytes.
    #[inline(always)]
    fn move_entries(&self, mut pair: PtePair<'_>) -> (Stop, usize) {
        while let Some(entry) = pair.current() {
            // What is most frequent comes first, and nothing else is in its way.
            match entry.exclusive_page() {
                Some(Mapped::Page(page)) => {
                    if let Err(stop) = move_exclusive(page) {
                        return (stop, pair.done());
                    }
                }
                _ => return self.move_any_entries(pair),
            }
        }
        (Stop::End, pair.done())
    }

    /// The same for entries of all kinds.
    #[cold]
    fn move_any_entries(&self, mut pair: PtePair<'_>) -> (Stop, usize) {
        while let Some(entry) = pair.current() {
            let stopped = match self.request.action(entry.dst_is_none(), entry.src_kind()) {
                Action::MovePage => move_page(entry).err(),
                Action::MoveSwap => move_swap(entry).err(),
                Action::MoveZeroPage => {
                    entry.move_zero_page();
                    None
                }
                Action::Skip => {
                    entry.skip();
                    None
                }
                Action::Wait => Some(Stop::Migrating),
                Action::Fail(e) => Some(Stop::Error(e)),
            };
            if let Some(stop) = stopped {
                return (stop, pair.done());
            }
        }
        (Stop::End, pair.done())
    }

    /// Does a step where one side has no pte table: goes over a hole, moves a huge page, or makes
    /// way for that.
    fn step_aside(&mut self, dst: AnonRange<'_>, src: Option<AnonRange<'_>>) -> Result<Step> {
        let to = dst.entry();
        let from = match src {
            Some(src) => src.entry(),
            // What this call has put in place itself counts as the hole that was there.
            None => Entry::Empty {
                end: self.src().end,
            },
        };
        match (&to, &from) {
            // Both have come meanwhile.
            (Entry::Table(_), Entry::Table(_)) => Ok(Step::Continue),
            // An occupied destination is seen whatever the source holds.
            (Entry::Huge(_), _) => Err(EEXIST),
            (_, Entry::Huge(from)) => self.step_huge(dst, &to, from),
            _ => self.step_hole(dst, &to, &from),
        }
    }

    /// Steps over a hole. It costs no page table, and whole empty tables are stepped over at once.
    fn step_hole(&mut self, dst: AnonRange<'_>, to: &Entry<'_>, from: &Entry<'_>) -> Result<Step> {
        let src = self.src();
        match (to, from) {
            (Entry::Table(to), Entry::Empty { end }) => {
                if let Some(table) = to.lock_table() {
                    match table.hole_len() {
                        0 => return Err(EEXIST),
                        len => self.skip_hole(len.min(end - src.start))?,
                    }
                }
            }
            (Entry::Empty { end }, Entry::Table(from)) => {
                let hole = from.lock_table().map(|table| table.hole_len());
                match hole {
                    Some(0) => dst.alloc_table()?,
                    Some(len) => self.skip_hole(len.min(end - dst.start()))?,
                    None => {}
                }
            }
            (Entry::Empty { end: dst_end }, Entry::Empty { end }) => {
                self.skip_hole((end - src.start).min(dst_end - dst.start()))?
            }
            _ => {}
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

    /// Makes way for a huge page, or for its pieces.
    #[cfg_attr(not(CONFIG_TRANSPARENT_HUGEPAGE), expect(unused_mut, unused_variables))]
    fn step_huge(&mut self, dst: AnonRange<'_>, to: &Entry<'_>, from: &Pmd<'_>) -> Result<Step> {
        if let Entry::Table(to) = to {
            if to.lock_table().is_some_and(|t| !t.first().is_none()) {
                return Err(EEXIST);
            }
        }
        // Nothing is in the way of one that fits, but what it takes to get there: a pmd table, or,
        // where small pages have been, an empty pte table.
        let mut whole =
            cfg!(CONFIG_TRANSPARENT_HUGEPAGE) && self.request.fits_huge(self.moved, pmd_size());
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        if whole && from.is_movable() {
            match to {
                // Something comes later: the pages before it are to move all the same.
                Entry::Table(to) if !to.free_empty_table() => whole = to.lock_table().is_none(),
                Entry::Table(_) => return Ok(Step::Continue),
                // There will be a slot then.
                _ => return dst.alloc_pmd().map(|_| Step::Continue),
            }
        }
        match from.lock_huge() {
            // Another call has put it there since we looked.
            LockHuge::Locked(_) | LockHuge::Not(HugeKind::ZeroPage) if whole => Ok(Step::Continue),
            LockHuge::Locked(folio) => self.split(folio),
            LockHuge::Contended(folio) => Ok(Step::Wait(folio)),
            LockHuge::Not(kind) => {
                match kind {
                    HugeKind::ZeroPage => from.split_huge(),
                    HugeKind::Migration => from.wait_for_migration(),
                    HugeKind::Shared => return Err(EBUSY),
                    HugeKind::Other => return Err(EFAULT),
                    HugeKind::Gone => {}
                }
                Ok(Step::Continue)
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
            Err(_) => self.try_again(Step::Pause),
        }
    }

    /// Does what is needed before the call can go on from where a run ended.
    #[cold]
    fn make_way(&mut self, stop: Stop, vmas: Vmas<'_>) -> Result<Step> {
        let dst = vmas.dst.range(self.dst()).ok_or(EINVAL)?;
        // None where all that is left of the source is what the call has put in place itself.
        let src = vmas.src.range(self.request.own_src(self.moved));
        match stop {
            Stop::End => Ok(Step::Continue),
            Stop::NoTable => match self.request.go_on(self.moved) {
                true => Ok(Step::Continue),
                false => self.step_aside(dst, src),
            },
            Stop::Error(e) => Err(e),
            Stop::Contended(folio) => Ok(Step::Wait(folio)),
            Stop::Large(folio) => self.split(folio),
            Stop::Swapped => self.try_again(Step::SwapIn),
            Stop::Migrating => {
                if let Some(from) = src.and_then(AnonRange::pmd) {
                    from.wait_for_migration();
                }
                Ok(Step::Continue)
            }
        }
    }

    /// Takes `step` before the next try, unless it was taken often enough.
    fn try_again(&mut self, step: Step) -> Result<Step> {
        let tries = match self.tried {
            (at, tries) if at == self.moved => tries + 1,
            _ => 1,
        };
        self.tried = (self.moved, tries);
        match tries > MAX_TRIES {
            true => Err(EBUSY),
            false => Ok(step),
        }
    }
}

/// Moves a page that is present in the source to the destination, which is a hole; and with it all
/// of its folio, where it can.
fn move_page(entry: EntryPair<'_, '_>) -> Result<(), Stop> {
    // Shared by a fork or by KSM: others would lose it, or see what is written to it later.
    match entry.exclusive_page().ok_or(Stop::Error(EBUSY))? {
        Mapped::Page(page) => move_exclusive(page),
        Mapped::Part(page) => {
            // Not to be split for nothing.
            if page.folio().maybe_dma_pinned() {
                return Err(Stop::Error(EBUSY));
            }
            match page.whole() {
                Ok(folio) => move_exclusive(folio),
                Err(page) => Err(page
                    .lock_for_split()
                    .map_or_else(Stop::Contended, Stop::Large)),
            }
        }
    }
}

/// Moves what maps a folio at the source, and nobody else does: the entry of a page, those of a
/// folio of several pages, that of a huge page.
#[inline(always)]
pub(crate) fn move_exclusive<U: Unit>(unit: Exclusive<'_, U>) -> Result<(), Stop> {
    // A device writes to the page, wherever it is mapped: the program would look for the data at
    // the source. gup_fast pins without a lock, but only while it finds the entry unchanged. Once
    // that is taken out it does not, and `take()` has ordered the two, so this is the time to look.
    // What is not placed goes back.
    let taken = unit.try_lock().map_err(Stop::Contended)?.take();
    if taken.folio().maybe_dma_pinned() {
        return Err(Stop::Error(EBUSY));
    }
    taken.place();
    Ok(())
}

/// Moves the entry for a page that is in swap.
fn move_swap(entry: EntryPair<'_, '_>) -> Result<(), Stop> {
    match entry.swapped() {
        Swapped::Alone(entries) => {
            entries.place();
            Ok(())
        }
        Swapped::Shared => Err(Stop::Error(EBUSY)),
        Swapped::Contended(folio) => Err(Stop::Contended(folio)),
        Swapped::Part => Err(Stop::Swapped),
    }
}
