// SPDX-License-Identifier: GPL-2.0

//! `make boot`: everything from nothing to the test program in the booted kernel.

use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::{Clock, Guest};
use crate::{kernel, programs};
use anyhow::{bail, Result};
use std::path::Path;

/// What the test program says at its end.
pub const GOOD: &str = "remap_anon_pages functions correctly";

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(7);
    kernel::prepare(ctx)?;
    kernel::build(ctx)?;
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
    mut show: impl FnMut(Line),
) -> Result<()> {
    let guest = Guest {
        objects,
        name,
        programs: &[program.into()],
        command: vec!["remap_anon_pages".into(), mib.to_string()],
        words: "",
        clock: Clock::Time,
        minutes: 20,
    };
    let (mut good, mut over) = (false, false);
    let console = guest.boot(ctx, |line| {
        if let Line::Program(text) = line {
            good |= text.trim() == GOOD;
        }
        // What comes after the program is of no interest, and its verdict is to be the last line.
        if !over {
            over = good;
            show(line);
        }
    })?;
    match console.ended.get("remap_anon_pages") {
        Some(0) if good => Ok(()),
        Some(0) => bail!("the test program did not say '{GOOD}'\n{}", console.tail()),
        status => bail!("the test program failed (status {})\n{}", status.unwrap_or(&-1), console.tail()),
    }
}
