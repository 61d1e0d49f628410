// SPDX-License-Identifier: GPL-2.0

//! Calls of the fuzzer in which the kernel itself looks at memory, holds it, or takes it away.

use crate::fuzz_calls::Call;
use crate::fuzz_thread::{self as places, pool, Thread};
use crate::sys::{page, pmd, Span};
use io_uring::{opcode, types, IoUring};
use nix::errno::Errno;
use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Mutex;

/// Some bytes, mostly not whole pages.
fn bytes(t: &mut Thread) -> Span {
    let span = t.short_span();
    match t.one_in(2) {
        true => span,
        false => {
            let offset = t.below(page());
            let len = 1 + t.below(span.len.max(1));
            Span::new(
                span.addr + offset,
                len.min(pool().end() - span.addr - offset),
            )
        }
    }
}

/// Copies from one process to another, or to itself.
pub fn process_vm(t: &mut Thread) {
    let other = t.below(t.shared.places.len());
    let pid = match t.shared.places[other].pid.load(Relaxed) {
        0 => t.place.pid.load(Relaxed),
        pid => pid,
    };
    let (local, remote) = ([bytes(t).iovec()], [bytes(t).iovec(), bytes(t).iovec()]);
    let (call, number) = match t.one_in(2) {
        true => (Call::process_vm_readv, libc::SYS_process_vm_readv),
        false => (Call::process_vm_writev, libc::SYS_process_vm_writev),
    };
    let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
    let _ = t.call(call, number, &[pid as usize, local, 1, remote, 2, 0]);
}

/// Through /proc/PID/mem, of the process or, by a child, of its parent.
pub fn proc_mem(t: &mut Thread) {
    let (local, remote) = (bytes(t), t.short_span());
    let (call, number) = match t.one_in(2) {
        true => (Call::proc_mem_read, libc::SYS_pread64),
        false => (Call::proc_mem_write, libc::SYS_pwrite64),
    };
    let _ = t.call(
        call,
        number,
        &[places::MEM, local.addr, local.len, remote.addr],
    );
}

/// A file in memory, and a pipe, which are copied to and from.
pub fn read_write(t: &mut Thread) {
    let span = bytes(t);
    let offset = t.below(pmd());
    let _ = match t.below(4) {
        0 => t.call(
            Call::read,
            libc::SYS_pread64,
            &[places::MEMFD, span.addr, span.len, offset],
        ),
        1 => t.call(
            Call::write,
            libc::SYS_pwrite64,
            &[places::MEMFD, span.addr, span.len, offset],
        ),
        2 => t.call(
            Call::read,
            libc::SYS_read,
            &[places::PIPE_OUT, span.addr, span.len],
        ),
        _ => t.call(
            Call::write,
            libc::SYS_write,
            &[places::PIPE_IN, span.addr, span.len],
        ),
    };
}

/// A pipe that holds pages, which cannot be split or moved meanwhile.
pub fn vmsplice(t: &mut Thread) {
    if t.one_in(3) {
        // All that it holds.
        let mut buffer = [0u8; 1024];
        let args = [places::PIPE_OUT, buffer.as_mut_ptr() as usize, buffer.len()];
        while t
            .call(Call::read, libc::SYS_read, &args)
            .is_ok_and(|len| len == buffer.len())
        {}
        return;
    }
    let ranges = [bytes(t).iovec()];
    let flags = libc::SPLICE_F_NONBLOCK as usize;
    let args = [places::PIPE_IN, ranges.as_ptr() as usize, 1, flags];
    let _ = t.call(Call::vmsplice, libc::SYS_vmsplice, &args);
}

/// Between a disk and memory.
pub fn direct(t: &mut Thread) {
    let span = t.short_span();
    let (call, number) = match t.one_in(2) {
        true => (Call::direct_read, libc::SYS_pread64),
        false => (Call::direct_write, libc::SYS_pwrite64),
    };
    let _ = t.call(call, number, &[places::DISK, span.addr, span.len, 0]);
}

/// The same, told and not waited for.
pub fn aio(t: &mut Thread) {
    #[repr(C)]
    struct Command {
        data: u64,
        key: u64,
        operation: u16,
        priority: u16,
        fd: u32,
        buffer: u64,
        len: u64,
        offset: u64,
        reserved: u64,
        flags: u32,
        eventfd: u32,
    }
    let span = t.short_span();
    let command = Command {
        data: 0,
        key: 0,
        operation: t.below(2) as u16,
        priority: 0,
        fd: t.pick(&[places::DISK, places::MEMFD]) as u32,
        buffer: span.addr as u64,
        len: span.len as u64,
        offset: 0,
        reserved: 0,
        flags: 0,
        eventfd: 0,
    };
    let commands = [&raw const command as usize];
    let context = t.place.aio.load(Relaxed);
    let args = [context, 1, commands.as_ptr() as usize];
    let _ = t.call(Call::io_submit, libc::SYS_io_submit, &args);
}

