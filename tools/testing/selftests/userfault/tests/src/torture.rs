// SPDX-License-Identifier: GPL-2.0

//! The torture test: threads of several processes do random operations, each knows what every page
//! of its memory must hold, and the kernel does beside it whatever it does to memory.
//!
//! Each thread has areas of its own and a model of them, so that it knows what every call must
//! return. What they share is all else: the address space and its lock, the descriptor and its
//! handler, page tables, anon_vmas, swap, KSM, a memory cgroup, and the forks of the others, which
//! leave no page without a share in it.

use crate::cgroup::Cgroup;
use crate::harness::{Numbers, Outcome};
use crate::proc::{field, vmas, vmstat};
use crate::process::{in_child, join, Ended, Running};
use crate::range::{page_at, wait_until, Range};
use crate::sys::{remap, Area, Map, Span, RAP_WAKE, RW};
use crate::torture_area::{served, stamp};
use crate::torture_model::{Counts, Model};
use crate::torture_op::{self as op, Op};
use crate::{ensure_eq, knobs, register, swap};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, ForkResult, Pid};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// How much at once.
const PROCESSES: u64 = 2;
const THREADS: u64 = 2;
/// How many children of a thread there may be.
const CHILDREN: usize = 3;
/// How many operations a child does.
const CHILD_OPS: usize = 40;
/// How long a child may live.
const LIMIT: Duration = Duration::from_secs(120);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Numbers in memory that all processes share.
struct Shared(&'static [AtomicU64; 9]);

const DONE: usize = 0;
/// By those who are killed.
const DONE_IN_VAIN: usize = 1;
const FIRST_COUNT: usize = 2;
/// Not zero when the rest is to end.
const OVER: usize = 8;

impl Shared {
    fn new() -> anyhow::Result<Self> {
        let map = Map::pages(1).flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let addr = map.leak().context("mmap")?;
        // SAFETY: It is large enough, all zero, and never unmapped.
        let shared = Self(unsafe { &*(addr as *const _) });
        // The page is to be no cgroup's but this process's.
        shared.0[DONE].store(0, Ordering::Relaxed);
        Ok(shared)
    }

    fn add(&self, counts: &Counts) {
        let Counts {
            moved,
            refused,
            exists,
            hole,
            busy,
            again,
        } = *counts;
        for (index, count) in [moved, refused, exists, hole, busy, again]
            .into_iter()
            .enumerate()
        {
            self.0[FIRST_COUNT + index].fetch_add(count, Ordering::Relaxed);
        }
    }

    fn done(&self) -> u64 {
        self.0[DONE].load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.0[OVER].load(Ordering::Relaxed) != 0
    }
}

/// What the threads of a process have in common.
struct Process<'a> {
    fd: Range,
    /// Which fork was the last. Whoever forks has it alone, so that the others are between two
    /// operations.
    epoch: RwLock<u32>,
    models: Vec<Mutex<Model>>,
    /// A thread has, so the others are to end too.
    failed: AtomicBool,
    /// All threads have ended, so nobody waits for the handler any more.
    over: AtomicBool,
    shared: &'a Shared,
    /// Which number counts its operations.
    counter: usize,
}

