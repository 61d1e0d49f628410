// SPDX-License-Identifier: GPL-2.0

//! `make torture`: random operations in the guest, whose every result and every page is held against
//! a model; see tools/testing/selftests/userfault/tests/src/torture.rs.

use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::{words, Guest};
use crate::{kernel, programs};
use anyhow::{bail, Result};

/// How many operations there are by default, on the plain kernel and on one with checkers.
const OPS: u64 = 10_000_000;
const OPS_SLOW: u64 = 1_000_000;
const SEED: u64 = 1;

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(7);
    kernel::ready(ctx)?;
    let programs = programs::tests(ctx)?;
    let seed = ctx.seed.unwrap_or(SEED);
    let ops = ctx.ops.unwrap_or(if ctx.slow() { OPS_SLOW } else { OPS });
    let command =
        ["userfault-tests".to_string(), "--torture".into(), format!("--ops={ops}"), format!("--seed={seed}")];
    let objects = ctx.objects();
    let words = words(ctx.arch);
    // For each so many as for the default.
    let minutes = 60 * ops.div_ceil(OPS);
    let guest = Guest { words, minutes, ..Guest::new(&objects, "torture", &programs, command.into()) };
    let console = guest.boot(ctx, |line| {
        if let Line::Program(text) = line {
            ctx.ui.note(text);
        }
    })?;
    match console.ended.get("userfault-tests") {
        Some(0) => println!("{ops} operations of seed {seed}, and every page as it should be"),
        _ => bail!("see above; make torture SEED={seed} OPS={ops} repeats it\n{}", console.tail()),
    }
    Ok(())
}
