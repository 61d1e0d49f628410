// SPDX-License-Identifier: GPL-2.0

//! What is done with a descriptor: read, write, poll.

use kernel::{
    bindings,
    current,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    mm::{
        userfaultfd::Dialect,
        waiters::Report, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Full, //
    }, //
};

use crate::{
    protocol::{
        Command,
        State, //
    },
    registration,
    wake,
    Context,
    Descriptor, //
};

/// The size of a number that is read or written.
const WORD: usize = size_of::<u64>();

/// Reads the answer of the handshake, or after it the address of the oldest fault that was not
/// read.
///
/// Returns the bytes read, which are 8. Fails with `EINVAL` where there is no room for so many,
/// where the handshake has no answer to give, or where the descriptor speaks mainline's dialect;
/// `EFAULT` for a bad buffer, and then nothing is lost; `EAGAIN` where it would have to wait but is
/// not to; `ERESTARTSYS` for a signal; `ESRCH` where the process is gone. May sleep.
pub(crate) fn read(ctx: &Context, to: &mut IovIterDest<'_>, may_wait: bool) -> Result<usize> {
    if to.len() < WORD {
        return Err(EINVAL);
    }
    let descriptor = ctx.range().ok_or(EINVAL)?;
    let state = descriptor.state.load(Acquire);
    if state == State::Running {
        return read_fault(ctx, &descriptor, to, may_wait);
    }
    let (answer, next) = state.answer().ok_or(EINVAL)?;
    put(to, answer)?;
    // Where another has read the same answer meanwhile, that has made the step.
    if descriptor.state.cmpxchg(state, next, Full).is_ok() {
        ctx.notify(bindings::EPOLLIN | bindings::EPOLLOUT);
    }
    Ok(WORD)
}

fn read_fault(
    ctx: &Context,
    descriptor: &Descriptor,
    to: &mut IovIterDest<'_>,
    may_wait: bool,
) -> Result<usize> {
    let report = match descriptor.waiters.report() {
        Some(report) => report,
        None => next_fault(ctx, descriptor, may_wait)?,
    };
    let read = put(to, report.address() as u64);
    let events = match read {
        Ok(()) => {
            report.delivered();
            bindings::EPOLLOUT
        }
        Err(_) => {
            descriptor.waiters.take_back(report);
            bindings::EPOLLIN
        }
    };
    // Others who read are told, too, whichever way it went: we were on the queue with them until a
    // moment ago, and may have been the one whom a new fault woke.
    ctx.notify(events);
    read.map(|()| WORD)
}

/// Waits for a fault that was not read.
fn next_fault(ctx: &Context, descriptor: &Descriptor, may_wait: bool) -> Result<Report> {
    let ready = || match descriptor.waiters.report() {
        Some(report) => Some(Ok(report)),
        None => (!ctx.is_alive()).then_some(Err(ESRCH)),
    };
    if may_wait {
        return ctx.wait_to_read(ready)?;
    }
    if !ctx.is_alive() {
        return Err(ESRCH);
    }
    if current!().signal_pending() {
        return Err(ERESTARTSYS);
    }
    Err(EAGAIN)
}

/// Writes the version that is wanted, or after the handshake what is to be done with a range.
///
/// Returns the bytes that were used: 8 or 16, whatever follows them. Fails with `EINVAL` where
/// there are fewer, where the handshake waits to be read, or where the descriptor speaks mainline's
/// dialect; `EFAULT` for a bad buffer; what [`Command::new`] and [`registration`] say; `ENOENT`
/// where nobody was there to be woken, `ESRCH` where nobody can be.
///
/// May sleep, for memory and the mmap lock, as a copy from the buffer may. It waits for no event,
/// so a call that must not wait (`IOCB_NOWAIT`) is not refused: io_uring would go on when there is
/// a fault to be woken, which there need not ever be.
pub(crate) fn write(ctx: &Context, from: &mut IovIterSource<'_>) -> Result<usize> {
    let state = match ctx.dialect() {
        Dialect::Range(descriptor) => descriptor.state.load(Acquire),
        Dialect::Undecided => State::Ask,
        Dialect::Mainline => return Err(EINVAL),
    };
    if state == State::Running {
        if from.len() < 2 * WORD {
            return Err(EINVAL);
        }
        let command = Command::new(get(from)?, get(from)?)?;
        return run(ctx, command).map(|()| 2 * WORD);
    }
    if from.len() < WORD {
        return Err(EINVAL);
    }
    let next = state.ask(get(from)?).ok_or(EINVAL)?;
    let descriptor = ctx.speak_range()?;
    // Two may have asked at once.
    descriptor
        .state
        .cmpxchg(state, next, Full)
        .map_err(|_| EINVAL)?;
    ctx.notify(bindings::EPOLLIN);
    Ok(WORD)
}

fn run(ctx: &Context, command: Command) -> Result {
    match command {
        Command::Register(range) => registration::register(ctx, &range),
        Command::Unregister(range) => registration::unregister(ctx, &range),
        Command::Wake(range) if wake(ctx, range.clone()) => Ok(()),
        Command::Wake(_) if ctx.is_alive() => Err(ENOENT),
        Command::Wake(_) => Err(ESRCH),
    }
}

/// What the descriptor is ready for, as `EPOLL*`. Does not sleep.
pub(crate) fn poll(ctx: &Context) -> u32 {
    let descriptor = match ctx.dialect() {
        Dialect::Range(descriptor) => descriptor,
        Dialect::Undecided => return bindings::EPOLLOUT,
        Dialect::Mainline => return bindings::EPOLLERR,
    };
    match descriptor.state.load(Acquire) {
        State::Ask => bindings::EPOLLOUT,
        State::Known | State::Unknown => bindings::EPOLLIN,
        State::Running => {
            let counts = descriptor.waiters.counts();
            let mut events = 0;
            if counts.pending > 0 {
                events |= bindings::EPOLLIN;
            }
            if counts.total > counts.pending {
                events |= bindings::EPOLLOUT;
            }
            if !ctx.is_alive() {
                events |= bindings::EPOLLHUP;
            }
            events
        }
    }
}

fn put(to: &mut IovIterDest<'_>, word: u64) -> Result {
    match to.copy_to_iter(&word.to_ne_bytes()) == WORD {
        true => Ok(()),
        false => Err(EFAULT),
    }
}

fn get(from: &mut IovIterSource<'_>) -> Result<u64> {
    let mut word = [0; WORD];
    match from.copy_from_iter(&mut word) == WORD {
        true => Ok(u64::from_ne_bytes(word)),
        false => Err(EFAULT),
    }
}
