// SPDX-License-Identifier: GPL-2.0

//! Accesses by the kernel to holes that a descriptor serves: they wait, and the call does not
//! notice.

use crate::gup::{self, Pin};
use crate::harness::Outcome;
use crate::knobs;
use crate::loop_device::Loop;
use crate::proc::{entries_of, field};
use crate::process::{in_child, join, must_end, Ended, Holder};
use crate::range::{resolve, LetGo, Range, PROTOCOL, REGISTER, UNREGISTER, USER_MODE_ONLY};
use crate::security_stall::set_arguments;
use crate::sys::{page, remap_all, Area, Span};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use io_uring::{opcode, squeue, types};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::resource::{setrlimit, Resource, RLIM_INFINITY};
use nix::sys::signal::Signal;
use nix::sys::uio::{process_vm_readv, process_vm_writev, RemoteIoVec};
use nix::sys::wait::waitpid;
use nix::unistd::{getpid, pipe};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::thread;

/// Serves the faults of a call that another thread makes: one in each page of `holes`, in their
/// order.
fn serve_call<R: Send>(
    fd: &Range,
    holes: Span,
    src: Span,
    call: impl FnOnce() -> R + Send,
) -> anyhow::Result<R> {
    holes.mark()?;
    thread::scope(|scope| {
        let _end = LetGo::at_the_end(holes);
        let thread = scope.spawn(call);
        for (hole, page) in holes.each_page().zip(src.each_page()) {
            ensure_eq!(fd.fault()?, hole.addr);
            remap_all(hole, page)?;
            ensure_eq!(fd.wake(hole), Ok(16));
        }
        Ok(thread.join().expect("no panic"))
    })
}

/// read(2) into memory under test.
fn read_into(fd: impl AsFd, span: Span) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: The memory is never borrowed, and the kernel checks the pointer.
    Errno::result(unsafe { libc::read(fd, span.addr as *mut _, span.len) }).map(|n| n as usize)
}

/// write(2) of memory under test.
fn write_from(fd: impl AsFd, span: Span) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: As above.
    Errno::result(unsafe { libc::write(fd, span.addr as *const _, span.len) }).map(|n| n as usize)
}

/// So many bytes at the beginning of a page.
fn first(hole: Span, len: usize) -> Span {
    Span::new(hole.addr, len)
}

/// A11, A81: a buffer, a futex, another process's access, mlock, vmsplice.
fn a11_a81_system_calls_wait() -> Outcome {
    let (area, me) = (Area::pages(7)?, getpid());
    let fd = Range::serving(*area)?;
    let (reader, writer) = pipe()?;

    let (hole, src) = (area.page(0), Area::filled(1, 1)?);
    let written = serve_call(&fd, hole, *src, || write_from(&writer, first(hole, 16)))?;
    ensure_eq!(written, Ok(16));
    let (hole, src) = (area.page(1), Area::filled(1, 2)?);
    let read = serve_call(&fd, hole, *src, || read_into(&reader, first(hole, 16)))?;
    ensure_eq!(read, Ok(16));
    ensure_eq!(hole.bytes()[..16], area.page(0).bytes()[..16]);

    let (hole, src) = (area.page(2), Area::filled(1, 3)?);
    let want = src.bytes();
    let mut seen = vec![0; page()];
    let read = serve_call(&fd, hole, *src, || {
        let remote = RemoteIoVec {
            base: hole.addr,
            len: page(),
        };
        process_vm_readv(me, &mut [IoSliceMut::new(&mut seen)], &[remote])
    })?;
    ensure_eq!(read, Ok(page()));
    ensure!(seen == want, "process_vm_readv read something else");

    let (hole, src) = (area.page(3), Area::filled(1, 4)?);
    let wrote = serve_call(&fd, hole, *src, || {
        let remote = RemoteIoVec {
            base: hole.addr,
            len: 8,
        };
        process_vm_writev(me, &[IoSlice::new(&[7; 8])], &[remote])
    })?;
    ensure_eq!(wrote, Ok(8));

    let (hole, src) = (area.page(4), Area::filled(1, 5)?);
    src.lock(0)?;
    let locked = serve_call(&fd, hole, *src, || hole.lock(0))?;
    ensure_eq!(locked, Ok(()));

    let (hole, src) = (area.page(6), Area::filled(1, 7)?);
    let spliced = serve_call(&fd, hole, *src, || {
        let part = Span::new(hole.addr, 16).iovec();
        // SAFETY: The kernel checks the pointer, and the memory is never borrowed.
        Errno::result(unsafe { libc::vmsplice(writer.as_raw_fd(), &part, 1, 0) })
    })?;
    ensure_eq!(spliced, Ok(16));

    let (hole, src) = (area.page(5), Area::filled(1, 6)?);
    let futex = serve_call(&fd, hole, *src, || {
        // SAFETY: The kernel checks the pointer; the value is another, so it does not wait.
        let ret = unsafe { libc::syscall(libc::SYS_futex, hole.addr, libc::FUTEX_WAIT, 1, 0) };
        Errno::result(ret)
    })?;
    ensure_eq!(futex, Err(Errno::EAGAIN));
    Ok(())
}

