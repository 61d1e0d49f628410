// SPDX-License-Identifier: GPL-2.0

//! Tests of `MADV_USERFAULT` and `remap_anon_pages`, for a booted kernel that has both.
//!
//! Each test runs in a child of its own with a time limit.  The results go to standard output in
//! the Test Anything Protocol.  A kernel without the calls fails the tests: none is skipped for it.

#[cfg_attr(target_arch = "x86_64", path = "arch_x86.rs")]
#[cfg_attr(target_arch = "powerpc64", path = "arch_powerpc.rs")]
mod arch;
mod bench;
mod bench_fault;
mod bench_gup;
mod cgroup;
mod compat;
mod content;
mod device;
mod fail;
mod fail_life;
mod fail_madvise;
mod fail_range;
mod fail_remap;
mod frame;
mod fuzz;
mod fuzz_calls;
mod fuzz_cover;
mod fuzz_descriptor;
mod fuzz_kernel;
mod fuzz_mainline;
mod fuzz_memory;
mod fuzz_process;
mod fuzz_shared;
mod fuzz_thread;
mod gup;
mod gup_wait;
mod harness;
mod knobs;
mod ksm;
#[cfg(target_arch = "x86_64")]
mod kvm;
mod loop_device;
mod madvise_atomic;
mod madvise_background;
mod madvise_device;
mod madvise_dump;
mod madvise_fault;
mod madvise_flag;
mod madvise_kernel;
mod madvise_kinds;
mod madvise_lifetime;
mod madvise_limits;
mod madvise_markers;
mod madvise_process;
mod madvise_races;
mod madvise_shared;
mod madvise_swap;
mod madvise_uffd;
mod numa;
mod pair;
mod proc;
mod process;
mod race;
mod race_check;
mod range;
mod range_access;
mod range_answers;
mod range_fault;
mod range_kernel;
mod range_life;
mod range_protocol;
mod range_race;
mod range_register;
mod range_trace;
mod remap_args;
mod remap_busy;
#[cfg(target_arch = "x86_64")]
mod remap_entry;
mod remap_folio;
mod remap_huge;
mod remap_moved;
mod remap_occupied;
mod remap_race_calls;
mod remap_race_large;
mod remap_race_memory;
mod remap_race_pins;
mod remap_result;
mod remap_swap;
mod remap_swap_cache;
mod remap_threads;
mod remap_trace;
mod remap_vma;
mod runner;
mod security;
mod security_memory;
mod security_stall;
mod special;
mod swap;
mod swap_short;
mod sys;
mod torture;
mod torture_area;
mod torture_model;
mod torture_op;
mod touch;
mod trace;
mod uffd;

use clap::{value_parser, Arg, ArgAction, Command};
use std::ops::RangeBounds;
use std::process::ExitCode;
use std::time::Duration;

fn command() -> Command {
    Command::new("userfault-tests")
        .about("Tests MADV_USERFAULT and remap_anon_pages in the running kernel; TAP on stdout")
        .arg(
            Arg::new("filter")
                .action(ArgAction::Append)
                .help("Run the tests whose name contains one of these; all by default"),
        )
        .arg(
            Arg::new("skip")
                .long("skip")
                .value_name("TEXT")
                .action(ArgAction::Append)
                .help("Leave out the tests whose name contains this; may be repeated"),
        )
        .args([
            flag("exact", "A filter is the whole name of a test"),
            flag("list", "Print the names of the tests and run none"),
            flag(
                "bench",
                "Measure instead of testing; \"make bench\" makes a table of it",
            ),
            flag(
                "bench-gup",
                "Measure what the kernel may do in Rust or in C",
            ),
            flag(
                "torture",
                "Do random operations and hold all memory against a model",
            ),
            flag(
                "fuzz",
                "Make calls at random instead; \"make fuzz\" says what they have reached",
            ),
            flag(
                madvise_lifetime::PROBE_FLAGS,
                "Exit with 1 if any of the own memory is marked, for the test of exec",
            )
            .hide(true),
            number("ops", "10000000", 1.., "How many operations of --torture"),
            number("seconds", "60", 1.., "How long the fuzzer runs"),
            number("seed", "1", 0.., "What both follow from"),
            number(
                "processes",
                "4",
                1..=fuzz_shared::PROCESSES as u64,
                "How many processes the fuzzer has at once",
            ),
            number(
                "first",
                "0",
                0..,
                "The number of its first process, to see that one again",
            ),
            number("timeout", "60", 1.., "The time limit of one test").value_name("SECONDS"),
        ])
}

/// An option that is given or not.
fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// An option that is a number.
fn number(
    name: &'static str,
    default: &'static str,
    range: impl RangeBounds<u64>,
    help: &'static str,
) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("NUMBER")
        .value_parser(value_parser!(u64).range(range))
        .default_value(default)
        .help(help)
}

fn main() -> ExitCode {
    let args = command().get_matches();
    if args.get_flag(madvise_lifetime::PROBE_FLAGS) {
        return madvise_lifetime::probe_flags();
    }
    let number = |name| *args.get_one::<u64>(name).expect("it has a default");
    let other = if args.get_flag("bench") {
        Some(bench::run())
    } else if args.get_flag("bench-gup") {
        Some(bench_gup::run())
    } else if args.get_flag("torture") {
        Some(torture::run(number("seed"), number("ops")))
    } else if args.get_flag("fuzz") {
        Some(fuzz::run(&fuzz::Options {
            time: Duration::from_secs(number("seconds")),
            seed: number("seed"),
            processes: number("processes") as usize,
            first: number("first"),
        }))
    } else {
        None
    };
    if let Some(done) = other {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("userfault-tests: {error:#}");
                ExitCode::FAILURE
            }
        };
    }

    let texts = |name| -> Vec<String> {
        args.get_many::<String>(name)
            .unwrap_or_default()
            .cloned()
            .collect()
    };
    let (filters, skipped) = (texts("filter"), texts("skip"));
    let exact = args.get_flag("exact");
    let wanted = |name: &str| {
        let found = |text: &String| {
            if exact {
                name == text
            } else {
                name.contains(text)
            }
        };
        (filters.is_empty() || filters.iter().any(found))
            && !skipped.iter().any(|text| name.contains(text))
    };

    let mut tests = harness::all_tests();
    tests.retain(|test| wanted(test.name));
    if tests.is_empty() {
        eprintln!("userfault-tests: no test has such a name; see --list");
        return ExitCode::from(2);
    }
    if args.get_flag("list") {
        tests.iter().for_each(|test| println!("{}", test.name));
        return ExitCode::SUCCESS;
    }

    // A large buffer of a test goes back to the kernel at once, for those that count pages.
    // SAFETY: No other thread is there yet.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
    let limit = Duration::from_secs(number("timeout"));
    match runner::run(&tests, limit) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}
