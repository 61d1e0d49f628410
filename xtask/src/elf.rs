// SPDX-License-Identifier: GPL-2.0

//! What we need to know of ELF files.

use object::elf::PT_INTERP;
use object::read::elf::{FileHeader, ProgramHeader};
use std::path::Path;

/// Whether a program runs without a loader, as one in our initramfs must.
pub fn is_static(path: &Path) -> bool {
    let Ok(data) = std::fs::read(path) else { return false };
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(&*data) else { return false };
    let Ok(endian) = header.endian() else { return false };
    header.program_headers(endian, &*data).is_ok_and(|all| all.iter().all(|p| p.p_type(endian) != PT_INTERP))
}
