// SPDX-License-Identifier: GPL-2.0

//! Handlers that answer wrongly: the thread waits on, or asks again, until it is answered.

use crate::harness::Outcome;
use crate::proc::ensure_holes;
use crate::process::join;
use crate::range::{resolve, LetGo, Range, A_WHILE};
use crate::sys::{page, remap, Area, Map, Span, RAP_WAKE};
use crate::touch::Fault;
use crate::{ensure_eq, register, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::thread;

/// Has a thread wait for the second of four pages, whose fault is read; `answer` gets the
/// descriptor, the memory and pages to put there.  Says what the thread saw in the end.
fn answered(
    answer: impl FnOnce(&Range, Span, Span) -> Outcome,
) -> anyhow::Result<Result<u8, Fault>> {
    let (src, dst) = (Area::filled(4, 1)?, Area::pages(4)?);
    let fd = Range::serving(*dst)?;
    let hole = dst.page(1);
    thread::scope(|scope| {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(move || hole.load());
        ensure_eq!(fd.fault()?, hole.addr);
        answer(&fd, *dst, *src)?;
        Ok(thread.join().expect("no panic"))
    })
}

/// Fails unless one thread waits whose fault was read, and does so for a while.
fn ensure_waits(fd: &Range) -> Outcome {
    thread::sleep(A_WHILE / 3);
    ensure_eq!(fd.counts()?, (0, 1), "it does not wait");
    Ok(())
}

/// A60: what is done for other pages, or fails, leaves the thread where it is.
fn a60_answers_that_are_none() -> Outcome {
    let first = Area::filled(4, 1)?.page(1).bytes()[0];
    let seen = answered(|fd, dst, src| {
        // Woken, but not here.
        for other in [dst.page(0), dst.pages(2..4)] {
            ensure_eq!(fd.wake(other), Err(Errno::ENOENT));
        }
        // Another page, with and without a wake.
        ensure_eq!(remap(dst.page(0), src.page(0), RAP_WAKE), Ok(page()));
        ensure_eq!(remap(dst.page(2), src.page(2), RAP_WAKE), Ok(page()));
        // A page that is not there: a source that is a hole, a place that is taken.
        ensure_eq!(
            remap(dst.page(1), src.page(0), RAP_WAKE),
            Err(Errno::ENOENT)
        );
        ensure_eq!(
            remap(dst.page(0), src.page(1), RAP_WAKE),
            Err(Errno::EEXIST)
        );
        ensure_eq!(remap(dst.page(1), src.page(1), 4), Err(Errno::EINVAL));
        // Registered once more.
        ensure_eq!(fd.register(dst), Ok(16));
        ensure_waits(fd)?;
        ensure_holes(dst.page(1))?;
        resolve(dst.page(1), src.page(1))
    })?;
    ensure_eq!(seen, Ok(first));
    Ok(())
}

/// A60: a page without a wake: the thread sleeps on, and sees it when it is woken, or when nobody
/// serves it any more.
fn a60_page_without_a_wake() -> Outcome {
    for close in [false, true] {
        let (src, dst) = (Area::filled(1, 5)?, Area::pages(1)?);
        let fd = Range::serving(*dst)?;
        let hole = *dst;
        let thread = thread::spawn(move || hole.check(5));
        ensure_eq!(fd.fault()?, hole.addr);
        ensure_eq!(remap(hole, *src, 0), Ok(page()));
        ensure_waits(&fd)?;
        match close {
            true => drop(fd),
            false => ensure_eq!(fd.wake(hole), Ok(16)),
        }
        thread.join().expect("no panic")?;
    }
    Ok(())
}

/// What is mapped over the hole is what the thread sees: of another kind, or not to be read.
fn a66_something_else_is_there() -> Outcome {
    for (prot, want) in [(libc::PROT_READ, Ok(0)), (libc::PROT_NONE, Err(()))] {
        let seen = answered(|_, dst, _| {
            let hole = dst.page(1);
            // SAFETY: The place is under test, and never borrowed.
            let mapped = unsafe {
                libc::mmap(
                    hole.addr as *mut libc::c_void,
                    hole.len,
                    prot,
                    libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            ensure!(mapped != libc::MAP_FAILED, "mmap");
            Ok(())
        })?;
        ensure_eq!(seen.map_err(drop), want, "protection {prot}");
    }
    Ok(())
}

/// A66: shared memory that is attached in place of the hole is what the thread sees.
fn a66_shm_remap() -> Outcome {
    // SAFETY: It makes a segment only.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, page(), libc::IPC_CREAT | 0o600) };
    let id = Errno::result(id).context("shmget")?;
    let seen = answered(|_, dst, _| {
        let place = dst.page(1).addr as *const libc::c_void;
        // SAFETY: The place is under test, and never borrowed.
        let attached = unsafe { libc::shmat(id, place, libc::SHM_REMAP) };
        ensure_eq!(attached.cast_const(), place, "shmat: {}", Errno::last());
        Ok(())
    });
    // SAFETY: It removes the segment only.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) })?;
    ensure_eq!(seen?, Ok(0));
    Ok(())
}

/// A hole that became unreadable while its thread waited is SIGSEGV, and served again once it is
/// not.
fn a66_protected_in_a_wait() -> Outcome {
    let seen = answered(|fd, dst, _| {
        dst.page(1).protect(libc::PROT_NONE)?;
        ensure_eq!(fd.wake(dst), Ok(16));
        Ok(())
    })?;
    ensure!(
        seen.as_ref()
            .is_err_and(|fault| fault.signal == nix::sys::signal::Signal::SIGSEGV),
        "{seen:?}"
    );
    Ok(())
}

/// Mainline's calls do not fill what this dialect has registered: it is no memory of theirs.
fn a63_mainline_does_not_fill() -> Outcome {
    let (src, dst) = (Area::filled(1, 1)?, Area::pages(2)?);
    let fd = Range::serving(*dst)?;
    let other = Map::pages(1).map()?;
    let mainline = uffd::register_missing(*other)?;
    ensure_eq!(uffd::copy(&mainline, dst.page(0), *src), Err(Errno::ENOENT));
    ensure_eq!(uffd::zero(&mainline, dst.page(0)), Err(Errno::ENOENT));
    ensure!(uffd::move_pages(&mainline, dst.page(0), *src).is_err());
    ensure_holes(*dst)?;
    src.check(1)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(|| dst.page(1).check(1));
        ensure_eq!(fd.fault()?, dst.page(1).addr);
        resolve(dst.page(1), *src)?;
        join(thread)
    })
}

register!(
    a60_answers_that_are_none,
    a60_page_without_a_wake,
    a66_something_else_is_there,
    a66_shm_remap,
    a66_protected_in_a_wait,
    a63_mainline_does_not_fill,
);
