// SPDX-License-Identifier: GPL-2.0

//! What we need to know of ELF files.

use crate::util::Hash;
use anyhow::{Context, Result};
use object::elf::PT_INTERP;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionFlags, SectionKind, SymbolKind};
use regex::Regex;
use std::path::Path;
use std::sync::LazyLock;

/// Whether a program runs without a loader, as one in our initramfs must.
pub fn is_static(path: &Path) -> bool {
    let Ok(data) = std::fs::read(path) else { return false };
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(&*data) else { return false };
    let Ok(endian) = header.endian() else { return false };
    header.program_headers(endian, &*data).is_ok_and(|all| all.iter().all(|p| p.p_type(endian) != PT_INTERP))
}

/// The number at the end of a name that the compiler made up.
static COUNTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d+$").expect("a regular expression"));

/// A digest of what an object executes: the bytes of each section of code, and what they refer to.
/// Strings, data, and the bug table with its line numbers are not looked at.
pub fn code(path: &Path) -> Result<String> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*data).with_context(|| format!("{} is no object", path.display()))?;
    let mut hash = Hash::new();
    for section in file.sections() {
        let executable = matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(object::elf::SHF_EXECINSTR) != 0);
        if !executable || section.size() == 0 {
            continue;
        }
        hash = hash.add(section.name()?).add(section.data()?);
        for (offset, relocation) in section.relocations() {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => target(&file, index, relocation.addend())?,
                other => format!("{other:?}"),
            };
            hash = hash.add(format!("{offset} {:?} {target}", relocation.flags()));
        }
    }
    Ok(hash.hex())
}

/// What a relocation refers to, in words that do not depend on how many other things there are.
fn target(file: &object::File, index: object::SymbolIndex, addend: i64) -> Result<String> {
    let symbol = file.symbol_by_index(index)?;
    if symbol.kind() != SymbolKind::Section {
        return Ok(format!("{} {addend}", COUNTER.replace(symbol.name()?, "")));
    }
    let Some(section) = symbol.section_index() else { return Ok(format!("? {addend}")) };
    let section = file.section_by_index(section)?;
    let name = section.name()?;
    let counts = section.kind() == SectionKind::Text;
    Ok(if counts { format!("{name} {addend}") } else { name.to_string() })
}
