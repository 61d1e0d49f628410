// SPDX-License-Identifier: GPL-2.0

//! A Debian in a folder, which debootstrap fills and chroot enters: the least that there is, and how
//! this machine reaches its mirror. Of this machine's caches and downloads it has nothing.

use crate::check::Report;
use crate::cli::Release;
use crate::ctx::Ctx;
use crate::debian::{self, Mirrors};
use crate::deps::{self, Sign};
use crate::run::{output, Job, MINUTE};
use crate::ui::clock;
use crate::util::which;
use anyhow::{bail, Context, Result};
use clap::ValueEnum;
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

/// What each begins with in it. update-ca-certificates is there only where the mirror needs it.
pub const UPDATE: &str = r#"
export DEBIAN_FRONTEND=noninteractive
if command -v update-ca-certificates; then update-ca-certificates; fi
apt-get -q update
"#;

/// Where this machine keeps the certificates that it trusts, its own ones among them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The releases that the command line asks for.
pub fn releases(ctx: &Ctx) -> Vec<Release> {
    ctx.fresh.map_or(Release::value_variants().to_vec(), |one| vec![one])
}

/// Whether this machine can make one; debootstrap is installed where it is missing.
pub fn prepare(ctx: &Ctx, command: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("debootstrap and chroot need root: run make {command} as root");
    }
    if which("apt-get").is_none() {
        bail!("the mirror is taken from apt's sources: run make {command} on a Debian machine");
    }
    deps::need(ctx, &[(Sign::Program("debootstrap"), "debootstrap")])
}

/// One step of what is done with a Debian, and what it is called in the report.
pub type Step<'a> = (&'a str, &'a dyn Fn() -> Result<()>);

pub struct Root<'a> {
    ctx: &'a Ctx,
    /// Names its logs and its folder.
    purpose: &'a str,
    pub release: Release,
    pub dir: PathBuf,
}

impl<'a> Root<'a> {
    pub fn new(ctx: &'a Ctx, purpose: &'a str, release: Release) -> Self {
        let dir = ctx.fresh_dir.join(format!("userfault-{purpose}-debian-{}", release.number()));
        Self { ctx, purpose, release, dir }
    }

    /// Every step up to the first that fails. It is removed where none did, and kept to be looked at
    /// else.
    pub fn steps(&self, report: &mut Report, steps: &[Step]) -> Result<()> {
        let debian = format!("Debian {}", self.release.number());
        let good = steps.iter().all(|(what, step)| {
            self.ctx.ui.step(&debian, what);
            let start = Instant::now();
            let result = step();
            let good = result.is_ok();
            report.add(self.ctx, &format!("{debian}: {what} ({})", clock(start.elapsed())), result);
            good
        });
        if good && !self.ctx.keep {
            return self.remove();
        }
        self.ctx.ui.note(&format!("kept: {}", self.dir.display()));
        Ok(())
    }

    /// A new root, and how this machine reaches what is outside of it.
    pub fn make(&self) -> Result<()> {
        self.remove()?;
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        let mirrors = debian::mirrors()?;
        let dir = self.dir.display().to_string();
        let keys = format!("--keyring={}", debian::KEYS);
        let codename = self.release.codename();
        let what = alone(["debootstrap", "--variant=minbase", &keys, codename, &dir, &mirrors.main]);
        self.job("debootstrap", what, 30, |_| ())?;

        self.write("etc/apt/sources.list", sources(&mirrors, codename))?;
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
        Ok(())
    }

    /// A shell in the root, with a login's environment and this machine's proxies.
    pub fn inside(&self, user: &str, script: &str) -> duct::Expression {
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
        let dir = self.dir.display().to_string();
        let enter = ["sh", "-e", "-c", ENTER, "enter", &dir, user];
        let command = ["sh", "-e", "-c", script];
        alone(enter.into_iter().chain(environment.iter().map(String::as_str)).chain(command))
    }

    pub fn job(
        &self,
        name: &str,
        what: duct::Expression,
        minutes: u32,
        each: impl FnMut(&str),
    ) -> Result<()> {
        let name = format!("{}-{}-{name}", self.purpose, self.release.number());
        let hint = format!("{} is kept; chroot to it and look", self.dir.display());
        let bar = self.ctx.ui.bar(None, "{elapsed} {wide_msg}");
        bar.set_message(name.clone());
        let job =
            Job { ctx: self.ctx, name: &name, what: what.stdin_null(), limit: minutes * MINUTE, hint: &hint };
        job.run_with(&bar, each).map(drop)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.join(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes the root. What somebody mounted in it is not ours.
    pub fn remove(&self) -> Result<()> {
        if self.dir.exists() {
            let what = duct::cmd!("rm", "-rf", "--one-file-system", &self.dir);
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

#[cfg(test)]
mod tests {
    use super::*;

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
