//! Small programs, each of which does one thing that engines differ in; the same static file for host and guests.
//!
//! `micro NAME [PERCENT]` prints `@begin`, does its work (a quarter to one second natively; PERCENT makes it shorter or
//! longer), and prints `@NAME NANOSECONDS RESULT`: CPU time, user and system, of it and its children, and what it
//! computed, which must be the same everywhere. A CPU that lacks what the work needs makes it `@NAME 0 -`.
//!
//! `micro -- COMMAND...` runs a command between the same marks, named `done`; the result is its status.
//!
//! Without an argument the names are listed.
#![no_std]
#![no_main]

mod code;
mod control;
mod cpu;
mod crypto;
mod kernel;
mod memory;
mod numbers;
#[path = "../sys.rs"]
mod sys;

use core::ffi::CStr;

use sys::Arguments;

/// How often, per cent of the usual.
#[derive(Clone, Copy)]
pub struct Scale(u64);

impl Scale {
    pub fn of(self, rounds: u64) -> u64 {
        (rounds * self.0 / 100).max(1)
    }
}

/// What one of the programs computes; nothing if the CPU cannot.
type Work = fn(Scale) -> Option<u64>;

const PROGRAMS: [(&CStr, Work); 21] = [
    (c"matmul-sse2", numbers::matmul_sse2),
    (c"matmul-avx2", numbers::matmul_avx2),
    (c"x87", numbers::x87),
    (c"aes", crypto::aes),
    (c"sha", crypto::sha),
    (c"sha-plain", crypto::sha_plain),
    (c"strlen", memory::strlen),
    (c"rep-movs", memory::rep_movs),
    (c"chase", memory::chase),
    (c"calls", control::calls),
    (c"indirect", control::indirect),
    (c"bytecode", control::bytecode),
    (c"sort", control::sort),
    (c"getppid", kernel::getppid),
    (c"page-fault", kernel::page_fault),
    (c"mmap", kernel::mmap),
    (c"pipe", kernel::pipe),
    (c"self-modifying", code::self_modifying),
    (c"jit-churn", code::jit_churn),
    (c"one-job", kernel::one_job),
    (c"two-jobs", kernel::two_jobs),
];

fn main(arguments: Arguments) -> usize {
    let Some(name) = arguments.get(0) else {
        for (name, _) in PROGRAMS {
            sys::print(name.to_bytes());
            sys::print(b"\n");
        }
        return 0;
    };
    let result = if name == c"--" {
        sys::print(b"@begin\n");
        (c"done", Some(kernel::command(arguments) as u64))
    } else {
        let Some((name, work)) = PROGRAMS.into_iter().find(|program| program.0 == name) else { return 2 };
        sys::print(b"@begin\n");
        (name, work(Scale(arguments.number(1).unwrap_or(100))))
    };
    report(result.0, result.1);
    0
}

fn report(name: &CStr, result: Option<u64>) {
    let spent = sys::cpu_time() + sys::cpu_time_of_children();
    sys::print(b"@");
    sys::print(name.to_bytes());
    match result {
        Some(result) => {
            sys::print(b" ");
            sys::print_number(spent, b' ');
            sys::print_number(result, b'\n');
        }
        None => sys::print(b" 0 -\n"),
    }
}
