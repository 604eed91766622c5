//! What the programs of this folder have in place of an operating system library: the first instruction, system
//! calls, output, and memory. They are freestanding, so that host and guest run exactly the same code.
// UNSAFETY: system calls on raw pointers, and the arguments that the kernel leaves on the stack.
#![allow(dead_code)]

use core::arch::{asm, global_asm};
use core::ffi::CStr;

// The kernel enters with the arguments on a stack that is aligned but holds no return address.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start
);

extern "C" fn start(stack: *const usize) -> ! {
    exit(crate::main(Arguments { stack }))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(125)
}

/// Named by `core`'s unwind tables; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The compiler asks for it where it clears memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller has the bytes; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") len => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// The compiler asks for it where it copies memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: as for `memset`.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
             options(nostack, preserves_flags));
    }
    to
}

/// `CStr` asks for it.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let left: usize;
    // SAFETY: the caller has a zero byte there; the direction flag is clear by the calling convention.
    unsafe {
        asm!("repne scasb", inout("rdi") text => _, inout("rcx") usize::MAX => left, in("al") 0u8,
             options(nostack, readonly));
    }
    // One for each byte, one for the zero, counted down from -1.
    !left - 1
}

/// The program's arguments, without its name; behind them the environment.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// Their number, and a pointer to each; then a null pointer, the environment and another null pointer.
    stack: *const usize,
}

impl Arguments {
    pub fn get(self, index: usize) -> Option<&'static CStr> {
        // SAFETY: the kernel laid this out; the strings last as long as the process.
        unsafe { (index + 1 < *self.stack).then(|| CStr::from_ptr(*self.stack.add(index + 2) as *const i8)) }
    }

    /// A decimal number; what is none, is 0.
    pub fn number(self, index: usize) -> Option<u64> {
        let digit = |n: u64, c: &u8| n.wrapping_mul(10).wrapping_add(u64::from(c.wrapping_sub(b'0')));
        self.get(index).map(|text| text.to_bytes().iter().fold(0, digit))
    }

    /// Argument and environment pointers as `execve` wants them, the former from `index` on.
    pub fn vectors(self, index: usize) -> [usize; 2] {
        // SAFETY: as for `get`; only called with the index of an argument.
        unsafe { [self.stack.add(index + 2) as usize, self.stack.add(*self.stack + 2) as usize] }
    }
}

/// Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const MMAP: usize = 9;
    pub const MUNMAP: usize = 11;
    pub const PIPE: usize = 22;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const GETRUSAGE: usize = 98;
    pub const GETPPID: usize = 110;
    pub const CLOCK_GETTIME: usize = 228;
}

pub fn call(number: usize, arguments: [usize; 3]) -> isize {
    call6(number, [arguments[0], arguments[1], arguments[2], 0, 0, 0])
}

pub fn call6(number: usize, a: [usize; 6]) -> isize {
    let result;
    // SAFETY: what the kernel writes, it writes where the callers in this folder point it to.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _);
    }
    result
}

pub fn exit(status: usize) -> ! {
    loop {
        call(nr::EXIT, [status, 0, 0]);
    }
}

/// Ends the program if a system call failed.
pub fn check(result: isize) -> usize {
    usize::try_from(result).unwrap_or_else(|_| exit(124))
}

/// CPU time of this process in nanoseconds.
pub fn cpu_time() -> u64 {
    const CLOCK_PROCESS_CPUTIME_ID: usize = 2;
    let mut time = [0u64; 2];
    call(nr::CLOCK_GETTIME, [CLOCK_PROCESS_CPUTIME_ID, time.as_mut_ptr() as usize, 0]);
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

/// CPU time of the children that were waited for, user and system, in nanoseconds.
pub fn cpu_time_of_children() -> u64 {
    const RUSAGE_CHILDREN: usize = usize::MAX;
    let mut usage = [0u64; 18];
    call(nr::GETRUSAGE, [RUSAGE_CHILDREN, usage.as_mut_ptr() as usize, 0]);
    let [seconds, micros, system_seconds, system_micros, ..] = usage;
    (seconds + system_seconds) * 1_000_000_000 + (micros + system_micros) * 1000
}

/// Runs `work` in a child process, which ends with the status that it returns; the child's number.
pub fn spawn(work: impl FnOnce() -> usize) -> usize {
    match check(call(nr::FORK, [0, 0, 0])) {
        0 => exit(work()),
        child => child,
    }
}

/// Waits for a child: its exit status, or 128 and the signal that ended it.
pub fn wait(child: usize) -> usize {
    let mut status = 0u32;
    check(call6(nr::WAIT4, [child, (&raw mut status) as usize, 0, 0, 0, 0]));
    let (code, signal) = (status >> 8 & 0xff, status & 0x7f);
    if signal == 0 { code as usize } else { 128 + signal as usize }
}

pub fn print(text: &[u8]) {
    call(nr::WRITE, [1, text.as_ptr() as usize, text.len()]);
}

pub fn print_number(mut number: u64, end: u8) {
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

/// Memory that may also be executed, or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    Data = 3,
    Code = 7,
}

/// Fresh zeroed memory.
pub fn map(len: usize, protection: Protection) -> *mut u8 {
    const PRIVATE_ANONYMOUS: usize = 0x22;
    check(call6(nr::MMAP, [0, len, protection as usize, PRIVATE_ANONYMOUS, usize::MAX, 0])) as *mut u8
}

pub fn unmap(at: *mut u8, len: usize) {
    check(call(nr::MUNMAP, [at as usize, len, 0]));
}

/// Types of which zero bytes are a value and that have no more than a page's alignment.
pub trait Plain {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f64 {}

/// Zeroed memory, aligned to a page, for as long as the process lives.
pub fn zeroed<T: Plain>(len: usize) -> &'static mut [T] {
    let memory = map(len * size_of::<T>(), Protection::Data);
    // SAFETY: a mapping of that size which nobody else has.
    unsafe { core::slice::from_raw_parts_mut(memory.cast(), len) }
}

pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Marsaglia's xorshift: every bit of the next value depends on the last.
pub fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}