/// The ring of a process.
pub static RING: Mutex<Option<IoUring>> = Mutex::new(None);

/// Tells it to copy to or from memory, or to hold that.
pub fn io_uring(t: &mut Thread) {
    // Whoever has the lock may wait in a hole.
    let Ok(mut guard) = RING.try_lock() else {
        return;
    };
    let Some(ring) = guard.as_mut() else { return };
    ring.completion().for_each(drop);
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    match t.below(4) {
        0 => {
            let span = t.span();
            let buffers = [span.iovec()];
            let args = [span.addr, span.len];
            // SAFETY: The memory is never borrowed.
            let what = || unsafe { ring.submitter().register_buffers(&buffers) }.map_err(errno);
            let _ = t.record(Call::io_uring_register, &args, what, |()| 0);
        }
        1 => {
            let what = || ring.submitter().unregister_buffers().map_err(errno);
            let _ = t.record(Call::io_uring_unregister, &[], what, |()| 0);
        }
        write => {
            let span = bytes(t);
            let of = t.pick(&[0, 0, 1, 1, 2]);
            let fd = match (of, write) {
                (0, _) => places::MEMFD,
                (1, _) => places::USERFAULTFDS.start + t.below(places::USERFAULTFDS.len()),
                (_, 2) => places::PIPE_OUT,
                _ => places::PIPE_IN,
            };
            let (file, len) = (
                types::Fd(fd as i32),
                if of == 1 { 16 } else { span.len as u32 },
            );
            let (call, entry) = match write {
                2 => {
                    let read = opcode::Read::new(file, span.addr as *mut u8, len);
                    (Call::io_uring_read, read.build())
                }
                _ => {
                    let write = opcode::Write::new(file, span.addr as *const u8, len);
                    (Call::io_uring_write, write.build())
                }
            };
            let what = || {
                // SAFETY: The memory is never borrowed.
                unsafe { ring.submission().push(&entry) }.map_err(|_| Errno::EBUSY)?;
                ring.submit().map_err(errno)
            };
            let _ = t.record(call, &[fd, span.addr, len as usize], what, |done| {
                *done as i64
            });
        }
    }
}

/// Pins pages for long, or lets go of them.
pub fn pin(t: &mut Thread) {
    const START: usize = nix::request_code_write!(b'g', 7, 3 * size_of::<u64>()) as usize;
    const STOP: usize = nix::request_code_none!(b'g', 8) as usize;
    if t.one_in(2) {
        let _ = t.call(Call::gup_release, libc::SYS_ioctl, &[places::PINS, STOP]);
        return;
    }
    let span = t.span();
    // To be written to, and without a lock first.
    let range = [span.addr as u64, span.len as u64, t.below(4) as u64];
    let args = [places::PINS, START, range.as_ptr() as usize];
    let _ = t.call(Call::gup_pin, libc::SYS_ioctl, &args);
}

/// Gets hold of pages without a lock, and lets go of them at once.
pub fn gup(t: &mut Thread) {
    const SIZE: usize = 10 * size_of::<u64>();
    const GET: usize = nix::request_code_readwrite!(b'g', 1, SIZE) as usize;
    const PIN: usize = nix::request_code_readwrite!(b'g', 2, SIZE) as usize;
    const FOLL_WRITE: u64 = 1;
    let (span, per_call) = (t.span(), 1 + t.below(1024) as u64);
    let mut words = [0u64; 10];
    words[2..5].copy_from_slice(&[span.addr as u64, span.len as u64, per_call]);
    // The zero page is got without a pin, of which the kernel's test complains: so write.
    let (call, request, write) = match t.below(3) {
        0 => (Call::gup_fast, GET, 0),
        1 => (Call::gup_fast, GET, FOLL_WRITE),
        _ => (Call::pin_fast, PIN, FOLL_WRITE),
    };
    words[4] |= write << 32;
    let _ = t.call(
        call,
        libc::SYS_ioctl,
        &[places::PINS, request, words.as_mut_ptr() as usize],
    );
}

