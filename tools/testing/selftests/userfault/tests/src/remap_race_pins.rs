// SPDX-License-Identifier: GPL-2.0

//! Moves against those who pin pages without a lock: between the look at the entry, which finds no
//! pin, and the time when nobody finds the entry any more, a pin may come.

use crate::gup::{How, Pins};
use crate::harness::{Numbers, Outcome};
use crate::race::Race;
use crate::register;
use crate::sys::{page, Area};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// So few that one is likely to be pinned while it moves.
const FEW: usize = 2;

/// A26, A37: a page that is pinned stays where it was found, and is the one that the program has.
fn a26_pins_meanwhile() -> Outcome {
    pinned_meanwhile(Race::small(FEW)?)
}

/// A26, A37: so does a folio.
fn a26_pins_meanwhile_of_folios() -> Outcome {
    pinned_meanwhile(Race::folios_at_most(FEW)?)
}

/// A33, A37: so does a huge page.
fn a33_pins_meanwhile_of_huge_pages() -> Outcome {
    pinned_meanwhile(Race::huge(1)?)
}

fn pinned_meanwhile(mut race: Race) -> Outcome {
    /// So often a pinned page is looked at.
    const LOOKS: usize = 3;
    race.allowed.push(Errno::EBUSY);
    let (pins, mut numbers) = (Pins::new()?, Numbers(5));
    let how = How {
        write: true,
        fast: true,
    };
    let copied = Area::pages(1)?;
    let mut words = vec![0; page() / size_of::<u64>()];
    let mut pinned = 0;
    race.run_for_a_while(|| {
        let (side, index) = (numbers.below(2), numbers.below(race.nr_pages()));
        // It may be on the other side just then.
        if pins.pin(race.areas[side].page(index), how).is_err() {
            return Ok(());
        }
        pinned += 1;
        for _ in 0..LOOKS {
            let there = race.look(&mut words, side, index)?;
            ensure!(there, "page {index} moved, and is pinned");
        }
        pins.read_to(*copied).context("what was pinned")?;
        race.look_at(&mut words, *copied, index)?;
        pins.release().context("release")
    })?;
    ensure!(pinned > 0, "no page was there when it was to be pinned");
    Ok(())
}

register!(
    a26_pins_meanwhile,
    a26_pins_meanwhile_of_folios,
    a33_pins_meanwhile_of_huge_pages,
);
