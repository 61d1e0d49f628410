// SPDX-License-Identifier: GPL-2.0

//! `make boot`: everything from nothing to the test program in the booted kernel.

use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::Guest;
use crate::{kernel, programs};
use anyhow::{bail, Result};
use std::path::Path;

/// What the test program says at its end.
pub const GOOD: &str = "remap_anon_pages functions correctly";

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(7);
    kernel::ready(ctx)?;
    let program = programs::test_program(ctx)?;
    test_program(ctx, &ctx.objects(), "boot", &program, ctx.size, |line| {
        if let Line::Kernel(text) | Line::Program(text) = line {
            println!("{text}");
        }
    })
}

/// Runs the test program in a guest.
pub fn test_program(
    ctx: &Ctx,
    objects: &Path,
    name: &str,
    program: &Path,
    mib: u32,
    show: impl FnMut(Line),
) -> Result<()> {
    in_guest(ctx, objects, name, program, &[mib.to_string()], GOOD, show)
}

/// Runs an example of the documentation in a guest.
pub fn example(ctx: &Ctx, name: &str) -> Result<()> {
    let program = programs::example(ctx, name)?;
    in_guest(ctx, &ctx.objects(), name, &program, &[], &format!("{name}: ok"), |_| ())
}

/// Runs a program that says `good` at its end where all is well.
fn in_guest(
    ctx: &Ctx,
    objects: &Path,
    name: &str,
    program: &Path,
    args: &[String],
    good: &str,
    mut show: impl FnMut(Line),
) -> Result<()> {
    let base = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let programs = [program.into()];
    let guest = Guest::new(objects, name, &programs, [std::slice::from_ref(&base), args].concat());
    let (mut said, mut over) = (false, false);
    let console = guest.boot(ctx, |line| {
        if let Line::Program(text) = line {
            said |= text.trim() == good;
        }
        // What comes after the program is of no interest, and its verdict is to be the last line.
        if !over {
            over = said;
            show(line);
        }
    })?;
    match console.ended.get(&base) {
        Some(0) if said => Ok(()),
        Some(0) => bail!("{base} did not say '{good}'\n{}", console.tail()),
        status => bail!("{base} failed (status {})\n{}", status.unwrap_or(&-1), console.tail()),
    }
}