/// A device with memory of its own, to which pages go.
pub fn hmm(t: &mut Thread) {
    const WORDS: usize = 5;
    const MOST: usize = 16;
    const ALL: [(Call, u8); 4] = [
        (Call::hmm_read, 0),
        (Call::hmm_write, 1),
        (Call::hmm_to_device, 2),
        (Call::hmm_to_system, 3),
    ];
    // A page of a large folio that a device has for itself warns in upstream's folio_referenced(),
    // which takes the entry of any page that a walk finds for one that is present.
    const OF_SMALL_FOLIOS: (Call, u8) = (Call::hmm_exclusive, 5);
    // What comes of each page: more than a stack should hold.
    static BUFFER: [std::sync::atomic::AtomicU8; MOST * 0x10000] =
        [const { std::sync::atomic::AtomicU8::new(0) }; MOST * 0x10000];
    let (call, number) = match t.place.has_small_folios() && t.one_in(5) {
        true => OF_SMALL_FOLIOS,
        false => t.pick(&ALL),
    };
    let addr = t.address();
    let pages = (1 + t.below(MOST)).min((pool().end() - addr) / page()) as u64;
    let mut command = [addr as u64, BUFFER.as_ptr() as u64, pages, 0, 0];
    let request = nix::request_code_readwrite!(b'H', number, WORDS * size_of::<u64>());
    let args = [places::HMM, request as usize, command.as_mut_ptr() as usize];
    let _ = t.call(call, libc::SYS_ioctl, &args);
}

/// Waits for a word of memory to change, for a moment.
pub fn futex(t: &mut Thread) {
    let addr = t.address();
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 100_000,
    };
    let private = t.pick(&[0, libc::FUTEX_PRIVATE_FLAG]);
    let operation = match t.one_in(2) {
        true => libc::FUTEX_WAKE,
        false => libc::FUTEX_WAIT,
    };
    let args = [
        addr,
        (operation | private) as usize,
        1,
        &raw const time as usize,
        0,
        0,
    ];
    let _ = t.call(Call::futex, libc::SYS_futex, &args);
}

/// Asks what is where, or has that noted from now on.
pub fn look(t: &mut Thread) {
    let span = t.span();
    match t.below(8) {
        0..3 => {
            let mut entries = [0u64; 64];
            let len = size_of_val(&entries);
            let at = span.addr / page() * size_of::<u64>();
            let args = [places::PAGEMAP, entries.as_mut_ptr() as usize, len, at];
            let _ = t.call(Call::pagemap, libc::SYS_pread64, &args);
        }
        3..5 => scan(t, span),
        5..7 => {
            let what = t.pick(b"12345");
            let args = [places::CLEAR_REFS, &raw const what as usize, 1];
            let _ = t.call(Call::clear_refs, libc::SYS_write, &args);
        }
        _ => {
            let mut text = [0u8; 4096];
            t.read_file(Call::smaps, b"/proc/self/smaps\0", &mut text);
        }
    }
}

/// PAGEMAP_SCAN, which may write-protect what was written.
fn scan(t: &mut Thread, span: Span) {
    const SCAN: usize = nix::request_code_readwrite!(b'f', 16, 12 * size_of::<u64>()) as usize;
    const REGIONS: usize = 16;
    let mut regions = [[0u64; 3]; REGIONS];
    let written = t.below(1 << 10) as u64;
    let mut arg = [0u64; 12];
    arg[0] = size_of_val(&arg) as u64;
    arg[1] = if t.one_in(4) {
        1 + t.below(3) as u64
    } else {
        0
    };
    arg[2..4].copy_from_slice(&[span.addr as u64, span.end() as u64]);
    arg[5..7].copy_from_slice(&[regions.as_mut_ptr() as u64, REGIONS as u64]);
    arg[10..12].copy_from_slice(&[written, written]);
    let args = [places::PAGEMAP, SCAN, arg.as_mut_ptr() as usize];
    let _ = t.call(Call::pagemap_scan, libc::SYS_ioctl, &args);
}

/// How much memory the process may have, and what it has to give back now.
pub fn cgroup(t: &mut Thread) {
    const MIB: usize = 1 << 20;
    let choices: [(Call, usize, &[usize]); 4] = [
        (
            Call::cgroup_reclaim,
            places::CGROUP_RECLAIM,
            &[64 << 10, MIB, 16 * MIB],
        ),
        (
            Call::cgroup_reclaim,
            places::CGROUP_RECLAIM,
            &[64 << 10, MIB, 4 * MIB],
        ),
        (
            Call::cgroup_high,
            places::CGROUP_HIGH,
            &[24 * MIB, 256 * MIB, 256 * MIB],
        ),
        (Call::cgroup_max, places::CGROUP_MAX, &[48 * MIB, 256 * MIB]),
    ];
    let (call, file, values) = t.pick(&choices);
    let mut text = [0u8; 20];
    let value = t.pick(values);
    let written = write!(&mut text[..], "{value}");
    let len = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    if written.is_ok() {
        let _ = t.call(
            call,
            libc::SYS_pwrite64,
            &[file, text.as_ptr() as usize, len, 0],
        );
    }
}

/// Has all memory compacted, for which pages migrate.
pub fn compact(t: &mut Thread) {
    if t.one_in(8) {
        let args = [places::COMPACT, c"1".as_ptr() as usize, 1, 0];
        let _ = t.call(Call::compact, libc::SYS_pwrite64, &args);
    }
}
