// SPDX-License-Identifier: GPL-2.0

//! Reads the branch of build/linux as the series that it is: a patch per commit, which edits files
//! of upstream and names the files of ours that come with it.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::maintainers;
use crate::overlay::MAINTAINERS;
use crate::patch::{self, NEW_FILE};
use crate::series::commit_tree;
use anyhow::{bail, Context, Result};
use std::collections::{BTreeMap, BTreeSet};

pub struct Branch<'a> {
    ctx: &'a Ctx,
    pub git: Git,
    upstream: BTreeSet<String>,
}

/// A patch as it is to be written.
pub struct Written {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Files by their path: mode and blob.
pub type Files = BTreeMap<String, (String, String)>;

impl<'a> Branch<'a> {
    pub fn new(ctx: &'a Ctx, git: Git) -> Result<Self> {
        let upstream = git.files("upstream", &[])?.into_iter().map(|f| f.0).collect();
        Ok(Self { ctx, git, upstream })
    }

    /// Our files in a commit: those that upstream does not have.
    pub fn ours(&self, commit: &str) -> Result<Files> {
        let args =
            ["diff", "--raw", "-z", "--no-renames", "--no-abbrev", "--diff-filter=A", "upstream", commit];
        let out = String::from_utf8(self.git.bytes(&args, b"")?).context("a file's name is not UTF-8")?;
        let mut files = Files::new();
        let mut words = out.split('\0');
        while let (Some(meta), Some(path)) = (words.next(), words.next()) {
            let meta: Vec<&str> = meta.split(' ').collect();
            let [_, mode, _, blob, _] = meta[..] else { bail!("git diff --raw: {meta:?}") };
            files.insert(path.into(), (mode.into(), blob.into()));
        }
        Ok(files)
    }

    /// MAINTAINERS of a commit in two parts: without the entries that its base lacks, and those.
    pub fn maintainers(&self, commit: &str, base: &str) -> Result<(String, String)> {
        let read = |c: &str| self.git.text(&["show", &format!("{c}:{MAINTAINERS}")]).map(|t| t + "\n");
        Ok(maintainers::part(&read(commit)?, &read(base)?))
    }

    /// The series that the branch is.
    pub fn patches(&self, tip: &str) -> Result<Vec<Written>> {
        let range = format!("upstream..{tip}");
        straight(&self.git, &range)?;
        let commits = self.git.text(&["rev-list", "--reverse", &range])?;
        let last = self.ours(tip)?;
        let old = patch::load(self.ctx).unwrap_or_default();
        let (mut parent, mut had) =
            (self.git.resolve("upstream^{commit}").context("no tag upstream")?, Files::new());
        let mut patches = Vec::new();
        for (i, commit) in commits.lines().enumerate() {
            let subject = self.git.text(&["log", "-1", "--format=%s", commit])?;
            let now = self.ours(commit)?;
            let new: BTreeSet<String> =
                now.keys().filter(|p| !had.contains_key(*p) && last.contains_key(*p)).cloned().collect();
            for path in now.iter().filter(|(p, f)| had.get(*p).is_some_and(|h| h != *f)).map(|(p, _)| p) {
                self.ctx.ui.note(&format!(
                    "'{subject}' edits {path}: exported as part of the commit that brings it"
                ));
            }
            let mut names = self.names(&new, &last, old.iter().find(|p| p.subject == subject));
            let (without, entries) = self.maintainers(commit, &parent)?;
            if !entries.is_empty() {
                names.push(MAINTAINERS.into());
            }
            let bytes = self.format(commit, &parent, &now, &without, &names)?;
            patches.push(Written { name: format!("{:04}-{}.patch", i + 1, slug(&subject)), bytes });
            parent = commit.to_string();
            had = now;
        }
        Ok(patches)
    }

