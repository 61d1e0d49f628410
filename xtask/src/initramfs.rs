// SPDX-License-Identifier: GPL-2.0

//! The guest's file system: busybox, our init, and the programs to run. Nothing of the host.

use crate::ctx::Ctx;
use crate::deps;
use crate::util::write_if_changed;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

pub const INIT: &str = include_str!("../guest/init");

/// Packs `programs` into /bin of the guest, with the kernel's own gen_init_cpio.
pub fn pack(ctx: &Ctx, objects: &Path, name: &str, programs: &[PathBuf]) -> Result<PathBuf> {
    let dir = objects.join("guest");
    let init = dir.join("init");
    write_if_changed(&init, INIT.as_bytes())?;
    let busybox = deps::busybox(ctx)?;
    let mut list = String::from(
        "dir /dev 755 0 0\nnod /dev/console 600 0 0 c 5 1\nnod /dev/null 666 0 0 c 1 3\n\
         dir /bin 755 0 0\ndir /proc 755 0 0\ndir /sys 755 0 0\ndir /tmp 1777 0 0\n",
    );
    let mut add = |at: &str, from: &Path| {
        let from = from.canonicalize().with_context(|| format!("{} is missing", from.display()))?;
        list.push_str(&format!("file {at} {} 755 0 0\n", from.display()));
        anyhow::Ok(())
    };
    add("/init", &init)?;
    add("/bin/busybox", &busybox)?;
    for program in programs {
        let base = program.file_name().unwrap_or_default().to_string_lossy();
        add(&format!("/bin/{base}"), program)?;
    }
    let (list_file, out) = (dir.join(format!("{name}.list")), dir.join(format!("{name}.cpio")));
    std::fs::write(&list_file, list)?;
    duct::cmd!(objects.join("usr/gen_init_cpio"), "-t", "0", &list_file)
        .stdout_path(&out)
        .run()
        .context("cannot pack the guest's initramfs")?;
    Ok(out)
}
