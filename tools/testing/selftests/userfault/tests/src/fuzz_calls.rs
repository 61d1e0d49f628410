// SPDX-License-Identifier: GPL-2.0

//! The calls that the fuzzer makes, and how often it makes them.

use crate::fuzz_thread::Thread;
use crate::{fuzz_descriptor as descriptor, fuzz_kernel as kernel};
use crate::{fuzz_mainline as mainline, fuzz_memory as memory, fuzz_process as process};

/// Gives each call a number, and that a name.
macro_rules! calls {
    ($($name:ident)+) => {
        /// What is counted by itself.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        pub enum Call { $($name),+ }

        /// The names of all calls, by their number.
        pub const NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

calls! {
    remap_anon_pages touch_read touch_write
    mmap munmap mremap mprotect mlock munlock mlockall munlockall mseal brk msync mincore
    remap_file_pages
    madv_normal madv_random madv_sequential madv_willneed madv_dontneed madv_free madv_remove
    madv_dontfork madv_dofork madv_mergeable madv_unmergeable madv_hugepage madv_nohugepage
    madv_dontdump madv_dodump madv_wipeonfork madv_keeponfork madv_cold madv_pageout
    madv_populate_read madv_populate_write madv_dontneed_locked madv_collapse madv_soft_offline
    madv_guard_install madv_guard_remove madv_userfault madv_nouserfault process_madvise
    mbind move_pages migrate_pages set_mempolicy
    userfaultfd userfaultfd_device dup close poll epoll_ctl epoll_wait fdinfo
    range_version range_answer range_read range_readv range_register range_unregister range_wake
    range_write range_writev range_read_bad range_write_bad
    uffdio_api uffdio_register uffdio_unregister uffdio_wake uffdio_copy uffdio_zeropage
    uffdio_move uffdio_writeprotect uffdio_continue uffdio_poison uffdio_rwprotect uffdio_set_mode
    uffd_read
    process_vm_readv process_vm_writev proc_mem_read proc_mem_write read write vmsplice
    direct_read direct_write io_submit io_uring_read io_uring_write io_uring_register
    io_uring_unregister gup_pin gup_release gup_fast pin_fast hmm_read hmm_write hmm_to_device
    hmm_to_system hmm_exclusive futex pagemap pagemap_scan clear_refs smaps
    cgroup_reclaim cgroup_high cgroup_max compact
    fork fork_files vfork thread exec kill_thread kill_child stop_child continue_child reap
}

/// Makes calls, and how often, out of the sum of all these numbers.
pub struct Generator {
    pub weight: usize,
    pub make: fn(&mut Thread),
    /// Whether a child of a thread, too, may make them.
    pub by_child: bool,
}

const fn often(weight: usize, make: fn(&mut Thread)) -> Generator {
    Generator {
        weight,
        make,
        by_child: true,
    }
}

const fn not_by_child(weight: usize, make: fn(&mut Thread)) -> Generator {
    Generator {
        weight,
        make,
        by_child: false,
    }
}

/// What a thread makes its calls of.
pub const GENERATORS: &[Generator] = &[
    often(120, memory::touch),
    often(140, memory::remap_anon_pages),
    often(25, memory::remap_huge),
    often(40, memory::fresh),
    often(30, memory::refill),
    often(10, memory::mmap),
    often(4, memory::munmap),
    often(20, memory::mremap),
    often(8, memory::mprotect),
    often(70, memory::madvise),
    often(30, memory::mark),
    often(5, memory::process_madvise),
    often(8, memory::mlock),
    often(1, memory::mlock_all),
    often(1, memory::mseal),
    often(3, memory::brk),
    often(4, memory::sync),
    often(2, memory::remap_file_pages),
    often(8, memory::move_pages),
    often(3, memory::policy),
    often(20, descriptor::open_range),
    often(10, descriptor::open),
    often(50, descriptor::serve),
    often(40, descriptor::register),
    often(20, descriptor::wake),
    often(10, descriptor::handshake),
    often(15, descriptor::read),
    often(10, descriptor::write),
    often(8, descriptor::poll),
    often(8, descriptor::epoll),
    often(8, descriptor::close),
    often(3, descriptor::dup),
    often(3, descriptor::fdinfo),
    often(12, mainline::open),
    often(15, mainline::serve),
    often(15, mainline::register),
    often(30, mainline::fill),
    often(8, mainline::succeed),
    often(10, kernel::process_vm),
    often(8, kernel::proc_mem),
    often(10, kernel::read_write),
    often(10, kernel::vmsplice),
    often(8, kernel::direct),
    often(6, kernel::aio),
    not_by_child(10, kernel::io_uring),
    often(8, kernel::pin),
    often(6, kernel::gup),
    often(8, kernel::hmm),
    often(5, kernel::futex),
    often(10, kernel::look),
    not_by_child(5, kernel::cgroup),
    not_by_child(1, kernel::compact),
    not_by_child(12, process::fork),
    not_by_child(3, process::vfork),
    not_by_child(6, process::thread),
    often(12, process::signal),
];
