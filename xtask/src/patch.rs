// SPDX-License-Identifier: GPL-2.0

//! A patch of `patches/series`: what git format-patch writes, plus `New-file:` lines in the
//! message that name the files of ours that come with it.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::util::{read, read_text};
use anyhow::{bail, Context, Result};
use std::path::PathBuf;

/// What stands before the name of a file that comes with a patch.
pub const NEW_FILE: &str = "New-file:";

pub struct Patch {
    /// The file's name in patches/.
    pub name: String,
    /// The whole file.
    pub bytes: Vec<u8>,
    pub author: String,
    pub email: String,
    pub date: String,
    pub subject: String,
    /// The message below the subject, without the `New-file:` lines.
    pub body: String,
    /// Paths in the tree, or folders with a slash at the end.
    pub new_files: Vec<String>,
    /// From the first `diff --git` on; empty where the patch only brings files.
    pub diff: Vec<u8>,
}

pub fn folder(ctx: &Ctx) -> PathBuf {
    ctx.root.join("patches")
}

/// The names in patches/series, in order. None where there is no series yet.
pub fn series(ctx: &Ctx) -> Result<Vec<String>> {
    let path = folder(ctx).join("series");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = parse_series(&read_text(&path)?);
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            bail!("patches/series names {name} twice");
        }
    }
    Ok(names)
}

fn parse_series(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(String::from).collect()
}

pub fn load(ctx: &Ctx) -> Result<Vec<Patch>> {
    let read =
        |name: &str| read(&folder(ctx).join(name)).context("patches/series names a file that is not there");
    series(ctx)?.into_iter().map(|name| parse(read(&name)?, name)).collect()
}

/// Reads one patch. git itself takes the mail header apart: it knows every way to write one.
pub fn parse(bytes: Vec<u8>, name: String) -> Result<Patch> {
    let dir = tempfile::tempdir()?;
    let (message, rest) = (dir.path().join("message"), dir.path().join("rest"));
    let args =
        ["mailinfo", "-b", "--encoding=UTF-8", &message.display().to_string(), &rest.display().to_string()];
    let header = Git::new(dir.path())
        .text_with(&args, &bytes)
        .with_context(|| format!("patches/{name} has no readable header"))?;
    let field = |key: &str| {
        let line = header.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(": "));
        line.unwrap_or_default().to_string()
    };
    let subject = strip_tag(&field("Subject")).to_string();
    if subject.is_empty() {
        bail!("patches/{name} has no Subject: line");
    }
    let (body, new_files) = split_message(&read_text(&message)?);
    let rest = read(&rest)?;
    let diff = find(&rest, b"diff --git ").map_or(Vec::new(), |at| rest[at..].to_vec());
    Ok(Patch {
        author: field("Author"),
        email: field("Email"),
        date: field("Date"),
        subject,
        body,
        new_files,
        diff,
        bytes,
        name,
    })
}

/// `[PATCH 3/7] mm: x` is about `mm: x`.
fn strip_tag(subject: &str) -> &str {
    match subject.strip_prefix("[PATCH").and_then(|s| s.split_once(']')) {
        Some((_, rest)) => rest.trim(),
        None => subject.trim(),
    }
}

/// Parts a message from the `New-file:` lines in it.
fn split_message(message: &str) -> (String, Vec<String>) {
    let mut new_files = Vec::new();
    let mut body = Vec::new();
    for line in message.lines() {
        match line.strip_prefix(NEW_FILE) {
            Some(path) => new_files.push(path.trim().to_string()),
            None => body.push(line.trim_end()),
        }
    }
    (body.join("\n").trim_matches('\n').to_string(), new_files)
}

/// Where a line begins with `what`.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|&i| (i == 0 || bytes[i - 1] == b'\n') && bytes[i..].starts_with(what))
}

impl Patch {
    /// One that only has a subject.
    pub fn plain(subject: &str) -> Self {
        let none = String::new;
        Self {
            name: none(),
            bytes: Vec::new(),
            author: none(),
            email: none(),
            date: none(),
            subject: subject.into(),
            body: none(),
            new_files: Vec::new(),
            diff: Vec::new(),
        }
    }

    /// The commit's message.
    pub fn message(&self) -> String {
        match self.body.is_empty() {
            true => format!("{}\n", self.subject),
            false => format!("{}\n\n{}\n", self.subject, self.body),
        }
    }

    /// The files that the diff edits. An error where it does more than edit.
    pub fn edits(&self) -> Result<Vec<String>> {
        if self.diff.is_empty() {
            return Ok(Vec::new());
        }
        let out = Git::new(&std::env::temp_dir())
            .text_with(&["apply", "--numstat", "--summary"], &self.diff)
            .with_context(|| format!("patches/{} is damaged", self.name))?;
        let mut files = Vec::new();
        for line in out.lines() {
            if let Some(what) = line.strip_prefix(' ') {
                bail!(
                    "patches/{}: '{what}': a patch only edits files of upstream; put a new file into \
                     our folders and name it with a line '{NEW_FILE} PATH' in the message",
                    self.name
                );
            }
            files.extend(line.splitn(3, '\t').nth(2).map(String::from));
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_has_comments() {
        assert_eq!(
            parse_series("# what\n\n0001-a.patch\n  0002-b.patch \n"),
            ["0001-a.patch", "0002-b.patch"]
        );
    }

    #[test]
    fn message_is_parted() {
        let (body, files) = split_message("\nWhy.\n\nNew-file: mm/userfault/\nNew-file: include/linux/a.h\n");
        assert_eq!(body, "Why.");
        assert_eq!(files, ["mm/userfault/", "include/linux/a.h"]);
    }

    #[test]
    fn subject_loses_its_tag() {
        assert_eq!(strip_tag("[PATCH 03/10] mm: add"), "mm: add");
        assert_eq!(strip_tag("mm: add [x]"), "mm: add [x]");
    }

    #[test]
    fn diff_begins_at_a_line() {
        assert_eq!(find(b" diff --git \ndiff --git a", b"diff --git "), Some(13));
        assert_eq!(find(b"x", b"diff --git "), None);
    }
}
