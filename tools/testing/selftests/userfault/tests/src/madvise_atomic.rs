// SPDX-License-Identifier: GPL-2.0

//! Touches by the kernel where it cannot sleep, or where the thread is about to end.
//!
//! They are refused as every other, never queued, and what the kernel does then is what it does
//! for memory without access.

use crate::harness::Outcome;
use crate::pair::Pair;
use crate::proc::ensure_holes;
use crate::process::must_pass_in_child;
use crate::sys::{Area, Span};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sched::{clone, CloneFlags};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult};

/// `futex` on the first word of a range.
fn futex(word: Span, operation: i32, value: u32, other: Span, last: u32) -> nix::Result<()> {
    let nr = libc::SYS_futex;
    // SAFETY: The memory of an area is never borrowed. Nothing here waits: the fourth argument is
    // a number, or no time limit where the word differs from the value.
    let done = unsafe { libc::syscall(nr, word.addr, operation, value, 1, other.addr, last) };
    Errno::result(done).map(drop)
}

/// A11: a futex is read and changed with page faults disabled, then with them where that failed.
fn a11_futex_operations() -> Outcome {
    let pair = Pair::new()?;
    let word = Area::filled(1, 1)?;
    let fault = Err(Errno::EFAULT);
    for private in [0, libc::FUTEX_PRIVATE_FLAG] {
        let seen = pair.same("wake and change", |area| {
            // Sets the second word to 1, and compares what it was with 0.
            let change = 1 << 12;
            let operation = libc::FUTEX_WAKE_OP | private;
            Ok(futex(*word, operation, 1, area.page(1), change))
        })?;
        ensure_eq!(seen, fault, "FUTEX_WAKE_OP");
        let seen = pair.same("lock", |area| {
            let operation = libc::FUTEX_TRYLOCK_PI | private;
            Ok(futex(area.page(1), operation, 0, *word, 0))
        })?;
        ensure_eq!(seen, fault, "FUTEX_TRYLOCK_PI");
        let seen = pair.same("unlock", |area| {
            let operation = libc::FUTEX_UNLOCK_PI | private;
            Ok(futex(area.page(1), operation, 0, *word, 0))
        })?;
        ensure_eq!(seen, fault, "FUTEX_UNLOCK_PI");
        let seen = pair.same("requeue", |area| {
            let operation = libc::FUTEX_CMP_REQUEUE | private;
            Ok(futex(area.page(1), operation, 1, *word, 7))
        })?;
        ensure_eq!(seen, fault, "FUTEX_CMP_REQUEUE");
    }
    word.check(1)
}

/// How a process ends that shares this memory and says nothing, after it has done `last`.
pub fn end_of(last: impl FnMut() -> isize) -> anyhow::Result<WaitStatus> {
    let mut stack = vec![0; 64 << 10];
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: The stack is large enough for system calls, and lives longer than the child, which
    // this one waits for.
    let pid = unsafe { clone(Box::new(last), &mut stack, flags, Some(libc::SIGCHLD)) };
    waitpid(pid.context("clone")?, None).context("waitpid")
}

/// A11: what a thread that ends leaves in memory is left out where there is a hole: its list of
/// locks, the word that says that it is gone.
fn a11_end_of_a_thread() -> Outcome {
    let pair = Pair::new()?;
    for span in [pair.holed.page(1), pair.reference.page(1)] {
        // SAFETY: The memory is never borrowed; the kernel may look at it, and does so in vain.
        let list =
            end_of(|| unsafe { libc::syscall(libc::SYS_set_robust_list, span.addr, 24) as isize })?;
        // SAFETY: As above.
        let word = end_of(|| unsafe {
            libc::syscall(libc::SYS_set_tid_address, span.addr);
            0
        })?;
        for status in [list, word] {
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        }
    }
    ensure_holes(pair.holed.page(1))
}

/// A11: a debugger sees EIO for a hole, as for memory that is not there, and cannot fill it.
fn a11_ptrace() -> Outcome {
    let area = Area::pages(2)?;
    area.page(0).fill(1);
    area.mark()?;
    let hole = area.page(1);
    must_pass_in_child(|| {
        // SAFETY: The child of the child only stops itself.
        let child = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let _ = ptrace::traceme();
                let _ = nix::sys::signal::raise(Signal::SIGSTOP);
                // SAFETY: Ends the process.
                unsafe { libc::_exit(i32::from(!hole_is_refused(hole))) }
            }
        };
        waitpid(child, None).context("waitpid")?;
        ensure_eq!(ptrace::read(child, hole.addr as _), Err(Errno::EIO));
        ensure_eq!(ptrace::write(child, hole.addr as _, 1), Err(Errno::EIO));
        ensure_eq!(ptrace::read(child, area.addr as _), Ok(!(1 << 32)));
        // Attached, it would stop at each SIGBUS.
        ptrace::detach(child, None).context("detach")?;
        ensure_eq!(
            waitpid(child, None).context("waitpid")?,
            WaitStatus::Exited(child, 0)
        );
        Ok(())
    })?;
    ensure_holes(hole)
}

fn hole_is_refused(hole: Span) -> bool {
    hole.load().is_err() && hole.store(1).is_err()
}

register!(a11_futex_operations, a11_end_of_a_thread, a11_ptrace);
