// SPDX-License-Identifier: GPL-2.0

//! `make tree`: build/linux, upstream plus one commit per patch.
//!
//! Work in build/linux is never lost: where it holds edits or commits that were not exported, the
//! tree is not made anew. Files that did not change keep their time, so builds stay incremental.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::overlay::{self, MAINTAINERS};
use crate::patch::{self, Patch};
use crate::series::Builder;
use crate::upstream::{self, Source};
use crate::util::{read, Hash};
use crate::{debian, state};
use anyhow::{bail, Context, Result};
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::OnceLock;

/// The branch that holds our commits.
pub const BRANCH: &str = "refs/heads/userfault";
/// What to say where something else is checked out, and only the branch will do.
pub const ELSEWHERE: &str =
    "build/linux is not on the branch userfault; go back with: git -C build/linux switch userfault";

/// What the tree was made of.
#[derive(Serialize, Deserialize, Default)]
pub struct State {
    /// The source, where the user named one.
    pub source: String,
    pub version: String,
    /// The branch as it was made, or as it was exported.
    pub tip: String,
    /// All of patches/ and our files at that time.
    pub inputs: String,
    /// Commits by what went into them.
    pub commits: BTreeMap<String, String>,
}

pub fn git(ctx: &Ctx) -> Git {
    Git::new(&ctx.linux())
}

/// A digest of all that goes into the branch.
pub fn inputs(ctx: &Ctx) -> Result<String> {
    let mut hash = Hash::new();
    for name in patch::series(ctx)? {
        let path = patch::folder(ctx).join(&name);
        hash = hash.add(&name).add(read(&path).context("patches/series names a file that is not there")?);
    }
    for (path, file) in overlay::files(ctx)? {
        hash = hash.add(&path).add(file.mode).add(read(&file.source)?);
    }
    if let Ok(ours) = std::fs::read(ctx.root.join(MAINTAINERS)) {
        hash = hash.add(ours);
    }
    Ok(hash.hex())
}

/// `make tree`: like [`ensure`], but with no branch to be made it is an error.
pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(3);
    crate::deps::all(ctx)?;
    if !ensure(ctx)? {
        bail!(ELSEWHERE);
    }
    let state: State = state::load(ctx, "tree");
    println!(
        "build/linux: Linux {} and {} commits, {}",
        state.version,
        state.commits.len(),
        &state.tip[..12]
    );
    Ok(())
}

/// Brings build/linux up to date. False where something else than our branch is checked out (a
/// bisection, a rebase): then it stays as it is.
pub fn ensure(ctx: &Ctx) -> Result<bool> {
    let lock = Lock::shared(ctx)?;
    let mut state: State = state::load(ctx, "tree");
    fetch(ctx, &mut state, &lock)?;
    ctx.ui.step("tree", "upstream and one commit per patch");
    let inputs = inputs(ctx)?;
    let git = git(ctx);
    if !on_branch(ctx) {
        ctx.ui.note(&format!(
            "build/linux is at {}: taken as it is",
            git.text(&["log", "-1", "--format=%h %s"])?
        ));
        return Ok(false);
    }
    let head = git.resolve("HEAD").context("build/linux has no commit")?;
    if inputs == state.inputs && !ctx.force {
        if head != state.tip {
            ctx.ui.note("build/linux has commits that were not exported: taken as it is");
        }
        return Ok(true);
    }
    lock.alone()?;
    keep_work(ctx, &git, &head, &state)?;
    let patches = patch::load(ctx)?;
    let upstream = git.resolve("upstream^{commit}").context("build/linux has no tag upstream")?;
    let mut commits = state.commits;
    let tip = Builder::new(ctx, &git, &upstream, &state.version)?.commits(&patches, &mut commits)?;
    git.bytes(&["reset", if ctx.force { "--hard" } else { "--keep" }, "--quiet", &tip], b"")?;
    state = State { tip, inputs, commits, ..state };
    state::save(ctx, "tree", &state)?;
    Ok(true)
}

/// The files that a commit of the branch has otherwise than upstream: those of upstream that were
/// edited, and ours.
pub fn touched(ctx: &Ctx, commit: &str) -> Result<BTreeSet<String>> {
    let list = git(ctx).text(&["diff", "--name-only", "upstream", commit])?;
    Ok(list.lines().map(String::from).collect())
}

/// Lets others change build/linux: this command needs it no more.
pub fn leave() {
    if let Some(file) = LOCK.get() {
        let _ = flock(file, FlockOperation::Unlock);
    }
}

/// Whether our branch is checked out.
pub fn on_branch(ctx: &Ctx) -> bool {
    git(ctx).text(&["symbolic-ref", "--quiet", "HEAD"]).is_ok_and(|name| name == BRANCH)
}

