// SPDX-License-Identifier: GPL-2.0

//! `make check-fresh`: the README's two commands, each to its end, on new Debian machines.
//!
//! A machine is a folder that debootstrap fills, entered by chroot: the least of a Debian, how
//! this machine reaches its mirror and the registries, what a reader installs to clone and to type
//! make, and a clone of what is committed here. Of this machine's caches and downloads it has
//! nothing.

use crate::check::Report;
use crate::cli::Release;
use crate::ctx::Ctx;
use crate::debian::{self, Mirrors};
use crate::git::Git;
use crate::run::{output, Job, MINUTE};
use crate::ui::clock;
use crate::util::which;
use crate::{boot, deps};
use anyhow::{bail, Context, Result};
use regex::Regex;
use std::path::PathBuf;
use std::time::Instant;

/// Runs a command in namespaces that end with it, and it ends with us: no process and no mount
/// stays behind, whatever happens.
const ALONE: [&str; 8] =
    ["--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// Goes into the folder $1 as the user $2, with the environment and the command that follow.
/// With /dev come its mounts: pts, and shm. No exec at the end: the first process of the namespaces
/// is to end with us, and the kernel forgets that of one that changes its user.
const ENTER: &str = r#"
root=$1 user=$2
shift 2
for dir in proc sys dev; do
	mount --rbind "/$dir" "$root/$dir"
done
chroot --userspec="$user" "$root" env -i "$@" || exit
"#;

/// What the reader does before the first command. The certificates are for cargo, which git and
/// make do not bring; update-ca-certificates is there before them only where the mirror needs it.
const READER: &str = r#"
export DEBIAN_FRONTEND=noninteractive
if command -v update-ca-certificates; then update-ca-certificates; fi
apt-get -q update
apt-get -q -y --no-install-recommends install git make ca-certificates
"#;

/// Makes an ordinary user, who may become root without a password: nobody is there to type it.
const USER: &str = r#"
apt-get -q -y --no-install-recommends install sudo
useradd --create-home --shell /bin/bash reader
echo 'reader ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/reader
chown -R reader: /srv/userfault
"#;

/// Where this machine keeps the certificates that it trusts, its own ones among them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub fn run(ctx: &Ctx) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("debootstrap and chroot need root: run make check-fresh as root");
    }
    if which("apt-get").is_none() {
        bail!("the mirror is taken from apt's sources: run make check-fresh on a Debian machine");
    }
    if which("debootstrap").is_none() {
        deps::install(ctx, &["debootstrap"])?;
    }
    if !Git::new(&ctx.root).text(&["status", "--porcelain"])?.is_empty() {
        ctx.ui.note("what is not committed is not tested");
    }
    let releases = ctx.fresh.map_or(vec![Release::Bookworm, Release::Trixie], |one| vec![one]);
    ctx.ui.plan(4 * releases.len() as u32);
    let mut report = Report::default();
    for release in releases {
        let root = ctx.fresh_dir.join(format!("userfault-debian-{}", release.number()));
        let machine = Machine { ctx, release, root };
        if machine.all(&mut report) && !ctx.keep {
            machine.remove()?;
        } else {
            ctx.ui.note(&format!("kept: {}", machine.root.display()));
        }
    }
    report.finish()
}

struct Machine<'a> {
    ctx: &'a Ctx,
    release: Release,
    root: PathBuf,
}

