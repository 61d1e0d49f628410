// SPDX-License-Identifier: GPL-2.0

//! `make docs`: what we have written for people, read by the programs that know its formats. Man
//! pages, kernel-doc and the names of tests in pages are quick and part of `make check` too; rustdoc
//! and Sphinx are not.

use crate::ctx::Ctx;
use crate::deps::{self, Need, Sign};
use crate::kernel::{self, Kbuild};
use crate::lint::complaints;
use crate::run::{stream, End, Limits, MINUTE};
use crate::util::{ends_in, read_text, which};
use crate::{kconfig, overlay, toolchain, tree};
use anyhow::{bail, Context, Result};
use duct::Expression;
use regex::Regex;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// What reads man pages and kernel-doc.
const QUICK: [Need; 4] = [
    (Sign::Program("man"), "man-db"),
    (Sign::Program("groff"), "groff-base"),
    (Sign::Program("mandoc"), "mandoc"),
    (Sign::Program("python3"), "python3"),
];

/// What the kernel's pages are made with.
const SPHINX: [Need; 2] = [
    (Sign::Program("sphinx-build"), "python3-sphinx"),
    (Sign::File("/usr/lib/python3/dist-packages/yaml/__init__.py"), "python3-yaml"),
];

/// The folders of Documentation/ that hold pages of ours.
const PAGES: &str = "mm admin-guide/mm";

/// Where the tests are that pages name.
const TESTS: &str = "tools/testing/selftests/userfault/tests/src/";

/// What mandoc says of every page that is written as those of the Linux man-pages are, where a title
/// is the name as it is spelt.
const HOUSE_STYLE: &str = "lower case character in document title";

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(6);
    let ours = kernel::prepare(ctx)?;
    deps::need(ctx, &QUICK.into_iter().chain(SPHINX).collect::<Vec<_>>())?;
    for (name, result) in quick(ctx)? {
        result.context(name)?;
    }
    sphinx(ctx)?;
    rustdoc(ctx, ours)?;
    println!("the documentation builds, and nothing is said of ours");
    Ok(())
}

