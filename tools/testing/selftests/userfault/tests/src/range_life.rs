// SPDX-License-Identifier: GPL-2.0

//! What becomes of those who wait when a descriptor, a mapping or a process goes away.

use crate::harness::Outcome;
use crate::madvise_process::pidfd;
use crate::proc::ensure_holes;
use crate::process::{in_child, join, must_end, must_pass_in_child, Ended};
use crate::range::{resolve, wait_until, LetGo, Range, A_WHILE};
use crate::security_memory::tell_pipe;
use crate::security_stall::{read_of, Served};
use crate::sys::{Area, Map, Span};
use crate::touch::Fault;
use crate::{ensure_eq, register};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::ptrace;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::thread;

/// Waits in a hole, with another thread, while `end` ends that, and says what the thread saw.
fn seen_while(
    fd: &Range,
    hole: Span,
    read_first: bool,
    end: impl FnOnce() -> Outcome,
) -> anyhow::Result<Result<u8, Fault>> {
    thread::scope(|scope| {
        let _end = LetGo::at_the_end(hole);
        let thread = scope.spawn(move || hole.load());
        if read_first {
            ensure_eq!(fd.fault()?, hole.addr);
        } else {
            fd.wait_for(1)?;
        }
        end()?;
        Ok(thread.join().expect("no panic"))
    })
}

/// A70: with the descriptor closed, whoever waited gets SIGBUS, read or unread; never a zero page.
fn a70_close_under_waiters() -> Outcome {
    for read_first in [false, true] {
        let area = Area::pages(1)?;
        let fd = Range::serving(*area)?;
        // The thread that waits does not use it.
        let raw = fd.raw();
        let seen = seen_while(&fd, *area, read_first, || {
            // SAFETY: It is not closed again: see below.
            ensure_eq!(unsafe { libc::close(raw) }, 0);
            Ok(())
        })?;
        std::mem::forget(fd);
        ensure_eq!(
            seen,
            Err(Fault::sigbus(area.addr)),
            "read first: {read_first}"
        );
        ensure_holes(*area)?;
    }
    Ok(())
}

/// C25: the end of a registration wakes, after it has taken effect: SIGBUS.
fn c25_unregister_under_waiters() -> Outcome {
    for read_first in [false, true] {
        let area = Area::pages(3)?;
        let fd = Range::serving(*area)?;
        let seen = seen_while(&fd, area.page(1), read_first, || {
            ensure_eq!(fd.unregister(area.page(1)), Ok(16));
            Ok(())
        })?;
        ensure_eq!(seen, Err(Fault::sigbus(area.page(1).addr)));
        ensure_eq!(fd.counts()?, (0, 0));
    }
    Ok(())
}

/// C25: without the mark holes are filled as ever, for those too who wait.
fn c25_nouserfault_under_waiters() -> Outcome {
    let area = Area::pages(3)?;
    let fd = Range::serving(*area)?;
    let seen = seen_while(&fd, area.page(1), true, || area.page(1).unmark())?;
    ensure_eq!(seen, Ok(0));
    area.page(1).check_zero()
}

/// C25, C19: munmap wakes: SIGSEGV.
fn c25_c19_munmap_under_waiters() -> Outcome {
    let area = Area::pages(3)?;
    let fd = Range::serving(*area)?;
    let hole = area.page(1);
    let seen = seen_while(&fd, hole, true, || Ok(hole.unmap()?))?;
    ensure_eq!(seen.map_err(|fault| fault.signal), Err(Signal::SIGSEGV));
    ensure_eq!(fd.counts()?, (0, 0));
    Ok(())
}

