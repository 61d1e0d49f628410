// SPDX-License-Identifier: GPL-2.0

//! Our entries of MAINTAINERS: merged into upstream's file, and taken out of it again.

use regex::Regex;
use std::collections::BTreeSet;

/// An entry: its title, then lines such as `M:` and `F:`.
pub struct Entry {
    pub title: String,
    pub lines: Vec<String>,
}

impl Entry {
    /// As it stands in the file.
    pub fn text(&self) -> String {
        format!("{}\n{}\n", self.title, self.lines.join("\n"))
    }

    /// The patterns of one kind, such as all of `F:`.
    pub fn values<'a>(&'a self, tag: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter_map(move |l| Some(l.strip_prefix(tag)?.strip_prefix(':')?.trim()))
    }
}

/// A line such as `F:<tab>mm/`.
fn is_field(line: &str) -> bool {
    let b = line.as_bytes();
    b.len() > 2 && b[0].is_ascii_uppercase() && b[1] == b':' && (b[2] == b'\t' || b[2] == b' ')
}

/// The entries of a file. What is no entry (the explanation at the head of upstream's) is left out.
pub fn entries(text: &str) -> Vec<Entry> {
    text.split("\n\n")
        .filter_map(|block| {
            let mut lines = block.trim_matches('\n').lines().map(String::from);
            let title = lines.next()?;
            let lines: Vec<_> = lines.collect();
            let good = !title.starts_with(char::is_whitespace) && !is_field(&title);
            (good && lines.first().is_some_and(|l| is_field(l))).then_some(Entry { title, lines })
        })
        .collect()
}

/// The paths that no `F:` line of a text covers.
pub fn uncovered<'p>(text: &str, paths: impl IntoIterator<Item = &'p String>) -> Vec<&'p String> {
    let entries = entries(text);
    let patterns: Vec<_> = entries.iter().flat_map(|e| e.values("F")).collect();
    paths.into_iter().filter(|path| !patterns.iter().any(|pattern| covers(pattern, path))).collect()
}

/// Whether a pattern of an `F:` line names a file, as scripts/get_maintainer.pl reads it.
fn covers(pattern: &str, path: &str) -> bool {
    let mut expression = regex::escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]");
    if pattern.ends_with('/') {
        expression.push_str(".*");
    }
    Regex::new(&format!("^{expression}$")).is_ok_and(|r| r.is_match(path))
}

/// Upstream's file with our entries, each before the first whose title comes after its own.
pub fn merge(upstream: &str, ours: &str) -> String {
    let mut text = upstream.to_string();
    for entry in entries(ours) {
        let after = entries(&text).into_iter().find(|e| {
            // The list begins at "3C59X"; what precedes it are lists of another kind.
            e.title.to_uppercase() > entry.title.to_uppercase() && e.lines.len() > 1
        });
        match after.and_then(|e| text.find(&format!("\n{}\n{}", e.title, e.lines[0]))) {
            Some(at) => text.insert_str(at + 1, &format!("{}\n", entry.text())),
            None => text.push_str(&format!("\n{}", entry.text())),
        }
    }
    text
}

/// Parts a merged file into upstream's text and the entries whose titles upstream does not have.
pub fn part(merged: &str, upstream: &str) -> (String, String) {
    let known: BTreeSet<String> = entries(upstream).into_iter().map(|e| e.title).collect();
    let mut rest = merged.to_string();
    let mut ours = Vec::new();
    for entry in entries(merged).into_iter().filter(|e| !known.contains(&e.title)) {
        let text = entry.text();
        rest = match rest.contains(&format!("{text}\n")) {
            true => rest.replacen(&format!("{text}\n"), "", 1),
            false => rest.replacen(&format!("\n{text}"), "", 1),
        };
        ours.push(text);
    }
    (rest, ours.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = "List of maintainers\n===\n\nAB\nM:\tX <x@x>\nF:\ta/\n\nCD\nM:\tY <y@y>\nF:\tc/\n";
    const OURS: &str = "BB\nM:\tZ <z@z>\nF:\tb/\n\nZZ\nM:\tZ <z@z>\nF:\tz/\n";

    #[test]
    fn merges_by_title_and_back() {
        let merged = merge(UPSTREAM, OURS);
        let titles: Vec<_> = entries(&merged).into_iter().map(|e| e.title).collect();
        assert_eq!(titles, ["AB", "BB", "CD", "ZZ"]);
        assert_eq!(part(&merged, UPSTREAM), (UPSTREAM.to_string(), OURS.to_string()));
    }

    #[test]
    fn patterns_cover() {
        assert!(covers("mm/userfault/", "mm/userfault/a/b.rs"));
        assert!(covers("rust/helpers/*.c", "rust/helpers/folio.c"));
        assert!(!covers("rust/helpers/*", "rust/helpers/a/b.c"));
        assert!(!covers("mm/userfault", "mm/userfault/fault.rs"));
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(entries(OURS)[0].values("F").collect::<Vec<_>>(), ["b/"]);
    }
}
