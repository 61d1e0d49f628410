// SPDX-License-Identifier: GPL-2.0

//! Makes one commit per patch, in git's object store alone: no file of the work tree is touched.
//! The same input gives the same commits on every machine.

use crate::branch::Files;
use crate::ctx::Ctx;
use crate::git::Git;
use crate::maintainers;
use crate::overlay::{self, MAINTAINERS};
use crate::patch::{Patch, NEW_FILE};
use crate::util::Hash;
use anyhow::{bail, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Who made a commit whose patch does not say.
pub const AUTHOR: (&str, &str) = ("userfault", "userfault@localhost");
/// When it was made: anything, so long as it stays the same.
pub const DATE: &str = "2026-01-01T00:00:00 +0000";

/// One of our files as git knows it.
struct Blob {
    mode: String,
    id: String,
}

pub struct Builder<'a> {
    ctx: &'a Ctx,
    git: Git,
    version: &'a str,
    upstream: &'a str,
    blobs: BTreeMap<String, Blob>,
    /// Our entries of MAINTAINERS.
    entries: String,
}

impl<'a> Builder<'a> {
    /// Takes in our files as they are now.
    pub fn new(ctx: &'a Ctx, git: &Git, upstream: &'a str, version: &'a str) -> Result<Self> {
        let files = overlay::files(ctx)?;
        let list: String = files.values().map(|f| format!("{}\n", f.source.display())).collect();
        let ids = git.text_with(&["hash-object", "-w", "--no-filters", "--stdin-paths"], list.as_bytes())?;
        let blobs = files
            .into_iter()
            .zip(ids.lines())
            .map(|((path, file), id)| (path, Blob { mode: file.mode.into(), id: id.into() }))
            .collect();
        let entries = std::fs::read_to_string(ctx.root.join(MAINTAINERS)).unwrap_or_default();
        Ok(Self { ctx, git: git.clone(), version, upstream, blobs, entries })
    }

    /// The same with the files that an export of the branch would write.
    pub fn of_export(self, files: Files, entries: String) -> Self {
        let blobs = files.into_iter().map(|(path, (mode, id))| (path, Blob { mode, id })).collect();
        Self { blobs, entries, ..self }
    }

    /// Commits the whole series; `known` holds the commits of the last time by what went into them.
    pub fn commits(&self, patches: &[Patch], known: &mut BTreeMap<String, String>) -> Result<String> {
        let homes = self.homes(patches)?;
        let index = self.ctx.state().join("index.new");
        let git = self.git.index(&index);
        let (mut tip, mut loaded) = (self.upstream.to_string(), false);
        let mut used = BTreeMap::new();
        for (patch, files) in patches.iter().zip(&homes) {
            let key = self.key(&tip, patch, files);
            let commit =
                match known.get(&key).filter(|c| self.git.resolve(&format!("{c}^{{commit}}")).is_some()) {
                    Some(commit) if !loaded => commit.clone(),
                    _ => {
                        if !loaded {
                            git.bytes(&["read-tree", &tip], b"")?;
                            loaded = true;
                        }
                        self.commit(&git, &tip, patch, files)?
                    }
                };
            used.insert(key, commit.clone());
            tip = commit;
        }
        let _ = std::fs::remove_file(index);
        *known = used;
        Ok(tip)
    }

    /// Which of our files come with which patch: each with one, and none that upstream has.
    fn homes(&self, patches: &[Patch]) -> Result<Vec<BTreeSet<String>>> {
        let mut owner: BTreeMap<&str, &str> = BTreeMap::new();
        let mut homes = Vec::new();
        for patch in patches {
            let mut home = BTreeSet::new();
            for name in &patch.new_files {
                let found: Vec<&String> = match name.ends_with('/') {
                    true => self.blobs.keys().filter(|p| p.starts_with(name)).collect(),
                    false => self.blobs.keys().filter(|p| *p == name).collect(),
                };
                if name != MAINTAINERS && found.is_empty() {
                    bail!("patches/{}: '{NEW_FILE} {name}', but there is no such file here", patch.name);
                }
                for path in found {
                    match owner.insert(path, &patch.name) {
                        Some(other) if other != patch.name => {
                            bail!("{path} comes with two patches: {other} and {}", patch.name)
                        }
                        _ => home.insert(path.clone()),
                    };
                }
                if name == MAINTAINERS {
                    home.insert(MAINTAINERS.into());
                }
            }
            homes.push(home);
        }
        let orphans: Vec<&str> =
            self.blobs.keys().map(String::as_str).filter(|p| !owner.contains_key(p)).collect();
        if !orphans.is_empty() {
            bail!(
                "no patch names these files; add a line '{NEW_FILE} PATH' to the message of the patch \
                 that they come with:\n  {}",
                orphans.join("\n  ")
            );
        }
        self.upstream_has_none(&owner.into_keys().collect::<Vec<_>>())?;
        Ok(homes)
    }

