// SPDX-License-Identifier: GPL-2.0

//! What must be in the place of every page of an area: the model that the torture test holds the
//! kernel to.

use crate::harness::Outcome;
use crate::proc::{entries, Entry};
use crate::sys::{pmd_pages, Map, Span, MADV_COLLAPSE, MADV_GUARD_INSTALL};
use crate::touch::{self, Fault};
use crate::{ensure_eq, sys};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs;
use std::ops::Range;

/// What is in the place of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Hole,
    /// A page that has this number at its beginning and at its end.
    Data(u64),
    Guard,
}

/// A place, and when it was written to for the last time: in which epoch, of which a new one begins
/// with every fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub content: Content,
    written: u32,
}

// How the memory of a page is, bit by bit. Pages that differ in this are not in one vma.
pub const MARKED: u8 = 1 << 0;
pub const SERVED: u8 = 1 << 1;
pub const WRITABLE: u8 = 1 << 2;
pub const LOCKED: u8 = 1 << 3;
pub const HUGE: u8 = 1 << 4;
pub const MERGEABLE: u8 = 1 << 5;

/// No epoch.
const NEVER: u32 = 0;

/// What the handler puts where a thread waits.
pub fn served(addr: usize) -> u64 {
    1 << 63 | addr as u64
}

/// Writes a number to both ends of a page that is there and can be written to.
pub fn stamp(place: Span, number: u64) {
    for addr in [place.addr, place.end() - size_of::<u64>()] {
        // SAFETY: The memory is mapped, and never borrowed; if not, the program dies of it.
        unsafe { (addr as *mut u64).write_volatile(number) };
    }
}

/// Memory, and what is in it.
pub struct Area {
    /// Where it is now.
    pub span: Span,
    /// Unmaps it.
    memory: sys::Area,
    pub places: Vec<Place>,
    pub attrs: Vec<u8>,
}

impl Area {
    pub fn new(nr_pages: usize) -> anyhow::Result<Self> {
        let memory = Map::pages(nr_pages).align(sys::pmd()).map()?;
        let hole = Place {
            content: Content::Hole,
            written: NEVER,
        };
        Ok(Self {
            span: *memory,
            memory,
            places: vec![hole; nr_pages],
            attrs: vec![WRITABLE; nr_pages],
        })
    }

    pub fn page(&self, index: usize) -> Span {
        self.span.page(index)
    }

    pub fn has(&self, index: usize, attrs: u8) -> bool {
        self.attrs[index] & attrs == attrs
    }

    /// Whether any of these pages has any of these.
    pub fn any(&self, pages: &Range<usize>, attrs: u8) -> bool {
        self.attrs[pages.clone()].iter().any(|a| a & attrs != 0)
    }

    /// Whether all these pages are alike.
    pub fn uniform(&self, pages: &Range<usize>) -> bool {
        let attrs = &self.attrs[pages.clone()];
        attrs.iter().all(|a| *a == attrs[0])
    }

    pub fn set_attrs(&mut self, pages: &Range<usize>, attrs: u8, on: bool) {
        for own in &mut self.attrs[pages.clone()] {
            *own = if on { *own | attrs } else { *own & !attrs };
        }
    }

    pub fn set(&mut self, index: usize, content: Content, epoch: u32) {
        self.places[index] = Place {
            content,
            written: epoch,
        };
    }

    /// Whether nobody else can have a share in a page: it was written to after the last fork, and
    /// KSM does not look at it.
    pub fn is_own(&self, index: usize, epoch: u32) -> bool {
        self.places[index].written == epoch && !self.has(index, MERGEABLE)
    }

    /// Somebody may have a share in these from now on, until they are written to.
    pub fn disown(&mut self, pages: &Range<usize>) {
        for place in &mut self.places[pages.clone()] {
            place.written = NEVER;
        }
    }

