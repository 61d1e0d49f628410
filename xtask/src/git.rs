// SPDX-License-Identifier: GPL-2.0

//! git, without the user's own configuration, so that everybody gets the same commits.

use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};

#[derive(Clone)]
pub struct Git {
    dir: PathBuf,
    env: Vec<(String, String)>,
}

impl Git {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), env: Vec::new() }
    }

    /// The same with one more variable in the environment.
    pub fn env(&self, key: &str, value: impl Into<String>) -> Self {
        let mut git = self.clone();
        git.env.push((key.into(), value.into()));
        git
    }

    /// The same on an index of its own.
    pub fn index(&self, path: &Path) -> Self {
        self.env("GIT_INDEX_FILE", path.display().to_string())
    }

    pub fn expression(&self, args: &[&str]) -> duct::Expression {
        let fixed = ["-c", "safe.directory=*", "-c", "core.autocrlf=false", "-c", "core.quotePath=false"];
        let mut e = duct::cmd("git", fixed.iter().chain(args)).dir(&self.dir);
        // Of two words on one variable duct takes the first.
        for (key, value) in &self.env {
            e = e.env(key, value);
        }
        for gone in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"] {
            e = e.env_remove(gone);
        }
        e = e.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
        e
    }

    /// Runs it; both outputs where it succeeds or fails.
    pub fn try_bytes(&self, args: &[&str], stdin: &[u8]) -> Result<(bool, Vec<u8>, String)> {
        let out = self
            .expression(args)
            .stdin_bytes(stdin)
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .run()
            .with_context(|| format!("cannot run git in {}", self.dir.display()))?;
        Ok((out.status.success(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned()))
    }

    pub fn bytes(&self, args: &[&str], stdin: &[u8]) -> Result<Vec<u8>> {
        let (good, out, err) = self.try_bytes(args, stdin)?;
        if !good {
            bail!("git {} failed in {}: {}", args.join(" "), self.dir.display(), err.trim());
        }
        Ok(out)
    }

    /// Its output as text, without the newline at the end.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        self.text_with(args, b"")
    }

    pub fn text_with(&self, args: &[&str], stdin: &[u8]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(args, stdin)?).trim_end().to_string())
    }

    /// The commit or tree that a name stands for, where there is one.
    pub fn resolve(&self, name: &str) -> Option<String> {
        self.text(&["rev-parse", "--verify", "--quiet", name]).ok()
    }

    /// The files of a tree: path, mode and blob.
    pub fn files(&self, tree: &str, under: &[&str]) -> Result<Vec<(String, String, String)>> {
        let mut args = vec!["ls-tree", "-r", "-z", tree, "--"];
        args.extend(under);
        parse_ls_tree(&self.bytes(&args, b"")?)
    }
}

fn parse_ls_tree(out: &[u8]) -> Result<Vec<(String, String, String)>> {
    let mut files = Vec::new();
    for entry in out.split(|b| *b == 0).filter(|e| !e.is_empty()) {
        let text = String::from_utf8_lossy(entry);
        let (meta, path) = text.split_once('\t').context("git ls-tree: no tab")?;
        let mut meta = meta.split(' ');
        let mode = meta.next().unwrap_or_default().to_string();
        let blob = meta.nth(1).unwrap_or_default().to_string();
        files.push((path.to_string(), mode, blob));
    }
    Ok(files)
}
