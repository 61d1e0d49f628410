// SPDX-License-Identifier: GPL-2.0

//! Which of upstream's own tests check-upstream runs: all of tools/testing/selftests/mm, futex,
//! ptrace, proc and seccomp that the guest can, and those of kvm in which a virtual machine waits
//! for its memory. What the guest cannot run, and why:
//!
//! - scripts that need bash: charge_reserved_hugetlb.sh, hugetlb_reparenting_test.sh. Those that only
//!   prepare and start a program are done without, the program is here.
//! - test_vmalloc.sh, test_page_frag.sh, ksft_kmemleak_*.sh: a kernel module.
//! - protection_keys_32, pkey_sighandler_tests_32: a C library of 32 bits, whose package Debian does
//!   not install beside the compiler for powerpc.
//! - va_high_addr_switch: page tables of five levels, see qemu.rs.
//! - folio_split_race_test, hugetlb_fault_after_madv, hugetlb_madv_vs_map: as many rounds as take
//!   longer than all others together without KVM, and nothing makes them fewer.
//! - write_to_hugetlbfs: a part of the scripts, no test.
//! - seccomp_benchmark, futex_numa: they measure, and what they find is another in each run.

use crate::selftests::{suite, Suite};

/// The list, in the order in which they run. Each asks for the huge pages that it needs.
/// tools/testing/selftests/mm/run_vmtests.sh shows what upstream runs, and with what preparation.
pub const SUITES: &[Suite] = &[
    // Page faults that a program handles.
    suite("uffd-unit-tests", "uffd-unit-tests", 15),
    suite("uffd-stress-anon", "uffd-stress anon 20 16", 5),
    suite("uffd-stress-shmem", "uffd-stress shmem 20 16", 5),
    suite("uffd-stress-shmem-private", "uffd-stress shmem-private 20 16", 5),
    suite("uffd-stress-hugetlb", "uffd-stress hugetlb 64 32", 5),
    suite("uffd-stress-hugetlb-private", "uffd-stress hugetlb-private 64 32", 5),
    suite("uffd-wp-mremap", "uffd-wp-mremap", 5),
    // Mappings.
    suite("mremap", "mremap_test", 5),
    suite("mremap-dontunmap", "mremap_dontunmap", 2),
    suite("map-fixed-noreplace", "map_fixed_noreplace", 2),
    suite("map-populate", "map_populate", 2),
    suite("droppable", "droppable", 2).pinned(),
    suite("madv-populate", "madv_populate", 2),
    suite("process-madv", "process_madv", 2),
    suite("process-mrelease", "mrelease_test", 5),
    suite("guard-regions", "guard-regions", 5),
    suite("merge", "merge", 5),
    suite("mseal", "mseal_test", 2),
    suite("mdwe", "mdwe_test", 2),
    suite("mkdirty", "mkdirty", 2),
    suite("memfd-secret", "memfd_secret", 2),
    suite("pfnmap", "pfnmap", 2),
    suite("mlock", "mlock2-tests", 5),
    suite("mlock-random", "mlock-random-test", 5),
    // It wants an ordinary user.
    suite("mlock-limit", "start-stop-daemon -S -c nobody -x /bin/on-fault-limit", 2)
        .runs("on-fault-limit")
        .after("mkdir -p /etc; echo nobody:x:65534:65534:::/bin/sh >/etc/passwd"),
    suite("pkeys", "protection_keys_64", 5),
    suite("pkeys-signals", "pkey_sighandler_tests_64", 2),
    // What is known of pages.
    suite("soft-dirty", "soft-dirty", 5),
    suite("pagemap", "pagemap_ioctl", 10).in_place(),
    suite("cow", "cow", 10).pinned(),
    suite("rmap", "rmap", 5),
    suite("ksm", "ksm_functional_tests", 5).in_place(),
    suite("ksm-merge", "ksm_tests -M -p 10", 2),
    suite("ksm-unmerge", "ksm_tests -U", 2),
    suite("ksm-zero", "ksm_tests -Z -p 10 -z 0", 2),
    suite("ksm-use-zero", "ksm_tests -Z -p 10 -z 1", 2),
    suite("ksm-numa", "ksm_tests -N -m 1", 2),
    suite("ksm-numa-apart", "ksm_tests -N -m 0", 2),
    suite("ksm-time", "ksm_tests -P -s 16", 5),
    suite("ksm-time-huge", "ksm_tests -H -s 16", 5),
    // Huge pages.
    suite("khugepaged", "khugepaged", 10).pinned(),
    suite("khugepaged-order-2", "khugepaged -s 2", 10).pinned(),
    suite("khugepaged-shmem", "khugepaged all:shmem", 10).pinned(),
    suite("khugepaged-shmem-order-4", "khugepaged -s 4 all:shmem", 10).pinned(),
    suite("khugepaged-mthp", "khugepaged -c 4 mthp_khugepaged:anon", 10).pinned(),
    suite("khugepaged-file", "khugepaged all:file /huge", 10)
        .after("mkdir -p /huge; mount -t tmpfs -o huge=advise tmpfs /huge")
        .pinned(),
    suite("thp-split", "split_huge_page_test", 10),
    suite("thp-stress", "transhuge-stress -d 5 512", 5),
    suite("thp-prctl", "prctl_thp_disable", 2),
    suite("hugetlb-mmap", "hugetlb-mmap", 2),
    suite("hugetlb-shm", "hugetlb-shm", 2),
    suite("hugetlb-mremap", "hugetlb-mremap", 2),
    suite("hugetlb-madvise", "hugetlb-madvise", 2),
    suite("hugetlb-dio", "hugetlb_dio", 2),
    suite("hugetlb-sizes", "thuge-gen", 2),
    // Pages that move.
    suite("migration", "migration", 5),
    suite("compaction", "compaction_test", 5),
    suite("hmm", "hmm-tests", 10),
    // Pages that are pinned.
    suite("gup-fast", "gup_test -u -w -n 1", 2),
    suite("gup-fast-all", "gup_test -u -w -n -1", 2),
    suite("gup-basic", "gup_test -U -n 512", 2),
    suite("pin-fast", "gup_test -a -w -n 1", 2),
    suite("pin-fast-all", "gup_test -a -w -n -1", 2),
    suite("pin-fast-huge", "gup_test -a -t -w -n 512", 2),
    suite("pin-basic", "gup_test -b -n 512", 2),
    suite("pin-longterm", "gup_test -L -w -n 123", 2),
    suite("gup-dump", "gup_test -ct -F 0x1 0 19 0x1000", 2),
    suite("gup-matrix", GUP_MATRIX, 10).runs("gup_test"),
    suite("gup-longterm", "gup_longterm", 10),
    // System calls that fault in a program's memory, or look at that of another.
    suite("futex-wait", "futex_wait", 2).of("futex/functional"),
    suite("futex-wait-timeout", "futex_wait_timeout", 2).of("futex/functional"),
    suite("futex-wait-wouldblock", "futex_wait_wouldblock", 2).of("futex/functional"),
    suite("futex-wait-heap", "futex_wait_uninitialized_heap", 2).of("futex/functional"),
    suite("futex-wait-file", "futex_wait_private_mapped_file", 2).of("futex/functional"),
    suite("futex-waitv", "futex_waitv", 2).of("futex/functional"),
    suite("futex-requeue", "futex_requeue", 2).of("futex/functional"),
    suite("futex-requeue-pi", "futex_requeue_pi", 5).of("futex/functional"),
    suite("futex-requeue-pi-mismatched", "futex_requeue_pi_mismatched_ops", 2).of("futex/functional"),
    suite("futex-requeue-pi-signal", "futex_requeue_pi_signal_restart", 2).of("futex/functional"),
    suite("futex-lock-pi-exiting", "futex_lock_pi_exiting", 5).of("futex/functional"),
    suite("futex-private-hash", "futex_priv_hash", 5).of("futex/functional"),
    suite("futex-numa", "futex_numa_mpol", 5).of("futex/functional"),
    suite("futex-robust-list", "robust_list", 5).of("futex/functional"),
    suite("ptrace-get-syscall", "get_syscall_info", 2).of("ptrace"),
    suite("ptrace-set-syscall", "set_syscall_info", 2).of("ptrace"),
    suite("ptrace-signals", "peeksiginfo", 2).of("ptrace"),
    suite("ptrace-memory", "vmaccess", 2).of("ptrace"),
    suite("ptrace-dispatch", "get_set_sud", 2).of("ptrace"),
    // A hundred thousand rounds in half a minute: without KVM that fails more often than not.
    suite("seccomp", "seccomp_bpf -T user_notification_wait_killable_after_reply", 10).of("seccomp"),
    suite("proc-maps-race", "proc-maps-race", 5).of("proc"),
    suite("proc-map-files", "proc-self-map-files-001", 2).of("proc"),
    suite("proc-map-files-zero", "proc-self-map-files-002", 2).of("proc"),
    suite("proc-empty-vm", "proc-empty-vm", 2).of("proc"),
    suite("proc-pid-vm", "proc-pid-vm", 2).of("proc"),
    suite("proc-fd", "fd-001-lookup", 2).of("proc"),
    suite("proc-fd-equal", "fd-002-posix-eq", 2).of("proc"),
    suite("proc-fd-kthread", "fd-003-kthread", 2).of("proc"),
    suite("proc-kthread", "proc-2-is-kthread", 2).of("proc"),
    suite("proc-no-kthread", "proc-self-isnt-kthread", 2).of("proc"),
    suite("proc-hidepid", "proc-fsconfig-hidepid", 2).of("proc"),
    suite("proc-loadavg", "proc-loadavg-001", 2).of("proc"),
    suite("proc-mounts", "proc-multiple-procfs", 2).of("proc"),
    suite("proc-net-dev", "proc-net-dev-lseek", 2).of("proc"),
    suite("proc-pidns", "proc-pidns", 2).of("proc"),
    suite("proc-syscall", "proc-self-syscall", 2).of("proc"),
    suite("proc-wchan", "proc-self-wchan", 2).of("proc"),
    suite("proc-subset", "proc-subset-pid", 2).of("proc"),
    suite("proc-tid", "proc-tid0", 2).of("proc"),
    suite("proc-uptime", "proc-uptime-001", 2).of("proc"),
    suite("proc-uptime-processors", "proc-uptime-002", 2).of("proc"),
    suite("proc-read", "read", 5).of("proc"),
    suite("proc-self", "self", 2).of("proc"),
    suite("proc-setns", "setns-dcache", 2).of("proc"),
    suite("proc-setns-sysvipc", "setns-sysvipc", 2).of("proc"),
    suite("proc-thread-self", "thread-self", 2).of("proc"),
    // The memory of virtual machines.
    suite("kvm-demand-paging", "demand_paging_test -u MISSING -b 16M", 5).of("kvm").in_place(),
    suite("kvm-demand-paging-minor", "demand_paging_test -u MINOR -s shmem -b 16M", 5).of("kvm").in_place(),
    // Pages that go bad, and are lost until the next boot: at the end.
    suite("memory-failure", "memory-failure", 5).after("cd /disk"),
    suite("hugetlb-soft-offline", "hugetlb-soft-offline", 2),
    suite("hugetlb-read-bad", "hugetlb-read-hwpoison", 2),
];

/// What run_vmtests.sh calls so, with less memory. Each of its programs says what it is in the log.
const GUP_MATRIX: &str = r##"sh -c '
for huge in -t -T -H; do
	for call in -u -U -a -b -L; do
		for write in -w -W; do
			for share in "" -S; do
				for pages in 1 512 123 -1; do
					set -- $huge $call $write $share -m 32 -n $pages
					echo "# gup_test $*"
					gup_test "$@"
				done
			done
		done
	done
done'"##;