impl Process<'_> {
    /// Runs so many operations in each thread.
    fn run(&self, seed: u64, ops: u64) -> Outcome {
        thread::scope(|scope| -> Outcome {
            let handler = scope.spawn(move || {
                let handled = self.handle();
                if let Err(error) = &handled {
                    println!("# the handler of seed {seed:#x}: {error:#}");
                    self.failed.store(true, Ordering::Relaxed);
                    self.let_go()?;
                }
                handled
            });
            let threads: Vec<_> = (0..self.models.len())
                .map(|own| {
                    scope.spawn(move || {
                        let worked = self.work(own, seed.wrapping_mul(THREADS) + own as u64, ops);
                        if worked.is_err() {
                            self.failed.store(true, Ordering::Relaxed);
                        }
                        worked
                    })
                })
                .collect();
            let worked: Vec<_> = threads.into_iter().map(join).collect();
            self.over.store(true, Ordering::Relaxed);
            let handled = join(handler);
            // What a thread has seen says more than how its handler has ended.
            worked.into_iter().collect::<Outcome>()?;
            handled
        })
    }

    fn work(&self, own: usize, seed: u64, ops: u64) -> Outcome {
        let mut numbers = Numbers(seed);
        let mut children = Vec::new();
        for nth in 0..ops {
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let op = op::next(&mut numbers);
            let result = match op {
                Op::Fork(pause) => self.fork(own, seed ^ nth, pause, &mut children),
                op => {
                    let epoch = self.epoch.read().expect("no panic");
                    let mut model = self.models[own].lock().expect("no panic");
                    model.run(op, *epoch, &self.fd)
                }
            };
            if let Err(error) = result {
                let last = self.models[own].lock().expect("no panic").last();
                println!("# the last operations of seed {seed:#x}:\n{last}");
                bail!("seed {seed:#x}, operation {nth}: {error:#}");
            }
            self.shared.0[self.counter].fetch_add(1, Ordering::Relaxed);
        }
        reap(&mut children, 0)?;
        let epoch = self.epoch.read().expect("no panic");
        let mut model = self.models[own].lock().expect("no panic");
        model
            .audit(*epoch)
            .with_context(|| format!("seed {seed:#x}, at the end"))?;
        self.shared.add(&model.counts);
        Ok(())
    }

    /// Forks a child that sees, after a pause, what was there when it was forked, whatever the
    /// parent does meanwhile.
    fn fork(&self, own: usize, seed: u64, pause: u64, children: &mut Vec<Pid>) -> Outcome {
        reap(children, CHILDREN - 1)?;
        let mut epoch = self.epoch.write().expect("no panic");
        *epoch += 1;
        // SAFETY: The other threads hold no lock that the child takes: they are between two
        // operations, or wait for the descriptor. The child ends without unwinding.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => {
                children.push(child);
                Ok(())
            }
            ForkResult::Child => {
                let status = match self.child(own, seed, pause, *epoch) {
                    Ok(()) => 0,
                    Err(error) => {
                        let last = self.models[own].lock().expect("no panic").last();
                        println!("# a child of seed {seed:#x}: {error:#}\n{last}");
                        1
                    }
                };
                // SAFETY: Ends the process; no destructor of the parent's may run here.
                unsafe { libc::_exit(status) }
            }
        }
    }

    fn child(&self, own: usize, seed: u64, pause: u64, epoch: u32) -> Outcome {
        thread::sleep(Duration::from_millis(pause));
        let mut numbers = Numbers(seed);
        for (index, model) in self.models.iter().enumerate() {
            let mut model = model.lock().expect("no panic");
            model.inherit();
            model.look(&mut numbers, epoch)?;
            if index != own {
                continue;
            }
            for _ in 0..CHILD_OPS {
                let op = op::next(&mut numbers);
                if !matches!(op, Op::Fork(_) | Op::Audit(_)) {
                    model.run(op, epoch, &self.fd)?;
                }
            }
        }
        Ok(())
    }

    /// Serves the faults of all threads.
    fn handle(&self) -> Outcome {
        let scratch = Scratch::new()?;
        while !self.over.load(Ordering::Relaxed) {
            match self.fd.read() {
                Ok(addr) => scratch.fill(&self.fd, page_at(addr as usize))?,
                Err(Errno::EAGAIN) => self.fd.wait_a_little()?,
                Err(error) => return Err(error).context("read"),
            }
        }
        Ok(())
    }

    /// Ends the waits of all threads, which would be for ever without a handler.
    fn let_go(&self) -> Outcome {
        let mut vmas = vmas()?;
        vmas.retain(|vma| vma.has("ug"));
        for vma in vmas {
            self.fd.unregister(vma.span).context("unregister")?;
        }
        Ok(())
    }
}

