// SPDX-License-Identifier: GPL-2.0

//! A descriptor of the range protocol when an allocation fails.

use crate::fail::{layout, Call, Expect, FailNth, Forms, ENOMEM};
use crate::harness::Outcome;
use crate::proc::{ensure_holes, entry};
use crate::range::{page_at, LetGo, Range, PROTOCOL};
use crate::sys::{page, remap, remap_all, Area, Span, RAP_WAKE};
use crate::touch::Fault;
use crate::uffd::say_api;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops;
use std::thread;

/// How many descriptors this process has.
fn descriptors() -> anyhow::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd").context("fd")?.count())
}

/// A descriptor that is to be opened.
struct Open {
    device: Option<File>,
    opened: RefCell<Option<Range>>,
    before: usize,
}

impl Call for Open {
    fn call(&self, _done: usize) -> nix::Result<usize> {
        let new = match &self.device {
            Some(device) => Range::from_device(device, 0),
            None => Range::open(0),
        };
        *self.opened.borrow_mut() = Some(new?);
        Ok(1)
    }

    fn check(&self, done: usize) -> Outcome {
        ensure_eq!(descriptors()? - self.before, done, "descriptors");
        ensure_eq!(self.opened.borrow().is_some(), done > 0);
        Ok(())
    }
}

/// A46: where there is no memory for a descriptor there is none.
fn a46_each_allocation_of_a_descriptor() -> Outcome {
    let mut forms = Forms::new()?;
    for from_device in [false, true] {
        forms.form(&format!("from a device: {from_device}"), ENOMEM, || {
            let path = "/dev/userfaultfd";
            let open = || File::open(path).context(path);
            Ok(Open {
                device: from_device.then(open).transpose()?,
                opened: RefCell::new(None),
                before: descriptors()?,
            })
        })?;
    }
    forms.end()
}

/// A version that is to be written.
struct Version(Range);

impl Call for Version {
    fn call(&self, _done: usize) -> nix::Result<usize> {
        self.0.write(&[PROTOCOL]).map(|written| written / 8)
    }

    fn check(&self, done: usize) -> Outcome {
        if done > 0 {
            ensure_eq!(self.0.ready()?, PollFlags::POLLIN);
            ensure_eq!(self.0.read(), Ok(PROTOCOL));
            return Ok(());
        }
        ensure_eq!(self.0.ready()?, PollFlags::POLLOUT);
        ensure_eq!(self.0.read(), Err(Errno::EINVAL));
        Ok(())
    }
}

/// A49: where there is no memory for what is kept of a descriptor it belongs to no dialect: either
/// may follow.
fn a49_each_allocation_of_a_version() -> Outcome {
    let mut forms = Forms::new()?;
    let new = || Range::open(0).context("userfaultfd");
    forms.form("the version", ENOMEM, || new().map(Version))?;
    forms.end()?;

    let (fd, fail_nth) = (new()?, FailNth::new()?);
    fail_nth.arm(1)?;
    let written = fd.write(&[PROTOCOL]);
    fail_nth.arm(0)?;
    ensure_eq!(written, Err(Errno::ENOMEM));
    ensure_eq!(say_api(&fd), Ok(()));
    ensure_eq!(fd.write(&[PROTOCOL]), Err(Errno::EBADF));
    Ok(())
}

/// Whether a touch of a marked hole is told to the program; it is a hole again then.
pub fn is_served(fd: &Range, hole: Span) -> anyhow::Result<bool> {
    let spare = Area::filled(1, 7)?;
    let waiting = fd.counts()?.1;
    thread::scope(|scope| -> anyhow::Result<bool> {
        let end = LetGo::at_the_end(hole);
        let thread = scope.spawn(|| hole.load());
        crate::range::wait_until(|| Ok(thread.is_finished() || fd.counts()?.1 > waiting))?;
        let served = !thread.is_finished();
        if served {
            ensure_eq!(fd.fault()?, hole.addr);
            ensure_eq!(remap(hole, *spare, RAP_WAKE), Ok(page()));
            ensure!(thread.join().expect("no panic").is_ok(), "not resolved");
            remap_all(*spare, hole)?;
        } else {
            let seen = thread.join().expect("no panic");
            ensure_eq!(seen, Err(Fault::sigbus(hole.addr)));
        }
        // All is as it should be: the mark stays.
        std::mem::forget(end);
        Ok(served)
    })
}

