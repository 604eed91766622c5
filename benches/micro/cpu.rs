//! What this CPU offers beyond the SSE2 of every x86-64 one. `std` would know; there is none here.
// UNSAFETY: XGETBV, once CPUID has said that it is there.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

pub fn has_aes() -> bool {
    __cpuid(1).ecx & 1 << 25 != 0
}

/// SHA-NI, and the shuffles of SSSE3 and SSE4.1 that go with it.
pub fn has_sha() -> bool {
    const SSSE3_AND_SSE41: u32 = 1 << 9 | 1 << 19;
    leaf_7() & 1 << 29 != 0 && __cpuid(1).ecx & SSSE3_AND_SSE41 == SSSE3_AND_SSE41
}

/// AVX2 and FMA, and an operating system that saves their registers.
pub fn has_avx2_and_fma() -> bool {
    const FMA_AND_OSXSAVE_AND_AVX: u32 = 1 << 12 | 1 << 27 | 1 << 28;
    const SSE_AND_AVX_STATE: u32 = 6;
    if __cpuid(1).ecx & FMA_AND_OSXSAVE_AND_AVX != FMA_AND_OSXSAVE_AND_AVX || leaf_7() & 1 << 5 == 0 {
        return false;
    }
    let enabled: u32;
    // SAFETY: OSXSAVE says that the instruction is there.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack)) };
    enabled & SSE_AND_AVX_STATE == SSE_AND_AVX_STATE
}

/// EBX of CPUID leaf 7.
fn leaf_7() -> u32 {
    if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).ebx }
}
