// SPDX-License-Identifier: GPL-2.0

//! Small things that several commands share.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A digest of parts, each with its length, so that no two lists of parts give the same.
pub struct Hash(Sha256);

impl Hash {
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    pub fn add(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file, unless it already holds just that.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// Where a program is, as the shell would find it.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// Whether `known` knows a path of the kernel tree by its end. Where the tree is, whoever printed the
/// path may say in any way; any part of it may be the one below the tree.
pub fn ends_in(path: &str, known: impl Fn(&str) -> bool) -> bool {
    known(path) || path.match_indices('/').any(|(at, _)| known(&path[at + 1..]))
}

/// The first `a.b.c` in a text.
pub fn version_in(text: &str) -> Option<(u32, u32, u32)> {
    let found = regex::Regex::new(r"(\d+)\.(\d+)(?:\.(\d+))?").ok()?.captures(text)?;
    let part = |i| found.get(i).map_or(Some(0), |m| m.as_str().parse().ok());
    Some((part(1)?, part(2)?, part(3)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_versions() {
        assert_eq!(version_in("rustc 1.96.0 (ac68faa20 2026)"), Some((1, 96, 0)));
        assert_eq!(version_in("LLVM version: 22.1"), Some((22, 1, 0)));
        assert_eq!(version_in("none"), None);
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(Hash::new().add("ab").add("c").hex(), Hash::new().add("a").add("bc").hex());
    }
}
