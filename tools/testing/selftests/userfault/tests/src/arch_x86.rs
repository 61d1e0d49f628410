// SPDX-License-Identifier: GPL-2.0

//! What the tests need to know of x86-64.

pub use libc::{SYS_pkey_alloc, SYS_pkey_mprotect, MAP_32BIT};

// Each access is the first instruction of its function.
std::arch::global_asm!(
    ".globl uft_load, uft_store, uft_copy, uft_fault",
    "uft_load:",
    "    movzx eax, byte ptr [rdi]",
    "    ret",
    "uft_store:",
    "    mov byte ptr [rdi], sil",
    "    xor eax, eax",
    "    ret",
    "uft_copy:",
    // Its operands are where the arguments are passed.
    "    rep movsq",
    "    xor eax, eax",
    "    ret",
    "uft_fault:",
    "    mov eax, 0x100",
    "    ret",
);

/// Where a signal has found the program.
pub fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

/// Lets it go on elsewhere.
pub fn set_program_counter(context: &mut libc::ucontext_t, pc: usize) {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] = pc as i64;
}
