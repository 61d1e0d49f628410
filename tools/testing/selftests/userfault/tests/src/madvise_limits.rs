// SPDX-License-Identifier: GPL-2.0

//! Memory that is limited or locked: a refused touch needs none, and locking fills no hole.

use crate::cgroup::Cgroup;
use crate::harness::Outcome;
use crate::knobs;
use crate::madvise_fault::ensure_refused;
use crate::pair::read;
use crate::proc::{ensure_holes, ensure_present, is_marked, vma_of};
use crate::process::stay_on;
use crate::special::{memfd, shared_anonymous};
use crate::sys::{page, remap_all, Area, Map, Span, RW};
use crate::{ensure_eq, register, touch};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult, Pid};
use std::fs;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A child that waits for its turn, then touches pages until the limit of its cgroup kills it; and
/// never its parent.
struct Eater {
    pid: Pid,
    /// A byte that says that the child is ready, and one that its turn has come.
    ready: Area,
}

impl Eater {
    fn fork(pages: usize) -> anyhow::Result<Self> {
        let ready = shared_anonymous(1)?;
        let turn = ready.addr + 1;
        let food = Area::pages(pages)?;
        // SAFETY: This process has one thread only; the child ends without unwinding.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => {
                // What the child needs for itself it has then.
                fs::write("/proc/self/oom_score_adj", "-1000").context("oom_score_adj")?;
                while ready.load() == Ok(0) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(Self { pid: child, ready })
            }
            ForkResult::Child => {
                while touch::load(turn) == Ok(0) {
                    std::thread::sleep(Duration::from_millis(1));
                    let _ = ready.store(1);
                }
                food.clear();
                // SAFETY: Ends the process.
                unsafe { libc::_exit(0) }
            }
        }
    }

    fn eat(self) -> anyhow::Result<WaitStatus> {
        ensure_eq!(touch::store(self.ready.addr + 1, 1), Ok(()));
        waitpid(self.pid, None).context("waitpid")
    }
}

/// A3, C52: where the cgroup has no memory left and nothing to reclaim, a touch of a hole is
/// SIGBUS or EFAULT as ever, and nobody is killed for want of memory.
fn c52_refused_touch_at_the_limit_of_a_cgroup() -> Outcome {
    // Charged in batches of 64 pages, as long as there are so many; the rest one by one.
    const ROOM: usize = 255;
    const TOUCHES: usize = 2000;
    const CONSOLE: &str = "/proc/sys/kernel/printk";
    let group = Cgroup::enter()?;
    // What another processor has charged in advance would serve no more here.
    stay_on(0)?;

    // All that is needed is made before there is no memory for it. What this process shares with
    // others since a fork would be copied when it is written: locking copies it.
    let eater = Eater::fork(4 * ROOM)?;
    // SAFETY: It changes locks only.
    let locked = Errno::result(unsafe { libc::mlockall(libc::MCL_CURRENT) });
    locked.context("mlockall")?;
    let (small, huge) = (Area::marked(64)?, Map::huge_pages(1).map()?);
    huge.want_huge()?;
    huge.mark()?;
    let filler = Area::pages(2 * ROOM)?;
    let file = memfd(1)?;
    group.forbid_swap()?;
    let current = group.gauge("memory.current")?;
    let events = group.gauge("memory.events")?;
    // How many touches are refused, what the kernel's gets, and what came of it.
    let touch = |touches: usize| -> anyhow::Result<_> {
        let mut refused = 0;
        for index in 0..touches {
            let area = if index % 4 < 2 { &small } else { &huge };
            let part = area.page(index % area.nr_pages());
            refused += match index % 2 {
                0 => usize::from(part.load().is_err()),
                _ => usize::from(part.store(1).is_err()),
            };
        }
        let read = read(file.as_raw_fd(), Span::new(huge.addr, 8));
        Ok((refused, read, events.numbers()?))
    };
    let (refused, ..) = touch(8)?;
    ensure_eq!(refused, 8);
    // The child's end for want of memory is no matter for the console.
    let level = fs::read_to_string(CONSOLE).context(CONSOLE)?;
    knobs::set(CONSOLE, "1 4 1 7")?;
    let limit = current.number()? + (ROOM * page()) as u64;
    group.set("memory.max", limit)?;

    let mut filled = 0;
    while current.number()? < limit {
        ensure!(filled < filler.nr_pages(), "the limit does not limit");
        ensure_eq!(filler.page(filled).store(1), Ok(()));
        filled += 1;
    }
    let before = events.numbers()?;
    let seen = touch(TOUCHES)?;
    let eaten = eater.eat();
    knobs::set(CONSOLE, level)?;
    group.set("memory.max", "max")?;
    ensure_eq!(seen, (TOUCHES, Err(Errno::EFAULT), before));
    ensure!(
        matches!(eaten?, WaitStatus::Signaled(_, Signal::SIGKILL, _))
            && group.event("oom_kill")? > 0,
        "there was memory left: the test would see nothing"
    );
    ensure_holes(*small)?;
    ensure_holes(*huge)
}

