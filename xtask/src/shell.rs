// SPDX-License-Identifier: GPL-2.0

//! `make shell`: a prompt in the booted kernel.

use crate::ctx::Ctx;
use crate::qemu::{self, Machine};
use crate::{initramfs, kernel, programs, tree};
use anyhow::{Context, Result};

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(8);
    kernel::ready(ctx)?;
    let programs = [programs::test_program(ctx).map(|p| vec![p]), programs::tests(ctx)];
    // A tree in the middle of a bisection may be too old for them.
    let programs = match tree::on_branch(ctx) {
        true => programs.into_iter().collect::<Result<Vec<_>>>()?,
        false => programs.into_iter().filter_map(Result::ok).collect(),
    };
    let programs = programs.concat();
    let initramfs = initramfs::pack(ctx, &ctx.objects(), "shell", &programs)?;
    let image = ctx.image();
    // People leave it open while they edit.
    tree::leave();
    ctx.ui.step("shell", "leave with exit, or ctrl-a x");
    let machine = Machine {
        image: &image,
        initramfs: &initramfs,
        words: "quiet userfault.run=shell".into(),
        accel: qemu::accel(ctx, &image, &initramfs),
        processors: 2,
        devices: &[],
        terminal: true,
    };
    machine.command(ctx).unchecked().run().context("cannot run QEMU")?;
    Ok(())
}
