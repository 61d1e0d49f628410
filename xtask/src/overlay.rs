// SPDX-License-Identifier: GPL-2.0

//! Our own files, and where they go in the kernel tree.

use crate::ctx::Ctx;
use anyhow::{Context, Result};
use ignore::WalkBuilder;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The folders that are laid over the tree.
pub const FOLDERS: [&str; 7] = ["arch", "fs", "include", "mm", "rust", "tools", "Documentation"];
/// Our menu, and its place in the tree: mm/Kconfig sources it.
const KCONFIG: (&str, &str) = ("Kconfig", "mm/Kconfig.userfault");
/// Not laid over but merged.
pub const MAINTAINERS: &str = "MAINTAINERS";

pub struct File {
    pub source: PathBuf,
    /// git's mode: `100644` or `100755`.
    pub mode: &'static str,
}

/// Every file of ours by its path in the tree. What .gitignore names is not ours.
pub fn files(ctx: &Ctx) -> Result<BTreeMap<String, File>> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS.iter().filter(|f| ctx.root.join(f).is_dir()) {
        let walk = WalkBuilder::new(ctx.root.join(folder))
            .hidden(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .filter_entry(|e| e.file_name() != "target")
            .build();
        for entry in walk {
            let entry = entry.context("reading our folders")?;
            if entry.file_type().is_some_and(|t| t.is_file()) {
                let path = entry.path().strip_prefix(&ctx.root)?.display().to_string();
                files.insert(path, file(entry.into_path())?);
            }
        }
    }
    let kconfig = ctx.root.join(KCONFIG.0);
    if kconfig.exists() {
        files.insert(KCONFIG.1.into(), file(kconfig)?);
    }
    Ok(files)
}

fn file(source: PathBuf) -> Result<File> {
    let executable = source.metadata()?.permissions().mode() & 0o111 != 0;
    Ok(File { source, mode: if executable { "100755" } else { "100644" } })
}

/// Where a file of the tree is kept in the repository.
pub fn place(ctx: &Ctx, path: &str) -> PathBuf {
    ctx.root.join(if path == KCONFIG.1 { KCONFIG.0 } else { path })
}

/// Whether a path of the tree may be a file of ours.
pub fn is_ours(path: &str) -> bool {
    path == KCONFIG.1 || path.split_once('/').is_some_and(|(top, _)| FOLDERS.contains(&top))
}
