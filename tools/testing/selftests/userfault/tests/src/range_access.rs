// SPDX-License-Identifier: GPL-2.0

//! Who may have a descriptor, and what it then serves: mainline's rule, in this dialect too.

use crate::harness::Outcome;
use crate::knobs::set;
use crate::process::{join, must_pass_in_child};
use crate::range::{resolve, LetGo, Range, PROTOCOL, USER_MODE_ONLY};
use crate::sys::{Area, Span};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::unistd::{pipe, setresuid, Uid};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

/// Whether a descriptor of anybody may serve the kernel.
pub const SETTING: &str = "/proc/sys/vm/unprivileged_userfaultfd";

/// Becomes a user without privileges.
pub fn give_up_privileges() -> Outcome {
    let nobody = Uid::from_raw(65534);
    setresuid(nobody, nobody, nobody).context("setresuid")
}

/// Whether the kernel can read a hole that the descriptor serves, which is to be marked.
fn serves_kernel(fd: &Range, hole: Span, src: Span) -> anyhow::Result<bool> {
    let (_reader, writer): (OwnedFd, OwnedFd) = pipe()?;
    let raw = writer.as_raw_fd();
    let write = move || {
        // SAFETY: The kernel checks the pointer.
        Errno::result(unsafe { libc::write(raw, hole.addr as *const _, 8) })
    };
    thread::scope(|scope| {
        let _end = LetGo::at_the_end(hole);
        let thread = scope.spawn(write);
        while !thread.is_finished() {
            match fd.read() {
                Ok(_) => resolve(hole, src)?,
                Err(Errno::EAGAIN) => fd.wait_a_little()?,
                Err(error) => return Err(error).context("read"),
            }
        }
        match thread.join().expect("no panic") {
            Ok(8) => Ok(true),
            Err(Errno::EFAULT) => Ok(false),
            other => anyhow::bail!("write: {other:?}"),
        }
    })
}

/// A descriptor that was made with these flags serves an access of the program, and one of the
/// kernel if it is to.
fn ensure_serves(fd: Range, kernel: bool) -> Outcome {
    let (src, area) = (Area::filled(2, 1)?, Area::marked(2)?);
    fd.register(*area).context("register")?;
    ensure_eq!(serves_kernel(&fd, area.page(0), src.page(0))?, kernel);
    let hole = area.page(1);
    thread::scope(|scope| -> Outcome {
        let _end = LetGo::at_the_end(hole);
        let thread = scope.spawn(|| hole.check(2));
        ensure_eq!(fd.fault()?, hole.addr);
        resolve(hole, src.page(1))?;
        join(thread)
    })
}

/// A46: without privileges a descriptor serves accesses of programs only, unless the administrator
/// has said otherwise.
fn a46_without_privileges() -> Outcome {
    for allowed in [false, true] {
        set(SETTING, u8::from(allowed))?;
        must_pass_in_child(|| {
            give_up_privileges()?;
            match Range::open(0) {
                Ok(_) => ensure!(allowed, "not refused"),
                Err(error) => ensure_eq!((error, allowed), (Errno::EPERM, false)),
            }
            ensure_serves(Range::with(USER_MODE_ONLY | libc::O_NONBLOCK)?, false)?;
            if allowed {
                ensure_serves(Range::without_waiting()?, true)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A46: who may open /dev/userfaultfd gets descriptors from it that serve the kernel too.
fn a46_device() -> Outcome {
    let device = File::open("/dev/userfaultfd").context("/dev/userfaultfd")?;
    set(SETTING, 0)?;
    must_pass_in_child(|| {
        give_up_privileges()?;
        for (flags, kernel) in [(0, true), (USER_MODE_ONLY, false)] {
            let fd = Range::from_device(&device, flags | libc::O_NONBLOCK)?;
            ensure_eq!(fd.write(&[PROTOCOL]), Ok(8));
            ensure_eq!(fd.read(), Ok(PROTOCOL));
            ensure_serves(fd, kernel)?;
        }
        Ok(())
    })
}

register!(a46_without_privileges, a46_device,);