/// C25: so does mremap, for the place that it leaves; with MREMAP_DONTUNMAP it is SIGBUS there.
fn c25_mremap_under_waiters() -> Outcome {
    for (more, want) in [
        (0, Signal::SIGSEGV),
        (libc::MREMAP_DONTUNMAP, Signal::SIGBUS),
    ] {
        let (area, place) = (Area::pages(3)?, Map::pages(3).map()?);
        let fd = Range::serving(*area)?;
        let seen = seen_while(&fd, area.page(1), true, || {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | more;
            area.mremap(area.len, flags, place.addr).context("mremap")?;
            Ok(())
        })?;
        ensure_eq!(seen.map_err(|fault| fault.signal), Err(want));
        ensure_eq!(fd.counts()?, (0, 0));
    }
    Ok(())
}

/// MADV_DONTNEED under one who waits changes nothing: it is a hole still, and served.
fn a70_dontneed_under_waiters() -> Outcome {
    let (src, area) = (Area::filled(1, 5)?, Area::pages(1)?);
    let fd = Range::serving(*area)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| area.check(5));
        ensure_eq!(fd.fault()?, area.addr);
        area.advise(libc::MADV_DONTNEED)?;
        fd.ensure_silent()?;
        resolve(*area, *src)?;
        join(thread)
    })
}

/// A fork under one who waits: the parent's thread waits on, the child has SIGBUS.
fn c31_fork_under_waiters() -> Outcome {
    let (src, area) = (Area::filled(1, 5)?, Area::pages(1)?);
    src.advise(libc::MADV_DONTFORK)?;
    let fd = Range::serving(*area)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| area.check(5));
        ensure_eq!(fd.fault()?, area.addr);
        must_pass_in_child(|| {
            ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
            Ok(())
        })?;
        ensure_eq!(fd.counts()?, (0, 1));
        resolve(*area, *src)?;
        join(thread)
    })
}

/// A71: a process whose threads wait can be killed, and ends when one of them ends it.
fn a71_exit_and_kill() -> Outcome {
    for by_signal in [false, true] {
        must_end(by_signal, || {
            let area = Area::pages(8)?;
            let fd = Range::serving(*area)?;
            for part in area.each_page() {
                thread::spawn(move || part.load());
            }
            fd.wait_for(8)?;
            for _ in 0..4 {
                fd.fault()?;
            }
            Ok((area, fd))
        })?;
    }
    Ok(())
}

/// A71: what is reaped of a process that is on its way out was no hole, so nobody waits for it.
fn a71_reaped_memory() -> Outcome {
    let area = Area::pages(2)?;
    let target = Served::fork(0, *area, || resolve(*area, *Area::filled(2, 1)?))?;
    let process = target.pid();
    ensure_eq!(read_of(process, area.page(1)), Ok(8));

    let pidfd = pidfd(process)?;
    // It stops with its memory on its way out.
    ptrace::seize(process, ptrace::Options::PTRACE_O_TRACEEXIT).context("seize")?;
    kill(process, Signal::SIGKILL)?;
    let stop = WaitStatus::PtraceEvent(process, Signal::SIGTRAP, libc::PTRACE_EVENT_EXIT);
    ensure_eq!(waitpid(process, None).context("waitpid")?, stop);
    let seen = read_of(process, area.page(1));
    let reaped = reap(&pidfd);
    let then = reaped.map(|()| read_of(process, area.page(1)));
    let waiters = target.waiters()?;
    // Nothing else ends the stop.
    ptrace::cont(process, None).context("cont")?;
    ensure_eq!((seen, then, waiters), (Ok(8), Ok(Err(Errno::EFAULT)), 0));
    Ok(())
}

/// Takes the memory of a process that is on its way out.
fn reap(process: &impl AsRawFd) -> nix::Result<()> {
    // SAFETY: It takes memory of the other process only.
    Errno::result(unsafe { libc::syscall(libc::SYS_process_mrelease, process.as_raw_fd(), 0) })
        .map(drop)
}

/// An exec under those who wait ends them, and the new program starts.
fn a71_exec() -> Outcome {
    let ended = in_child(|| {
        let area = Area::pages(2)?;
        let fd = Range::serving(*area)?;
        for part in area.each_page() {
            thread::spawn(move || part.load());
        }
        fd.wait_for(2)?;
        let error = nix::unistd::execv(c"/proc/self/exe", &[c"tests", c"--help"]);
        bail!("execv: {error:?}")
    })?;
    ensure_eq!(ended, Ended::Passed);
    Ok(())
}

