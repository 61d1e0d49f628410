// SPDX-License-Identifier: GPL-2.0

//! Kernel configurations: tinyconfig plus our fragments, and the proof that each line of a
//! fragment is in the result (Kconfig drops silently what it cannot have).

use crate::cli::{self, Config};
use crate::ctx::Ctx;
use crate::git::Git;
use crate::kernel::Kbuild;
use crate::run::{Job, MINUTE};
use crate::state;
use crate::util::{read, read_text, write_if_changed, Hash};
use anyhow::{bail, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The fragments of a kernel, in the order in which they are merged.
pub fn fragments(ctx: &Ctx, config: Config) -> Vec<PathBuf> {
    let mut list = vec![
        ctx.selftests().join("config"),
        ctx.root.join(format!("arch/{}/configs/userfault.config", ctx.arch.folder())),
    ];
    let of = |config| ctx.selftests().join(format!("config.{}", cli::name(config)));
    match config {
        Config::Plain => {}
        Config::Pages4k => list.push(ctx.root.join("arch/powerpc/configs/userfault-4k.config")),
        Config::Vm => list.extend([of(Config::Distro), of(config)]),
        _ => list.push(of(config)),
    }
    list
}

/// The fragment `without.config` in a build folder: these options of ours, without CONFIG_, off. None
/// where there are none.
pub fn without(ctx: &Ctx, objects: &Path, options: &[impl AsRef<str>]) -> Result<Option<PathBuf>> {
    let ours = our_options(ctx)?;
    let mut lines = String::new();
    for option in options {
        let option = format!("CONFIG_{}", option.as_ref());
        if !ours.contains(&option) {
            bail!("{option} is none of our options, which are {}", ours.join(" "));
        }
        lines += &format!("# {option} is not set\n");
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let fragment = objects.join("without.config");
    write_if_changed(&fragment, lines.as_bytes())?;
    Ok(Some(fragment))
}

/// The options that our menu has.
pub fn our_options(ctx: &Ctx) -> Result<Vec<String>> {
    let menu = ctx.root.join("Kconfig");
    if !menu.exists() {
        return Ok(Vec::new());
    }
    let lines = read_text(&menu)?;
    let names = lines.lines().filter_map(|l| l.strip_prefix("config ").or(l.strip_prefix("menuconfig ")));
    Ok(names.map(|n| format!("CONFIG_{}", n.trim())).collect())
}

/// The fragment `off.config` in a folder: our options off, and `more`, without CONFIG_, with them.
pub fn without_ours(ctx: &Ctx, dir: &Path, more: &[&str]) -> Result<PathBuf> {
    let more = more.iter().map(|option| format!("CONFIG_{option}"));
    let off = our_options(ctx)?.into_iter().chain(more);
    let fragment = dir.join("off.config");
    let lines: String = off.map(|option| format!("# {option} is not set\n")).collect();
    write_if_changed(&fragment, lines.as_bytes())?;
    Ok(fragment)
}

/// Makes the .config of a build folder, where something that it is made of has changed.
/// `strict`: every line of the fragments must be in it.
pub fn make(ctx: &Ctx, kbuild: &Kbuild, fragments: &[PathBuf], strict: bool) -> Result<()> {
    let git = Git::new(&kbuild.source);
    let menus = git.files("HEAD", &[])?.into_iter().filter(|(path, ..)| path.contains("Kconfig"));
    let mut hash = Hash::new().add(kbuild.toolchain.key()?);
    for (path, _, blob) in menus {
        hash = hash.add(path).add(blob);
    }
    for path in fragments {
        hash = hash.add(read(path)?);
    }
    let edited = git.text(&["diff", "--name-only", "HEAD"])?;
    let edited = edited.lines().any(|f| f.contains("Kconfig"));
    // Of the folder, which more than one build may have.
    let folder = kbuild.objects.strip_prefix(&ctx.build).unwrap_or(&kbuild.objects);
    let name = format!("config-{}", folder.display().to_string().replace('/', "-"));
    let key = hash.hex();
    let (config, new) = (kbuild.objects.join(".config"), kbuild.objects.join(".config.new"));
    let known = state::load::<String>(ctx, &name) == key && config.exists() && !edited;
    if !known {
        ctx.ui.note(&format!("config: tinyconfig, {} fragments", fragments.len()));
        // What is written now may be refused below: then it is made anew the next time.
        state::save(ctx, &name, &String::new())?;
        std::fs::create_dir_all(&kbuild.objects)?;
        let hint = "is one of the fragments damaged?";
        let make = |target: &str| kbuild.make(&[target]).env("KCONFIG_CONFIG", &new);
        Job { ctx, name: "tinyconfig", what: make("tinyconfig"), limit: 5 * MINUTE, hint }.run()?;
        let script = kbuild.source.join("scripts/kconfig/merge_config.sh");
        let mut args =
            vec![script, "-m".into(), "-Q".into(), "-O".into(), kbuild.objects.clone(), new.clone()];
        args.extend(fragments.iter().cloned());
        let merge = duct::cmd("sh", args).dir(&kbuild.objects).env("KCONFIG_CONFIG", &new);
        Job { ctx, name: "merge-config", what: merge, limit: MINUTE, hint }.run()?;
        Job { ctx, name: "olddefconfig", what: make("olddefconfig"), limit: 5 * MINUTE, hint }.run()?;
        write_if_changed(&config, &read(&new)?)?;
        std::fs::remove_file(new)?;
    }
    let missing = missing(&wanted(fragments)?, &read_text(&config)?);
    if !missing.is_empty() && strict {
        let list = missing.join("\n  ");
        bail!(
            "Kconfig did not take these lines of the fragments ({}); what do they depend on?\n  {list}",
            config.display()
        );
    }
    if !known {
        for line in &missing {
            ctx.ui.note(&format!("config: this tree does not have {line}"));
        }
        state::save(ctx, &name, &key)?;
    }
    Ok(())
}

/// What the fragments ask for together: a later one overrides an earlier one.
fn wanted(fragments: &[PathBuf]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for path in fragments {
        for line in read_text(path)?.lines() {
            if let Some((key, value)) = parse(line) {
                all.insert(key, value);
            }
        }
    }
    Ok(all)
}

/// The option that a line sets, or says to be off.
pub fn option(line: &str) -> Option<String> {
    parse(line).map(|(option, _)| option)
}

/// `CONFIG_A=y`, or `# CONFIG_A is not set`, which is `n`.
fn parse(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if let Some(key) = line.strip_prefix("# CONFIG_").and_then(|l| l.strip_suffix(" is not set")) {
        return Some((format!("CONFIG_{key}"), "n".into()));
    }
    let (key, value) = line.split_once('=')?;
    key.starts_with("CONFIG_").then(|| (key.into(), value.into()))
}

fn missing(wanted: &BTreeMap<String, String>, config: &str) -> Vec<String> {
    let have: BTreeMap<String, String> = config.lines().filter_map(parse).collect();
    wanted
        .iter()
        .filter(|(key, value)| have.get(*key).map_or("n", String::as_str) != value.as_str())
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_is_missing() {
        let wanted: BTreeMap<_, _> = ["CONFIG_A=y", "# CONFIG_B is not set", "CONFIG_C=\"x\"", "# a comment"]
            .iter()
            .filter_map(|l| parse(l))
            .collect();
        assert_eq!(missing(&wanted, "CONFIG_A=y\nCONFIG_C=\"x\"\n"), Vec::<String>::new());
        assert_eq!(missing(&wanted, "# CONFIG_A is not set\nCONFIG_B=y\n").len(), 3);
    }
}