/// Pages that the handler fills, of every kind of memory that they may have to go to.
struct Scratch(Vec<(Area, bool)>);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let mut pages = Vec::new();
        for (locked, read_only) in [(false, false), (false, true), (true, false), (true, true)] {
            let area = Area::pages(1)?;
            // A child is not to have a share in it.
            area.advise(libc::MADV_DONTFORK)?;
            if locked {
                area.lock(libc::MLOCK_ONFAULT)?;
            }
            pages.push((area, read_only));
        }
        Ok(Self(pages))
    }

    /// Puts a page where a thread waits. Nobody changes the memory there meanwhile.
    fn fill(&self, fd: &Range, dst: Span) -> Outcome {
        for (area, read_only) in &self.0 {
            stamp(**area, served(dst.addr));
            if *read_only {
                area.protect(libc::PROT_READ)?;
            }
            let moved = remap(dst, **area, RAP_WAKE);
            if *read_only {
                area.protect(RW)?;
            }
            match moved {
                Ok(_) => return Ok(()),
                Err(Errno::EINVAL) => (),
                // A signal, or the same fault twice.
                Err(Errno::EEXIST) => match fd.wake(dst) {
                    Ok(_) | Err(Errno::ENOENT) => return Ok(()),
                    Err(error) => return Err(error).context("wake"),
                },
                Err(error) => return Err(error).context("the handler's remap_anon_pages"),
            }
        }
        // The thread may have been a child's, or have gone.
        match fd.wake(dst) {
            Err(Errno::ENOENT) => Ok(()),
            _ => bail!("no page fits {dst:x?}"),
        }
    }
}

/// Waits until so many children are left at most, and fails if one has failed.
fn reap(children: &mut Vec<Pid>, most: usize) -> Outcome {
    let end = Instant::now() + LIMIT;
    loop {
        let mut left = Vec::new();
        for child in children.drain(..) {
            match waitpid(child, Some(WaitPidFlag::WNOHANG)).context("waitpid")? {
                WaitStatus::StillAlive => left.push(child),
                WaitStatus::Exited(_, 0) => (),
                status => bail!("a child: {status:?}"),
            }
        }
        *children = left;
        if children.len() <= most {
            return Ok(());
        }
        ensure!(Instant::now() < end, "children do not end");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A process of the torture.
fn worker(group: &Cgroup, shared: &Shared, counter: usize, seed: u64, ops: u64) -> Outcome {
    group.add(std::process::id())?;
    let fd = Range::without_waiting()?;
    let models: anyhow::Result<Vec<_>> = (0..THREADS)
        .map(|own| Model::new(1 + own).map(Mutex::new))
        .collect();
    let process = Process {
        fd,
        epoch: RwLock::new(1),
        models: models?,
        failed: AtomicBool::new(false),
        over: AtomicBool::new(false),
        shared,
        counter,
    };
    process.run(seed, ops)
}

/// A process that is killed in the middle of it, its handler too, again and again.
fn victim(group: &Cgroup, shared: &Shared, seed: u64) -> Outcome {
    let mut numbers = Numbers(seed);
    while !shared.is_over() {
        // What is killed tells nothing of what it has done, so it is not to take much time.
        thread::sleep(Duration::from_secs(1));
        let (seed, life) = (numbers.below(1 << 20) as u64, 20 + numbers.below(400));
        let ended = in_child(|| {
            let own = Pid::this();
            // Not waited for: what fails before is to be told.
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(life as u64));
                kill(own, Signal::SIGKILL)
            });
            worker(group, shared, DONE_IN_VAIN, seed, u64::MAX)
        })?;
        ensure_eq!(
            ended,
            Ended::Killed(Signal::SIGKILL),
            "a victim of seed {seed}"
        );
    }
    Ok(())
}

/// Has the kernel do beside it what it does to memory.
fn disturb(group: &Cgroup, shared: &Shared) -> Outcome {
    let (start, mut told) = (Instant::now(), Instant::now());
    for nth in 1.. {
        if shared.is_over() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        // It fails where there is not so much that can be reclaimed.
        let _ = group.set("memory.reclaim", "4M");
        // That looks at all memory, so it takes long.
        if nth % 100 == 0 {
            let _ = knobs::set("/proc/sys/vm/compact_memory", 1);
        }
        if told.elapsed() > HEARTBEAT {
            told = Instant::now();
            println!(
                "# {} operations in {:.0} s",
                shared.done(),
                start.elapsed().as_secs_f32()
            );
        }
    }
    Ok(())
}

