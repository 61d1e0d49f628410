// SPDX-License-Identifier: GPL-2.0

//! A fuzzer: processes whose threads make calls at random, ours and those around them, on the same
//! few MiB of memory, while a watchdog looks after them.
//!
//! What a process draws begins with the seed and its number; what calls return, and when, decides
//! on the rest.  It ends after so many calls, or when all its threads wait for somebody to fill a
//! hole: then it is killed, and has to die of that.
//! Prints a line for each call, `fuzz|call|NAME|MADE|GOOD`, and for each address of code that the
//! kernel has come to, `fuzz|pc|ADDRESS`.

use crate::cgroup::Cgroup;
use crate::fuzz_cover::Cover;
use crate::fuzz_kernel::RING;
use crate::fuzz_memory::fresh;
use crate::fuzz_process::reap;
use crate::fuzz_shared::{Place, Shared, THREADS, TRACED};
use crate::fuzz_thread::{self as places, Thread};
use crate::harness::Outcome;
use crate::knobs::{set_ksm, set_thp, Knobs};
use crate::madvise_process::pidfd;
use crate::runner::{taint, warned_since};
use crate::special::memfd;
use crate::sys::{page, pmd};
use crate::touch;
use anyhow::{bail, Context};
use io_uring::IoUring;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{kill, killpg, SigSet, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, getpgid, gettid, pipe2, setpgid, ForkResult, Pid};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What is asked for.
pub struct Options {
    pub time: Duration,
    pub seed: u64,
    pub processes: usize,
    /// The number of the first process.
    pub first: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(20);
/// How long a process may make no call before it is interrupted, and before it is killed.
const QUIET: Duration = Duration::from_millis(300);
const STALLED: Duration = Duration::from_millis(1500);
/// How long it may take to come to its first call.
const BIRTH: Duration = Duration::from_secs(20);
/// How long it may take to die.
const DEATH: Duration = Duration::from_secs(60);
/// How many steps a thread makes at least, and how many more at most.
const STEPS: (usize, usize) = (50, 2000);

/// A process, as the watchdog sees it.
struct Process {
    place: &'static Place,
    covers: &'static [Cover],
    cgroup: Cgroup,
    pid: Pid,
    /// How many calls it had made, and when that was.
    progress: (usize, Instant),
    /// When it was killed, or was seen to have ended.
    over: Option<Instant>,
}

/// Runs it.  Fails for whatever the kernel does wrong, as far as a program can see.
pub fn run(options: &Options) -> Outcome {
    let knobs = Knobs::read();
    let result = prepare().and_then(|()| watch(options));
    // First: KSM gives its pages back only when it gets the locks of all, of one that hangs too.
    if let Err(error) = &result {
        println!("# {error:#}");
    }
    knobs.restore();
    result
}

/// Lets all that the kernel does in the background be done often.
fn prepare() -> Outcome {
    set_thp("enabled", "madvise")?;
    set_thp("hugepages-64kB/enabled", "always")?;
    for name in ["scan_sleep_millisecs", "alloc_sleep_millisecs"] {
        set_thp(&format!("khugepaged/{name}"), 50)?;
    }
    set_ksm("sleep_millisecs", 20)?;
    set_ksm("use_zero_pages", 1)?;
    set_ksm("run", 1)
}

fn watch(options: &Options) -> Outcome {
    // Before there is a process that could be interrupted.
    touch::install();
    touch::give_up_on(Signal::SIGUSR1);
    // Children of those that are killed become ours, so that none is lost.
    prctl::set_child_subreaper(true)?;
    let (shared, taint, end) = (Shared::new()?, taint()?, Instant::now() + options.time);
    let (mut number, mut killed, mut told) = (options.first, 0, Instant::now());
    let mut processes = Vec::new();
    for place in shared.places.iter().take(options.processes) {
        let covers: Option<Vec<_>> = (0..TRACED)
            .map(|_| Cover::new())
            .collect::<anyhow::Result<_>>()?;
        let covers = covers.unwrap_or_default().leak();
        let mut process = Process {
            place,
            covers,
            cgroup: Cgroup::named(&format!("userfault-fuzz-{number}"))?,
            pid: Pid::from_raw(0),
            progress: (0, Instant::now()),
            over: None,
        };
        process.start(shared, options.seed, number)?;
        number += 1;
        processes.push(process);
    }

    while !processes.is_empty() {
        std::thread::sleep(TICK);
        let is_over = Instant::now() > end;
        let mut left = Vec::new();
        for mut process in processes {
            let gone = process.look(is_over, &mut killed);
            let gone = gone.inspect_err(|_| print!("{}", report(shared, options.seed)))?;
            if !gone {
                left.push(process);
                continue;
            }
            process.covers.iter().for_each(|cover| cover.drain(shared));
            if !is_over {
                process.start(shared, options.seed, number)?;
                number += 1;
                left.push(process);
            }
        }
        processes = left;
        if told.elapsed() > MINUTE {
            told = Instant::now();
            let made: u64 = shared.counts().map(|(_, made, _)| made).sum();
            println!("# {made} calls of {} processes", number - options.first);
        }
        if warned_since(taint)? {
            print!("{}", report(shared, options.seed));
            bail!("the kernel warned");
        }
    }

    for (name, made, good) in shared.counts() {
        println!("fuzz|call|{name}|{made}|{good}");
    }
    for counter in shared.counters()? {
        println!("fuzz|pc|{counter:x}");
    }
    let processes = number - options.first;
    println!("fuzz|end|{}|{processes}|{killed}", options.seed);
    Ok(())
}

impl Process {
    /// Begins it, or another one in its place.
    fn start(&mut self, shared: &'static Shared, seed: u64, number: u64) -> Outcome {
        self.place.begin(number);
        // SAFETY: This process has one thread only, so that the child may do anything.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => self.pid = child,
            ForkResult::Child => {
                if let Err(error) = live(self, shared, seed) {
                    println!("# process {number}: {error:#}");
                    // SAFETY: It ends the process; no destructor of the parent's may run here.
                    unsafe { libc::_exit(1) }
                }
                // SAFETY: As above.
                unsafe { libc::_exit(0) }
            }
        }
        // Both sides do it, so that it is done whoever comes first.
        let _ = setpgid(self.pid, self.pid);
        self.progress = (0, Instant::now());
        self.over = None;
        Ok(())
    }

