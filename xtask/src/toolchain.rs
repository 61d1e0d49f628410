// SPDX-License-Identifier: GPL-2.0

//! The compilers: a rustc with its library's source, the clang that shares its LLVM, bindgen.

use crate::cli::Arch;
use crate::ctx::Ctx;
use crate::deps;
use crate::run::{output, Job, MINUTE};
use crate::util::{version_in, which, Hash};
use anyhow::{bail, Result};
use std::path::{Path, PathBuf};

/// The oldest that Linux 7.3 takes.
fn oldest_rustc(arch: Arch) -> (u32, u32, u32) {
    match arch {
        Arch::X86_64 => (1, 85, 0),
        Arch::Powerpc => (1, 95, 0),
    }
}

/// The one that we build where there is none that will do.
const BINDGEN_BUILT: &str = "0.72.1";

pub struct Toolchain {
    pub rustc: PathBuf,
    pub bindgen: PathBuf,
    /// `22` for clang-22; empty for a clang without a number.
    pub llvm: String,
}

/// Finds the compilers, and installs them first where they are missing.
pub fn find(ctx: &Ctx) -> Result<Toolchain> {
    let oldest = oldest_rustc(ctx.arch);
    let rustc = match rustc(oldest) {
        Ok(found) => found,
        Err(why) => {
            install_rustc(ctx, &why.to_string())?;
            rustc(oldest)?
        }
    };
    let own = llvm_of(&rustc).map(|n| n.to_string());
    let llvm = match clang(&rustc) {
        Some(found) if own.as_ref() == Some(&found) => found,
        // Helpers are inlined by rustc's own LLVM alone.
        Some(found) if !own.is_some_and(|n| deps::available(&format!("libclang-{n}-dev"))) => found,
        _ => {
            install_llvm(ctx, &rustc)?;
            match clang(&rustc) {
                Some(found) => found,
                None => bail!("no clang with lld, llvm-ar and libclang beside it: install clang, lld and llvm 17 or newer"),
            }
        }
    };
    Ok(Toolchain { bindgen: bindgen(ctx, &llvm)?, rustc, llvm })
}

/// The first rustc that can build a kernel. The error says what is wrong with those that are there.
fn rustc(oldest: (u32, u32, u32)) -> Result<PathBuf> {
    let mut seen = Vec::new();
    let given = std::env::var_os("RUSTC").map(PathBuf::from);
    for path in given.into_iter().chain([PathBuf::from("/usr/bin/rustc")]).chain(which("rustc")) {
        if seen.iter().any(|(p, _)| *p == path) || !path.exists() {
            continue;
        }
        match unfit(&path, oldest) {
            None => return Ok(path),
            Some(why) => seen.push((path, why)),
        }
    }
    let list: Vec<_> = seen.iter().map(|(p, why)| format!("{}: {why}", p.display())).collect();
    bail!(
        "no rustc that can build the kernel ({}); it takes rustc {}.{} or newer with the source of its library: \
         Debian's rustc-web and rust-web-src, or rustc and rust-src, or 'rustup component add rust-src', \
         or name one with RUSTC=",
        if list.is_empty() { "there is none".into() } else { list.join("; ") },
        oldest.0,
        oldest.1
    )
}

fn unfit(rustc: &Path, oldest: (u32, u32, u32)) -> Option<String> {
    let rustc = rustc.display().to_string();
    let Some(version) = output(&rustc, &["--version"]).ok().and_then(|v| version_in(&v)) else {
        return Some("does not run".into());
    };
    if version < oldest {
        return Some(format!("{}.{}.{} is too old", version.0, version.1, version.2));
    }
    let sysroot = output(&rustc, &["--print", "sysroot"]).unwrap_or_default();
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    (!source.exists()).then(|| "has no rust-src".into())
}

fn install_rustc(ctx: &Ctx, why: &str) -> Result<()> {
    ctx.ui.note(why);
    // What apt knows may be too old.
    deps::update(ctx)?;
    let compiler = match deps::available("rustc-web") {
        true => ["rustc-web", "rust-web-src"],
        false => ["rustc", "rust-src"],
    };
    deps::install(ctx, &[compiler, linters()].concat())
}

/// The packages of rustfmt and clippy. Debian has the newest rustc under another name.
pub fn linters() -> [&'static str; 2] {
    match deps::available("rustc-web") {
        true => ["rustfmt-web", "rust-web-clippy"],
        false => ["rustfmt", "rust-clippy"],
    }
}

/// The LLVM that rustc is made of.
fn llvm_of(rustc: &Path) -> Option<u32> {
    let said = output(&rustc.display().to_string(), &["-vV"]).ok()?;
    Some(version_in(said.lines().find(|l| l.starts_with("LLVM"))?)?.0)
}

