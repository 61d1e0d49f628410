// SPDX-License-Identifier: GPL-2.0

//! What a test is, and what it may say.

use std::fmt;
use std::time::{Duration, Instant};

/// `Ok`: the test passed.  An error that holds a [`Skip`] means that it could not be run.
pub type Outcome = anyhow::Result<()>;

/// A test, as [`register!`](crate::register) puts it into the list of all tests.
pub struct Test {
    /// The function's name.  It begins with the item that the test holds: `a25_...`.
    pub name: &'static str,
    /// The test itself.  It runs in a process of its own.
    pub func: fn() -> Outcome,
}

inventory::collect!(Test);

/// Adds functions to the list of tests, under their own names.
#[macro_export]
macro_rules! register {
    ($($name:ident),+ $(,)?) => {
        $(
            inventory::submit! {
                $crate::harness::Test { name: stringify!($name), func: $name }
            }
        )+
    };
}

/// The test cannot be run here, for a reason that is no fault of the calls under test.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends the test as skipped.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => {
        return Err($crate::harness::Skip(format!($($arg)+)).into())
    };
}

/// Fails the test unless both values are equal, and shows both.
#[macro_export]
macro_rules! ensure_eq {
    ($seen:expr, $want:expr $(,)?) => {
        $crate::ensure_eq!($seen, $want, "{}", stringify!($seen))
    };
    ($seen:expr, $want:expr, $($arg:tt)+) => {
        match (&$seen, &$want) {
            (seen, want) => anyhow::ensure!(
                seen == want,
                "{}:{}: {}: {:?} instead of {:?}",
                file!(),
                line!(),
                format_args!($($arg)+),
                seen,
                want,
            ),
        }
    };
}

/// Counts rounds for so long, and at least one, so that a slow machine does fewer of them.
pub fn rounds(time: Duration) -> impl Iterator<Item = u32> {
    let start = Instant::now();
    (0..).take_while(move |round| *round == 0 || start.elapsed() < time)
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one, which is less than the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) as usize) % limit
    }
}

/// All tests, in the order of their items.
pub fn all_tests() -> Vec<&'static Test> {
    let mut tests: Vec<_> = inventory::iter::<Test>.into_iter().collect();
    tests.sort_by_key(|test| (item_number(test.name), test.name));
    tests
}

/// `a25_x` comes after `a3_x`.
fn item_number(name: &str) -> (char, u32) {
    let letter = name.chars().next().unwrap_or('~');
    let digits: String = name[1..].chars().take_while(char::is_ascii_digit).collect();
    (letter, digits.parse().unwrap_or(u32::MAX))
}
