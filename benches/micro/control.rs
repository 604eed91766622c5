//! Ways to get from one piece of code to another.
// UNSAFETY: empty assembly, which keeps the compiler from making a loop of a recursion.

use core::arch::asm;
use core::hint::black_box;

use crate::Scale;
use crate::sys::{self, SEED, xorshift};

/// Fibonacci numbers by the definition.
pub fn calls(scale: Scale) -> Option<u64> {
    Some(
        (0..scale.of(500)).fold(0, |sum, round| sum * 3 % 0xffff_ffff + fibonacci(black_box(26 + round % 3))),
    )
}

#[inline(never)]
fn fibonacci(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let mut second = fibonacci(n - 2);
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) second, options(nomem, nostack, preserves_flags)) };
    fibonacci(n - 1) + second
}

/// Calls by pointer, each to one of four functions at random.
pub fn indirect(scale: Scale) -> Option<u64> {
    let functions: [fn(u32) -> u32; 4] =
        black_box([|x| x.wrapping_add(1), |x| x ^ 3, |x| x.wrapping_mul(5), |x| x.wrapping_sub(7)]);
    let (mut x, mut random) = (1, SEED as u32);
    for _ in 0..scale.of(40_000_000) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x = functions[(random >> 30) as usize](x);
    }
    Some(u64::from(x))
}

/// An interpreter of bytecode: one jump by a table for each few instructions.
pub fn bytecode(scale: Scale) -> Option<u64> {
    let program = sys::zeroed::<u8>(4096);
    let mut random = SEED;
    for operation in program.iter_mut() {
        random = xorshift(random);
        *operation = (random % 8) as u8;
    }
    let (mut a, mut b) = (1u64, 2u64);
    for _ in 0..scale.of(15_000) {
        for operation in program.iter() {
            match operation {
                0 => a = a.wrapping_add(b),
                1 => b ^= a,
                2 => a = a.rotate_left(1),
                3 => b = b.wrapping_sub(a),
                4 => a = a.wrapping_mul(3),
                5 => b = b.wrapping_add(7),
                6 => a ^= b >> 3,
                _ => b = !b,
            }
        }
    }
    Some(a ^ b)
}

/// Quick sort of two million numbers, which are compared by a function, as a C library's sort does.
pub fn sort(scale: Scale) -> Option<u64> {
    let numbers = sys::zeroed::<u32>(scale.of(3_000_000) as usize);
    let mut random = SEED;
    for number in numbers.iter_mut() {
        random = xorshift(random);
        *number = random as u32;
    }
    quick_sort(numbers, black_box(|a, b| a < b));
    Some(numbers.iter().enumerate().fold(0, |sum, (i, &number)| sum ^ u64::from(number) << (i % 32)))
}

fn quick_sort(mut numbers: &mut [u32], less: fn(u32, u32) -> bool) {
    while numbers.len() > 12 {
        let pivot = numbers[numbers.len() / 2];
        let (mut low, mut high) = (0, numbers.len() - 1);
        // Everything below `low` is at most the pivot, everything above `high` at least.
        loop {
            while less(numbers[low], pivot) {
                low += 1;
            }
            while less(pivot, numbers[high]) {
                high -= 1;
            }
            if low >= high {
                break;
            }
            numbers.swap(low, high);
            low += 1;
            high -= 1;
        }
        let (below, above) = numbers.split_at_mut(low);
        // The larger part by the loop, so that the stack stays small.
        let (smaller, larger) = if below.len() < above.len() { (below, above) } else { (above, below) };
        quick_sort(smaller, less);
        numbers = larger;
    }
    for end in 1..numbers.len() {
        let mut at = end;
        while at > 0 && less(numbers[at], numbers[at - 1]) {
            numbers.swap(at, at - 1);
            at -= 1;
        }
    }
}
