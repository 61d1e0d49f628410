// SPDX-License-Identifier: GPL-2.0

//! `make check-deb`: the packages of `make deb`, installed into new Debians that boot with them.
//!
//! The least of a Debian with systemd, see root.rs, gets the packages by apt, whose hooks make the
//! initrd, and its own compiler builds the test program with their headers. It becomes a disk of a
//! virtual machine, which is started with the kernel and the initrd out of its /boot, without a boot
//! loader. What is seen in there is what guest/debian.sh asks.

use crate::check::Report;
use crate::cli::Config;
use crate::console::Line;
use crate::ctx::Ctx;
use crate::deb::{self, Packages};
use crate::deps::{self, Sign};
use crate::guest;
use crate::initramfs;
use crate::qemu;
use crate::root::{self, Root, Step, UPDATE};
use crate::run::{Limits, MINUTE};
use crate::tap::{State, Tap};
use crate::util::read;
use anyhow::{bail, Context, Result};
use std::path::PathBuf;

const SCRIPT: &str = include_str!("../guest/debian.sh");

/// What a virtual machine of Debian has, a compiler, and then the packages: $release is the kernel's.
/// What apt has put aside would only make the disk larger.
const INSTALL: &str = r#"
apt-get -q -y --no-install-recommends install systemd-sysv udev dbus initramfs-tools zstd gcc libc6-dev
apt-get -q -y --no-install-recommends install /srv/packages/*.deb
test -s "/boot/initrd.img-$release"
changed=$(dpkg --verify "linux-image-$release" "linux-headers-$release" linux-libc-dev)
echo "changed: $changed"
test -z "$changed"
gcc -O2 -Wall -Wextra -Werror -pthread -o /usr/local/bin/remap_anon_pages /srv/remap_anon_pages.c
systemctl enable userfault-check.service
apt-get clean
rm -r /srv/packages /var/lib/apt/lists
"#;

/// A prompt would come into the middle of a line.
const WORDS: &str = "root=LABEL=userfault ro systemd.mask=serial-getty@ttyS0.service";

/// The other devices of the machine. Nothing is to be started from the network.
const DEVICES: &str = "-netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net,romfile= \
     -device virtio-balloon-pci -device virtio-rng-pci -device virtio-scsi-pci -device virtio-serial-pci";

pub fn run(ctx: &Ctx) -> Result<()> {
    root::prepare(ctx, "check-deb")?;
    let releases = root::releases(ctx);
    ctx.ui.plan(4 + 4 * releases.len() as u32);
    deps::need(ctx, &[(Sign::Program("mkfs.ext4"), "e2fsprogs")])?;
    let packages = deb::build(ctx)?;
    let ctx = &Ctx { config: Config::Vm, ..ctx.clone() };
    let mut report = Report::default();
    for release in releases {
        let machine = Machine { ctx, packages: &packages, root: Root::new(ctx, "deb", release) };
        machine.all(&mut report)?;
    }
    report.finish()
}

struct Machine<'a> {
    ctx: &'a Ctx,
    packages: &'a Packages,
    root: Root<'a>,
}

impl Machine<'_> {
    fn all(&self, report: &mut Report) -> Result<()> {
        let steps: [Step; 4] = [
            ("debootstrap", &|| self.root.make()),
            ("the packages, and a program with their headers", &|| self.install()),
            ("a disk", &|| self.disk()),
            ("boot", &|| self.boot()),
        ];
        self.root.steps(report, &steps)
    }

    fn install(&self) -> Result<()> {
        let Self { ctx, root, packages: Packages { release, files }, .. } = self;
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            root.write(&format!("srv/packages/{name}"), read(file)?)?;
        }
        let program = "remap_anon_pages.c";
        root.write(&format!("srv/{program}"), read(&ctx.selftests().join(program))?)?;
        root.write("usr/local/sbin/userfault-check", SCRIPT)?;
        root.write("etc/systemd/system/userfault-check.service", service(release, ctx.size))?;
        root.write("etc/fstab", "LABEL=userfault / ext4 defaults 0 1\n")?;
        let script = format!("{UPDATE}release={release}\n{INSTALL}");
        root.job("install", root.inside("root", &script), 30, |_| ())
    }

    /// The disk, a file that holds as much as it needs.
    fn image(&self) -> PathBuf {
        self.ctx.objects().join(format!("guest/debian-{}.ext4", self.root.release.number()))
    }

    fn disk(&self) -> Result<()> {
        let image = self.image();
        std::fs::create_dir_all(image.with_file_name(""))?;
        let _ = std::fs::remove_file(&image);
        let what = duct::cmd!("mkfs.ext4", "-q", "-L", "userfault", "-d", &self.root.dir, &image, "4G");
        self.root.job("disk", what, 10, |_| ())
    }

    fn boot(&self) -> Result<()> {
        let (ctx, disk) = (self.ctx, self.image());
        let Packages { release, files } = self.packages;
        let file = |name: &str| self.root.dir.join(format!("boot/{name}-{release}"));
        let (image, initramfs) = (&file("vmlinuz"), &file("initrd.img"));
        let accel = qemu::accel(ctx, image, &initramfs::pack(ctx, &ctx.objects(), "probe", &[])?);
        let share = files.first().and_then(|f| f.parent()).context("there are no packages")?;
        let devices = format!(
            "-drive if=none,id=disk,format=raw,file={} -device virtio-blk-pci,drive=disk {DEVICES} \
             -fsdev local,id=share,path={},security_model=none,readonly=on \
             -device virtio-9p-pci,fsdev=share,mount_tag=share",
            disk.display(),
            share.display()
        );
        let devices: Vec<String> = devices.split_whitespace().map(String::from).collect();
        let machine = qemu::Machine {
            image,
            initramfs,
            words: WORDS.into(),
            accel,
            processors: 2,
            devices: &devices,
            terminal: false,
        };
        let limits = Limits { total: 20 * MINUTE, silence: Some(3 * MINUTE) };
        let mut tap = Tap::default();
        let log = format!("console-deb-{}", self.root.release.number());
        let console = guest::watch(ctx, &machine, &log, &limits, |line| match line {
            Line::Program(text) if tap.line(text) || text.starts_with('#') => ctx.ui.note(text),
            _ => {}
        })?;
        let failed = tap.outcomes.iter().filter(|o| o.state != State::Passed).map(|o| o.name.clone());
        if let Some(why) = tap.complaint().or_else(|| failed.reduce(|all, one| format!("{all}; {one}"))) {
            bail!("{why}\n{}  console: {}", console.tail(), ctx.log(&log).display());
        }
        // What was switched off before all was written and unmounted is not clean.
        let mut clean = true;
        let what = duct::cmd!("e2fsck", "-f", "-n", &disk);
        self.root.job("e2fsck", what, 10, |line| clean &= !line.contains("journal"))?;
        if !clean {
            bail!("the disk was not unmounted; see {}", ctx.log(&log).display());
        }
        if !ctx.keep {
            std::fs::remove_file(disk)?;
        }
        Ok(())
    }
}

/// What systemd starts when there is nothing else to be started.
fn service(release: &str, mib: u32) -> String {
    format!(
        "[Unit]\n\
         Description=What make check-deb asks\n\
         After=multi-user.target\n\
         [Service]\n\
         Type=idle\n\
         ExecStart=/bin/sh /usr/local/sbin/userfault-check {release} {mib}\n\
         StandardOutput=tty\n\
         StandardError=tty\n\
         TTYPath=/dev/console\n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}