    /// How to name the files that a patch brings: as it did, where that still holds; else a folder
    /// by its name where upstream has no such folder and all of it comes at once.
    fn names(&self, new: &BTreeSet<String>, all: &Files, old: Option<&patch::Patch>) -> Vec<String> {
        let covered = |name: &String| -> BTreeSet<String> {
            all.keys()
                .filter(|p| *p == name || (name.ends_with('/') && p.starts_with(name)))
                .cloned()
                .collect()
        };
        if let Some(old) = old {
            let names: Vec<_> = old.new_files.iter().filter(|n| *n != MAINTAINERS).cloned().collect();
            if names.iter().flat_map(covered).collect::<BTreeSet<_>>() == *new {
                return names;
            }
        }
        let mut names = BTreeSet::new();
        for path in new {
            let folders = path.match_indices('/').map(|(at, _)| path[..=at].to_string());
            let whole = folders.into_iter().find(|folder| {
                let upstream_has =
                    self.upstream.range(folder.clone()..).next().is_some_and(|p| p.starts_with(folder));
                !upstream_has && covered(folder).is_subset(new)
            });
            names.insert(whole.unwrap_or(path.clone()));
        }
        names.into_iter().collect()
    }

    /// A commit as a patch of upstream's files alone, in the words of git format-patch.
    fn format(
        &self,
        commit: &str,
        parent: &str,
        ours: &Files,
        maintainers: &str,
        names: &[String],
    ) -> Result<Vec<u8>> {
        let index = self.ctx.state().join("index.export");
        let git = self.git.index(&index);
        git.bytes(&["read-tree", commit], b"")?;
        let mut list = String::new();
        // Our files as the parent has them: then they are in no diff.
        let before = self.ours(parent)?;
        for path in ours.keys().chain(before.keys()) {
            match before.get(path) {
                Some((mode, blob)) => list.push_str(&format!("{mode} {blob}\t{path}\n")),
                None => list.push_str(&format!("0 {}\t{path}\n", "0".repeat(40))),
            }
        }
        let id = git.text_with(&["hash-object", "-w", "--stdin"], maintainers.as_bytes())?;
        list.push_str(&format!("100644 {id}\t{MAINTAINERS}\n"));
        git.bytes(&["update-index", "--add", "--index-info"], list.as_bytes())?;
        let tree = git.text(&["write-tree"])?;
        let _ = std::fs::remove_file(index);
        let field = |format: &str| self.git.text(&["log", "-1", &format!("--format={format}"), commit]);
        let mut patch = patch::Patch::plain(&field("%s")?);
        (patch.author, patch.email, patch.date) = (field("%an")?, field("%ae")?, field("%ad")?);
        let files: Vec<_> = names.iter().map(|n| format!("{NEW_FILE} {n}")).collect();
        let body = field("%b")?;
        let gap = if body.is_empty() || files.is_empty() { "" } else { "\n\n" };
        patch.body = format!("{}{gap}{}", body.trim_end(), files.join("\n"));
        let made = commit_tree(&git, &tree, parent, &patch)?;
        let args = [
            "-c",
            "diff.noprefix=false",
            "format-patch",
            "-1",
            "--stdout",
            "-p",
            "-U1",
            "--zero-commit",
            "--no-numbered",
            "--no-signature",
            "--always",
            "--no-renames",
            "--abbrev=9",
            &made,
        ];
        git.bytes(&args, b"")
    }
}

/// An error where a merge is among some commits: it is no patch.
pub fn straight(git: &Git, range: &str) -> Result<()> {
    if !git.text(&["rev-list", "--merges", range])?.is_empty() {
        bail!("the branch holds a merge; make it straight with: git -C build/linux rebase upstream");
    }
    Ok(())
}

/// git's own way to make a file's name of a subject.
fn slug(subject: &str) -> String {
    let mut out = String::new();
    for c in subject.chars() {
        let keep = c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if keep && !(c == '.' && out.ends_with('.')) {
            out.push(c);
        } else if !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches(['-', '.']).len());
    out.truncate(52);
    out
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn names_files_as_git_does() {
        assert_eq!(slug("rust: macros: add #[syscall]"), "rust-macros-add-syscall");
        assert_eq!(slug("mm: x..y (z)"), "mm-x.-y-z");
    }
}
