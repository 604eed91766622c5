//! Random x87, SSE and AVX state.

use cpu::XSAVE_LEN;

use super::values;
use crate::rng::Rng;

/// An XSAVE image. Exception masks are all set in most cases, since unmasked ones hide results.
pub(super) fn state(rng: &mut Rng) -> [u8; XSAVE_LEN] {
    let mut fp = [0; XSAVE_LEN];
    let masked = rng.percent(75);
    let masks = if masked { 0x3f } else { rng.next() as u16 & 0x3f };
    // Precision control 1 is reserved.
    let precision = rng.pick(&[0u16, 2, 3, 3]) << 8;
    let rounding = (rng.below(4) as u16) << 10;
    let fcw = 0x40 | masks | precision | rounding;
    let flags = if rng.percent(70) { 0 } else { rng.next() as u16 & 0x7f };
    let mut fsw = (rng.next() as u16 & 0x4700) | ((rng.below(8) as u16) << 11) | flags;
    if flags & !fcw & 0x3f != 0 {
        fsw |= 0x8080;
    }
    let tags = match rng.below(8) {
        0..=4 => 0xff,
        5 => 0,
        _ => rng.next() as u8,
    };
    fp[0..2].copy_from_slice(&fcw.to_le_bytes());
    fp[2..4].copy_from_slice(&fsw.to_le_bytes());
    fp[4] = tags;
    fp[24..28].copy_from_slice(&mxcsr(rng).to_le_bytes());
    for st in 0..8 {
        let at = 32 + st * 16;
        if rng.percent(30) {
            // As MMX code leaves it.
            fp[at..at + 8].copy_from_slice(&values::integer(rng).to_le_bytes());
            fp[at + 8..at + 10].fill(0xff);
        } else {
            let (high, low) = values::f80(rng);
            fp[at..at + 8].copy_from_slice(&low.to_le_bytes());
            fp[at + 8..at + 10].copy_from_slice(&high.to_le_bytes());
        }
    }
    for register in 0..16 {
        let mut ymm = [0; 32];
        values::lanes(rng, &mut ymm);
        if rng.percent(20) {
            ymm[16..].fill(0);
        }
        fp[160 + register * 16..176 + register * 16].copy_from_slice(&ymm[..16]);
        fp[576 + register * 16..592 + register * 16].copy_from_slice(&ymm[16..]);
    }
    fp
}

/// A valid MXCSR.
pub(super) fn mxcsr(rng: &mut Rng) -> u32 {
    let masks = if rng.percent(80) { 0x1f80 } else { rng.next() as u32 & 0x1f80 };
    let flags = if rng.percent(70) { 0 } else { rng.next() as u32 & 0x3f };
    let modes = if rng.percent(40) { 0 } else { rng.next() as u32 & 0xe040 };
    masks | flags | modes
}
