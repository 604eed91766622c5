//! Scanning, copying and chasing through memory.
// UNSAFETY: aligned vector loads up to the end of a string, as a C library's are, and a string instruction.

use core::arch::asm;
use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_setzero_si128};
use core::hint::black_box;

use crate::Scale;
use crate::sys::{self, SEED, xorshift};

/// The length of strings of up to a page, found sixteen bytes at a time.
pub fn strlen(scale: Scale) -> Option<u64> {
    let text = sys::zeroed::<u8>(8192);
    text[..4095].fill(b'a');
    let mut sum = 0u64;
    for round in 0..scale.of(5_000_000) {
        let from = (round % 16 * 240) as usize;
        // SAFETY: the text ends with a zero byte.
        sum = sum.wrapping_add(unsafe { length(black_box(&text[from])) });
    }
    Some(sum)
}

/// # Safety
/// There is a zero byte at or behind `text`, up to whose aligned sixteen bytes all may be read.
#[inline(never)]
unsafe fn length(text: *const u8) -> u64 {
    let skipped = text as usize % 16;
    let mut at = text.wrapping_sub(skipped);
    // SAFETY: aligned, and not beyond the sixteen bytes that hold the zero.
    let zeros = |at: *const u8| unsafe {
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_load_si128(at.cast()), _mm_setzero_si128()))
    };
    // What is before the text does not count.
    let mut found = zeros(at) >> skipped << skipped;
    while found == 0 {
        at = at.wrapping_add(16);
        found = zeros(at);
    }
    (at as usize - text as usize).wrapping_add(found.trailing_zeros() as usize) as u64
}

/// Copies of 1 MiB, of single pages, and of a few bytes at odd addresses.
pub fn rep_movs(scale: Scale) -> Option<u64> {
    const LEN: usize = 1 << 20;
    let (from, to) = (sys::zeroed::<u8>(LEN), sys::zeroed::<u8>(LEN));
    let mut x = SEED;
    for byte in from.iter_mut() {
        x = xorshift(x);
        *byte = x as u8;
    }
    let mut sum = 0u64;
    for round in 0..scale.of(8000) as usize {
        copy(to, from);
        for page in 0..64 {
            copy(&mut to[page * 4096..][..4096], &from[page * 8192 + round % 64 * 64..]);
        }
        for place in 0..256 {
            copy(&mut to[place * 77 + round % 5..][..61], &from[place * 33 + round % 3..]);
        }
        sum = sum.rotate_left(5) ^ u64::from(to[round * 4093 % LEN]);
    }
    Some(sum)
}

/// As many bytes as both have.
fn copy(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    // SAFETY: `len` bytes are in both.
    unsafe {
        asm!("rep movsb", inout("rdi") to.as_mut_ptr() => _, inout("rsi") from.as_ptr() => _, inout("rcx") len => _,
             options(nostack, preserves_flags));
    }
}

/// A walk along pointers all over 32 MiB: address translation and little else.
pub fn chase(scale: Scale) -> Option<u64> {
    const LEN: usize = 8 << 20;
    let next = sys::zeroed::<u32>(LEN);
    for (i, next) in next.iter_mut().enumerate() {
        // A linear congruence of full period modulo 2^23: one cycle through all places.
        *next = (i as u32).wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f) % LEN as u32;
    }
    let (mut at, mut sum) = (0u32, 0u64);
    for _ in 0..scale.of(2_000_000) {
        at = next[at as usize % LEN];
        sum = sum.rotate_left(1) ^ u64::from(at);
    }
    Some(sum)
}
