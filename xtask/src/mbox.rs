// SPDX-License-Identifier: GPL-2.0

//! `make mbox`: the branch as a mail series, build/userfault.mbox.
//!
//! A cover letter, whose text is kept in patches/cover-letter, and a mail for each commit, addressed
//! to whom upstream's get_maintainer.pl names. Nobody signs here: a person does, before sending.

use crate::ctx::Ctx;
use crate::git::Git;
use crate::scripts::{self, Recipients};
use crate::util::{read, read_text};
use crate::{kernel, patch, tree, worktree};
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(6);
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    let git = as_author(&tree::git(ctx))?;
    ctx.ui.step("mails", "a cover letter, and a mail per commit");
    let mails = write(ctx, &git)?;
    ctx.ui.step("people", "whom get_maintainer.pl names");
    let mbox = send_to(ctx, &mails)?;
    let path = ctx.build.join("userfault.mbox");
    std::fs::write(&path, mbox).with_context(|| format!("cannot write {}", path.display()))?;
    ctx.ui.step("apply", "git am makes the branch's tree of it");
    applies(ctx, &path)?;
    println!("{}: {} patches and a cover letter", path.display(), mails.len() - 1);
    Ok(())
}

/// git as whoever wrote the last commit: the cover letter is from the same.
fn as_author(git: &Git) -> Result<Git> {
    let field = |format: &str| git.text(&["log", "-1", &format!("--format={format}"), tree::BRANCH]);
    Ok(git.env("GIT_COMMITTER_NAME", field("%an")?).env("GIT_COMMITTER_EMAIL", field("%ae")?))
}

/// Writes the mails, a file each, and returns them in order, the cover letter first.
fn write(ctx: &Ctx, git: &Git) -> Result<Vec<PathBuf>> {
    let dir = ctx.build.join("mbox");
    worktree::remove(ctx, &dir.join("linux"))?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let text = read_text(&patch::folder(ctx).join("cover-letter"))?;
    // git takes the cover letter from what it knows as the branch's description.
    let description = format!("branch.userfault.description={text}");
    let output = dir.display().to_string();
    let args = [
        "-c",
        &description,
        "format-patch",
        "--cover-letter",
        "--cover-from-description=subject",
        "--thread=shallow",
        "--numbered",
        "--no-signature",
        "-o",
        &output,
        "upstream..userfault",
    ];
    let said = git.text(&args)?;
    let mails: Vec<PathBuf> = said.lines().map(PathBuf::from).collect();
    if mails.len() < 2 {
        bail!("the branch has no commits to send");
    }
    let cover = read_text(&mails[0])?;
    if ["*** SUBJECT HERE ***", "*** BLURB HERE ***"].iter().any(|gap| cover.contains(gap)) {
        bail!("patches/cover-letter should be a subject, an empty line and a text");
    }
    Ok(mails)
}

/// Addresses each mail to those who are to see it, the cover letter to all of them; all in one file.
fn send_to(ctx: &Ctx, mails: &[PathBuf]) -> Result<Vec<u8>> {
    let mut all = Recipients::default();
    let mut addressed = Vec::new();
    for path in &mails[1..] {
        let recipients = scripts::recipients(ctx, path)?;
        all.add(&recipients);
        addressed.push(address(path, &recipients)?);
    }
    let mut mbox = address(&mails[0], &all)?;
    mbox.extend(addressed.concat());
    Ok(mbox)
}

/// Puts To and Cc into a mail's file.
fn address(path: &Path, recipients: &Recipients) -> Result<Vec<u8>> {
    let mail = read(path)?;
    let end =
        mail.windows(2).position(|two| two == b"\n\n").context("a mail without an end of its header")?;
    let mail = [&mail[..=end], header(recipients).as_bytes(), &mail[end + 1..]].concat();
    std::fs::write(path, &mail)?;
    Ok(mail)
}

/// The lines To and Cc, an address per line.
fn header(recipients: &Recipients) -> String {
    let Recipients { to, cc } = recipients;
    // A mail must be to somebody.
    let (to, cc): (&[String], &[String]) = if to.is_empty() { (cc, &[]) } else { (to, cc) };
    let field = |name: &str, list: &[String]| match list.is_empty() {
        true => String::new(),
        false => format!("{name}: {}\n", list.join(",\n    ")),
    };
    field("To", to) + &field("Cc", cc)
}

/// Applies the mails onto upstream in a work tree of their own, and compares.
fn applies(ctx: &Ctx, mbox: &Path) -> Result<()> {
    let dir = ctx.build.join("mbox/linux");
    worktree::check_out(ctx, &dir, "upstream")?;
    let own = as_author(&Git::new(&dir))?;
    // The cover letter has no patch.
    let am = own.bytes(&["am", "--quiet", "--empty=drop", &mbox.display().to_string()], b"");
    let made = own.resolve("HEAD^{tree}");
    worktree::remove(ctx, &dir)?;
    am.context("git am does not take the series")?;
    if made != tree::git(ctx).resolve(&format!("{}^{{tree}}", tree::BRANCH)) {
        bail!("git am makes another tree of {} than the branch has", mbox.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_folded() {
        let list = |l: &[&str]| l.iter().map(|a| a.to_string()).collect::<Vec<_>>();
        let both = Recipients { to: list(&["a@b", "c@d"]), cc: list(&["l@l"]) };
        assert_eq!(header(&both), "To: a@b,\n    c@d\nCc: l@l\n");
        assert_eq!(header(&Recipients { to: Vec::new(), cc: list(&["l@l"]) }), "To: l@l\n");
    }

    #[test]
    fn addresses_end_the_header() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "From 0\nSubject: x\n\nbody\n\nmore\n").unwrap();
        let recipients = Recipients { to: vec!["a@b".into()], cc: Vec::new() };
        let mail = address(file.path(), &recipients).unwrap();
        assert_eq!(mail, b"From 0\nSubject: x\nTo: a@b\n\nbody\n\nmore\n");
    }
}