/// A11, A81: a vector with a hole behind a hole, read and written: the whole count.
fn a11_a81_vectors_wait() -> Outcome {
    let area = Area::pages(4)?;
    let fd = Range::serving(*area)?;
    let (reader, mut writer) = pipe().map(|(reader, writer)| (reader, File::from(writer)))?;
    let vector =
        |holes: Span| [0, 1].map(|index| Span::new(holes.page(index).end() - 8, 8).iovec());

    writer.write_all(b"0123456789abcdef")?;
    let (holes, src) = (area.pages(0..2), Area::filled(2, 1)?);
    let (raw, addr) = (reader.as_raw_fd(), holes);
    let read = serve_call(&fd, holes, *src, || {
        // SAFETY: The memory is never borrowed, and the kernel checks the pointers.
        Errno::result(unsafe { libc::readv(raw, vector(addr).as_ptr(), 2) })
    })?;
    ensure_eq!(read, Ok(16));
    ensure_eq!(holes.page(0).bytes()[page() - 8..], *b"01234567");
    ensure_eq!(holes.page(1).bytes()[page() - 8..], *b"89abcdef");

    let (holes, src) = (area.pages(2..4), Area::filled(2, 3)?);
    let (raw, addr) = (writer.as_raw_fd(), holes);
    let written = serve_call(&fd, holes, *src, || {
        // SAFETY: As above.
        Errno::result(unsafe { libc::writev(raw, vector(addr).as_ptr(), 2) })
    })?;
    ensure_eq!(written, Ok(16));
    holes.check_pages(3)
}

/// A81: a futex operation that writes to a private futex is refused, and nobody is told, since the
/// mmap lock is kept all the while.  Where the futex is shared its page is pinned before, and that
/// waits.
fn a81_futex_operations() -> Outcome {
    let area = Area::pages(1)?;
    let (fd, src, word) = (Range::serving(*area)?, Area::pages(1)?, Area::filled(1, 1)?);
    src.clear();
    let change = |flags: i32| {
        // Sets the second word to 1, and compares what it was with 0.
        let (op, change) = (libc::FUTEX_WAKE_OP | flags, 1 << 12);
        // SAFETY: The memory of an area is never borrowed.
        let done =
            unsafe { libc::syscall(libc::SYS_futex, word.addr, op, 1, 1, area.addr, change) };
        Errno::result(done)
    };
    ensure_eq!(change(libc::FUTEX_PRIVATE_FLAG), Err(Errno::EFAULT));
    ensure_eq!(fd.counts()?, (0, 0));
    ensure_eq!(serve_call(&fd, *area, *src, || change(0))?, Ok(0));
    ensure_eq!(area.bytes()[..4], 1_u32.to_ne_bytes());
    Ok(())
}

/// A81: what goes around the page cache pins the page that it waited for: a disk reads into it, and
/// is written from it.
fn a81_direct_io_waits() -> Outcome {
    let disk = Loop::new(4 * page())?;
    let area = Area::pages(4)?;
    let fd = Range::serving(*area)?;
    let content = Area::filled(2, 7)?;
    disk.file().write_all_at(&content.bytes(), 0)?;

    let (holes, src) = (area.pages(0..2), Area::filled(2, 1)?);
    let read = serve_call(&fd, holes, *src, || read_into(disk.direct(), holes))?;
    ensure_eq!(read, Ok(holes.len));
    holes.check_pages(7)?;

    let (holes, src) = (area.pages(2..4), Area::filled(2, 11)?);
    let written = serve_call(&fd, holes, *src, || write_from(disk.direct(), holes))?;
    ensure_eq!(written, Ok(holes.len));
    let mut seen = vec![0; holes.len];
    disk.file().read_exact_at(&mut seen, 2 * page() as u64)?;
    ensure!(seen == holes.bytes(), "something else is on the disk");
    holes.check_pages(11)
}

