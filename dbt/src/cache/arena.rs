//! Memory for translated code and for the data that it reaches by RIP-relative addresses, side by side. Code is mapped
//! twice, once writable and once executable: no mapping is ever both.
// UNSAFETY: maps memory and copies code into it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::null_mut;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect,
    mremap_fixed, munmap,
};

/// Bytes for code. Pages are taken from the host as they are written.
pub const CODE: usize = 60 << 20;
/// Bytes written until the writable mapping is let go.
const WRITTEN: usize = 512 << 10;
/// The part of it for code that runs usually. What runs rarely lies apart, so that it takes no room in caches.
const HOT: usize = CODE / 3 * 2;
/// Bytes for data.
pub const DATA: usize = 48 << 20;

/// The mappings.
pub struct Arena {
    write: *mut u8,
    exec: *mut u8,
    /// Bytes used of the hot part and of the cold one behind it.
    hot: usize,
    cold: usize,
    /// Bytes that may be used of each.
    limits: [usize; 2],
    /// Bytes of code when the writable mapping was last let go.
    let_go: usize,
}

// SAFETY: the mappings belong to the arena and are reachable from any thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps the arena for `room` bytes of code, [`CODE`] at most. `profiled`: so that profilers take code as what has its
    /// names in a map, not in a file.
    ///
    /// # Errors
    /// The host refuses executable memory.
    pub fn new(profiled: bool, room: usize) -> Result<Self, Errno> {
        let private = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let data = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces none.
        let exec = unsafe { mmap_anonymous(null_mut(), CODE + DATA, data, private)? };
        let unmap_all = |error| {
            // SAFETY: mapped above with this length, and nothing points into it.
            let _ = unsafe { munmap(exec, CODE + DATA) };
            error
        };
        let map = if profiled { map_anonymous } else { map_file };
        let write = map(exec).map_err(unmap_all)?;
        let hot = room.min(CODE) / 3 * 2;
        let limits = [hot, (room.min(CODE) - hot).min(CODE - HOT)];
        Ok(Self { write: write.cast(), exec: exec.cast(), hot: 0, cold: 0, limits, let_go: 0 })
    }

    /// Addresses at which hot and cold code written next are executed.
    pub fn next(&self) -> [u64; 2] {
        [self.exec as u64 + self.hot as u64, self.exec as u64 + (HOT + self.cold) as u64]
    }

    /// True if there is no room for `len` more bytes of code of either kind.
    pub fn is_full(&self, len: usize) -> bool {
        let [hot, cold] = self.limits;
        len > hot.saturating_sub(self.hot) || len > cold.saturating_sub(self.cold)
    }

    /// Appends code. The caller has asked [`is_full`](Self::is_full).
    pub fn add(&mut self, [hot, cold]: [&[u8]; 2]) {
        let write = |to: usize, code: &[u8], end: usize| {
            let len = code.len().min(end - to);
            // SAFETY: within the mapping, beyond all code handed out.
            unsafe { self.write.add(to).copy_from_nonoverlapping(code.as_ptr(), len) };
            (to + len).next_multiple_of(16).min(end)
        };
        let hot = write(self.hot, hot, HOT);
        let cold = write(HOT + self.cold, cold, CODE);
        (self.hot, self.cold) = (hot, cold - HOT);
        if self.used() >= self.let_go + WRITTEN {
            self.let_go = self.used();
            // A page counts for each mapping that shows it. What has been written is seldom written again.
            // SAFETY: the pages stay in the shared mapping's memory and come back when they are touched.
            let _ = unsafe { madvise(self.write.cast(), CODE, Advice::LinuxDontNeed) };
        }
    }

    /// Lets the four-byte reference at `field` lead to `target`; both are addresses of code. Only the thread that runs
    /// the code does this, while it is outside.
    pub fn redirect(&mut self, field: u64, target: u64) {
        let offset = (field - self.exec as u64) as usize;
        let relative = target.wrapping_sub(field + 4) as u32;
        if offset + 4 <= CODE {
            // SAFETY: within the mapping; the address is that of a reference in code that was handed out.
            unsafe { self.write.add(offset).cast::<u32>().write_unaligned(relative) };
        }
    }

    /// Addresses at which code is executed.
    pub fn code(&self) -> std::ops::Range<u64> {
        self.exec as u64..self.exec as u64 + CODE as u64
    }

    /// Address of the data.
    pub fn data(&self) -> *mut u8 {
        // SAFETY: the mapping has `CODE + DATA` bytes.
        unsafe { self.exec.add(CODE) }
    }

    /// Forgets code beyond the first `keep` bytes of the hot part.
    pub fn truncate(&mut self, keep: usize) {
        (self.hot, self.cold) = (keep.min(self.hot), 0);
        self.let_go = 0;
    }

    /// Bytes of code.
    pub fn used(&self) -> usize {
        self.hot + self.cold
    }
}

/// Maps code to `exec`, which is the beginning of an arena's mapping, to be executed, and elsewhere to be written.
fn map_file(exec: *mut c_void) -> Result<*mut c_void, Errno> {
    let file = memfd_create("guesthouse-code", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, CODE as u64)?;
    let code = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: replaces the first part of the arena's mapping.
    unsafe { mmap(exec, CODE, code, MapFlags::SHARED | MapFlags::FIXED, &file, 0) }?;
    let data = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses replaces none.
    unsafe { mmap(null_mut(), CODE, data, MapFlags::SHARED, &file, 0) }
}

/// The same without a file. Hosts that let no mapping become executable refuse it: it is not the first choice.
fn map_anonymous(exec: *mut c_void) -> Result<*mut c_void, Errno> {
    let data = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses replaces none.
    let write = unsafe { mmap_anonymous(null_mut(), CODE, data, MapFlags::SHARED) }?;
    // SAFETY: of a shared mapping, an old size of zero maps its pages a second time (mremap(2)); this replaces the first
    // part of the arena's mapping.
    let second = unsafe {
        mremap_fixed(write, 0, CODE, MremapFlags::MAYMOVE, exec)
            .and_then(|_| mprotect(exec, CODE, MprotectFlags::READ | MprotectFlags::EXEC))
    };
    second.map(|()| write).inspect_err(|_| {
        // SAFETY: mapped above with this length, and nothing points into it.
        let _ = unsafe { munmap(write, CODE) };
    })
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both were mapped with these lengths; the vCPU that ran the code goes with the arena.
        unsafe {
            let _ = munmap(self.exec.cast(), CODE + DATA);
            let _ = munmap(self.write.cast(), CODE);
        }
    }
}
