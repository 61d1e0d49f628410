// SPDX-License-Identifier: GPL-2.0

//! Calls of the fuzzer on a userfaultfd that speaks mainline's dialect.

use crate::fuzz_calls::Call;
use crate::fuzz_descriptor::open_at;
use crate::fuzz_memory::{fresh, map_file, map_new, touch_one};
use crate::fuzz_thread::{pool, Thread};
use crate::range::USER_MODE_ONLY;
use crate::sys::{page, Span};

const API: u64 = 0xaa;
/// Without an event for each change of memory, which its maker waits for until it is read.
const FEATURES: u64 = 0x7ffff & !EVENTS;
const EVENTS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;
/// What each operation needs of them.
const ALL_OPERATIONS: u64 = 1 << 10 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 17;
/// With this one nobody waits.
const SIGBUS: u64 = 1 << 7;
const MISSING: u64 = 1 << 0;
const WP: u64 = 1 << 1;
const MINOR: u64 = 1 << 2;
const RWP: u64 = 1 << 3;

/// An operation: what it is counted as, and the request of its ioctl.
struct Operation {
    call: Call,
    request: usize,
}

const fn read_write(call: Call, number: u8, words: usize) -> Operation {
    let size = words * size_of::<u64>();
    Operation {
        call,
        request: nix::request_code_readwrite!(0xaa, number, size) as usize,
    }
}

const fn read(call: Call, number: u8, words: usize) -> Operation {
    let size = words * size_of::<u64>();
    Operation {
        call,
        request: nix::request_code_read!(0xaa, number, size) as usize,
    }
}

const fn write(call: Call, number: u8, words: usize) -> Operation {
    let size = words * size_of::<u64>();
    Operation {
        call,
        request: nix::request_code_write!(0xaa, number, size) as usize,
    }
}

const API_OP: Operation = read_write(Call::uffdio_api, 0x3f, 3);
const REGISTER_OP: Operation = read_write(Call::uffdio_register, 0x00, 4);
const UNREGISTER_OP: Operation = read(Call::uffdio_unregister, 0x01, 2);
const WAKE_OP: Operation = read(Call::uffdio_wake, 0x02, 2);
const COPY_OP: Operation = read_write(Call::uffdio_copy, 0x03, 5);
const ZEROPAGE_OP: Operation = read_write(Call::uffdio_zeropage, 0x04, 4);
const MOVE_OP: Operation = read_write(Call::uffdio_move, 0x05, 5);
const WRITEPROTECT_OP: Operation = read_write(Call::uffdio_writeprotect, 0x06, 3);
const CONTINUE_OP: Operation = read_write(Call::uffdio_continue, 0x07, 4);
const POISON_OP: Operation = read_write(Call::uffdio_poison, 0x08, 4);
const RWPROTECT_OP: Operation = read_write(Call::uffdio_rwprotect, 0x09, 3);
const SET_MODE_OP: Operation = write(Call::uffdio_set_mode, 0x0a, 2);

/// A descriptor, which probably speaks mainline's dialect.
fn some(t: &mut Thread) -> usize {
    t.userfaultfd(1)
}

fn ioctl(t: &mut Thread, fd: usize, operation: Operation, words: &mut [u64]) -> bool {
    let args = [fd, operation.request, words.as_mut_ptr() as usize];
    t.call(operation.call, libc::SYS_ioctl, &args).is_ok()
}

/// Opens one, says hello, and registers some of the memory.
pub fn open(t: &mut Thread) {
    let fd = some(t);
    let flags = t.pick(&[libc::O_NONBLOCK, libc::O_NONBLOCK, USER_MODE_ONLY]);
    if !t.one_in(8) && open_at(t, fd, flags).is_err() {
        return;
    }
    let features = match t.below(8) {
        0 => SIGBUS,
        1 => FEATURES & !SIGBUS,
        2 => FEATURES & !SIGBUS & t.below(1 << 30) as u64,
        3 => FEATURES | 1 << t.below(64),
        4 => EVENTS & t.below(1 << 7) as u64,
        _ => 0,
    };
    let api = if t.one_in(32) { API + 1 } else { API };
    ioctl(t, fd, API_OP, &mut [api, features, 0]);
    if t.one_in(2) {
        fresh(t);
    }
    for _ in 0..1 + t.below(2) {
        register_at(t, fd);
    }
}

fn register_at(t: &mut Thread, fd: usize) -> bool {
    let span = if t.one_in(3) { pool() } else { t.span() };
    let mode = t.pick(&[MISSING, MISSING, MISSING, WP, MISSING | WP, RWP, MINOR]);
    let mode = if t.one_in(16) {
        t.below(64) as u64
    } else {
        mode
    };
    ioctl(
        t,
        fd,
        REGISTER_OP,
        &mut [span.addr as u64, span.len as u64, mode, 0],
    )
}

