// SPDX-License-Identifier: GPL-2.0

//! What xtask remembers between runs: small JSON files under build/state.

use crate::ctx::Ctx;
use anyhow::Result;
use serde::{de::DeserializeOwned, Serialize};

/// Reads a memory; the default where there is none, or where an older xtask wrote it.
pub fn load<T: DeserializeOwned + Default>(ctx: &Ctx, name: &str) -> T {
    std::fs::read(ctx.state().join(format!("{name}.json")))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Writes a memory whole or not at all.
pub fn save<T: Serialize>(ctx: &Ctx, name: &str, value: &T) -> Result<()> {
    let path = ctx.state().join(format!("{name}.json"));
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(value)?)?;
    std::fs::rename(new, path)?;
    Ok(())
}
