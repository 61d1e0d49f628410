// SPDX-License-Identifier: GPL-2.0

//! Boots the kernel, runs one thing in it, and says how that went.

use crate::cli::{self, Arch};
use crate::console::{Console, Line};
use crate::ctx::Ctx;
use crate::initramfs;
use crate::qemu::{self, Accel, Machine};
use crate::run::{stream, End, Limits};
use anyhow::{bail, Context, Result};
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the guest's clock counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Time,
    /// A nanosecond for each instruction, so that every run says the same.
    Instructions,
}

/// For the kernel's command line on a PC: two nodes, between which pages can migrate, and how fast the
/// TSC is, which KVM wants to know and nothing here can measure: any value will do.
pub fn words(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "numa=fake=2 tsc_early_khz=1000000 tsc=unstable",
        Arch::Powerpc => "",
    }
}

/// What to run in the guest.
pub struct Guest<'a> {
    /// The folder of the kernel to boot.
    pub objects: &'a Path,
    /// Names the logs.
    pub name: &'a str,
    /// What goes into /bin.
    pub programs: &'a [PathBuf],
    /// One of them, and its arguments, none with a space or a comma in it.
    pub command: Vec<String>,
    /// Added to the kernel's command line.
    pub words: &'a str,
    pub clock: Clock,
    pub processors: u32,
    /// For the plain kernel; one with checkers gets three times as long.
    pub minutes: u64,
}

impl<'a> Guest<'a> {
    /// One that most are like.
    pub fn new(objects: &'a Path, name: &'a str, programs: &'a [PathBuf], command: Vec<String>) -> Self {
        Self { objects, name, programs, command, words: "", clock: Clock::Time, processors: 2, minutes: 20 }
    }

    /// Boots, gives every line to `line`, and returns the console where the guest came to its end
    /// without a complaint of the kernel.
    pub fn boot(&self, ctx: &Ctx, line: impl FnMut(Line)) -> Result<Console> {
        let initramfs = initramfs::pack(ctx, self.objects, self.name, self.programs)?;
        let image = self.objects.join(ctx.arch.image());
        let accel = match self.clock {
            Clock::Time => qemu::accel(ctx, &image, &initramfs),
            Clock::Instructions => Accel::Icount,
        };
        let mut kernel = self.objects.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(machine) = ctx.machine {
            kernel = format!("{kernel}-{}", cli::name(machine));
        }
        ctx.ui.step("boot", &format!("{} ({kernel}), {}", self.name, accel.name()));
        let words = format!("userfault.run={} {}", self.command.join(","), self.words);
        let machine = Machine {
            image: &image,
            initramfs: &initramfs,
            words,
            accel,
            processors: self.processors,
            devices: &[],
            terminal: false,
        };
        let (silence, factor) = if ctx.slow() { (480, 3) } else { (60, 1) };
        let limits = Limits {
            total: Duration::from_secs(self.minutes * 60 * factor),
            silence: Some(Duration::from_secs(silence)),
        };
        watch(ctx, &machine, &format!("console-{}-{kernel}", self.name), &limits, line)
    }
}

/// Runs a machine, gives every line of its console to `line`, and returns the console where the guest
/// came to its end without a complaint of the kernel. All of it goes to the log of this name.
pub fn watch(
    ctx: &Ctx,
    machine: &Machine,
    log: &str,
    limits: &Limits,
    mut line: impl FnMut(Line),
) -> Result<Console> {
    let path = ctx.log(log);
    let mut log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut console = Console::new();
    let end = stream(&machine.command(ctx).stdin_null(), limits, |text| {
        let _ = writeln!(log, "{text}");
        line(console.line(text));
        ControlFlow::Continue(())
    })
    .with_context(|| format!("cannot run {}; make deps installs it", ctx.arch.qemu()))?;
    for (race, times) in &console.races {
        ctx.ui.note(&format!("none of ours, {times} times: {race}"));
    }
    let log = path.display();
    let tail = console.tail();
    if !console.complaints.is_empty() {
        let lines: String = console.complaints.iter().take(60).map(|l| format!("    {l}\n")).collect();
        bail!("the kernel complained:\n{lines}  console: {log}");
    }
    let why = match end {
        End::Silent => {
            let seconds = limits.silence.map_or(0, |silence| silence.as_secs());
            format!("printed nothing for {seconds} seconds and was stopped")
        }
        End::Late => format!("took longer than {} minutes and was stopped", limits.total.as_secs() / 60),
        _ if !console.done => "ended before it had run everything".into(),
        _ if console.ended.get("kmemleak").is_some_and(|&status| status != 0) => {
            "could not look for lost memory: kmemleak has given up".into()
        }
        _ => return Ok(console),
    };
    bail!("the guest {why}; its last lines:\n{tail}  console: {log}")
}
