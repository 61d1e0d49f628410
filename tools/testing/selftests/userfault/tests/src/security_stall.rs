// SPDX-License-Identifier: GPL-2.0

//! What Documentation/admin-guide/mm/userfault-security.rst says of who can be kept waiting by a
//! touch of a hole, and of who cannot.

use crate::cgroup::Cgroup;
use crate::harness::Outcome;
use crate::knobs::mount_at;
use crate::proc::{ensure_holes, entries_of, field};
use crate::process::{join, Holder};
use crate::range::{resolve, wait_until, LetGo, Range, A_WHILE, USER_MODE_ONLY};
use crate::range_fault::handle_sigusr1;
use crate::security_memory::{take_from, tell_pipe};
use crate::sys::{page, Area, Map, Span, MADV_COLLAPSE, MADV_POPULATE_WRITE};
use crate::trace::IrqsOff;
use crate::{ensure_eq, frame, ksm, numa, register, swap};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::sys::uio::{process_vm_readv, RemoteIoVec};
use nix::sys::wait::{waitid, Id, WaitPidFlag, WaitStatus};
use nix::unistd::{getpid, pipe, Pid};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

const PLACE: &str = "/tmp/userfault-tests-stall";

/// The fields of a task in /proc that come after its name: the first is its state.
fn stat(task: impl Display) -> anyhow::Result<Vec<String>> {
    let path = format!("/proc/{task}/stat");
    let text = fs::read_to_string(&path).context(path)?;
    let (_, fields) = text.rsplit_once(')').context("no name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// `S`: sleeps, `D`: and no signal but a fatal one, or none at all, wakes it.
fn ensure_state(task: impl Display, state: &str) -> Outcome {
    wait_until(|| Ok(stat(&task)?[0] == state))
        .with_context(|| format!("{:?} instead of {state}", stat(&task)))
}

/// Fails unless a child ends soon, with all its threads. It is left to be reaped.
pub fn ensure_ended(child: Pid) -> Outcome {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    wait_until(|| Ok(waitid(Id::Pid(child), flags)? != WaitStatus::StillAlive))
        .context("it does not end")
}

/// The time that a task has run, in ticks.
fn ticks(task: impl Display) -> anyhow::Result<u64> {
    let fields = stat(task)?;
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// A child whose memory a descriptor serves, and that goes on with `code` then.
pub struct Served {
    child: Holder,
    descriptor: u8,
}

impl Served {
    /// Forks it.
    pub fn fork(flags: i32, area: Span, code: impl FnOnce() -> Outcome) -> anyhow::Result<Self> {
        let (mut ready, tell) = tell_pipe()?;
        let child = Holder::after(|| {
            let fd = Range::with(flags)?;
            area.mark()?;
            ensure_eq!(fd.register(area), Ok(16));
            (&tell).write_all(&[fd.raw() as u8])?;
            std::mem::forget(fd);
            code()
        })?;
        drop(tell);
        let mut number = [0];
        ready.read_exact(&mut number).context("the child")?;
        let descriptor = number[0];
        Ok(Self { child, descriptor })
    }

    /// A copy of its descriptor.
    pub fn copy(&self) -> anyhow::Result<Range> {
        take_from(&self.child, self.descriptor.into())
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// How many wait in its memory.
    pub fn waiters(&self) -> anyhow::Result<u64> {
        field(
            &format!("/proc/{}/fdinfo/{}", self.pid(), self.descriptor),
            "total",
        )
    }

    /// Waits until so many do.
    pub fn wait_for(&self, waiters: u64) -> Outcome {
        wait_until(|| Ok(self.waiters()? == waiters))
    }
}

/// write(2) of memory under test.
fn write_from(fd: impl AsFd, span: Span) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: The memory is never borrowed, and the kernel checks the pointer.
    Errno::result(unsafe { libc::write(fd, span.addr as *const _, 8) }).map(|n| n as usize)
}

/// Reads a hole of another process.
pub fn read_of(process: Pid, hole: Span) -> nix::Result<usize> {
    let base = hole.addr;
    process_vm_readv(
        process,
        &mut [IoSliceMut::new(&mut [0; 8])],
        &[RemoteIoVec { base, len: 8 }],
    )
}

/// C110: who waits sleeps as in any system call, and uses no processor. A signal is handled in a
/// touch of its own; in a touch by the kernel it is looked at once, and from then on nothing but a
/// fatal one ends the sleep, which counts as load.
fn c110_state_of_who_waits() -> Outcome {
    handle_sigusr1()?;
    let (area, src) = (Area::pages(2)?, Area::filled(2, 1)?);
    let fd = Range::serving(*area)?;
    let (_reader, writer) = pipe()?;
    for (by_kernel, with_a_signal) in [(false, "S"), (true, "D")] {
        let at = usize::from(by_kernel);
        let hole = area.page(at);
        let (tell, told) = std::sync::mpsc::channel();
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(hole);
            let thread = scope.spawn(|| {
                tell.send(nix::unistd::gettid()).context("send")?;
                match by_kernel {
                    true => ensure_eq!(write_from(&writer, hole), Ok(8)),
                    false => ensure!(hole.load().is_ok()),
                }
                Ok(())
            });
            let tid = told.recv().context("no thread")?.as_raw();
            let task = format!("self/task/{tid}");
            fd.wait_for(1)?;
            ensure_state(&task, "S")?;
            let process = getpid().as_raw();
            // SAFETY: It sends a signal, which is handled.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, tid, libc::SIGUSR1) };
            Errno::result(sent).context("tgkill")?;
            thread::sleep(A_WHILE / 5);
            let before = ticks(&task)?;
            thread::sleep(4 * A_WHILE);
            let used = ticks(&task)? - before;
            ensure!(used <= 2, "{used} ticks");
            ensure_state(&task, with_a_signal)?;
            resolve(hole, src.page(at))?;
            join(thread)
        })?;
    }
    Ok(())
}

/// A call that touches memory with something locked, and what somebody else does meanwhile.
struct Locking {
    name: &'static str,
    hold: fn(&Shared, Span) -> nix::Result<usize>,
    other: fn(&Shared) -> Outcome,
}

/// What several processes have.
struct Shared {
    directory: File,
    file: File,
    pipe: (File, File),
}

impl Shared {
    fn new() -> anyhow::Result<Self> {
        let _ = fs::remove_dir_all(PLACE);
        fs::create_dir(PLACE).context(PLACE)?;
        let pipe = pipe().map(|(reader, writer)| (File::from(reader), File::from(writer)))?;
        (&pipe.1).write_all(&[7; 8])?;
        Ok(Self {
            directory: File::open(PLACE)?,
            file: File::create("/tmp/userfault-tests-stall.file")?,
            pipe,
        })
    }
}

fn list(shared: &Shared, span: Span) -> nix::Result<usize> {
    let fd = shared.directory.as_raw_fd();
    // SAFETY: The memory is never borrowed, and the kernel checks the pointer.
    let read = unsafe { libc::syscall(libc::SYS_getdents64, fd, span.addr, span.len) };
    Errno::result(read).map(|n| n as usize)
}

fn receive(shared: &Shared, span: Span) -> nix::Result<usize> {
    let fd = shared.pipe.0.as_raw_fd();
    // SAFETY: As above.
    Errno::result(unsafe { libc::read(fd, span.addr as *mut _, 8) }).map(|n| n as usize)
}

const LOCKING: [Locking; 3] = [
    Locking {
        name: "a directory that is listed",
        hold: list,
        other: |_| fs::create_dir(Path::new(PLACE).join("new")).context("mkdir"),
    },
    Locking {
        name: "a file that is written",
        hold: |shared, span| write_from(&shared.file, span),
        other: |shared| (&shared.file).write_all(&[7; 8]).context("write"),
    },
    Locking {
        name: "a pipe that is read",
        hold: receive,
        other: |shared| (&shared.pipe.1).write_all(&[7; 8]).context("write"),
    },
];

/// C111: a touch by the kernel keeps what the call has locked: others, of whatever rights, wait for
/// that, and cannot even be killed, until the process of the hole is.
fn c111_locks_of_a_call() -> Outcome {
    for Locking { name, hold, other } in LOCKING {
        let shared = Shared::new()?;
        let area = Area::pages(1)?;
        let holder = Served::fork(0, *area, || hold(&shared, *area).map(drop).context(name))?;
        holder.wait_for(1)?;
        let victim = Holder::after(|| other(&shared))?;
        let go_on = || -> Outcome {
            ensure_state(victim.pid(), "D")?;
            kill(victim.pid(), Signal::SIGKILL)?;
            thread::sleep(A_WHILE);
            ensure_state(victim.pid(), "D")
        };
        let stuck = go_on().context(name);
        // Or nothing could be reaped.
        drop(holder);
        stuck?;
        ensure_ended(victim.pid()).context(name)?;
    }
    Ok(())
}

/// C112: where the descriptor may not serve the kernel the same calls fail at once, and hold up
/// nobody.
fn c112_nobody_waits() -> Outcome {
    for Locking { name, hold, other } in LOCKING {
        let shared = Shared::new()?;
        let area = Area::pages(1)?;
        let holder = Served::fork(USER_MODE_ONLY, *area, || {
            ensure_eq!(hold(&shared, *area), Err(Errno::EFAULT), "{name}");
            Ok(())
        })?;
        // Who fails ends; who has done it pauses.
        ensure_state(holder.pid(), "S").context(name)?;
        ensure_eq!(holder.waiters()?, 0, "{name}");
        other(&shared).context(name)?;
    }
    Ok(())
}

/// C113: process_vm_readv of another process, root's too, waits for the page where the descriptor
/// may serve the kernel, and can be killed; else it is EFAULT, and nothing is told.
fn c113_reader_of_another_process() -> Outcome {
    let area = Area::pages(1)?;
    let target = Served::fork(USER_MODE_ONLY, *area, || Ok(()))?;
    ensure_eq!(read_of(target.pid(), *area), Err(Errno::EFAULT));
    ensure_eq!(target.waiters()?, 0);
    drop(target);

    let target = Served::fork(0, *area, || Ok(()))?;
    let reader = Holder::after(|| read_of(target.pid(), *area).map(drop).context("read"))?;
    target.wait_for(1)?;
    ensure_state(reader.pid(), "D")?;
    kill(reader.pid(), Signal::SIGTERM)?;
    ensure_ended(reader.pid())?;
    target.wait_for(0)
}

/// Has this process show a range as its arguments and its environment.
pub fn set_arguments(text: Span) -> Outcome {
    for (what, value) in [
        (libc::PR_SET_MM_ARG_START, text.addr),
        (libc::PR_SET_MM_ARG_END, text.end()),
        (libc::PR_SET_MM_ENV_START, text.addr),
        (libc::PR_SET_MM_ENV_END, text.end()),
    ] {
        // SAFETY: It changes what is shown of the process only.
        let set = unsafe { libc::prctl(libc::PR_SET_MM, what, value, 0, 0) };
        Errno::result(set).with_context(|| format!("PR_SET_MM {what}"))?;
    }
    Ok(())
}

/// C114: who looks at a process in /proc waits for nobody, though threads of it wait in holes, and
/// though its very arguments are one.
fn c114_looks_at_a_process() -> Outcome {
    let area = Area::pages(4)?;
    let target = Served::fork(0, *area, || {
        set_arguments(area.page(0))?;
        let (by_program, by_kernel) = (area.page(1), area.page(2));
        thread::spawn(move || by_program.load());
        thread::spawn(move || pipe().map(|(_, writer)| write_from(writer, by_kernel)));
        Ok(())
    })?;
    target.wait_for(2)?;
    let process = target.pid();
    let mut read = 0;
    for name in [
        "auxv",
        "cmdline",
        "environ",
        "maps",
        "numa_maps",
        "pagemap",
        "smaps",
        "smaps_rollup",
        "stack",
        "stat",
        "statm",
        "status",
        "syscall",
        "wchan",
    ] {
        let mut some = [0; 4096];
        // What is not there, or says that there is nothing, has not waited either.
        let opened = File::open(format!("/proc/{process}/{name}"));
        read += opened.and_then(|mut file| file.read(&mut some)).is_ok() as usize;
    }
    ensure!(read > 8, "{read} files could be read");
    ensure_eq!(target.waiters()?, 2);
    ensure!(entries_of(process, *area)?.iter().all(|entry| entry.hole()));
    Ok(())
}

/// C115: who waits in a hole of another process keeps the memory of that, though it has ended, and
/// though nobody has it; until the descriptor is closed or who waits is killed.
fn c115_memory_of_the_dead() -> Outcome {
    const SIZE: usize = 32 << 20;
    for by_close in [true, false] {
        let group = Cgroup::enter()?;
        let area = Map::bytes(SIZE + page()).map()?;
        let (filled, hole) = (
            Span::new(area.addr, SIZE),
            Span::new(area.addr + SIZE, page()),
        );
        let before = group.number("memory.current")?;
        let held = || -> anyhow::Result<u64> {
            Ok(group.number("memory.current")?.saturating_sub(before))
        };
        let target = Served::fork(0, hole, || {
            filled.advise(MADV_POPULATE_WRITE).context("populate")
        })?;
        wait_until(|| Ok(held()? > SIZE as u64 / 2)).context("not filled")?;
        let mut copy = Some(target.copy()?);
        let mut reader = Some(Holder::after(|| {
            // The copy of the copy would keep the descriptor.
            drop(copy.take());
            read_of(target.pid(), hole).map(drop).context("read")
        })?);
        target.wait_for(1)?;
        drop(target);
        thread::sleep(2 * A_WHILE);
        ensure!(held()? > SIZE as u64 / 2, "{} bytes are held", held()?);
        match by_close {
            true => drop(copy.take()),
            false => drop(reader.take()),
        }
        wait_until(|| Ok(held()? < SIZE as u64 / 8)).context("it is held for ever")?;
    }
    Ok(())
}

/// A cgroup that can be frozen, with a process in it.
struct Freezer(PathBuf);

impl Freezer {
    fn of(process: Pid) -> anyhow::Result<Self> {
        let own = mount_at("/sys/fs/cgroup", "cgroup2")?.join("userfault-tests-freezer");
        fs::create_dir(&own).context("mkdir")?;
        let freezer = Self(own);
        freezer.set("cgroup.procs", process)?;
        Ok(freezer)
    }

    fn set(&self, name: &str, value: impl Display) -> Outcome {
        fs::write(self.0.join(name), value.to_string()).with_context(|| name.to_owned())
    }

    fn is_frozen(&self) -> anyhow::Result<bool> {
        Ok(field(&self.0.join("cgroup.events").to_string_lossy(), "frozen")? == 1)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.set("cgroup.freeze", 0);
        let _ = self.set("cgroup.kill", 1);
        let _ = wait_until(|| Ok(fs::remove_dir(&self.0).is_ok()));
    }
}

/// C116: who waits in a touch of its own can be frozen; in a touch by the kernel it cannot, before
/// it is woken.
fn c116_freezer() -> Outcome {
    for by_kernel in [false, true] {
        let area = Area::pages(1)?;
        let target = Served::fork(0, *area, || {
            let hole = *area;
            thread::spawn(move || match by_kernel {
                true => drop(pipe().map(|(_, writer)| write_from(writer, hole))),
                false => drop(hole.load()),
            });
            Ok(())
        })?;
        target.wait_for(1)?;
        let freezer = Freezer::of(target.pid())?;
        freezer.set("cgroup.freeze", 1)?;
        if by_kernel {
            thread::sleep(2 * A_WHILE);
            ensure!(!freezer.is_frozen()?, "frozen in a touch by the kernel");
            let fd = target.copy()?;
            ensure_eq!(fd.unregister(*area), Ok(16));
        }
        wait_until(|| freezer.is_frozen()).context("not frozen")?;
        freezer.set("cgroup.freeze", 0)?;
        wait_until(|| Ok(!freezer.is_frozen()?)).context("frozen for ever")?;
    }
    Ok(())
}

/// C117: memory is reclaimed, migrated, compacted, merged, collapsed, copied for a child and
/// unmapped beside holes in which threads wait, and nobody waits for these.
fn c117_memory_management() -> Outcome {
    let (area, src) = (Map::huge_pages(1).map()?, Area::filled(2, 1)?);
    let fd = Range::without_waiting()?;
    area.pages(0..area.nr_pages() - 2).fill_pages(1);
    area.mark()?;
    fd.register(*area)?;
    let (hole, other) = (
        area.page(area.nr_pages() - 2),
        area.page(area.nr_pages() - 1),
    );
    let (_reader, writer) = pipe()?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let by_program = scope.spawn(move || hole.load());
        let by_kernel = scope.spawn(|| write_from(&writer, other));
        fd.wait_for(2)?;

        let pages = area.pages(0..8);
        swap::out(pages)?;
        pages.check_pages(1)?;
        if numa::ensure_two_nodes().is_ok() {
            ensure_eq!(numa::move_to(pages, 1)?, 8);
        }
        frame::compact()?;
        area.want_huge()?;
        ensure!(area.advise(MADV_COLLAPSE).is_err(), "holes were filled");
        let equal = area.pages(8..10);
        ksm::hurry()?;
        equal.each_page().for_each(|part| part.fill(9));
        equal
            .advise(libc::MADV_MERGEABLE)
            .context("MADV_MERGEABLE")?;
        ksm::wait_merged(&[equal])?;
        drop(Holder::fork()?);
        area.page(10).unmap()?;
        area.pages(11..12).protect(libc::PROT_READ)?;

        ensure_eq!(fd.counts()?.1, 2, "who waits");
        ensure_holes(area.pages(area.nr_pages() - 2..area.nr_pages()))?;
        // What the child had too is to be this process's alone.
        src.fill_pages(1);
        resolve(hole, src.page(0))?;
        resolve(other, src.page(1))?;
        ensure!(by_program.join().expect("no panic").is_ok());
        ensure_eq!(by_kernel.join().expect("no panic"), Ok(8));
        Ok(())
    })
}

