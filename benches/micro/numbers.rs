//! Floating point: vectors and the old stack of registers.
// UNSAFETY: vector loads and stores at indices that the loops keep within, and x87 instructions, for which there is no
// other way to ask.

use core::arch::asm;
use core::arch::x86_64::{
    _mm_add_pd, _mm_loadu_pd, _mm_mul_pd, _mm_set1_pd, _mm_storeu_pd, _mm256_fmadd_pd, _mm256_loadu_pd,
    _mm256_set1_pd, _mm256_storeu_pd,
};

use crate::{Scale, cpu, sys};

/// Rows and columns: three matrices of half a megabyte.
const SIZE: usize = 256;

struct Matrices {
    a: &'static mut [f64],
    b: &'static mut [f64],
    c: &'static mut [f64],
}

impl Matrices {
    fn new() -> Self {
        let [a, b, c] = [(); 3].map(|()| sys::zeroed::<f64>(SIZE * SIZE));
        for (i, (a, b)) in a.iter_mut().zip(b.iter_mut()).enumerate() {
            // No sum of products of these is exact, so that the order and the rounding show.
            *a = (i % 7) as f64 * 0.1;
            *b = (i % 5) as f64 / 3.0;
        }
        Self { a, b, c }
    }

    /// `c += a * b` by the given way to add a multiple of a row of `b` to a row of `c`.
    fn multiply(&mut self, add: impl Fn(&mut [f64], f64, &[f64])) {
        for (c, a) in self.c.chunks_exact_mut(SIZE).zip(self.a.chunks_exact(SIZE)) {
            for (&factor, b) in a.iter().zip(self.b.chunks_exact(SIZE)) {
                add(c, factor, b);
            }
        }
    }

    fn checksum(&self) -> u64 {
        self.c.iter().fold(0, |sum, value| sum.rotate_left(1).wrapping_add(value.to_bits()))
    }
}

pub fn matmul_sse2(scale: Scale) -> Option<u64> {
    let mut matrices = Matrices::new();
    for _ in 0..scale.of(60) {
        matrices.multiply(|c, factor, b| {
            for (c, b) in c.chunks_exact_mut(2).zip(b.chunks_exact(2)) {
                // SAFETY: chunks of two, and every x86-64 CPU has SSE2.
                unsafe {
                    let product = _mm_mul_pd(_mm_set1_pd(factor), _mm_loadu_pd(b.as_ptr()));
                    _mm_storeu_pd(c.as_mut_ptr(), _mm_add_pd(_mm_loadu_pd(c.as_ptr()), product));
                }
            }
        });
    }
    Some(matrices.checksum())
}

pub fn matmul_avx2(scale: Scale) -> Option<u64> {
    cpu::has_avx2_and_fma().then(|| {
        let mut matrices = Matrices::new();
        for _ in 0..scale.of(120) {
            // SAFETY: the CPU has what the function needs.
            matrices.multiply(|c, factor, b| unsafe { add_avx2(c, factor, b) });
        }
        matrices.checksum()
    })
}

#[target_feature(enable = "avx2,fma")]
fn add_avx2(c: &mut [f64], factor: f64, b: &[f64]) {
    let factor = _mm256_set1_pd(factor);
    for (c, b) in c.chunks_exact_mut(4).zip(b.chunks_exact(4)) {
        // SAFETY: chunks of four.
        unsafe {
            let sum = _mm256_fmadd_pd(factor, _mm256_loadu_pd(b.as_ptr()), _mm256_loadu_pd(c.as_ptr()));
            _mm256_storeu_pd(c.as_mut_ptr(), sum);
        }
    }
}

/// `x = x * 1.0000001 + 0.5; sum += x / 3` in 80-bit registers.
pub fn x87(scale: Scale) -> Option<u64> {
    let constants = [1.000_000_1_f64, 0.5, 3.0];
    let (mut x, mut sum) = ([0u8; 16], [0u8; 16]);
    for _ in 0..scale.of(25_000_000) {
        // SAFETY: leaves the stack of registers empty; loads and stores ten of sixteen bytes.
        unsafe {
            asm!(
                "fld tbyte ptr [{x}]",
                "fmul qword ptr [{constants}]",
                "fadd qword ptr [{constants} + 8]",
                "fld st(0)",
                "fdiv qword ptr [{constants} + 16]",
                "fld tbyte ptr [{sum}]",
                "faddp",
                "fstp tbyte ptr [{sum}]",
                "fstp tbyte ptr [{x}]",
                x = in(reg) x.as_mut_ptr(),
                sum = in(reg) sum.as_mut_ptr(),
                constants = in(reg) constants.as_ptr(),
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
    }
    let fold = |bytes: [u8; 16]| bytes.iter().fold(0u64, |sum, &byte| sum.rotate_left(8) ^ u64::from(byte));
    Some(fold(x) ^ fold(sum).rotate_left(13))
}
