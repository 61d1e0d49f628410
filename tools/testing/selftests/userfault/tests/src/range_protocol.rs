// SPDX-License-Identifier: GPL-2.0

//! The range protocol: what is said on a descriptor, in which order, and what is refused.

use crate::harness::{Numbers, Outcome};
use crate::process::{join, must_pass_in_child};
use crate::range::{
    wait_until, Range, A_WHILE, PROTOCOL, REGISTER, SOON, UNKNOWN_PROTOCOL, UNREGISTER,
    USER_MODE_ONLY,
};
use crate::sys::{page, Area, Map, Span};
use crate::{ensure_eq, register, uffd};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::unistd::{fork, ForkResult, Pid};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::thread;

const NONE: PollFlags = PollFlags::empty();

/// A46: other flags than those that there are, are EINVAL; the descriptor is for reading and
/// writing.
fn a46_flags() -> Outcome {
    for bit in (0..31).filter(|bit| 1 << bit != USER_MODE_ONLY) {
        let known = [libc::O_NONBLOCK, libc::O_CLOEXEC].contains(&(1 << bit));
        ensure_eq!(Range::open(1 << bit).is_ok(), known, "flag {:#x}", 1 << bit);
    }
    let fd = Range::open(0)?;
    // SAFETY: It reads the flags only.
    let flags = unsafe { libc::fcntl(fd.raw(), libc::F_GETFL) };
    ensure_eq!(flags & libc::O_ACCMODE, libc::O_RDWR);
    Ok(())
}

/// A49, A50: the handshake, and what poll and read say on its way, on both kinds of descriptors.
fn a49_a50_handshake() -> Outcome {
    for flags in [0, libc::O_NONBLOCK] {
        let fd = Range::open(flags)?;
        ensure_eq!(fd.ready()?, PollFlags::POLLOUT);
        ensure_eq!(fd.read(), Err(Errno::EINVAL), "before it was asked");
        ensure_eq!(fd.ready()?, PollFlags::POLLOUT, "a failure decides nothing");
        ensure_eq!(fd.write(&[PROTOCOL]), Ok(8));
        ensure_eq!(fd.ready()?, PollFlags::POLLIN);
        ensure_eq!(fd.write(&[PROTOCOL]), Err(Errno::EINVAL), "twice");
        ensure_eq!(fd.ready()?, PollFlags::POLLIN);
        ensure_eq!(fd.read(), Ok(PROTOCOL));
        ensure_eq!(fd.ready()?, NONE);
    }
    Ok(())
}

/// A51, C1: a version that is not known is answered, as often as one is tried; nothing else is said
/// in between.
fn a51_c1_unknown_version() -> Outcome {
    let fd = Range::open(0)?;
    for version in [0, 1, 0xab, PROTOCOL << 8, PROTOCOL | 1 << 63, u64::MAX] {
        ensure_eq!(fd.write(&[version]), Ok(8));
        ensure_eq!(fd.ready()?, PollFlags::POLLIN);
        for again in [version, PROTOCOL] {
            ensure_eq!(fd.write(&[again]), Err(Errno::EINVAL), "{version:#x}");
            ensure_eq!(fd.write(&[again, 0]), Err(Errno::EINVAL), "{version:#x}");
        }
        ensure_eq!(fd.read(), Ok(UNKNOWN_PROTOCOL));
        ensure_eq!(fd.ready()?, PollFlags::POLLOUT);
        ensure_eq!(fd.read(), Err(Errno::EINVAL));
    }
    // More than is needed is as good.
    ensure_eq!(fd.write(&[PROTOCOL, 1, 2]), Ok(8));
    ensure_eq!(fd.read(), Ok(PROTOCOL));
    Ok(())
}

