// SPDX-License-Identifier: GPL-2.0

//! Faults that a descriptor serves: who waits, who is told, what wakes.

use crate::harness::{rounds, Outcome};
use crate::proc::{ensure_holes, entry};
use crate::process::{interrupt, join};
use crate::range::{page_at, resolve, serve, wait_until, LetGo, Range, A_WHILE};
use crate::special::{folio_pages, pages_of_folios, pipe_with};
use crate::sys::{page, pmd_pages, remap, remap_all, Area, Map, Span, RAP_WAKE};
use crate::{ensure_eq, register};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// A54, A55, A59, A67: a touch is told by its page's address, the page is put there, and a write
/// wakes the thread, which sees it.
fn a54_a59_touch_read_move_wake() -> Outcome {
    let (src, dst) = (Area::filled(4, 1)?, Area::pages(4)?);
    let fd = Range::serving(*dst)?;
    for (index, store) in [(0, false), (1, true), (2, false), (3, true)] {
        let (hole, from) = (dst.page(index), src.page(index));
        dst.mark()?;
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(*dst);
            let thread = scope.spawn(move || -> Outcome {
                let last = Span::new(hole.end() - 1, 1);
                if store {
                    let byte = from.bytes()[page() - 1];
                    ensure_eq!(last.store(byte), Ok(()));
                } else {
                    last.load().map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
                }
                Ok(())
            });
            ensure_eq!(fd.fault()?, hole.addr, "not the page's own address");
            ensure_eq!(fd.ready()?, PollFlags::POLLOUT);
            ensure_eq!(fd.counts()?, (0, 1));
            ensure_holes(hole)?;
            remap_all(hole, from)?;
            ensure_eq!(fd.wake(hole), Ok(16));
            ensure_eq!(fd.wake(hole), Err(Errno::ENOENT), "woken twice");
            join(thread)
        })?;
        hole.check(1 + index as u32)?;
        ensure_eq!(fd.ready()?, PollFlags::empty());
    }
    ensure_eq!(fd.counts()?, (0, 0));
    Ok(())
}

/// The same where RAP_WAKE wakes: the write after it finds nobody.
fn a54_rap_wake() -> Outcome {
    let (src, dst) = (Area::filled(2, 1)?, Area::pages(2)?);
    let fd = Range::serving(*dst)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(|| dst.page(1).check(2));
        ensure_eq!(fd.fault()?, dst.page(1).addr);
        ensure_eq!(remap(*dst, *src, RAP_WAKE), Ok(dst.len));
        join(thread)?;
        ensure_eq!(fd.wake(*dst), Err(Errno::ENOENT));
        Ok(())
    })?;
    dst.check_pages(1)
}

/// A54: RAP_WAKE wakes who waits for what has moved, though the beginning of that is not served any
/// more when the call comes to its end.
fn a54_rap_wake_of_the_rest() -> Outcome {
    let size = folio_pages();
    for _ in 0..20 {
        let (src, dst) = (pages_of_folios(size, 1)?, Area::pages(size + 1)?);
        let fd = Range::serving(*dst)?;
        // The first folio moves.  The second would have to be split, which whoever has it keeps the
        // call from, so that it tries again for a while.
        let _pipe = pipe_with(src.page(size))?;
        let over = AtomicBool::new(false);
        let in_time = thread::scope(|scope| -> anyhow::Result<bool> {
            let _end = LetGo::at_the_end(*dst);
            let waiting = scope.spawn(|| dst.page(size - 1).check(size as u32));
            ensure_eq!(fd.fault()?, dst.page(size - 1).addr);
            let moving = scope.spawn(|| -> Outcome {
                let moved = remap(*dst, src.pages(0..size + 1), RAP_WAKE);
                over.store(true, Ordering::SeqCst);
                ensure_eq!(moved, Ok(size * page()));
                Ok(())
            });
            while !entry(dst.page(0))?.present() {
                ensure!(!moving.is_finished(), "nothing has moved");
            }
            ensure_eq!(fd.unregister(dst.page(0)), Ok(16));
            let in_time = !over.load(Ordering::SeqCst);
            join(moving)?;
            wait_until(|| Ok(waiting.is_finished())).context("it was not woken")?;
            join(waiting)?;
            Ok(in_time)
        })?;
        if in_time {
            return Ok(());
        }
    }
    bail!("never before the end of the call")
}