/// Marked memory that is locked: the first page is there, the others are holes.
fn locked_and_marked() -> anyhow::Result<Area> {
    let area = Area::pages(4)?;
    area.page(0).fill(1);
    area.mark()?;
    ensure_eq!(area.lock(0), Err(Errno::ENOMEM));
    ensure!(vma_of(*area)?.has("lo"), "not left locked");
    Ok(area)
}

/// A11: what fills locked memory, since it may not fault later, leaves the holes of marked memory:
/// a change of protection, mremap, another mlock.
fn a11_locked_memory_keeps_its_holes() -> Outcome {
    let area = locked_and_marked()?;
    area.protect(libc::PROT_READ)?;
    area.protect(RW)?;
    ensure_refused(area.pages(1..4))?;
    // It stops at the first hole, and says so again.
    ensure_eq!(area.lock(0), Err(Errno::ENOMEM), "again");
    ensure_eq!(area.page(0).lock(0), Ok(()), "where no hole is");
    ensure_refused(area.pages(1..4))?;

    let room = Area::pages(8)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let grown = area.mremap(room.len, flags, room.addr).context("mremap")?;
    let vma = vma_of(grown)?;
    ensure!(vma.has("lo") && vma.has("uf"), "{vma:x?}");
    ensure_refused(grown.pages(1..8))?;
    grown.page(0).check(1)
}

/// A11, A3: a page that is taken out of locked memory leaves a hole, and one that is moved there
/// is locked.
fn a11_locked_memory_takes_and_gives_pages() -> Outcome {
    const MADV_DONTNEED_LOCKED: i32 = 24;
    let (area, src) = (locked_and_marked()?, Area::filled(2, 2)?);
    ensure_eq!(area.advise(libc::MADV_DONTNEED), Err(Errno::EINVAL));
    area.page(0).check(1)?;
    area.advise(MADV_DONTNEED_LOCKED)
        .context("MADV_DONTNEED_LOCKED")?;
    ensure_refused(*area)?;

    ensure_eq!(src.lock(0), Ok(()));
    remap_all(area.pages(1..3), *src)?;
    area.pages(1..3).check_pages(2)?;
    ensure_eq!(vma_of(*area)?.kib("Locked")?, 2 * page() as u64 / 1024);
    ensure_refused(area.page(0))?;
    // SAFETY: It changes locks only.
    ensure_eq!(unsafe { libc::munlockall() }, 0);
    ensure!(is_marked(*area)?, "unlocked and unmarked");
    ensure_present(area.pages(1..3))
}

/// A11: memory that is to be locked as it is mapped can be marked as soon as it is there, and what
/// is mapped beside marked memory is filled.
fn a11_mapped_to_be_locked() -> Outcome {
    // SAFETY: It changes locks only.
    let ret = Errno::result(unsafe { libc::mlockall(libc::MCL_FUTURE) });
    ret.context("mlockall")?;
    let area = Area::pages(2)?;
    ensure_present(*area)?;
    area.mark()?;
    let beside = Map::pages(2).map()?;
    ensure_present(*beside)?;
    let room = Area::pages(64)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let grown = area.mremap(room.len, flags, room.addr).context("mremap")?;
    ensure!(vma_of(grown)?.has("lo"), "not locked");
    ensure_present(grown.pages(0..2))?;
    ensure_refused(grown.pages(2..64))
}

register!(
    c52_refused_touch_at_the_limit_of_a_cgroup,
    a11_locked_memory_keeps_its_holes,
    a11_locked_memory_takes_and_gives_pages,
    a11_mapped_to_be_locked,
);
