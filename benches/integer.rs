//! Integer loops, timed from within: the same static program runs on the host and in a guest.
//!
//! `integer ROUNDS` prints `@begin` and then, for each loop, `@NAME NANOSECONDS CHECKSUM`: CPU time of this
//! process, and a result that must be the same everywhere. What comes next in a loop depends on the data, so that
//! no compiler and no translator folds it.
// UNSAFETY: no operating system library: system calls on raw pointers, and one table in static memory.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym start
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(125)
}

/// Named by `core`'s unwind tables; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
mod nr {
    pub const WRITE: usize = 1;
    pub const EXIT: usize = 60;
    pub const CLOCK_GETTIME: usize = 228;
}

fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
             lateout("rcx") _, lateout("r11") _);
    }
    result
}

fn exit(status: usize) -> ! {
    loop {
        call(nr::EXIT, status, 0, 0);
    }
}

/// CPU time of this process in nanoseconds.
fn cpu_time() -> u64 {
    const CLOCK_PROCESS_CPUTIME_ID: usize = 2;
    let mut time = [0u64; 2];
    call(nr::CLOCK_GETTIME, CLOCK_PROCESS_CPUTIME_ID, time.as_mut_ptr() as usize, 0);
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

fn print(text: &[u8]) {
    call(nr::WRITE, 1, text.as_ptr() as usize, text.len());
}

fn print_number(mut number: u64, end: u8) {
    let mut digits = [0u8; 21];
    digits[20] = end;
    let mut from = 20;
    loop {
        from -= 1;
        if let Some(digit) = digits.get_mut(from) {
            *digit = b'0' + (number % 10) as u8;
        }
        number /= 10;
        if number == 0 {
            break;
        }
    }
    print(digits.get(from..).unwrap_or(&[]));
}

/// Marsaglia's xorshift: every bit of the next value depends on the last.
fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

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

extern "C" fn start(stack: *const usize) -> ! {
    let mut rounds = 0u64;
    if unsafe { *stack } > 1 {
        let mut digit = unsafe { *stack.add(2) } as *const u8;
        while let value @ b'0'..=b'9' = unsafe { *digit } {
            rounds = rounds.wrapping_mul(10).wrapping_add(u64::from(value - b'0'));
            digit = unsafe { digit.add(1) };
        }
    }
    print(b"@begin\n");
    timed(b"@mixed ", || mixed(rounds));
    timed(b"@registers ", || registers(rounds));
    timed(b"@branches ", || branches(rounds / 2));
    timed(b"@memory ", || memory(rounds));
    exit(0)
}