/// RAP_WAKE where nobody serves, or nobody waits, is no error.
fn a18_rap_wake_alone() -> Outcome {
    let (src, dst) = (Area::filled(2, 1)?, Area::pages(2)?);
    ensure_eq!(remap(dst.page(0), src.page(0), RAP_WAKE), Ok(page()));
    let _fd = Range::serving(*dst)?;
    ensure_eq!(remap(dst.page(1), src.page(1), RAP_WAKE), Ok(page()));
    dst.check_pages(1)
}

/// A33: in memory for huge pages the address is that of the page that was touched, and a small
/// page resolves it.
fn c22_huge_memory() -> Outcome {
    let (src, dst) = (Area::filled(1, 7)?, Map::huge_pages(1).map()?);
    dst.want_huge()?;
    let fd = Range::serving(*dst)?;
    let hole = dst.page(77 % pmd_pages());
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(|| hole.check(7));
        ensure_eq!(fd.fault()?, hole.addr);
        ensure_eq!(
            fd.wake(page_at(dst.addr)),
            Err(Errno::ENOENT),
            "the huge page's address"
        );
        resolve(hole, *src)?;
        join(thread)
    })
}

/// A58, C27, C28: faults are read in the order of their age, each once; a wake wakes read and
/// unread ones.
fn a58_c27_c28_oldest_first() -> Outcome {
    const THREADS: usize = 8;
    let dst = Area::pages(THREADS)?;
    let (src, fd) = (Area::filled(THREADS, 1)?, Range::serving(*dst)?);
    let order: Vec<usize> = (0..THREADS).map(|i| i * 5 % THREADS).collect();
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let mut threads = Vec::new();
        for (count, index) in order.iter().enumerate() {
            let part = dst.page(*index);
            threads.push(scope.spawn(move || part.check(1 + *index as u32)));
            fd.wait_for(count as u64 + 1)?;
        }
        for index in &order[..THREADS / 2] {
            ensure_eq!(fd.fault()?, dst.page(*index).addr);
        }
        ensure_eq!(fd.counts()?, (THREADS as u64 / 2, THREADS as u64));
        ensure_eq!(fd.ready()?, PollFlags::POLLIN | PollFlags::POLLOUT);
        remap_all(*dst, *src)?;
        ensure_eq!(fd.wake(*dst), Ok(16));
        ensure_eq!(fd.counts()?, (0, 0));
        threads.into_iter().try_for_each(join)
    })?;
    fd.ensure_silent()
}

/// A58, C27: several threads in one hole are all told, and all woken at once.
fn a58_several_in_one_hole() -> Outcome {
    const THREADS: u64 = 6;
    let (src, dst) = (Area::filled(1, 3)?, Area::pages(1)?);
    let fd = Range::serving(*dst)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| dst.check(3))).collect();
        fd.wait_for(THREADS)?;
        for _ in 0..THREADS / 2 {
            ensure_eq!(fd.fault()?, dst.addr);
        }
        resolve(*dst, *src)?;
        threads.into_iter().try_for_each(join)
    })?;
    ensure_eq!(fd.counts()?, (0, 0));
    Ok(())
}

/// C20: a hole that is filled between the touch and the sleep does not hold anybody: no wake is
/// lost, however they race.
fn c20_no_wake_is_lost() -> Outcome {
    let (src, dst) = (Area::pages(1)?, Area::pages(1)?);
    let fd = Range::serving(*dst)?;
    for round in rounds(Duration::from_secs(5)) {
        src.fill(round);
        dst.mark()?;
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(*dst);
            let thread = scope.spawn(|| dst.check(round));
            // Without a look at the descriptor: before, after, or amidst the touch.
            resolve(*dst, *src)?;
            join(thread)
        })
        .with_context(|| format!("round {round}"))?;
        dst.advise(libc::MADV_DONTNEED)?;
        // Who came first waited, and may have been told.
        ensure_eq!(fd.counts()?, (0, 0));
    }
    Ok(())
}

