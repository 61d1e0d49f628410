// SPDX-License-Identifier: GPL-2.0

//! QEMU's command line, and whether this machine's KVM is one that works.

use crate::cli::{self, Arch};
use crate::ctx::Ctx;
use crate::run::{stream, End, Limits};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// What executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Tcg,
    /// TCG with a clock that counts instructions: one processor at a time, a nanosecond for each.
    Icount,
}

impl Accel {
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG",
            Accel::Icount => "TCG counting instructions",
        }
    }

    fn arguments(self, arch: Arch) -> &'static [&'static str] {
        match self {
            Accel::Kvm => &["-accel", "kvm"],
            // The QEMU of Debian 12 does not wait until what a processor of powerpc flushes from the
            // TLB is gone from that of another, which writes to pages meanwhile. They take turns.
            Accel::Tcg if arch == Arch::Powerpc => &["-accel", "tcg,thread=single"],
            Accel::Tcg => &["-accel", "tcg,thread=multi"],
            Accel::Icount => &["-accel", "tcg,thread=single", "-icount", "shift=0,align=off,sleep=off"],
        }
    }
}

/// What to boot.
pub struct Machine<'a> {
    pub image: &'a Path,
    pub initramfs: &'a Path,
    /// Added to the kernel's command line.
    pub words: String,
    pub accel: Accel,
    pub processors: u32,
    /// QEMU's options for what else is in it.
    pub devices: &'a [String],
    /// The serial line is the terminal, for a person.
    pub terminal: bool,
}

/// What an architecture adds: for QEMU, and for the kernel's command line.
struct Platform {
    options: Vec<String>,
    words: Vec<&'static str>,
}

/// A PC.
fn x86(accel: Accel) -> Platform {
    let mut words = vec!["console=ttyS0,115200"];
    if accel == Accel::Icount {
        // The kernel does not trust this clock of several processors by itself, and jiffies are
        // too coarse. QEMU's is one clock.
        words.push("tsc=reliable");
    }
    // Five levels of page tables cost TCG time and show nothing.
    let cpu = if accel == Accel::Kvm { "host" } else { "max,la57=off" };
    Platform { options: vec!["-cpu".into(), cpu.into()], words }
}

/// A partition of a POWER server, with two nodes, between which pages can migrate. TCG has no protection
/// against the leaks of real processors.
fn pseries(machine: cli::Machine) -> Platform {
    use cli::Machine::{Power10, Power8, Power9, Power9Hash};

    let mut kind = "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken".to_string();
    let mut words = vec!["console=hvc0"];
    let cpu = match machine {
        Power8 => "power8",
        Power9 | Power9Hash => "power9",
        Power10 => "power10",
    };
    if let Power8 | Power9Hash = machine {
        // Huge pages, of which QEMU tells no guest by itself.
        kind += ",cap-hpt-max-page-size=16m";
    }
    if let Power9Hash = machine {
        words.push("disable_radix");
    }
    let mut options = vec!["-M".into(), kind, "-cpu".into(), cpu.into()];
    for node in 0..2 {
        options.push("-object".into());
        options.push(format!("memory-backend-ram,id=ram{node},size=2G"));
        options.push("-numa".into());
        options.push(format!("node,nodeid={node},memdev=ram{node},cpus={node}"));
    }
    Platform { options, words }
}

impl Machine<'_> {
    pub fn command(&self, ctx: &Ctx) -> duct::Expression {
        let platform = match ctx.arch {
            Arch::X86_64 => x86(self.accel),
            Arch::Powerpc => pseries(ctx.machine.unwrap_or(cli::Machine::Power9)),
        };
        let append = format!("panic=-1 oops=panic {} {}", platform.words.join(" "), self.words);
        let mut args: Vec<String> =
            ["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-m", "4G", "-append"]
                .map(String::from)
                .to_vec();
        args.push(append);
        // Without ACPI a PC's kernel learns of processors from the BIOS's table, which has one per socket.
        args.extend(["-smp".into(), format!("{0},sockets={0},cores=1", self.processors)]);
        args.extend(self.accel.arguments(ctx.arch).iter().map(|a| a.to_string()));
        args.extend(platform.options);
        args.extend(self.devices.iter().cloned());
        for (option, path) in [("-kernel", self.image), ("-initrd", self.initramfs)] {
            args.extend([option.to_string(), path.display().to_string()]);
        }
        args.extend(["-serial".into(), if self.terminal { "mon:stdio".into() } else { "stdio".into() }]);
        duct::cmd(ctx.arch.qemu(), args)
    }
}

/// KVM where it boots a guest, else TCG.
pub fn accel(ctx: &Ctx, image: &Path, initramfs: &Path) -> Accel {
    match kvm_works(ctx, image, initramfs) {
        true => Accel::Kvm,
        false => Accel::Tcg,
    }
}

/// Whether KVM boots a guest. A /dev/kvm may be there and hang every one, so: try.
fn kvm_works(ctx: &Ctx, image: &Path, initramfs: &Path) -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = flags.split_whitespace().any(|f| f == "vmx" || f == "svm");
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !able || !open || ctx.arch != Arch::X86_64 {
        return false;
    }
    let words = "userfault.run=probe".into();
    let (accel, processors) = (Accel::Kvm, 2);
    let machine = Machine { image, initramfs, words, accel, processors, devices: &[], terminal: false };
    let limits = Limits { total: Duration::from_secs(30), silence: None };
    let mut done = false;
    let end = stream(&machine.command(ctx).stdin_null(), &limits, |line| {
        done |= line.starts_with("userfault: done");
        ControlFlow::Continue(())
    });
    done && matches!(end, Ok(End::Exit(_)))
}
