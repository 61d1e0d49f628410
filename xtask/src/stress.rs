// SPDX-License-Identifier: GPL-2.0

//! `make stress`: stress-ng on our kernel, with what it has for memory management.
//!
//! Debian's program and the libraries that it loads lie beside busybox in the guest. Each stressor
//! runs for some seconds, two of it at once, and verifies what it finds. One that finds something
//! wrong is a failure, a complaint of the kernel is another.

use crate::check::Report;
use crate::ctx::Ctx;
use crate::selftests::{self, suite, Run, Suite};
use crate::{debian, kernel, tree};
use anyhow::{anyhow, bail, Result};

/// stress-ng's name of it, and what bounds it where it would take all memory that there is.
macro_rules! stressor {
    ($name:literal $(, $options:literal)*) => {
        suite($name, concat!("stress-ng --", $name, " 2 --timeout 6 --verify --temp-path /disk", $(" ", $options)*), 3)
    };
}

const STRESSORS: &[Suite] = &[
    stressor!("userfaultfd"),
    // Mappings.
    stressor!("brk", "--brk-bytes 256M"),
    stressor!("madvise"),
    stressor!("mlock"),
    stressor!("mmap", "--mmap-bytes 64M --mmap-mprotect --mmap-madvise --mmap-write-check"),
    stressor!("mmapaddr"),
    stressor!("mmapcow"),
    stressor!("mmapfiles"),
    stressor!("mmapfixed"),
    stressor!("mmapfork", "--mmapfork-bytes 64M"),
    stressor!("mmaphuge", "--mmaphuge-mmaps 64"),
    stressor!("mmapmany"),
    stressor!("mmaptorture", "--mmaptorture-bytes 64M"),
    stressor!("mprotect"),
    stressor!("mremap", "--mremap-bytes 64M"),
    stressor!("mseal"),
    stressor!("msync"),
    stressor!("msyncmany"),
    stressor!("munmap"),
    stressor!("remap"),
    stressor!("secretmem"),
    stressor!("stack"),
    stressor!("stackmmap"),
    stressor!("vma"),
    stressor!("vm-addr"),
    stressor!("vm-segv"),
    // Pages.
    stressor!("fault"),
    stressor!("malloc", "--malloc-bytes 64M --malloc-touch"),
    stressor!("memfd", "--memfd-bytes 64M"),
    stressor!("mincore"),
    stressor!("pagemove"),
    stressor!("pageswap"),
    stressor!("shm", "--shm-bytes 4M"),
    stressor!("shm-sysv", "--shm-sysv-bytes 4M"),
    stressor!("swap"),
    stressor!("tlb-shootdown"),
    stressor!("tmpfs"),
    stressor!("vm", "--vm-bytes 128M --ksm --page-in"),
    stressor!("vm-rw"),
    stressor!("vm-splice"),
    // Processes that begin, end and die.
    stressor!("bad-altstack"),
    stressor!("clone"),
    stressor!("fork", "--fork-vm --fork-pageout"),
    stressor!("forkheavy", "--forkheavy-procs 64"),
    stressor!("sigbus"),
    stressor!("sigsegv"),
    stressor!("vfork"),
    stressor!("vforkmany", "--vforkmany-vm --vforkmany-vm-bytes 8M"),
];

/// The libraries are where the programs are.
const BEFORE: &str = "mkdir /lib64
ln -s /bin/ld-linux-x86-64.so.2 /lib64
export LD_LIBRARY_PATH=/bin
";

pub fn run(ctx: &Ctx) -> Result<()> {
    let stressors = selftests::chosen(ctx, STRESSORS)?;
    ctx.ui.plan(6);
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    ctx.ui.step("stress-ng", "Debian's, with its libraries");
    let mut programs = debian::program(ctx, "stress-ng")?;
    kernel::build(ctx)?;
    let list = format!("{BEFORE}{}", selftests::list(&stressors));
    programs.extend(selftests::script(&ctx.objects().join("stress"), &list)?);
    let Run { suites, trouble } = selftests::boot(ctx, "stress", &ctx.objects(), &programs, &stressors);
    let mut report = Report::default();
    for Suite { name, .. } in stressors {
        let Some(said) = suites.get(*name) else {
            report.add(ctx, name, Err(anyhow!("it was not run")));
            continue;
        };
        match (said.trouble(), said.status, said.count().skipped) {
            (Some(trouble), ..) => report.add(ctx, name, Err(anyhow!(trouble))),
            (_, Some(0), 0) => report.add(ctx, name, Ok(())),
            (_, Some(0 | 4), _) => report.skip(name),
            (_, status, _) => {
                let status = status.unwrap_or(-1);
                report.add(ctx, name, Err(anyhow!("exit status {status}; the console says more")));
            }
        }
    }
    report.add(ctx, "the kernel had no complaint", trouble.map_or(Ok(()), |why| Err(anyhow!(why))));
    report.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stressor_is_bounded_and_verifies() {
        selftests::tests::the_guest_can_read(STRESSORS);
        for stressor in STRESSORS {
            let words: Vec<_> = stressor.command.split(' ').collect();
            assert_eq!(words[..2], ["stress-ng", &format!("--{}", stressor.name)]);
            assert!(words.contains(&"--timeout") && words.contains(&"--verify"));
        }
    }
}