/// Has io_uring do one thing, with these flags, and waits for that.
fn uring(entry: squeue::Entry, flags: squeue::Flags) -> anyhow::Result<i32> {
    let mut ring = gup::ring()?;
    // SAFETY: Its memory lives longer, since it is waited for, or never borrowed.
    unsafe { ring.submission().push(&entry.flags(flags)) }?;
    ring.submit_and_wait(1).context("io_uring_enter")?;
    let done = ring.completion().next().context("nothing completed")?;
    Ok(done.result())
}

/// Reads eight bytes of a pipe to a place.
fn uring_read(from: &impl AsRawFd, to: Span, flags: squeue::Flags) -> anyhow::Result<i32> {
    let read = opcode::Read::new(types::Fd(from.as_raw_fd()), to.addr as *mut u8, 8);
    uring(read.build(), flags)
}

/// A49, A59, A62: what io_uring writes to a descriptor is done at once, whether the descriptor is
/// ready for writing or not; and so is what must not wait.
fn a49_a59_a62_writes_that_do_not_wait() -> Outcome {
    let by_uring = |flags| {
        move |fd: &Range, words: &[u64]| -> anyhow::Result<i32> {
            let fd = types::Fd(fd.raw());
            let write = opcode::Write::new(fd, words.as_ptr().cast(), 8 * words.len() as u32);
            uring(write.build(), flags)
        }
    };
    let by_pwritev2 = |fd: &Range, words: &[u64]| -> anyhow::Result<i32> {
        let part = libc::iovec {
            iov_base: words.as_ptr() as *mut _,
            iov_len: 8 * words.len(),
        };
        // SAFETY: The words are read only.
        let written = unsafe { libc::pwritev2(fd.raw(), &part, 1, -1, libc::RWF_NOWAIT) };
        Ok(Errno::result(written).map_or_else(|error| -(error as i32), |size| size as i32))
    };
    all_writes(by_pwritev2).context("RWF_NOWAIT")?;
    all_writes(by_uring(squeue::Flags::empty())).context("io_uring")?;
    all_writes(by_uring(squeue::Flags::ASYNC)).context("io_uring, in a worker")
}

/// Does with a descriptor whatever a write does, successful and not.
fn all_writes(write: impl Fn(&Range, &[u64]) -> anyhow::Result<i32>) -> Outcome {
    let (src, area) = (Area::filled(1, 1)?, Area::marked(1)?);
    let (start, end) = (area.addr as u64, area.end() as u64);
    let fd = Range::open(0)?;
    ensure_eq!(write(&fd, &[PROTOCOL])?, 8);
    ensure_eq!(fd.read(), Ok(PROTOCOL));
    ensure_eq!(write(&fd, &[start, end])?, -libc::ENOENT);
    ensure_eq!(write(&fd, &[start | REGISTER, end])?, 16);
    ensure_eq!(write(&fd, &[start, end])?, -libc::ENOENT);
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| area.check(1));
        ensure_eq!(fd.fault()?, area.addr);
        remap_all(*area, *src)?;
        ensure_eq!(write(&fd, &[start, end])?, 16);
        join(thread)
    })?;
    ensure_eq!(write(&fd, &[start | UNREGISTER, end])?, 16);
    ensure_eq!(write(&fd, &[start, start])?, -libc::ERANGE);
    Ok(())
}

/// A81: io_uring waits where it is told to read, in a thread of its own, and where it registers.
fn a81_io_uring_waits() -> Outcome {
    let area = Area::pages(3)?;
    let fd = Range::serving(*area)?;
    let (reader, mut writer) = pipe().map(|(reader, writer)| (reader, File::from(writer)))?;
    for (index, flags) in [squeue::Flags::empty(), squeue::Flags::ASYNC]
        .into_iter()
        .enumerate()
    {
        writer.write_all(b"01234567")?;
        let (hole, src) = (area.page(index), Area::filled(1, 1)?);
        let read = serve_call(&fd, hole, *src, || uring_read(&reader, hole, flags))??;
        ensure_eq!(read, 8, "{flags:?}");
        ensure_eq!(hole.bytes()[..8], *b"01234567");
    }
    let (hole, src) = (area.page(2), Area::filled(1, 3)?);
    let pin = serve_call(&fd, hole, *src, || Pin::new(hole))??;
    hole.check(3)?;
    pin.release()
}