impl Machine<'_> {
    /// Every step up to the first that fails; whether none did.
    fn all(&self, report: &mut Report) -> bool {
        type Step<'a> = (&'a str, &'a dyn Fn() -> Result<()>);
        let steps: [Step; 4] = [
            ("debootstrap", &|| self.make()),
            ("git, make, ca-certificates, a clone", &|| self.equip()),
            ("make boot", &|| self.command("boot", 60, |last| last == boot::GOOD)),
            ("make check", &|| self.command("check", 90, all_passed)),
        ];
        let debian = format!("Debian {}", self.release.number());
        steps.iter().all(|(what, step)| {
            self.ctx.ui.step(&debian, what);
            let start = Instant::now();
            let result = step();
            let good = result.is_ok();
            report.add(self.ctx, &format!("{debian}: {what} ({})", clock(start.elapsed())), result);
            good
        })
    }

    /// On one machine the reader is root, on the other a user with sudo: both are in the README.
    fn user(&self) -> &'static str {
        match self.release {
            Release::Bookworm => "root",
            Release::Trixie => "reader",
        }
    }

    /// A new root, and how this machine reaches what is outside of it.
    fn make(&self) -> Result<()> {
        self.remove()?;
        std::fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot make {}", self.root.display()))?;
        let mirrors = debian::mirrors()?;
        let root = self.root.display().to_string();
        let keys = format!("--keyring={}", debian::KEYS);
        let codename = self.release.codename();
        let what = alone(["debootstrap", "--variant=minbase", &keys, codename, &root, &mirrors.main]);
        self.job("debootstrap", what, 30, |_| ())?;

        self.write("etc/apt/sources.list", sources(&mirrors, self.release.codename()))?;
        // Proxies, time limits, what the mirror's dates and keys must be.
        let settings = output("apt-config", &["dump", "Acquire"])?;
        self.write("etc/apt/apt.conf.d/90machine", fetching(&settings))?;
        // Names that only this file knows may be those of the mirror or of a proxy.
        self.write("etc/hosts", std::fs::read("/etc/hosts").unwrap_or_default())?;
        // A proxy that opens connections signs them with a key that only this machine trusts. The
        // folder is the one that the package ca-certificates reads when it is installed, so that
        // git, cargo and apt all find it where they look by themselves.
        let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).filter(|p| p.is_file());
        if let Ok(all) = std::fs::read(given.unwrap_or(CERTIFICATES.into())) {
            self.write("usr/local/share/ca-certificates/machine.crt", all)?;
        }
        // Another registry than crates.io, if this machine has one: cargo looks for its settings in
        // every folder above the one that it runs in.
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        if let Ok(settings) = std::fs::read(home.join(".cargo/config.toml")) {
            self.write(".cargo/config.toml", settings)?;
        }
        Ok(())
    }

    /// What the reader needs to have before the first command.
    fn equip(&self) -> Result<()> {
        let clone = self.root.join("srv/userfault");
        let what = Git::new(&self.ctx.root).expression(&[
            "clone",
            "--quiet",
            "--no-hardlinks",
            ".",
            &clone.display().to_string(),
        ]);
        self.job("clone", what, 5, |_| ())?;
        let script = match self.user() {
            "root" => READER.to_string(),
            _ => format!("{READER}{USER}"),
        };
        self.job("reader", self.inside("root", &script), 15, |_| ())
    }

    /// One of the README's commands, and whether its last line is the one that it is to end with.
    fn command(&self, target: &str, minutes: u32, good: impl Fn(&str) -> bool) -> Result<()> {
        let script = format!("cd /srv/userfault\nmake {target}");
        let mut last = String::new();
        self.job(target, self.inside(self.user(), &script), minutes, |line| {
            if !line.trim().is_empty() {
                last = line.trim().to_string();
            }
        })?;
        if !good(&last) {
            bail!("make {target} ended with '{last}'");
        }
        Ok(())
    }

    /// A shell in the root, with a login's environment and this machine's proxies.
    fn inside(&self, user: &str, script: &str) -> duct::Expression {
        let (home, sbin) = match user {
            "root" => ("/root".to_string(), "/usr/local/sbin:/usr/sbin:/sbin:"),
            name => (format!("/home/{name}"), ""),
        };
        let mut environment = vec![
            format!("HOME={home}"),
            format!("USER={user}"),
            format!("PATH={sbin}/usr/local/bin:/usr/bin:/bin"),
        ];
        environment.extend(std::env::vars().filter(|(k, _)| is_proxy(k)).map(|(k, v)| format!("{k}={v}")));
        let root = self.root.display().to_string();
        let enter = ["sh", "-e", "-c", ENTER, "enter", &root, user];
        let command = ["sh", "-e", "-c", script];
        alone(enter.into_iter().chain(environment.iter().map(String::as_str)).chain(command))
    }

    fn job(&self, name: &str, what: duct::Expression, minutes: u32, each: impl FnMut(&str)) -> Result<()> {
        let name = format!("fresh-{}-{name}", self.release.number());
        let hint = format!("the machine is kept; chroot {} and look", self.root.display());
        let bar = self.ctx.ui.bar(None, "{elapsed} {wide_msg}");
        bar.set_message(name.clone());
        let job =
            Job { ctx: self.ctx, name: &name, what: what.stdin_null(), limit: minutes * MINUTE, hint: &hint };
        job.run_with(&bar, each).map(drop)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.root.join(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes the root. What somebody mounted in it is not ours.
    fn remove(&self) -> Result<()> {
        if self.root.exists() {
            let what = duct::cmd!("rm", "-rf", "--one-file-system", &self.root);
            self.job("remove", what, 10, |_| ())?;
        }
        Ok(())
    }
}

fn alone<'a>(command: impl IntoIterator<Item = &'a str>) -> duct::Expression {
    duct::cmd("setpriv", ALONE.into_iter().chain(command))
}

