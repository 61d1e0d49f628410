// SPDX-License-Identifier: GPL-2.0

//! Runs tests one after the other and reports in TAP.

use crate::harness::Test;
use crate::knobs::Knobs;
use crate::process::{run_apart, Ended};
use anyhow::Context;
use std::io::Write;
use std::time::{Duration, Instant};

/// What the kernel sets in its taint mask when something is wrong with it: a bad page, an oops, a
/// warning, a soft lockup.
const TAINTS: u64 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14;

/// How much of a line of a message is shown: a list of all vmas helps nobody.
const MESSAGE_CHARS: usize = 1000;

/// Whether a test passed, or a line that says why not.
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs the tests.  Returns whether none failed.
pub fn run(tests: &[&Test], limit: Duration) -> anyhow::Result<bool> {
    let knobs = Knobs::read();
    let (mut passed, mut skipped, mut failed) = (0, 0, 0);
    let mut out = std::io::stdout();

    writeln!(out, "TAP version 13\n1..{}", tests.len())?;
    for (number, test) in (1..).zip(tests) {
        let start = Instant::now();
        let taint = taint()?;
        let mut verdict = run_one(test, limit)?;
        knobs.restore();
        if warned_since(taint)? {
            verdict = Verdict::Failed("the kernel warned during this test".into());
        }

        match &verdict {
            Verdict::Passed => {
                passed += 1;
                writeln!(out, "ok {number} {}", test.name)?;
            }
            Verdict::Skipped(why) => {
                skipped += 1;
                let why = why.replace('\n', " ");
                writeln!(out, "ok {number} {} # SKIP {why}", test.name)?;
            }
            Verdict::Failed(why) => {
                failed += 1;
                writeln!(out, "not ok {number} {}", test.name)?;
                for line in why.lines() {
                    let line: String = line.chars().take(MESSAGE_CHARS).collect();
                    writeln!(out, "# {}: {line}", test.name)?;
                }
            }
        }
        let took = start.elapsed();
        if took > limit / 4 {
            writeln!(out, "# {} took {:.1} s", test.name, took.as_secs_f32())?;
        }
        out.flush()?;
    }
    writeln!(
        out,
        "# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0"
    )?;
    Ok(failed == 0)
}

fn run_one(test: &Test, limit: Duration) -> anyhow::Result<Verdict> {
    Ok(match run_apart(limit, test.func)? {
        Ended::Passed => Verdict::Passed,
        Ended::Skipped(why) => Verdict::Skipped(why),
        Ended::Failed(why) => Verdict::Failed(why),
        Ended::Killed(signal) => Verdict::Failed(format!("killed by {signal}")),
        Ended::TimedOut => Verdict::Failed(format!("killed after {} s", limit.as_secs())),
        Ended::Stuck => Verdict::Failed("hangs, and does not die of SIGKILL".into()),
    })
}

/// Whether the kernel has found something wrong with itself since its taint mask was this one.
pub fn warned_since(before: u64) -> anyhow::Result<bool> {
    Ok(taint()? & !before & TAINTS != 0)
}

/// Its taint mask.
pub fn taint() -> anyhow::Result<u64> {
    let path = "/proc/sys/kernel/tainted";
    let text = std::fs::read_to_string(path).context(path)?;
    text.trim().parse().context(path)
}