pub fn register(t: &mut Thread) {
    let (fd, span) = (some(t), t.span());
    match t.below(4) {
        0 => ioctl(
            t,
            fd,
            UNREGISTER_OP,
            &mut [span.addr as u64, span.len as u64],
        ),
        1 => {
            let words = [t.spoil(span.addr) as u64, t.spoil(span.len) as u64];
            ioctl(t, fd, WAKE_OP, &mut { words })
        }
        2 => {
            const RWP_ASYNC: u64 = 1 << 18;
            let words = [RWP_ASYNC * t.below(2) as u64, RWP_ASYNC * t.below(2) as u64];
            ioctl(t, fd, SET_MODE_OP, &mut { words })
        }
        _ => register_at(t, fd),
    };
}

/// Reads faults, and fills the holes.
pub fn serve(t: &mut Thread) {
    let fd = some(t);
    for _ in 0..1 + t.below(3) {
        let mut message = [0u64; 4];
        let args = [fd, message.as_mut_ptr() as usize, size_of_val(&message)];
        if t.call(Call::uffd_read, libc::SYS_read, &args).is_err() {
            return;
        }
        let addr = message[2] as usize & !(page() - 1);
        fill_at(t, fd, Span::new(addr, page()));
    }
}

/// Fills holes, whether there was a fault or not, and does what else there is to do with a range.
pub fn fill(t: &mut Thread) {
    let (fd, span) = (some(t), t.short_span());
    fill_at(t, fd, span);
}

/// Does one operation on memory that is just right for it.
pub fn succeed(t: &mut Thread) {
    let (fd, from) = (some(t), t.huge_span());
    let span = Span::new(t.huge_span().addr, 4 * page());
    if open_at(t, fd, libc::O_NONBLOCK).is_err() {
        return;
    }
    ioctl(t, fd, API_OP, &mut [API, ALL_OPERATIONS, 0]);
    let what = t.below(5);
    let mode = [MISSING, MISSING, WP, RWP, MINOR][what];
    match mode {
        MINOR => map_file(t, span),
        _ => map_new(t, span),
    }
    if what == 1 {
        map_new(t, from);
        let _ = touch_one(t, from.addr, true);
    }
    let (addr, len) = (span.addr as u64, page() as u64);
    ioctl(t, fd, REGISTER_OP, &mut [addr, span.len as u64, mode, 0]);
    let next = addr + len;
    if what == 0 {
        ioctl(t, fd, ZEROPAGE_OP, &mut [next, len, 0, 0]);
    } else if what == 1 {
        let second = from.addr as u64 + len;
        ioctl(t, fd, COPY_OP, &mut [next, second, len, 0, 0]);
    }
    match what {
        0 => ioctl(t, fd, POISON_OP, &mut [addr, len, 0, 0]),
        1 => ioctl(t, fd, MOVE_OP, &mut [addr, from.addr as u64, len, 0, 0]),
        2 => ioctl(t, fd, WRITEPROTECT_OP, &mut [addr, len, 1]),
        3 => ioctl(t, fd, RWPROTECT_OP, &mut [addr, len, 1]),
        _ => ioctl(t, fd, CONTINUE_OP, &mut [addr, len, 0, 0]),
    };
}

fn fill_at(t: &mut Thread, fd: usize, span: Span) {
    let (addr, len) = (span.addr as u64, span.len as u64);
    // Bits that mean something of each, among them not to wake.
    let mode = if t.one_in(3) { t.below(4) as u64 } else { 0 };
    let from = if t.one_in(2) {
        t.address()
    } else {
        t.source(span.len).addr
    };
    let done = match t.below(9) {
        0 | 1 => ioctl(t, fd, COPY_OP, &mut [addr, from as u64, len, mode, 0]),
        2 => ioctl(t, fd, ZEROPAGE_OP, &mut [addr, len, mode & 1, 0]),
        3 | 4 => ioctl(t, fd, MOVE_OP, &mut [addr, from as u64, len, mode, 0]),
        5 => ioctl(t, fd, WRITEPROTECT_OP, &mut [addr, len, mode]),
        6 => ioctl(t, fd, CONTINUE_OP, &mut [addr, len, mode, 0]),
        7 => ioctl(t, fd, POISON_OP, &mut [addr, len, mode & 1, 0]),
        _ => ioctl(t, fd, RWPROTECT_OP, &mut [addr, len, mode]),
    };
    if !done && t.one_in(2) {
        ioctl(t, fd, WAKE_OP, &mut [addr, len]);
    }
}