/// What a newly installed Debian has in its list, on this machine's mirror.
fn sources(mirrors: &Mirrors, codename: &str) -> String {
    let main = &mirrors.main;
    let mut list = format!("deb {main} {codename} main\ndeb {main} {codename}-updates main\n");
    if let Some(security) = &mirrors.security {
        list += &format!("deb {security} {codename}-security main\n");
    }
    list
}

/// How apt is to fetch, without what other packages want fetched.
fn fetching(dump: &str) -> String {
    let other = ["Acquire::IndexTargets", "Acquire::Changelogs", "Acquire::Languages"];
    let ours = dump.lines().filter(|l| !other.iter().any(|o| l.starts_with(o)));
    ours.map(|l| format!("{l}\n")).collect()
}

fn is_proxy(variable: &str) -> bool {
    variable.to_lowercase().ends_with("_proxy")
}

/// Whether a line says of some checks that none failed.
fn all_passed(line: &str) -> bool {
    Regex::new(r"^[1-9]\d* passed, 0 failed(, \d+ skipped)?$").is_ok_and(|r| r.is_match(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_good_end() {
        assert!(all_passed("53 passed, 0 failed"));
        assert!(all_passed("53 passed, 0 failed, 2 skipped"));
        for bad in ["0 passed, 0 failed", "53 passed, 1 failed", "1 failed: 5 passed, 0 failed", ""] {
            assert!(!all_passed(bad), "{bad}");
        }
    }

    #[test]
    fn lists_the_mirrors_suites() {
        let mut mirrors = Mirrors { main: "http://m/debian".into(), security: None };
        assert_eq!(
            sources(&mirrors, "x"),
            "deb http://m/debian x main\ndeb http://m/debian x-updates main\n"
        );
        mirrors.security = Some("http://m/s".into());
        assert!(sources(&mirrors, "x").ends_with("\ndeb http://m/s x-security main\n"));
    }

    #[test]
    fn takes_of_apts_settings_how_to_fetch() {
        let dump = "Acquire::http::Proxy \"http://p\";\nAcquire::IndexTargets::deb::DEP-11 \"\";\n";
        assert_eq!(fetching(dump), "Acquire::http::Proxy \"http://p\";\n");
    }

    #[test]
    fn passes_proxies_on() {
        assert!(["http_proxy", "HTTPS_PROXY", "no_proxy"].into_iter().all(is_proxy));
        assert!(!is_proxy("PROXY_PASSWORD") && !is_proxy("PATH"));
    }
}
