//! Programs that write programs.
// UNSAFETY: memory that is written and then called.

use crate::Scale;
use crate::sys::{self, Protection, SEED, xorshift};

/// A function whose constant is another at each call.
pub fn self_modifying(scale: Scale) -> Option<u64> {
    const MOV_EAX: u8 = 0xb8;
    const RET: u8 = 0xc3;
    // The constant behind the opcode is aligned, as a volatile store has to be.
    let start = sys::map(4096, Protection::Code).wrapping_add(3);
    let mut sum = 0u64;
    // SAFETY: `mov eax, constant; ret` keeps the calling convention.
    unsafe {
        start.write(MOV_EAX);
        start.add(5).write(RET);
        let function: extern "C" fn() -> u32 = core::mem::transmute(start);
        for round in 0..scale.of(6_000_000) {
            start.add(1).cast::<u32>().write_volatile(round as u32 ^ SEED as u32);
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(function()));
        }
    }
    Some(sum)
}

/// Functions that are written, called a few times and never again, as compilers at run time leave them.
pub fn jit_churn(scale: Scale) -> Option<u64> {
    const LEN: usize = 1 << 20;
    let memory = sys::map(LEN, Protection::Code);
    // SAFETY: a mapping of that size; only this slice writes to it.
    let code = unsafe { core::slice::from_raw_parts_mut(memory, LEN) };
    let (mut random, mut at, mut sum) = (SEED, 0, 0u64);
    for _ in 0..scale.of(1_000_000) {
        if at + MOST > LEN {
            at = 0;
        }
        let place = &mut code[at..at + MOST];
        random = xorshift(random);
        let len = emit(place, random);
        // SAFETY: what `emit` writes keeps the calling convention.
        let function: extern "C" fn(u64) -> u64 = unsafe { core::mem::transmute(place.as_ptr()) };
        for call in 0..4 {
            sum = sum.rotate_left(1) ^ function(sum ^ call);
        }
        at = (at + len).next_multiple_of(16);
    }
    Some(sum)
}

/// The most bytes that [`emit`] writes.
const MOST: usize = 256;

/// Writes a function of eight groups of instructions with constants that depend on `random`; its length.
fn emit(place: &mut [u8], mut random: u64) -> usize {
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        for (to, from) in place[len..].iter_mut().zip(bytes) {
            *to = *from;
        }
        len += bytes.len();
    };
    put(&[0x48, 0x89, 0xf8]); // mov rax, rdi
    for _ in 0..8 {
        random = xorshift(random);
        let [a, b, c, d, ..] = random.to_le_bytes();
        put(&[0x48, 0x05, a, b, c, d]); // add rax, imm32
        match random >> 61 {
            0..3 => put(&[0x48, 0xd1, 0xc7, 0x48, 0x31, 0xf8]), // rol rdi, 1; xor rax, rdi
            3..6 => put(&[0x85, 0xc0, 0x78, 0x03, 0x48, 0xff, 0xc0]), // test eax, eax; js +3; inc rax
            _ => put(&[0x48, 0x8d, 0x04, 0x40, 0x48, 0x29, 0xf8]), // lea rax, [rax + rax * 2]; sub rax, rdi
        }
    }
    put(&[0xc3]); // ret
    len
}
