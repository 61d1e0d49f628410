// SPDX-License-Identifier: GPL-2.0

//! Runs other programs: output to a log, a limit on the time, a useful message on failure.

use crate::ctx::Ctx;
use anyhow::{bail, Context, Result};
use duct::{Expression, ReaderHandle};
use indicatif::ProgressBar;
use rustix::process::{kill_process, set_parent_process_death_signal, Pid, Signal};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt;
use std::process::ExitStatus;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::{Duration, Instant};

pub const MINUTE: Duration = Duration::from_secs(60);

/// How a program ended.
pub enum End {
    Exit(ExitStatus),
    /// The caller had seen enough.
    Stopped,
    /// It took longer than it may.
    Late,
    /// It printed nothing for longer than it may.
    Silent,
}

pub struct Limits {
    pub total: Duration,
    pub silence: Option<Duration>,
}

/// Runs a program and hands each line that it prints to `line`, which may stop it.
pub fn stream(
    what: &Expression,
    limits: &Limits,
    mut line: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<End> {
    let what = what.before_spawn(|command| {
        // SAFETY: One system call, which allocates nothing and takes no lock.
        unsafe { command.pre_exec(end_with_xtask) };
        Ok(())
    });
    let handle = what.stderr_to_stdout().unchecked().reader()?;
    let (tick, ticks) = channel();
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| {
            let ticks = ticks;
            let end = Instant::now() + limits.total;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let wait = limits.silence.map_or(left, |silence| silence.min(left));
                match ticks.recv_timeout(wait) {
                    Ok(()) if !left.is_zero() => {}
                    Err(RecvTimeoutError::Disconnected) => return None,
                    _ => {
                        stop(&handle);
                        return Some(if wait < left { End::Silent } else { End::Late });
                    }
                }
            }
        });
        let mut reader = BufReader::new(&handle);
        let mut bytes = Vec::new();
        let mut stopped = false;
        loop {
            bytes.clear();
            match reader.read_until(b'\n', &mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return Err(e).context("reading a program's output"),
            }
            let _ = tick.send(());
            let text = String::from_utf8_lossy(&bytes);
            if !stopped && line(text.trim_end_matches(['\n', '\r'])).is_break() {
                stopped = true;
                stop(&handle);
            }
        }
        drop(tick);
        if let Ok(Some(end)) = watchdog.join() {
            return Ok(end);
        }
        if stopped {
            return Ok(End::Stopped);
        }
        Ok(End::Exit(handle.try_wait()?.context("a program that ended has no status")?.status))
    })
}

/// Who kills xtask is not to be left with a machine that runs on.
fn end_with_xtask() -> std::io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// Asks a program to end; it ends its children. Three seconds later there is no asking.
fn stop(handle: &ReaderHandle) {
    for pid in handle.pids() {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    for _ in 0..30 {
        if matches!(handle.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = handle.kill();
}

/// A program whose output goes to a log.
pub struct Job<'a> {
    pub ctx: &'a Ctx,
    /// Names the log.
    pub name: &'a str,
    pub what: Expression,
    pub limit: Duration,
    /// What to do where it fails.
    pub hint: &'a str,
}

impl Job<'_> {
    pub fn run(self) -> Result<()> {
        let bar = self.ctx.ui.bar(None, "{elapsed} {wide_msg}");
        let name = self.name.to_string();
        bar.set_message(name);
        self.run_with(&bar, |_| ()).map(drop)
    }

    /// Runs it with a bar that counts lines; returns how many there were.
    pub fn run_with(self, bar: &ProgressBar, mut each: impl FnMut(&str)) -> Result<u64> {
        let path = self.ctx.log(self.name);
        let mut log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut last = VecDeque::new();
        let mut lines = 0;
        let limits = Limits { total: self.limit, silence: None };
        let end = stream(&self.what, &limits, |line| {
            lines += 1;
            bar.inc(1);
            let _ = writeln!(log, "{line}");
            if self.ctx.ui.verbose {
                println!("{line}");
            }
            each(line);
            if last.len() == 25 {
                last.pop_front();
            }
            last.push_back(line.to_string());
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        let why = match end.with_context(|| format!("cannot run {}", self.name))? {
            End::Exit(status) if status.success() => return Ok(lines),
            End::Exit(status) => status.to_string(),
            _ => format!("took longer than {} minutes", self.limit.as_secs() / 60),
        };
        let errors: Vec<_> = last.iter().map(|l| format!("    {l}")).collect();
        bail!(
            "{} failed ({why})\n{}\n  log: {}\n  what to do: {}",
            self.name,
            errors.join("\n"),
            path.display(),
            self.hint
        );
    }
}

/// The output of a short program.
pub fn output(program: &str, args: &[&str]) -> Result<String> {
    duct::cmd(program, args)
        .stderr_null()
        .stdin_null()
        .read()
        .with_context(|| format!("cannot run {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(script: &str, total: u64, silence: Option<u64>, stop_at: &str) -> End {
        let limits =
            Limits { total: Duration::from_millis(total), silence: silence.map(Duration::from_millis) };
        let seen =
            |line: &str| if line == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        stream(&duct::cmd!("sh", "-c", script), &limits, seen).expect("sh runs")
    }

    #[test]
    fn nothing_waits_for_ever() {
        assert!(matches!(end_of("echo a; exec sleep 60", 60_000, Some(200), ""), End::Silent));
        assert!(matches!(end_of("exec sleep 60", 200, None, ""), End::Late));
        assert!(matches!(end_of("echo a; exec sleep 60", 60_000, None, "a"), End::Stopped));
        assert!(matches!(end_of("echo a; exit 3", 60_000, None, ""), End::Exit(s) if s.code() == Some(3)));
    }
}
