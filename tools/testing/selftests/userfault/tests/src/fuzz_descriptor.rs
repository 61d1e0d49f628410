// SPDX-License-Identifier: GPL-2.0

//! Calls of the fuzzer on a userfaultfd that speaks the range protocol, or no dialect yet.

use crate::fuzz_calls::Call;
use crate::fuzz_memory::{advise, resolve};
use crate::fuzz_thread::{pool, Thread, EPOLL, USERFAULTFDS, USERFAULTFD_DEVICE};
use crate::range::{PROTOCOL, REGISTER, UNREGISTER, USER_MODE_ONLY};
use crate::sys::{page, Span, MADV_NOUSERFAULT, MADV_USERFAULT};
use std::io::Write;

const WORD: usize = size_of::<u64>();

/// A descriptor, which probably speaks the range protocol.
fn some(t: &mut Thread) -> usize {
    t.userfaultfd(0)
}

/// Opens a descriptor in the place of another one.
pub fn open_at(t: &mut Thread, at: usize, flags: i32) -> nix::Result<()> {
    const NEW: usize = nix::request_code_none!(0xaa, 0) as usize;
    let flags = (flags | libc::O_CLOEXEC) as usize;
    let new = match t.one_in(4) {
        true => {
            let args = [USERFAULTFD_DEVICE, NEW, flags];
            t.call(Call::userfaultfd_device, libc::SYS_ioctl, &args)
        }
        false => t.call(Call::userfaultfd, libc::SYS_userfaultfd, &[flags]),
    }?;
    let args = [new, at, libc::O_CLOEXEC as usize];
    let _ = t.call(Call::dup, libc::SYS_dup3, &args);
    t.call(Call::close, libc::SYS_close, &[new]).map(drop)
}

pub fn open(t: &mut Thread) {
    let at = USERFAULTFDS.start + t.below(USERFAULTFDS.len());
    let flags = t.pick(&[0, libc::O_NONBLOCK, libc::O_NONBLOCK | USER_MODE_ONLY]);
    let _ = open_at(t, at, flags);
}

/// Opens one, says hello, and has it serve some of the memory.
pub fn open_range(t: &mut Thread) {
    let fd = some(t);
    let flags = t.pick(&[0, libc::O_NONBLOCK, libc::O_NONBLOCK, USER_MODE_ONLY]);
    if open_at(t, fd, flags).is_err() {
        return;
    }
    let _ = write_words(t, Call::range_version, fd, &[PROTOCOL]);
    let _ = read_word(t, Call::range_answer, fd);
    for _ in 0..1 + t.below(3) {
        let span = if t.one_in(3) { pool() } else { t.span() };
        if t.one_in(2) {
            let _ = advise(t, Call::madv_userfault, MADV_USERFAULT, span);
        }
        let words = [span.addr as u64 | REGISTER, span.end() as u64];
        let _ = write_words(t, Call::range_register, fd, &words);
    }
}

fn write_words(t: &mut Thread, call: Call, fd: usize, words: &[u64]) -> nix::Result<usize> {
    let args = [fd, words.as_ptr() as usize, size_of_val(words)];
    t.call(call, libc::SYS_write, &args)
}

fn read_word(t: &mut Thread, call: Call, fd: usize) -> nix::Result<u64> {
    let mut word = 0u64;
    t.call(call, libc::SYS_read, &[fd, &raw mut word as usize, WORD])?;
    Ok(word)
}

/// Reads faults and does something about each.
pub fn serve(t: &mut Thread) {
    let fd = some(t);
    for _ in 0..1 + t.below(4) {
        let Ok(addr) = read_word(t, Call::range_read, fd) else {
            return;
        };
        let span = Span::new(addr as usize, page());
        if t.one_in(8) {
            // Nothing: it waits on.
            continue;
        }
        if resolve(t, span.addr).is_err() && t.one_in(2) {
            let _ = advise(t, Call::madv_nouserfault, MADV_NOUSERFAULT, span);
        }
        wake_span(t, fd, span);
    }
}

fn wake_span(t: &mut Thread, fd: usize, span: Span) {
    let words = [span.addr as u64, span.end() as u64];
    let words = words.map(|word| t.spoil(word as usize) as u64);
    let _ = write_words(t, Call::range_wake, fd, &words);
}

pub fn wake(t: &mut Thread) {
    let fd = some(t);
    let span = if t.one_in(2) { pool() } else { t.span() };
    wake_span(t, fd, span);
}

pub fn register(t: &mut Thread) {
    let (fd, span) = (some(t), t.span());
    let (call, command) = match t.one_in(3) {
        true => (Call::range_unregister, UNREGISTER),
        false => (Call::range_register, REGISTER),
    };
    // Both commands at once, and a range that is empty or the wrong way round.
    let command = if t.one_in(32) {
        REGISTER | UNREGISTER
    } else {
        command
    };
    let (start, end) = match t.below(32) {
        0 => (span.addr, span.addr),
        1 => (span.end(), span.addr),
        _ => (span.addr, span.end()),
    };
    let words = [t.spoil(start) as u64 | command, t.spoil(end) as u64];
    let _ = write_words(t, call, fd, &words);
}

