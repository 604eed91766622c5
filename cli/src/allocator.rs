//! The C library's allocator is told to give large buffers back.
// UNSAFETY: its options have no safe wrapper among our dependencies.
#![allow(unsafe_code)]

/// Bytes from which an allocation is a mapping of its own.
const LARGE: libc::c_int = 128 << 10;

/// By itself the library moves that limit up when a large buffer is freed. The next ones, kernels and initrds that are read
/// only to be copied into the guest, would leave holes in the heap for as long as the guest lives.
pub fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets an option; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