/// A49, A52, A61, C23: what is too short is EINVAL, whatever the state, a bad buffer EFAULT, and
/// the state stays.
fn a52_short_and_bad_buffers() -> Outcome {
    let nowhere = Map::pages(1).prot(libc::PROT_NONE).map()?;
    let (zeros, fd) = ([0u8; 8], Range::open(libc::O_NONBLOCK)?);
    let raw = fd.raw();
    // SAFETY: The kernel checks the pointer, and writes to memory that is never borrowed.
    let bad_read = || Errno::result(unsafe { libc::read(raw, nowhere.addr as *mut _, 8) });
    // SAFETY: As above.
    let bad_write = |len| Errno::result(unsafe { libc::write(raw, nowhere.addr as *const _, len) });
    let too_short = || -> Outcome {
        for len in 0..8 {
            ensure_eq!(
                nix::unistd::write(&fd, &zeros[..len]),
                Err(Errno::EINVAL),
                "{len}"
            );
            ensure_eq!(
                nix::unistd::read(&fd, &mut [0; 8][..len]),
                Err(Errno::EINVAL),
                "{len}"
            );
        }
        Ok(())
    };
    too_short()?;
    ensure_eq!(bad_write(8), Err(Errno::EFAULT));
    ensure_eq!(fd.ready()?, PollFlags::POLLOUT);
    fd.write(&[PROTOCOL])?;
    too_short()?;
    ensure_eq!(bad_read(), Err(Errno::EFAULT));
    ensure_eq!(fd.ready()?, PollFlags::POLLIN, "the answer is lost");
    ensure_eq!(fd.read(), Ok(PROTOCOL));
    too_short()?;
    for len in 8..16 {
        ensure_eq!(
            nix::unistd::write(&fd, &[0; 16][..len]),
            Err(Errno::EINVAL),
            "{len}"
        );
    }
    ensure_eq!(bad_write(16), Err(Errno::EFAULT));
    ensure_eq!(
        bad_read(),
        Err(Errno::EAGAIN),
        "nothing is there to be copied"
    );
    ensure_eq!(fd.read(), Err(Errno::EAGAIN));
    Ok(())
}

/// A61, C26, C40: every range that is none.
fn a61_bad_ranges() -> Outcome {
    let (fd, area) = (Range::new()?, Area::marked(4)?);
    let (start, end) = (area.addr as u64, area.end() as u64);
    for bits in 3..page() as u64 {
        ensure_eq!(
            fd.write(&[start | bits, end]),
            Err(Errno::EINVAL),
            "start | {bits:#x}"
        );
        ensure_eq!(
            fd.write(&[start, end | bits]),
            Err(Errno::EINVAL),
            "end | {bits:#x}"
        );
    }
    let huge = 1 << 63;
    for command in [0, REGISTER, UNREGISTER] {
        let write = |from: u64, to| fd.write(&[from | command, to]);
        ensure_eq!(write(start, start), Err(Errno::ERANGE), "empty");
        ensure_eq!(write(end, start), Err(Errno::ERANGE), "reversed");
        ensure_eq!(write(start, 0), Err(Errno::ERANGE), "to 0");
        let beyond = if command == 0 {
            Errno::ENOENT
        } else {
            Errno::ENOMEM
        };
        ensure_eq!(write(start, huge), Err(beyond), "too long");
        ensure_eq!(
            write(huge, huge + page() as u64),
            Err(beyond),
            "of the kernel"
        );
        ensure_eq!(
            write(start, !(page() as u64 - 1)),
            Err(beyond),
            "to the end"
        );
    }
    ensure_eq!(fd.wake(*area), Err(Errno::ENOENT), "nobody waits");
    Ok(())
}

