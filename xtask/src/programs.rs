// SPDX-License-Identifier: GPL-2.0

//! The programs that run in the guest, linked statically.

use crate::ctx::Ctx;
use crate::headers;
use crate::run::{Job, MINUTE};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The test program in C, built against our headers.
pub fn test_program(ctx: &Ctx) -> Result<PathBuf> {
    headers::install(ctx)?;
    ctx.ui.step("program", "the test program");
    compile(ctx, &ctx.selftests(), &ctx.plain())
}

/// The tests in Rust.
pub fn tests(ctx: &Ctx) -> Result<PathBuf> {
    ctx.ui.step("tests", "the tests in Rust");
    crate_of(ctx, &ctx.selftests(), &ctx.plain())
}

/// Compiles the test program of a folder of selftests, with the headers that a build folder has.
pub fn compile(ctx: &Ctx, selftests: &Path, objects: &Path) -> Result<PathBuf> {
    let out = objects.join("tests/remap_anon_pages");
    std::fs::create_dir_all(objects.join("tests"))?;
    let source = selftests.join("remap_anon_pages.c");
    let include = format!("-I{}", objects.join("usr/include").display());
    let what =
        duct::cmd!("gcc", "-static", "-O2", "-Wall", "-Wextra", include, "-o", &out, source, "-pthread");
    let hint = "the compiler's message says what; the headers come from include/uapi";
    Job { ctx, name: "test-program", what, limit: 2 * MINUTE, hint }.run()?;
    Ok(out)
}

/// Builds the crate of a folder of selftests, in a build folder.
pub fn crate_of(ctx: &Ctx, selftests: &Path, objects: &Path) -> Result<PathBuf> {
    let target = ctx.arch.user_target();
    let dir = objects.join("tests/cargo");
    let what = cargo(&["build", "--release", "--locked", "--target", target])
        .dir(selftests.join("tests"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &dir);
    let hint = "the compiler's message says what; is crates.io in reach?";
    Job { ctx, name: "tests", what, limit: 20 * MINUTE, hint }.run()?;
    Ok(dir.join(target).join("release/userfault-tests"))
}

/// The cargo that runs us, without what it told us.
pub fn cargo(args: &[&str]) -> duct::Expression {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let mut command = duct::cmd(cargo, args).stdin_null();
    for (key, _) in std::env::vars() {
        if key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_") {
            command = command.env_remove(key);
        }
    }
    command
}
