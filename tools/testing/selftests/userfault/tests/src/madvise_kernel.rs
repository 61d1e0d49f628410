// SPDX-License-Identifier: GPL-2.0

//! Touches by the kernel: an error or a short count, as for a bad address, and the hole stays.

use crate::harness::{Outcome, Skip};
use crate::pair::{read, write, Pair};
use crate::proc::{ensure_holes, ensure_present, vma_of};
use crate::process::{in_child, Ended};
use crate::special::memfd;
use crate::sys::{page, Area, Span, MADV_POPULATE_READ, MADV_POPULATE_WRITE};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sched::{clone, CloneFlags};
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

fn a_pipe(content: &[u8]) -> anyhow::Result<(File, File)> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("pipe")?;
    let (reader, mut writer) = (File::from(reader), File::from(writer));
    writer.write_all(content).context("write")?;
    Ok((reader, writer))
}

/// A11: read() and write() of a file, with the hole at the start, in the middle, at an odd offset.
fn a11_read_and_write_of_a_file() -> Outcome {
    let pair = Pair::new()?;
    let fault = pair.same("read into the hole", |area| {
        let file = memfd(3)?;
        Ok(read(file.as_raw_fd(), area.page(1)))
    })?;
    ensure_eq!(fault, Err(Errno::EFAULT));
    let fault = pair.same("write from the hole", |area| {
        let file = memfd(0)?;
        Ok((
            write(file.as_raw_fd(), area.page(1)),
            file.metadata()?.len(),
        ))
    })?;
    ensure_eq!(fault, (Err(Errno::EFAULT), 0));

    for before in [page(), 8, 1] {
        let short = pair.same("a short read", |area| {
            let file = memfd(3)?;
            let buffer = Span::new(area.page(1).addr - before, before + page());
            Ok(read(file.as_raw_fd(), buffer))
        })?;
        ensure_eq!(
            short,
            Ok(before as isize),
            "read of {before} bytes before the hole"
        );
        let short = pair.same("a short write", |area| {
            let file = memfd(0)?;
            let buffer = Span::new(area.page(1).addr - before, before + page());
            let count = write(file.as_raw_fd(), buffer);
            Ok((count, file.metadata()?.len()))
        })?;
        ensure!(
            short.0.is_ok(),
            "write of {before} bytes before the hole: {short:?}"
        );
    }
    Ok(())
}

/// A11: read() and write() of a pipe.
fn a11_pipe() -> Outcome {
    let pair = Pair::new()?;
    for first in [0, 1] {
        let _ = pair.same("read", |area| {
            let (reader, _writer) = a_pipe(&vec![7; 2 * page()])?;
            Ok(read(reader.as_raw_fd(), area.pages(first..first + 2)))
        })?;
        let _ = pair.same("write", |area| {
            let (_reader, writer) = a_pipe(&[])?;
            Ok(write(writer.as_raw_fd(), area.pages(first..first + 2)))
        })?;
    }
    let (reader, _writer) = a_pipe(&[7; 8])?;
    ensure_eq!(
        read(reader.as_raw_fd(), pair.holed.page(1)),
        Err(Errno::EFAULT)
    );
    Ok(())
}

/// A11: a vector with the hole in it.
fn a11_writev() -> Outcome {
    let pair = Pair::new()?;
    let _ = pair.same("writev", |area| {
        let file = memfd(0)?;
        let parts: Vec<_> = area.each_page().map(Span::iovec).collect();
        // SAFETY: The memory of an area is never borrowed.
        let count = unsafe { libc::writev(file.as_raw_fd(), parts.as_ptr(), 3) };
        Ok(Errno::result(count))
    })?;
    Ok(())
}

