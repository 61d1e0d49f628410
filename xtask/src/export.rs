// SPDX-License-Identifier: GPL-2.0

//! `make export`: the commits of build/linux become patches/ and our files again.
//!
//! An edit of a file of upstream goes into the patch of its commit. A file that upstream does not
//! have is ours: it is copied here as the branch's tip has it, and the commit that brings it names
//! it. Only what changed is written.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::overlay::{self, MAINTAINERS};
use crate::patch::{self, NEW_FILE};
use crate::series::commit_tree;
use crate::tree::{self, State};
use crate::util::write_if_changed;
use crate::{maintainers, state};
use anyhow::{bail, Context, Result};
use std::collections::{BTreeMap, BTreeSet};

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(2);
    let old: State = state::load(ctx, "tree");
    if old.version.is_empty() || !ctx.linux().join(".git").exists() {
        bail!("there is no build/linux to export; make it with: make tree");
    }
    if !tree::on_branch(ctx) {
        bail!("build/linux is not on the branch userfault (a rebase that is not finished?)");
    }
    let git = tree::git(ctx);
    let edits = git.text(&["status", "--porcelain", "--untracked-files=all"])?;
    if !edits.is_empty() {
        bail!(
            "build/linux has edits that are in no commit; put them into one with git commit, or into an \
             earlier one with git commit --fixup and git rebase --autosquash upstream:\n{edits}"
        );
    }
    ctx.ui.step("export", "patches/ and our files");
    let export = Export::new(ctx, git, &old.tip)?;
    let tip = export.git.resolve("HEAD").context("build/linux has no commit")?;
    let written = export.write(&tip, tree::inputs(ctx)? != old.inputs)?;
    println!("{written} files written");
    // The branch of what was exported has the same tree, but perhaps other commits: make it anew.
    let tree_of = |commit: &str| export.git.resolve(&format!("{commit}^{{tree}}"));
    let before = tree_of(&tip);
    state::save(ctx, "tree", &State { tip, inputs: String::new(), ..old })?;
    tree::ensure(ctx)?;
    if tree_of("HEAD") != before {
        bail!("the tree made from the export differs from the one exported; see: git -C build/linux diff ORIG_HEAD");
    }
    Ok(())
}

pub struct Export<'a> {
    ctx: &'a Ctx,
    pub git: Git,
    upstream: BTreeSet<String>,
    /// Our files as the tree was last made: path to mode and blob.
    made: BTreeMap<String, (String, String)>,
}

/// A patch as it is to be written.
pub struct Written {
    pub name: String,
    pub bytes: Vec<u8>,
}

type Files = BTreeMap<String, (String, String)>;

impl<'a> Export<'a> {
    pub fn new(ctx: &'a Ctx, git: Git, made: &str) -> Result<Self> {
        let upstream = git.files("upstream", &[])?.into_iter().map(|f| f.0).collect();
        let mut export = Self { ctx, git, upstream, made: Files::new() };
        export.made = export.ours(made)?;
        Ok(export)
    }

