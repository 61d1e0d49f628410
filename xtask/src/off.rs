// SPDX-License-Identifier: GPL-2.0

//! `make off`: with our options off, the compiled kernel is upstream's.
//!
//! One folder, one configuration, three sources in turn: pristine, pristine with the rows of the
//! system call tables, ours. The code of every object must be equal. A row cannot be conditional,
//! and NR_syscalls grows with it, so the few objects that depend on NR_syscalls are compared with
//! the second. What was seen of a source is kept in the cache: it is built again only if it changed.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::kernel::{self, Kbuild};
use crate::patch::{self, Patch};
use crate::series::commit_tree;
use crate::{elf, kconfig, state, toolchain, tree, worktree};
use anyhow::{bail, Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is compared. A folder of the tree each.
const FOLDERS: [&str; 4] = ["mm", "fs", "kernel", "arch/x86"];
/// The patch that edits this is the one with the rows.
const TABLE: &str = "arch/x86/entry/syscalls/syscall_64.tbl";
/// The objects that depend on the system call tables or on NR_syscalls: the tables, their stubs,
/// filters, which have a bit for each system call, and tracing, whose `struct trace_array` has a
/// member for each.
const DEPEND_ON_TABLES: [&str; 12] = [
    "arch/x86/entry/syscall_32.o",
    "arch/x86/entry/syscall_64.o",
    "kernel/seccomp.o",
    "kernel/sys_ni.o",
    "kernel/trace/trace.o",
    "kernel/trace/trace_eprobe.o",
    "kernel/trace/trace_events.o",
    "kernel/trace/trace_events_filter.o",
    "kernel/trace/trace_events_trigger.o",
    "kernel/trace/trace_output.o",
    "kernel/trace/trace_printk.o",
    "kernel/trace/trace_syscalls.o",
];

/// The code of every object by its path.
type Objects = BTreeMap<String, String>;

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(4);
    kernel::prepare(ctx)?;
    prove(ctx)?;
    println!("with our options off, every object is upstream's");
    Ok(())
}

pub fn prove(ctx: &Ctx) -> Result<()> {
    ctx.ui.step("off", "with our options off, the kernel is upstream's");
    let git = tree::git(ctx);
    let upstream = git.resolve("upstream^{commit}").context("build/linux has no tag upstream")?;
    let ours = git.resolve("HEAD^{commit}").context("build/linux has no commit")?;
    let patches = patch::load(ctx)?;
    let build = Builder::new(ctx)?;
    let rows = build.rows(&git, &upstream, &patches)?;
    let pristine = build.objects("pristine", &upstream)?;
    let rows = match rows {
        Some(commit) => build.objects("pristine with the rows", &commit)?,
        None => pristine.clone(),
    };
    let ours = build.objects("ours, options off", &ours)?;
    let bad = differences(&pristine, &rows, &ours);
    if !bad.is_empty() {
        bail!(
            "these objects differ from upstream's although our options are off:\n    {}",
            bad.join("\n    ")
        );
    }
    ctx.ui.note(&format!("{} objects are upstream's", ours.len()));
    Ok(())
}

fn differences(pristine: &Objects, rows: &Objects, ours: &Objects) -> Vec<String> {
    let all = pristine.keys().chain(ours.keys().filter(|o| !pristine.contains_key(*o)));
    all.filter(|object| {
        let depends = DEPEND_ON_TABLES.contains(&object.as_str());
        let theirs = if depends { rows.get(*object) } else { pristine.get(*object) };
        ours.get(*object) != theirs
    })
    .cloned()
    .collect()
}

struct Builder<'a> {
    ctx: &'a Ctx,
    kbuild: Kbuild,
    fragments: Vec<PathBuf>,
}