/// A11: small accesses of the kernel: a structure, a string, a word.
fn a11_small_accesses() -> Outcome {
    let pair = Pair::new()?;
    let fault = Err(Errno::EFAULT);
    let seen = pair.same("clock_gettime", |area| {
        let time = area.page(1).addr;
        // SAFETY: As above; by the system call, since the vdso would touch it itself.
        let ret = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, time) };
        Ok(Errno::result(ret).map(drop))
    })?;
    ensure_eq!(seen, fault);
    let seen = pair.same("open", |area| {
        let name = area.page(1).addr as *const libc::c_char;
        // SAFETY: As above.
        Ok(Errno::result(unsafe { libc::open(name, libc::O_RDONLY) }).map(drop))
    })?;
    ensure_eq!(seen, fault);
    for operation in [
        libc::FUTEX_WAKE,
        libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
    ] {
        let _ = pair.same("futex wake", |area| {
            let word = area.page(1).addr;
            // SAFETY: As above.
            let ret = unsafe { libc::syscall(libc::SYS_futex, word, operation, 1) };
            Ok(Errno::result(ret))
        })?;
    }
    let seen = pair.same("futex wait", |area| {
        let word = area.page(1).addr;
        // SAFETY: As above.
        let ret = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, 1, 0) };
        Ok(Errno::result(ret).map(drop))
    })?;
    ensure_eq!(seen, fault);
    Ok(())
}

/// A11: another process's access, by process_vm_readv and process_vm_writev.
fn a11_process_vm() -> Outcome {
    let pair = Pair::new()?;
    let own = Area::pages(3)?;
    for (call, name) in [
        (libc::SYS_process_vm_readv, "process_vm_readv"),
        (libc::SYS_process_vm_writev, "process_vm_writev"),
    ] {
        for (first, want) in [(1, Err(Errno::EFAULT)), (0, Ok(page() as i64))] {
            let seen = pair.same(name, |area| {
                let pair = [own.pages(first..3), area.pages(first..3)];
                let [local, remote] = pair.map(Span::iovec);
                // The last argument is as wide as the stack's slot that it is passed in.
                let (pid, flags) = (std::process::id(), 0u64);
                // SAFETY: As above.
                let count = unsafe { libc::syscall(call, pid, &local, 1, &remote, 1, flags) };
                Ok(Errno::result(count))
            })?;
            ensure_eq!(seen, want, "{name} from page {first}");
        }
    }
    Ok(())
}

/// A11: /proc/self/mem reads and writes neither.
fn a11_proc_mem() -> Outcome {
    let pair = Pair::new()?;
    let file = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let hole = pair.holed.page(1);
    let mut bytes = [0; 16];
    ensure!(
        file.read_at(&mut bytes, hole.addr as u64).is_err(),
        "read a hole"
    );
    ensure!(
        file.write_at(&bytes, hole.addr as u64).is_err(),
        "wrote a hole"
    );
    let count = file
        .read_at(&mut bytes, hole.addr as u64 - 8)
        .context("read before it")?;
    ensure_eq!(count, 8);
    ensure_holes(hole)
}

/// A11: mlock gives ENOMEM with the vma left locked, and locks what is there.
fn a11_mlock() -> Outcome {
    let pair = Pair::new()?;
    ensure_eq!(pair.holed.lock(0), Err(Errno::ENOMEM));
    ensure!(vma_of(*pair.holed)?.has("lo"), "not left locked");
    ensure_holes(pair.holed.page(1))?;
    ensure_present(pair.holed.page(0))?;
    let area = Area::marked(2)?;
    ensure_eq!(area.lock(0), Err(Errno::ENOMEM), "holes only");
    ensure!(vma_of(*area)?.has("lo"), "not left locked");
    // Once it is locked, a page that is put there by other means is, too.
    area.unmark()?;
    ensure_eq!(area.lock(0), Ok(()), "without the mark");
    ensure_present(*area)
}

/// A11: mlockall, too, leaves holes alone: it reports no error of single pages.
fn a11_mlockall() -> Outcome {
    let area = Area::marked(2)?;
    // SAFETY: It locks memory only.
    let ret = Errno::result(unsafe { libc::mlockall(libc::MCL_CURRENT) });
    // SAFETY: As above.
    unsafe { libc::munlockall() };
    ret.context("mlockall")?;
    ensure_holes(*area)
}