    /// Sees how it is.  Returns whether it is gone, with all that it has made.
    fn look(&mut self, is_over: bool, killed: &mut usize) -> anyhow::Result<bool> {
        if let Some(since) = self.over {
            let _ = killpg(self.pid, Signal::SIGKILL);
            // Its own end was seen before, or is seen here.
            let group = Pid::from_raw(-self.pid.as_raw());
            loop {
                match waitpid(group, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) if since.elapsed() < DEATH => return Ok(false),
                    Ok(WaitStatus::StillAlive) => {
                        bail!("it does not die of SIGKILL:\n{}", stacks(self.pid))
                    }
                    Ok(_) => (),
                    Err(Errno::ECHILD) => return Ok(true),
                    Err(error) => bail!("waitpid: {error}"),
                }
            }
        }
        let (made, now) = (self.place.progress(), Instant::now());
        if made != self.progress.0 {
            self.progress = (made, now);
        }
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).context("waitpid")? {
            WaitStatus::StillAlive => {
                let quiet = now - self.progress.1;
                let limit = if made == 0 { BIRTH } else { STALLED };
                if is_over || quiet > limit {
                    let _ = killpg(self.pid, Signal::SIGKILL);
                    self.over = Some(now);
                    *killed += 1;
                } else if quiet > QUIET {
                    let _ = kill(self.pid, Signal::SIGUSR1);
                }
            }
            // The kernel may have killed it for want of memory.
            WaitStatus::Exited(_, 0) | WaitStatus::Signaled(_, Signal::SIGKILL, _) => {
                self.over = Some(now);
            }
            status => bail!(
                "process {} ended: {status:?}",
                self.place.number.load(Relaxed)
            ),
        }
        Ok(false)
    }
}

/// The last calls of every thread, to be read by a person.
fn report(shared: &Shared, seed: u64) -> String {
    let mut text = format!("# seed {seed}\n");
    for place in shared
        .places
        .iter()
        .filter(|place| place.pid.load(Relaxed) != 0)
    {
        let number = place.number.load(Relaxed);
        for (index, ring) in place.rings.iter().enumerate() {
            text += &format!("# process {number}, thread {index}:\n");
            for line in ring.last() {
                text += &format!("#   {line}\n");
            }
        }
    }
    text
}

/// Where in the kernel all tasks of a group of processes are.
fn stacks(group: Pid) -> String {
    let mut text = String::new();
    let tasks = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |name: std::ffi::OsString| name.to_str()?.parse::<i32>().ok();
    for process in tasks("/proc".into()) {
        let pid = number(process.file_name()).map(Pid::from_raw);
        if pid.is_none_or(|pid| getpgid(Some(pid)) != Ok(group)) {
            continue;
        }
        for task in tasks(process.path().join("task")) {
            let stack = fs::read_to_string(task.path().join("stack")).unwrap_or_default();
            text += &format!("# {}:\n", task.path().display());
            stack
                .lines()
                .for_each(|line| text += &format!("#   {line}\n"));
        }
    }
    text
}

