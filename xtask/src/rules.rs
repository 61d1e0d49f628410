// SPDX-License-Identifier: GPL-2.0

//! Rules that a compiler does not hold for us. Each is a check of `make check`.

use crate::branch::Branch;
use crate::ctx::Ctx;
use crate::maintainers;
use crate::overlay::{self, File, MAINTAINERS};
use crate::series::Builder;
use crate::tree::{self, State};
use crate::util::read_text;
use crate::{patch, state};
use anyhow::{bail, Context, Result};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// The folders of our policy crates, and their roots, the only files that may hold `unsafe`.
pub const POLICY: [(&str, &str); 2] =
    [("mm/userfault/", "mm/userfault/userfault.rs"), ("fs/userfaultfd/", "fs/userfaultfd/userfaultfd.rs")];

type Rule<'a> = fn(&Rules<'a>) -> Result<()>;

/// Every rule, by what it says.
pub fn all<'a>() -> [(&'static str, Rule<'a>); 8] {
    [
        ("no Rust file beside a C file of its stem", Rules::stems),
        ("no unsafe in policy files", Rules::no_unsafe),
        ("a licence in every file", Rules::licences),
        ("no line of code longer than upstream's 100 columns", Rules::widths),
        ("patches only edit files of upstream", Rules::edits),
        ("the series applies without fuzz or offset", Rules::applies),
        ("MAINTAINERS covers every file of ours", Rules::maintained),
        ("tree, export, tree: the same tree", Rules::round_trip),
    ]
}

pub struct Rules<'a> {
    ctx: &'a Ctx,
    ours: BTreeMap<String, File>,
}

impl<'a> Rules<'a> {
    pub fn new(ctx: &'a Ctx) -> Result<Self> {
        Ok(Self { ctx, ours: overlay::files(ctx)? })
    }

    /// Kbuild would build the C file and never say so.
    fn stems(&self) -> Result<()> {
        let linux = self.ctx.linux();
        let beside = |path: &&String| {
            let stem = path.strip_suffix(".rs").map(|s| format!("{s}.c"));
            stem.is_some_and(|c| self.ours.contains_key(&c) || linux.join(c).exists())
        };
        none(self.ours.keys().filter(beside), "beside a C file of the same stem, which Kbuild builds instead")
    }

    fn no_unsafe(&self) -> Result<()> {
        let word = Regex::new(r"\bunsafe\b")?;
        let mut bad = Vec::new();
        for (folder, root) in POLICY {
            let root_text =
                self.ours.get(root).map(|f| read_text(&f.source)).transpose()?.unwrap_or_default();
            for (path, file) in self.ours.range(folder.to_string()..) {
                if !path.starts_with(folder) || !path.ends_with(".rs") || path == root {
                    continue;
                }
                let text = read_text(&file.source)?;
                let code =
                    text.lines().map(|l| l.split("//").next().unwrap_or_default().replace("unsafe_code", ""));
                if let Some(at) = code.into_iter().position(|l| word.is_match(&l)) {
                    bad.push(format!("{path}:{}: unsafe", at + 1));
                }
                let denied = |text: &str| {
                    text.contains("#![deny(unsafe_code)]") || text.contains("#![forbid(unsafe_code)]")
                };
                if !denied(&text) && !denied_by_root(&root_text, path, folder) {
                    bad.push(format!("{path}: does not say #![deny(unsafe_code)]"));
                }
            }
        }
        none(bad.iter(), "unsafe belongs into rust/kernel/mm or an entry point of the crate")
    }

    fn licences(&self) -> Result<()> {
        let mut bad = Vec::new();
        for (path, file) in &self.ours {
            let named = ["config", "settings", "Cargo.lock"].iter().any(|n| path.ends_with(&format!("/{n}")));
            let fragment = path.contains("/config.")
                || [".config", ".gitignore", ".kunitconfig"].iter().any(|end| path.ends_with(end));
            let text = String::from_utf8_lossy(&crate::util::read(&file.source)?).into_owned();
            let has = text.lines().take(3).any(|l| l.contains("SPDX-License-Identifier:"));
            if !has && !named && !fragment {
                bad.push(path.clone());
            }
        }
        none(bad.iter(), "without SPDX-License-Identifier in the first lines")
    }

    /// rustfmt does not break comments, and checkpatch.pl is asked by `make bisect-check` only.
    fn widths(&self) -> Result<()> {
        let mut bad = Vec::new();
        for (path, file) in &self.ours {
            if [".rs", ".c", ".h"].iter().any(|end| path.ends_with(end)) {
                let text = read_text(&file.source)?;
                let long = text.lines().enumerate().filter(|(_, line)| width(line) > 100);
                bad.extend(long.map(|(at, _)| format!("{path}:{}", at + 1)));
            }
        }
        none(bad.iter(), "longer than 100 columns")
    }

