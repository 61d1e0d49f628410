// SPDX-License-Identifier: GPL-2.0

//! What the command line can say. `make` passes its variables on in the environment.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Builds, boots and checks the userfault fork of Linux.
#[derive(Parser)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Architecture to build for and to boot.
    #[arg(long, env = "ARCH", value_enum, default_value_t = Arch::X86_64, global = true)]
    pub arch: Arch,

    /// Which kernel: the plain one, the one with every checker switched on, one that differs in what
    /// else the kernel has, or, of powerpc, the one with pages of 4 KiB.
    #[arg(long, env = "CONFIG", value_enum, default_value_t = Config::Plain, global = true)]
    pub config: Config,

    /// Which machine of powerpc to boot on; power9 where none is given, which check does with radix
    /// and with the hash table.
    #[arg(long, env = "MACHINE", value_enum, global = true)]
    pub machine: Option<Machine>,

    /// check ARCH=powerpc: every machine, with pages of 64 KiB and of 4 KiB (1).
    #[arg(long, env = "ALL", default_value_t = 0, global = true)]
    pub all: u8,

    /// Options of ours that the kernel is to be built without, which then has upstream's functions.
    #[arg(long, env = "WITHOUT", value_delimiter = ' ', global = true)]
    pub without: Vec<String>,

    /// Upstream's source: a directory, a tarball or a git clone.
    #[arg(long, env = "KERNEL_SRC", global = true)]
    pub kernel_src: Option<PathBuf>,

    /// Which commit or tag of the clone in KERNEL_SRC.
    #[arg(long, env = "KERNEL_REF", global = true)]
    pub kernel_ref: Option<String>,

    /// MiB that the test program moves.
    #[arg(long, env = "SIZE", default_value_t = 1024, global = true)]
    pub size: u32,

    /// Show the output of every program that runs (1) instead of a bar (0).
    #[arg(long = "verbosity", env = "V", default_value_t = 0, global = true)]
    pub verbosity: u8,

    /// Make the tree anew although it holds work that was not exported; a copy is kept (1).
    /// check-upstream: run the pristine kernel although its results are known.
    #[arg(long, env = "FORCE", default_value_t = 0, global = true)]
    pub force: u8,

    /// An earlier build/bench.json, to compare with
    #[arg(long, env = "AGAINST", global = true)]
    pub against: Option<PathBuf>,

    /// Names of tests in the guest, of suites of check-upstream, or of stressors; all where none is given.
    #[arg(long, env = "TESTS", value_delimiter = ' ', global = true)]
    pub tests: Vec<String>,

    /// How long fuzz goes on in the guest.
    #[arg(long, env = "SECONDS", default_value_t = 240, value_parser = at_least_one(), global = true)]
    pub seconds: u64,

    /// What fuzz and torture follow from. Where none is given fuzz takes another in every run.
    #[arg(long, env = "SEED", global = true)]
    pub seed: Option<u64>,

    /// How many operations torture does; 10 million where none is given, 1 million on a kernel with checkers.
    #[arg(long, env = "OPS", value_parser = at_least_one(), global = true)]
    pub ops: Option<u64>,

    /// Which Debian check-deb and check-fresh are to try; both where none is given.
    #[arg(long, env = "FRESH", value_enum, global = true)]
    pub fresh: Option<Release>,

    /// Where check-fresh makes its machines (12 GB each), and check-deb (2 GB each); build/fresh where none is given.
    #[arg(long, env = "FRESH_DIR", global = true)]
    pub fresh_dir: Option<PathBuf>,

    /// Do not remove the machines of check-deb and check-fresh, even though all went well (1).
    #[arg(long, env = "KEEP", default_value_t = 0, global = true)]
    pub keep: u8,
}

