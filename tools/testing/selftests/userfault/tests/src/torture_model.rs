// SPDX-License-Identifier: GPL-2.0

//! What one thread of the torture test has, and what every operation on it must do.

use crate::harness::{Numbers, Outcome};
use crate::range::Range;
use crate::sys::{page, remap, remap_raw, Span, MADV_COLD, RAP_ALLOW_SRC_HOLES};
use crate::torture_area::{
    is_one_vma, Area, Content, HUGE, LOCKED, MARKED, MERGEABLE, SERVED, WRITABLE,
};
use crate::torture_op::{self as op, Op, Part};
use crate::{ensure_eq, numa, sys};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// How many operations a failure shows.
const SHOWN: usize = 24;
/// How often a page is tried that nobody has a share in, a millisecond apart.
const TRIES: usize = 2000;

/// What can be done in this kernel, and by this process.
struct Able {
    huge: bool,
    merge: bool,
    nodes: bool,
    /// The descriptor that serves this process. A child has it too, but it is its parent's.
    descriptor: bool,
}

impl Able {
    fn new() -> Self {
        let there = |name: &str| Path::new("/sys/kernel/mm").join(name).exists();
        Self {
            huge: there("transparent_hugepage"),
            merge: there("ksm"),
            nodes: numa::ensure_two_nodes().is_ok(),
            descriptor: true,
        }
    }
}

/// How often what has happened, to see that everything did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub moved: u64,
    pub refused: u64,
    pub exists: u64,
    pub hole: u64,
    pub busy: u64,
    pub again: u64,
}

/// The areas of a thread.
pub struct Model {
    areas: Vec<Area>,
    pub counts: Counts,
    able: Able,
    stamps: u64,
    last: VecDeque<Op>,
}

impl Model {
    /// `name` is another for every thread, so that no two write the same number.
    pub fn new(name: u64) -> anyhow::Result<Self> {
        let areas: anyhow::Result<Vec<_>> =
            (0..op::AREAS).map(|_| Area::new(op::nr_pages())).collect();
        Ok(Self {
            areas: areas?,
            counts: Counts::default(),
            able: Able::new(),
            stamps: name << 40,
            last: VecDeque::with_capacity(SHOWN),
        })
    }

    /// What a child has of it: it is served by nobody, and nothing of it is locked.
    pub fn inherit(&mut self) {
        self.able.descriptor = false;
        for area in &mut self.areas {
            let all = 0..op::nr_pages();
            area.set_attrs(&all, SERVED | LOCKED, false);
        }
    }

    /// The operations that came before a failure.
    pub fn last(&self) -> String {
        let lines: Vec<_> = self.last.iter().map(|op| format!("    {op:x?}")).collect();
        lines.join("\n")
    }

    /// Runs an operation, and checks what it does.
    pub fn run(&mut self, op: Op, epoch: u32, fd: &Range) -> Outcome {
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(op.clone());
        match op {
            Op::Read(area, index) => self.areas[area].read(index, epoch),
            Op::Write(area, index, common) => {
                let number = self.number(common);
                self.areas[area].write(index, number, epoch)
            }
            Op::Move(src, dst, flags) => self.move_pages(&src, dst, flags, epoch),
            Op::Receive(src, dst, flags) => {
                let pages = dst.1..dst.1 + src.pages.len();
                self.drop_pages(&Part { area: dst.0, pages }, epoch)?;
                self.move_pages(&src, dst, flags, epoch)
            }
            Op::Wrong(part, bits) => self.wrong(&part, bits),
            Op::Drop(part) => self.drop_pages(&part, epoch),
            Op::Free(part) => self.free(&part, epoch),
            Op::Change(part, attr, on) => self.change(&part, attr, on, epoch, fd),
            Op::Guard(part, on) => match self.is_locked(&part) {
                true => Ok(()),
                false => self.areas[part.area].guard(&part.pages, on, epoch),
            },
            Op::Wake(part) if self.able.descriptor => {
                // Only this thread touches them, and it does not wait.
                let span = self.areas[part.area].span.pages(part.pages);
                ensure_eq!(fd.wake(span), Err(Errno::ENOENT), "wake");
                Ok(())
            }
            Op::Collapse(part) if self.able.huge => {
                self.areas[part.area].collapse(&part.pages, epoch)
            }
            Op::Reclaim(part, out) if !self.is_locked(&part) => {
                let advice = if out { libc::MADV_PAGEOUT } else { MADV_COLD };
                self.areas[part.area].advise(&part.pages, advice)
            }
            Op::Migrate(part, node) if self.able.nodes => {
                numa::move_to(self.areas[part.area].span.pages(part.pages), node).map(drop)
            }
            Op::Relocate(area) => self.areas[area].relocate(),
            Op::Renew(area, attrs) => self.renew(area, attrs, epoch, fd),
            Op::Audit(area) => self.areas[area].audit(epoch),
            _ => Ok(()),
        }
    }

