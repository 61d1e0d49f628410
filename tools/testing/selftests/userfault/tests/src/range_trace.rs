// SPDX-License-Identifier: GPL-2.0

//! The events of the range protocol in tracefs.

use crate::harness::Outcome;
use crate::process::{interrupt, join};
use crate::range::{resolve, wait_until, LetGo, Range, A_WHILE};
use crate::range_fault::handle_sigusr1;
use crate::sys::Area;
use crate::trace::Trace;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use std::thread;

/// All that a fault goes through is told, and at the end how long it took.
fn a59_events_of_a_fault() -> Outcome {
    let trace = Trace::of(&["userfaultfd"])?;
    let (src, dst) = (Area::filled(2, 1)?, Area::pages(2)?);
    let fd = Range::serving(*dst)?;
    let hole = dst.page(1);
    let address = format!("address={:#x}", hole.addr);
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(*dst);
        let thread = scope.spawn(|| hole.check(2));
        fd.wait_for(1)?;
        ensure!(trace.has(&["userfaultfd_range_fault: ", &address, "by=program"])?);
        ensure!(!trace.has(&["userfaultfd_range_read: "])?, "read already");
        ensure_eq!(fd.fault()?, hole.addr);
        ensure!(trace.has(&["userfaultfd_range_read: ", &address])?);
        thread::sleep(A_WHILE);
        ensure!(
            !trace.has(&["userfaultfd_range_resolve: "])?,
            "waits no more"
        );
        resolve(*dst, *src)?;
        join(thread)
    })?;
    let range = format!("start={:#x} end={:#x} threads=1", dst.addr, dst.end());
    ensure!(trace.has(&["userfaultfd_range_wake: ", &range])?);

    let ends = trace.lines(&["userfaultfd_range_resolve: ", &address, "by=wake"])?;
    ensure_eq!(ends.len(), 1, "{ends:?}");
    let (_, waited) = ends[0].split_once("waited_ns=").context("no time")?;
    let waited: u64 = waited.split(' ').next().unwrap_or_default().parse()?;
    ensure!(waited >= A_WHILE.as_nanos() as u64, "{waited} ns");
    Ok(())
}

/// A wait that a signal ends is told as such, and the fault after it as another.
fn a71_events_of_a_signal() -> Outcome {
    handle_sigusr1()?;
    let trace = Trace::of(&["userfaultfd"])?;
    let (src, dst) = (Area::filled(1, 9)?, Area::pages(1)?);
    let fd = Range::serving(*dst)?;
    let hole = *dst;
    let thread = thread::spawn(move || hole.check(9));
    ensure_eq!(fd.fault()?, dst.addr);
    interrupt(&thread)?;
    wait_until(|| trace.has(&["userfaultfd_range_resolve: ", "by=signal"]))?;
    ensure_eq!(fd.fault()?, dst.addr);
    ensure_eq!(trace.lines(&["userfaultfd_range_fault: "])?.len(), 2);
    resolve(*dst, *src)?;
    thread.join().expect("no panic")
}

register!(a59_events_of_a_fault, a71_events_of_a_signal);
