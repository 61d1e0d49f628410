// SPDX-License-Identifier: GPL-2.0

//! `MADV_USERFAULT`, and a touch of a hole, when an allocation fails.

use crate::fail::{layout, quieten, room, Call, Expect, Forms};
use crate::harness::Outcome;
use crate::madvise_process::{pidfd, process_madvise};
use crate::proc::{ensure_holes, entries, is_marked, Entry};
use crate::sys::{page, Area, Span, MADV_NOUSERFAULT, MADV_USERFAULT};
use crate::touch::Fault;
use crate::{ensure_eq, register};
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

/// What madvise says where it finds no memory for a vma.
const EAGAIN: Expect = Expect::Refused(&[Errno::EAGAIN]);

/// An advice, and what it is about.
struct Advice {
    area: Area,
    advised: Vec<Span>,
    /// What changes, in the order in which it does, each part in a vma of its own.
    parts: Vec<Span>,
    advice: i32,
    own: Option<OwnedFd>,
    before: Vec<BTreeSet<String>>,
    entries: Vec<Entry>,
}

impl Advice {
    fn new(area: Area, advised: Vec<Span>, parts: Vec<Span>, advice: i32) -> anyhow::Result<Self> {
        Ok(Self {
            before: layout(*area)?,
            entries: entries(*area)?,
            area,
            advised,
            parts,
            advice,
            own: None,
        })
    }

    /// The same by `process_madvise`.
    fn by_descriptor(self) -> anyhow::Result<Self> {
        let own = Some(pidfd(Pid::this())?);
        Ok(Self { own, ..self })
    }

    /// The flags of the area's pages when so many parts are done.
    fn want(&self, parts: usize) -> Vec<BTreeSet<String>> {
        let mut want = self.before.clone();
        for (at, flags) in self.area.each_page().zip(&mut want) {
            if !self.parts[..parts].iter().any(|part| part.overlaps(at)) {
                continue;
            }
            match self.advice {
                MADV_USERFAULT => flags.insert("uf".into()),
                _ => flags.remove("uf"),
            };
        }
        want
    }
}

impl Call for Advice {
    fn call(&self, done: usize) -> nix::Result<usize> {
        let left = &self.advised[done..];
        let Some(own) = &self.own else {
            return left[0].advise(self.advice).map(|()| 1);
        };
        // Each of them is a page.
        process_madvise(own.as_raw_fd(), left, self.advice, 0).map(|bytes| bytes / page())
    }

    fn all(&self) -> usize {
        self.advised.len()
    }

    /// Of a madvise that fails the first parts may be done; process_madvise says how many are.
    fn check(&self, done: usize) -> Outcome {
        let seen = layout(*self.area)?;
        let all = self.parts.len();
        let mut possible = match (&self.own, done) {
            (Some(_), done) => done..done + 1,
            (None, 0) => 0..all,
            (None, _) => all..all + 1,
        };
        ensure!(
            possible.any(|parts| self.want(parts) == seen),
            "{seen:?} instead of {:?}",
            self.want(all)
        );
        ensure_eq!(entries(*self.area)?, self.entries);
        Ok(())
    }
}

/// An area whose first pages are filled, and of which a part is marked.
fn area(filled: usize, marked: Range<usize>) -> anyhow::Result<Area> {
    let area = Area::pages(20)?;
    area.pages(0..filled).fill_pages(1);
    if !marked.is_empty() {
        area.pages(marked).mark()?;
    }
    Ok(area)
}

/// A10: an advice that finds no memory has changed nothing in the vma that it needs it for, and all
/// before that.
fn a10_each_allocation_of_an_advice() -> Outcome {
    let mut forms = Forms::new()?;
    let (on, off) = (MADV_USERFAULT, MADV_NOUSERFAULT);
    for (name, expect, filled, marked, advised, advice) in [
        ("a whole vma", Expect::Nothing, 20, 0..0, 0..20, on),
        ("the middle", EAGAIN, 0, 0..0, 4..8, on),
        ("the middle, filled", EAGAIN, 20, 0..0, 4..8, on),
        ("the middle, off", EAGAIN, 20, 0..20, 4..8, off),
        ("the beginning", EAGAIN, 20, 0..0, 0..8, on),
        ("up to the mark", Expect::Nothing, 20, 8..20, 4..8, on),
        ("up to the mark, partly filled", EAGAIN, 6, 8..20, 0..8, on),
        ("both sides of it", EAGAIN, 8, 4..8, 0..20, on),
        ("between two", EAGAIN, 20, 4..8, 4..8, off),
        ("between two, partly filled", EAGAIN, 6, 4..8, 4..8, off),
    ] {
        forms.form(name, expect, || {
            let area = area(filled, marked.clone())?;
            let around = [advised.start..marked.start, marked.end..advised.end];
            let mut parts = match advice == off || marked.is_empty() {
                true => vec![area.pages(advised.clone())],
                false => around.map(|part| area.pages(part)).to_vec(),
            };
            parts.retain(|part| part.len > 0);
            let advised = vec![area.pages(advised.clone())];
            Advice::new(area, advised, parts, advice)
        })?;
    }
    forms.end()
}

/// A8: so with `process_madvise`, which says how far it got.
fn a8_each_allocation_of_process_madvise() -> Outcome {
    let mut forms = Forms::new()?;
    // Of more than eight ranges the kernel keeps a list that it allocates.
    for ranges in [2, 10] {
        let expect = Expect::Refused(&[Errno::EAGAIN, Errno::ENOMEM]);
        forms.form(&format!("{ranges} ranges"), expect, || {
            let area = area(20, 0..0)?;
            let parts: Vec<_> = (0..ranges).map(|index| area.page(2 * index)).collect();
            Advice::new(area, parts.clone(), parts, MADV_USERFAULT)?.by_descriptor()
        })?;
    }
    forms.end()
}

/// A touch of a marked hole that nobody serves.
struct Touch {
    area: Area,
    hole: Span,
    write: bool,
}

impl Call for Touch {
    fn call(&self, _done: usize) -> nix::Result<usize> {
        let seen = match self.write {
            true => self.hole.store(1),
            false => self.hole.load().map(drop),
        };
        match seen {
            Err(fault) if fault == Fault::sigbus(self.hole.addr) => Ok(1),
            // What a signal tells is allocated too, whatever the signal.
            Err(Fault {
                signal: Signal::SIGBUS,
                code: libc::SI_USER,
                addr: 0,
            }) => Ok(1),
            _ => Err(Errno::EFAULT),
        }
    }

    fn check(&self, _done: usize) -> Outcome {
        ensure_holes(self.hole)?;
        ensure!(is_marked(*self.area)?, "not marked");
        Ok(())
    }
}

/// A3: a touch of a hole needs no memory but for the upper page tables: it is SIGBUS in any case.
fn a3_each_allocation_of_a_touch() -> Outcome {
    let mut forms = Forms::new()?;
    quieten()?;
    for write in [false, true] {
        for far in [false, true] {
            let name = format!("write: {write}, far away: {far}");
            forms.form(&name, Expect::Works, || {
                let (area, hole) = room(far, page())?;
                area.mark()?;
                Ok(Touch { area, hole, write })
            })?;
        }
    }
    forms.end()
}

register!(
    a10_each_allocation_of_an_advice,
    a8_each_allocation_of_process_madvise,
    a3_each_allocation_of_a_touch,
);