    /// Our files in a commit: those that upstream does not have.
    fn ours(&self, commit: &str) -> Result<Files> {
        let args = ["diff", "--raw", "-z", "--no-renames", "--no-abbrev", "--diff-filter=A", "upstream", commit];
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

    fn write(&self, tip: &str, repository_changed: bool) -> Result<usize> {
        let files = self.ours(tip)?;
        let strays: Vec<_> = files.keys().filter(|p| !overlay::is_ours(p)).map(String::as_str).collect();
        if !strays.is_empty() {
            bail!("these new files have no place in our folders ({}):\n  {}", overlay::FOLDERS.join(" "), strays.join("\n  "));
        }
        let patches = self.patches(tip)?;
        if repository_changed {
            self.refuse_conflicts(&files)?;
        }
        let mut count = self.write_files(&files)?;
        let dir = patch::folder(self.ctx);
        let old: BTreeSet<String> = patch::series(self.ctx)?.into_iter().collect();
        let names: BTreeSet<String> = patches.iter().map(|p| p.name.clone()).collect();
        for gone in old.difference(&names) {
            let _ = std::fs::remove_file(dir.join(gone));
            count += 1;
        }
        for patch in &patches {
            count += usize::from(write_if_changed(&dir.join(&patch.name), &patch.bytes)?);
        }
        let head = std::fs::read_to_string(dir.join("series")).unwrap_or_default();
        let head: String = head.lines().take_while(|l| l.starts_with('#')).map(|l| format!("{l}\n")).collect();
        let list: String = patches.iter().map(|p| format!("{}\n", p.name)).collect();
        count += usize::from(write_if_changed(&dir.join("series"), (head + &list).as_bytes())?);
        Ok(count)
    }

    /// A file that was edited here and there since the tree was made: which is right, only a person knows.
    fn refuse_conflicts(&self, files: &Files) -> Result<()> {
        let mut both = Vec::new();
        for (path, made) in &self.made {
            let here = overlay::place(self.ctx, path);
            let now = self.git.text(&["hash-object", "--no-filters", &here.display().to_string()]).ok();
            let there = files.get(path);
            if there != Some(made) && now.as_ref() != Some(&made.1) && now.as_ref() != there.map(|f| &f.1) {
                both.push(path.as_str());
            }
        }
        if !both.is_empty() && !self.ctx.force {
            bail!(
                "edited both here and in build/linux since make tree:\n  {}\n  what to do: take over by hand what \
                 you changed here into build/linux and commit it; then make export FORCE=1",
                both.join("\n  ")
            );
        }
        Ok(())
    }

    /// Copies our files that changed in the tree.
    fn write_files(&self, files: &Files) -> Result<usize> {
        let mut count = 0;
        for (path, file) in files.iter().filter(|(path, file)| self.made.get(*path) != Some(file)) {
            let place = overlay::place(self.ctx, path);
            count += usize::from(write_if_changed(&place, &self.git.bytes(&["cat-file", "blob", &file.1], b"")?)?);
            let mode = if file.0 == "100755" { 0o755 } else { 0o644 };
            std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        for path in self.made.keys().filter(|p| !files.contains_key(*p)) {
            count += usize::from(std::fs::remove_file(overlay::place(self.ctx, path)).is_ok());
        }
        let ours = self.ctx.root.join(MAINTAINERS);
        let (_, there) = self.maintainers("HEAD", "upstream")?;
        let here: Vec<_> = maintainers::entries(&std::fs::read_to_string(&ours).unwrap_or_default());
        if here.iter().map(maintainers::Entry::text).collect::<Vec<_>>().join("\n") != there {
            count += usize::from(write_if_changed(&ours, there.as_bytes())?);
        }
        Ok(count)
    }

    /// MAINTAINERS of a commit in two parts: without the entries that its base lacks, and those.
    fn maintainers(&self, commit: &str, base: &str) -> Result<(String, String)> {
        let read = |c: &str| self.git.text(&["show", &format!("{c}:{MAINTAINERS}")]).map(|t| t + "\n");
        Ok(maintainers::part(&read(commit)?, &read(base)?))
    }

    /// The series that the branch is.
    pub fn patches(&self, tip: &str) -> Result<Vec<Written>> {
        let commits = self.git.text(&["rev-list", "--reverse", &format!("upstream..{tip}")])?;
        let last = self.ours(tip)?;
        let old = patch::load(self.ctx).unwrap_or_default();
        let (mut parent, mut had) = (self.git.resolve("upstream^{commit}").context("no tag upstream")?, Files::new());
        let mut patches = Vec::new();
        for (i, commit) in commits.lines().enumerate() {
            let subject = self.git.text(&["log", "-1", "--format=%s", commit])?;
            let now = self.ours(commit)?;
            let new: BTreeSet<String> =
                now.keys().filter(|p| !had.contains_key(*p) && last.contains_key(*p)).cloned().collect();
            for path in now.iter().filter(|(p, f)| had.get(*p).is_some_and(|h| h != *f)).map(|(p, _)| p) {
                self.ctx.ui.note(&format!("'{subject}' edits {path}: exported as part of the commit that brings it"));
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
            all.keys().filter(|p| *p == name || (name.ends_with('/') && p.starts_with(name))).cloned().collect()
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
                let upstream_has = self.upstream.range(folder.clone()..).next().is_some_and(|p| p.starts_with(folder));
                !upstream_has && covered(folder).is_subset(new)
            });
            names.insert(whole.unwrap_or(path.clone()));
        }
        names.into_iter().collect()
    }

    /// A commit as a patch of upstream's files alone, in the words of git format-patch.
    fn format(&self, commit: &str, parent: &str, ours: &Files, maintainers: &str, names: &[String]) -> Result<Vec<u8>> {
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
            "-c", "diff.noprefix=false", "format-patch", "-1", "--stdout", "-p", "-U1", "--zero-commit", "--no-numbered",
            "--no-signature", "--always", "--no-renames", "--abbrev=9", &made,
        ];
        git.bytes(&args, b"")
    }
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
