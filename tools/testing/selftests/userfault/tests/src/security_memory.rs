// SPDX-License-Identifier: GPL-2.0

//! What Documentation/admin-guide/mm/userfault-security.rst says of the memory that a program can
//! have the kernel hold: who is charged for it, and what is the limit.

use crate::cgroup::Cgroup;
use crate::harness::Outcome;
use crate::knobs::{number, set};
use crate::madvise_process::pidfd;
use crate::proc::{field, status_kib, vmas, vmas_in};
use crate::process::{in_child, Ended, Holder};
use crate::range::{wait_until, LetGo, Range, A_WHILE, USER_MODE_ONLY};
use crate::sys::{
    page, pmd, remap, remap_all, table, upper_table, Area, Map, Span, MADV_POPULATE_WRITE, RW,
};
use crate::touch::Fault;
use crate::{ensure_eq, register, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::resource::{setrlimit, Resource};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::RwLock;
use std::thread;

const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

/// C120: what the range protocol keeps of a descriptor is charged to the cgroup, and the number of
/// descriptors has the limit that all files have.
fn c120_descriptor_is_charged() -> Outcome {
    /// Less than what is kept of one, which has a lock, a tree, a list and the counts.
    const KEPT: u64 = 32;
    const COUNT: usize = 2000;
    let group = Cgroup::enter()?;
    let limit = COUNT as u64 + 100;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).context("setrlimit")?;
    let mut fds = Vec::with_capacity(2 * COUNT);
    for _ in 0..COUNT {
        fds.push(Range::open(USER_MODE_ONLY).context("userfaultfd")?);
    }
    let before = group.exact_stat("slab")?;
    for fd in &fds {
        ensure_eq!(fd.write(&[crate::range::PROTOCOL]), Ok(8));
    }
    // It is added up in the end.
    wait_until(|| Ok(group.exact_stat("slab")? >= before + COUNT as u64 * KEPT))
        .with_context(|| format!("{COUNT} handshakes have charged less than {KEPT} bytes each"))?;

    let refused = loop {
        match Range::open(USER_MODE_ONLY) {
            Ok(fd) if fds.len() < 2 * COUNT => fds.push(fd),
            other => break other.err(),
        }
    };
    ensure_eq!(refused, Some(Errno::EMFILE));
    Ok(())
}

/// C121: threads that wait take no memory but their own stacks, however many they are.
fn c121_waiters_take_no_memory() -> Outcome {
    const THREADS: usize = 400;
    /// Of each thread: less than what keeps it among those who wait.
    const SLACK: u64 = 64;
    let group = Cgroup::enter()?;
    // Of two touches of each thread the first is for what it takes to make the second.
    let area = Area::pages(2 * THREADS)?;
    let fd = Range::serving(*area)?;
    let taken = || -> anyhow::Result<u64> {
        thread::sleep(A_WHILE);
        // Together to a few KiB.
        Ok(group.exact_stat("slab")? + group.stat("pagetables")? + group.stat("kernel_stack")?)
    };
    let turn = RwLock::new(());
    let (before, after) = thread::scope(|scope| -> anyhow::Result<_> {
        let _end = LetGo::at_the_end(*area);
        // Who fails lets go of it.
        let closed = turn.write().expect("no panic");
        for index in 0..THREADS {
            let (first, second) = (area.page(2 * index), area.page(2 * index + 1));
            let turn = &turn;
            scope.spawn(move || {
                let _ = first.load();
                drop(turn.read());
                let _ = second.load();
            });
        }
        fd.wait_for(THREADS as u64)?;
        let src = Area::filled(1, 1)?;
        for index in 0..THREADS {
            src.fill(1);
            remap_all(area.page(2 * index), *src)?;
        }
        ensure_eq!(fd.wake(*area), Ok(16));
        let before = taken()?;
        drop(closed);
        fd.wait_for(THREADS as u64)?;
        Ok((before, taken()?))
    })?;
    let grown = after.saturating_sub(before);
    println!("# {THREADS} threads that wait have charged {grown} bytes");
    // Where pages are large, what is charged in advance is more.
    let most = (THREADS as u64 * SLACK).max(page() as u64);
    ensure!(grown <= most, "{grown} bytes");
    Ok(())
}

