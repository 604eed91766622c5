//! Ciphers and digests by the instructions made for them.
// UNSAFETY: functions whose instructions the CPU was asked for, and vectors out of arrays.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_alignr_epi8, _mm_extract_epi64,
    _mm_loadu_si128, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32,
    _mm_sha256rnds2_epu32, _mm_shuffle_epi32, _mm_storeu_si128, _mm_xor_si128,
};

use crate::sys::{SEED, xorshift};
use crate::{Scale, cpu};

/// AES-128 in counter mode, eight blocks at a time.
pub fn aes(scale: Scale) -> Option<u64> {
    // SAFETY: the CPU has what the function needs.
    cpu::has_aes().then(|| unsafe { encrypt(scale.of(20_000_000)) })
}

#[target_feature(enable = "aes,sse4.1")]
fn encrypt(rounds: u64) -> u64 {
    let mut random = SEED;
    // Any eleven keys serve: what they are derived from does not matter here.
    let keys: [__m128i; 11] = core::array::from_fn(|_| {
        random = xorshift(random);
        _mm_set_epi64x(random as i64, !random as i64)
    });
    let mut sum = keys[0];
    for round in 0..rounds {
        let mut blocks: [__m128i; 8] = core::array::from_fn(|i| {
            _mm_xor_si128(_mm_set_epi64x(7, (round * 8 + i as u64) as i64), keys[0])
        });
        for key in &keys[1..10] {
            for block in &mut blocks {
                *block = _mm_aesenc_si128(*block, *key);
            }
        }
        for block in blocks {
            sum = _mm_xor_si128(sum, _mm_aesenclast_si128(block, keys[10]));
        }
    }
    (_mm_extract_epi64::<0>(sum) ^ _mm_extract_epi64::<1>(sum)) as u64
}

/// SHA-256 (FIPS 180-4) by the CPU's own instructions, or else by plain ones.
pub fn sha(scale: Scale) -> Option<u64> {
    // SAFETY: the CPU has what the function needs.
    let by_instructions: fn(&mut State, &Block) =
        |state, block| unsafe { compress_by_instructions(state, block) };
    Some(digest(scale.of(4_000_000), if cpu::has_sha() { by_instructions } else { compress }))
}

/// SHA-256 by plain instructions, as a program compiled for every CPU does it.
pub fn sha_plain(scale: Scale) -> Option<u64> {
    Some(digest(scale.of(1_200_000), compress))
}

type State = [u32; 8];
type Block = [u32; 16];

fn digest(blocks: u64, compress: fn(&mut State, &Block)) -> u64 {
    let mut state: State =
        [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
    let mut block: Block = core::array::from_fn(|i| SEED.rotate_left(i as u32) as u32);
    for number in 0..blocks {
        block[0] = number as u32;
        compress(&mut state, &block);
    }
    state.chunks_exact(2).fold(0, |sum, pair| sum ^ (u64::from(pair[0]) << 32 | u64::from(pair[1])))
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
fn compress_by_instructions(state: &mut State, block: &Block) {
    let [a, b, c, d, e, f, g, h] = state.map(|word| word as i32);
    let (old_abef, old_cdgh) = (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h));
    let (mut abef, mut cdgh) = (old_abef, old_cdgh);
    // SAFETY: four words each.
    let load = |words: &[u32]| unsafe { _mm_loadu_si128(words[..4].as_ptr().cast()) };
    let mut schedule: [__m128i; 4] = core::array::from_fn(|i| load(&block[i * 4..]));
    for group in 0..16 {
        let [w0, w1, w2, w3] = core::array::from_fn(|i| schedule[(group + i) % 4]);
        // The words of this group are made of the sixteen before them, which `w0` to `w3` hold.
        let words = if group < 4 {
            w0
        } else {
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
            _mm_sha256msg2_epu32(sum, w3)
        };
        schedule[group % 4] = words;
        let sum = _mm_add_epi32(words, load(&ROUND_CONSTANTS[group * 4..]));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32::<0x0e>(sum));
    }
    let (mut fe_ba, mut hg_dc) = ([0u32; 4], [0u32; 4]);
    // SAFETY: arrays of four words.
    unsafe {
        _mm_storeu_si128(fe_ba.as_mut_ptr().cast(), _mm_add_epi32(abef, old_abef));
        _mm_storeu_si128(hg_dc.as_mut_ptr().cast(), _mm_add_epi32(cdgh, old_cdgh));
    }
    let ([f, e, b, a], [h, g, d, c]) = (fe_ba, hg_dc);
    *state = [a, b, c, d, e, f, g, h];
}

fn compress(state: &mut State, block: &Block) {
    let mut w = *block;
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for round in 0..64 {
        let at = round % 16;
        if round >= 16 {
            let (x, y) = (w[(round + 1) % 16], w[(round + 14) % 16]);
            let x = x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
            let y = y.rotate_right(17) ^ y.rotate_right(19) ^ y >> 10;
            w[at] = w[at].wrapping_add(x).wrapping_add(w[(round + 9) % 16]).wrapping_add(y);
        }
        let mix = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = e & f ^ !e & g;
        let first =
            h.wrapping_add(mix).wrapping_add(choice).wrapping_add(ROUND_CONSTANTS[round]).wrapping_add(w[at]);
        let mix = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = a & b ^ a & c ^ b & c;
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(mix).wrapping_add(majority));
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *old = old.wrapping_add(new);
    }
}

#[rustfmt::skip]
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