/// What every command has that works with build/linux, to its end: another one may use the tree at the
/// same time, but not change it.
struct Lock(&'static File);

static LOCK: OnceLock<File> = OnceLock::new();

impl Lock {
    fn shared(ctx: &Ctx) -> Result<Self> {
        let path = ctx.state().join("lock");
        std::fs::create_dir_all(ctx.state())?;
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        // What the process has it keeps.
        let lock = Self(LOCK.get_or_init(|| file));
        lock.get(FlockOperation::NonBlockingLockShared, "another make changes build/linux")?;
        Ok(lock)
    }

    /// From here on until it is dropped nobody else uses the tree.
    fn alone(&self) -> Result<()> {
        let why = "patches/ or our files have changed, and another make uses build/linux";
        self.get(FlockOperation::NonBlockingLockExclusive, why)
    }

    fn get(&self, how: FlockOperation, otherwise: &str) -> Result<()> {
        match flock(self.0, how) {
            Err(Errno::WOULDBLOCK) => bail!("{otherwise}; wait for its end"),
            done => done.context("the lock of build/linux"),
        }
    }
}

impl Drop for Lock {
    /// Others may come in again.
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::NonBlockingLockShared);
    }
}

/// Makes sure that there is a pristine source, and that it is the one that the user names.
fn fetch(ctx: &Ctx, state: &mut State, lock: &Lock) -> Result<()> {
    let named = upstream::named(ctx)?;
    let key = named.as_ref().map(Source::key).transpose()?;
    let there = ctx.linux().join(".git").exists() && !state.version.is_empty();
    ctx.ui.step("source", if there { "Linux, pristine" } else { "Linux 7.3: download, unpack, commit" });
    if there && key.as_ref().is_none_or(|k| *k == state.source) {
        return Ok(());
    }
    lock.alone()?;
    let linux = ctx.linux();
    if linux.exists() {
        let git = git(ctx);
        match git.resolve("HEAD") {
            Some(head) if there => {
                keep_branches(ctx, &git)?;
                keep_work(ctx, &git, &head, state)?;
            }
            _ => bail!("{} is in the way: it was not made by make tree", linux.display()),
        }
    }
    let source = match named {
        Some(source) => source,
        None => match debian::source(ctx)? {
            path if path.extension().is_some_and(|e| e == "deb") => Source::Package(path),
            path => Source::Tarball(path),
        },
    };
    let new = ctx.build.join("linux.new");
    let version = upstream::import(ctx, &source, &new)?;
    if linux.exists() && ctx.force {
        std::fs::rename(&linux, ctx.build.join(format!("linux.old-{}", &state.tip[..12])))?;
    } else if linux.exists() {
        std::fs::remove_dir_all(&linux)?;
    }
    std::fs::rename(new, &linux)?;
    let tip = git(ctx).resolve("HEAD").context("build/linux has no commit")?;
    ctx.ui.note(&format!("Linux {version}"));
    *state = State { source: key.unwrap_or_default(), version, tip, ..State::default() };
    state::save(ctx, "tree", state)
}

/// Refuses to remove a build/linux that has other branches than ours. Under FORCE=1 all of it is kept.
fn keep_branches(ctx: &Ctx, git: &Git) -> Result<()> {
    let all = git.text(&["for-each-ref", "--format=%(refname)", "refs/heads"])?;
    let others: Vec<&str> = all.lines().filter(|name| *name != BRANCH).collect();
    if !others.is_empty() && !ctx.force {
        bail!(
            "build/linux is to be made of another source, and has branches that are nowhere else:\n  {}\n  what \
             to do: fetch them into another repository, and remove them there; or FORCE=1, which keeps all of it \
             as build/linux.old-*",
            others.join("\n  ")
        );
    }
    Ok(())
}

/// Refuses to go on where build/linux holds work that is nowhere else. Under FORCE=1 keeps a copy.
fn keep_work(ctx: &Ctx, git: &Git, head: &str, state: &State) -> Result<()> {
    let edits = git.text(&["status", "--porcelain", "--untracked-files=all"])?;
    if edits.is_empty() && head == state.tip {
        return Ok(());
    }
    if ctx.force {
        let index = ctx.state().join("index.backup");
        let own = git.index(&index);
        own.bytes(&["read-tree", "HEAD"], b"")?;
        own.bytes(&["add", "-A"], b"")?;
        let tree = own.text(&["write-tree"])?;
        let work = Patch::plain("Work that was not exported");
        let commit = crate::series::commit_tree(git, &tree, head, &work)?;
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        git.bytes(&["branch", &format!("backup-{seconds}"), &commit], b"")?;
        ctx.ui.note(&format!("build/linux: what was not exported is kept on the branch backup-{seconds}"));
        return Ok(());
    }
    let list: Vec<&str> = edits.lines().take(10).collect();
    bail!(
        "build/linux holds work that was not exported, and patches/ or our files have changed since it was made\n{}\
         \n  what to do: commit it there (git -C build/linux commit), then make export; or make tree FORCE=1, \
         which keeps it on a branch backup-*",
        if list.is_empty() { format!("  commits after {}", &state.tip) } else { list.join("\n") }
    );
}