/// What a process does.
fn live(process: &Process, shared: &'static Shared, seed: u64) -> Outcome {
    let place = process.place;
    let pid = std::process::id() as i32;
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).context("setpgid")?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    prctl::set_thp_disable(place.has_small_folios()).context("PR_SET_THP_DISABLE")?;
    for (name, value) in [
        ("memory.high", "max"),
        ("memory.max", "max"),
        ("cgroup.procs", "0"),
    ] {
        process.cgroup.set(name, value)?;
    }
    open_all(&process.cgroup)?;
    let mut aio = 0usize;
    // SAFETY: There is room for the number of a context.
    Errno::result(unsafe { libc::syscall(libc::SYS_io_setup, 8, &raw mut aio) })?;
    place.aio.store(aio, Relaxed);
    place.pid.store(pid, Relaxed);

    let covers = process.covers;
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            std::thread::spawn(move || {
                place.threads[index].store(gettid().as_raw(), Relaxed);
                let name = format!("fuzz {} {index}\0", place.number.load(Relaxed));
                // SAFETY: A valid string.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                let mut thread = Thread::new(seed, shared, place, covers, index);
                thread.trace();
                fresh(&mut thread);
                for _ in 0..STEPS.0 + thread.below(STEPS.1) {
                    thread.step();
                }
                reap(&mut thread);
            })
        })
        .collect();
    // A signal to the process is for a thread that waits for something.
    SigSet::all().thread_block().context("sigprocmask")?;
    for thread in threads {
        thread.join().ok().context("a thread has panicked")?;
    }
    Ok(())
}

/// Opens all that calls are about, each where it is looked for.
fn open_all(cgroup: &Cgroup) -> Outcome {
    const BOTH: i32 = libc::O_RDWR;
    const WRITE: i32 = libc::O_WRONLY;
    for (path, flags, at) in [
        (Path::new("/proc/self/mem"), BOTH, places::MEM),
        (
            Path::new("/proc/self/pagemap"),
            libc::O_RDONLY,
            places::PAGEMAP,
        ),
        (
            Path::new("/proc/self/clear_refs"),
            WRITE,
            places::CLEAR_REFS,
        ),
        (
            Path::new("/proc/sys/vm/compact_memory"),
            WRITE,
            places::COMPACT,
        ),
        (Path::new("/dev/ram1"), BOTH | libc::O_DIRECT, places::DISK),
        (
            Path::new("/dev/userfaultfd"),
            BOTH,
            places::USERFAULTFD_DEVICE,
        ),
        (Path::new("/sys/kernel/debug/gup_test"), BOTH, places::PINS),
        (Path::new("/dev/hmm_dmirror0"), BOTH, places::HMM),
        (
            &cgroup.file("memory.reclaim"),
            WRITE,
            places::CGROUP_RECLAIM,
        ),
        (&cgroup.file("memory.high"), WRITE, places::CGROUP_HIGH),
        (&cgroup.file("memory.max"), WRITE, places::CGROUP_MAX),
    ] {
        let file = fs::File::options()
            .read(flags & libc::O_ACCMODE != WRITE)
            .write(flags & libc::O_ACCMODE != libc::O_RDONLY)
            .custom_flags(flags & libc::O_DIRECT)
            .open(path);
        keep(file.with_context(|| path.display().to_string())?, at)?;
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context("pipe")?;
    keep(reader, places::PIPE_OUT)?;
    keep(writer, places::PIPE_IN)?;
    keep(memfd(2 * pmd() / page())?, places::MEMFD)?;
    keep(epoll()?, places::EPOLL)?;
    keep(pidfd(Pid::this())?, places::SELF)?;
    *RING.lock().expect("no other thread is there") = Some(IoUring::new(8).context("io_uring")?);
    Ok(())
}

fn epoll() -> anyhow::Result<OwnedFd> {
    // SAFETY: It makes a new descriptor only.
    let fd = Errno::result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
    // SAFETY: Nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.context("epoll_create1")?) })
}

/// Gives a descriptor the number that it is to have.
fn keep(fd: impl AsRawFd, at: usize) -> Outcome {
    // SAFETY: Nobody has this number yet.
    let done = unsafe { libc::dup3(fd.as_raw_fd(), at as i32, libc::O_CLOEXEC) };
    Errno::result(done).map(drop).context("dup3")
}