impl<'a> Builder<'a> {
    fn new(ctx: &'a Ctx) -> Result<Self> {
        let dir = ctx.build.join("off");
        let kbuild = Kbuild::new(ctx, "off", dir.join("linux"), dir.join("objects"), toolchain::find(ctx)?);
        // Our options off, and Rust with them: they depend on it. Nothing that compiles in a line
        // number or the configuration.
        let more =
            ["RUST", "RUST_INLINE_HELPERS", "IKCONFIG", "DEBUG_ATOMIC_SLEEP", "LOCKDEP", "PROVE_LOCKING"];
        let mut fragments = kconfig::fragments(ctx, crate::cli::Config::Plain);
        fragments.push(kconfig::without_ours(ctx, &dir, &more)?);
        Ok(Self { ctx, kbuild, fragments })
    }

    /// Upstream plus the rows alone.
    fn rows(&self, git: &Git, upstream: &str, patches: &[Patch]) -> Result<Option<String>> {
        let edits_table = |p: &&Patch| p.edits().is_ok_and(|edits| edits.iter().any(|e| e == TABLE));
        let Some(patch) = patches.iter().find(edits_table) else { return Ok(None) };
        let index = self.ctx.state().join("index.off");
        let git = git.index(&index);
        git.bytes(&["read-tree", upstream], b"")?;
        git.bytes(&["apply", "--cached", "--whitespace=nowarn", "-"], &patch.diff)
            .with_context(|| format!("patches/{} does not apply to upstream by itself", patch.name))?;
        let commit = commit_tree(&git, &git.text(&["write-tree"])?, upstream, patch)?;
        let _ = std::fs::remove_file(index);
        Ok(Some(commit))
    }

    /// The objects of a commit: remembered, or built.
    fn objects(&self, what: &str, commit: &str) -> Result<Objects> {
        let seen = include_str!("elf.rs");
        let key = worktree::key(self.ctx, commit, &self.kbuild.toolchain, seen, &self.fragments)?;
        if let Some(known) = state::recall(self.ctx, "off", &key) {
            return Ok(known);
        }
        self.ctx.ui.note(what);
        worktree::check_out(self.ctx, &self.kbuild.source, commit)?;
        kconfig::make(self.ctx, &self.kbuild, &self.fragments, false)?;
        let targets = FOLDERS.map(|f| format!("{f}/"));
        let hint =
            "does upstream build with this compiler? A patch may need an #ifdef where our option is off";
        self.kbuild.build(self.ctx, &targets.each_ref().map(String::as_str), 60, hint)?;
        let objects = self.read(&self.kbuild.objects)?;
        state::remember(self.ctx, "off", &key, &objects)?;
        Ok(objects)
    }

    fn read(&self, objects: &Path) -> Result<Objects> {
        let mut found = Objects::new();
        for folder in FOLDERS {
            for entry in ignore::WalkBuilder::new(objects.join(folder)).standard_filters(false).build() {
                let entry = entry?;
                let path = entry.path();
                // Only what was made of a source file: not the links of several objects.
                let name = path.strip_prefix(objects)?.display().to_string();
                if entry.file_type().is_some_and(|t| t.is_file())
                    && name.ends_with(".o")
                    && !name.contains("/boot/")
                {
                    found.insert(name, elf::code(path)?);
                }
            }
        }
        if found.len() < 100 {
            bail!("only {} objects were built; something is wrong with the build", found.len());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_differences() {
        let objects = |list: &[(&str, &str)]| {
            list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Objects>()
        };
        let pristine = objects(&[("mm/a.o", "1"), ("kernel/sys_ni.o", "1")]);
        let rows = objects(&[("mm/a.o", "1"), ("kernel/sys_ni.o", "2")]);
        assert!(differences(&pristine, &rows, &rows).is_empty());
        let ours = objects(&[("mm/a.o", "2"), ("mm/b.o", "1"), ("kernel/sys_ni.o", "2")]);
        assert_eq!(differences(&pristine, &rows, &ours), ["mm/a.o", "mm/b.o"]);
    }
}