/// The version, or another one, or half of it, to whichever descriptor.
pub fn handshake(t: &mut Thread) {
    let fd = some(t);
    let version = if t.one_in(2) {
        PROTOCOL
    } else {
        t.below(1 << 16) as u64
    };
    let len = t.pick(&[WORD, WORD, WORD, 4, 0, 16]);
    let words = [version, t.below(4) as u64];
    let args = [fd, words.as_ptr() as usize, len];
    let _ = t.call(Call::range_version, libc::SYS_write, &args);
    let _ = read_word(t, Call::range_answer, fd);
}

/// Reads that go wrong, or to two places at once.
pub fn read(t: &mut Thread) {
    let (fd, addr) = (some(t), t.address());
    if t.one_in(2) {
        let mut word = [0u32; 2];
        let halves = [0, 1].map(|half| &raw mut word[half] as usize);
        let halves = halves.map(|at| Span::new(at, WORD / 2).iovec());
        let _ = t.call(
            Call::range_readv,
            libc::SYS_readv,
            &[fd, halves.as_ptr() as usize, 2],
        );
        return;
    }
    // To memory that may be a hole, and that the descriptor may serve itself.
    let to = t.pick(&[addr, addr + page() - 4, 0, usize::MAX - 64]);
    let len = t.pick(&[WORD, WORD, 4, 64, page()]);
    let _ = t.call(Call::range_read_bad, libc::SYS_read, &[fd, to, len]);
}

/// Writes that go wrong, or from two places at once.
pub fn write(t: &mut Thread) {
    let (fd, span) = (some(t), t.span());
    let from = t.address();
    if t.one_in(2) {
        let words = [span.addr as u64, span.end() as u64];
        let second = if t.one_in(4) {
            from
        } else {
            &raw const words[1] as usize
        };
        let halves = [&raw const words[0] as usize, second].map(|at| Span::new(at, WORD).iovec());
        let _ = t.call(
            Call::range_writev,
            libc::SYS_writev,
            &[fd, halves.as_ptr() as usize, 2],
        );
        return;
    }
    let words = [t.below(1 << 20) as u64, span.addr as u64, span.end() as u64];
    match t.one_in(2) {
        true => {
            let from = t.pick(&[from, from + page() - 4, from + page() - WORD, 0]);
            let len = t.pick(&[WORD, 2 * WORD, page()]);
            let _ = t.call(Call::range_write_bad, libc::SYS_write, &[fd, from, len]);
        }
        false => {
            let len = 1 + t.below(size_of_val(&words));
            let args = [fd, words.as_ptr() as usize, len];
            let _ = t.call(Call::range_write, libc::SYS_write, &args);
        }
    }
}

pub fn poll(t: &mut Thread) {
    let mut fds: [libc::pollfd; 6] = std::array::from_fn(|index| libc::pollfd {
        fd: (USERFAULTFDS.start + index) as i32,
        events: libc::POLLIN | libc::POLLOUT,
        revents: 0,
    });
    let timeout = t.below(3);
    let args = [fds.as_mut_ptr() as usize, fds.len(), timeout];
    let _ = t.call(Call::poll, libc::SYS_poll, &args);
}

pub fn epoll(t: &mut Thread) {
    if t.one_in(2) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let args = [
            EPOLL,
            events.as_mut_ptr() as usize,
            events.len(),
            t.below(3),
        ];
        let _ = t.call(Call::epoll_wait, libc::SYS_epoll_wait, &args);
        return;
    }
    let what = t.pick(&[
        libc::EPOLL_CTL_ADD,
        libc::EPOLL_CTL_MOD,
        libc::EPOLL_CTL_DEL,
    ]);
    let more = t.pick(&[0, libc::EPOLLET, libc::EPOLLONESHOT, libc::EPOLLEXCLUSIVE]);
    let event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLOUT | more) as u32,
        u64: 0,
    };
    let args = [EPOLL, what as usize, some(t), &raw const event as usize];
    let _ = t.call(Call::epoll_ctl, libc::SYS_epoll_ctl, &args);
}

pub fn close(t: &mut Thread) {
    let fd = USERFAULTFDS.start + t.below(USERFAULTFDS.len());
    let _ = t.call(Call::close, libc::SYS_close, &[fd]);
}

pub fn dup(t: &mut Thread) {
    let (from, to) = (some(t), some(t));
    let args = [from, to, libc::O_CLOEXEC as usize];
    let _ = t.call(Call::dup, libc::SYS_dup3, &args);
}

pub fn fdinfo(t: &mut Thread) {
    let mut path = [0u8; 64];
    let fd = some(t);
    let written = write!(&mut path[..], "/proc/self/fdinfo/{fd}");
    let mut text = [0u8; 512];
    if written.is_ok() {
        t.read_file(Call::fdinfo, &path, &mut text);
    }
}
