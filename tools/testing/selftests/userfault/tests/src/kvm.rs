// SPDX-License-Identifier: GPL-2.0

//! A virtual machine whose memory a descriptor serves: KVM, without a change to it, has the machine
//! wait for its pages.

use crate::harness::{Outcome, Skip};
use crate::proc::{ensure_holes, vmas};
use crate::process::{interrupt, must_end};
use crate::range::{resolve, wait_until, LetGo, Range, A_WHILE};
use crate::range_fault::handle_sigusr1;
use crate::security_stall::{ensure_ended, Served};
use crate::sys::{remap_all, Area, Span};
use crate::trace::Trace;
use crate::{ensure_eq, register};
use anyhow::{bail, ensure, Context};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use std::thread;

/// Reads a byte of each of so many pages from `ds:0` on and says it, then says that it is done.
const CODE: [u8; 16] = [
    0x8a,
    0x04, // next: mov al, [si]
    0xe6,
    SAYS as u8, // out SAYS, al
    0x81,
    0xc6,
    0x00,
    0x10, // add si, 4096
    0x49, // dec cx
    0x75,
    0xf5, // jnz next
    0xe6,
    IS_DONE as u8, // out IS_DONE, al
    0xf4,
    0xeb,
    0xfd, // stop: hlt; jmp stop
];
const SAYS: u16 = 0x10;
const IS_DONE: u16 = 0x11;
/// Where the machine has its code, and where the memory that is served.
const CODE_AT: u64 = 0x1000;
const DATA_AT: u64 = 0x10000;
/// As many as a segment has.
const PAGES: usize = 16;

/// How a machine waits for a page of its memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Waits {
    /// In KVM_RUN.
    Itself,
    /// It is halted, and a worker of the kernel waits: an asynchronous page fault.
    Halted,
}

const WAYS: [Waits; 2] = [Waits::Itself, Waits::Halted];

/// A machine with one processor, which is about to read the pages of `data`.
struct Machine {
    // The processor first: it is of the machine.
    cpu: VcpuFd,
    _vm: VmFd,
    _code: Area,
}

impl Machine {
    /// Makes it, or skips the test where this kernel cannot have one.
    fn new(data: Span, waits: Waits) -> anyhow::Result<Self> {
        let none = |error| Skip(format!("no virtual machine here: {error}"));
        let vm = Kvm::new().and_then(|kvm| kvm.create_vm()).map_err(none)?;
        if waits == Waits::Halted {
            // Interrupts could end a halt.
            vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        }
        let code = Area::pages(1)?;
        for (index, byte) in CODE.into_iter().enumerate() {
            Span::new(code.addr + index, 1).store(byte).ok();
        }
        for (slot, at, memory) in [(0, CODE_AT, *code), (1, DATA_AT, data)] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: at,
                memory_size: memory.len as u64,
                userspace_addr: memory.addr as u64,
            };
            // SAFETY: The memory is never borrowed, and lives longer.
            unsafe { vm.set_user_memory_region(region) }.context("memory")?;
        }
        let cpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        let mut segments = cpu.get_sregs()?;
        segments.cs.base = 0;
        segments.cs.selector = 0;
        segments.ds.base = DATA_AT;
        segments.ds.selector = (DATA_AT >> 4) as u16;
        cpu.set_sregs(&segments)?;
        let mut registers = cpu.get_regs()?;
        registers.rip = CODE_AT;
        registers.rsi = 0;
        registers.rcx = PAGES as u64;
        // Bit 1 is always set; interrupts are on.
        registers.rflags = 0x202;
        cpu.set_regs(&registers)?;
        Ok(Self {
            cpu,
            _vm: vm,
            _code: code,
        })
    }

    /// Lets it run until it says something: `None` when it is done.
    fn next(&mut self) -> anyhow::Result<Result<Option<u8>, Errno>> {
        match self.cpu.run() {
            Ok(VcpuExit::IoOut(SAYS, said)) => Ok(Ok(Some(said[0]))),
            Ok(VcpuExit::IoOut(IS_DONE, _)) => Ok(Ok(None)),
            Ok(other) => bail!("the machine stopped otherwise: {other:?}"),
            Err(error) => Ok(Err(Errno::from_raw(error.errno()))),
        }
    }

    /// Lets it run to its end. Returns what it has said.
    fn run(mut self) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(said) = self.next()?.context("KVM_RUN")? {
            all.push(said);
        }
        Ok(all)
    }
}

/// A83: a machine reads pages that come one after the other, and sees them; where it can be halted
/// KVM does not wait itself, and nothing is told of its first look.
fn a83_machine_waits_for_pages() -> Outcome {
    for waits in WAYS {
        let (data, src) = (Area::pages(PAGES)?, Area::filled(PAGES, 1)?);
        let machine = Machine::new(*data, waits)?;
        let trace = Trace::of(&["kvm/kvm_try_async_get_page"])?;
        let fd = Range::serving(*data)?;
        let want: Vec<u8> = src.each_page().map(|part| part.bytes()[0]).collect();
        let said = thread::scope(|scope| -> anyhow::Result<_> {
            let _end = LetGo::at_the_end(*data);
            let thread = scope.spawn(|| machine.run());
            for (hole, from) in data.each_page().zip(src.each_page()) {
                ensure_eq!(fd.fault()?, hole.addr, "{waits:?}");
                ensure_eq!(fd.counts()?, (0, 1), "told twice");
                resolve(hole, from)?;
            }
            thread.join().expect("no panic")
        })?;
        ensure_eq!(said, want, "{waits:?}");
        let halted = trace.lines(&["kvm_try_async_get_page"])?.len();
        match waits {
            Waits::Itself => ensure_eq!(halted, 0),
            Waits::Halted => ensure_eq!(halted, PAGES),
        }
        data.check_pages(1)?;
    }
    Ok(())
}

