// SPDX-License-Identifier: GPL-2.0

//! What is said on a descriptor: the handshake, and what is asked for after it.
//!
//! Only states and numbers: nothing here looks at an address space.

use kernel::{
    bindings,
    page::PAGE_MASK,
    prelude::*, //
};

use core::ops::Range;

/// The version of the protocol that is spoken.
const VERSION: u64 = bindings::USERFAULTFD_PROTOCOL as u64;
/// The answer to all others.
const UNKNOWN_VERSION: u64 = u64::MAX;

const REGISTER: u64 = bindings::USERFAULTFD_RANGE_REGISTER as u64;
const UNREGISTER: u64 = bindings::USERFAULTFD_RANGE_UNREGISTER as u64;

/// How far the handshake has come.
///
/// There is no way from one state to another but by [`State::ask`] and [`State::answer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(crate) enum State {
    /// A version is to be written.
    Ask,
    /// It is known, which is to be read.
    Known,
    /// It is not known, which is to be read; then another may be written.
    Unknown,
    /// The handshake is over.
    Running,
}

impl State {
    /// What becomes of the state when `version` is written; `None` where none may be.
    pub(crate) fn ask(self, version: u64) -> Option<Self> {
        match self {
            State::Ask if version == VERSION => Some(State::Known),
            State::Ask => Some(State::Unknown),
            _ => None,
        }
    }

    /// The answer that is to be read, and what becomes of the state then; `None` where there is
    /// none.
    pub(crate) fn answer(self) -> Option<(u64, Self)> {
        match self {
            State::Known => Some((VERSION, State::Running)),
            State::Unknown => Some((UNKNOWN_VERSION, State::Ask)),
            State::Ask | State::Running => None,
        }
    }
}

/// What a write of two numbers asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Wake those who wait in the range.
    Wake(Range<usize>),
    /// Serve the range.
    Register(Range<usize>),
    /// Serve it no more.
    Unregister(Range<usize>),
}

impl Command {
    /// Understands what was written. Fails with `EINVAL`, and with `ERANGE` for a range that is
    /// empty or reversed.
    pub(crate) fn new(start: u64, end: u64) -> Result<Self> {
        let offset = !PAGE_MASK as u64;
        let command = start & offset;
        if end & offset != 0 || command & !(REGISTER | UNREGISTER) != 0 {
            return Err(EINVAL);
        }
        if command == REGISTER | UNREGISTER {
            return Err(EINVAL);
        }
        let range = (start & !offset) as usize..end as usize;
        if range.is_empty() {
            return Err(ERANGE);
        }
        Ok(match command {
            REGISTER => Command::Register(range),
            UNREGISTER => Command::Unregister(range),
            _ => Command::Wake(range),
        })
    }
}

// The macro makes entries for C.
#[cfg(CONFIG_USERFAULT_KUNIT_TEST)]
#[allow(unsafe_code)]
#[kernel::macros::kunit_tests(rust_userfaultfd)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    const AT: u64 = 0x1000 * PAGE_SIZE as u64;
    const END: u64 = AT + PAGE_SIZE as u64;
    const STATES: [State; 4] = [State::Ask, State::Known, State::Unknown, State::Running];

    #[test]
    fn a49_a51_handshake() {
        assert_eq!(State::Ask.ask(0xaa), Some(State::Known));
        assert_eq!(State::Known.answer(), Some((0xaa, State::Running)));
        for version in [0, 1, 0xab, 0xaa00, u64::MAX] {
            assert_eq!(State::Ask.ask(version), Some(State::Unknown));
        }
        assert_eq!(State::Unknown.answer(), Some((u64::MAX, State::Ask)));
    }

    #[test]
    fn c1_no_other_way() {
        for state in STATES {
            for version in [0, 0xaa, u64::MAX] {
                assert_eq!(state.ask(version).is_some(), state == State::Ask);
            }
            let has_answer = matches!(state, State::Known | State::Unknown);
            assert_eq!(state.answer().is_some(), has_answer);
        }
    }

    #[test]
    fn a59_a62_commands() {
        let range = AT as usize..END as usize;
        assert_eq!(Command::new(AT, END), Ok(Command::Wake(range.clone())));
        assert_eq!(
            Command::new(AT | 1, END),
            Ok(Command::Register(range.clone()))
        );
        assert_eq!(Command::new(AT | 2, END), Ok(Command::Unregister(range)));
    }

    #[test]
    fn a61_errors_in_their_order() {
        for bits in 3..PAGE_SIZE as u64 {
            assert_eq!(Command::new(AT | bits, END), Err(EINVAL));
            assert_eq!(Command::new(AT, AT | bits), Err(EINVAL));
        }
        for command in 0..3 {
            assert_eq!(Command::new(AT | command, AT | 1), Err(EINVAL));
            assert_eq!(Command::new(AT | command, AT), Err(ERANGE));
            assert_eq!(Command::new(END | command, AT), Err(ERANGE));
            assert_eq!(Command::new(END | command, 0), Err(ERANGE));
        }
    }
}
