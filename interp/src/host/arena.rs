//! Executable memory for stubs. The same pages are mapped twice, once writable and once executable, so that no
//! mapping is ever both.
// UNSAFETY: maps memory, writes code into it and hands out entry points.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{null_mut, with_exposed_provenance_mut};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use thiserror::Error;

/// Address space reserved; pages are taken from the host as stubs are written. All forms with all immediates
/// together need less.
const SIZE: usize = 32 << 20;
const ALIGN: usize = 32;

/// Why no stub can be made.
#[derive(Debug, Error)]
pub(super) enum ArenaError {
    #[error("the host refuses executable memory ({0}): allow memfd_create and executable shared mappings")]
    Refused(#[from] Errno),
    #[error("all {SIZE} bytes for host code are used: restart the machine")]
    Full,
}

/// A bump allocator of code. What is written stays for the life of the process.
pub(super) struct Arena {
    write: *mut u8,
    exec: *mut u8,
    used: usize,
}

// SAFETY: the mappings belong to the arena and are reachable from any thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Reserves the address space.
    pub fn new() -> Result<Self, ArenaError> {
        let file = memfd_create("guesthouse-stubs", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, SIZE as u64)?;
        let map = |protection| {
            // SAFETY: a new mapping at an address that the kernel chooses replaces none.
            unsafe { mmap(null_mut(), SIZE, protection, MapFlags::SHARED, &file, 0) }
        };
        let write = map(ProtFlags::READ | ProtFlags::WRITE)?;
        match map(ProtFlags::READ | ProtFlags::EXEC) {
            Ok(exec) => Ok(Self { write: write.cast(), exec: exec.cast(), used: 0 }),
            Err(error) => {
                // SAFETY: `write` was mapped above with this length and nothing points into it.
                let _ = unsafe { munmap(write, SIZE) };
                Err(error.into())
            }
        }
    }

    /// Copies code in and gives its address.
    pub fn add(&mut self, code: &[u8]) -> Result<*const c_void, ArenaError> {
        let start = self.used.next_multiple_of(ALIGN);
        if code.len() > SIZE - start.min(SIZE) {
            return Err(ArenaError::Full);
        }
        // SAFETY: `start + code.len()` is within both mappings. Nothing executes these bytes yet: entry points
        // of earlier stubs lie below `used`.
        let entry = unsafe {
            self.write.add(start).copy_from_nonoverlapping(code.as_ptr(), code.len());
            self.exec.add(start)
        };
        self.used = start + code.len();
        Ok(with_exposed_provenance_mut::<c_void>(entry.expose_provenance()))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Entry points may be in use: only an arena that never gave one out is unmapped.
        if self.used == 0 {
            // SAFETY: both were mapped with this length and nothing points into them.
            unsafe {
                let _ = munmap(self.write.cast(), SIZE);
                let _ = munmap(self.exec.cast(), SIZE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_and_is_not_writable_where_it_runs() {
        let mut arena = Arena::new().unwrap();
        let entry = arena.add(&[0xb8, 42, 0, 0, 0, 0xc3]).unwrap(); // mov eax,42; ret
        // SAFETY: the bytes above are a function of this type.
        let function = unsafe { std::mem::transmute::<*const c_void, extern "sysv64" fn() -> u32>(entry) };
        assert_eq!(function(), 42);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ours: Vec<_> = maps.lines().filter(|l| l.contains("guesthouse-stubs")).collect();
        assert!(ours.len() >= 2);
        assert!(ours.iter().all(|l| !l.contains("rwx")), "{ours:?}");
    }

    #[test]
    fn a_full_arena_says_so() {
        let mut arena = Arena::new().unwrap();
        arena.used = SIZE - 4;
        assert!(matches!(arena.add(&[0; 16]), Err(ArenaError::Full)));
    }
}