/// A71: a process ends although a thread of io_uring's waits in a hole of it.
fn a71_io_uring_and_the_end() -> Outcome {
    for by_signal in [false, true] {
        must_end(by_signal, || {
            let area = Area::pages(1)?;
            let fd = Range::serving(*area)?;
            let (reader, mut writer) = pipe().map(|(r, w)| (r, File::from(w)))?;
            writer.write_all(b"01234567")?;
            let hole = *area;
            thread::spawn(move || uring_read(&reader, hole, squeue::Flags::ASYNC).map(drop));
            fd.wait_for(1)?;
            // The pipe, too, cannot be closed while its reader waits.
            Ok((area, fd, writer))
        })?;
    }
    Ok(())
}

/// A80: a debugger, and who reads and writes /proc/PID/mem, holds the lock of the address space, so
/// it is refused: nobody waits, and nothing is told.
fn a80_debuggers_are_refused() -> Outcome {
    let area = Area::pages(2)?;
    let (ready, mut tell) = pipe().map(|(reader, writer)| (reader, File::from(writer)))?;
    let child = Holder::after(|| {
        area.page(0).fill(1);
        let fd = Range::serving(*area)?;
        tell.write_all(&[fd.raw() as u8])?;
        std::mem::forget(fd);
        Ok(())
    })?;
    let mut fd = [0];
    nix::unistd::read(&ready, &mut fd).context("read")?;
    let (process, hole) = (child.pid(), area.page(1));

    ptrace::attach(process).context("attach")?;
    waitpid(process, None).context("waitpid")?;
    ensure_eq!(ptrace::read(process, hole.addr as _), Err(Errno::EIO));
    ensure_eq!(ptrace::write(process, hole.addr as _, 1), Err(Errno::EIO));
    ensure!(ptrace::read(process, area.addr as _).is_ok(), "a page");
    ptrace::detach(process, None).context("detach")?;

    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{process}/mem"))?;
    let eio = |error: Option<std::io::Error>| error.and_then(|error| error.raw_os_error());
    let at = hole.addr as u64;
    ensure_eq!(eio(memory.read_at(&mut [0; 8], at).err()), Some(libc::EIO));
    ensure_eq!(eio(memory.write_at(&[7; 8], at).err()), Some(libc::EIO));

    let info = format!("/proc/{process}/fdinfo/{}", fd[0]);
    ensure_eq!(field(&info, "total")?, 0);
    ensure!(entries_of(process, hole)?[0].hole(), "it was filled");
    Ok(())
}

/// A71: a core dump waits for nobody: what is not there is left out, be it of the memory or of what
/// is copied from there, such as the arguments.
fn a71_core_dump() -> Outcome {
    knobs::set(
        "/proc/sys/kernel/core_pattern",
        "/tmp/userfault-tests-range.core",
    )?;
    let ended = in_child(|| {
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).context("setrlimit")?;
        let area = Area::pages(4)?;
        area.page(1).fill(1);
        let fd = Range::serving(*area)?;
        let (hole, text) = (area.page(2), area.page(3));
        thread::spawn(move || hole.load());
        fd.wait_for(1)?;
        set_arguments(text)?;
        // SAFETY: It ends the process.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::raise(libc::SIGSEGV);
        }
        Ok(())
    })?;
    let _ = std::fs::remove_file("/tmp/userfault-tests-range.core");
    ensure_eq!(ended, Ended::Killed(Signal::SIGSEGV));
    Ok(())
}

/// A descriptor for accesses of programs only never keeps the kernel waiting: EFAULT.
fn a11_user_mode_only() -> Outcome {
    let (src, area) = (Area::filled(1, 1)?, Area::marked(1)?);
    let fd = Range::with(USER_MODE_ONLY)?;
    fd.register(*area)?;
    let (_reader, writer) = pipe()?;
    ensure_eq!(write_from(&writer, first(*area, 16)), Err(Errno::EFAULT));
    fd.ensure_silent()?;
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*area);
        let thread = scope.spawn(|| area.check(1));
        ensure_eq!(fd.fault()?, area.addr);
        resolve(*area, *src)?;
        crate::process::join(thread)
    })
}

register!(
    a11_a81_system_calls_wait,
    a11_a81_vectors_wait,
    a81_futex_operations,
    a81_direct_io_waits,
    a81_io_uring_waits,
    a49_a59_a62_writes_that_do_not_wait,
    a71_io_uring_and_the_end,
    a71_core_dump,
    a80_debuggers_are_refused,
    a11_user_mode_only,
);