/// C21: a wake without a page: the thread touches again, and is told again, as often as it takes.
fn c21_wake_without_a_page() -> Outcome {
    let (src, dst) = (Area::filled(1, 1)?, Area::pages(1)?);
    let fd = Range::serving(*dst)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(|| dst.check(1));
        for _ in 0..50 {
            ensure_eq!(fd.fault()?, dst.addr);
            ensure_eq!(fd.wake(*dst), Ok(16));
        }
        ensure_eq!(fd.fault()?, dst.addr);
        resolve(*dst, *src)?;
        join(thread)
    })
}

/// C23: a fault whose report cannot be copied out is reported again, before the younger ones.
fn c23_report_that_is_not_copied() -> Outcome {
    let nowhere = Map::pages(1).prot(libc::PROT_NONE).map()?;
    let (src, dst) = (Area::filled(2, 1)?, Area::pages(2)?);
    let fd = Range::serving(*dst)?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let part = dst.page(index);
                let thread = scope.spawn(move || part.check(1 + index as u32));
                fd.wait_for(index as u64 + 1).map(|()| thread)
            })
            .collect::<anyhow::Result<_>>()?;
        for _ in 0..3 {
            let raw = fd.raw();
            // SAFETY: The kernel checks the pointer.
            let read = unsafe { libc::read(raw, nowhere.addr as *mut _, 8) };
            ensure_eq!(Errno::result(read), Err(Errno::EFAULT));
            ensure_eq!(fd.counts()?, (2, 2));
        }
        ensure_eq!(fd.fault()?, dst.page(0).addr);
        ensure_eq!(fd.fault()?, dst.page(1).addr);
        remap_all(*dst, *src)?;
        ensure_eq!(fd.wake(*dst), Ok(16));
        threads.into_iter().try_for_each(join)
    })
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Counts SIGUSR1, which does not start interrupted calls again.
pub fn handle_sigusr1() -> Outcome {
    let action = SigAction::new(
        SigHandler::Handler(on_signal),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: The handler does what a handler may.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    Ok(())
}

/// A71, C18: a signal's handler runs while its thread waits for a page, and then the touch is made
/// and told again.
fn a71_c18_signal_in_a_wait() -> Outcome {
    handle_sigusr1()?;
    let (src, dst) = (Area::filled(1, 9)?, Area::pages(1)?);
    let fd = Range::serving(*dst)?;
    let hole = *dst;
    let thread = thread::spawn(move || hole.check(9));
    for round in 0..10 {
        ensure_eq!(fd.fault()?, dst.addr);
        interrupt(&thread)?;
        wait_until(|| Ok(HANDLED.load(Ordering::SeqCst) > round))?;
    }
    ensure_eq!(fd.fault()?, dst.addr);
    ensure_eq!(
        fd.counts()?,
        (0, 1),
        "one that was interrupted is still there"
    );
    resolve(*dst, *src)?;
    thread.join().expect("no panic")
}

/// A65: a descriptor serves what is marked; what is not is filled as ever, also while it is
/// registered.
fn a65_without_the_mark() -> Outcome {
    let area = Area::pages(2)?;
    let fd = Range::new()?;
    fd.register(*area)?;
    area.page(0).check_zero()?;
    area.mark()?;
    let (src, hole) = (Area::filled(1, 1)?, area.page(1));
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| hole.check(1));
        ensure_eq!(fd.fault()?, hole.addr);
        resolve(hole, *src)?;
        join(thread)
    })
}

/// A73: each descriptor is told of its own ranges only.
fn a73_many_descriptors() -> Outcome {
    const COUNT: usize = 16;
    let (src, dst) = (Area::filled(COUNT, 1)?, Area::marked(COUNT)?);
    let fds: Vec<_> = (0..COUNT).map(|_| Range::new()).collect::<Result<_, _>>()?;
    for (fd, part) in fds.iter().zip(dst.each_page()) {
        fd.register(part)?;
    }
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(|| dst.check_pages(1));
        for (index, fd) in fds.iter().enumerate() {
            ensure_eq!(fd.fault()?, dst.page(index).addr);
            for other in &fds {
                ensure_eq!(other.counts()?.0, 0);
            }
            resolve(dst.page(index), src.page(index))?;
        }
        join(thread)
    })
}