/// A83: a handler that goes away while a machine waits: the machine sees nothing. KVM_RUN says
/// EFAULT; a machine that can be halted is, again and again, until a signal stops it, since KVM
/// takes any failure that comes without a wait for one of which a wait is the cure.
fn a83_handler_goes_away() -> Outcome {
    handle_sigusr1()?;
    for waits in WAYS {
        let (data, src) = (Area::pages(PAGES)?, Area::filled(1, 1)?);
        let mut machine = Machine::new(*data, waits)?;
        let fd = Range::serving(*data)?;
        let thread = thread::spawn(move || (machine.next(), machine));
        ensure_eq!(fd.fault()?, data.addr);
        drop(fd);
        if waits == Waits::Halted {
            thread::sleep(A_WHILE);
            ensure!(!thread.is_finished(), "it has seen something");
            interrupt(&thread)?;
        }
        let (said, mut machine) = thread.join().expect("no panic");
        let want = match waits {
            Waits::Itself => Errno::EFAULT,
            Waits::Halted => Errno::EINTR,
        };
        ensure_eq!(said?, Err(want), "{waits:?}");
        ensure_holes(*data)?;
        // With the page there it goes on.
        let byte = src.bytes()[0];
        remap_all(data.page(0), *src)?;
        ensure_eq!(machine.next()?, Ok(Some(byte)), "{waits:?}");
    }
    Ok(())
}

/// A71: a process ends although a machine of its waits for a page.
fn a71_machine_and_the_end() -> Outcome {
    for waits in WAYS {
        for by_signal in [false, true] {
            must_end(by_signal, || {
                let data = Area::pages(PAGES)?;
                let machine = Machine::new(*data, waits)?;
                let fd = Range::serving(*data)?;
                thread::spawn(move || machine.run());
                fd.wait_for(1)?;
                Ok((data, fd))
            })?;
        }
    }
    Ok(())
}

/// Unmaps what KVM shares of a processor with the program, which has no need of it while that runs:
/// then nothing but the descriptors keep the machine.
fn unmap_processor() -> Outcome {
    let mut all = vmas()?;
    all.retain(|vma| vma.name.contains("kvm-vcpu"));
    ensure!(!all.is_empty(), "no processor is mapped");
    all.iter()
        .try_for_each(|vma| vma.span.unmap())
        .context("munmap")
}

/// A71: a process that is killed ends although a machine of its waits for a page, and its memory
/// goes with it: also where another process has the descriptor, or it is closed after the machine.
fn a71_machine_is_killed() -> Outcome {
    for (waits, elsewhere, unmapped) in [
        (Waits::Itself, true, false),
        (Waits::Halted, true, false),
        (Waits::Halted, true, true),
        (Waits::Halted, false, true),
    ] {
        let data = Area::pages(PAGES)?;
        // Says whether there can be one.
        drop(Machine::new(*data, waits)?);
        let target = Served::fork(0, *data, || {
            let machine = Machine::new(*data, waits)?;
            thread::spawn(move || machine.run());
            thread::sleep(A_WHILE);
            match unmapped {
                true => unmap_processor(),
                false => Ok(()),
            }
        })?;
        target.wait_for(1)?;
        thread::sleep(2 * A_WHILE);
        let copy = elsewhere.then(|| target.copy()).transpose()?;
        kill(target.pid(), Signal::SIGKILL)?;
        let last = data.page(PAGES - 1);
        let gone = |copy: &Range| wait_until(|| Ok(copy.wake(last) == Err(Errno::ESRCH)));
        let gone = ensure_ended(target.pid()).and_then(|()| {
            copy.as_ref()
                .map_or(Ok(()), gone)
                .context("its memory is held")
        });
        // What could not end can now.
        drop(copy);
        gone.with_context(|| format!("{waits:?}, elsewhere: {elsewhere}, unmapped: {unmapped}"))?;
    }
    Ok(())
}

/// A71: a signal ends KVM_RUN while it waits for a page, so that a machine can be stopped; then it
/// goes on where it was.
fn a71_signal_stops_a_machine() -> Outcome {
    handle_sigusr1()?;
    for waits in WAYS {
        let (data, src) = (Area::pages(PAGES)?, Area::filled(1, 1)?);
        let mut machine = Machine::new(*data, waits)?;
        let fd = Range::serving(*data)?;
        let thread = thread::spawn(move || (machine.next(), machine));
        ensure_eq!(fd.fault()?, data.addr);
        interrupt(&thread)?;
        let (said, mut machine) = thread.join().expect("no panic");
        ensure_eq!(said?, Err(Errno::EINTR), "{waits:?}");
        let want = src.bytes()[0];
        thread::scope(|scope| -> Outcome {
            let _end = LetGo::at_the_end(*data);
            let thread = scope.spawn(|| machine.next());
            if waits == Waits::Itself {
                ensure_eq!(fd.fault()?, data.addr, "told again");
            }
            resolve(data.page(0), *src)?;
            ensure_eq!(thread.join().expect("no panic")?, Ok(Some(want)));
            Ok(())
        })?;
    }
    Ok(())
}

register!(
    a83_machine_waits_for_pages,
    a83_handler_goes_away,
    a71_machine_and_the_end,
    a71_machine_is_killed,
    a71_signal_stops_a_machine,
);