/// What takes seconds: each check by its name.
pub fn quick(ctx: &Ctx) -> Result<[(&'static str, Result<()>); 3]> {
    deps::need(ctx, &QUICK)?;
    ctx.ui.step("docs", "man pages, kernel-doc, names of tests");
    Ok([
        ("man pages have no warning", man_pages(ctx)),
        ("kernel-doc has no warning", kernel_doc(ctx)),
        ("every test that a page names exists", tests_exist(ctx)),
    ])
}

/// What a program that looks for faults says. It may end with an error for it, not without a word.
fn said(what: &Expression) -> Result<Vec<String>> {
    let limits = Limits { total: MINUTE, silence: None };
    let mut lines = Vec::new();
    let end = stream(what, &limits, |line| {
        lines.push(line.to_string());
        ControlFlow::Continue(())
    })?;
    match end {
        End::Exit(status) if status.success() || !lines.is_empty() => Ok(lines),
        End::Exit(status) => bail!("{what:?} failed ({status})"),
        _ => bail!("{what:?} took longer than a minute"),
    }
}

/// An error where something was said.
fn nothing(lines: Vec<String>) -> Result<()> {
    if !lines.is_empty() {
        bail!("{}", lines.join("\n"));
    }
    Ok(())
}

/// Our files whose paths are `good`.
fn ours(ctx: &Ctx, good: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let files: Vec<_> =
        overlay::files(ctx)?.into_keys().filter(|path| good(path)).map(PathBuf::from).collect();
    if files.is_empty() {
        bail!("there is no such file of ours");
    }
    Ok(files)
}

fn man_pages(ctx: &Ctx) -> Result<()> {
    let mut lines = Vec::new();
    for page in ours(ctx, |path| path.starts_with("Documentation/man"))? {
        let here = |what: Expression| what.dir(&ctx.root).env("LC_ALL", "C.UTF-8").stdin_null();
        // As a person would read it, but for the output, which is of no interest.
        let man = duct::cmd!("man", "--warnings=w", "-E", "UTF-8", "-Tutf8", "-Z", "-l", &page)
            .stdout_null()
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80");
        lines.extend(said(&here(man))?);
        let groff =
            duct::cmd!("groff", "-t", "-man", "-ww", "-rCHECKSTYLE=3", "-Kutf8", "-Tutf8", "-z", &page);
        lines.extend(said(&here(groff))?);
        let mandoc = duct::cmd!("mandoc", "-T", "lint", &page);
        lines.extend(said(&here(mandoc))?.into_iter().filter(|line| !line.contains(HOUSE_STYLE)));
    }
    nothing(lines)
}

/// The kernel's own script, on our C files that go into the kernel.
fn kernel_doc(ctx: &Ctx) -> Result<()> {
    let files =
        ours(ctx, |path| (path.ends_with(".h") || path.ends_with(".c")) && !path.starts_with("tools/"))?;
    let script = ctx.linux().join("scripts/kernel-doc");
    let mut args = vec![script, "-none".into(), "-Wall".into()];
    args.extend(files);
    nothing(said(&duct::cmd("python3", args).dir(&ctx.root).stdin_null())?)
}

/// Tests are known by their names only, so that a page may name one that is none any more.
fn tests_exist(ctx: &Ctx) -> Result<()> {
    let mut registered = BTreeSet::new();
    for path in ours(ctx, |path| path.starts_with(TESTS) && path.ends_with(".rs"))? {
        registered.extend(registered_tests(&read_text(&ctx.root.join(path))?)?);
    }
    let mut lines = Vec::new();
    let mut named = 0;
    for page in ours(ctx, |path| path.starts_with("Documentation/") && path.ends_with(".rst"))? {
        let names = named_tests(&read_text(&ctx.root.join(&page))?)?;
        named += names.len();
        let missing = names.difference(&registered);
        lines.extend(missing.map(|name| format!("{}: there is no test {name}", page.display())));
    }
    if named == 0 {
        bail!("no page names a test");
    }
    nothing(lines)
}

/// The names that a file of tests registers.
fn registered_tests(text: &str) -> Result<BTreeSet<String>> {
    let (list, name) = (Regex::new(r"register!\(([^)]*)\)")?, Regex::new(r"\w+")?);
    Ok(list
        .captures_iter(text)
        .flat_map(|c| name.find_iter(c.get(1).map_or("", |m| m.as_str())).collect::<Vec<_>>())
        .map(|m| m.as_str().to_string())
        .collect())
}

/// The names of tests in a page: those of items of the specification, as literals.
fn named_tests(text: &str) -> Result<BTreeSet<String>> {
    let form = Regex::new(r"``([acd]\d+_\w+)``")?;
    Ok(form.captures_iter(text).filter_map(|c| Some(c.get(1)?.as_str().to_string())).collect())
}

/// Builds what rustdoc makes of the kernel's crates, and shows what it says of our files.
fn rustdoc(ctx: &Ctx, strict: bool) -> Result<()> {
    ctx.ui.step("rustdoc", "the crates of the kernel (minutes)");
    let kbuild = Kbuild::new(ctx, "rustdoc", ctx.linux(), ctx.plain(), toolchain::find(ctx)?);
    kconfig::make(ctx, &kbuild, &kconfig::fragments(ctx, crate::cli::Config::Plain), strict)?;
    kbuild.build(ctx, &["prepare", "rustdoc"], 40, "the first error in the log is the one that matters")?;
    let log = read_text(&ctx.log("rustdoc"))?;
    let (files, touched) = (overlay::files(ctx)?, tree::touched(ctx, "HEAD")?);
    let mut found = complaints(&log, |path| touched.contains(path));
    for path in dead_links(&log) {
        for (name, file) in files.iter().filter(|(name, _)| name.ends_with(".rs")) {
            if read_text(&file.source)?.contains(&format!("srctree/{path}")) {
                found.push(format!("{name}: srctree/{path} does not exist"));
            }
        }
    }
    nothing(found).context("rustdoc warns of files of ours")
}

/// The links into the source tree that lead nowhere, which Kbuild looks for when all is made.
fn dead_links(log: &str) -> Vec<&str> {
    let path = Regex::new(r"(?m)^warning: srctree/ link to (\S+) does not exist$");
    let all = |form: Regex| form.captures_iter(log).filter_map(|c| Some(c.get(1)?.as_str())).collect();
    path.map(all).unwrap_or_default()
}

fn sphinx(ctx: &Ctx) -> Result<()> {
    ctx.ui.step("sphinx", &format!("Documentation/{{{}}}", PAGES.replace(' ', ",")));
    let kbuild = Kbuild::new(ctx, "sphinx", ctx.linux(), ctx.plain(), toolchain::find(ctx)?);
    let build = which("sphinx-build").context("sphinx-build is missing")?;
    // Pages that are there already, Sphinx does not read again, and says nothing of them.
    let output = kbuild.objects.join("Documentation/output");
    for made in PAGES.split(' ').chain([".doctrees"]) {
        let _ = std::fs::remove_dir_all(output.join(made));
    }
    let targets = [
        format!("SPHINXBUILD={}", build.display()),
        format!("SPHINXDIRS={PAGES}"),
        // To Documentation/Makefile this is no program, but whether to run it too.
        "RUSTDOC=".into(),
        "htmldocs".into(),
    ];
    kbuild.build(ctx, &targets.each_ref().map(String::as_str), 20, "look at the log")?;
    // Of upstream's indices, which we edit, Sphinx says that other folders are not there.
    let (files, log) = (overlay::files(ctx)?, read_text(&ctx.log("sphinx"))?);
    nothing(warnings(&log, |path| files.contains_key(path))).context("Sphinx warns of pages of ours")?;
    let made = |path: &str| output.join(path).with_extension("html").exists();
    for path in files.keys().filter_map(|p| p.strip_prefix("Documentation/")).filter(|p| p.ends_with(".rst"))
    {
        if !made(path) {
            bail!(
                "Sphinx made no page of Documentation/{path}; is it in the index of a folder among: {PAGES}?"
            );
        }
    }
    Ok(())
}

/// The warnings of Sphinx whose place is a file that `ours` knows by its path in the tree.
fn warnings(log: &str, ours: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(form) = Regex::new(r"(?:^|\s)([^\s:]+)(:\d+)?: *(WARNING|ERROR|SEVERE|CRITICAL)\b") else {
        return Vec::new();
    };
    let place = |line: &str| Some(form.captures(line)?.get(1)?.as_str().to_string());
    // Absolute paths, and of comments in headers such that are relative to anything.
    log.lines()
        .filter(|line| place(line).is_some_and(|path| ends_in(&path, &ours)))
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_warnings_of_our_pages() {
        let log = "reading sources... [100%] userfault\n\
            /w/build/linux/Documentation/mm/userfault.rst:12: WARNING: Title underline too short.\n\
            /w/build/linux/Documentation/mm/ksm.rst:3: WARNING: undefined label: 'x'\n\
            ./include/linux/userfault.h:7: ERROR: Unexpected indentation.\n\
            /w/build/linux/Documentation/mm/userfault.rst: WARNING: document isn't included in any toctree\n\
            /w/Documentation/mm/x:9: /w/include/linux/userfault.h:7: WARNING: Inline emphasis.\n\
            WARNING: dot(1) not found, for better output quality install graphviz\n";
        let ours =
            |path: &str| ["Documentation/mm/userfault.rst", "include/linux/userfault.h"].contains(&path);
        let found = warnings(log, ours);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[1].contains("Unexpected indentation"));
        assert!(warnings(log, |_| false).is_empty());
    }

    #[test]
    fn finds_dead_links() {
        let log =
            "  RUSTDOC rust/kernel/lib.rs\nwarning: srctree/ link to include/linux/no.h does not exist\n";
        assert_eq!(dead_links(log), ["include/linux/no.h"]);
        assert!(dead_links("warning: unresolved link to `x`\n").is_empty());
    }

    #[test]
    fn finds_the_tests_that_a_page_names() {
        let page = "``a12_one`` and\n``c3_two_3``, but not ``c3``, a1_three, ``b1_four`` or ``vm.a1_five``";
        let names = named_tests(page).expect("names");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a12_one", "c3_two_3"]);
        let tests = "register!(a12_one);\nfn a1() {}\nregister!(\n    c3_two_3,\n    d4,\n);\n";
        let names = registered_tests(tests).expect("names");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a12_one", "c3_two_3", "d4"]);
    }

    #[test]
    fn a_linter_may_fail_but_not_without_a_word() {
        assert_eq!(said(&duct::cmd!("sh", "-c", "echo a; exit 3")).expect("it said why"), ["a"]);
        assert!(said(&duct::cmd!("sh", "-c", "exit 3")).is_err());
        assert!(said(&duct::cmd!("true")).expect("it runs").is_empty());
    }
}
