//! Single accesses to guest RAM through host pointers. Written as one instruction each, so that an access is
//! as atomic and as ordered for other vCPUs as the guest's own instruction would be, aligned or not.
// UNSAFETY: raw loads, stores and locked operations on guest RAM.
#![allow(unsafe_code)]

use std::arch::asm;

/// Integers of the sizes that a guest instruction moves.
pub(crate) trait Int: Copy + Eq + Default + std::fmt::Debug {
    /// Bytes.
    const SIZE: usize;
    /// Bits.
    const BITS: u32 = Self::SIZE as u32 * 8;
    /// Truncates.
    fn of(value: u64) -> Self;
    /// Zero-extends.
    fn zx(self) -> u64;
    /// Sign-extends.
    fn sx(self) -> u64;
    /// # Safety
    /// `from` is readable for `SIZE` bytes of guest RAM.
    unsafe fn load(from: *const u8) -> Self;
    /// # Safety
    /// `to` is writable for `SIZE` bytes of guest RAM.
    unsafe fn store(to: *mut u8, value: Self);
    /// Compare-and-swap with LOCK; returns the value that was there.
    /// # Safety
    /// `at` is writable for `SIZE` bytes of guest RAM.
    unsafe fn swap_if(at: *mut u8, expected: Self, new: Self) -> Self;
}

macro_rules! int {
    ($ty:ty, $signed:ty, $mov:literal, $store:literal, $cas:literal, $class:ident, $out:ty) => {
        impl Int for $ty {
            const SIZE: usize = size_of::<$ty>();
            #[inline(always)]
            fn of(value: u64) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn zx(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn sx(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                let value: $out;
                // SAFETY: the caller vouches for the pointer; the instruction reads exactly SIZE bytes.
                unsafe { asm!($mov, out($class) value, in(reg) from, options(nostack, readonly, preserves_flags)) };
                value as $ty
            }
            #[inline(always)]
            unsafe fn store(to: *mut u8, value: Self) {
                // SAFETY: the caller vouches for the pointer; the instruction writes exactly SIZE bytes.
                unsafe { asm!($store, in($class) value as $out, in(reg) to, options(nostack, preserves_flags)) };
            }
            #[inline(always)]
            unsafe fn swap_if(at: *mut u8, expected: Self, new: Self) -> Self {
                let mut seen = expected.zx();
                // SAFETY: the caller vouches for the pointer; RAX is the only register written.
                unsafe { asm!($cas, in(reg) at, in($class) new as $out, inout("rax") seen, options(nostack)) };
                seen as $ty
            }
        }
    };
}

int!(
    u8,
    i8,
    "movzx {:e}, byte ptr [{}]",
    "mov byte ptr [{1}], {0:l}",
    "lock cmpxchg byte ptr [{0}], {1:l}",
    reg,
    u32
);
int!(
    u16,
    i16,
    "movzx {:e}, word ptr [{}]",
    "mov word ptr [{1}], {0:x}",
    "lock cmpxchg word ptr [{0}], {1:x}",
    reg,
    u32
);
int!(
    u32,
    i32,
    "mov {:e}, dword ptr [{}]",
    "mov dword ptr [{1}], {0:e}",
    "lock cmpxchg dword ptr [{0}], {1:e}",
    reg,
    u32
);
int!(
    u64,
    i64,
    "mov {}, qword ptr [{}]",
    "mov qword ptr [{1}], {0}",
    "lock cmpxchg qword ptr [{0}], {1}",
    reg,
    u64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_accesses_move_exactly_their_size() {
        let mut bytes = [0u8; 16];
        let at = bytes.as_mut_ptr();
        // SAFETY: all accesses stay within `bytes`.
        unsafe {
            u32::store(at.add(3), 0x8899_aabb);
            assert_eq!(u16::load(at.add(5)), 0x8899);
            assert_eq!(u8::load(at.add(3)).sx(), 0xffff_ffff_ffff_ffbb);
            assert_eq!(u64::swap_if(at.add(1), 1, 2), 0x8899_aabb_0000);
            assert_eq!(u64::swap_if(at.add(1), 0x8899_aabb_0000, 2), 0x8899_aabb_0000);
            assert_eq!(u64::load(at.add(1)), 2);
        }
    }
}