/// The first operation that succeeds decides; the other dialect is EINVAL from then on.
fn a47_one_of_two_dialects() -> Outcome {
    // Ours.
    let fd = Range::open(libc::O_NONBLOCK)?;
    ensure_eq!(fd.write(&[0]), Ok(8));
    for step in 0..3 {
        ensure_eq!(uffd::say_api(&fd), Err(Errno::EINVAL), "step {step}");
        match step {
            0 => ensure_eq!(fd.read(), Ok(UNKNOWN_PROTOCOL)),
            1 => ensure_eq!(fd.write(&[PROTOCOL]), Ok(8)),
            _ => ensure_eq!(fd.read(), Ok(PROTOCOL)),
        }
    }
    let area = Area::pages(1)?;
    ensure_eq!(uffd::try_missing(&fd, *area), Err(Errno::EINVAL));
    // Mainline's.  It is for reading now.
    let fd = Range::open(libc::O_NONBLOCK)?;
    ensure_eq!(uffd::say_api(&fd), Ok(()));
    ensure_eq!(fd.write(&[PROTOCOL]), Err(Errno::EBADF));
    ensure_eq!(nix::unistd::read(&fd, &mut [0; 32]), Err(Errno::EAGAIN));
    ensure_eq!(fd.ready()?, NONE);
    // SAFETY: It reads the flags only.
    let flags = unsafe { libc::fcntl(fd.raw(), libc::F_GETFL) };
    ensure_eq!(flags & libc::O_ACCMODE, libc::O_RDONLY);
    uffd::try_missing(&fd, *area).context("mainline's registration")
}

/// C2: many threads that say and read all at once: one asks, and the handshake comes to its end.
fn c2_handshake_by_many() -> Outcome {
    for round in 0..64 {
        let fd = Range::open(libc::O_NONBLOCK)?;
        let asked: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| usize::from(fd.write(&[PROTOCOL]) == Ok(8))))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .sum()
        });
        ensure_eq!(asked, 1, "round {round}");
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| fd.read())).collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect()
        });
        for answer in &answers {
            ensure!(
                [Ok(PROTOCOL), Err(Errno::EAGAIN)].contains(answer),
                "round {round}: {answers:?}"
            );
        }
        ensure!(answers.contains(&Ok(PROTOCOL)), "round {round}: no answer");
        ensure_eq!(fd.write(&[0, page() as u64]), Err(Errno::ENOENT));
    }
    Ok(())
}

/// C24: who polls is woken by a step of the handshake that another thread takes.
fn c24_a_step_wakes_who_polls() -> Outcome {
    let fd = Range::open(0)?;
    let poll_in = || -> Outcome {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        ensure_eq!(
            poll(&mut fds, PollTimeout::try_from(SOON)?)?,
            1,
            "not woken"
        );
        Ok(())
    };
    thread::scope(|scope| {
        let poller = scope.spawn(poll_in);
        thread::sleep(A_WHILE);
        fd.write(&[PROTOCOL])?;
        join(poller)
    })
}

/// A69: fdinfo says who waits, and which protocol is spoken.
fn a69_fdinfo() -> Outcome {
    let fd = Range::new()?;
    let path = format!("/proc/self/fdinfo/{}", fd.raw());
    let text = std::fs::read_to_string(path)?;
    for line in ["pending:\t0", "total:\t0", "protocols:\taa"] {
        ensure!(text.lines().any(|l| l == line), "no {line:?} in {text}");
    }
    ensure!(!text.contains("API:"), "{text}");
    Ok(())
}

/// A74, C33: a descriptor acts on the memory of the process that made it; once that is gone, ESRCH.
fn a74_c33_outlives_its_process() -> Outcome {
    without_its_process(|fd, span, parent| {
        wait_until(|| Ok(nix::unistd::getppid() != parent))?;
        ensure_eq!(fd.register(span), Err(Errno::ESRCH));
        ensure_eq!(fd.unregister(span), Err(Errno::ESRCH));
        ensure_eq!(fd.wake(span), Err(Errno::ESRCH));
        ensure_eq!(fd.read(), Err(Errno::ESRCH));
        ensure_eq!(fd.ready()?, PollFlags::POLLHUP);
        Ok(())
    })
}

/// A74: a read that waits in another process ends with the process that made the descriptor.
fn a74_read_ends_with_the_process() -> Outcome {
    without_its_process(|fd, _, _| {
        ensure_eq!(fd.read(), Err(Errno::ESRCH));
        Ok(())
    })
}

/// A74: so does a poll.
fn a74_poll_ends_with_the_process() -> Outcome {
    without_its_process(|fd, _, _| {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        ensure_eq!(
            poll(&mut fds, PollTimeout::try_from(SOON)?)?,
            1,
            "not woken"
        );
        ensure_eq!(fds[0].revents(), Some(PollFlags::POLLHUP));
        Ok(())
    })
}