/// What is asked for of a descriptor, and memory that it serves in part.
struct Registration {
    fd: Range,
    area: Area,
    on: bool,
    part: Span,
    before: Vec<BTreeSet<String>>,
}

impl Call for Registration {
    fn call(&self, _done: usize) -> nix::Result<usize> {
        let written = match self.on {
            true => self.fd.register(self.part),
            false => self.fd.unregister(self.part),
        };
        written.map(|written| written / 16)
    }

    fn check(&self, done: usize) -> Outcome {
        let mut want = self.before.clone();
        for (at, flags) in self.area.each_page().zip(&mut want) {
            // Nothing is served but what is mapped to read and write.
            if done > 0 && at.overlaps(self.part) && !flags.is_empty() {
                match self.on {
                    true => flags.insert("ug".into()),
                    false => flags.remove("ug"),
                };
            }
        }
        ensure_eq!(layout(*self.area)?, want);
        for (index, at) in self.area.each_page().enumerate() {
            match entry(at)?.hole() {
                true => (),
                false => at.check(1 + index as u32)?,
            }
        }
        // The page on either side of the range's end.
        for at in [self.part.end() - page(), self.part.end()].map(page_at) {
            if at.overlaps(*self.area) && entry(at)?.hole() {
                let flags = &want[(at.addr - self.area.addr) / page()];
                ensure_eq!(is_served(&self.fd, at)?, flags.contains("ug"), "{at:x?}");
            }
        }
        Ok(())
    }
}

/// Marked memory of which a part is served, and a part is filled then, and with a gap.
fn registration(
    served: &ops::Range<usize>,
    filled: &ops::Range<usize>,
    gap: &ops::Range<usize>,
    on: bool,
    part: &ops::Range<usize>,
) -> anyhow::Result<Registration> {
    let (fd, area) = (Range::without_waiting()?, Area::marked(20)?);
    let src = Area::filled(20, 1)?;
    if !served.is_empty() {
        ensure_eq!(fd.register(area.pages(served.clone())), Ok(16));
    }
    for index in filled.clone() {
        remap_all(area.page(index), src.page(index))?;
    }
    if !gap.is_empty() {
        area.pages(gap.clone()).unmap()?;
    }
    Ok(Registration {
        part: area.pages(part.clone()),
        before: layout(*area)?,
        fd,
        area,
        on,
    })
}

/// C38: where there is no memory for a split nothing is registered, or unregistered, in however
/// many vmas; vmas that cannot be merged stay.
fn c38_each_allocation_of_a_registration() -> Outcome {
    let mut forms = Forms::new()?;
    let (nothing, works) = (Expect::Nothing, Expect::Works);
    for (name, expect, served, filled, gap, on, part) in [
        ("a vma", nothing, 0..0, 0..4, 0..0, true, 0..20),
        ("the middle", ENOMEM, 0..0, 0..0, 0..0, true, 4..12),
        ("the middle, filled", ENOMEM, 0..0, 0..6, 0..0, true, 4..12),
        ("several vmas", ENOMEM, 0..0, 0..6, 8..9, true, 4..12),
        ("around a part", ENOMEM, 6..8, 0..6, 0..0, true, 4..12),
        ("beside", works, 0..8, 0..0, 0..0, true, 8..20),
        ("beside, filled", works, 0..8, 10..12, 0..0, true, 8..20),
        ("again", nothing, 4..12, 0..6, 0..0, true, 4..12),
        ("off, all", nothing, 0..20, 0..4, 0..0, false, 0..20),
        ("off, the middle", ENOMEM, 0..20, 0..6, 0..0, false, 4..12),
        ("off, several", ENOMEM, 0..20, 0..6, 8..9, false, 4..12),
        ("off, a part", works, 4..12, 0..4, 0..0, false, 0..20),
        ("off, filled", works, 4..12, 6..8, 0..0, false, 0..20),
        ("off, nothing", nothing, 0..0, 0..6, 0..0, false, 4..12),
    ] {
        forms.form(name, expect, || {
            registration(&served, &filled, &gap, on, &part)
        })?;
    }
    forms.end()
}