/// C122: every piece of memory that is registered or marked by itself is a mapping, which is
/// charged and counts against vm.max_map_count.
fn c122_mappings_are_charged() -> Outcome {
    const MORE: usize = 500;
    /// Less than a mapping takes.
    const KEPT: usize = 100;
    let group = Cgroup::enter()?;
    let registered = |fd: &Range, part: Span| fd.register(part).map(drop);
    for by_mark in [false, true] {
        let fd = Range::with(USER_MODE_ONLY)?;
        let area = Area::pages(4 * MORE)?;
        let (limit, slab) = (vmas()?.len() + MORE, group.exact_stat("slab")?);
        let usual = number(MAX_MAP_COUNT)?;
        set(MAX_MAP_COUNT, limit)?;
        let mut done = 0;
        let refused = loop {
            let part = area.page(2 * done + 1);
            let result = match by_mark {
                true => part.advise(crate::sys::MADV_USERFAULT),
                false => registered(&fd, part),
            };
            match result {
                Ok(()) if done + 1 < 2 * MORE - 1 => done += 1,
                other => break other,
            }
        };
        // What looks at it needs memory itself.
        set(MAX_MAP_COUNT, usual)?;
        let grown = group.exact_stat("slab")?.saturating_sub(slab);
        println!("# {done} pieces, {grown} bytes");
        // madvise says EAGAIN of all that it has no memory for.
        let want = [Errno::ENOMEM, Errno::EAGAIN][usize::from(by_mark)];
        ensure_eq!(refused, Err(want), "by the mark: {by_mark}");
        ensure!(vmas()?.len() <= limit && done > MORE / 4, "{done} pieces");
        ensure!(
            grown >= (2 * done * KEPT) as u64,
            "{grown} bytes for {done}"
        );

        ensure_eq!(fd.unregister(*area), Ok(16));
        area.unmark()?;
        ensure_eq!(vmas_in(*area)?.len(), 1);
    }
    Ok(())
}

/// C123: page tables are charged, those that a move makes as those above them that a touch of a
/// hole makes.
fn c123_page_tables_are_charged() -> Outcome {
    const PLACES: usize = 64;
    /// What a table of an upper level takes at least, whatever the MMU.
    const LEAST: u64 = 1 << 10;
    let group = Cgroup::enter()?;
    let tables = || -> anyhow::Result<(u64, u64)> {
        Ok((group.exact_stat("pagetables")?, status_kib("VmPTE")? * 1024))
    };
    // What is charged is added up in the end.
    let ensure_grown = |before: (u64, u64), least: u64| -> Outcome {
        wait_until(|| {
            let now = tables()?;
            Ok(now.0 >= before.0 + least && now.1 >= before.1 + least)
        })
        .with_context(|| format!("{:?} of {before:?}, not {least} more", tables()))
    };

    let area = Map::bytes(PLACES * pmd()).align(pmd()).map()?;
    area.page(0).fill(1);
    let before = tables()?;
    let places: Vec<_> = (0..PLACES)
        .map(|place| Span::new(area.addr + place * pmd(), page()))
        .collect();
    for step in places.windows(2) {
        remap_all(step[1], step[0])?;
    }
    places[PLACES - 1].check(1)?;
    ensure_grown(before, ((PLACES - 2) * table()) as u64)?;

    // Where one table of an upper level says what is in so much, and there is no table below it.
    let reach = upper_table() / size_of::<u64>() * pmd();
    let sparse = Map::bytes(8 * reach).map()?;
    sparse.mark()?;
    let before = tables()?;
    for place in (0..sparse.len).step_by(reach) {
        let hole = Span::new(sparse.addr + place, page());
        ensure_eq!(hole.load(), Err(Fault::sigbus(hole.addr)));
    }
    ensure_grown(before, 7 * LEAST)
}

/// C124: the limit of the cgroup ends what moves of one page can take in tables: who goes on is
/// killed.
fn c124_limit_of_page_tables() -> Outcome {
    const LIMIT: u64 = 2 << 20;
    const ADJUST: &str = "/proc/self/oom_score_adj";
    let group = Cgroup::enter()?;
    // Four times as much as there may be.
    let places = 4 * LIMIT as usize / table();
    let area = Map::bytes(places * pmd()).align(pmd()).map()?;
    fs::write(ADJUST, "-1000").context(ADJUST)?;
    group.forbid_swap()?;
    set("/proc/sys/kernel/printk", "1 4 1 7")?;
    group.set("memory.max", group.number("memory.current")? + LIMIT)?;
    let ended = in_child(|| {
        fs::write(ADJUST, "1000").context(ADJUST)?;
        let mut at = area.page(0);
        at.fill(1);
        for place in 1..places {
            let next = Span::new(area.addr + place * pmd(), page());
            ensure_eq!(remap(next, at, 0), Ok(page()));
            at = next;
        }
        Ok(())
    });
    // This takes memory itself, and what the child had may be on its way back still.
    wait_until(|| Ok(group.set("memory.max", "max").is_ok()))?;
    ensure_eq!(ended?, Ended::Killed(Signal::SIGKILL));
    ensure!(group.event("oom_kill")? > 0, "not for want of memory");
    Ok(())
}