/// rustc's own LLVM first: then helpers in C are inlined into Rust. Else the newest.
fn clang(rustc: &Path) -> Option<String> {
    let own = llvm_of(rustc);
    let numbers = own.into_iter().chain((17..40).rev());
    let all = numbers.map(|n| n.to_string()).chain([String::new()]);
    all.into_iter().find(|n| {
        let dash = if n.is_empty() { String::new() } else { format!("-{n}") };
        ["clang", "ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy"]
            .iter()
            .all(|p| which(&format!("{p}{dash}")).is_some())
            && (n.is_empty() || libclang(n).is_dir())
    })
}

fn libclang(llvm: &str) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}/lib"))
}

fn install_llvm(ctx: &Ctx, rustc: &Path) -> Result<()> {
    deps::refresh(ctx)?;
    let numbers = llvm_of(rustc).into_iter().chain((17..40).rev());
    let Some(n) = numbers.into_iter().find(|n| deps::available(&format!("libclang-{n}-dev"))) else {
        bail!("install clang, lld and llvm 17 or newer, of rustc's own LLVM version if there is a choice");
    };
    let packages =
        [format!("clang-{n}"), format!("lld-{n}"), format!("llvm-{n}"), format!("libclang-{n}-dev")];
    deps::install(ctx, &packages.each_ref().map(String::as_str))
}

/// The oldest bindgen that works with this LLVM. From 22 on, libclang describes structs in a way that
/// older ones do not know: they make opaque types of them, and say nothing.
fn oldest_bindgen(llvm: &str) -> (u32, u32, u32) {
    let said = || output("clang", &["--version"]).ok().and_then(|v| version_in(&v));
    let major = llvm.parse().ok().or_else(|| Some(said()?.0));
    if major.is_some_and(|n: u32| n >= 22) {
        (0, 72, 1)
    } else {
        (0, 71, 1)
    }
}

/// A bindgen that is new enough: from PATH, from our cache, or built.
fn bindgen(ctx: &Ctx, llvm: &str) -> Result<PathBuf> {
    let root = ctx.cache.join(format!("bindgen-{BINDGEN_BUILT}"));
    let built = root.join("bin/bindgen");
    let oldest = oldest_bindgen(llvm);
    let fit = |path: &PathBuf| {
        let said = output(&path.display().to_string(), &["--version"]);
        said.ok().and_then(|v| version_in(&v)).is_some_and(|v| v >= oldest)
    };
    if let Some(found) = which("bindgen").into_iter().chain([built.clone()]).find(fit) {
        return Ok(found);
    }
    ctx.ui.note(&format!("bindgen {BINDGEN_BUILT} is built (about two minutes, once)"));
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let what = duct::cmd!(
        cargo,
        "install",
        "bindgen-cli",
        "--version",
        BINDGEN_BUILT,
        "--locked",
        "--force",
        "--root",
        &root
    );
    let hint = format!("is crates.io in reach? Or put bindgen {BINDGEN_BUILT} or newer into PATH");
    Job { ctx, name: "bindgen", what, limit: 20 * MINUTE, hint: &hint }.run()?;
    Ok(built)
}

impl Toolchain {
    /// A program of LLVM, such as `clang-22`.
    pub fn llvm_program(&self, name: &str) -> String {
        match self.llvm.as_str() {
            "" => name.to_string(),
            n => format!("{name}-{n}"),
        }
    }

    /// The variables that Kbuild is told.
    pub fn variables(&self) -> Vec<String> {
        let clang = self.llvm_program("clang");
        let mut list = vec![
            match self.llvm.as_str() {
                "" => "LLVM=1".to_string(),
                n => format!("LLVM=-{n}"),
            },
            // HOSTCC stays bare: Kbuild hands it to rustc as the name of one program.
            format!("CC=ccache {clang}"),
            format!("RUSTC={}", self.rustc.display()),
            format!("HOSTRUSTC={}", self.rustc.display()),
            format!("BINDGEN={}", self.bindgen.display()),
        ];
        for (variable, name) in
            [("RUSTDOC", "rustdoc"), ("RUSTFMT", "rustfmt"), ("CLIPPY_DRIVER", "clippy-driver")]
        {
            list.push(format!("{variable}={}", self.rust_program(name).display()));
        }
        list
    }

    /// A program that came with rustc.
    pub fn rust_program(&self, name: &str) -> PathBuf {
        let beside = self.rustc.with_file_name(name);
        if beside.exists() {
            beside
        } else {
            PathBuf::from(name)
        }
    }

    /// What bindgen needs to find its clang.
    pub fn environment(&self) -> Vec<(String, String)> {
        match self.llvm.as_str() {
            "" => Vec::new(),
            n => vec![("LIBCLANG_PATH".into(), libclang(n).display().to_string())],
        }
    }

    /// A digest of the versions: another compiler makes other objects.
    pub fn key(&self) -> Result<String> {
        Ok(Hash::new()
            .add(output(&self.llvm_program("clang"), &["--version"])?)
            .add(output(&self.rustc.display().to_string(), &["-vV"])?)
            .add(output(&self.bindgen.display().to_string(), &["--version"])?)
            .hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_22_needs_a_newer_bindgen() {
        assert_eq!(oldest_bindgen("19"), (0, 71, 1));
        assert_eq!(oldest_bindgen("22"), (0, 72, 1));
    }
}