/// Runs `code` in a child of a process that makes a descriptor, and ends.
fn without_its_process(code: impl Fn(&Range, Span, Pid) -> Outcome) -> Outcome {
    let area = Area::marked(2)?;
    let (reader, writer) = nix::unistd::pipe()?;
    must_pass_in_child(|| {
        let (fd, parent) = (Range::serving(*area)?, nix::unistd::getpid());
        // SAFETY: This process has one thread; the child ends without unwinding.
        if let ForkResult::Child = unsafe { fork() }? {
            let said = code(&fd, *area, parent);
            let said = said.map_or_else(|error| format!("{error:#}"), |()| "good".into());
            let _ = nix::unistd::write(&writer, said.as_bytes());
            // SAFETY: Ends the process.
            unsafe { libc::_exit(0) };
        }
        // So long that the child waits by then.
        thread::sleep(A_WHILE);
        Ok(())
    })?;
    drop(writer);
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said)?;
    ensure_eq!(said, "good");
    Ok(())
}

/// Anything may be written and read, in any order: an errno or a size, and nothing else happens.
/// A million in four tests, each of which has the time of one.
fn any_operations(seed: u64) -> Outcome {
    const OPERATIONS: usize = 250_000;
    println!("# {OPERATIONS} operations, seed {seed:#x}");
    let mut numbers = Numbers(seed);
    let area = Area::marked(8)?;
    let around = [
        0,
        area.addr as u64,
        area.end() as u64,
        1 << 47,
        1 << 63,
        u64::MAX,
    ];
    let mut fd = Range::open(libc::O_NONBLOCK)?;
    for _ in 0..OPERATIONS {
        let mut word = || match numbers.below(4) {
            0 => PROTOCOL,
            1 => around[numbers.below(around.len())],
            _ => {
                around[1]
                    .wrapping_add((numbers.below(16) * page()) as u64)
                    .wrapping_sub((4 * page()) as u64)
                    | [0, 0, 1, 2, 3, 4][numbers.below(6)]
            }
        };
        let bytes: Vec<u8> = [word(), word(), word(), word()]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        match numbers.below(64) {
            0 => fd = Range::open(libc::O_NONBLOCK)?,
            1..32 => {
                let len = numbers.below(bytes.len() + 1);
                match nix::unistd::write(&fd, &bytes[..len]) {
                    Ok(size) => ensure!(size == 8 || size == 16, "wrote {size}"),
                    Err(
                        Errno::EINVAL
                        | Errno::ERANGE
                        | Errno::ENOENT
                        | Errno::ENOMEM
                        | Errno::EBUSY,
                    ) => {}
                    Err(error) => anyhow::bail!("write: {error}"),
                }
            }
            32..60 => match nix::unistd::read(&fd, &mut [0; 16][..numbers.below(17)]) {
                Ok(size) => ensure!(size == 8, "read {size}"),
                Err(Errno::EINVAL | Errno::EAGAIN) => {}
                Err(error) => anyhow::bail!("read: {error}"),
            },
            _ => drop(fd.ready()?),
        }
    }
    Ok(())
}

fn a61_any_operations_1() -> Outcome {
    any_operations(0x75_66)
}

fn a61_any_operations_2() -> Outcome {
    any_operations(0x66_75)
}

fn a61_any_operations_3() -> Outcome {
    any_operations(0xaa)
}

fn a61_any_operations_4() -> Outcome {
    any_operations(0x2014)
}

register!(
    a46_flags,
    a49_a50_handshake,
    a51_c1_unknown_version,
    a52_short_and_bad_buffers,
    a61_bad_ranges,
    a47_one_of_two_dialects,
    c2_handshake_by_many,
    c24_a_step_wakes_who_polls,
    a69_fdinfo,
    a74_c33_outlives_its_process,
    a74_read_ends_with_the_process,
    a74_poll_ends_with_the_process,
    a61_any_operations_1,
    a61_any_operations_2,
    a61_any_operations_3,
    a61_any_operations_4,
);