/// What is done with a descriptor while a thread waits.
struct Waiting {
    fd: Range,
    hole: Area,
    src: Area,
    what: What,
    thread: RefCell<Option<thread::JoinHandle<Result<u8, Fault>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Poll,
    Read,
    Wake,
    WakeNobody,
    Resolve,
}

impl Call for Waiting {
    const KEEPS_COUNTS: bool = false;

    fn call(&self, _done: usize) -> nix::Result<usize> {
        let (hole, src) = (*self.hole, *self.src);
        match self.what {
            What::Poll => self.fd.ready().map(drop).map_err(|_| Errno::EIO)?,
            What::Read => drop(self.fd.read()?),
            What::Wake => drop(self.fd.wake(hole)?),
            What::WakeNobody if self.fd.wake(src) == Err(Errno::ENOENT) => (),
            What::WakeNobody => return Err(Errno::EIO),
            What::Resolve => drop(remap(hole, src, RAP_WAKE)?),
        }
        Ok(1)
    }

    fn check(&self, _done: usize) -> Outcome {
        if self.what != What::Resolve {
            ensure_holes(*self.hole)?;
            self.fd.wait_for(1)?;
            ensure_eq!(remap(*self.hole, *self.src, RAP_WAKE), Ok(page()));
        }
        let thread = self.thread.take().context("joined")?;
        ensure!(thread.join().expect("no panic").is_ok(), "not resolved");
        self.hole.check(1)
    }
}

/// A54, A59, A67: read, wake and poll allocate nothing.
fn a54_a59_a67_poll_read_and_wake_allocate_nothing() -> Outcome {
    let mut forms = Forms::new()?;
    for what in [
        What::Poll,
        What::Read,
        What::Wake,
        What::WakeNobody,
        What::Resolve,
    ] {
        forms.form(&format!("{what:?}"), Expect::Nothing, || {
            let (area, src) = (Area::pages(1)?, Area::filled(1, 1)?);
            // For the anon_vma, and the table.
            area.fill(2);
            area.advise(libc::MADV_DONTNEED)?;
            let (fd, hole) = (Range::serving(*area)?, *area);
            let thread = thread::spawn(move || hole.load());
            fd.wait_for(1)?;
            Ok(Waiting {
                fd,
                hole: area,
                src,
                what,
                thread: RefCell::new(Some(thread)),
            })
        })?;
    }
    forms.end()
}

/// A descriptor that is to be closed.
struct Close {
    fd: RefCell<Option<Range>>,
    area: Area,
    hole: Span,
    before: Vec<BTreeSet<String>>,
}

impl Call for Close {
    fn call(&self, _done: usize) -> nix::Result<usize> {
        drop(self.fd.take());
        Ok(1)
    }

    fn check(&self, _done: usize) -> Outcome {
        let mut want = self.before.clone();
        want.iter_mut()
            .for_each(|flags| flags.retain(|flag| flag != "ug"));
        ensure_eq!(layout(*self.area)?, want);
        ensure_eq!(self.hole.load(), Err(Fault::sigbus(self.hole.addr)));
        Ok(())
    }
}

/// A70: a descriptor is closed, and its ranges forgotten, whatever memory there is.
fn a70_each_allocation_of_a_close() -> Outcome {
    let mut forms = Forms::new()?;
    for (name, filled) in [
        ("untouched", 0..0),
        ("filled before", 0..4),
        ("filled in the middle", 4..8),
        ("filled behind", 12..20),
    ] {
        forms.form(name, Expect::Works, || {
            let state = registration(&(4..12), &filled, &(0..0), false, &(4..12))?;
            Ok(Close {
                hole: state.area.page(11),
                before: state.before,
                fd: RefCell::new(Some(state.fd)),
                area: state.area,
            })
        })?;
    }
    forms.end()
}

register!(
    a46_each_allocation_of_a_descriptor,
    a49_each_allocation_of_a_version,
    c38_each_allocation_of_a_registration,
    a54_a59_a67_poll_read_and_wake_allocate_nothing,
    a70_each_allocation_of_a_close,
);