/// The commands. The doc comments are what `make help` prints, in this order.
#[derive(Subcommand, Clone, Copy)]
pub enum Command {
    /// Build, boot, and run the test program in the booted kernel
    Boot,
    /// Run all tests; ends with a line "N passed, N failed"
    Check,
    /// Measure what a page costs, ours beside mainline's, in instructions
    Bench,
    /// Random calls on the debug kernel, and the lines of ours that none has come to
    Fuzz,
    /// Random operations on memory, every page of which is held against a model
    Torture,
    /// Upstream's own tests of memory management, and of what else touches a program's memory, on a
    /// pristine kernel and on ours: any difference fails
    CheckUpstream,
    /// stress-ng's stressors of memory management
    Stress,
    /// Make build/linux: upstream plus one commit per patch
    Tree,
    /// Build the kernel (and the tree, where something changed)
    Kernel,
    /// Give a prompt in the booted kernel
    Shell,
    /// Write the commits of build/linux back to patches/ and our folders
    Export,
    /// Install the user headers to build/ARCH/usr/include
    Headers,
    /// rustfmt and clippy on kernel code and user code
    Lint,
    /// Man pages, kernel-doc, rustdoc and Sphinx: no warning of what is ours
    Docs,
    /// Prove that with our options off the compiled kernel is upstream's
    Off,
    /// Prove that every commit builds, boots, and is as upstream wants it
    BisectCheck,
    /// Write the series as mails, build/userfault.mbox
    Mbox,
    /// Make packages of the kernel and its headers for Debian, in build/deb
    Deb,
    /// Install the packages into new Debians, boot these in QEMU, and run the test program there
    CheckDeb,
    /// Run make boot and make check on new Debian machines, made by debootstrap
    CheckFresh,
    /// Install the programs that all this needs
    Deps,
    /// Print this list
    Help,
}

impl Command {
    /// Whether it knows of no other architecture.
    pub fn is_for_x86(self) -> bool {
        use Command::{Bench, BisectCheck, CheckDeb, CheckFresh, CheckUpstream, Deb, Fuzz, Off, Stress};
        matches!(
            self,
            Bench | BisectCheck | CheckDeb | CheckFresh | CheckUpstream | Deb | Fuzz | Off | Stress
        )
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    #[value(name = "x86_64", alias = "x86")]
    X86_64,
    /// 64 bits, little-endian.
    #[value(name = "powerpc", alias = "ppc64le")]
    Powerpc,
}

impl Arch {
    /// Kbuild's ARCH, and the name in our own paths: build/NAME.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Powerpc => "powerpc",
        }
    }

    /// The folder under arch/.
    pub fn folder(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86",
            Arch::Powerpc => "powerpc",
        }
    }

    /// The bootable image, in the build folder.
    pub fn image(self) -> &'static str {
        match self {
            Arch::X86_64 => "arch/x86/boot/bzImage",
            Arch::Powerpc => "vmlinux",
        }
    }

    /// What make is told to build.
    pub fn target(self) -> &'static str {
        match self {
            Arch::X86_64 => "all",
            Arch::Powerpc => "vmlinux",
        }
    }

    /// The compiler of C programs.
    pub fn gcc(self) -> &'static str {
        match self {
            Arch::X86_64 => "gcc",
            Arch::Powerpc => "powerpc64le-linux-gnu-gcc",
        }
    }

    pub fn qemu(self) -> &'static str {
        match self {
            Arch::X86_64 => "qemu-system-x86_64",
            Arch::Powerpc => "qemu-system-ppc64",
        }
    }

    /// Rust's name of the target that user programs are built for.
    pub fn user_target(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64-unknown-linux-gnu",
            Arch::Powerpc => "powerpc64le-unknown-linux-gnu",
        }
    }
}

fn at_least_one() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

/// What a value is called on the command line.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    Plain,
    Debug,
    /// Data races.
    Kcsan,
    /// No huge pages.
    Nothp,
    /// No swap.
    Noswap,
    PreemptRt,
    /// One processor.
    Up,
    /// What Debian's kernel has for memory, security and tracing.
    Distro,
    /// That of make deb: Debian in a virtual machine.
    Vm,
    /// Pages of 4 KiB, where the plain kernel has 64 KiB.
    #[value(name = "4k")]
    Pages4k,
}

/// A machine of powerpc, by its processor and how that finds its page tables.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Radix.
    Power9,
    /// Radix; a newer processor.
    Power10,
    /// The hash table, although the processor has radix.
    #[value(name = "power9-hash")]
    Power9Hash,
    /// The hash table; it has nothing else.
    Power8,
}

/// A release of Debian that the README names.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    #[value(name = "12")]
    Bookworm,
    #[value(name = "13")]
    Trixie,
}

impl Release {
    pub fn number(self) -> u32 {
        match self {
            Release::Bookworm => 12,
            Release::Trixie => 13,
        }
    }

    pub fn codename(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }
}
