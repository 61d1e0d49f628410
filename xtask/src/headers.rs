// SPDX-License-Identifier: GPL-2.0

//! `make headers`: the user headers, in build/ARCH/usr/include.

use crate::ctx::Ctx;
use crate::kernel::{self, Kbuild};
use crate::toolchain;
use anyhow::Result;

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(4);
    kernel::prepare(ctx)?;
    install(ctx)?;
    println!("{}", ctx.plain().join("usr/include").display());
    Ok(())
}

/// Installs them into the plain kernel's folder, whichever kernel is built.
pub fn install(ctx: &Ctx) -> Result<()> {
    ctx.ui.step("headers", "user headers");
    let kbuild = Kbuild::new(ctx, "headers", ctx.linux(), ctx.plain(), toolchain::find(ctx)?);
    kbuild.build(ctx, &["headers"], 10, "is a header in include/uapi damaged?")
}
