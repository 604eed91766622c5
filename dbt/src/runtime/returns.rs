//! Return stacks: where the host's calls and returns of translated code go. One per mode, so that code of one privilege
//! never returns into that of another; each ends in a return address that goes by the mode's jump table. A stack that is
//! used up begins anew: below it lies memory that cannot be written, and `exhausted` answers the host's signal. Returns that
//! were forgotten go by the jump table, as do those whose call belongs to another task of the guest's.
// UNSAFETY: maps memory and writes return addresses into it.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::context::MODES;

/// Bytes of a stack. Below each lie as many bytes that are not accessible.
const SIZE: usize = 1 << 16;
const STRIDE: usize = 2 * SIZE;
const MAPPED: usize = STRIDE * (MODES + 1);
/// What the engine keeps of a stack when it enters translated code.
const ROOM: u64 = 64;

/// The stacks of a vCPU.
pub struct Returns {
    mapping: *mut u8,
    base: *mut u8,
    bottom: [u64; MODES],
}

// SAFETY: the mapping belongs to this value.
unsafe impl Send for Returns {}

impl Returns {
    /// Empty stacks that return to `bottom`, one for each mode.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(bottom: [u64; MODES]) -> Result<Self, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces none.
        let mapping = unsafe { mmap_anonymous(null_mut(), MAPPED, ProtFlags::empty(), flags)? }.cast::<u8>();
        // SAFETY: one stride into a mapping that has one more than there are stacks.
        let base = unsafe { mapping.add(STRIDE) };
        let returns = Self { mapping, base, bottom };
        for mode in 0..MODES {
            let protection = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: the upper half of a stride of the mapping just made, which nothing uses yet.
            unsafe { mprotect(base.add(mode * STRIDE).cast(), SIZE, protection) }.inspect_err(|_| {
                // SAFETY: mapped above with this length, and nothing points into it.
                let _ = unsafe { munmap(mapping.cast(), MAPPED) };
            })?;
        }
        Ok(returns)
    }

    fn top(&self, mode: usize) -> u64 {
        self.base as u64 + (mode * STRIDE + SIZE) as u64
    }

    /// The addresses below the stacks: that of the first, and how far each is from the next.
    pub fn below(&self) -> Below {
        Below { first: self.base as u64 - SIZE as u64, bottom: self.bottom }
    }

    /// The stack pointer to go on with where translated code has left `pointer`. A stack that is nearly used up, or that
    /// was popped to the end, begins anew.
    #[inline]
    pub fn settle(&self, mode: usize, pointer: u64) -> u64 {
        let top = self.top(mode);
        let good = (top - SIZE as u64 + ROOM..top).contains(&pointer);
        if good { pointer } else { self.below().begin(mode) }
    }

    /// Empties all stacks: their pointers.
    pub fn empty(&self) -> [u64; MODES] {
        std::array::from_fn(|mode| self.below().begin(mode))
    }
}

/// Where the stacks end, for the signal handler.
#[derive(Debug, Clone, Copy)]
pub struct Below {
    first: u64,
    bottom: [u64; MODES],
}

impl Below {
    /// The mode whose stack was used up by an access to `address`.
    pub fn mode(&self, address: u64) -> Option<usize> {
        let at = address.checked_sub(self.first)? as usize;
        (at < STRIDE * MODES && at % STRIDE < SIZE).then_some(at / STRIDE)
    }

    /// The same, keeping the words that `pointer` points to: a stub may be in the middle of something.
    pub fn begin_with(&self, mode: usize, pointer: u64) -> u64 {
        const KEPT: u64 = 64;
        let top = self.begin(mode) - KEPT;
        // SAFETY: the pointer is that of a stack that is used up, so that there are thousands of words above it; the place
        // is at the other end of the same stack.
        unsafe { std::ptr::copy(pointer as *const u8, top as *mut u8, KEPT as usize) };
        top
    }

    /// Empties a stack: its pointer.
    pub fn begin(&self, mode: usize) -> u64 {
        let mode = mode % MODES;
        let (top, bottom) = (self.first + (mode * STRIDE + STRIDE - 16) as u64, self.bottom[mode]);
        // SAFETY: the last words of a stack of a mapping that lives as long as the vCPU, on whose thread this runs.
        unsafe {
            (top as *mut u64).write(bottom);
            (top as *mut u64).add(1).write(bottom);
        }
        top
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; translated code is not running.
        let _ = unsafe { munmap(self.mapping.cast(), MAPPED) };
    }
}
