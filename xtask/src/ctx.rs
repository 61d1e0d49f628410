// SPDX-License-Identifier: GPL-2.0

//! What every command needs to know: where things are, and what was asked for.

use crate::cli::{self, Arch, Cli, Config, Machine, Release};
use crate::ui::Ui;
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};
use std::rc::Rc;

#[derive(Clone)]
pub struct Ctx {
    /// The repository.
    pub root: PathBuf,
    /// Everything that is made.
    pub build: PathBuf,
    /// What outlives a `git clean`: downloads, bindgen, compiler cache.
    pub cache: PathBuf,
    pub arch: Arch,
    pub config: Config,
    /// Where to boot; for powerpc alone.
    pub machine: Option<Machine>,
    pub all: bool,
    pub without: Vec<String>,
    pub kernel_src: Option<PathBuf>,
    pub kernel_ref: Option<String>,
    pub size: u32,
    pub force: bool,
    pub against: Option<PathBuf>,
    pub tests: Vec<String>,
    pub seconds: u64,
    pub seed: Option<u64>,
    pub ops: Option<u64>,
    pub fresh: Option<Release>,
    pub fresh_dir: PathBuf,
    pub keep: bool,
    pub ui: Rc<Ui>,
}

impl Ctx {
    pub fn new(cli: &Cli) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask/ has no parent folder")?
            .to_path_buf();
        let cache = match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
        }
        .join("userfault");
        let words =
            |words: &[String]| words.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>();
        let given = |s: &Option<PathBuf>| s.clone().filter(|p| !p.as_os_str().is_empty());
        let build = root.join("build");
        // Programs that run elsewhere are told of it.
        let fresh_dir = std::path::absolute(given(&cli.fresh_dir).unwrap_or(build.join("fresh")))?;
        let ctx = Self {
            build,
            root,
            cache,
            arch: cli.arch,
            config: cli.config,
            machine: cli.machine,
            all: cli.all != 0,
            without: words(&cli.without),
            kernel_src: given(&cli.kernel_src),
            kernel_ref: cli.kernel_ref.clone().filter(|r| !r.is_empty()),
            size: cli.size,
            force: cli.force != 0,
            against: given(&cli.against),
            tests: words(&cli.tests),
            seconds: cli.seconds,
            seed: cli.seed,
            ops: cli.ops,
            fresh: cli.fresh,
            fresh_dir,
            keep: cli.keep != 0,
            ui: Rc::new(Ui::new(cli.verbosity > 0)),
        };
        let x86 = ctx.arch == Arch::X86_64;
        if x86 && (ctx.config == Config::Pages4k || ctx.machine.is_some()) {
            bail!("CONFIG=4k and MACHINE are for ARCH=powerpc");
        }
        if !x86 && !matches!(ctx.config, Config::Plain | Config::Pages4k) {
            bail!("powerpc has CONFIG=plain and CONFIG=4k only");
        }
        if !x86 && cli.command.is_for_x86() {
            bail!("this command is for ARCH=x86_64");
        }
        for dir in [ctx.state(), ctx.logs(), ctx.cache.clone()] {
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(ctx)
    }

    /// The kernel tree, a git repository.
    pub fn linux(&self) -> PathBuf {
        self.build.join("linux")
    }

    /// The folder that this kernel is built in.
    pub fn objects(&self) -> PathBuf {
        let mut name = self.arch.name().to_string();
        if self.config != Config::Plain {
            name = format!("{name}-{}", cli::name(self.config));
        }
        if !self.without.is_empty() {
            name += "-without";
        }
        self.build.join(name)
    }

    /// The plain kernel's folder. User headers and programs are the same for every kernel, and
    /// live here.
    pub fn plain(&self) -> PathBuf {
        self.build.join(self.arch.name())
    }

    pub fn image(&self) -> PathBuf {
        self.objects().join(self.arch.image())
    }

    pub fn logs(&self) -> PathBuf {
        self.build.join("log")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What xtask remembers between runs.
    pub fn state(&self) -> PathBuf {
        self.build.join("state")
    }

    pub fn selftests(&self) -> PathBuf {
        self.root.join("tools/testing/selftests/userfault")
    }

    /// Whether the kernel has checkers that make it several times slower.
    pub fn slow(&self) -> bool {
        matches!(self.config, Config::Debug | Config::Kcsan | Config::PreemptRt)
    }
}