/// What the kernel has promised to all processes, in bytes.
fn committed() -> anyhow::Result<u64> {
    Ok(field("/proc/meminfo", "Committed_AS")? * 1024)
}

/// C125: a move changes nothing of what is promised to mappings. So where no more is promised than
/// there is, a mapping that was never writable, to which nothing was promised, can be filled, as
/// mainline's UFFDIO_COPY does it.
fn c125_promised_memory() -> Outcome {
    const ROUNDS: usize = 4;
    let pages = (4 << 20) / page();
    // Whatever else runs may have a little promised meanwhile.
    let slack = (pages * page() / 2) as u64;
    set(OVERCOMMIT, 2)?;
    let ordinary = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let read_only = |pages| {
        Map::pages(pages)
            .prot(libc::PROT_READ)
            .flags(ordinary)
            .map()
    };
    let before = committed()?;
    let buffer = Map::pages(pages).flags(ordinary).map()?;
    let promised = committed()?;
    ensure!(
        promised - before >= slack,
        "nothing is promised to any mapping"
    );

    let by_moves = read_only(ROUNDS * pages)?;
    for (round, seed) in (0..ROUNDS).zip(1..) {
        buffer.protect(RW)?;
        buffer.fill(seed);
        buffer.protect(libc::PROT_READ)?;
        let part = by_moves.pages(round * pages..(round + 1) * pages);
        remap_all(part, *buffer)?;
        part.check(seed)?;
    }
    ensure!(committed()?.abs_diff(promised) < slack, "by moves");

    buffer.protect(RW)?;
    buffer.fill(1);
    let by_copies = read_only(ROUNDS * pages)?;
    let fd = uffd::register_missing(*by_copies)?;
    for round in 0..ROUNDS {
        let part = by_copies.pages(round * pages..(round + 1) * pages);
        ensure_eq!(uffd::copy(&fd, part, *buffer), Ok(part.len));
    }
    ensure!(committed()?.abs_diff(promised) < slack, "by copies");
    Ok(())
}

/// C126: a descriptor that outlives its process keeps none of its memory.
fn c126_descriptor_keeps_no_memory() -> Outcome {
    const SIZE: usize = 32 << 20;
    let group = Cgroup::enter()?;
    let area = Map::bytes(SIZE).map()?;
    let before = group.number("memory.current")?;
    let (mut ready, tell) = tell_pipe()?;
    let child = Holder::after(|| {
        area.advise(MADV_POPULATE_WRITE).context("populate")?;
        let fd = Range::new()?;
        ensure_eq!(fd.register(*area), Ok(16));
        (&tell).write_all(&[fd.raw() as u8])?;
        std::mem::forget(fd);
        Ok(())
    })?;
    drop(tell);
    let mut number = [0];
    ready
        .read_exact(&mut number)
        .context("the child's number")?;
    let fd = take_from(&child, number[0].into())?;
    let held =
        || -> anyhow::Result<u64> { Ok(group.number("memory.current")?.saturating_sub(before)) };
    ensure!(held()? > SIZE as u64 / 2, "{} bytes", held()?);
    drop(child);
    wait_until(|| Ok(held()? < SIZE as u64 / 8)).context("it is held")?;
    ensure_eq!(fd.register(*area), Err(Errno::ESRCH));
    Ok(())
}

/// A pipe by which a child tells something.
pub fn tell_pipe() -> anyhow::Result<(File, File)> {
    let ends = nix::unistd::pipe().context("pipe")?;
    Ok((ends.0.into(), ends.1.into()))
}

/// Takes a copy of a descriptor from another process.
pub fn take_from(process: &Holder, number: i32) -> anyhow::Result<Range> {
    let pidfd = pidfd(process.pid())?;
    // SAFETY: It makes a descriptor only.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0)
    });
    // SAFETY: The descriptor is a new one.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.context("pidfd_getfd")? as i32) }.into())
}

register!(
    c120_descriptor_is_charged,
    c121_waiters_take_no_memory,
    c122_mappings_are_charged,
    c123_page_tables_are_charged,
    c124_limit_of_page_tables,
    c125_promised_memory,
    c126_descriptor_keeps_no_memory,
);
