// SPDX-License-Identifier: GPL-2.0

//! Faults that a descriptor serves, while others change what it serves: whoever touches a page sees
//! what the handler has put there, or the signal that is due.  Never a page that nobody has filled.

use crate::harness::{rounds, Numbers, Outcome};
use crate::process::join;
use crate::range::{resolve, LetGo, Range};
use crate::sys::{page, pattern, Area, Map, Span};
use crate::touch::{self, Fault};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const PAGES: usize = 16;
const TIME: Duration = Duration::from_secs(6);

/// What is under test: memory that threads touch, whose pages a handler makes.
struct Race {
    dst: Area,
    fd: Range,
    over: AtomicBool,
    /// How many touches have seen a page, and how many a signal.
    pages: AtomicU64,
    signals: AtomicU64,
}

impl Race {
    fn new() -> anyhow::Result<Self> {
        let dst = Area::marked(PAGES)?;
        let fd = Range::without_waiting()?;
        fd.register(*dst)?;
        Ok(Self {
            dst,
            fd,
            over: AtomicBool::new(false),
            pages: AtomicU64::new(0),
            signals: AtomicU64::new(0),
        })
    }

    /// Makes each page that is asked for, and puts it in place.
    fn handle(&self) -> Outcome {
        let scratch = Area::pages(1)?;
        // A child is not to have a share in it.
        scratch.advise(libc::MADV_DONTFORK)?;
        while !self.over.load(Ordering::SeqCst) {
            match self.fd.read() {
                Ok(addr) => {
                    let index = (addr as usize - self.dst.addr) / page();
                    scratch.fill(index as u32);
                    resolve(self.dst.page(index), *scratch).or_else(gone)?;
                    // The page may be one that another call has put there, which wakes nobody.
                    match self.fd.wake(self.dst.page(index)) {
                        Ok(_) | Err(Errno::ENOENT) => {}
                        Err(error) => return Err(error).context("wake"),
                    }
                }
                Err(Errno::EAGAIN) => self.fd.wait_a_little()?,
                Err(error) => return Err(error).context("read"),
            }
        }
        Ok(())
    }

    /// Touches pages, and checks what it sees.
    fn touch(&self, seed: u64, due: &[Signal]) -> Outcome {
        let mut numbers = Numbers(seed);
        while !self.over.load(Ordering::SeqCst) {
            let index = numbers.below(PAGES);
            let mut word = [0];
            match touch::copy(&mut word, self.dst.page(index).addr) {
                Ok(()) => {
                    ensure_eq!(word[0], pattern(index as u32, 0), "page {index}");
                    self.pages.fetch_add(1, Ordering::Relaxed);
                }
                Err(Fault { signal, .. }) => {
                    ensure!(due.contains(&signal), "{signal} at page {index}");
                    self.signals.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Runs it all, with `disturb` again and again beside it.
    fn run(&self, due: &[Signal], mut disturb: impl FnMut(&mut Numbers) -> Outcome) -> Outcome {
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(*self.dst);
            let mut threads = vec![scope.spawn(|| self.handle())];
            for seed in 1..4 {
                threads.push(scope.spawn(move || self.touch(seed, due)));
            }
            let mut numbers = Numbers(7);
            let disturbed: Outcome =
                rounds(TIME).try_for_each(|_| match threads.iter().any(|t| t.is_finished()) {
                    true => Err(anyhow::anyhow!("a thread has ended")),
                    false => disturb(&mut numbers),
                });
            self.over.store(true, Ordering::SeqCst);
            // Whoever waits for the handler is let go by the last one.
            self.fd.unregister(*self.dst)?;
            for thread in threads {
                join(thread)?;
            }
            disturbed
        })?;
        ensure!(self.pages.load(Ordering::Relaxed) > 0, "no page was seen");
        Ok(())
    }

    /// Some pages of it.
    fn part(&self, numbers: &mut Numbers) -> Span {
        let first = numbers.below(PAGES);
        let count = 1 + numbers.below(PAGES - first);
        self.dst.pages(first..first + count)
    }
}

/// A page that was to be put where memory has gone meanwhile.
fn gone(error: anyhow::Error) -> Outcome {
    match error.downcast_ref::<Errno>() {
        Some(Errno::EINVAL | Errno::EBUSY) => Ok(()),
        _ => Err(error),
    }
}

/// Registrations that come and go: a touch is served, or SIGBUS.
fn a70_registration_storm() -> Outcome {
    let race = Race::new()?;
    race.run(&[Signal::SIGBUS], |numbers| {
        let part = race.part(numbers);
        match numbers.below(3) {
            0 => race.fd.unregister(part)?,
            _ => race.fd.register(part)?,
        };
        race.part(numbers).advise(libc::MADV_DONTNEED)?;
        Ok(())
    })?;
    ensure!(
        race.signals.load(Ordering::Relaxed) > 0,
        "no signal was seen"
    );
    Ok(())
}

/// Pages that go: every touch is served, as often as it takes.  SIGBUS is due at the end alone.
fn a70_dontneed_storm() -> Outcome {
    let race = Race::new()?;
    race.run(&[Signal::SIGBUS], |numbers| {
        race.part(numbers).advise(libc::MADV_DONTNEED)?;
        ensure_eq!(race.signals.load(Ordering::Relaxed), 0);
        Ok(())
    })
}

/// Memory that is unmapped and mapped anew, and moved to and fro.
fn c25_mapping_storm() -> Outcome {
    let race = Race::new()?;
    let aside = Map::pages(PAGES).map()?;
    race.run(&[Signal::SIGBUS, Signal::SIGSEGV], |numbers| {
        match numbers.below(2) {
            0 => {
                // No place is ever free: somebody else would take it.
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
                let moved = race.dst.mremap(race.dst.len, flags, aside.addr)?;
                moved.advise(libc::MADV_DONTNEED)?;
                moved.mremap(moved.len, flags, race.dst.addr)?;
            }
            _ => {
                // SAFETY: The area is under test, and never borrowed.
                let mapped = unsafe {
                    libc::mmap(
                        race.dst.addr as *mut libc::c_void,
                        race.dst.len,
                        // Until it is marked nobody is to see that it is ordinary memory.
                        libc::PROT_NONE,
                        libc::MAP_PRIVATE
                            | libc::MAP_ANONYMOUS
                            | libc::MAP_NORESERVE
                            | libc::MAP_FIXED,
                        -1,
                        0,
                    )
                };
                ensure!(mapped != libc::MAP_FAILED, "mmap");
                race.dst.mark()?;
                race.fd.register(*race.dst)?;
                race.dst.protect(libc::PROT_READ | libc::PROT_WRITE)?;
            }
        }
        Ok(())
    })
}

/// Forks beside faults: the parent's are served, and nothing of the child's reaches it.
fn c31_fork_storm() -> Outcome {
    let race = Race::new()?;
    race.run(&[Signal::SIGBUS], |numbers| {
        // SAFETY: The child does nothing but end.
        match unsafe { libc::fork() } {
            -1 => return Err(Errno::last()).context("fork"),
            // SAFETY: Ends the child.
            0 => unsafe { libc::_exit(0) },
            child => {
                nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None)?;
            }
        }
        race.part(numbers).advise(libc::MADV_DONTNEED)?;
        Ok(())
    })
}

register!(
    a70_registration_storm,
    a70_dontneed_storm,
    c25_mapping_storm,
    c31_fork_storm,
);