    fn number(&mut self, common: bool) -> u64 {
        self.stamps += 1;
        match common {
            // KSM finds these alike.
            true => 1 + self.stamps % 4,
            false => self.stamps,
        }
    }

    fn is_locked(&self, part: &Part) -> bool {
        self.areas[part.area].any(&part.pages, LOCKED)
    }

    fn drop_pages(&mut self, part: &Part, epoch: u32) -> Outcome {
        match self.is_locked(part) {
            true => Ok(()),
            false => self.areas[part.area].drop_pages(&part.pages, epoch),
        }
    }

    fn free(&mut self, part: &Part, epoch: u32) -> Outcome {
        let area = &self.areas[part.area];
        let writable = part.pages.clone().all(|index| area.has(index, WRITABLE));
        if self.is_locked(part) || !writable {
            return Ok(());
        }
        area.advise(&part.pages, libc::MADV_FREE)?;
        for index in part.pages.clone() {
            let number = self.number(false);
            let area = &mut self.areas[part.area];
            if let Content::Data(_) = area.places[index].content {
                area.write_after_free(index, number, epoch)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, part: &Part, attr: u8, on: bool, epoch: u32, fd: &Range) -> Outcome {
        let area = &mut self.areas[part.area];
        let pages = &part.pages;
        let span = area.span.pages(pages.clone());
        match attr {
            MARKED => area.advise(pages, sys::MADV_USERFAULT + i32::from(!on))?,
            SERVED if !self.able.descriptor => return Ok(()),
            SERVED if on => drop(fd.register(span).context("register")?),
            SERVED => drop(fd.unregister(span).context("unregister")?),
            WRITABLE if on => {
                span.protect(sys::RW).context("mprotect")?;
                area.set_attrs(pages, attr, on);
                // What is locked is filled for it, as by mlock.
                return match area.any(pages, LOCKED) {
                    true => area.look_at(pages, epoch),
                    false => Ok(()),
                };
            }
            WRITABLE => span.protect(libc::PROT_READ).context("mprotect")?,
            LOCKED if on => {
                let guard = |index: usize| area.places[index].content == Content::Guard;
                return match pages.clone().any(guard) {
                    true => Ok(()),
                    false => area.lock(pages, epoch),
                };
            }
            LOCKED => span.unlock().context("munlock")?,
            HUGE if !self.able.huge => return Ok(()),
            HUGE => area.advise(pages, libc::MADV_HUGEPAGE + i32::from(!on))?,
            MERGEABLE if !self.able.merge => return Ok(()),
            _ => {
                area.advise(pages, libc::MADV_MERGEABLE + i32::from(!on))?;
                // One that was merged and has gone to swap since stays merged until it is written.
                area.disown(pages);
            }
        }
        area.set_attrs(pages, attr, on);
        Ok(())
    }

    fn renew(&mut self, area: usize, attrs: u8, epoch: u32, fd: &Range) -> Outcome {
        self.areas[area] = Area::new(op::nr_pages())?;
        let pages = 0..op::nr_pages();
        for bit in [MARKED, SERVED, HUGE, MERGEABLE] {
            if attrs & bit != 0 {
                let part = Part {
                    area,
                    pages: pages.clone(),
                };
                self.change(&part, bit, true, epoch, fd)?;
            }
        }
        Ok(())
    }

    /// Arguments that say nothing, whatever is in memory.
    fn wrong(&mut self, part: &Part, bits: usize) -> Outcome {
        let span = self.areas[part.area].span.pages(part.pages.clone());
        let odd = |bit: usize| if bits & bit != 0 { page() / 2 } else { 0 };
        let flags = if bits & 8 != 0 { 1 << 17 } else { 0 };
        let result = remap_raw(
            span.addr + odd(1),
            span.addr + odd(2),
            span.len + odd(4),
            flags,
        );
        ensure_eq!(result, Err(Errno::EINVAL));
        Ok(())
    }

    fn move_pages(&mut self, src: &Part, dst: (usize, usize), flags: u64, epoch: u32) -> Outcome {
        let nr_pages = src.pages.len();
        let dst_pages = dst.1..dst.1 + nr_pages;
        let (from, to) = (&self.areas[src.area], &self.areas[dst.0]);
        let spans = [
            to.span.pages(dst_pages.clone()),
            from.span.pages(src.pages.clone()),
        ];
        let alike = from.uniform(&src.pages) && to.uniform(&dst_pages) && {
            let differ = from.attrs[src.pages.start] ^ to.attrs[dst.1];
            differ & (WRITABLE | LOCKED) == 0
        };
        let result = remap(spans[0], spans[1], flags);
        if result == Err(Errno::EINVAL) {
            self.counts.refused += 1;
            // What was different for a while may be two vmas for good.
            let due = !alike || !is_one_vma(spans[0])? || !is_one_vma(spans[1])?;
            ensure!(due, "EINVAL without a reason");
            return Ok(());
        }
        ensure!(alike, "{result:?} of vmas that are not alike");
        let moved = result.unwrap_or(0) / page();
        // What the call has put in place itself counts as the hole that was there.
        let up = src.area == dst.0 && src.pages.start < dst.1;
        let own = if up {
            dst.1 - src.pages.start
        } else {
            nr_pages
        };
        let pair = |index| {
            let place = (dst.0, dst.1 + index);
            match index < own {
                true => (place, (src.area, src.pages.start + index)),
                false => (place, place),
            }
        };
        for index in 0..moved {
            let (to, from) = pair(index);
            self.step(to, from, flags)?;
        }
        if moved == nr_pages {
            return Ok(());
        }
        let (to, from) = pair(moved);
        self.stopped(to, from, flags, result.err(), epoch)
            .with_context(|| format!("after {moved} pages: {result:?}"))
    }

    /// What a page that was moved does to the model.
    fn step(&mut self, dst: (usize, usize), src: (usize, usize), flags: u64) -> Outcome {
        let from = self.areas[src.0].places[src.1];
        let to = self.areas[dst.0].places[dst.1];
        ensure!(
            to.content == Content::Hole,
            "{from:x?} was moved over {to:x?}"
        );
        match from.content {
            Content::Data(_) => {
                self.areas[dst.0].places[dst.1] = from;
                self.areas[src.0].places[src.1] = to;
                self.counts.moved += 1;
            }
            Content::Hole => ensure!(flags & RAP_ALLOW_SRC_HOLES != 0, "a hole was moved"),
            Content::Guard => bail!("a guard was moved"),
        }
        Ok(())
    }

    /// Checks why a page was not moved: for this reason, or for one that a call did not say that
    /// had moved others.
    fn stopped(
        &mut self,
        dst: (usize, usize),
        src: (usize, usize),
        flags: u64,
        reason: Option<Errno>,
        epoch: u32,
    ) -> Outcome {
        let (from, to) = (&self.areas[src.0], &self.areas[dst.0]);
        let due = match (to.places[dst.1].content, from.places[src.1].content) {
            (Content::Data(_) | Content::Guard, _) => Errno::EEXIST,
            (_, Content::Hole) if flags & RAP_ALLOW_SRC_HOLES == 0 => Errno::ENOENT,
            (_, Content::Guard) => Errno::EFAULT,
            (_, Content::Data(_)) => Errno::EBUSY,
            _ => bail!("nothing is in the way of a hole"),
        };
        ensure_eq!(reason.unwrap_or(due), due, "why it stopped");
        match due {
            Errno::EEXIST => self.counts.exists += 1,
            Errno::ENOENT => self.counts.hole += 1,
            Errno::EBUSY if from.is_own(src.1, epoch) => {
                let spans = (to.page(dst.1), from.page(src.1));
                self.insist(spans.0, spans.1)?;
                return self.step(dst, src, 0);
            }
            _ => self.counts.busy += 1,
        }
        Ok(())
    }

    /// Moves a page in which nobody has a share: who holds it for the moment lets go of it.
    fn insist(&mut self, dst: Span, src: Span) -> Outcome {
        for _ in 0..TRIES {
            match remap(dst, src, 0) {
                Ok(_) => return Ok(()),
                Err(Errno::EBUSY) => self.counts.again += 1,
                Err(error) => bail!("again: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("EBUSY without an end");
    }

    /// Checks some pages of all areas, in a child.
    pub fn look(&mut self, numbers: &mut Numbers, epoch: u32) -> Outcome {
        for _ in 0..32 {
            let (area, index) = (numbers.below(op::AREAS), numbers.below(op::nr_pages()));
            self.areas[area].read(index, epoch)?;
        }
        Ok(())
    }

    /// Checks everything.
    pub fn audit(&mut self, epoch: u32) -> Outcome {
        for area in &mut self.areas {
            area.audit(epoch)?;
        }
        Ok(())
    }
}
