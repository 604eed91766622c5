//! Integer loops, timed from within: the same static program runs on the host and in a guest.
//!
//! `integer ROUNDS` prints `@begin` and then, for each loop, `@NAME NANOSECONDS CHECKSUM`: CPU time of this
//! process, and a result that must be the same everywhere. What comes next in a loop depends on the data, so that
//! no compiler and no translator folds it.
// UNSAFETY: empty assembly, which keeps the compiler from folding a branch, and one table in static memory.
#![no_std]
#![no_main]

mod sys;

use core::arch::asm;

use sys::{Arguments, SEED, cpu_time, print, print_number, xorshift};

/// What a program's own integer work is like: a random number, at most sixty steps of its Collatz walk, by branches
/// that depend on the data, and a count.
fn mixed(rounds: u64) -> u64 {
    let (mut x, mut sum) = (SEED, 0u64);
    for _ in 0..rounds {
        x = xorshift(x);
        let mut n = x as u32 & 0xffff;
        let mut steps = 0u64;
        while n > 1 && steps < 60 {
            if n & 1 != 0 {
                n = n.wrapping_mul(3).wrapping_add(1);
                // Keeps the compiler from making a conditional move of it.
                unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
            } else {
                n >>= 1;
            }
            steps = steps.wrapping_add(1);
        }
        sum = sum.wrapping_add(steps);
    }
    sum
}

/// The Collatz walk of random numbers by conditional moves: arithmetic alone, which a host does several at a time.
fn registers(rounds: u64) -> u64 {
    let (mut x, mut sum) = (SEED, 0u64);
    for _ in 0..rounds {
        x = xorshift(x);
        let mut n = x & 0xffff | 1;
        while n != 1 {
            n = if n & 1 == 0 { n >> 1 } else { 3 * n + 1 };
            sum = sum.rotate_left(1).wrapping_add(n);
        }
    }
    sum
}

/// The same walk by branches, which no CPU predicts well.
fn branches(rounds: u64) -> u64 {
    let (mut x, mut sum) = (SEED, 0u64);
    for _ in 0..rounds {
        x = xorshift(x);
        let mut n = x & 0xffff | 1;
        while n != 1 {
            if n & 1 == 0 {
                n >>= 1;
                // Keeps the compiler from making a conditional move of it.
                unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
            } else {
                n = 3 * n + 1;
            }
            sum = sum.rotate_left(1).wrapping_add(n);
        }
    }
    sum
}

const WORDS: usize = 1 << 16;
static mut TABLE: [u64; WORDS] = [0; WORDS];

/// Reads and writes at random places of half a megabyte: 128 pages.
fn memory(rounds: u64) -> u64 {
    let table = unsafe { (&raw mut TABLE).as_mut() }.map_or(&mut [][..], |table| &mut table[..]);
    let (mut x, mut sum) = (SEED, 0u64);
    for _ in 0..rounds.wrapping_mul(20) {
        x = xorshift(x);
        for shift in [0, 16, 32, 48] {
            if let Some(word) = table.get_mut((x >> shift) as usize % WORDS) {
                sum ^= *word;
                *word = word.rotate_left(9).wrapping_add(x);
            }
        }
    }
    sum
}

fn timed(name: &[u8], run: impl FnOnce() -> u64) {
    let start = cpu_time();
    let checksum = run();
    let spent = cpu_time().wrapping_sub(start);
    print(name);
    print_number(spent, b' ');
    print_number(checksum, b'\n');
}

fn main(arguments: Arguments) -> usize {
    let rounds = arguments.number(0).unwrap_or(0);
    print(b"@begin\n");
    timed(b"@mixed ", || mixed(rounds));
    timed(b"@registers ", || registers(rounds));
    timed(b"@branches ", || branches(rounds / 2));
    timed(b"@memory ", || memory(rounds));
    0
}
