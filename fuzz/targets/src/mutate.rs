//! Makes inputs out of other inputs. The n-th input of a target and a seed number is always the same.

/// Longest input that is made.
const MAX_LEN: usize = 1 << 16;

/// Numbers at which fields break.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    0x0f,
    0x10,
    0x7f,
    0x80,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// SplitMix64: small, and good enough to choose with.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The generator of input number `index`.
    pub fn new(seed: u64, name: &str, index: u64) -> Self {
        let mut rng = Self(seed);
        for byte in name.bytes() {
            rng.0 = rng.next() ^ u64::from(byte);
        }
        rng.0 = rng.next().wrapping_add(index);
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// A range of at most `longest` elements in a slice of `len`.
    fn range(&mut self, len: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        let size = 1 + self.below(longest.min(len - start));
        start..(start + size).min(len)
    }
}

/// An input: noise now and then, else a piece of the corpus with some damage.
pub fn input(rng: &mut Rng, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut data = match rng.pick(corpus) {
        Some(data) if rng.below(24) != 0 => data.clone(),
        _ => (0..rng.below(400)).map(|_| rng.next() as u8).collect(),
    };
    // Mostly little damage: an input that is wrong everywhere is refused at its first byte.
    let rounds = 1 << rng.below(5);
    for _ in 0..rng.below(rounds + 1) {
        damage(rng, &mut data, corpus, words);
    }
    data.truncate(MAX_LEN);
    data
}

fn damage(rng: &mut Rng, data: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let len = data.len();
    if len == 0 {
        data.push(rng.next() as u8);
        return;
    }
    let at = rng.below(len);
    match rng.below(if words.is_empty() { 12 } else { 16 }) {
        0 | 1 => data[at] ^= 1 << rng.below(8),
        2 | 3 => data[at] = rng.next() as u8,
        4 => data[at] = data[at].wrapping_add(rng.below(33) as u8).wrapping_sub(16),
        5 | 6 => number(rng, data, at),
        7 => drop(data.drain(rng.range(len, 32))),
        8 => {
            let copy = data[rng.range(len, 64)].to_vec();
            drop(data.splice(at..at, copy));
        }
        9 => {
            let copy = data[rng.range(len, 64)].to_vec();
            let end = len.min(at + copy.len());
            data[at..end].copy_from_slice(&copy[..end - at]);
        }
        10 => {
            if let Some(other) = rng.pick(corpus).filter(|o| !o.is_empty()) {
                data.truncate(at);
                data.extend_from_slice(&other[rng.below(other.len())..]);
            }
        }
        11 if rng.below(4) == 0 => data.truncate(at),
        11 => {
            let noise: Vec<u8> = (0..1 + rng.below(8)).map(|_| rng.next() as u8).collect();
            drop(data.splice(at..at, noise));
        }
        12 => {
            let word = rng.pick(words).map_or("", |w| w);
            drop(data.splice(at..at, word.bytes()));
        }
        _ => {
            // A word in place of another: where the characters around are of one kind.
            let kind = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            let here = kind(data[at]);
            let start = data[..at].iter().rposition(|&b| kind(b) != here).map_or(0, |i| i + 1);
            let end = data[at..].iter().position(|&b| kind(b) != here).map_or(len, |i| at + i);
            let word = rng.pick(words).map_or("", |w| w);
            drop(data.splice(start..end, word.bytes()));
        }
    }
}

/// A number of 1, 2, 4 or 8 bytes: an interesting one, or the one that is there, more or less.
fn number(rng: &mut Rng, data: &mut [u8], at: usize) {
    let size = (1usize << rng.below(4)).min(data.len() - at);
    let field = &mut data[at..at + size];
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(field);
    let near = rng.below(9) as u64;
    let value = match rng.below(3) {
        0 => u64::from_le_bytes(bytes).wrapping_add(near).wrapping_sub(4),
        1 => 1 << rng.below(64),
        _ => rng.pick(&NUMBERS).copied().unwrap_or(0).wrapping_add(near % 3).wrapping_sub(1),
    };
    field.copy_from_slice(&value.to_le_bytes()[..size]);
    if rng.below(8) == 0 {
        field.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(seed: u64, name: &str) -> Vec<Vec<u8>> {
        let corpus = vec![b"hello, world".to_vec(), vec![0; 100]];
        (0..500).map(|i| input(&mut Rng::new(seed, name, i), &corpus, &["word"])).collect()
    }

    #[test]
    fn inputs_depend_on_seed_name_and_number_only() {
        assert_eq!(inputs(1, "a"), inputs(1, "a"));
        assert_ne!(inputs(1, "a"), inputs(2, "a"));
        assert_ne!(inputs(1, "a"), inputs(1, "b"));
    }

    #[test]
    fn inputs_differ_and_stay_near_the_corpus() {
        let all = inputs(1, "a");
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert!(distinct.len() > 300, "{}", distinct.len());
        assert!(all.iter().filter(|i| i.starts_with(b"hello")).count() > 80);
        assert!(all.iter().any(|i| i.windows(4).any(|w| w == b"word")));
    }

    #[test]
    fn nothing_to_start_from_is_no_problem() {
        for i in 0..100 {
            assert!(input(&mut Rng::new(1, "", i), &[], &[]).len() <= MAX_LEN);
        }
    }
}
