// SPDX-License-Identifier: GPL-2.0

//! Code that runs in a forked child, with a time limit, and reports back.

use crate::harness::{Outcome, Skip};
use anyhow::{bail, Context};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sched::{sched_setaffinity, CpuSet};
use nix::sys::signal::{kill, killpg, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, getpid, pipe2, setpgid, ForkResult, Pid};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::{JoinHandle, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its code returned `Ok`.
    Passed,
    /// Its code said that it could not be run, and why.
    Skipped(String),
    /// Its code returned another error, or panicked.
    Failed(String),
    /// A signal killed it.
    Killed(Signal),
    /// It was still there when its time was over, and was killed.
    TimedOut,
    /// It cannot even be killed.
    Stuck,
}

/// The exit code of a child that skipped, as of every kernel selftest.
const EXIT_SKIP: i32 = 4;
/// How long a child may take to die.
const REAP: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// Runs `code` in a child, in a process group of its own that is killed at the end.
pub fn run_apart(limit: Duration, code: impl FnOnce() -> Outcome) -> anyhow::Result<Ended> {
    let own = Pid::from_raw(0);
    let Running(child, reader) = Running::start(|| {
        let _ = setpgid(own, own);
        code()
    })?;
    // Both sides do it, so that it is done whoever comes first.
    let _ = setpgid(child, child);
    let ended = collect(child, reader, limit);
    let _ = killpg(child, Signal::SIGKILL);
    ended
}

/// A child of a test that runs.
pub struct Running(Pid, File);

impl Running {
    /// Starts `code` in a child.  It may start threads only if this process has none: a lock of the
    /// standard library that another thread had at the fork is never given back in the child.
    pub fn start(code: impl FnOnce() -> Outcome) -> anyhow::Result<Self> {
        let (reader, writer) = message_pipe()?;
        // SAFETY: Callers have no other threads, or `code` starts none and takes no lock that one
        // of them may have had; the child ends without unwinding.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => Ok(Self(child, reader)),
            ForkResult::Child => {
                drop(reader);
                report(writer, code)
            }
        }
    }

    /// Waits for its end.  The time limit of the test holds.
    pub fn end(self) -> anyhow::Result<Ended> {
        collect(self.0, self.1, Duration::MAX)
    }
}

/// Runs `code` in a child of a test, as [`Running::start`] does, to its end.
pub fn in_child(code: impl FnOnce() -> Outcome) -> anyhow::Result<Ended> {
    Running::start(code)?.end()
}

/// Runs `code` in a child of a test and takes over what it said.
pub fn must_pass_in_child(code: impl FnOnce() -> Outcome) -> Outcome {
    match in_child(code)? {
        Ended::Passed => Ok(()),
        Ended::Skipped(why) => Err(Skip(why).into()),
        Ended::Failed(why) => bail!("in the child: {why}"),
        ended => bail!("the child ended otherwise: {ended:?}"),
    }
}

/// Runs `code` in a child of a test, which ends then, or is killed, with what the code has returned
/// and with all its threads.
pub fn must_end<T>(by_signal: bool, code: impl FnOnce() -> anyhow::Result<T>) -> Outcome {
    let ended = in_child(|| {
        std::mem::forget(code()?);
        if by_signal {
            kill(getpid(), Signal::SIGKILL)?;
        }
        Ok(())
    })?;
    match (by_signal, ended) {
        (false, Ended::Passed) | (true, Ended::Killed(Signal::SIGKILL)) => Ok(()),
        (_, Ended::Skipped(why)) => Err(Skip(why).into()),
        (_, ended) => bail!("the child ended otherwise: {ended:?}"),
    }
}

/// Tells the reader of the log something, in a line that a process which is killed does not leave
/// unended: a result that stood behind it would be lost.
pub fn say(what: &str) {
    let _ = std::io::stderr().write_all(format!("# {what}\n").as_bytes());
}

/// Sends SIGUSR1 to a thread.
pub fn interrupt<T>(thread: &JoinHandle<T>) -> Outcome {
    // SAFETY: The thread was not joined yet.
    let error = unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
    match error {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)).context("pthread_kill"),
    }
}

