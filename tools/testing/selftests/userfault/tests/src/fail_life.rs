// SPDX-License-Identifier: GPL-2.0

//! What becomes of memory that a descriptor serves, when an allocation fails in a call that
//! touches, moves, copies or unmaps it.

use crate::fail::{layout, quieten, room, Call, Expect, FailNth, Forms, ENOMEM};
use crate::fail_range::is_served;
use crate::harness::Outcome;
use crate::proc::ensure_holes;
use crate::process::say;
use crate::range::{serve, LetGo, Range};
use crate::sys::{
    page, remap_all, Area, Map, Span, MADV_NOUSERFAULT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
};
use crate::touch::Fault;
use crate::{ensure_eq, register};
use anyhow::{bail, ensure};
use nix::errno::Errno;
use nix::sys::uio::{process_vm_readv, RemoteIoVec};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{execv, fork, getpid, ForkResult};
use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::ops;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// An access to two holes that a thread serves.
struct Access {
    area: Area,
    holes: Span,
    src: Span,
    how: fn(Span) -> nix::Result<usize>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<Outcome>>,
}

impl Access {
    fn new(far: bool, how: fn(Span) -> nix::Result<usize>) -> anyhow::Result<Self> {
        let (area, holes) = room(far, 2 * page())?;
        let src = Area::filled(2, 1)?;
        let (from, over) = (*src, Arc::new(AtomicBool::new(false)));
        let fd = Range::without_waiting()?;
        area.mark()?;
        ensure_eq!(fd.register(*area), Ok(16));
        let server = std::thread::spawn({
            let over = over.clone();
            // It has the source, which lives as long.
            move || {
                // If it fails, who touches is to go on.
                let _end = LetGo::at_the_end(holes);
                serve(&fd, holes, *src, &over)
            }
        });
        Ok(Self {
            area,
            holes,
            src: from,
            how,
            over,
            server: Some(server),
        })
    }
}

impl Call for Access {
    // Those of the other thread come in between.
    const KEEPS_COUNTS: bool = false;

    fn call(&self, done: usize) -> nix::Result<usize> {
        let left = self.holes.pages(done / page()..2);
        (self.how)(left)
    }

    fn all(&self) -> usize {
        self.holes.len
    }

    /// Where the call has not come to a page, that is where it was, or was put in place.
    fn check(&self, done: usize) -> Outcome {
        ensure_eq!(done % page(), 0);
        for index in 0..2 {
            let (to, from) = (self.holes.page(index), self.src.page(index));
            let is_hole = crate::proc::entry(to)?.hole();
            ensure!(
                index >= done / page() || !is_hole,
                "page {index} is not there"
            );
            match is_hole {
                true => from.check(1 + index as u32)?,
                false => to.check(1 + index as u32)?,
            }
        }
        ensure!(layout(self.area.page(0))?[0].contains("ug"), "not served");
        Ok(())
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(Ok(Err(error))) = self.server.take().map(JoinHandle::join) {
            println!("# the server: {error:#}");
        }
    }
}

/// Touches both pages as the program does.
fn touch(span: Span) -> nix::Result<usize> {
    for at in span.each_page() {
        at.load().map_err(|_| Errno::EFAULT)?;
    }
    Ok(span.len)
}

/// A57: a fault that waits allocates nothing but upper page tables, and waits in any case.
fn a57_each_allocation_of_a_fault_that_waits() -> Outcome {
    let mut forms = Forms::new()?;
    quieten()?;
    forms.form("near", Expect::Nothing, || Access::new(false, touch))?;
    forms.form("far away", Expect::Works, || Access::new(true, touch))?;
    forms.end()
}