/// A57: readers that wait get one fault each, and never the same.
fn a57_readers_do_not_share() -> Outcome {
    const FAULTS: usize = 64;
    let (src, dst) = (Area::filled(FAULTS, 1)?, Area::pages(FAULTS)?);
    let fd = Range::serving(*dst)?;
    let seen: Vec<AtomicUsize> = (0..FAULTS).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    loop {
                        let index = (fd.read()? as usize - dst.addr) / page();
                        seen[index].fetch_add(1, Ordering::SeqCst);
                        resolve(dst.page(index), src.page(index))?;
                        if index >= FAULTS - 4 {
                            return Ok(());
                        }
                    }
                })
            })
            .collect();
        for part in 0..FAULTS - 4 {
            dst.page(part).check(1 + part as u32)?;
        }
        // The last ones let one reader go each.
        for part in FAULTS - 4..FAULTS {
            dst.page(part).check(1 + part as u32)?;
        }
        readers.into_iter().try_for_each(join)
    })?;
    for (index, count) in seen.iter().enumerate() {
        ensure_eq!(count.load(Ordering::SeqCst), 1, "page {index}");
    }
    Ok(())
}

/// A56: a read that does not wait says EAGAIN, one that waits is interrupted by a signal.
fn a56_read_waits() -> Outcome {
    let dst = Area::pages(1)?;
    let eager = Range::without_waiting()?;
    ensure_eq!(eager.read(), Err(Errno::EAGAIN));
    handle_sigusr1()?;
    let fd = std::sync::Arc::new(Range::serving(*dst)?);
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let thread = thread::spawn({
        let (fd, done) = (fd.clone(), done.clone());
        move || {
            let read = fd.read();
            done.store(true, Ordering::SeqCst);
            read
        }
    });
    thread::sleep(A_WHILE);
    ensure!(!done.load(Ordering::SeqCst), "it has not waited");
    wait_until(|| {
        interrupt(&thread)?;
        Ok(done.load(Ordering::SeqCst))
    })?;
    ensure_eq!(thread.join().expect("no panic"), Err(Errno::EINTR));
    Ok(())
}

/// Many threads fault at once, served by one and by four handlers: every one goes on, with its
/// page.
fn a59_many_threads() -> Outcome {
    for (threads, handlers) in [(1, 1), (16, 1), (64, 4), (256, 1), (256, 4)] {
        let (src, dst) = (Area::filled(threads, 1)?, Area::pages(threads)?);
        let fd = Range::with(libc::O_NONBLOCK)?;
        dst.mark()?;
        fd.register(*dst)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(*dst);
            let handlers: Vec<_> = (0..handlers)
                .map(|_| scope.spawn(|| serve(&fd, *dst, *src, &over)))
                .collect();
            let faulters: Vec<_> = (0..threads)
                .map(|index| {
                    let part = dst.page(index);
                    scope.spawn(move || part.check(1 + index as u32))
                })
                .collect();
            let seen: Outcome = faulters.into_iter().try_for_each(join);
            over.store(true, Ordering::SeqCst);
            handlers.into_iter().try_for_each(join)?;
            seen
        })
        .with_context(|| format!("{threads} threads, {handlers} handlers"))?;
        ensure_eq!(fd.counts()?, (0, 0));
    }
    Ok(())
}

register!(
    a54_a59_touch_read_move_wake,
    a54_rap_wake,
    a54_rap_wake_of_the_rest,
    a18_rap_wake_alone,
    c22_huge_memory,
    a58_c27_c28_oldest_first,
    a58_several_in_one_hole,
    c20_no_wake_is_lost,
    c21_wake_without_a_page,
    c23_report_that_is_not_copied,
    a71_c18_signal_in_a_wait,
    a65_without_the_mark,
    a73_many_descriptors,
    a57_readers_do_not_share,
    a56_read_waits,
    a59_many_threads,
);