/// What is left of all processes when they have ended: nothing.
fn ensure_nothing_left(group: &Cgroup) -> Outcome {
    let left = || -> anyhow::Result<_> {
        let always = ["anon", "unevictable", "pagetables"];
        let always: anyhow::Result<Vec<_>> = always.iter().map(|name| group.stat(name)).collect();
        // Not every kernel has huge pages, and swap.
        let huge = group.stat("anon_thp").unwrap_or(0);
        let swap = group.number("memory.swap.current").unwrap_or(0);
        Ok((always?, huge, swap))
    };
    wait_until(|| {
        // A page may be on its way to a list of the LRU, which compaction has all processors end;
        // and one that nobody maps any more keeps its place in swap until it is reclaimed.
        let _ = knobs::set("/proc/sys/vm/compact_memory", 1);
        let _ = group.set("memory.reclaim", "64M");
        let (always, huge, swap) = left()?;
        Ok(always.iter().sum::<u64>() + huge + swap == 0)
    })
    .with_context(|| format!("anon, unevictable, page tables; huge; swap: {:?}", left()))
}

/// Swap that is taken, and pages that are mlocked.
fn system() -> anyhow::Result<[u64; 2]> {
    let swap = field("/proc/meminfo", "SwapTotal")? - field("/proc/meminfo", "SwapFree")?;
    Ok([swap, vmstat("nr_mlock")?])
}

/// Runs it, and prints what it has done.
pub fn run(seed: u64, ops: u64) -> Outcome {
    println!("# seed {seed}, {ops} operations");
    let _ = swap::ensure_on();
    let before = system()?;
    let group = Cgroup::new()?;
    let shared = Shared::new()?;
    for (name, value) in [("sleep_millisecs", 50), ("pages_to_scan", 500), ("run", 1)] {
        // Not every kernel has it.
        let _ = knobs::set_ksm(name, value);
    }
    for (name, value) in [
        ("khugepaged/scan_sleep_millisecs", 200),
        // Else khugepaged fills holes that are the kernel's to fill.
        ("khugepaged/max_ptes_none", 0),
    ] {
        let _ = knobs::set_thp(name, value);
    }
    let start = Instant::now();
    // Processes all, because they start threads.
    let worker = |nth| {
        let each = ops / PROCESSES / THREADS;
        let seed = seed.wrapping_mul(PROCESSES) + nth;
        let (group, shared) = (&group, &shared);
        Running::start(move || worker(group, shared, DONE, seed, each))
    };
    let workers: anyhow::Result<Vec<_>> = (0..PROCESSES).map(worker).collect();
    let rest = [
        Running::start(|| victim(&group, &shared, !seed))?,
        Running::start(|| disturb(&group, &shared))?,
    ];
    let worked: Vec<_> = workers?.into_iter().map(Running::end).collect();
    shared.0[OVER].store(1, Ordering::Relaxed);
    let rest = rest.map(Running::end);
    for (nth, ended) in worked.into_iter().chain(rest).enumerate() {
        ensure_eq!(ended?, Ended::Passed, "process {nth}");
    }
    ensure_nothing_left(&group)?;
    ensure_eq!(group.event("oom_kill")?, 0, "processes killed for memory");
    let _ = knobs::set_ksm("run", 2);
    wait_until(|| Ok(system()?.iter().zip(&before).all(|(now, then)| now <= then)))
        .with_context(|| format!("left of swap and mlocked: {:?} of {before:?}", system()))?;
    report(&shared, start.elapsed())
}

/// Says what was done, and fails if something never was.
fn report(shared: &Shared, time: Duration) -> Outcome {
    let names = [
        "pages moved",
        "EINVAL",
        "EEXIST",
        "ENOENT",
        "EBUSY, shared",
        "EBUSY, tried again",
    ];
    println!(
        "# {} operations in {:.0} s",
        shared.done(),
        time.as_secs_f32()
    );
    for (index, name) in names.iter().enumerate() {
        let count = shared.0[FIRST_COUNT + index].load(Ordering::Relaxed);
        println!("# {name}: {count}");
        // Not in every short run somebody holds a page for a moment.
        ensure!(count > 0 || index + 1 == names.len(), "never: {name}");
    }
    Ok(())
}

/// A short run of `userfault-tests --torture`.
fn c54_every_page_as_the_model_says() -> Outcome {
    run(1, 16_000)
}

register!(c54_every_page_as_the_model_says);
