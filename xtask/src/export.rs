// SPDX-License-Identifier: GPL-2.0

//! `make export`: the commits of build/linux become patches/ and our files again.
//!
//! An edit of a file of upstream goes into the patch of its commit. A file that upstream does not
//! have is ours: it is copied here as the branch's tip has it, and the commit that brings it names
//! it. Only what changed is written.

use crate::branch::{Branch, Files};
use crate::ctx::Ctx;
use crate::git::Git;
use crate::overlay::{self, MAINTAINERS};
use crate::patch;
use crate::tree::{self, State};
use crate::util::write_if_changed;
use crate::{maintainers, state};
use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(3);
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
    let tip = export.branch.git.resolve("HEAD").context("build/linux has no commit")?;
    let edited_here = tree::inputs(ctx)? != old.inputs;
    let written = export.write(&tip, edited_here)?;
    println!("{written} files written");
    // The branch of what was exported has the same tree, but perhaps other commits: make it anew.
    let tree_of = |commit: &str| export.branch.git.resolve(&format!("{commit}^{{tree}}"));
    let before = tree_of(&tip);
    state::save(ctx, "tree", &State { tip, inputs: String::new(), ..old })?;
    tree::ensure(ctx)?;
    if !edited_here && tree_of("HEAD") != before {
        bail!("the tree made from the export differs from the one exported; see: git -C build/linux diff ORIG_HEAD");
    }
    Ok(())
}

struct Export<'a> {
    ctx: &'a Ctx,
    branch: Branch<'a>,
    /// Our files as the tree was last made.
    made: Files,
}

impl<'a> Export<'a> {
    fn new(ctx: &'a Ctx, git: Git, made: &str) -> Result<Self> {
        let branch = Branch::new(ctx, git)?;
        Ok(Self { ctx, made: branch.ours(made)?, branch })
    }

    fn write(&self, tip: &str, repository_changed: bool) -> Result<usize> {
        let files = self.branch.ours(tip)?;
        let strays: Vec<_> = files.keys().filter(|p| !overlay::is_ours(p)).map(String::as_str).collect();
        if !strays.is_empty() {
            bail!(
                "these new files have no place in our folders ({}):\n  {}",
                overlay::FOLDERS.join(" "),
                strays.join("\n  ")
            );
        }
        let patches = self.branch.patches(tip)?;
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
        let head: String =
            head.lines().take_while(|l| l.starts_with('#')).map(|l| format!("{l}\n")).collect();
        let list: String = patches.iter().map(|p| format!("{}\n", p.name)).collect();
        count += usize::from(write_if_changed(&dir.join("series"), (head + &list).as_bytes())?);
        Ok(count)
    }

    /// A file that was edited here and there since the tree was made: which is right, only a person knows.
    fn refuse_conflicts(&self, files: &Files) -> Result<()> {
        let mut both = Vec::new();
        for (path, made) in &self.made {
            let here = overlay::place(self.ctx, path);
            let now =
                self.branch.git.text(&["hash-object", "--no-filters", &here.display().to_string()]).ok();
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
            count += usize::from(write_if_changed(
                &place,
                &self.branch.git.bytes(&["cat-file", "blob", &file.1], b"")?,
            )?);
            let mode = if file.0 == "100755" { 0o755 } else { 0o644 };
            std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        for path in self.made.keys().filter(|p| !files.contains_key(*p)) {
            count += usize::from(std::fs::remove_file(overlay::place(self.ctx, path)).is_ok());
        }
        let ours = self.ctx.root.join(MAINTAINERS);
        let (_, there) = self.branch.maintainers("HEAD", "upstream")?;
        let here: Vec<_> = maintainers::entries(&std::fs::read_to_string(&ours).unwrap_or_default());
        if here.iter().map(maintainers::Entry::text).collect::<Vec<_>>().join("\n") != there {
            count += usize::from(write_if_changed(&ours, there.as_bytes())?);
        }
        Ok(count)
    }
}
