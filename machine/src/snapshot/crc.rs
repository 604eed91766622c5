//! CRC-32C (RFC 3720, appendix B.4), four at once: the CPU's instruction takes three cycles, and can begin in each.
// UNSAFETY: a function that needs SSE4.2 is called where the CPU was asked for it.
#![allow(unsafe_code)]

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The checksum of `data` behind what gave `crc`; 0 to begin with.
pub fn crc32c(crc: u32, data: &[u8]) -> u32 {
    !update(!crc, data)
}

/// The checksums of four pieces.
pub fn four(pieces: [&[u8]; 4]) -> [u32; 4] {
    let [a, b, c, d] = pieces;
    let equal = [b, c, d].iter().all(|piece| piece.len() == a.len());
    if is_x86_feature_detected!("sse4.2") && equal {
        // SAFETY: the CPU has SSE4.2.
        return unsafe { four_at_once(pieces) };
    }
    pieces.map(|piece| crc32c(0, piece))
}

/// What so many bytes make of the checksum of those before them, but for their own: the checksum of `a` and `b` is
/// `behind.of(crc32c(0, a)) ^ crc32c(0, b)`, with that of `b`'s length.
pub struct Behind([u32; 32]);

impl Behind {
    pub fn bytes(len: usize) -> Self {
        let zeros = vec![0; len];
        Self(std::array::from_fn(|bit| update(1 << bit, &zeros)))
    }

    pub fn of(&self, crc: u32) -> u32 {
        let bits = self.0.iter().enumerate().filter(|(bit, _)| crc >> bit & 1 != 0);
        bits.fold(0, |all, (_, made)| all ^ made)
    }
}

fn update(crc: u32, data: &[u8]) -> u32 {
    if is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU has SSE4.2.
        return unsafe { by_instruction(crc, data) };
    }
    data.iter().fold(crc, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 })
    })
}

#[target_feature(enable = "sse4.2")]
fn by_instruction(crc: u32, data: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = data.as_chunks();
    let crc = words.iter().fold(u64::from(crc), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    rest.iter().fold(crc as u32, |crc, &byte| _mm_crc32_u8(crc, byte))
}

#[target_feature(enable = "sse4.2")]
fn four_at_once(pieces: [&[u8]; 4]) -> [u32; 4] {
    use std::arch::x86_64::_mm_crc32_u64;
    let [a, b, c, d] = pieces.map(|piece| piece.as_chunks::<8>());
    let mut crcs = [u64::from(u32::MAX); 4];
    for (((wa, wb), wc), wd) in a.0.iter().zip(b.0).zip(c.0).zip(d.0) {
        for (crc, word) in crcs.iter_mut().zip([wa, wb, wc, wd]) {
            *crc = _mm_crc32_u64(*crc, u64::from_le_bytes(*word));
        }
    }
    let rests = [a.1, b.1, c.1, d.1];
    std::array::from_fn(|i| !by_instruction(crcs[i] as u32, rests[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_values_come_out() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
        let pieces: Vec<Vec<u8>> =
            (0..4).map(|i| (0..101).map(|j| (i * 57 + j * 31) as u8).collect()).collect();
        let [a, b, c, d] = &pieces[..] else { unreachable!() };
        assert_eq!(four([a, b, c, d]), [a, b, c, d].map(|piece| crc32c(0, piece)));
        assert_eq!(four([a, &b[1..], c, d])[1], crc32c(0, &b[1..]));
        assert_eq!(Behind::bytes(101).of(crc32c(0, a)) ^ crc32c(0, b), crc32c(crc32c(0, a), b));
    }
}
