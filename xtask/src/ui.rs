// SPDX-License-Identifier: GPL-2.0

//! Steps and bars. Without a terminal, or in CI, or under V=1: plain lines and no bars.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

pub struct Ui {
    pub verbose: bool,
    bars: bool,
    step: Cell<u32>,
    steps: Cell<u32>,
    started: Instant,
}

/// Minutes and seconds.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

impl Ui {
    pub fn new(verbose: bool) -> Self {
        let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
        Self {
            verbose,
            bars: !verbose && !ci && std::io::stderr().is_terminal(),
            step: Cell::new(0),
            steps: Cell::new(0),
            started: Instant::now(),
        }
    }

    /// Says how many steps are to come.
    pub fn plan(&self, steps: u32) {
        self.steps.set(steps);
    }

    /// Begins a step: `[2/7] kernel     x86_64, plain`.
    pub fn step(&self, name: &str, what: &str) {
        self.step.set(self.step.get() + 1);
        let of = self.steps.get().max(self.step.get());
        println!("[{}/{of}] {name:<9} {what} ({})", self.step.get(), clock(self.started.elapsed()));
    }

    /// Says something about the step that runs.
    pub fn note(&self, text: &str) {
        for line in text.lines() {
            println!("      {line}");
        }
    }

    /// A bar of `total` units; of unknown length where that is not known.
    pub fn bar(&self, total: Option<u64>, template: &str) -> ProgressBar {
        if !self.bars {
            return ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        }
        let (bar, style) = match total {
            Some(n) => (ProgressBar::new(n), format!("      {{bar:30}} {template}")),
            None => (ProgressBar::new_spinner(), format!("      {{spinner}} {template}")),
        };
        let style = ProgressStyle::with_template(&style).unwrap_or(ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}
