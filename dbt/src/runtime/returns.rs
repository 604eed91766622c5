//! Return stacks: where the host's calls and returns of translated code go. One per mode, so that code of one privilege
//! never returns into that of another; each ends in a return address that asks the engine.
// UNSAFETY: maps memory and writes return addresses into it.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::context::MODES;

/// Bytes of a stack. Below each lie as many bytes, for signal handlers of the process and for the look-up stubs.
const SIZE: usize = 1 << 16;
/// The address bit that says that a stack is used up: it is clear in all stacks, and set below them.
pub const EXHAUSTED: i32 = SIZE as i32;
const STRIDE: usize = 2 * SIZE;
const MAPPED: usize = STRIDE * (MODES + 2);

/// The stacks of a vCPU.
pub struct Returns {
    mapping: *mut u8,
    base: *mut u8,
    /// Stack pointers.
    pointers: [u64; MODES],
    bottom: u64,
}

// SAFETY: the mapping belongs to this value.
unsafe impl Send for Returns {}

impl Returns {
    /// Empty stacks that return to `bottom`.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(bottom: u64) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces none.
        let mapping = unsafe { mmap_anonymous(null_mut(), MAPPED, protection, flags)? }.cast::<u8>();
        let first = (mapping as usize).next_multiple_of(STRIDE) + STRIDE;
        // SAFETY: less than two strides from the beginning of a mapping that has two more than there are stacks.
        let base = unsafe { mapping.add(first - mapping as usize) };
        let mut returns = Self { mapping, base, pointers: [0; MODES], bottom };
        (0..MODES).for_each(|mode| returns.reset(mode));
        Ok(returns)
    }

    fn top(&self, mode: usize) -> u64 {
        self.base as u64 + (mode * STRIDE + SIZE) as u64
    }

    /// The stack pointer of a mode. A stack that is used up, or that was popped to the end, begins anew.
    pub fn pointer(&mut self, mode: usize) -> u64 {
        let pointer = self.pointers[mode];
        if pointer & EXHAUSTED as u64 != 0 || pointer >= self.top(mode) {
            self.reset(mode);
        }
        self.pointers[mode]
    }

    /// Takes over the stack pointer that translated code has left.
    pub fn set(&mut self, mode: usize, pointer: u64) {
        self.pointers[mode] = pointer;
    }

    /// Empties a stack.
    pub fn reset(&mut self, mode: usize) {
        let top = self.top(mode) - 16;
        self.pointers[mode] = top;
        // SAFETY: the last words of the stack, which lies in the mapping.
        unsafe {
            let at = self.base.add(mode * STRIDE + SIZE - 16).cast::<u64>();
            at.write(self.bottom);
            at.add(1).write(self.bottom);
        }
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; translated code is not running.
        let _ = unsafe { munmap(self.mapping.cast(), MAPPED) };
    }
}
