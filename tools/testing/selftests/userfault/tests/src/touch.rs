// SPDX-License-Identifier: GPL-2.0

//! Accesses to memory that may raise a signal, and what was raised.
//!
//! Three functions in assembly (see [`crate::arch`]) hold one access each, as their first
//! instruction.  When it faults, the signal handler notes what happened and lets the function go on
//! at its other end.

use crate::arch::{program_counter, set_program_counter};
use nix::sys::signal::Signal;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Once;

extern "C" {
    fn uft_load(addr: usize) -> u32;
    fn uft_store(addr: usize, value: u8) -> u32;
    /// x86's instruction takes its three operands from where these arguments are passed.
    fn uft_copy(to: *mut u64, from: usize, unused: usize, words: usize) -> u32;
    fn uft_fault();
}

/// What `uft_fault` returns: no byte.
const FAULTED: u32 = 0x100;

/// The signals that an access raises itself.
const FAULTS: [libc::c_int; 2] = [libc::SIGBUS, libc::SIGSEGV];

/// A signal that an access raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its number.
    pub signal: Signal,
    /// Its `si_code`.
    pub code: i32,
    /// Its `si_addr`.
    pub addr: usize,
}

impl Fault {
    /// What a hole raises.
    pub fn sigbus(addr: usize) -> Self {
        Self {
            signal: Signal::SIGBUS,
            code: libc::BUS_ADRERR,
            addr,
        }
    }

    /// What memory raises whose protection forbids the access.
    pub fn no_access(addr: usize) -> Self {
        /// Of the headers of the kernel.
        const SEGV_ACCERR: i32 = 2;
        Self {
            signal: Signal::SIGSEGV,
            code: SEGV_ACCERR,
            addr,
        }
    }
}

thread_local! {
    static LAST: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Reads a byte.
pub fn load(addr: usize) -> Result<u8, Fault> {
    install();
    // SAFETY: A fault is handled, and a read changes nothing of ours.
    let seen = unsafe { uft_load(addr) };
    u8::try_from(seen).map_err(|_| take_last())
}

/// Writes a byte.  The address is one of an area under test.
pub fn store(addr: usize, value: u8) -> Result<(), Fault> {
    install();
    // SAFETY: A fault is handled, and the areas under test are never borrowed.
    let seen = unsafe { uft_store(addr, value) };
    if seen == FAULTED {
        return Err(take_last());
    }
    Ok(())
}

/// Reads words, as many as there is room for, from the first to the last.
pub fn copy(to: &mut [u64], from: usize) -> Result<(), Fault> {
    install();
    // SAFETY: There is room; a fault of the other side is handled.
    let seen = unsafe { uft_copy(to.as_mut_ptr(), from, 0, to.len()) };
    if seen == FAULTED {
        return Err(take_last());
    }
    Ok(())
}

fn take_last() -> Fault {
    LAST.take().expect("the handler has noted the fault")
}

/// Decides, in the signal handler, whether the access is to be made again.
pub type Resolver = fn(&Fault) -> bool;

static RESOLVER: AtomicUsize = AtomicUsize::new(0);

/// Lets `resolver` see every fault first, of any code.
pub fn set_resolver(resolver: Resolver) {
    install();
    RESOLVER.store(resolver as *const () as usize, Ordering::SeqCst);
}

/// Installs the handler, once.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in FAULTS {
            handle(signal);
        }
    });
}

/// Lets a signal end an access that waits, as if it had raised it.  Elsewhere it only interrupts.
pub fn give_up_on(signal: Signal) {
    handle(signal as libc::c_int);
}

fn handle(signal: libc::c_int) {
    // SAFETY: All bytes zero are a valid `sigaction`, and the handler has the right signature.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: The kernel passes valid pointers for SA_SIGINFO.  Signals that are no fault have some
    // number in the place of the address.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    let fault = Fault {
        signal: Signal::try_from(signal).expect("a known signal"),
        code: info.si_code,
        // SAFETY: As above.
        addr: unsafe { info.si_addr() } as usize,
    };

    let resolver = RESOLVER.load(Ordering::SeqCst);
    if resolver != 0 {
        // SAFETY: `set_resolver()` stored it.
        let resolver: Resolver = unsafe { std::mem::transmute(resolver) };
        if resolver(&fault) {
            return;
        }
    }

    if [
        uft_load as *const () as usize,
        uft_store as *const () as usize,
        uft_copy as *const () as usize,
    ]
    .contains(&program_counter(context))
    {
        LAST.set(Some(fault));
        set_program_counter(context, uft_fault as *const () as usize);
        return;
    }
    if FAULTS.contains(&signal) {
        // No access of a test's: the same fault comes again and kills.
        // SAFETY: Resetting a signal has no preconditions.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