    /// The signal that a touch has to raise, if any.
    fn signal(&self, index: usize, write: bool) -> Option<Signal> {
        let forbidden = write && !self.has(index, WRITABLE);
        match self.places[index].content {
            Content::Guard => Some(Signal::SIGSEGV),
            _ if forbidden => Some(Signal::SIGSEGV),
            Content::Hole if self.attrs[index] & (MARKED | SERVED) == MARKED => {
                Some(Signal::SIGBUS)
            }
            _ => None,
        }
    }

    /// What a touch makes of a hole that raises no signal.
    fn filling(&self, index: usize) -> u64 {
        match self.has(index, MARKED) {
            true => served(self.page(index).addr),
            false => 0,
        }
    }

    /// Reads a page, and checks what is seen.
    pub fn read(&mut self, index: usize, epoch: u32) -> Outcome {
        let place = self.page(index);
        let mut word = [0];
        let seen = touch::copy(&mut word, place.addr).map(|()| word[0]);
        let Some(first) = self.answer(index, false, seen)? else {
            return Ok(());
        };
        let want = match self.places[index].content {
            Content::Data(number) => number,
            _ => {
                let filling = self.filling(index);
                self.set(index, Content::Data(filling), epoch);
                self.look_around(index, epoch)?;
                filling
            }
        };
        let last = place.end() - size_of::<u64>();
        let read = touch::copy(&mut word, last);
        ensure_eq!(read, Ok(()), "the end of page {index}");
        ensure_eq!([first, word[0]], [want, want], "both ends of page {index}");
        Ok(())
    }

    /// Writes to a page, and checks whether that is possible.
    pub fn write(&mut self, index: usize, number: u64, epoch: u32) -> Outcome {
        let stored = touch::store(self.page(index).addr, 1);
        if self.answer(index, true, stored)?.is_some() {
            self.written(index, number, epoch)?;
        }
        Ok(())
    }

    /// The same for a page that may be gone, without a word of the kernel about it.
    pub fn write_after_free(&mut self, index: usize, number: u64, epoch: u32) -> Outcome {
        let place = self.page(index);
        match touch::store(place.addr, 1) {
            Ok(()) => self.written(index, number, epoch),
            Err(fault) => {
                self.set(index, Content::Hole, epoch);
                let due = fault == Fault::sigbus(place.addr)
                    && self.signal(index, true) == Some(Signal::SIGBUS);
                ensure!(due, "{fault:x?} at page {index}");
                Ok(())
            }
        }
    }

    fn written(&mut self, index: usize, number: u64, epoch: u32) -> Outcome {
        stamp(self.page(index), number);
        let was = self.places[index].content;
        self.set(index, Content::Data(number), epoch);
        if was == Content::Hole {
            self.look_around(index, epoch)?;
        }
        Ok(())
    }

    /// What a touch has seen, `None` where it has raised the signal that is due.
    fn answer<T>(
        &self,
        index: usize,
        write: bool,
        seen: Result<T, Fault>,
    ) -> anyhow::Result<Option<T>> {
        let addr = self.page(index).addr;
        match (seen, self.signal(index, write)) {
            (Ok(value), None) => Ok(Some(value)),
            (Err(fault), Some(due)) if fault.signal == due && fault.addr == addr => Ok(None),
            (Err(fault), due) => bail!("{fault:x?} at page {index} instead of {due:?}"),
            (Ok(_), Some(due)) => bail!("page {index} was touched without {due}"),
        }
    }

    /// The pages that a fault may have filled along with one: those of its huge page.
    fn look_around(&mut self, index: usize, epoch: u32) -> Outcome {
        if self.attrs[index] & (HUGE | MARKED) == HUGE {
            self.look_at(&(index..index + 1), epoch)?;
        }
        Ok(())
    }

    /// Learns which holes around some pages were filled, which only those may be that are not the
    /// program's to fill.
    pub fn look_at(&mut self, pages: &Range<usize>, epoch: u32) -> Outcome {
        let start = pages.start - pages.start % pmd_pages();
        let end = pages.end.next_multiple_of(pmd_pages());
        let pages = start..end.min(self.places.len());
        let there = entries(self.span.pages(pages.clone()))?;
        for (index, entry) in pages.zip(there) {
            if self.places[index].content != Content::Hole || entry.hole() {
                continue;
            }
            ensure!(!entry.guard(), "a guard at page {index}: {entry:x?}");
            ensure!(
                self.attrs[index] & (MARKED | SERVED) != MARKED,
                "the hole at page {index} is filled: {entry:x?}"
            );
            let filling = self.filling(index);
            self.set(index, Content::Data(filling), epoch);
        }
        Ok(())
    }

