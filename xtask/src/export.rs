// SPDX-License-Identifier: GPL-2.0

//! `make export`: the commits of build/linux become patches/ and our files again.
//!
//! An edit of a file of upstream goes into the patch of its commit. A file that upstream does not
//! have is ours: it is copied here as the branch's tip has it, and the commit that brings it names
//! it. Only what changed is written.

use crate::branch::{Branch, Files, Written};
use crate::ctx::Ctx;
use crate::git::Git;
use crate::overlay::{self, MAINTAINERS};
use crate::patch;
use crate::tree::{self, State};
use crate::util::write_if_changed;
use crate::{maintainers, state};
use anyhow::{bail, Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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
    /// The branch as the tree was last made, and our files then.
    made_at: String,
    made: Files,
}

/// What a file that the branch gives holds here, and what the branch gave when it was made and gives now.
struct Output {
    place: PathBuf,
    here: Option<Vec<u8>>,
    made: Option<Vec<u8>>,
    now: Option<Vec<u8>>,
}

impl Output {
    /// Whether it was edited on both sides, otherwise.
    fn is_conflict(&self) -> bool {
        self.now != self.made && self.here != self.made && self.here != self.now
    }

    /// Whether it is to be written: not where an edit of the repository alone would be lost.
    fn is_due(&self, repository_changed: bool) -> bool {
        self.here != self.now && (self.now != self.made || !repository_changed)
    }
}

impl<'a> Export<'a> {
    fn new(ctx: &'a Ctx, git: Git, made: &str) -> Result<Self> {
        let branch = Branch::new(ctx, git)?;
        Ok(Self { ctx, made_at: made.into(), made: branch.ours(made)?, branch })
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
        let outputs = self.outputs(tip)?;
        if repository_changed {
            self.refuse_conflicts(&files, &outputs)?;
        }
        let mut count = self.write_files(&files)?;
        for output in outputs.iter().filter(|o| o.is_due(repository_changed)) {
            count += usize::from(match &output.now {
                Some(bytes) => write_if_changed(&output.place, bytes)?,
                None => std::fs::remove_file(&output.place).is_ok(),
            });
        }
        Ok(count)
    }

    /// The patches, their list, and MAINTAINERS.
    fn outputs(&self, tip: &str) -> Result<Vec<Output>> {
        let dir = patch::folder(self.ctx);
        let (made, now) = (self.branch.patches(&self.made_at)?, self.branch.patches(tip)?);
        let series = dir.join("series");
        let here = std::fs::read_to_string(&series).ok();
        let head = here.as_deref().unwrap_or_default().lines().take_while(|l| l.starts_with('#'));
        let head: String = head.map(|l| format!("{l}\n")).collect();
        let list = |patches: &[Written]| {
            let names: String = patches.iter().map(|p| format!("{}\n", p.name)).collect();
            Some((head.clone() + &names).into_bytes())
        };
        let (made_list, now_list) = (list(&made), list(&now));
        let mut outputs =
            vec![Output { place: series, here: here.map(Into::into), made: made_list, now: now_list }];
        let by_name = |patches: Vec<Written>| -> BTreeMap<_, _> {
            patches.into_iter().map(|patch| (patch.name, patch.bytes)).collect()
        };
        let (mut made, mut now) = (by_name(made), by_name(now));
        let listed: BTreeSet<String> = patch::series(self.ctx)?.into_iter().collect();
        let names: BTreeSet<_> = listed.iter().chain(made.keys()).chain(now.keys()).cloned().collect();
        for name in names {
            let place = dir.join(&name);
            let (here, made) = (std::fs::read(&place).ok(), made.remove(&name));
            outputs.push(Output { place, here, made, now: now.remove(&name) });
        }
        let place = self.ctx.root.join(MAINTAINERS);
        let entries = maintainers::entries(&std::fs::read_to_string(&place).unwrap_or_default());
        let here = entries.iter().map(maintainers::Entry::text).collect::<Vec<_>>().join("\n");
        let ours = |commit| {
            let parts = self.branch.maintainers(commit, "upstream");
            parts.map(|(_, ours)| Some(ours.into_bytes()))
        };
        let (made, now) = (ours(&self.made_at)?, ours(tip)?);
        outputs.push(Output { place, here: Some(here.into_bytes()), made, now });
        Ok(outputs)
    }

    /// A file that was edited here and there since the tree was made: which is right, only a person knows.
    fn refuse_conflicts(&self, files: &Files, outputs: &[Output]) -> Result<()> {
        let mut both = Vec::new();
        for (path, made) in &self.made {
            let here = overlay::place(self.ctx, path);
            let now =
                self.branch.git.text(&["hash-object", "--no-filters", &here.display().to_string()]).ok();
            let there = files.get(path);
            if there != Some(made) && now.as_ref() != Some(&made.1) && now.as_ref() != there.map(|f| &f.1) {
                both.push(path.clone());
            }
        }
        let places = outputs.iter().filter(|o| o.is_conflict()).map(|o| &o.place);
        both.extend(places.map(|p| p.strip_prefix(&self.ctx.root).unwrap_or(p).display().to_string()));
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
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::Output;

    fn output(here: &str, made: &str, now: &str) -> Output {
        let some = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        Output { place: "x".into(), here: some(here), made: some(made), now: some(now) }
    }

    #[test]
    fn what_was_edited_here_alone_stays() {
        for (here, made, now, conflict, due) in [
            ("a", "a", "a", false, false),
            ("a", "a", "b", false, true),
            ("a", "a", "", false, true),
            ("", "", "b", false, true),
            ("b", "a", "a", false, false),
            ("b", "", "", false, false),
            ("", "a", "a", false, false),
            ("b", "a", "b", false, false),
            ("b", "a", "c", true, true),
            ("b", "a", "", true, true),
        ] {
            let output = output(here, made, now);
            assert_eq!((output.is_conflict(), output.is_due(true)), (conflict, due), "{here} {made} {now}");
        }
        // As git writes it, where nobody has edited it since.
        assert!(output("b", "a", "a").is_due(false));
    }
}
