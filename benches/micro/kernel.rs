//! Into the kernel and back, and from one process to another.
// UNSAFETY: mappings that are touched through their address.

use crate::Scale;
use crate::sys::{self, Arguments, Protection, SEED, call, check, nr, xorshift};

pub fn getppid(scale: Scale) -> Option<u64> {
    let rounds = scale.of(2_000_000);
    for _ in 0..rounds {
        check(call(nr::GETPPID, [0, 0, 0]));
    }
    // The number itself is another in each system.
    Some(rounds)
}

const PAGE: usize = 4096;

/// First touch of fresh pages, 64 at a time: too few for the kernel to take a large one.
pub fn page_fault(scale: Scale) -> Option<u64> {
    const PAGES: usize = 64;
    let mut sum = 0u64;
    for round in 0..scale.of(2000) {
        let memory = sys::map(PAGES * PAGE, Protection::Data);
        for page in 0..PAGES {
            let byte = memory.wrapping_add(page * PAGE);
            // SAFETY: within the mapping, which nobody else has.
            unsafe {
                sum = sum.wrapping_add(u64::from(byte.read_volatile()) + round);
                byte.write_volatile(1);
            }
        }
        sys::unmap(memory, PAGES * PAGE);
    }
    Some(sum)
}

/// A mapping made and removed, again and again, with one page of it touched.
pub fn mmap(scale: Scale) -> Option<u64> {
    let rounds = scale.of(50_000);
    for _ in 0..rounds {
        let memory = sys::map(4 * PAGE, Protection::Data);
        // SAFETY: as in `page_fault`.
        unsafe { memory.write_volatile(1) };
        sys::unmap(memory, 4 * PAGE);
    }
    Some(rounds)
}

/// A byte there and back between two processes.
pub fn pipe(scale: Scale) -> Option<u64> {
    let rounds = scale.of(60_000);
    let ([from_child, to_parent], [from_parent, to_child]) = (new_pipe(), new_pipe());
    let child = sys::spawn(|| {
        for _ in 0..rounds {
            let byte = receive(from_parent);
            send(to_parent, byte.wrapping_mul(5).wrapping_add(1));
        }
        0
    });
    let mut sum = 0u64;
    for round in 0..rounds {
        send(to_child, round as u8);
        sum = sum.rotate_left(3) ^ u64::from(receive(from_child));
    }
    sys::wait(child);
    Some(sum)
}

fn new_pipe() -> [usize; 2] {
    let mut ends = [0u32; 2];
    check(call(nr::PIPE, [ends.as_mut_ptr() as usize, 0, 0]));
    ends.map(|end| end as usize)
}

fn send(to: usize, byte: u8) {
    check(call(nr::WRITE, [to, (&raw const byte) as usize, 1]));
}

fn receive(from: usize) -> u8 {
    let mut byte = 0u8;
    check(call(nr::READ, [from, (&raw mut byte) as usize, 1]));
    byte
}

pub fn one_job(scale: Scale) -> Option<u64> {
    Some(jobs(1, scale))
}

/// The same job twice at once.
pub fn two_jobs(scale: Scale) -> Option<u64> {
    Some(jobs(2, scale))
}

/// Processes that have nothing to do with each other.
fn jobs(count: u64, scale: Scale) -> u64 {
    let mut children = [0; 2];
    let children = &mut children[..count as usize];
    for child in children.iter_mut() {
        *child = sys::spawn(|| (0..scale.of(200_000_000)).fold(SEED, |x, _| xorshift(x)) as usize % 251);
    }
    children.iter().fold(0, |sum, &child| sum * 256 + sys::wait(child) as u64)
}

/// Runs the command that the arguments are behind the first; its status.
pub fn command(arguments: Arguments) -> usize {
    let Some(program) = arguments.get(1) else { return 127 };
    let [argv, envp] = arguments.vectors(1);
    sys::wait(sys::spawn(|| {
        call(nr::EXECVE, [program.as_ptr() as usize, argv, envp]);
        127
    }))
}
