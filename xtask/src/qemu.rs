// SPDX-License-Identifier: GPL-2.0

//! QEMU's command line, and whether this machine's KVM is one that works.

use crate::cli::Arch;
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

    fn arguments(self) -> &'static [&'static str] {
        // Five levels of page tables cost TCG time and show nothing.
        match self {
            Accel::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Accel::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
            Accel::Icount => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,align=off,sleep=off",
                "-cpu",
                "max,la57=off",
            ],
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
    /// The serial line is the terminal, for a person.
    pub terminal: bool,
}

impl Machine<'_> {
    pub fn command(&self, ctx: &Ctx) -> duct::Expression {
        let Arch::X86_64 = ctx.arch;
        let mut append = format!("console=ttyS0,115200 panic=-1 oops=panic {}", self.words);
        if self.accel == Accel::Icount {
            // The kernel does not trust this clock of several processors by itself, and jiffies are
            // too coarse. QEMU's is one clock.
            append.push_str(" tsc=reliable");
        }
        let mut args: Vec<String> =
            ["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-m", "4G", "-append"]
                .map(String::from)
                .to_vec();
        args.push(append);
        // Without ACPI the kernel learns of processors from the BIOS's table, which has one per socket.
        args.extend(["-smp".into(), format!("{0},sockets={0},cores=1", self.processors)]);
        args.extend(self.accel.arguments().iter().map(|a| a.to_string()));
        for (option, path) in [("-kernel", self.image), ("-initrd", self.initramfs)] {
            args.extend([option.to_string(), path.display().to_string()]);
        }
        args.extend(["-serial".into(), if self.terminal { "mon:stdio".into() } else { "stdio".into() }]);
        duct::cmd("qemu-system-x86_64", args)
    }
}

/// Whether KVM boots a guest. A /dev/kvm may be there and hang every one, so: try.
pub fn kvm_works(ctx: &Ctx, image: &Path, initramfs: &Path) -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = flags.split_whitespace().any(|f| f == "vmx" || f == "svm");
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !able || !open {
        return false;
    }
    let words = "userfault.run=probe".into();
    let machine = Machine { image, initramfs, words, accel: Accel::Kvm, processors: 2, terminal: false };
    let limits = Limits { total: Duration::from_secs(30), silence: None };
    let mut done = false;
    let end = stream(&machine.command(ctx).stdin_null(), &limits, |line| {
        done |= line.starts_with("userfault: done");
        ControlFlow::Continue(())
    });
    done && matches!(end, Ok(End::Exit(_)))
}
