// SPDX-License-Identifier: GPL-2.0

//! What xtask remembers between runs, in JSON: of this clone under build/state, of a source, whatever
//! clone it is in, in the cache.

use crate::ctx::Ctx;
use anyhow::Result;
use serde::{de::DeserializeOwned, Serialize};
use std::path::{Path, PathBuf};

/// Reads a memory; the default where there is none, or where an older xtask wrote it.
pub fn load<T: DeserializeOwned + Default>(ctx: &Ctx, name: &str) -> T {
    std::fs::read(ctx.state().join(format!("{name}.json")))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Writes a memory whole or not at all.
pub fn save<T: Serialize>(ctx: &Ctx, name: &str, value: &T) -> Result<()> {
    write(&ctx.state().join(format!("{name}.json")), value)
}

/// What was once found out of something that `key` is a digest of.
pub fn recall<T: DeserializeOwned>(ctx: &Ctx, kind: &str, key: &str) -> Option<T> {
    serde_json::from_slice(&std::fs::read(cached(ctx, kind, key)).ok()?).ok()
}

/// Keeps it for the next time.
pub fn remember<T: Serialize>(ctx: &Ctx, kind: &str, key: &str, value: &T) -> Result<()> {
    let path = cached(ctx, kind, key);
    std::fs::create_dir_all(ctx.cache.join(kind))?;
    write(&path, value)
}

fn cached(ctx: &Ctx, kind: &str, key: &str) -> PathBuf {
    ctx.cache.join(kind).join(format!("{key}.json"))
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(value)?)?;
    std::fs::rename(new, path)?;
    Ok(())
}