/// C118: a thread that ends waits for nobody: what it leaves in memory it leaves out where there is
/// a hole that is served.
fn c118_end_of_a_thread() -> Outcome {
    let area = Area::pages(1)?;
    let fd = Range::serving(*area)?;
    let list = area.addr;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = scope.spawn(move || {
            /// What the list has: three words.
            const SIZE: usize = 24;
            tell.send(nix::unistd::gettid()).context("send")?;
            // SAFETY: It tells the kernel where to look when the thread ends.
            let set = unsafe { libc::syscall(libc::SYS_set_robust_list, list, SIZE) };
            Errno::result(set).map(drop).context("set_robust_list")
        });
        // The kernel looks at the list when its own part of the thread ends.
        let task = format!("/proc/self/task/{}", told.recv().context("no thread")?);
        wait_until(|| Ok(!Path::new(&task).exists())).context("it does not end")?;
        join(thread)
    })?;
    ensure_eq!(fd.counts()?, (0, 0));
    ensure_holes(*area)
}

/// C119: interrupts are on again between two threads that are woken, however many are.
fn c119_interrupts_are_on() -> Outcome {
    const THREADS: usize = 400;
    let irqs = IrqsOff::new()?;
    let area = Area::pages(1)?;
    let fd = Range::serving(*area)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        for _ in 0..THREADS {
            scope.spawn(|| area.load());
        }
        fd.wait_for(THREADS as u64)?;
        irqs.ensure_brief(|| {
            let start = Instant::now();
            ensure_eq!(fd.wake(*area), Ok(16));
            Ok(start.elapsed().as_micros() as u64)
        })
    })
}

register!(
    c110_state_of_who_waits,
    c111_locks_of_a_call,
    c112_nobody_waits,
    c113_reader_of_another_process,
    c114_looks_at_a_process,
    c115_memory_of_the_dead,
    c116_freezer,
    c117_memory_management,
    c118_end_of_a_thread,
    c119_interrupts_are_on,
);
