// SPDX-License-Identifier: GPL-2.0

//! Calls of the fuzzer about processes: children that share memory, descriptors or neither, threads
//! and signals.

use crate::fuzz_calls::Call;
use crate::fuzz_memory::touch_one;
use crate::fuzz_shared::THREADS;
use crate::fuzz_thread::Thread;
use crate::touch;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::sync::atomic::Ordering::Relaxed;

/// How many more threads there may be.
const EXTRA: usize = 3;

/// What a child ends with that has executed nothing else; what is executed ends with 0.
const NOT_EXECUTED: i32 = 1;

/// Ends the child that the thread has, if it has one.
pub fn reap(t: &mut Thread) {
    if let Some(child) = t.child.take() {
        let (child, mut status) = (child as usize, NOT_EXECUTED << 8);
        let _ = t.call(
            Call::kill_child,
            libc::SYS_kill,
            &[child, libc::SIGKILL as usize],
        );
        let args = [child, &raw mut status as usize, 0, 0];
        let _ = t.call(Call::reap, libc::SYS_wait4, &args);
        if status == 0 {
            t.shared.count(Call::exec, true);
        }
    }
}

/// A child that makes some calls itself, with a copy of the memory.
///
/// It may share the table of descriptors, so that what it opens stays when it is gone.  It may not
/// use what another thread had locked: no allocation is made.
pub fn fork(t: &mut Thread) {
    reap(t);
    let (call, more) = match t.one_in(3) {
        true => (Call::fork_files, libc::CLONE_FILES),
        false => (Call::fork, 0),
    };
    let steps = 1 + t.below(40);
    let executes = t.one_in(4);
    // What the child draws is not what the parent goes on with.
    let seed = t.below(1 << 30) as u64;
    match t.fork(call, more | libc::SIGCHLD) {
        Ok(0) => {
            t.numbers.0 ^= seed << 32;
            child(t, steps, executes)
        }
        child => t.child = child.ok(),
    }
}

fn child(t: &mut Thread, steps: usize, executes: bool) -> ! {
    let _ = set_pdeathsig(Signal::SIGKILL);
    t.become_child();
    for _ in 0..steps {
        t.step();
    }
    if executes {
        let program = c"/bin/true".as_ptr();
        let (args, none) = ([program, std::ptr::null()], [0usize]);
        let pointers = [
            program as usize,
            args.as_ptr() as usize,
            none.as_ptr() as usize,
        ];
        let _ = t.call(Call::exec, libc::SYS_execve, &pointers);
    }
    // SAFETY: It ends the process.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

/// A child that has the memory itself, for which its parent waits.
pub fn vfork(t: &mut Thread) {
    const STACK: usize = 64 << 10;
    extern "C" fn child(addr: *mut libc::c_void) -> libc::c_int {
        let _ = touch::store(addr as usize, 2);
        0
    }
    let (addr, flags) = (
        t.address(),
        libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
    );
    let mut stack = [0u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast();
    let what = || {
        // SAFETY: The stack is the child's until that has ended.
        nix::errno::Errno::result(unsafe { libc::clone(child, top, flags, addr as *mut _) })
    };
    if let Ok(pid) = t.record(Call::vfork, &[addr], what, |pid| i64::from(*pid)) {
        let _ = t.call(Call::reap, libc::SYS_wait4, &[pid as usize, 0, 0, 0]);
    }
}

/// One more thread, which touches memory and ends.
pub fn thread(t: &mut Thread) {
    let span = t.short_span();
    let (place, write) = (t.place, t.one_in(2));
    if place.extra.load(Relaxed) >= EXTRA {
        return;
    }
    place.extra.fetch_add(1, Relaxed);
    let what = || {
        let body = move || {
            for part in span.each_page() {
                let _ = match write {
                    true => touch::store(part.addr, 3),
                    false => touch::load(part.addr).map(drop),
                };
            }
            place.extra.fetch_sub(1, Relaxed);
        };
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(body)
            .map(drop)
            .map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    };
    if t.record(Call::thread, &[span.addr, span.len], what, |()| 0)
        .is_err()
    {
        place.extra.fetch_sub(1, Relaxed);
    }
}

/// Lets a thread of the process give up what it waits in, or does something to the own child.
pub fn signal(t: &mut Thread) {
    let child = t.child;
    match (t.below(6), child) {
        (0, Some(_)) => reap(t),
        (1, Some(child)) => {
            let args = [child as usize, libc::SIGSTOP as usize];
            let _ = t.call(Call::stop_child, libc::SYS_kill, &args);
            let addr = t.address();
            let _ = touch_one(t, addr, false);
            let args = [child as usize, libc::SIGCONT as usize];
            let _ = t.call(Call::continue_child, libc::SYS_kill, &args);
        }
        _ => {
            let index = t.below(THREADS);
            let thread = t.place.threads[index].load(Relaxed) as usize;
            let process = t.place.pid.load(Relaxed) as usize;
            let args = [process, thread, libc::SIGUSR1 as usize];
            let _ = t.call(Call::kill_thread, libc::SYS_tgkill, &args);
        }
    }
}