    /// Gives advice that has to be taken.
    pub fn advise(&self, pages: &Range<usize>, advice: i32) -> Outcome {
        self.span
            .pages(pages.clone())
            .advise(advice)
            .with_context(|| format!("madvise({advice}) of {pages:?}"))
    }

    /// `MADV_DONTNEED`: only guards stay.
    pub fn drop_pages(&mut self, pages: &Range<usize>, epoch: u32) -> Outcome {
        self.advise(pages, libc::MADV_DONTNEED)?;
        for index in pages.clone() {
            if self.places[index].content != Content::Guard {
                self.set(index, Content::Hole, epoch);
            }
        }
        Ok(())
    }

    /// `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE`.
    pub fn guard(&mut self, pages: &Range<usize>, on: bool, epoch: u32) -> Outcome {
        let advice = MADV_GUARD_INSTALL + i32::from(!on);
        self.advise(pages, advice)?;
        for index in pages.clone() {
            match self.places[index].content {
                _ if on => self.set(index, Content::Guard, epoch),
                Content::Guard => self.set(index, Content::Hole, epoch),
                _ => (),
            }
        }
        Ok(())
    }

    /// `MADV_COLLAPSE`, which may fail, and which fills holes that are the kernel's to fill.
    pub fn collapse(&mut self, pages: &Range<usize>, epoch: u32) -> Outcome {
        let _ = self.span.pages(pages.clone()).advise(MADV_COLLAPSE);
        self.look_at(pages, epoch)
    }

    /// mlock(2), which fills what it can, and locks what it cannot fill.
    pub fn lock(&mut self, pages: &Range<usize>, epoch: u32) -> Outcome {
        let unservable = |index| self.signal(index, false) == Some(Signal::SIGBUS);
        let want = match pages.clone().any(unservable) {
            true => Err(Errno::ENOMEM),
            false => Ok(()),
        };
        self.set_attrs(pages, LOCKED, true);
        ensure_eq!(self.span.pages(pages.clone()).lock(0), want, "mlock");
        self.look_at(pages, epoch)
    }

    /// Moves all of it to another address, where it is one vma.
    pub fn relocate(&mut self) -> Outcome {
        if !is_one_vma(self.span)? {
            return Ok(());
        }
        let memory = Map::pages(self.attrs.len()).align(sys::pmd()).map()?;
        // The old place stays taken until all around it is unmapped at once.
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        self.span
            .mremap(self.span.len, flags, memory.addr)
            .context("mremap")?;
        (self.span, self.memory) = (*memory, memory);
        Ok(())
    }

    /// Checks every page: what the page tables say, and what is read.
    pub fn audit(&mut self, epoch: u32) -> Outcome {
        for (index, entry) in entries(self.span)?.into_iter().enumerate() {
            let good: fn(Entry) -> bool = match self.places[index].content {
                Content::Hole => Entry::hole,
                Content::Guard => Entry::guard,
                Content::Data(_) => |entry| !entry.hole() && !entry.guard(),
            };
            let content = self.places[index].content;
            ensure!(
                good(entry),
                "page {index}, attributes {:#x}, is {entry:x?}: {content:x?}",
                self.attrs[index]
            );
            if let Content::Data(_) = content {
                self.read(index, epoch)?;
            }
        }
        Ok(())
    }
}

/// Whether a range lies in one vma.
pub fn is_one_vma(span: Span) -> anyhow::Result<bool> {
    let maps = fs::read_to_string("/proc/self/maps").context("maps")?;
    let around = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        Some(start <= span.addr && span.end() <= end)
    };
    Ok(maps.lines().any(|line| around(line) == Some(true)))
}
