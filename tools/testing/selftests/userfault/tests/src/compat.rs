// SPDX-License-Identifier: GPL-2.0

//! A program of 32 bits, whose holes are as those of any other.

use crate::harness::Outcome;
use crate::{ensure_eq, register, skip};
use anyhow::{ensure, Context};
use std::process::Command;

/// The program, which lies beside this one. See `userfault-32.c`.
const PROGRAM: &str = "userfault-32";

/// What it has to see. Numbers are of the headers for i386.
const WANT: &str = "\
size of a long 4
advice 118 0
advice 118 for a file -22
read: signal 7, code 2, at 4660
write: signal 7, code 2, at 8191
read by the kernel -14
written by the kernel -14
move 4096
content 1
move again -17
move from a hole -2
handler: signal 7, code 2, at 8195, moved 4096
value 2
advice 119 0
read: no signal
value 0
version 8
read 8
answer 170
register 16
thread 1
fault at 4096
served 3
fault at 0
read by the kernel 0
fault at 12288
served 1
";

/// A1, A3, A8, A9, A11, A12, A45, A54: a program of 32 bits on the 64-bit kernel: the two advices,
/// SIGBUS with its code and address, EFAULT, the system call and a handler that resolves with it; a
/// descriptor that serves, and a thread that reads from it.
fn a12_32_bit_program() -> Outcome {
    let path = std::env::current_exe()?.with_file_name(PROGRAM);
    ensure!(
        path.exists(),
        "{} is missing; it is built from {PROGRAM}.c",
        path.display()
    );
    let output = match Command::new(&path).output() {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            skip!("no 32-bit programs on this kernel")
        }
        output => output.with_context(|| path.display().to_string())?,
    };
    ensure_eq!(String::from_utf8_lossy(&output.stdout), WANT);
    ensure!(output.status.success(), "{PROGRAM}: {}", output.status);
    Ok(())
}

register!(a12_32_bit_program);
