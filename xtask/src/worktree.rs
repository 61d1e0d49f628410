// SPDX-License-Identifier: GPL-2.0

//! A second work tree of build/linux, for commits other than the one that is checked out there.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::toolchain::Toolchain;
use crate::tree;
use crate::util::{read, Hash};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Checks a commit out in `dir`. Files that do not change keep their time, so that builds stay
/// incremental.
pub fn check_out(ctx: &Ctx, dir: &Path, commit: &str) -> Result<()> {
    let own = Git::new(dir);
    if !dir.join(".git").exists() || own.resolve("HEAD").is_none() {
        remove(ctx, dir)?;
        let dir = dir.display().to_string();
        tree::git(ctx).bytes(&["worktree", "add", "--quiet", "--detach", &dir, commit], b"")?;
    }
    own.bytes(&["reset", "--hard", "--quiet", commit], b"")?;
    Ok(())
}

/// Takes it away again, where it is there.
pub fn remove(ctx: &Ctx, dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    tree::git(ctx).bytes(&["worktree", "prune"], b"")?;
    Ok(())
}

/// A digest of all that a build of a commit depends on, and of `what` is looked at in the result.
pub fn key(
    ctx: &Ctx,
    commit: &str,
    toolchain: &Toolchain,
    what: &str,
    fragments: &[PathBuf],
) -> Result<String> {
    let tree = tree::git(ctx).text(&["rev-parse", &format!("{commit}^{{tree}}")])?;
    let mut hash = Hash::new().add(tree).add(toolchain.key()?).add(what);
    for path in fragments {
        hash = hash.add(read(path)?);
    }
    Ok(hash.hex())
}
