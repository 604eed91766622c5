//! Memory that parent and child share: a batch of cases and how they ended.
// UNSAFETY: an anonymous shared mapping, reached by raw pointers.
#![allow(unsafe_code)]

use std::ptr::{NonNull, addr_of, addr_of_mut};

use super::OracleError;
use crate::input::{Input, Outcome};

/// Cases per batch: 1.2 MiB, so that it stays in the second-level cache.
pub const BATCH: usize = 64;

/// What the child could not do; index is `Area::setup`.
pub(super) const SETUP: [&str; 5] = [
    "",
    "map its code and data pages at fixed addresses",
    "install signal handlers",
    "read an XSAVE image in a signal frame: the host cpu or kernel has no AVX",
    "load data segments",
];

/// The shared memory. Parent and child take turns: a byte through a pipe hands it over.
#[repr(C)]
pub(super) struct Area {
    pub setup: u32,
    pub count: u32,
    pub current: u32,
    pub inputs: [Input; BATCH],
    pub outcomes: [Outcome; BATCH],
}

pub(super) struct Shared(NonNull<Area>);

// SAFETY: the mapping belongs to this value, wherever it is.
unsafe impl Send for Shared {}

impl Shared {
    pub fn new() -> Result<Self, OracleError> {
        // SAFETY: a fresh anonymous mapping at a place of the kernel's choice.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Area>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(map.cast::<Area>()) {
            Some(area) if map != libc::MAP_FAILED => Ok(Self(area)),
            _ => Err(OracleError::system("mmap")),
        }
    }

    pub fn pointer(&self) -> *mut Area {
        self.0.as_ptr()
    }

    pub fn put(&mut self, inputs: &[Input]) {
        let inputs = &inputs[..inputs.len().min(BATCH)];
        let area = self.0.as_ptr();
        // SAFETY: the mapping is as large as `Area`, zero bytes are valid for all its fields, the child waits for
        // its pipe, and at most BATCH inputs are copied.
        unsafe {
            let to = addr_of_mut!((*area).inputs).cast::<Input>();
            std::ptr::copy_nonoverlapping(inputs.as_ptr(), to, inputs.len());
            (*area).count = inputs.len() as u32;
            (*area).current = 0;
        }
    }

    pub fn outcomes(&self, count: usize) -> &[Outcome] {
        // SAFETY: the child has handed the memory over and touches it only after the next `put`, which needs
        // `&mut self`; all bit patterns are valid outcomes.
        unsafe {
            let from = addr_of!((*self.0.as_ptr()).outcomes).cast::<Outcome>();
            std::slice::from_raw_parts(from, count.min(BATCH))
        }
    }

    /// The case the child works on.
    pub fn current(&self) -> usize {
        // SAFETY: a plain word of the mapping; the child is dead or waiting.
        unsafe { addr_of!((*self.0.as_ptr()).current).read_volatile() as usize }
    }

    pub fn setup_error(&self) -> Option<&'static str> {
        // SAFETY: as in `current`.
        match unsafe { addr_of!((*self.0.as_ptr()).setup).read_volatile() } {
            0 => None,
            n => Some(SETUP.get(n as usize).copied().unwrap_or("set itself up")),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length and unmapped only here.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Area>()) };
    }
}