    fn edits(&self) -> Result<()> {
        let git = tree::git(self.ctx);
        let upstream: BTreeSet<String> = git.files("upstream", &[])?.into_iter().map(|f| f.0).collect();
        for patch in patch::load(self.ctx)? {
            let edits = patch.edits()?;
            let strange = edits.iter().filter(|p| !upstream.contains(*p));
            none(strange, &format!("in patches/{}, but no file of upstream", patch.name))?;
        }
        Ok(())
    }

    /// `make tree` takes an offset, for the sake of other versions; our own series has none.
    fn applies(&self) -> Result<()> {
        let index = self.ctx.state().join("index.rules");
        let git = tree::git(self.ctx).index(&index);
        git.bytes(&["read-tree", "upstream"], b"")?;
        for patch in patch::load(self.ctx)?.iter().filter(|p| !p.diff.is_empty()) {
            let (good, _, said) = git.try_bytes(&["apply", "--cached", "-v", "-"], &patch.diff)?;
            let moved: Vec<_> = said.lines().filter(|l| l.contains("offset")).collect();
            if !good || !moved.is_empty() {
                bail!(
                    "patches/{}: {}; make export writes it anew",
                    patch.name,
                    if good { moved.join(", ") } else { said }
                );
            }
        }
        let _ = std::fs::remove_file(index);
        Ok(())
    }

    fn maintained(&self) -> Result<()> {
        let path = self.ctx.root.join(MAINTAINERS);
        let bad = maintainers::uncovered(&read_text(&path)?, self.ours.keys());
        none(bad.into_iter(), "in no entry of MAINTAINERS")
    }

    /// What export would write makes the tree that is there.
    fn round_trip(&self) -> Result<()> {
        let git = tree::git(self.ctx);
        let state: State = state::load(self.ctx, "tree");
        let branch = Branch::new(self.ctx, git.clone())?;
        let written = branch.patches(&state.tip)?;
        let patches =
            written.into_iter().map(|w| patch::parse(w.bytes, w.name)).collect::<Result<Vec<_>>>()?;
        let upstream = git.resolve("upstream^{commit}").context("build/linux has no tag upstream")?;
        let (_, entries) = branch.maintainers(&state.tip, "upstream")?;
        let tip = Builder::new(self.ctx, &git, &upstream, &state.version)?
            .of_export(branch.ours(&state.tip)?, entries)
            .commits(&patches, &mut BTreeMap::new())?;
        let tree = |commit: &str| git.resolve(&format!("{commit}^{{tree}}"));
        if tree(&tip) != tree(&state.tip) {
            bail!("the tree made of an export differs; see: git -C build/linux diff {} {}", state.tip, tip);
        }
        Ok(())
    }
}

/// Whether the root of the crate declares a file's module under `#[deny(unsafe_code)]`.
fn denied_by_root(root: &str, path: &str, folder: &str) -> bool {
    let module = path[folder.len()..].split(['/', '.']).next().unwrap_or_default();
    let lines: Vec<&str> = root.lines().map(str::trim).collect();
    let declared =
        [format!("mod {module};"), format!("pub mod {module};"), format!("pub(crate) mod {module};")];
    lines.iter().position(|l| declared.iter().any(|d| l == d)).is_some_and(|at| {
        lines[..at]
            .iter()
            .rev()
            .take_while(|l| l.starts_with("#[") || l.starts_with("//"))
            .any(|l| *l == "#[deny(unsafe_code)]")
    })
}

/// How many columns a line takes.
fn width(line: &str) -> usize {
    line.chars().fold(0, |at, c| if c == '\t' { (at / 8 + 1) * 8 } else { at + 1 })
}

/// An error that lists what should not be there.
pub fn none<'b>(bad: impl Iterator<Item = &'b String>, why: &str) -> Result<()> {
    let list: Vec<&str> = bad.map(String::as_str).collect();
    if !list.is_empty() {
        bail!("{why}:\n    {}", list.join("\n    "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_columns() {
        assert_eq!(width("ab\tä"), 9);
        assert_eq!(width("\t\t12345678\t"), 32);
    }

    #[test]
    fn modules_are_denied_by_their_root() {
        let root = "#[deny(unsafe_code)]\nmod fault;\nmod madvise;\n";
        assert!(denied_by_root(root, "mm/userfault/fault.rs", "mm/userfault/"));
        assert!(!denied_by_root(root, "mm/userfault/madvise.rs", "mm/userfault/"));
    }
}