/// A74: a process that calls exec is gone, to a descriptor of its memory that another has.
fn a74_exec_of_its_process() -> Outcome {
    let area = Area::pages(1)?;
    let (ready, tell) = tell_pipe()?;
    let target = Served::fork(0, *area, || {
        (&ready).read_exact(&mut [0]).context("read")?;
        ptrace::traceme().context("traceme")?;
        let error = nix::unistd::execv(c"/proc/self/exe", &[c"tests", c"--list"]);
        bail!("execv: {error:?}")
    })?;
    let (process, fd) = (target.pid(), target.copy()?);
    (&tell).write_all(&[0])?;
    // The new program stops before it does anything.
    let stop = WaitStatus::Stopped(process, Signal::SIGTRAP);
    ensure_eq!(waitpid(process, None).context("waitpid")?, stop);
    ensure_eq!(fd.register(*area), Err(Errno::ESRCH));
    ensure_eq!(fd.wake(*area), Err(Errno::ESRCH));
    ensure_eq!(fd.read(), Err(Errno::ESRCH));
    ensure_eq!(fd.ready()?, PollFlags::POLLHUP);
    Ok(())
}

/// A handler in another process that dies with faults read and unread: SIGBUS for all, no zero
/// page.
fn a70_handler_dies() -> Outcome {
    const THREADS: usize = 6;
    let area = Area::pages(THREADS)?;
    let fd = Range::serving(*area)?;
    // SAFETY: This process has one thread; the child only waits.
    let handler = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            for _ in 0..THREADS / 2 {
                let _ = fd.read();
            }
            loop {
                nix::unistd::pause();
            }
        }
    };
    drop_here(fd, THREADS, *area, || {
        kill(handler, Signal::SIGKILL)?;
        waitpid(handler, None).map(drop)?;
        Ok(())
    })
}

/// Has threads wait while the descriptor lives in another process only, which `end` ends.
fn drop_here(fd: Range, threads: usize, span: Span, end: impl FnOnce() -> Outcome) -> Outcome {
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(span);
        let waiting: Vec<_> = (0..threads)
            .map(|index| {
                let part = span.page(index);
                scope.spawn(move || -> Outcome {
                    ensure_eq!(part.load(), Err(Fault::sigbus(part.addr)));
                    Ok(())
                })
            })
            .collect();
        wait_until(|| Ok(fd.counts()? == (threads as u64 / 2, threads as u64)))?;
        drop(fd);
        thread::sleep(A_WHILE);
        ensure!(
            !waiting.iter().any(|thread| thread.is_finished()),
            "not served"
        );
        end()?;
        waiting.into_iter().try_for_each(join)
    })?;
    ensure_holes(span)
}

/// A84: nothing is locked while a thread waits: others map, unmap and protect beside it.
fn a84_nothing_is_held() -> Outcome {
    let (src, area) = (Area::filled(1, 1)?, Area::pages(4)?);
    let fd = Range::serving(*area)?;
    let hole = area.page(1);
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| hole.check(1));
        ensure_eq!(fd.fault()?, hole.addr);
        area.page(0).protect(libc::PROT_READ)?;
        area.page(3).unmap()?;
        area.page(2).advise(libc::MADV_DONTDUMP)?;
        drop(Area::filled(4, 1)?);
        resolve(hole, *src)?;
        join(thread)
    })
}

register!(
    a70_close_under_waiters,
    c25_unregister_under_waiters,
    c25_nouserfault_under_waiters,
    c25_c19_munmap_under_waiters,
    c25_mremap_under_waiters,
    a70_dontneed_under_waiters,
    c31_fork_under_waiters,
    a71_exit_and_kill,
    a71_reaped_memory,
    a71_exec,
    a74_exec_of_its_process,
    a70_handler_dies,
    a84_nothing_is_held,
);