fn read_by_process(span: Span) -> nix::Result<usize> {
    let mut seen = [0; 1];
    let mut done = 0;
    for at in span.each_page() {
        let remote = RemoteIoVec {
            base: at.addr,
            len: 1,
        };
        match process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut seen)], &[remote]) {
            Ok(_) => done += page(),
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A77, A78: so do those who get hold of pages; or they say that there was no memory.
fn a77_a78_each_allocation_of_gup_that_waits() -> Outcome {
    let mut forms = Forms::new()?;
    for (name, expect, how) in [
        (
            "process_vm_readv",
            Expect::Refused(&[Errno::ENOMEM, Errno::EFAULT]),
            read_by_process as fn(Span) -> nix::Result<usize>,
        ),
        ("MADV_POPULATE_READ", ENOMEM, |span| {
            span.advise(MADV_POPULATE_READ).map(|()| span.len)
        }),
        ("MADV_POPULATE_WRITE", ENOMEM, |span| {
            span.advise(MADV_POPULATE_WRITE).map(|()| span.len)
        }),
    ] {
        forms.form(name, expect, || Access::new(true, how))?;
    }
    forms.end()
}

/// What becomes of a part of a served area.
#[derive(Clone, Copy, Debug)]
enum Change {
    Unmap,
    Move,
    MoveDontUnmap,
    Fork,
    Unmark,
}

/// Served memory of twenty pages, the first six of which are filled, and what is done with a part.
struct Served {
    fd: Range,
    area: Area,
    place: Area,
    part: ops::Range<usize>,
    change: Change,
}

impl Served {
    fn new(change: Change, part: ops::Range<usize>) -> anyhow::Result<Self> {
        let (fd, area, src) = (
            Range::without_waiting()?,
            Area::pages(20)?,
            Area::filled(6, 1)?,
        );
        area.mark()?;
        ensure_eq!(fd.register(*area), Ok(16));
        remap_all(area.pages(0..6), *src)?;
        Ok(Self {
            place: Map::pages(part.len()).prot(libc::PROT_NONE).map()?,
            fd,
            area,
            part,
            change,
        })
    }

    fn part(&self) -> Span {
        self.area.pages(self.part.clone())
    }

    /// Checks pages of the area, wherever they are now, and that those that are holes are served,
    /// or not.
    fn check_at(&self, span: Span, first: usize, served: bool) -> Outcome {
        let mut hole = None;
        for (index, at) in (first..).zip(span.each_page()) {
            match index {
                0..6 => at.check(1 + index as u32)?,
                _ => {
                    ensure_holes(at)?;
                    hole = Some(at);
                }
            }
        }
        if let Some(hole) = hole {
            ensure_eq!(is_served(&self.fd, hole)?, served, "{hole:x?}");
        }
        let seen = layout(span)?;
        let all = seen.iter().all(|flags| flags.contains("ug") == served);
        ensure!(all, "served, or not: {seen:?}");
        Ok(())
    }

    /// Checks what lies on both sides of the part.
    fn check_around(&self) -> Outcome {
        let ops::Range { start, end } = self.part;
        self.check_at(self.area.pages(0..start), 0, true)?;
        self.check_at(self.area.pages(end..20), end, true)
    }
}

impl Call for Served {
    // What is unmapped was counted, and pages are copied for a child.
    const KEEPS_COUNTS: bool = false;

    fn call(&self, _done: usize) -> nix::Result<usize> {
        let (part, fixed) = (self.part(), libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
        let result = match self.change {
            Change::Unmap => part.unmap(),
            Change::Move => part.mremap(part.len, fixed, self.place.addr).map(drop),
            Change::MoveDontUnmap => {
                let flags = fixed | libc::MREMAP_DONTUNMAP;
                part.mremap(part.len, flags, self.place.addr).map(drop)
            }
            Change::Fork => fork_and_look(part.page(part.nr_pages() - 1)),
            Change::Unmark => part.advise(MADV_NOUSERFAULT),
        };
        result.map(|()| 1)
    }

    fn check(&self, done: usize) -> Outcome {
        self.check_around()?;
        let part = self.part();
        match self.change {
            _ if done == 0 => self.check_at(part, self.part.start, true),
            Change::Fork => self.check_at(part, self.part.start, true),
            Change::Unmap => {
                ensure!(layout(part)?.iter().all(BTreeSet::is_empty), "mapped");
                Ok(())
            }
            Change::Unmark => {
                let seen = layout(part)?;
                let marked = seen.iter().any(|flags| flags.contains("uf"));
                ensure!(!marked, "marked: {seen:?}");
                for (index, at) in (self.part.start..).zip(part.each_page()) {
                    match index {
                        0..6 => at.check(1 + index as u32)?,
                        _ => at.check_zero()?,
                    }
                }
                Ok(())
            }
            Change::Move | Change::MoveDontUnmap => {
                let kept = matches!(self.change, Change::MoveDontUnmap);
                let left = layout(part)?;
                let gone = left.iter().all(BTreeSet::is_empty);
                ensure!(!kept || !gone, "unmapped");
                // Where the old place could not be unmapped it is holes, and served; where it is
                // kept that has ended, if the vma could be split.
                if !gone {
                    let served = left[0].contains("ug");
                    ensure!(kept || served, "not served: {left:?}");
                    ensure_holes(part)?;
                    ensure_eq!(is_served(&self.fd, part.page(0))?, served);
                }
                self.check_at(*self.place, self.part.start, true)
            }
        }
    }
}

/// Forks a child that looks whether a hole is one to it, and that nobody serves it.
fn fork_and_look(hole: Span) -> nix::Result<()> {
    // SAFETY: There is one thread only, and the child ends at once.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let unserved = hole.load() == Err(Fault::sigbus(hole.addr));
            // SAFETY: As above.
            unsafe { libc::_exit(i32::from(!unserved)) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(Errno::ECHILD),
        },
    }
}

fn each(change: Change, middle: Expect, whole: Expect) -> Outcome {
    let mut forms = Forms::new()?;
    for (part, expect) in [(4..12, middle), (0..20, whole)] {
        let name = format!("{change:?} {part:?}");
        forms.form(&name, expect, || Served::new(change, part.clone()))?;
    }
    forms.end()
}

/// A66: what is not unmapped for want of memory is served as before.
fn a66_each_allocation_of_munmap() -> Outcome {
    each(Change::Unmap, ENOMEM, Expect::Works)
}

/// A66: what is not moved for want of memory is where it was and served as before.
fn a66_each_allocation_of_mremap() -> Outcome {
    each(Change::Move, ENOMEM, ENOMEM)?;
    each(Change::MoveDontUnmap, ENOMEM, ENOMEM)
}

/// A14: a child that cannot be made takes nothing from the parent.
fn a14_each_allocation_of_fork() -> Outcome {
    let expect = Expect::Refused(&[Errno::ENOMEM, Errno::EAGAIN]);
    let mut forms = Forms::new()?;
    forms.form("fork", expect, || Served::new(Change::Fork, 0..20))?;
    forms.end()
}

/// C25: an end of the mark that fails leaves the holes served.
fn c25_each_allocation_of_the_end_of_the_mark() -> Outcome {
    let mut forms = Forms::new()?;
    let expect = Expect::Refused(&[Errno::EAGAIN]);
    forms.form("the middle", expect, || Served::new(Change::Unmark, 4..12))?;
    forms.end()
}

/// A14: an exec that fails leaves memory served.
fn a14_each_allocation_of_exec() -> Outcome {
    // How a child ends that was not replaced.
    const AS_BEFORE: i32 = 98;
    const DIFFERENT: i32 = 99;
    /// After so many that did not come back the old program is gone before an allocation fails.
    const TOO_LATE: usize = 40;
    FailNth::new()?;
    let (mut refused, mut gone) = (0, 0);
    for nth in 1.. {
        // SAFETY: There is one thread only, and the child ends without unwinding.
        let child = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let code = match exec_fails(nth) {
                    Ok(()) => AS_BEFORE,
                    Err(error) => {
                        say(&format!("allocation {nth}: {error:#}"));
                        DIFFERENT
                    }
                };
                // SAFETY: As above.
                unsafe { libc::_exit(code) }
            }
        };
        match waitpid(child, None)? {
            WaitStatus::Exited(_, AS_BEFORE) => (refused, gone) = (refused + 1, 0),
            WaitStatus::Exited(_, DIFFERENT) => bail!("allocation {nth}: not as before"),
            // It was too late to go back, or the new program could not go on, or could.
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => gone += 1,
            status => bail!("allocation {nth}: {status:?}"),
        }
        if gone == TOO_LATE {
            println!("# exec: {} allocations, {refused} of them missed", nth);
            break;
        }
    }
    ensure!(refused > 0, "no allocation was missed");
    Ok(())
}

/// In a child: fails to start a program, and is as before.
fn exec_fails(nth: usize) -> Outcome {
    let (area, fail_nth) = (Area::pages(1)?, FailNth::new()?);
    let fd = Range::serving(*area)?;
    let (path, arg) = (c"/bin/true", c"true");
    fail_nth.arm(nth)?;
    execv(path, &[arg]).expect_err("it does not return");
    fail_nth.arm(0)?;
    ensure!(is_served(&fd, *area)?, "not served");
    Ok(())
}

register!(
    a57_each_allocation_of_a_fault_that_waits,
    a77_a78_each_allocation_of_gup_that_waits,
    a66_each_allocation_of_munmap,
    a66_each_allocation_of_mremap,
    a14_each_allocation_of_fork,
    c25_each_allocation_of_the_end_of_the_mark,
    a14_each_allocation_of_exec,
);
