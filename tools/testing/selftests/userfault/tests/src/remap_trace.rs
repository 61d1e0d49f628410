// SPDX-License-Identifier: GPL-2.0

//! What tracing knows of the system call.

use crate::harness::Outcome;
use crate::knobs::mount_at;
use crate::sys::Area;
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use std::fs;

/// A18: tracing knows the call, with its arguments, and sees it.
fn a18_tracing() -> Outcome {
    let root = mount_at("/sys/kernel/tracing", "tracefs")?;
    if !root.join("events/syscalls").exists() {
        crate::skip!("this kernel does not trace system calls");
    }
    let enter = root.join("events/syscalls/sys_enter_remap_anon_pages");
    let exit = root.join("events/syscalls/sys_exit_remap_anon_pages");
    ensure!(enter.exists() && exit.exists(), "the events are missing");
    let format = fs::read_to_string(enter.join("format")).context("format")?;
    for name in ["dst", "src", "len", "flags"] {
        ensure!(
            format.contains(&format!(" {name};")),
            "no argument {name} in {format}"
        );
    }

    let (dst, src) = (Area::pages(1)?, Area::filled(1, 1)?);
    fs::write(root.join("trace"), "").context("trace")?;
    for event in [&enter, &exit] {
        fs::write(event.join("enable"), "1").context("enable")?;
    }
    let result = crate::sys::remap(*dst, *src, 0);
    let trace = fs::read_to_string(root.join("trace"));
    for event in [&enter, &exit] {
        fs::write(event.join("enable"), "0").context("disable")?;
    }
    let trace = trace.context("trace")?;
    ensure_eq!(result, Ok(src.len));
    let (to, from) = (
        format!("dst: 0x{:x}", dst.addr),
        format!("src: 0x{:x}", src.addr),
    );
    let moved = format!("sys_remap_anon_pages -> 0x{:x}", src.len);
    for text in ["sys_remap_anon_pages(", &to, &from, &moved] {
        ensure!(trace.contains(text), "no {text:?} in the trace:\n{trace}");
    }
    Ok(())
}

register!(a18_tracing);