/// Keeps this thread on one processor.
pub fn stay_on(cpu: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("sched_setaffinity")
}

/// A child that does nothing but hold what it has.
pub struct Holder(Pid);

impl Holder {
    /// Forks one that holds what it has inherited.
    pub fn fork() -> anyhow::Result<Self> {
        Self::after(|| Ok(()))
    }

    /// Forks one that runs `code` first, and ends if that fails.
    pub fn after(code: impl FnOnce() -> Outcome) -> anyhow::Result<Self> {
        // SAFETY: As in `in_child()`.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => Ok(Self(child)),
            ForkResult::Child => {
                if let Err(error) = code() {
                    say(&format!("in a child: {error:#}"));
                    // SAFETY: Ends the process; no destructor of the parent's may run here.
                    unsafe { libc::_exit(1) }
                }
                loop {
                    nix::unistd::pause();
                }
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.0
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

fn message_pipe() -> anyhow::Result<(File, OwnedFd)> {
    let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("pipe")?;
    Ok((File::from(reader), writer))
}

/// The child's side: run the code, send what it says, end.
fn report(writer: OwnedFd, code: impl FnOnce() -> Outcome) -> ! {
    // The message goes through the pipe instead.
    std::panic::set_hook(Box::new(|_| ()));
    let (status, message) = match catch_unwind(AssertUnwindSafe(code)) {
        Ok(Ok(())) => (0, String::new()),
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => (EXIT_SKIP, why.clone()),
            None => (1, format!("{error:#}")),
        },
        Err(panic) => (1, format!("panic: {}", panic_text(&*panic))),
    };
    let _ = File::from(writer).write_all(message.as_bytes());
    // SAFETY: Ends the process; no destructor of the parent's may run here.
    unsafe { libc::_exit(status) }
}

/// Waits for a thread and takes over what it said.
pub fn join(thread: ScopedJoinHandle<'_, Outcome>) -> Outcome {
    thread
        .join()
        .unwrap_or_else(|panic| bail!("panic: {}", panic_text(&*panic)))
}

/// What a panic, of this thread or of one that was joined, has said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

/// The parent's side: read the message and wait for the end.
fn collect(child: Pid, mut reader: File, limit: Duration) -> anyhow::Result<Ended> {
    let start = Instant::now();
    let mut message = Vec::new();
    let mut timed_out = false;
    let mut seen = Seen::Nothing;

    loop {
        if seen == Seen::End {
            std::thread::sleep(TICK);
        } else {
            seen = read_some(&mut reader, &mut message)?;
        }
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).context("waitpid")? {
            WaitStatus::StillAlive => (),
            _ if timed_out => return Ok(Ended::TimedOut),
            WaitStatus::Exited(_, status) => {
                // Whatever it wrote is in the pipe, which a child of its own may hold open.
                while read_some(&mut reader, &mut message)? == Seen::Data {}
                let text = String::from_utf8_lossy(&message).into_owned();
                return Ok(match status {
                    0 => Ended::Passed,
                    EXIT_SKIP => Ended::Skipped(text),
                    _ if text.is_empty() => Ended::Failed(format!("exit code {status}")),
                    _ => Ended::Failed(text),
                });
            }
            WaitStatus::Signaled(_, signal, _) => return Ok(Ended::Killed(signal)),
            status => bail!("waitpid: {status:?}"),
        }
        if !timed_out && start.elapsed() > limit {
            timed_out = true;
            kill(child, Signal::SIGKILL).context("kill")?;
        }
        if timed_out && start.elapsed() > limit.saturating_add(REAP) {
            return Ok(Ended::Stuck);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Seen {
    Data,
    Nothing,
    End,
}

/// Reads what comes within a tick.
fn read_some(reader: &mut File, message: &mut Vec<u8>) -> anyhow::Result<Seen> {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(TICK)?) {
        Ok(0) | Err(Errno::EINTR) => return Ok(Seen::Nothing),
        ready => ready.context("poll")?,
    };
    let mut buffer = [0; 4096];
    let count = reader.read(&mut buffer).context("read")?;
    message.extend_from_slice(&buffer[..count]);
    Ok(if count > 0 { Seen::Data } else { Seen::End })
}
