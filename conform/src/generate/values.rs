//! Operand values: random ones, and those where results change their kind.

use crate::rng::Rng;

/// An integer of 64 bits.
pub(super) fn integer(rng: &mut Rng) -> u64 {
    match rng.below(16) {
        0..=4 => rng.next(),
        5 => rng.next() >> rng.below(64),
        6 => !(rng.next() >> rng.below(64)),
        7 => 1 << rng.below(64),
        8 => (1u64 << rng.below(64)).wrapping_sub(1),
        9 => !(1 << rng.below(64)),
        10 => rng.below(256),
        11 => rng.below(64).wrapping_neg(),
        12 => rng.pick(&[
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            u64::MAX,
            0x0123_4567_89ab_cdef,
        ]),
        13 => 0,
        14 => u64::MAX,
        _ => (rng.next() & 0xff).wrapping_mul(0x0101_0101_0101_0101),
    }
}

/// A single.
pub(super) fn f32(rng: &mut Rng) -> u32 {
    let sign = (rng.next() as u32) & 0x8000_0000;
    let magnitude = match rng.below(16) {
        0..=4 => rng.next() as u32,
        5 | 6 => (1.0 + rng.below(1000) as f32 / 8.0).to_bits(),
        // The largest that fit in integers, and around them.
        7 => (0x4e80_0000 + (rng.next() as u32 & 0x0180_0000))
            .wrapping_add(rng.below(3) as u32)
            .wrapping_sub(1),
        8 => rng.next() as u32 & 0x007f_ffff,
        9 => rng.pick(&[1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x3f80_0000, 0x3f7f_ffff, 0x3f80_0001]),
        10 => 0x7f80_0000,
        11 => 0x7fc0_0000 | (rng.next() as u32 & 0x003f_ffff),
        12 => 0x7f80_0001 + (rng.next() as u32 & 0x003f_fffe),
        13 => 0,
        14 => (f32::from_bits(0x3f00_0000) * rng.below(64) as f32).to_bits(),
        _ => (rng.next() as u32 & 0x01ff_ffff) | 0x3f00_0000,
    };
    magnitude & 0x7fff_ffff | sign
}

/// A double.
pub(super) fn f64(rng: &mut Rng) -> u64 {
    let sign = rng.next() & (1 << 63);
    let magnitude = match rng.below(16) {
        0..=4 => rng.next(),
        5 | 6 => (1.0 + rng.below(1000) as f64 / 8.0).to_bits(),
        7 => (0x41d0_0000_0000_0000 + (rng.next() & 0x0030_0000_0000_0000))
            .wrapping_add(rng.below(3))
            .wrapping_sub(1),
        8 => rng.next() & 0x000f_ffff_ffff_ffff,
        9 => rng.pick(&[
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x3ff0_0000_0000_0000,
            0x47ef_ffff_f000_0000,
            0x3810_0000_0000_0000,
            0x36a0_0000_0000_0000,
            0x43e0_0000_0000_0000,
        ]),
        10 => 0x7ff0_0000_0000_0000,
        11 => 0x7ff8_0000_0000_0000 | (rng.next() & 0x0007_ffff_ffff_ffff),
        12 => 0x7ff0_0000_0000_0001 + (rng.next() & 0x0007_ffff_ffff_fffe),
        13 => 0,
        14 => (0.5 * rng.below(64) as f64).to_bits(),
        _ => (rng.next() & 0x003f_ffff_ffff_ffff) | 0x3fe0_0000_0000_0000,
    };
    magnitude & (u64::MAX >> 1) | sign
}

/// An x87 extended value: sign and exponent, significand. Pseudo-denormals, unnormals and pseudo-infinities too.
pub(super) fn f80(rng: &mut Rng) -> (u16, u64) {
    let sign = (rng.next() as u16) & 0x8000;
    let one = 1u64 << 63;
    let (exponent, significand) = match rng.below(18) {
        0..=3 => (16383 - 70 + rng.below(140) as u16, rng.next() | one),
        4 | 5 => (16383 + rng.below(64) as u16, rng.next() << rng.below(63) | one),
        6 => (16383, one),
        7 => (16383 - 1 + rng.below(3) as u16, one | rng.below(3)),
        8 => (0, rng.next() >> 1),
        9 => (0, rng.pick(&[1, one - 1, one, one | 1])),
        10 => (0x7fff, one),
        11 => (0x7fff, one | (1 << 62) | (rng.next() >> 2)),
        12 => (0x7fff, one | (rng.next() >> 2).max(1)),
        13 => (rng.next() as u16 & 0x7fff, rng.next() >> 1),
        14 => (0, 0),
        15 => (rng.pick(&[1, 2, 0x7ffe, 0x7ffd]), rng.next() | one),
        16 => (0x7fff, rng.next() >> 1),
        _ => (rng.next() as u16 & 0x7fff, rng.next() | one),
    };
    (sign | exponent, significand)
}

/// Fills a vector register or memory operand; one kind of lanes throughout, as instructions expect.
pub(super) fn lanes(rng: &mut Rng, bytes: &mut [u8]) {
    let kind = rng.below(10);
    match kind {
        0 => bytes.fill(0),
        1 => bytes.fill(0xff),
        2..=4 => fill(bytes, 4, || u64::from(f32(rng))),
        5..=6 => fill(bytes, 8, || f64(rng)),
        7 => fill(bytes, 8, || integer(rng)),
        8 => fill(bytes, 2, || integer(rng)),
        _ => fill(bytes, 8, || rng.next()),
    }
}

fn fill(bytes: &mut [u8], size: usize, mut value: impl FnMut() -> u64) {
    for lane in bytes.chunks_mut(size) {
        let value = value().to_le_bytes();
        let len = lane.len();
        lane.copy_from_slice(&value[..len]);
    }
}