    fn upstream_has_none(&self, paths: &[&str]) -> Result<()> {
        let there: Vec<_> = self.git.files(self.upstream, paths)?.into_iter().map(|f| f.0).collect();
        if !paths.is_empty() && !there.is_empty() {
            bail!(
                "Linux {} has these files itself; a file of ours never replaces one of upstream's \
                 (edit it in build/linux, then make export):\n  {}",
                self.version,
                there.join("\n  ")
            );
        }
        Ok(())
    }

    /// All that goes into a commit.
    fn key(&self, parent: &str, patch: &Patch, files: &BTreeSet<String>) -> String {
        let mut hash = Hash::new().add(parent).add(&patch.bytes);
        for path in files {
            hash = match self.blobs.get(path) {
                Some(blob) => hash.add(path).add(&blob.mode).add(&blob.id),
                None => hash.add(&self.entries),
            };
        }
        hash.hex()
    }

    /// Applies one patch to the index, adds its files, and commits.
    fn commit(&self, git: &Git, parent: &str, patch: &Patch, files: &BTreeSet<String>) -> Result<String> {
        patch.edits()?;
        if !patch.diff.is_empty() {
            let args = ["apply", "--cached", "--whitespace=nowarn", "-v", "-"];
            let (good, _, said) = git.try_bytes(&args, &patch.diff)?;
            if !good {
                bail!("{}", self.refusal(patch, &said));
            }
            for moved in said.lines().filter(|l| l.contains("(offset")) {
                self.ctx.ui.note(&format!("{}: {}", patch.name, moved.trim()));
            }
        }
        let mut list = String::new();
        for path in files {
            match self.blobs.get(path) {
                Some(blob) => list.push_str(&format!("{} {}\t{path}\n", blob.mode, blob.id)),
                None => {
                    let theirs = git.bytes(&["cat-file", "blob", &format!(":{MAINTAINERS}")], b"")?;
                    let merged = maintainers::merge(&String::from_utf8_lossy(&theirs), &self.entries);
                    let id = git.text_with(&["hash-object", "-w", "--stdin"], merged.as_bytes())?;
                    list.push_str(&format!("100644 {id}\t{path}\n"));
                }
            }
        }
        git.bytes(&["update-index", "--add", "--index-info"], list.as_bytes())?;
        let tree = git.text(&["write-tree"])?;
        commit_tree(git, &tree, parent, patch)
    }

    /// Names the patch, the file and the version.
    fn refusal(&self, patch: &Patch, said: &str) -> String {
        let errors: Vec<_> = said
            .lines()
            .filter_map(|l| l.strip_prefix("error: patch failed: "))
            .map(|l| format!("  {l}"))
            .collect();
        format!(
            "patches/{} does not apply to Linux {}; these lines of it are not what the patch expects:\n{}\n  what to do: see what that part of the file looks like \
             in this version; edit the patch, or give another 7.3.y with KERNEL_SRC",
            patch.name,
            self.version,
            errors.join("\n")
        )
    }
}

/// Commits a tree with a patch's author, date and message.
pub fn commit_tree(git: &Git, tree: &str, parent: &str, patch: &Patch) -> Result<String> {
    let or = |given: &str, fixed: &str| if given.is_empty() { fixed.to_string() } else { given.to_string() };
    let date = or(&patch.date, DATE);
    git.env("GIT_AUTHOR_NAME", or(&patch.author, AUTHOR.0))
        .env("GIT_AUTHOR_EMAIL", or(&patch.email, AUTHOR.1))
        .env("GIT_AUTHOR_DATE", date.clone())
        .env("GIT_COMMITTER_NAME", AUTHOR.0)
        .env("GIT_COMMITTER_EMAIL", AUTHOR.1)
        .env("GIT_COMMITTER_DATE", date)
        .text_with(&["commit-tree", tree, "-p", parent, "-F", "-"], patch.message().as_bytes())
}