/// A11: MADV_POPULATE gives EFAULT, and what is before the hole is populated.
fn a11_populate() -> Outcome {
    for advice in [MADV_POPULATE_READ, MADV_POPULATE_WRITE] {
        let area = Area::marked(3)?;
        ensure_eq!(area.advise(advice), Err(Errno::EFAULT), "advice {advice}");
        ensure_holes(*area)?;
        area.unmark()?;
        area.pages(1..3).mark()?;
        ensure_eq!(area.advise(advice), Err(Errno::EFAULT), "advice {advice}");
        ensure_present(area.page(0))?;
        ensure_holes(area.pages(1..3))?;
        area.unmark()?;
        ensure_eq!(
            area.advise(advice),
            Ok(()),
            "advice {advice} without the mark"
        );
        ensure_present(*area)?;
    }
    Ok(())
}

/// A11: the frame of a signal in a hole is SIGSEGV.
fn a11_signal_frame() -> Outcome {
    extern "C" fn handler(_: libc::c_int) {}

    let pages = libc::SIGSTKSZ.div_ceil(page()) + 4;
    let stack = Area::marked(pages)?;
    let ended = in_child(|| {
        let alternate = libc::stack_t {
            ss_sp: stack.addr as *mut libc::c_void,
            ss_flags: 0,
            ss_size: stack.len,
        };
        // SAFETY: The stack is valid memory; it raises the signal that the test is about.
        unsafe {
            Errno::result(libc::sigaltstack(&alternate, std::ptr::null_mut()))?;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::raise(libc::SIGUSR1);
        }
        Ok(())
    })?;
    ensure_eq!(ended, Ended::Killed(Signal::SIGSEGV));
    ensure_holes(*stack)
}

/// A11: an rseq area that has become a hole is SIGSEGV at the next switch of tasks.
fn a11_rseq_area() -> Outcome {
    for (marked, want) in [
        (false, Ended::Passed),
        (true, Ended::Killed(Signal::SIGSEGV)),
    ] {
        let area = Area::pages(1)?;
        ensure_eq!(area.store(0), Ok(()));
        if marked {
            area.mark()?;
        }
        ensure_eq!(rseq_in(*area)?, want, "marked: {marked}");
        ensure_eq!(area.load().is_err(), marked);
    }
    Ok(())
}

/// How a child ends that shares this memory and loses the page of its rseq area.
fn rseq_in(area: Span) -> anyhow::Result<Ended> {
    const SIGNATURE: u32 = 0x5305_3053;
    const SIZE: u32 = 32;
    const SKIPPED: isize = 4;
    let mut stack = vec![0; 64 << 10];
    let child = || -> isize {
        // SAFETY: The page is there; it is not used otherwise.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            if libc::syscall(libc::SYS_rseq, area.addr, SIZE, 0, SIGNATURE) != 0 {
                return SKIPPED;
            }
            if area.advise(libc::MADV_DONTNEED).is_err() {
                return 1;
            }
            for _ in 0..20 {
                libc::usleep(1000);
            }
        }
        0
    };
    // It has a thread of its own, as far as rseq goes, and this one waits for it.
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: The stack is large enough for system calls, and lives longer than the child.
    let pid = unsafe { clone(Box::new(child), &mut stack, flags, Some(libc::SIGCHLD)) };
    match waitpid(pid.context("clone")?, None).context("waitpid")? {
        WaitStatus::Exited(_, 0) => Ok(Ended::Passed),
        WaitStatus::Exited(_, 4) => Err(Skip("this kernel has no rseq".into()).into()),
        WaitStatus::Signaled(_, signal, _) => Ok(Ended::Killed(signal)),
        status => anyhow::bail!("{status:?}"),
    }
}

/// A11: getting hold of a page for the kernel's own use.
fn a11_vmsplice() -> Outcome {
    let pair = Pair::new()?;
    let seen = pair.same("vmsplice", |area| {
        let (_reader, writer) = a_pipe(&[])?;
        let part = area.page(1).iovec();
        // SAFETY: As above.
        Ok(Errno::result(unsafe {
            libc::vmsplice(writer.as_raw_fd(), &part, 1, 0)
        }))
    })?;
    ensure_eq!(seen, Err(Errno::EFAULT));
    Ok(())
}

register!(
    a11_read_and_write_of_a_file,
    a11_pipe,
    a11_writev,
    a11_small_accesses,
    a11_process_vm,
    a11_proc_mem,
    a11_mlock,
    a11_mlockall,
    a11_populate,
    a11_signal_frame,
    a11_rseq_area,
    a11_vmsplice,
);
