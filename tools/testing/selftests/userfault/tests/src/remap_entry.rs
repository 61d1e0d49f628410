// SPDX-License-Identifier: GPL-2.0

//! The system call's ways in on x86-64: of 32-bit programs, and none of x32's.

use crate::harness::{Outcome, Skip};
use crate::proc::ensure_holes;
use crate::process::{in_child, Ended};
use crate::sys::{page, Area, Map, Span, NR_REMAP_ANON_PAGES, RAP_ALLOW_SRC_HOLES};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::arch::asm;

/// A system call by the entry of 32-bit programs.  It looks at the lower half of each argument.
fn call_32(number: i64, args: [u64; 4]) -> nix::Result<i32> {
    let result: u64;
    // SAFETY: The call changes memory of areas only, which is never borrowed.  The entry may leave
    // anything in r8 to r11.
    unsafe {
        asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) args[0] => _,
            inlateout("rax") number as u64 => result,
            in("rcx") args[1],
            in("rdx") args[2],
            in("rsi") args[3],
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    match result as i32 {
        error @ -4095..=-1 => Err(Errno::from_raw(-error)),
        result => Ok(result),
    }
}

/// Skips the test where 32-bit programs cannot run.
fn ensure_32() -> Outcome {
    const NR_GETPID_32: i64 = 20;
    let ended = in_child(|| {
        // SAFETY: Resetting a signal has no preconditions.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        let pid = call_32(NR_GETPID_32, [0; 4])?;
        ensure_eq!(pid, std::process::id() as i32);
        Ok(())
    })?;
    match ended {
        Ended::Passed => Ok(()),
        Ended::Killed(_) => Err(Skip("no 32-bit programs on this kernel".into()).into()),
        ended => anyhow::bail!("getpid by the 32-bit entry: {ended:?}"),
    }
}

/// A destination and a source at addresses that 32 bits can name.
fn low_pair() -> anyhow::Result<(Area, Area)> {
    ensure_32()?;
    let low = || {
        Map::pages(3)
            .more_flags(libc::MAP_32BIT)
            .map()
            .context("mmap")
    };
    let (dst, src) = (low()?, low()?);
    ensure!(dst.end() <= 1 << 32 && src.end() <= 1 << 32, "not low");
    src.fill_pages(1);
    Ok((dst, src))
}

fn remap_32(args: [u64; 4]) -> nix::Result<i32> {
    call_32(NR_REMAP_ANON_PAGES, args)
}

/// A18, A45: the 32-bit entry has the same number, order of arguments, and result.
fn a18_32_bit_entry() -> Outcome {
    let (dst, src) = low_pair()?;
    let len = src.len as u64;
    let args = [dst.addr as u64, src.addr as u64, len, 0];
    ensure_eq!(remap_32(args), Ok(src.len as i32));
    dst.check_pages(1)?;
    ensure_holes(*src)?;
    ensure_eq!(remap_32(args), Err(Errno::EEXIST), "again");
    let back = [args[1], args[0], len, RAP_ALLOW_SRC_HOLES];
    ensure_eq!(remap_32(back), Ok(src.len as i32));
    ensure_eq!(remap_32(back), Err(Errno::EEXIST), "back again");
    src.check_pages(1)
}

/// A18, A19: bad arguments by the 32-bit entry.
fn a19_32_bit_arguments() -> Outcome {
    let (dst, src) = low_pair()?;
    let (to, from, len) = (dst.addr as u64, src.addr as u64, src.len as u64);
    let page = page() as u64;
    for args in [
        [to + 1, from, len, 0],
        [to, from + 1, len, 0],
        [to, from, len - 1, 0],
        [to, from, 0, 0],
        [to, from, len, 4],
        [to, from, len, 1 << 31],
        [to, from, (1 << 32) - page, 0],
        [(1 << 32) - page, from, len, 0],
        [to, (1 << 32) - page, len, 0],
    ] {
        ensure_eq!(remap_32(args), Err(Errno::EINVAL), "{args:x?}");
    }
    ensure_holes(*dst)?;
    src.check_pages(1)
}

/// A18: the upper half of each register is none of the 32-bit entry's business.
fn a18_32_bit_arguments_are_cut() -> Outcome {
    const UPPER: u64 = 0x1234_5678 << 32;
    let (dst, src) = low_pair()?;
    let args = [dst.addr, src.addr, src.len, 0].map(|arg| arg as u64 | UPPER);
    ensure_eq!(remap_32(args), Ok(src.len as i32));
    dst.check_pages(1)?;
    // By the 64-bit entry the same arguments name nothing.
    // SAFETY: It moves pages of areas only.
    let result = unsafe { libc::syscall(NR_REMAP_ANON_PAGES, args[1], args[0], args[2], args[3]) };
    ensure_eq!(Errno::result(result), Err(Errno::EINVAL));
    dst.check_pages(1)
}

/// A30: the 32-bit entry never returns what looks like an error: it moves less than 2 GiB.
fn a30_32_bit_result() -> Outcome {
    const START: usize = 0x5000_0000;
    const LEN: usize = 1 << 31;
    ensure_32()?;
    // SAFETY: It takes free addresses only.
    let mapped = unsafe {
        libc::mmap(
            START as *mut libc::c_void,
            LEN,
            crate::sys::RW,
            libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_NORESERVE
                | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if mapped as usize != START {
        crate::skip!("the lower addresses are taken");
    }
    // SAFETY: Just mapped, for this test only.
    let area = unsafe { Area::from_span(Span::new(START, LEN)) };
    let addr = area.addr as u64;
    let args = [addr, addr, LEN as u64, RAP_ALLOW_SRC_HOLES];
    ensure_eq!(remap_32(args), Ok((LEN - page()) as i32));
    Ok(())
}

/// A45: x32 programs have no such call.
fn a45_not_for_x32() -> Outcome {
    const X32: i64 = 0x4000_0000;
    let (dst, src) = (Area::pages(1)?, Area::filled(1, 1)?);
    // SAFETY: It would move pages of areas only.
    let result =
        unsafe { libc::syscall(X32 | NR_REMAP_ANON_PAGES, dst.addr, src.addr, src.len, 0) };
    ensure_eq!(Errno::result(result), Err(Errno::ENOSYS));
    src.check(1)
}

register!(
    a18_32_bit_entry,
    a19_32_bit_arguments,
    a18_32_bit_arguments_are_cut,
    a30_32_bit_result,
    a45_not_for_x32,
);
