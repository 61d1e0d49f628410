// SPDX-License-Identifier: GPL-2.0

//! Runs the unit tests of the kernel's `#[syscall]` on the host. The kernel's own way to run them,
//! `make rusttest`, builds far more than they need.

/// What the macro takes from the crate that it is part of.
mod helpers {
    /// As in the kernel's `rust/macros/helpers.rs`.
    pub(crate) fn gather_cfg_attrs(attrs: &[syn::Attribute]) -> impl Iterator<Item = &syn::Attribute> {
        attrs.iter().filter(|attr| attr.path().is_ident("cfg"))
    }
}

#[rustfmt::skip] // The kernel formats in another way.
#[path = "../../rust/macros/syscall.rs"]
mod syscall;
